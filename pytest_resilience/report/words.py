"""What the words of a report mean, for those who meet them for the first time."""

from __future__ import annotations

from typing import Final

from pytest_resilience.report.cell import Verdict


__all__ = ["INTRODUCTION", "MEANINGS"]

INTRODUCTION: Final = (
    "A cell is one test under one experiment; the calm run of a test, before its cells, is without "
    "any. Coverage is the share of the applicable cells in which the experiment ran."
)

MEANINGS: Final = {
    Verdict.NOT_RUN: "it was not to be run, or the run ended before",
    Verdict.NOT_APPLICABLE: "in its calm run the test did nothing that the experiment could hit",
    Verdict.SURVIVED: "the fault happened, and the test passed",
    Verdict.DEGRADED: "the fault happened, and the test failed in a way that it allows",
    Verdict.LEAK: "the test passed, but left threads, sockets or files behind",
    Verdict.FAILED: "the fault happened, and the test failed",
    Verdict.HANG: "the fault happened, and the test was still running at its deadline",
    Verdict.NEVER_FIRED: "the test passed, but no fault happened, so this proves nothing",
    Verdict.NOT_STARTED: "the experiment could not begin, so this proves nothing",
    Verdict.INVALID: "how the test ended has nothing to do with the experiment, so this proves "
    "nothing",
}
"""What each verdict says of its cell."""

"""What an exploration finds in a shop with ten bugs, and in its mended twin: by the flag alone.

The suite in `shop/` is an ordinary one. Its invariants are the one thing that it says beyond that.
It has no name by which this suite would find it: with its marks it is explored wherever it is run.
"""

from __future__ import annotations

import re

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ahead import ROOT
from tests.ahead import Command
from tests.ahead import runs_job


SHOP = Path(__file__).parent / "shop" / "happy_path.py"
EXPLORED = re.compile(r"::(test_\w+)\[(\w+)\]: (.*)")
# How each of the bugs shows itself.
BUGS = {
    "test_total": "failed",  # a swallowed failure
    "test_rate": "storm",
    "test_order": "invariant",  # two commits
    "test_charge": "failed",  # a retry without idempotency
    "test_invoice": "leak",  # of a connection
    "test_reservation": "probe",  # a slot of a pool is lost after a cancellation
    "test_description": "probe",  # a cache is poisoned by half an answer
    "test_report": "invariant",  # a temporary file is left
    "test_settings": "invariant",  # a configuration is lost when the disk is full
    "test_count": "probe",  # a deadlock after a timeout
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploring:
    """The suite as it stands here, explored with faults one at a time."""

    def write(self, folder: Path) -> Command:
        # What the seeded shop leaks is complained about when others are set up.
        quiet = ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
        args = [
            "-m", "pytest", str(SHOP), "--chaos-explore=1", f"--basetemp={folder / 'temporary'}",
            f"--confcutdir={SHOP.parent}",  # what the tests of this suite share takes long to load
            *(f"-Wignore::{each}" for each in quiet),
        ]  # fmt: skip
        return Command(args=tuple(args), cwd=ROOT)


@runs_job(Exploring())
def test_it_finds_ten_of_ten_bugs_and_none_where_there_is_none(ran: pytest.RunResult) -> None:
    found: dict[str, dict[str, str]] = {"seeded": {}, "mended": {}}
    for line, below in zip(ran.outlines, ran.outlines[1:], strict=False):
        told = EXPLORED.search(line)
        if told is not None and told[3].endswith("to fail"):
            good = told[3].endswith(" 0 ways to fail")
            found[told[2]][told[1]] = "" if good else below.strip().partition(":")[0]
    assert found["seeded"] == BUGS
    assert found["mended"] == dict.fromkeys(BUGS, "")

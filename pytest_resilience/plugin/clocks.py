"""The clock of a test."""

from __future__ import annotations

import pytest

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock


__all__ = ["clock_of"]


def clock_of(request: pytest.FixtureRequest) -> Clock:
    """The manual clock if the test uses the fixture `manual_clock`, else the machine's."""
    if "manual_clock" in request.fixturenames:
        clock: Clock = request.getfixturevalue("manual_clock")
        return clock
    return SYSTEM_CLOCK

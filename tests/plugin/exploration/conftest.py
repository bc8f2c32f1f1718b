"""Explorations that run inside a test."""

from __future__ import annotations

import gc

import pytest

from pytest_resilience.clock import ManualClock
from pytest_resilience.plugin.exploration import recovery


@pytest.fixture(autouse=True)
def _looks_for_little_garbage() -> None:
    """Most of their runs look for some, among all that tests of this module have left."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def recovery_clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """By which it is waited until a test is itself again, in the place of the machine's."""
    clock = ManualClock()
    monkeypatch.setattr(recovery, "MACHINE_CLOCK", clock)
    return clock

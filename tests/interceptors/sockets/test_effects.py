"""How long an operation is held up, and how that ends."""

from __future__ import annotations

import math

import pytest

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.clock import ManualClock
from pytest_resilience.interceptors.sockets.effects import hold


@pytest.mark.parametrize("by", [0.001, 0.01])
def test_an_end_that_is_put_off_meanwhile_is_no_timeout(by: float) -> None:
    """An experiment that has just begun begins once more when all of it is in place."""
    clock = ManualClock()

    def left() -> float:
        return 0.05 + (by if clock.sleeps else 0) - clock.monotonic()

    assert hold(Effect(clock=clock), math.inf, 15.0, left=left) < 15


def test_a_timeout_before_the_end_is_one() -> None:
    clock = ManualClock()
    with pytest.raises(TimeoutError):
        hold(Effect(clock=clock), math.inf, 0.05, left=lambda: 15 - clock.monotonic())
    assert clock.monotonic() == pytest.approx(0.05)

"""Nobody waits for what a fault holds back, and who would wait for ever is found out."""

from __future__ import annotations

import pytest

from pytest_resilience.clock import SilenceError
from pytest_resilience.clock import SkippingClock


def test_the_clock_waits_for_nothing_and_finds_out_who_waits_for_ever() -> None:
    clock = SkippingClock(patience=60.0)
    began = clock.monotonic()
    clock.sleep(59.0)
    assert clock.monotonic() - began >= 59.0
    with pytest.raises(SilenceError, match="60 s"):
        clock.sleep(2.0)


def test_each_operation_may_wait_as_long() -> None:
    done: list[int] = []
    clock = SkippingClock(patience=60.0, done=done)
    for each in range(3):
        done.append(each)
        clock.sleep(50.0)
    with pytest.raises(SilenceError):
        clock.sleep(50.0)

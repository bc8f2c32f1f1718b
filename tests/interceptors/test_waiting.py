from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ManualClock
from pytest_resilience.chaos import experiment_ends
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.interceptors.waiting import wait_async
from pytest_resilience.interceptors.waiting import wait_for_change
from pytest_resilience.virtual_time.clock import VirtualClock


def for_ever() -> float:
    return math.inf


class Frozen:
    """A clock that stands still, and counts what is slept on it."""

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    async def asleep(self, seconds: float) -> None:
        raise NotImplementedError


@given(seconds=st.floats(0, 20), left=st.one_of(st.just(math.inf), st.floats(0, 20)))
def test_it_takes_what_is_asked_or_what_is_left(seconds: float, left: float) -> None:
    clock = ManualClock()
    taken = wait(clock, seconds, lambda: max(0.0, left - clock.monotonic()))
    assert taken == clock.monotonic() == pytest.approx(min(seconds, left))


@given(seconds=st.floats(0, 20), left=st.floats(0, 20))
def test_it_ends_on_a_clock_that_stands_still(seconds: float, left: float) -> None:
    clock = Frozen()
    assert wait(clock, seconds, lambda: left) == 0
    assert clock.slept == pytest.approx(min(seconds, left))


def test_it_ends_soon_after_its_reason() -> None:
    clock = ManualClock()
    assert wait(clock, math.inf, lambda: 0.0 if clock.sleeps else math.inf) <= 0.05
    assert wait(clock, 1, lambda: 0) == 0


def test_sleeping_too_long_is_made_up_for() -> None:
    clock = ManualClock()

    class Slow(Frozen):
        def monotonic(self) -> float:
            return clock.monotonic()

        def sleep(self, seconds: float) -> None:
            clock.sleep(seconds + 0.03)

    assert wait(Slow(), 0.2, for_ever) == pytest.approx(0.2, abs=0.031)


@pytest.mark.parametrize("seconds", [0.00002, 0.0003, 0.002, 0.06])
def test_the_machines_clock_is_never_ahead(seconds: float) -> None:
    started = time.monotonic()
    taken = wait(MACHINE_CLOCK, seconds, for_ever)
    assert time.monotonic() - started >= taken >= seconds


def test_the_machines_clock_goes_on_though_somebody_has_stopped_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: 1.0)
    monkeypatch.setattr(time, "sleep", slept.append)
    assert wait(MACHINE_CLOCK, 0.06, for_ever) >= 0.06
    assert not slept


@pytest.mark.parametrize("ended", [None, threading.Event()])
def test_it_is_exact_in_virtual_time(ended: threading.Event | None) -> None:
    with VirtualClock() as clock:
        assert wait(MACHINE_CLOCK, 2, for_ever, ended) == 2
        assert clock.elapsed == 2


@pytest.mark.parametrize("in_a_task", [False, True])
def test_a_minute_of_virtual_time_is_one_sleep(in_a_task: bool) -> None:
    with VirtualClock() as clock:
        if in_a_task:
            taken = asyncio.run(wait_async(MACHINE_CLOCK, 60, for_ever))
        else:
            taken = wait(MACHINE_CLOCK, 60, for_ever)
        assert (taken, clock.elapsed, clock.jumps) == (60, 60, 1)


@pytest.mark.parametrize("seconds", [60, math.inf])
@pytest.mark.parametrize("in_a_task", [False, True])
def test_it_is_told_in_virtual_time_when_it_is_over(in_a_task: bool, seconds: float) -> None:
    left = [math.inf]

    def end() -> None:
        left[0] = 0
        experiment_ends.tell()

    with VirtualClock() as clock:
        timer = threading.Timer(10, end)
        timer.start()
        if in_a_task:
            taken = asyncio.run(wait_async(MACHINE_CLOCK, seconds, lambda: left[0]))
        else:
            taken = wait(MACHINE_CLOCK, seconds, lambda: left[0])
        timer.join()
        assert (taken, clock.elapsed) == (10, 10)


def test_a_change_can_be_made_while_it_is_awaited_until_it_is_due() -> None:
    changed, made = threading.Condition(), threading.Event()
    due = MACHINE_CLOCK.monotonic() + 0.002

    def change() -> None:
        with changed:
            made.set()

    other = threading.Thread(target=change)
    with changed:
        other.start()  # which goes on only while this one waits
        while (rest := due - MACHINE_CLOCK.monotonic()) > 0 or not made.is_set():
            wait_for_change(changed, max(0.0, rest))
        changed.notify()  # which is refused to who has not the lock back
    other.join()

from __future__ import annotations

import asyncio
import math
import threading
import time

from typing import Any

import freezegun
import pytest
import time_machine

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.clock import ManualClock
from pytest_resilience.clock import SystemClock
from pytest_resilience.clock import is_frozen


# Powers of two apart, so that sums of them are exact.
eighths = st.integers(min_value=0, max_value=2**20).map(lambda number: number / 8)


@pytest.mark.parametrize("clock", [SYSTEM_CLOCK, MACHINE_CLOCK, ManualClock()], ids=repr)
def test_both_are_clocks(clock: object) -> None:
    assert isinstance(clock, Clock)


def test_the_system_clock_is_looked_up_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    slept: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    monkeypatch.setattr(time, "time", lambda: 8.0)
    monkeypatch.setattr(time, "sleep", slept.append)
    clock.sleep(60)
    assert (clock.monotonic(), clock.time(), slept) == (7.0, 8.0, [60])


@pytest.mark.parametrize(
    ("freeze", "moves_monotonic"),
    [(freezegun.freeze_time, True), (time_machine.travel, False)],
    ids=["freezegun", "time-machine"],
)
def test_the_machines_clock_goes_on(freeze: Any, moves_monotonic: bool) -> None:
    before = MACHINE_CLOCK.monotonic(), MACHINE_CLOCK.time()
    with freeze("2020-01-01"):
        assert is_frozen() is moves_monotonic
        now = MACHINE_CLOCK.monotonic(), MACHINE_CLOCK.time()
    assert not is_frozen()
    assert before[0] < now[0] <= MACHINE_CLOCK.monotonic()
    assert 0 < now[1] - before[1] < 3600


def test_the_machines_clock_sleeps_whatever_sleep_is_replaced_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    began = MACHINE_CLOCK.monotonic()
    MACHINE_CLOCK.sleep(0.002)
    assert MACHINE_CLOCK.monotonic() - began >= 0.002
    assert not slept


def test_the_machines_clock_suspends_a_task_in_a_frozen_loop() -> None:
    began = MACHINE_CLOCK.monotonic()
    with freezegun.freeze_time("2020-01-01"):
        asyncio.run(MACHINE_CLOCK.asleep(0.002))
    assert MACHINE_CLOCK.monotonic() - began >= 0.002


def test_the_system_clock_suspends_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(SystemClock().asleep(60))
    assert slept == [60]


def test_the_system_clock_reads_the_machines() -> None:
    before = time.monotonic(), time.time()
    now = SYSTEM_CLOCK.monotonic(), SYSTEM_CLOCK.time()
    assert before[0] <= now[0] <= time.monotonic()
    assert abs(now[1] - before[1]) < 3600  # the machine's may be set in between


@given(
    start=eighths,
    epoch=eighths,
    steps=st.lists(st.tuples(st.sampled_from(["advance", "sleep", "asleep"]), eighths)),
)
def test_a_manual_clock_moves_by_what_it_is_told(
    start: float, epoch: float, steps: list[tuple[str, float]]
) -> None:
    clock = ManualClock(start, epoch=epoch)
    passed = 0.0
    for how, seconds in steps:
        if how == "asleep":
            asyncio.run(clock.asleep(seconds))
        else:
            getattr(clock, how)(seconds)
        passed += seconds
        assert clock.monotonic() == start + passed
        assert clock.time() == epoch + passed
    assert clock.sleeps == [seconds for how, seconds in steps if how != "advance"]


@pytest.mark.parametrize("seconds", [-1.0, -0.001, -math.inf, math.nan])
def test_time_does_not_go_back(seconds: float) -> None:
    clock = ManualClock(5)
    with pytest.raises(ValueError, match=r"^time cannot pass by .* s; give 0 or more$"):
        clock.advance(seconds)
    with pytest.raises(ValueError, match=r"^cannot sleep .* s; give 0 or more$"):
        clock.sleep(seconds)
    with pytest.raises(ValueError, match=r"^cannot sleep"):
        asyncio.run(clock.asleep(seconds))
    assert (clock.monotonic(), clock.sleeps) == (5, [])


def test_threads_share_a_manual_clock_and_no_second_is_lost() -> None:
    clock = ManualClock()
    readings: list[list[float]] = []
    begin = threading.Barrier(4)

    def pass_time(move: str) -> None:
        mine = []
        begin.wait()
        for _ in range(2_000):
            getattr(clock, move)(0.5)
            mine.append(clock.monotonic())
        readings.append(mine)

    threads = [threading.Thread(target=pass_time, args=[each]) for each in ("sleep", "advance") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() == 4 * 2_000 * 0.5
    assert len(clock.sleeps) == 2 * 2_000
    assert all(mine == sorted(mine) for mine in readings)


def test_others_get_their_turn_while_a_task_sleeps() -> None:
    clock = ManualClock()
    turns: list[str] = []

    async def take_turns(name: str) -> None:
        for _ in range(2):
            turns.append(name)
            await clock.asleep(60)

    async def both() -> None:
        await asyncio.gather(take_turns("a"), take_turns("b"))

    asyncio.run(both())
    assert turns == ["a", "b", "a", "b"]


def test_how_clocks_are_shown() -> None:
    assert repr(SYSTEM_CLOCK) == "SystemClock()"
    assert repr(MACHINE_CLOCK) == "MachineClock()"
    assert repr(ManualClock(1.5)) == "ManualClock(now=1.5)"

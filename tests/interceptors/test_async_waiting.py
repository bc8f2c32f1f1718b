from __future__ import annotations

import asyncio
import functools
import gc
import math
import select
import selectors
import time
import weakref

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import Clock
from pytest_resilience import ManualClock
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.active_experiment import Hit
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.faults.network import Latency
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.async_waiting import Wait
from pytest_resilience.interceptors.async_waiting import pause
from tests.another_fault import AN_OPERATION


def effect(delay: float, clock: Clock = MACHINE_CLOCK, duration: float = math.inf) -> Effect:
    experiment = ChaosExperiment("far", "network_latency", delay=1, duration=duration)
    active_experiment = ActiveExperiment(experiment, seed=1, started_at=clock.monotonic())
    return Effect.of([Hit(active_experiment, Latency(delay=delay), 1, AN_OPERATION)], clock)


def booked(effect: Effect) -> float:
    return effect.hits[0].active_experiment.delay


class Virtual(asyncio.SelectorEventLoop):
    """A loop whose time passes only while it has nothing to do, and then at once."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(Jumping(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds


class Jumping(selectors.DefaultSelector):
    def __init__(self, loop: Virtual) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self._loop.jump(timeout)
        return super().select(0)


@pytest.mark.parametrize("seconds", [0.0005, 0.003, 0.12])
def test_it_takes_what_is_asked_and_books_it(seconds: float) -> None:
    asked = effect(seconds)
    started = time.monotonic()
    asyncio.run(_pause(asked))
    assert time.monotonic() - started >= seconds
    assert booked(asked) >= seconds


async def _pause(asked: Effect) -> None:
    await pause(asyncio.get_running_loop(), asked)


def test_it_idles_below_what_tells_of_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    @functools.wraps(select.select)
    def telling(*asked: Any) -> Any:
        told.append(asked)
        return select.select.__wrapped__(*asked)  # type: ignore[attr-defined]

    monkeypatch.setattr(select, "select", telling)
    asyncio.run(_pause(effect(0.005)))
    assert not told


class Noting(asyncio.SelectorEventLoop):
    """Notes when its iterations begin."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[float] = []

    def _run_once(self) -> None:
        self.began.append(self.time())
        super()._run_once()  # type: ignore[misc]


def test_a_loop_with_nothing_to_do_idles_until_it_is_nearly_over() -> None:
    with asyncio.Runner(loop_factory=Noting) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Noting)
        for _ in range(20):
            loop.began.clear()
            runner.run(_pause(effect(0.0019)))
            nearly = loop.began[0] + 0.0015
            assert sum(began < nearly for began in loop.began) < 6  # not again and again


@pytest.mark.parametrize("kind", [selectors.SelectSelector, selectors.PollSelector])
def test_a_loop_whose_selector_is_no_descriptor(kind: type[selectors.BaseSelector]) -> None:
    asked = effect(0.003)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(kind())) as runner:
        runner.run(asyncio.wait_for(_pause(asked), 60))
    assert booked(asked) >= 0.003


def test_a_clock_that_stands_still_holds_nobody_up() -> None:
    asked = effect(0.01, ManualClock())
    started = time.monotonic()
    asyncio.run(_pause(asked))
    assert time.monotonic() - started >= 0.01
    assert booked(asked) == 0.01


def test_a_clock_that_is_moved_ends_it() -> None:
    clock = ManualClock()
    asked = effect(3600, clock)

    async def story() -> None:
        task = asyncio.create_task(_pause(asked))
        await asyncio.sleep(0)
        clock.advance(3600)
        await asyncio.wait_for(task, 30)

    asyncio.run(story())
    assert booked(asked) == 3600


def test_it_ends_with_the_experiment() -> None:
    started = time.monotonic()
    asked = effect(math.inf, duration=0.02)
    asyncio.run(_pause(asked))
    assert time.monotonic() - started >= 0.02


def test_it_ends_soon_after_the_experiment_is_stopped() -> None:
    asked = effect(math.inf)

    async def story() -> None:
        task = asyncio.create_task(_pause(asked))
        await asyncio.sleep(0)
        assert not task.done()
        asked.hits[0].active_experiment.stop()
        await asyncio.wait_for(task, 30)

    asyncio.run(story())


def test_in_a_loop_whose_time_is_virtual_no_real_time_passes() -> None:
    loop = Virtual()
    try:
        started = time.monotonic()
        loop.run_until_complete(pause(loop, effect(60, ManualClock())))
        assert loop.time() >= 60
        assert time.monotonic() - started < 30
    finally:
        loop.close()


def test_told_early_it_calls_before_it_is_over_and_books_all_of_it() -> None:
    asked = effect(10, ManualClock())
    loop = Virtual()

    async def story() -> float:
        told: asyncio.Future[float] = loop.create_future()
        began = loop.time()
        Wait(loop, asked, 10, lambda: told.set_result(loop.time() - began), early=2)
        return await told

    try:
        assert loop.run_until_complete(story()) == pytest.approx(8, abs=0.1)
    finally:
        loop.close()
    assert booked(asked) == pytest.approx(10)


def test_cancelled_it_books_what_it_took_and_never_calls() -> None:
    clock = ManualClock()
    asked = effect(10, clock)
    called = []

    async def story() -> None:
        wait = Wait(asyncio.get_running_loop(), asked, 10, lambda: called.append(1))
        await asyncio.sleep(0)
        clock.advance(4)
        wait.cancel()
        wait.cancel()
        clock.advance(10)
        await asyncio.sleep(0)

    asyncio.run(story())
    assert booked(asked) == 4
    assert called == []


def test_a_task_that_pauses_can_be_cancelled() -> None:
    async def story() -> None:
        task = asyncio.create_task(_pause(effect(3600)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


def test_many_end_in_the_order_of_their_moments() -> None:
    asked = effect(1, ManualClock())
    ended: list[int] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        for tens in (3, 1, 4, 2, 0):
            Wait(loop, asked, tens * 10, lambda tens=tens: ended.append(tens))  # type: ignore[misc]
        given_up = Wait(loop, asked, 5, lambda: ended.append(99))
        Wait(loop, asked, 45, lambda: over.set_result(None))
        given_up.cancel()
        await over

    loop = Virtual()
    try:
        loop.run_until_complete(story())
    finally:
        loop.close()
    assert ended == [0, 1, 2, 3, 4]


def test_a_loop_that_is_closed_meanwhile_is_let_go() -> None:
    """With all that the wait knows, as of the connections that nobody has closed."""
    loop = asyncio.new_event_loop()
    gone = weakref.ref(loop)

    Wait(loop, effect(60), 60, functools.partial(print, loop))
    loop.run_until_complete(asyncio.sleep(0))  # and its timer is set
    loop.close()
    del loop
    gc.collect()
    assert gone() is None


def test_one_that_ends_may_begin_another_or_fail() -> None:
    asked = effect(1, ManualClock())
    failures: list[str] = []

    def fail() -> None:
        raise ValueError("the user's own")

    async def story() -> float:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, what: failures.append(str(what["exception"])))
        over = loop.create_future()

        def begin_another() -> None:
            Wait(loop, asked, 0, lambda: over.set_result(None))

        Wait(loop, asked, 10, fail)
        Wait(loop, asked, 10, begin_another)
        await over
        return loop.time()

    loop = Virtual()
    try:
        assert loop.run_until_complete(story()) == pytest.approx(10)
    finally:
        loop.close()
    assert failures == ["the user's own"]

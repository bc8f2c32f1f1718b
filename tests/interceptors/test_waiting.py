from __future__ import annotations

import asyncio
import functools
import gc
import math
import select
import selectors
import threading
import time
import weakref

from collections.abc import Callable
from collections.abc import Generator
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import Clock
from pytest_resilience import ManualClock
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.active_experiment import Hit
from pytest_resilience.chaos.active_experiment import tell_of_ends
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.faults.network import Latency
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.waiting import Wait
from pytest_resilience.interceptors.waiting import hold
from pytest_resilience.interceptors.waiting import pause
from pytest_resilience.interceptors.waiting import run_steps
from pytest_resilience.interceptors.waiting import run_steps_async
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.interceptors.waiting import wait_async
from pytest_resilience.interceptors.waiting import wait_for_change
from pytest_resilience.virtual_time.clock import VirtualClock
from tests.another_fault import AN_OPERATION


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
        tell_of_ends()

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
    asyncio.run(pause(asked))
    assert time.monotonic() - started >= seconds
    assert booked(asked) >= seconds


def test_it_idles_below_what_tells_of_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    @functools.wraps(select.select)
    def telling(*asked: Any) -> Any:
        told.append(asked)
        return select.select.__wrapped__(*asked)  # type: ignore[attr-defined]

    monkeypatch.setattr(select, "select", telling)
    asyncio.run(pause(effect(0.005)))
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
            runner.run(pause(effect(0.0019)))
            nearly = loop.began[0] + 0.0015
            assert sum(began < nearly for began in loop.began) < 6  # not again and again


@pytest.mark.parametrize("kind", [selectors.SelectSelector, selectors.PollSelector])
def test_a_loop_whose_selector_is_no_descriptor(kind: type[selectors.BaseSelector]) -> None:
    asked = effect(0.003)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(kind())) as runner:
        runner.run(asyncio.wait_for(pause(asked), 60))
    assert booked(asked) >= 0.003


def test_a_clock_that_stands_still_holds_nobody_up() -> None:
    asked = effect(0.01, ManualClock())
    started = time.monotonic()
    asyncio.run(pause(asked))
    assert time.monotonic() - started >= 0.01
    assert booked(asked) == 0.01


def test_a_clock_that_is_moved_ends_it() -> None:
    clock = ManualClock()
    asked = effect(3600, clock)

    async def story() -> None:
        task = asyncio.create_task(pause(asked))
        await asyncio.sleep(0)
        clock.advance(3600)
        await asyncio.wait_for(task, 30)

    asyncio.run(story())
    assert booked(asked) == 3600


def test_it_ends_with_the_experiment() -> None:
    started = time.monotonic()
    asked = effect(math.inf, duration=0.02)
    asyncio.run(pause(asked))
    assert time.monotonic() - started >= 0.02


def test_it_ends_soon_after_the_experiment_is_stopped() -> None:
    asked = effect(math.inf)

    async def story() -> None:
        task = asyncio.create_task(pause(asked))
        await asyncio.sleep(0)
        assert not task.done()
        asked.hits[0].active_experiment.stop()
        await asyncio.wait_for(task, 30)

    asyncio.run(story())


def test_in_a_loop_whose_time_is_virtual_no_real_time_passes() -> None:
    loop = Virtual()
    try:
        started = time.monotonic()
        loop.run_until_complete(pause(effect(60, ManualClock())))
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
        task = asyncio.create_task(pause(effect(3600)))
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


Steps = Generator[str, Any, str]


def run_awaited(steps: Steps, perform: Callable[[str], object]) -> str:
    async def awaited(step: str) -> object:
        await asyncio.sleep(0)
        return perform(step)

    return asyncio.run(run_steps_async(steps, awaited))


@pytest.fixture(params=[run_steps, run_awaited])
def runner(request: pytest.FixtureRequest) -> Callable[..., str]:
    found: Callable[..., str] = request.param
    return found


def upper(step: str) -> str:
    if step == "bad":
        raise LookupError(step)
    return step.upper()


def test_results_are_sent_and_the_last_is_returned(runner: Callable[..., str]) -> None:
    def steps() -> Steps:
        first = yield "one"
        second = yield "two"
        return f"{first} {second}"

    assert runner(steps(), upper) == "ONE TWO"


def test_a_generator_can_handle_what_a_step_raises(runner: Callable[..., str]) -> None:
    def steps() -> Steps:
        try:
            yield "bad"
        except LookupError as error:
            return f"caught {error}"
        return ""

    assert runner(steps(), upper) == "caught bad"


def test_what_it_does_not_handle_is_raised_without_a_context(runner: Callable[..., str]) -> None:
    def steps() -> Steps:
        yield "bad"
        return ""

    with pytest.raises(LookupError) as caught:
        runner(steps(), upper)
    assert caught.value.__context__ is None


def test_an_error_leaves_no_cycle_behind() -> None:
    class MarkedError(Exception):
        pass

    def fail(_: str) -> None:
        raise MarkedError

    def steps() -> Steps:
        yield "one"
        return ""

    seen: list[weakref.ref[MarkedError]] = []
    gc.disable()
    try:
        try:
            run_steps(steps(), fail)
        except MarkedError as error:
            seen.append(weakref.ref(error))
        assert seen[0]() is None
    finally:
        gc.enable()


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

"""Listeners of every pattern: coroutine functions among them, and those of single calls."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trio

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import CircuitState
from pytest_resilience import DegradationManager
from pytest_resilience import Event
from pytest_resilience import FeatureFlag
from pytest_resilience import ManualClock
from pytest_resilience import Pipeline
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import ServiceFailureError
from pytest_resilience import ThreadPoolBulkhead
from pytest_resilience import TimeLimiter
from pytest_resilience import TimeLimitExceededError
from pytest_resilience.patterns import CircuitCall
from pytest_resilience.patterns import CircuitRejection
from pytest_resilience.patterns import CircuitTransition
from pytest_resilience.patterns import Outcome


def broken() -> None:
    raise OSError("gone")


async def abroken() -> None:
    raise OSError("gone")


async def abroken_items() -> AsyncIterator[int]:
    yield 1
    raise OSError("gone")


async def afine() -> str:
    return "fine"


async def in_block(guard: Any) -> None:
    async with guard:
        await abroken()


async def walked(func: Callable[[], AsyncIterator[int]]) -> None:
    async for _ in func():
        pass


def breaker() -> CircuitBreaker:
    return CircuitBreaker(CircuitBreakerConfig(failure_threshold=1))


def full() -> SemaphoreBulkhead:
    bulkhead = SemaphoreBulkhead(BulkheadConfig(1))
    bulkhead.acquire()
    return bulkhead


def spent() -> RateLimitBulkhead:
    limit = RateLimitBulkhead(BulkheadConfig(1))
    limit.acquire()
    return limit


def retry() -> RetryHandler:
    return RetryHandler(RetryConfig(max_attempts=2), clock=ManualClock())


async def attempts(handler: RetryHandler) -> None:
    async for attempt in handler:
        async with attempt:
            await abroken()


def full_pool() -> ThreadPoolBulkhead:
    pool = ThreadPoolBulkhead(BulkheadConfig(1, queue_size=0))
    pool.submit(threading.Event().wait, 60)
    return pool


async def in_full_pool(pool: ThreadPoolBulkhead) -> None:
    try:
        await pool.execute_async(int)
    finally:
        pool.shutdown(wait=False)


def late() -> TimeLimiter:
    return TimeLimiter(1e-9)


async def never() -> None:
    await asyncio.Event().wait()


async def in_late_block(limit: TimeLimiter) -> None:
    async with limit:
        await never()


def unwell() -> DegradationManager:
    manager = DegradationManager()
    manager.register_feature(FeatureFlag("prices", health_check=lambda: False))
    return manager


# How an async call makes an event: the pattern, the call, what it raises, how many events.
ASYNC_CALLS: dict[str, tuple[Callable[[], Any], Callable[[Any], Awaitable[Any]], Any, int]] = {
    "breaker, decorator": (breaker, lambda one: one(abroken)(), OSError, 1),
    "breaker, call": (breaker, lambda one: one.call(abroken), OSError, 1),
    "breaker, async with": (breaker, in_block, OSError, 1),
    "breaker, async generator": (breaker, lambda one: walked(one(abroken_items)), OSError, 1),
    "semaphore, decorator": (full, lambda one: one(afine)(), BulkheadRejectedError, 1),
    "semaphore, execute": (full, lambda one: one.execute(afine), BulkheadRejectedError, 1),
    "semaphore, async with": (full, in_block, BulkheadRejectedError, 1),
    "rate limit, decorator": (spent, lambda one: one(afine)(), BulkheadRejectedError, 1),
    "rate limit, execute": (spent, lambda one: one.execute(afine), BulkheadRejectedError, 1),
    "rate limit, async with": (spent, in_block, BulkheadRejectedError, 1),
    "rate limit, async generator": (
        spent, lambda one: walked(one(abroken_items)), BulkheadRejectedError, 1,
    ),
    "thread pool, execute_async": (
        full_pool, in_full_pool, BulkheadRejectedError, 1,
    ),
    "time limit, decorator": (late, lambda one: one(never)(), TimeLimitExceededError, 1),
    "time limit, execute": (late, lambda one: one.execute(never), TimeLimitExceededError, 1),
    "time limit, async with": (late, in_late_block, TimeLimitExceededError, 1),
    "retry, decorator": (retry, lambda one: one(abroken)(), RetryExhaustedError, 2),
    "retry, execute": (retry, lambda one: one.execute(abroken), RetryExhaustedError, 2),
    "retry, async for": (retry, attempts, RetryExhaustedError, 2),
    "degradation": (
        unwell, lambda one: one.execute_with_degradation("prices", afine, None, 0), None, 2,
    ),
    "degradation, health check": (unwell, lambda one: one.check_service_health_async("prices"),
                                  None, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ASYNC_CALLS)
def test_a_coroutine_function_is_awaited_before_an_async_call_goes_on(name: str) -> None:
    make, call, error, count = ASYNC_CALLS[name]
    told: list[Event] = []

    async def listener(event: Event) -> None:
        await asyncio.sleep(0)
        told.append(event)

    async def story() -> int:
        pattern = make()
        pattern.listeners.add(listener)
        if error is None:
            await call(pattern)
        else:
            with pytest.raises(error):
                await call(pattern)
        return len(told)  # and not later

    assert asyncio.run(story()) == count


def in_plain_block(guard: Any) -> None:
    with guard:
        raise AssertionError("it was let in")


def plain_attempts(handler: RetryHandler) -> None:
    for _ in handler:
        raise AssertionError("it was let in")


def must_not_run() -> None:
    raise AssertionError("it was called")


def must_not_begin() -> Iterator[int]:
    must_not_run()
    yield 1


PLAIN_CALLS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "breaker, decorator": (breaker, lambda one: one(must_not_run)),
    "breaker, generator": (breaker, lambda one: one(must_not_begin)),
    "breaker, call": (breaker, lambda one: one.call(must_not_run)),
    "breaker, call of a generator": (breaker, lambda one: next(one.call(must_not_begin))),
    "breaker, with": (breaker, in_plain_block),
    "breaker, acquire": (breaker, lambda one: one.acquire()),
    "semaphore, decorator": (SemaphoreBulkhead, lambda one: one(must_not_run)),
    "semaphore, execute": (SemaphoreBulkhead, lambda one: one.execute(must_not_run)),
    "semaphore, with": (SemaphoreBulkhead, in_plain_block),
    "rate limit, decorator": (RateLimitBulkhead, lambda one: one(must_not_run)),
    "rate limit, generator": (RateLimitBulkhead, lambda one: one(must_not_begin)),
    "rate limit, execute": (RateLimitBulkhead, lambda one: one.execute(must_not_run)),
    "rate limit, with": (RateLimitBulkhead, in_plain_block),
    "rate limit, acquire": (RateLimitBulkhead, lambda one: one.acquire()),
    "thread pool, decorator": (ThreadPoolBulkhead, lambda one: one(must_not_run)),
    "thread pool, execute": (ThreadPoolBulkhead, lambda one: one.execute(must_not_run)),
    "thread pool, submit": (ThreadPoolBulkhead, lambda one: one.submit(must_not_run)),
    "time limit, decorator": (late, lambda one: one(must_not_run)),
    "time limit, execute": (late, lambda one: one.execute(must_not_run)),
    "retry, decorator": (retry, lambda one: one(must_not_run)),
    "retry, execute": (retry, lambda one: one.execute(must_not_run)),
    "retry, for": (retry, plain_attempts),
    "degradation": (unwell, lambda one: one.execute_with_degradation("prices", must_not_run)),
}


async def alistener(_: Event) -> None: ...


class AsyncListener:
    async def __call__(self, _: Event) -> None: ...


@pytest.mark.parametrize("listener", [alistener, AsyncListener()])
@pytest.mark.parametrize("name", PLAIN_CALLS)
def test_a_coroutine_function_is_refused_by_a_plain_call(name: str, listener: Any) -> None:
    make, call = PLAIN_CALLS[name]
    pattern = make()
    remove = pattern.listeners.add(listener)
    with pytest.raises(
        TypeError, match=r"coroutine function, which a plain call of .* cannot await"
    ):
        call(pattern)
    remove()
    with contextlib.suppress(
        AssertionError, RetryExhaustedError, ServiceFailureError
    ):  # it is let in now
        call(pattern)


@pytest.mark.parametrize("name", [name for name in PLAIN_CALLS if "decorator" in name])
def test_a_coroutine_function_is_refused_once_a_plain_one_is_decorated(name: str) -> None:
    make, decorate = PLAIN_CALLS[name]
    pattern = make()
    decorate(pattern)
    with pytest.raises(TypeError, match="which a plain call of must_not_run cannot await"):
        pattern.listeners.add(alistener)


def test_a_pipeline_is_no_plain_call_before_there_is_one() -> None:
    one = breaker()
    pipeline = Pipeline(one)
    told: list[Event] = []

    async def listener(event: Event) -> None:
        told.append(event)

    remove = one.listeners.add(listener)
    with pytest.raises(OSError):
        asyncio.run(pipeline.call(abroken))
    assert len(told) == 1
    with pytest.raises(TypeError, match="cannot await"):
        pipeline.call(must_not_run)
    remove()
    one.reset()
    with pytest.raises(OSError):
        pipeline.call(broken)


def test_what_happens_by_hand_is_told_by_the_next_async_call() -> None:
    one = breaker()
    told: list[CircuitState] = []

    async def listener(event: CircuitTransition) -> None:
        told.append(event.new)

    one.listeners.add(listener)
    one.force_open()
    one.reset()
    assert told == []
    assert asyncio.run(one.call(afine)) == "fine"
    assert told == [CircuitState.FORCED_OPEN, CircuitState.CLOSED]


def test_a_plain_function_that_returns_an_awaitable_is_awaited_too() -> None:
    one = breaker()
    told: list[Event] = []

    async def later(event: Event) -> None:
        told.append(event)

    one.listeners.add(lambda event: later(event))  # noqa: PLW0108  # which is no coroutine function
    with pytest.raises(OSError):
        asyncio.run(one.call(abroken))
    assert len(told) == 1
    with pytest.raises(TypeError, match="cannot await"):  # it is known now for what it is
        one.call(must_not_run)


def test_a_failing_coroutine_function_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    one = breaker()
    told: list[Event] = []

    async def failing(_: Event) -> None:
        raise RuntimeError("no disk left")

    async def listener(event: Event) -> None:
        told.append(event)

    one.listeners.add(failing)
    one.listeners.add(listener)
    with pytest.raises(OSError):
        asyncio.run(one.call(abroken))
    assert len(told) == 1
    assert "failed on" in caplog.text


def test_events_are_told_one_after_the_other_whichever_task_they_are_of() -> None:
    clock = ManualClock()
    one = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1, timeout=1.0), clock=clock)
    steps: list[str] = []

    async def story() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def listener(event: CircuitTransition) -> None:
            steps.append(f"{event.new.value} begins")
            begun.set()
            await go_on.wait()
            steps.append(f"{event.new.value} ends")

        one.listeners.add(listener)
        first = asyncio.create_task(one.call(abroken))
        await begun.wait()
        clock.advance(1)
        assert await one.call(afine) == "fine"  # of whose transition the first task tells
        go_on.set()
        with pytest.raises(OSError):
            await first

    asyncio.run(story())
    assert steps == ["OPEN begins", "OPEN ends", "HALF_OPEN begins", "HALF_OPEN ends"]


def test_a_trial_call_that_is_cancelled_in_a_listener_gives_its_place_back() -> None:
    clock = ManualClock()
    config = CircuitBreakerConfig(failure_threshold=1, success_threshold=1, timeout=1.0)
    one = CircuitBreaker(config, clock=clock)
    with pytest.raises(OSError):
        one.call(broken)
    clock.advance(1)

    async def story() -> str:
        begun = asyncio.Event()

        async def listener(event: CircuitTransition) -> None:
            if event.new is CircuitState.HALF_OPEN:
                begun.set()
                await asyncio.Event().wait()

        one.listeners.add(listener)
        task = asyncio.create_task(one.call(afine))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await one.call(afine)

    assert asyncio.run(story()) == "fine"
    assert one.state is CircuitState.CLOSED


# Single calls.

ENDS = {
    "success": Outcome.SUCCESS,
    "failure": Outcome.FAILURE,
    "ignored": Outcome.IGNORED,
    "slow": Outcome.SUCCESS,
    "failed result": Outcome.FAILURE,
}


def ending(clock: ManualClock, end: str) -> str:
    clock.advance(5.0 if end == "slow" else 0.5)
    if end == "failure":
        raise OSError("gone")
    if end == "ignored":
        raise KeyError("unknown")
    return end


def call(one: CircuitBreaker, clock: ManualClock, end: str) -> None:
    one.call(ending, clock, end)


def decorated(one: CircuitBreaker, clock: ManualClock, end: str) -> None:
    one(ending)(clock, end)


def coroutine(one: CircuitBreaker, clock: ManualClock, end: str) -> None:
    async def later() -> str:
        return ending(clock, end)

    asyncio.run(one.call(later))


def block(one: CircuitBreaker, clock: ManualClock, end: str) -> None:
    with one:
        if ending(clock, end) == "failed result":  # a block has no result
            raise OSError


@given(
    ends=st.lists(st.tuples(st.sampled_from([call, decorated, coroutine, block]),
                            st.sampled_from(sorted(ENDS))), max_size=8),
    timed=st.booleans(), window=st.booleans(),
)  # fmt: skip
def test_each_call_is_told_to_who_listens_to_single_calls(
    ends: list[tuple[Callable[..., None], str]], timed: bool, window: bool
) -> None:
    clock = ManualClock()
    rates: dict[str, Any] = {"window_size": 1000, "minimum_calls": 1000}
    one = CircuitBreaker(
        CircuitBreakerConfig(
            failure_threshold=1000,
            expected_exception=OSError,
            is_failed_result=lambda result: result == "failed result",
            slow_call_duration=1.0 if timed else None,
            **(rates | {"failure_rate_threshold": 1.0} if window else {}),
        ),
        clock=clock,
    )
    told: list[CircuitCall] = []
    one.call_listeners.add(told.append)
    for way, end in ends:
        with contextlib.suppress(OSError, KeyError):
            way(one, clock, end)
    assert [each.outcome for each in told] == [ENDS[end] for _, end in ends]
    assert [each.slow for each in told] == [timed and end == "slow" for _, end in ends]
    assert [each.duration for each in told] == [5.0 if end == "slow" else 0.5 for _, end in ends]
    for each, (way, end) in zip(told, ends, strict=True):
        raised = end in {"failure", "ignored"} or (way is block and end == "failed result")
        assert (each.error is not None) == raised


def test_rejections_are_told_to_both_kinds_of_listeners() -> None:
    one = breaker()
    calls: list[Event] = []
    changes: list[Event] = []
    one.call_listeners.add(calls.append)
    one.listeners.add(changes.append)
    with pytest.raises(OSError):
        one.call(broken)
    with pytest.raises(CircuitBreakerError):
        one.call(must_not_run)
    assert [type(each) for each in calls] == [CircuitCall, CircuitRejection]
    assert [type(each) for each in changes] == [CircuitTransition, CircuitRejection]


def test_a_call_that_began_before_anybody_listened_has_no_duration() -> None:
    one = CircuitBreaker()
    told: list[CircuitCall] = []

    def begin_to_listen() -> None:
        one.call_listeners.add(told.append)

    one.call(begin_to_listen)
    one.call(int)
    assert [each.duration is None for each in told] == [True, False]


def test_a_late_call_is_told_of_though_it_says_nothing() -> None:
    one = breaker()
    told: list[CircuitCall] = []
    one.call_listeners.add(told.append)
    permit = one.acquire()
    with pytest.raises(OSError):
        one.call(broken)
    permit.returned(1)
    assert [each.outcome for each in told] == [Outcome.FAILURE, Outcome.SUCCESS]
    assert one.state is CircuitState.OPEN


@pytest.mark.parametrize("config", [{}, {"window_size": 1, "minimum_calls": 1,
                                         "failure_rate_threshold": 1.0}])  # fmt: skip
def test_nobody_listening_costs_nothing(config: dict[str, Any]) -> None:
    """Once the last has left, calls take the same path as when nobody had come."""
    one = CircuitBreaker(CircuitBreakerConfig(**config))
    told: list[Event] = []
    one.call(int)
    circuit = one._circuit

    def path() -> tuple[bool, bool, bool]:
        """What a call finds that takes no lock, and reads no clock for itself."""
        return circuit.fast_path is None, circuit.settled is None, circuit.quick[-1] is None

    unheard = path()
    assert not unheard[0]
    assert not (unheard[1] and unheard[2])
    remove = one.call_listeners.add(told.append)
    assert path() == (True, True, True)
    one.call(int)
    remove()
    assert path() == unheard
    one.call(int)
    assert len(told) == 1
    one.listeners.add(told.append)  # of transitions: single calls are as quick
    assert path() == unheard


def test_an_interrupt_in_a_listener_of_calls_leaves_the_breaker_as_it_should_be() -> None:
    clock = ManualClock()
    config = CircuitBreakerConfig(failure_threshold=1, success_threshold=1, timeout=1.0)
    one = CircuitBreaker(config, clock=clock)
    changes: list[CircuitTransition] = []
    one.listeners.add(changes.append)

    def interrupt(_: Event) -> None:
        raise KeyboardInterrupt

    one.call_listeners.add(interrupt)
    with pytest.raises(KeyboardInterrupt):
        one.call(broken)
    clock.advance(1)
    with pytest.raises(KeyboardInterrupt):
        one.call(int)
    assert [each.new.value for each in changes] == ["OPEN", "HALF_OPEN", "CLOSED"]


def test_single_calls_of_many_threads_are_all_told() -> None:
    one, together = breaker(), threading.Barrier(8, timeout=30)
    told: list[CircuitCall] = []
    one.call_listeners.add(told.append)

    def caller(_: int) -> None:
        together.wait()
        for _ in range(500):
            one.call(int)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(caller, range(8)))
    assert len(told) == 4000


def test_transitions_of_many_threads_reach_all_listeners_in_their_order() -> None:
    clock, together = ManualClock(), threading.Barrier(8, timeout=30)
    config = CircuitBreakerConfig(failure_threshold=1, success_threshold=1, timeout=0.0)
    one = CircuitBreaker(config, clock=clock)
    heard: list[list[CircuitTransition]] = [[], []]

    def listen(event: Event) -> None:
        if isinstance(event, CircuitTransition):
            heard[0].append(event)

    async def collect(event: Event) -> None:
        if isinstance(event, CircuitTransition):
            heard[1].append(event)

    async def one_more() -> None:
        await one.call(afine)

    one.listeners.add(listen)

    def caller(number: int) -> None:
        together.wait()
        for step in range(300):
            with contextlib.suppress(OSError, CircuitBreakerError):
                if (number + step) % 3:
                    one.call(broken if (number + step) % 2 else int)
                else:
                    one.force_open() if step % 2 else one.reset()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(caller, range(8)))
    assert len(heard[0]) > 1000
    for before, after in itertools.pairwise(heard[0]):
        assert after.old is before.new
    assert tuple(heard[0][-100:]) == one.transitions

    one.listeners.add(collect)  # and of threads with a loop each
    heard[0].clear()

    def by_hand_and_async(number: int) -> None:
        together.wait()
        for step in range(50):
            one.force_open() if (number + step) % 2 else one.reset()
            with contextlib.suppress(CircuitBreakerError):
                asyncio.run(one_more())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(by_hand_and_async, range(8)))
    one.reset()
    asyncio.run(one_more())
    assert heard[1] == heard[0]


def test_under_trio_too() -> None:
    one = breaker()
    told: list[Event] = []

    async def listener(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        told.append(event)

    one.listeners.add(listener)

    async def story() -> None:
        with pytest.raises(OSError):
            await one.call(abroken)
        assert len(told) == 1

    trio.run(story)

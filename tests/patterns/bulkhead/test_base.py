from __future__ import annotations

import asyncio
import contextvars
import threading

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_resilience import BulkheadRejectedError
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import ShutdownError
from pytest_resilience import TimeLimitExceededError
from pytest_resilience.patterns.bulkhead.base import BulkheadConfig
from pytest_resilience.patterns.bulkhead.base import BulkheadType
from pytest_resilience.patterns.bulkhead.manager import BulkheadManager
from pytest_resilience.patterns.bulkhead.rate_limit import RateLimitBulkhead
from pytest_resilience.patterns.bulkhead.semaphore import SemaphoreBulkhead
from pytest_resilience.patterns.bulkhead.thread_pool import ThreadPoolBulkhead


class Gate:
    """A call that is under way until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.leave = threading.Event()

    def __call__(self) -> str:
        self.entered.release()
        assert self.leave.wait(10)
        return "done"

    def wait_for(self, calls: int) -> None:
        for _ in range(calls):
            assert self.entered.acquire(timeout=10)


def semaphore(limit: int, max_wait: float = 0.0) -> SemaphoreBulkhead:
    return SemaphoreBulkhead(BulkheadConfig(max_concurrent=limit, max_wait=max_wait), name="api")


def pool(limit: int, queue_size: int, timeout: float = 10.0) -> ThreadPoolBulkhead:
    return ThreadPoolBulkhead(BulkheadConfig(limit, queue_size, timeout), name="db")


def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000_000):
        if condition():
            return
    raise AssertionError("it never came true")


def test_a_full_semaphore_rejects_at_once() -> None:
    bulkhead, heard = semaphore(2), list[Event]()
    bulkhead.listeners.add(heard.append)
    with bulkhead, bulkhead:
        with pytest.raises(BulkheadRejectedError) as caught:
            bulkhead.execute(int)
        error = caught.value
        assert (error.name, error.in_use, error.capacity) == ("api", 2, 2)
        assert str(error) == (
            "api is full: 2 of 2 slots are taken; try again when a call has ended"
        )
    assert bulkhead.execute(int) == 0
    assert bulkhead.get_stats() == {
        "max_concurrent": 2,
        "active_count": 0,
        "waiting_count": 0,
        "total_acquired": 3,
        "total_rejected": 1,
        "available_permits": 2,
    }
    assert len(heard) == 1


def test_a_call_that_raises_gives_its_place_back() -> None:
    bulkhead = semaphore(1)

    @bulkhead
    def broken() -> None:
        raise KeyError

    for _ in range(3):
        with pytest.raises(KeyError):
            broken()


def test_threads_are_let_in_in_the_order_of_arrival() -> None:
    bulkhead, order = semaphore(1, max_wait=10.0), list[int]()
    with ThreadPoolExecutor(5) as threads, bulkhead:
        for number in range(5):
            threads.submit(bulkhead.execute, order.append, number)
            until(lambda n=number: bulkhead.get_stats()["waiting_count"] == n + 1)  # type: ignore[misc]
        bulkhead.release()
        until(lambda: len(order) == 5)
        bulkhead.acquire()
    assert order == [0, 1, 2, 3, 4]


def test_who_waits_too_long_leaves_the_line_and_takes_nothing_along() -> None:
    bulkhead = semaphore(1, max_wait=0.01)
    with bulkhead, pytest.raises(BulkheadRejectedError):
        bulkhead.acquire()
    assert bulkhead.get_stats()["available_permits"] == 1
    assert bulkhead.get_stats()["waiting_count"] == 0


def test_tasks_and_threads_share_the_slots() -> None:
    bulkhead = semaphore(1, max_wait=10.0)
    gate = Gate()

    @bulkhead
    async def call() -> str:
        return "in"

    async def story() -> None:
        task = asyncio.create_task(call())
        for _ in range(10):
            await asyncio.sleep(0)  # the loop goes on while the task waits
        assert not task.done()
        gate.leave.set()
        assert await task == "in"

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(bulkhead.execute, gate)
        gate.wait_for(1)
        asyncio.run(story())
        assert held.result(10) == "done"
    assert bulkhead.get_stats()["active_count"] == 0


def test_a_task_that_is_cancelled_while_waiting_loses_no_place() -> None:
    bulkhead = semaphore(1, max_wait=10.0)

    async def story() -> None:
        async with bulkhead:
            waiting = asyncio.create_task(bulkhead.acquire_async())
            await asyncio.sleep(0)
            late = asyncio.create_task(bulkhead.acquire_async())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.sleep(0)
        late.cancel()  # it has just been given the slot, and does not take it
        await asyncio.gather(waiting, late, return_exceptions=True)
        async with asyncio.timeout(5), bulkhead:
            pass

    asyncio.run(story())
    assert bulkhead.get_stats()["available_permits"] == 1


def test_tasks_are_rejected_too() -> None:
    async def story(max_wait: float) -> None:
        bulkhead = semaphore(1, max_wait)
        async with bulkhead:
            with pytest.raises(BulkheadRejectedError):
                await bulkhead.acquire_async()
        assert bulkhead.get_stats()["available_permits"] == 1

    asyncio.run(story(0.0))
    asyncio.run(story(0.01))


def test_generator_functions_are_refused_by_a_semaphore() -> None:
    def rows() -> Any:
        yield 1

    with pytest.raises(TypeError, match="limit what consumes it"):
        semaphore(1)(rows)


@pytest.mark.parametrize("queue_size", [0, 2])
def test_seed_defect_queue_size_was_ignored(queue_size: int) -> None:
    bulkhead, gate = pool(2, queue_size), Gate()
    try:
        futures = [bulkhead.submit(gate) for _ in range(2 + queue_size)]
        gate.wait_for(2)
        with pytest.raises(BulkheadRejectedError) as caught:
            bulkhead.submit(gate)
        assert str(caught.value) == (
            f"db is full: {2 + queue_size} of {2 + queue_size} calls run or wait; "
            "try again when a call has ended"
        )
        assert (caught.value.in_use, caught.value.capacity) == (2 + queue_size, 2 + queue_size)
        stats = bulkhead.get_stats()
        assert (stats["active_tasks"], stats["queued_tasks"]) == (2, queue_size)
    finally:
        gate.leave.set()
    assert [future.result(10) for future in futures] == ["done"] * len(futures)
    bulkhead.shutdown()


def test_seed_defect_a_timed_out_call_was_no_longer_counted() -> None:
    bulkhead, gate = pool(1, 0, timeout=0.5), Gate()
    with pytest.raises(TimeLimitExceededError) as caught:
        bulkhead.execute(gate)
    assert str(caught.value) == (
        "no result from db within 0.5 s; it still runs and keeps its thread"
    )
    assert isinstance(caught.value, TimeoutError)
    assert bulkhead.get_stats()["active_tasks"] == 1
    with pytest.raises(BulkheadRejectedError):
        bulkhead.execute(int)
    gate.leave.set()
    until(lambda: bulkhead.get_stats()["queued_tasks"] + bulkhead.get_stats()["active_tasks"] == 0)
    assert bulkhead.execute(int) == 0
    assert bulkhead.get_stats()["completed_tasks"] == 2
    bulkhead.shutdown()


def test_what_has_not_begun_in_time_never_does() -> None:
    bulkhead, gate, ran = pool(1, 1, timeout=0.01), Gate(), list[int]()
    bulkhead.submit(gate)
    gate.wait_for(1)
    with pytest.raises(TimeLimitExceededError, match="it had not begun and never will"):
        bulkhead.execute(ran.append, 1)
    gate.leave.set()
    bulkhead.shutdown()
    assert ran == []


def test_a_timeout_error_of_the_call_itself_is_its_own() -> None:
    bulkhead = pool(1, 0)

    def slow_socket() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own") as caught:
        bulkhead.execute(slow_socket)
    assert not isinstance(caught.value, TimeLimitExceededError)
    bulkhead.shutdown()


def test_context_variables_reach_the_pool() -> None:
    request = contextvars.ContextVar("request", default="none")
    bulkhead = pool(1, 0)
    request.set("42")
    assert bulkhead.execute(request.get) == "42"
    bulkhead.shutdown()


def test_tasks_await_the_pool() -> None:
    bulkhead, gate = pool(1, 0, timeout=0.01), Gate()

    async def story() -> None:
        with pytest.raises(TimeLimitExceededError):
            await bulkhead.execute_async(gate)
        gate.leave.set()

    asyncio.run(story())
    bulkhead.shutdown()


def test_coroutine_functions_do_not_belong_in_a_pool() -> None:
    async def call() -> None: ...

    bulkhead = pool(1, 0)
    with pytest.raises(TypeError, match="which a thread cannot run; use a SemaphoreBulkhead"):
        bulkhead.submit(call)
    bulkhead.shutdown()


def test_after_shutdown_there_is_a_clear_error() -> None:
    bulkhead = pool(1, 0)
    bulkhead.shutdown()
    bulkhead.shutdown()
    with pytest.raises(ShutdownError, match="db has been shut down; make a new bulkhead"):
        bulkhead.execute(int)


def rate(limit: int, clock: ManualClock, **config: Any) -> RateLimitBulkhead:
    settings = BulkheadConfig(max_concurrent=limit, **config)
    return RateLimitBulkhead(settings, name="mail", clock=clock)


def test_a_rate_limit_says_exactly_when_to_come_back() -> None:
    clock = ManualClock()
    bulkhead = rate(2, clock, window_size=10.0)
    bulkhead.execute(int)
    clock.advance(4)
    bulkhead.execute(int)
    clock.advance(1)
    with pytest.raises(BulkheadRejectedError) as caught:
        bulkhead.execute(int)
    assert caught.value.retry_after == 5.0
    assert str(caught.value) == (
        "mail is full: 2 of 2 calls began in the last 10 s; try again in 5 s"
    )
    clock.advance(5)
    assert bulkhead(int)() == 0
    assert bulkhead.get_stats() == {
        "max_rate": 2,
        "current_rate": 2,
        "window_size": 10.0,
        "total_requests": 3,
        "rejected_requests": 1,
        "available_requests": 0,
        "utilization": 1.0,
    }


def test_a_coroutine_function_stays_one_behind_a_rate_limit() -> None:
    bulkhead, ran = rate(1, ManualClock()), list[str]()
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1))

    @breaker
    @bulkhead
    async def fetch() -> None:
        ran.append("fetch")
        raise ConnectionError

    calls = [fetch(), fetch()]
    assert bulkhead.get_stats()["total_requests"] == 0  # nothing has begun yet
    with pytest.raises(ConnectionError):
        asyncio.run(calls[0])
    assert breaker.state.value == "OPEN"
    breaker.reset()
    with pytest.raises(BulkheadRejectedError):
        asyncio.run(calls[1])
    assert ran == ["fetch"]


def test_a_burst_leaves_the_rest_of_the_window_to_others() -> None:
    clock = ManualClock()
    bulkhead = rate(10, clock, window_size=10.0, burst=2)
    bulkhead.execute(int)
    bulkhead.execute(int)
    with pytest.raises(BulkheadRejectedError) as caught:
        bulkhead.execute(int)
    assert caught.value.retry_after == 2.0
    clock.advance(2)
    bulkhead.execute(int)


def test_p14_seed_defect_bookkeeping_was_o_n() -> None:
    """However full the window, it is never walked: a call looks at its ends alone."""

    class NeverWalked(deque[float]):
        def __iter__(self) -> Any:
            raise AssertionError("it was walked")

    bulkhead = rate(100, ManualClock())
    bulkhead._started = NeverWalked()
    for _ in range(100):
        bulkhead.acquire()
    with pytest.raises(BulkheadRejectedError):
        bulkhead.acquire()
    assert bulkhead.get_stats()["current_rate"] == 100


def test_a_rate_limit_under_threads() -> None:
    bulkhead = rate(1000, ManualClock())

    def caller(_: int) -> int:
        through = 0
        for _ in range(100):
            try:
                bulkhead.acquire()
            except BulkheadRejectedError:
                continue
            through += 1
        return through

    with ThreadPoolExecutor(32) as threads:
        assert sum(threads.map(caller, range(32))) == 1000
    assert bulkhead.get_stats()["rejected_requests"] == 2200


@pytest.mark.parametrize("listened", [False, True])
@pytest.mark.parametrize("kind", BulkheadType)
def test_all_remember_and_tell_of_their_rejections(kind: BulkheadType, listened: bool) -> None:
    clock, gate = ManualClock(), Gate()
    config = BulkheadConfig(max_concurrent=1, queue_size=0, bulkhead_type=kind, window_size=30.0)
    manager = BulkheadManager(clock=clock)
    bulkhead, heard = manager.create_bulkhead("mail", config), list[Event]()
    if listened:
        bulkhead.listeners.add(heard.append)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(bulkhead.execute, gate)
        gate.wait_for(1)
        for _ in range(101):
            clock.advance(0.125)
            with pytest.raises(BulkheadRejectedError, match=r"^mail "):
                bulkhead.execute(int)
        gate.leave.set()
    manager.shutdown_all()
    assert [each.at for each in bulkhead.rejections] == [0.125 * n for n in range(2, 102)]
    first = bulkhead.rejections[0]
    back = 29.75 if kind is BulkheadType.RATE_LIMIT else None
    assert (first.source, first.in_use, first.capacity, first.retry_after) == ("mail", 1, 1, back)
    assert tuple(heard[1:]) == (bulkhead.rejections if listened else ())


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("max_concurrent", 0, ConfigurationError),
        ("queue_size", -1, ConfigurationError),
        ("timeout", 0, ConfigurationError),
        ("timeout", "30", TypeError),
        ("bulkhead_type", "semaphore", TypeError),
        ("max_wait", -1, ConfigurationError),
        ("window_size", 0, ConfigurationError),
        ("burst", 0, ConfigurationError),
        ("burst", 11, ConfigurationError),
    ],
)
def test_nonsense_is_refused_naming_field_and_value(
    field: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=field) as caught:
        BulkheadConfig(**{field: value})
    assert repr(value) in str(caught.value)

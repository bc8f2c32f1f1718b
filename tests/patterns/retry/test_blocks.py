from __future__ import annotations

import asyncio
import contextlib
import gc

from typing import Any

import pytest

from pytest_resilience import ManualClock
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience.patterns import RetryAborted
from pytest_resilience.patterns import RetryScheduled


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, **config: Any) -> RetryHandler:
    settings = {"jitter": False, "retryable_exceptions": (ConnectionError,), **config}
    return RetryHandler(RetryConfig(**settings), clock=clock)


def fail(attempt_number: int, failures: int) -> None:
    if attempt_number <= failures:
        raise ConnectionError(attempt_number)


def test_an_attempt_knows_its_number_and_then_its_delay(clock: ManualClock) -> None:
    seen = []
    for attempt in make(clock):
        assert attempt.delay is None
        with attempt:
            fail(attempt.number, 2)
        seen.append((attempt.number, attempt.delay))
    assert seen == [(1, 1.0), (2, 2.0), (3, None)]


def test_results_are_judged_when_the_block_tells_them(clock: ManualClock) -> None:
    handler = make(clock, retry_on_result=lambda result: result == 503)
    answers, answer = iter([503, 503, 200]), 0
    for attempt in handler:
        with attempt:
            answer = attempt.returned(next(answers))
    assert answer == 200
    assert clock.sleeps == [1.0, 2.0]
    with pytest.raises(RetryExhaustedError, match="last result: 503") as caught:  # noqa: PT012
        for attempt in handler:
            with attempt:
                attempt.returned(503)
    assert caught.value.last_result == 503


def test_an_error_says_more_than_a_result_before_it(clock: ManualClock) -> None:
    handler = make(clock, max_attempts=1, retry_on_result=lambda result: False)

    def block() -> None:
        for attempt in handler:
            with attempt:
                attempt.returned("fine")
                fail(1, 1)

    with pytest.raises(RetryExhaustedError, match="last error: ConnectionError"):
        block()


def test_blocks_can_be_left_in_every_way(clock: ManualClock) -> None:
    handler, numbers = make(clock), []

    def by_return() -> int:
        for attempt in handler:
            with attempt:
                fail(attempt.number, 1)
                return attempt.number
        raise AssertionError("unreachable")

    assert by_return() == 2
    for attempt in handler:
        with attempt:
            fail(attempt.number, 1)
            break
    assert attempt.number == 2
    for attempt in handler:
        numbers.append(attempt.number)
        with attempt:
            fail(attempt.number, 1)
            continue
    assert numbers == [1, 2]


def test_an_error_that_passed_ends_it_even_if_somebody_catches_it(clock: ManualClock) -> None:
    numbers = []
    for attempt in make(clock):
        numbers.append(attempt.number)
        with contextlib.suppress(KeyError), attempt:
            raise KeyError
    assert numbers == [1]


@pytest.mark.parametrize("form", ["for", "async for"])
def test_an_attempt_has_to_be_used(clock: ManualClock, form: str) -> None:
    def block() -> None:
        for _ in make(clock):
            pass

    async def async_block() -> None:
        async for _ in make(clock):
            pass

    with pytest.raises(RuntimeError, match=r"attempt 1 was not used; put `with attempt:` around"):
        block() if form == "for" else asyncio.run(async_block())


def test_an_attempt_is_for_one_with(clock: ManualClock) -> None:
    attempt = next(iter(make(clock)))
    with attempt:
        pass
    with pytest.raises(RuntimeError, match=r"attempt 1 was entered before; each is for one"):
        attempt.__enter__()


def test_p11_two_loops_share_nothing(clock: ManualClock) -> None:
    """One iterator for all callers would hand the one the longer waits of the other."""
    handler = make(clock, max_attempts=4)
    first, second = iter(handler), iter(handler)
    delays: dict[str, list[float | None]] = {"first": [], "second": []}
    for _ in range(3):
        for name, attempts in (("first", first), ("second", second)):
            attempt = next(attempts)
            with attempt:
                fail(1, 1)
            delays[name].append(attempt.delay)
    assert delays == {"first": [1.0, 2.0, 4.0], "second": [1.0, 2.0, 4.0]}


def test_cancelled_while_waiting() -> None:
    class Held:
        """A clock on which a sleep never ends."""

        def monotonic(self) -> float:
            return 0.0

        def time(self) -> float:
            return 0.0

        def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

        async def asleep(self, seconds: float) -> None:
            await asyncio.get_running_loop().create_future()

    handler = RetryHandler(RetryConfig(), clock=Held())

    def check() -> None:
        scheduled, aborted = handler.events[-2:]
        assert isinstance(scheduled, RetryScheduled)
        assert isinstance(aborted, RetryAborted)
        assert (aborted.call, aborted.attempt) == (scheduled.call, 1)

    def call() -> None:
        raise ConnectionError

    async def later() -> None:
        call()

    async def block() -> None:
        async for attempt in handler:
            with attempt:
                call()

    async def cancelled(coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        check()

    asyncio.run(cancelled(handler(later)()))
    asyncio.run(cancelled(block()))
    with pytest.raises(KeyboardInterrupt):
        handler.execute(call)
    check()
    assert len(handler.events) == 6


def test_cancelled_in_a_later_attempt(clock: ManualClock) -> None:
    handler = make(clock)

    async def block() -> None:
        async for attempt in handler:
            with attempt:
                fail(attempt.number, 1)
                raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(block())
    last = handler.events[-1]
    assert isinstance(last, RetryAborted)
    assert (last.attempt, last.failure) == (2, "CancelledError")


def test_leaving_an_async_block_leaves_nothing_to_clean_up(clock: ManualClock) -> None:
    """An async generator would be closed by a task of its own, some time."""
    handler = make(clock)

    async def story() -> set[asyncio.Task[Any]]:
        async def block() -> None:
            async for attempt in handler:
                with attempt:
                    return

        await block()
        gc.collect()
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(story()) == set()

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import ManualClock
from pytest_resilience.patterns import TimeLimiter
from pytest_resilience.patterns.callables import EnteredBlocks


def in_a_thread(func: Callable[[], object]) -> None:
    thread = threading.Thread(target=func)
    thread.start()
    thread.join()


def here(func: Callable[[], object]) -> None:
    func()


def state(breaker: CircuitBreaker) -> str:
    return breaker.state.value


def block(breaker: CircuitBreaker) -> Iterator[None]:
    with breaker:
        yield


def leave(entered: Iterator[None]) -> None:
    assert next(entered, "left") == "left"


def half_open_soon(**options: Any) -> tuple[CircuitBreaker, Iterator[None]]:
    """A breaker whose next call is a trial, and a block that was entered before it opened."""
    clock = ManualClock()
    config = CircuitBreakerConfig(success_threshold=1, timeout=10.0, **options)
    breaker = CircuitBreaker(config, clock=clock)
    earlier = block(breaker)
    next(earlier)
    breaker.open_for(0.0)
    clock.advance(1.0)
    return breaker, earlier


@pytest.mark.parametrize("where_trial", [here, in_a_thread])
@pytest.mark.parametrize("where_earlier", [here, in_a_thread])
def test_a_block_that_was_entered_earlier_is_no_trial_call(
    where_trial: Callable[[Callable[[], object]], None],
    where_earlier: Callable[[Callable[[], object]], None],
) -> None:
    def story() -> None:
        breaker, earlier = half_open_soon()
        trial = block(breaker)
        where_trial(lambda: next(trial))
        where_earlier(lambda: leave(earlier))
        assert state(breaker) == "HALF_OPEN"
        where_earlier(lambda: leave(trial))
        assert state(breaker) == "CLOSED"
        assert not breaker._trials

    contextvars.copy_context().run(story)  # which knows of a block that was left in a thread


def test_a_stack_of_contexts_is_left_by_another_frame() -> None:
    breaker, earlier = half_open_soon()
    earlier.close()  # type: ignore[attr-defined]
    breaker.open_for(0.0)
    stack = contextlib.ExitStack()
    stack.enter_context(breaker)
    assert state(breaker) == "HALF_OPEN"
    stack.close()
    assert state(breaker) == "CLOSED"
    assert not breaker._trials


def test_async_trial_calls_that_end_in_the_order_they_began() -> None:
    breaker, earlier = half_open_soon()
    leave(earlier)

    async def listen(_: object) -> None: ...

    async def trial() -> AsyncIterator[None]:
        async with breaker:
            yield

    async def main() -> None:
        for listener in (None, listen):
            if listener is not None:
                breaker.listeners.add(listener)
            begun = trial()
            await in_a_task(begun.__anext__())
            assert state(breaker) == "HALF_OPEN"
            await in_a_task(begun.aclose())  # type: ignore[attr-defined]
            assert state(breaker) == "HALF_OPEN"  # GeneratorExit says nothing
            async with breaker:
                pass
            assert state(breaker) == "CLOSED"
            breaker.open_for(0.0)

    asyncio.run(main())
    assert not breaker._trials


@contextlib.asynccontextmanager
async def limited(limiter: TimeLimiter) -> AsyncIterator[None]:
    async with limiter:
        yield


async def in_a_task(call: Any) -> None:
    await asyncio.create_task(call)


def test_a_limited_block_is_left_in_another_task() -> None:
    limiter = TimeLimiter(60.0)

    async def main() -> None:
        for manager in (limited(limiter), limiter):
            stack = contextlib.AsyncExitStack()
            await in_a_task(stack.enter_async_context(manager))
            await in_a_task(stack.aclose())
        dependency = limited(limiter)
        await in_a_task(dependency.__aenter__())
        await in_a_task(dependency.__aexit__(None, None, None))
        assert not limiter._blocks
        with pytest.raises(RuntimeError, match=r"^time limit: no block was entered that could be"):
            await limiter.__aexit__(None, None, None)

    asyncio.run(main())


def test_limited_blocks_that_are_left_in_the_order_they_were_entered() -> None:
    short, long = TimeLimiter(0.01), TimeLimiter(60.0)

    async def main() -> None:
        for first, second in ((short, long), (short, short)):
            one, other = limited(first), limited(second)
            await one.__aenter__()
            await other.__aenter__()
            await one.__aexit__(None, None, None)
            if second is long:
                await asyncio.sleep(0.02)  # were it the other's that had been left: cancelled
            await other.__aexit__(None, None, None)
        async with long, long:
            pass
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(long)
            await stack.enter_async_context(long)

    asyncio.run(main())
    assert not short._blocks
    assert not long._blocks
    assert long.get_stats()["exceeded_calls"] == 0


def test_blocks_that_are_never_left_are_not_kept_without_end() -> None:
    blocks = EnteredBlocks[int]()

    def enter(number: int) -> None:
        blocks.enter(sys._getframe(), number)

    for number in range(2500):
        enter(number)
    assert len(blocks) <= 1000
    assert blocks.leave_latest() == 2499

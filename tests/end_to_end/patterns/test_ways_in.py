"""What each way into a pattern does while nothing is wrong: next to nothing.

Seconds say little on a busy machine. What they are made of can be counted: the functions of
the package that a call goes through, none of which may wrap anything for that one call.
`benchmarks/patterns.py` has the seconds.
"""

from __future__ import annotations

import functools
import sys

from collections.abc import Callable
from collections.abc import Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pytest_resilience

from pytest_resilience import BulkheadConfig
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import DegradationManager
from pytest_resilience import FeatureFlag
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import RetryHandler
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience.patterns import Pipeline


HOME = str(Path(pytest_resilience.__path__[0]))


def work() -> str:
    return "done"


async def awork() -> str:
    return "done"


def functions_of_ours(call: Callable[[], Any]) -> list[str]:
    """Those that are entered, in order."""
    entered = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(HOME):
            entered.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return entered


def block(guard: Any) -> Callable[[], str]:
    def call() -> str:
        with guard:
            return work()

    return call


def attempts(handler: RetryHandler) -> Callable[[], None]:
    def call() -> None:
        for attempt in handler:
            with attempt:
                work()

    return call


def sync_ways() -> dict[str, tuple[int, Callable[[], Any]]]:
    breaker, retry, slots, limit = (
        CircuitBreaker(), RetryHandler(), SemaphoreBulkhead(), RateLimitBulkhead(),
    )  # fmt: skip
    window = CircuitBreaker(
        CircuitBreakerConfig(failure_rate_threshold=0.5, window_size=1, minimum_calls=1)
    )
    timed = CircuitBreaker(CircuitBreakerConfig(failure_rate_threshold=0.5, window_seconds=1e9))
    slow = CircuitBreaker(CircuitBreakerConfig(slow_call_duration=1e9))
    manager, pipeline = DegradationManager(), Pipeline(retry, breaker, slots)
    manager.register_feature(FeatureFlag("prices"))
    return {
        "breaker, decorator": (1, breaker(work)),
        "breaker, call": (2, functools.partial(breaker.call, work)),
        "breaker, with": (2, block(breaker)),
        "breaker with a window, call": (2, functools.partial(window.call, work)),
        "breaker with a window, with": (2, block(window)),
        "breaker with a time window, decorator": (3, timed(work)),
        "breaker with a time window, call": (4, functools.partial(timed.call, work)),
        "breaker with a time window, with": (3, block(timed)),
        "breaker that times calls, decorator": (4, slow(work)),
        "breaker that times calls, call": (5, functools.partial(slow.call, work)),
        "breaker that times calls, with": (4, block(slow)),
        "retry, decorator": (1, retry(work)),
        "retry, execute": (1, functools.partial(retry.execute, work)),
        "retry, for attempt": (9, attempts(retry)),
        "semaphore, decorator": (1, slots(work)),
        "semaphore, execute": (3, functools.partial(slots.execute, work)),
        "semaphore, with": (6, block(slots)),
        "rate limit, decorator": (2, limit(work)),
        "rate limit, execute": (3, functools.partial(limit.execute, work)),
        "rate limit, acquire": (2, limit.acquire),
        "degradation": (5, lambda: manager.execute_with_degradation("prices", work)),
        "pipeline of three, call": (4, functools.partial(pipeline.call, work)),
    }


def async_block(guard: Any) -> Callable[[], Coroutine[Any, Any, str]]:
    async def call() -> str:
        async with guard:
            return await awork()

    return call


def async_attempts(handler: RetryHandler) -> Callable[[], Coroutine[Any, Any, None]]:
    async def call() -> None:
        async for attempt in handler:
            with attempt:
                await awork()

    return call


def async_ways() -> dict[str, tuple[int, Callable[[], Any]]]:
    breaker, retry, slots, limit = (
        CircuitBreaker(), RetryHandler(), SemaphoreBulkhead(), RateLimitBulkhead(),
    )  # fmt: skip
    manager, pipeline = DegradationManager(), Pipeline(retry, breaker, slots)
    manager.register_feature(FeatureFlag("prices"))
    return {
        "breaker, async decorator": (1, breaker(awork)),
        "breaker, await call": (4, functools.partial(breaker.call, awork)),
        "breaker, async with": (4, async_block(breaker)),
        "retry, async decorator": (1, retry(awork)),
        "retry, await execute": (4, functools.partial(retry.execute, awork)),
        "retry, async for attempt": (9, async_attempts(retry)),
        "semaphore, async decorator": (3, slots(awork)),
        "semaphore, await execute": (5, functools.partial(slots.execute, awork)),
        "semaphore, async with": (6, async_block(slots)),
        "rate limit, async decorator": (3, limit(awork)),
        "rate limit, await execute": (5, functools.partial(limit.execute, awork)),
        "degradation, await": (7, lambda: manager.execute_with_degradation("prices", awork)),
        "pipeline of three, await call": (6, functools.partial(pipeline.call, awork)),
    }


def rejections() -> dict[str, tuple[int, Callable[[], Any]]]:
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1, timeout=1e9))
    with pytest.raises(ZeroDivisionError):
        breaker.call(divmod, 1, 0)
    full = SemaphoreBulkhead(BulkheadConfig(1))
    full.acquire()
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "open breaker, decorator": (3, breaker(work)),
        "open breaker, call": (4, functools.partial(breaker.call, work)),
        "open breaker, with": (3, block(breaker)),
        "full semaphore, execute": (11, functools.partial(full.execute, work)),
    }
    return {name: (most, functools.partial(_refused, call)) for name, (most, call) in calls.items()}


def _refused(call: Callable[[], Any]) -> None:
    try:
        call()
    except pytest_resilience.ResilienceError:
        return
    raise AssertionError("it was let through")


def awaited(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Nothing here waits, so no loop is needed."""
    with pytest.raises(StopIteration):
        call().send(None)


WAYS = (
    sync_ways()
    | rejections()
    | {
        name: (most, functools.partial(awaited, call))
        for name, (most, call) in async_ways().items()
    }
)


@pytest.mark.parametrize("name", WAYS)
def test_a_call_goes_through_no_more_functions_of_ours_than(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, call = WAYS[name]
    call()  # the first makes what the others use
    monkeypatch.setattr(functools, "update_wrapper", None)  # who wraps anything fails
    entered = functions_of_ours(call)
    assert len(entered) <= most, entered

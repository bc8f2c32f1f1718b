"""What the patterns cost beside nothing, and beside the best of others.

`python benchmarks/patterns.py`, with the `test` extra installed; takes a minute. Everything
runs in one process, on one CPU, in turns. Each figure is a ratio to a wrapper that does
nothing (`functools.wraps` and a try/except), but for refusals, which are held against
raising an equal exception, and threads, where calls a second are held against bare calls.
"""

from __future__ import annotations

import functools
import logging
import threading
import time

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

import backoff
import circuitbreaker  # type: ignore[import-untyped]
import limits
import pybreaker

from figures import Figure
from figures import pin
from figures import show
from turns import async_costs
from turns import costs

from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.patterns import BulkheadConfig
from pytest_resilience.patterns import CircuitBreaker
from pytest_resilience.patterns import CircuitBreakerConfig
from pytest_resilience.patterns import RateLimitBulkhead
from pytest_resilience.patterns import RetryHandler
from pytest_resilience.patterns import SemaphoreBulkhead


TARGETS = {
    "breaker closed, consecutive, sync": 1.5,
    "breaker closed, consecutive, async": 1.5,
    "breaker closed, count window": 4.0,
    "retry, first try succeeds, sync": 1.4,
    "retry, first try succeeds, async": 1.4,
    "semaphore bulkhead": 4.5,
    "rate limit, granted": 3.5,
    "open, reject / bare raise": 1.4,
}
THREADS = 32
THREAD_CALLS = 20  # of one thread, a millisecond each
THREAD_ROUNDS = 15
LEAST_THROUGHPUT = 0.97


def work(number: int) -> int:
    return number


async def awork(number: int) -> int:
    return number


def plain(func: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> int:
        try:
            return func(*args, **kwargs)
        except LookupError:
            return 0

    return wrapper


def aplain(func: Callable[[int], Awaitable[int]]) -> Callable[[int], Awaitable[int]]:
    @functools.wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> int:
        try:
            return await func(*args, **kwargs)
        except LookupError:
            return 0

    return wrapper


def windowed() -> CircuitBreaker:
    return CircuitBreaker(CircuitBreakerConfig(failure_rate_threshold=0.5, window_size=100))


def limited() -> RateLimitBulkhead:
    # As many as are let go again while the benchmark runs: the window is full all the time
    # only if it is short.
    return RateLimitBulkhead(BulkheadConfig(max_concurrent=10**7, window_size=0.01))


def limited_by_peer() -> Callable[[int], int]:
    limiter = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage())
    rate = limits.RateLimitItemPerSecond(10**7)

    def wrapper(number: int) -> int:
        if not limiter.hit(rate):
            raise RuntimeError
        return work(number)

    return wrapper


def bounded_by_peer() -> Callable[[int], int]:
    semaphore = threading.Semaphore(10)

    @functools.wraps(work)
    def wrapper(number: int) -> int:
        with semaphore:
            return work(number)

    return wrapper


def closed() -> list[Figure]:
    """Calls that are let through."""
    breaker, peer = CircuitBreaker(), circuitbreaker.CircuitBreaker(name="peer")
    sync = costs(
        {
            "plain": plain(work),
            "breaker closed, consecutive, sync": breaker(work),
            "breaker closed, count window": windowed()(work),
            "retry, first try succeeds, sync": RetryHandler()(work),
            "semaphore bulkhead": SemaphoreBulkhead()(work),
            "rate limit, granted": limited()(work),
            "  circuitbreaker, sync": peer(work),
            "  pybreaker, sync": pybreaker.CircuitBreaker()(work),
            "  backoff, sync": backoff.on_exception(backoff.expo, OSError, max_tries=3)(work),
            "  threading.Semaphore": bounded_by_peer(),
        }
    )
    slow = costs({"  limits, moving window": limited_by_peer()}, calls=1_000)
    tasks = async_costs(
        {
            "plain": aplain(awork),
            "breaker closed, consecutive, async": breaker(awork),
            "retry, first try succeeds, async": RetryHandler()(awork),
            "  circuitbreaker, async": peer(awork),
            "  backoff, async": backoff.on_exception(backoff.expo, OSError, max_tries=3)(awork),
        }
    )
    return [
        *_ratios(sync),
        *_ratios(slow | {"plain": sync["plain"]}),
        *_ratios(tasks),
    ]


def refused() -> list[Figure]:
    """Calls of an open breaker, caught by the caller."""
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1, timeout=3600.0))
    peer = circuitbreaker.CircuitBreaker(failure_threshold=1, recovery_timeout=3600, name="open")
    refusing, theirs = breaker(_fail), peer(_fail)
    for each in (refusing, theirs):
        _catching(each, ZeroDivisionError)(1)

    def bare(_number: int) -> int:
        raise CircuitBreakerError("circuit breaker", "OPEN", 3600.0)

    def bare_peer(_number: int) -> int:
        raise circuitbreaker.CircuitBreakerError(peer)

    ours = {
        "plain": _catching(bare, CircuitBreakerError),
        "open, reject / bare raise": _catching(refusing, CircuitBreakerError),
    }
    others = {
        "plain": _catching(bare_peer, circuitbreaker.CircuitBreakerError),
        "  circuitbreaker, open, reject / its own": _catching(
            theirs, circuitbreaker.CircuitBreakerError
        ),
    }
    return [*_ratios(costs(ours, calls=5_000)), *_ratios(costs(others, calls=5_000))]


def _fail(number: int) -> int:
    return number // 0


def _catching(func: Callable[[int], int], error: type[Exception]) -> Callable[[int], int]:
    def call(number: int) -> int:
        try:
            return func(number)
        except error:
            return 0

    return call


def throughput() -> list[Figure]:
    """Many threads through one breaker, each call a millisecond of waiting."""

    def rest(number: int) -> int:
        time.sleep(0.001)
        return number

    cases = {
        "plain": plain(rest),
        "ours": CircuitBreaker()(rest),
        "  circuitbreaker, 32 threads": circuitbreaker.CircuitBreaker(name="threads")(rest),
        "  pybreaker, 32 threads": pybreaker.CircuitBreaker()(rest),
    }
    rounds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(THREAD_ROUNDS):
        for name, func in cases.items():
            few = 1 if "pybreaker" in name else THREAD_CALLS  # one at a time takes its time
            rounds[name].append(_calls_a_second(func, few))
    best = {name: max(seen) for name, seen in rounds.items()}
    # A share that may not fall below its target is shown as the cost that may not exceed it.
    figures = [
        Figure(
            what=f"32 threads, 1 ms call: cost of a call (at most 1/{LEAST_THROUGHPUT})",
            value=best["plain"] / best["ours"],
            target=1 / LEAST_THROUGHPUT,
            unit="x",
        )
    ]
    return figures + [
        Figure(what=name, value=best["plain"] / seen, target=None, unit="x")
        for name, seen in best.items()
        if name.startswith(" ")
    ]


def _calls_a_second(func: Callable[[int], int], calls: int) -> float:
    ready = threading.Barrier(THREADS + 1)

    def run() -> None:
        ready.wait()
        for _ in range(calls):
            func(1)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return THREADS * calls / (time.perf_counter() - began)


def _ratios(seconds: dict[str, float]) -> list[Figure]:
    return [
        Figure(what=name, value=cost / seconds["plain"], target=TARGETS.get(name), unit="x")
        for name, cost in seconds.items()
        if name != "plain"
    ]


def rows() -> list[Figure]:
    """The figures, those with a target first."""
    figures = [*closed(), *refused(), *throughput()]
    return sorted(figures, key=lambda figure: figure.target is None)


if __name__ == "__main__":
    pin()
    logging.disable()
    raise SystemExit(show(rows()))

"""What a retry costs when the first attempt succeeds, and what a time limit costs.

`python benchmarks/retry.py`, with the `test` extra installed; takes a quarter of a minute.
Each figure is a ratio to a wrapper that does nothing: `functools.wraps` and a try/except.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

import backoff
import stamina
import tenacity

from figures import Figure
from figures import pin
from figures import show
from turns import async_costs
from turns import costs

from pytest_resilience.patterns import RetryBudget
from pytest_resilience.patterns import RetryConfig
from pytest_resilience.patterns import RetryHandler
from pytest_resilience.patterns import TimeLimiter


TARGET = 1.4


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


async def with_asyncio_timeout(number: int) -> int:
    async with asyncio.timeout(60):
        return await awork(number)


def in_a_thread(number: int) -> int:
    thread = threading.Thread(target=work, args=(number,))
    thread.start()
    thread.join()
    return number


def _block(handler: RetryHandler) -> Callable[[int], int]:
    def call(number: int) -> int:
        for attempt in handler:
            with attempt:
                work(number)
        return number

    return call


def rows() -> list[Figure]:
    """The figures, those with a target first."""
    handler = RetryHandler()
    counted = RetryHandler(RetryConfig(max_elapsed=60, budget=RetryBudget()))
    sync = costs(
        {
            "plain": plain(work),
            "retry, first try succeeds, sync": handler(work),
            "retry with max_elapsed and a budget, sync": counted(work),
            "retry by execute, sync": lambda number: handler.execute(work, number),
            "retry by a block, sync": _block(handler),
            "backoff, sync": backoff.on_exception(backoff.expo, OSError, max_tries=3)(work),
        }
    )
    slow = costs(
        {
            "tenacity, sync": tenacity.retry(stop=tenacity.stop_after_attempt(3))(work),
            "stamina, sync": stamina.retry(on=OSError, attempts=3)(work),
        },
        calls=1_000,
    )
    tasks = async_costs(
        {
            "plain": aplain(awork),
            "retry, first try succeeds, async": handler(awork),
            "retry with max_elapsed and a budget, async": counted(awork),
            "backoff, async": backoff.on_exception(backoff.expo, OSError, max_tries=3)(awork),
        }
    )
    limits = async_costs(
        {"plain": with_asyncio_timeout, "time limit / asyncio.timeout": TimeLimiter(60)(awork)},
        calls=2_000,
    )
    threads = costs(
        {"plain": in_a_thread, "time limit / a thread started and joined": TimeLimiter(60)(work)},
        calls=200,
    )
    figures = [
        *_figures(sync),
        *_figures(slow | {"plain": sync["plain"]}),
        *_figures(tasks),
        *_figures(limits),
        *_figures(threads),
    ]
    return sorted(figures, key=lambda figure: figure.target is None)


def _figures(seconds: dict[str, float]) -> list[Figure]:
    return [
        Figure(
            what=name,
            value=cost / seconds["plain"],
            target=TARGET if "first try succeeds" in name else None,
            unit="x",
        )
        for name, cost in seconds.items()
        if name != "plain"
    ]


if __name__ == "__main__":
    pin()
    logging.disable()
    raise SystemExit(show(rows()))

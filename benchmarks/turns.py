"""What calls cost beside one another: in turns, in one process, on one core."""

from __future__ import annotations

import asyncio
import gc
import time

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any


__all__ = ["async_costs", "costs"]

REPEATS = 41
CALLS = 20_000  # a repeat; enough for the clock, few enough for the neighbours' pauses


def costs(
    cases: dict[str, Callable[[int], Any]], *, calls: int = CALLS, repeats: int = REPEATS
) -> dict[str, float]:
    """Seconds a call, the least of all repeats, of functions of one argument."""

    def measure(func: Callable[[int], Any]) -> float:
        turns = range(calls)
        began = time.perf_counter()
        for _ in turns:
            func(1)
        return (time.perf_counter() - began) / calls

    best = dict.fromkeys(cases, float("inf"))
    gc.disable()
    try:
        for _ in range(repeats):
            for name, func in cases.items():
                best[name] = min(best[name], measure(func))
            gc.collect()
    finally:
        gc.enable()
    return best


def async_costs(
    cases: dict[str, Callable[[int], Awaitable[Any]]],
    *,
    calls: int = CALLS,
    repeats: int = REPEATS,
) -> dict[str, float]:
    """As `costs`, of coroutine functions, all in one running loop."""

    async def measure(func: Callable[[int], Awaitable[Any]]) -> float:
        turns = range(calls)
        began = time.perf_counter()
        for _ in turns:
            await func(1)
        return (time.perf_counter() - began) / calls

    async def story() -> dict[str, float]:
        best = dict.fromkeys(cases, float("inf"))
        for _ in range(repeats):
            for name, func in cases.items():
                best[name] = min(best[name], await measure(func))
            gc.collect()
        return best

    gc.disable()
    try:
        return asyncio.run(story())
    finally:
        gc.enable()

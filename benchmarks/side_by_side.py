"""What calls cost beside one another: in turns, in one process, on one core."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any


__all__ = ["async_ratios", "costs", "ratios"]

REPEATS = 41
CALLS = 20_000  # a repeat; enough for the clock, few enough for the neighbours' pauses
TURN = 0.001  # seconds that a turn of `ratios` is to take: less than a slice of the scheduler's
FEWEST = 50  # calls of a turn, however long they take
ROUNDS = 31

# Two functions of one argument: what is measured, and what it is held against.
Pair = tuple[Callable[[int], Any], Callable[[int], Any]]
AsyncPair = tuple[Callable[[int], Awaitable[Any]], Callable[[int], Awaitable[Any]]]


def costs(
    cases: dict[str, Callable[[int], Any]], *, calls: int = CALLS, repeats: int = REPEATS
) -> dict[str, float]:
    """Seconds a call, the least of all repeats, of functions of one argument."""
    best = dict.fromkeys(cases, float("inf"))
    gc.disable()
    try:
        for _ in range(repeats):
            for name, func in cases.items():
                best[name] = min(best[name], _measure(func, calls))
            gc.collect()
    finally:
        gc.enable()
    return best


def ratios(pairs: dict[str, Pair], *, rounds: int = ROUNDS) -> dict[str, float]:
    """How many times what it is held against each costs: the median of all rounds.

    Both halves of a pair are measured one right after the other, so that what slows the
    machine down slows both.
    """
    calls = {name: _fitting(_measure(func, 5)) for name, (func, _) in pairs.items()}
    seen: dict[str, list[float]] = {name: [] for name in pairs}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, (func, other) in pairs.items():
                taken = _measure(func, calls[name])
                seen[name].append(taken / _measure(other, calls[name]))
            gc.collect()
    finally:
        gc.enable()
    return {name: statistics.median(each) for name, each in seen.items()}


def async_ratios(pairs: dict[str, AsyncPair], *, rounds: int = ROUNDS) -> dict[str, float]:
    """As `ratios`, of coroutine functions, all in one running loop."""

    async def story() -> dict[str, list[float]]:
        calls = {name: _fitting(await _ameasure(func, 5)) for name, (func, _) in pairs.items()}
        seen: dict[str, list[float]] = {name: [] for name in pairs}
        for _ in range(rounds):
            for name, (func, other) in pairs.items():
                taken = await _ameasure(func, calls[name])
                seen[name].append(taken / await _ameasure(other, calls[name]))
            gc.collect()
        return seen

    gc.disable()
    try:
        seen = asyncio.run(story())
    finally:
        gc.enable()
    return {name: statistics.median(each) for name, each in seen.items()}


def _fitting(seconds: float) -> int:
    """Calls that fit into a turn."""
    return max(FEWEST, min(4000, int(TURN / seconds)))


def _measure(func: Callable[[int], Any], calls: int) -> float:
    turns = range(calls)
    began = time.perf_counter()
    for _ in turns:
        func(1)
    return (time.perf_counter() - began) / calls


async def _ameasure(func: Callable[[int], Awaitable[Any]], calls: int) -> float:
    turns = range(calls)
    began = time.perf_counter()
    for _ in turns:
        await func(1)
    return (time.perf_counter() - began) / calls

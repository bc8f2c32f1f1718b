"""The rate limit against the definition of a sliding window."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import Pipeline
from pytest_resilience.patterns import RateLimitBulkhead
from tests.patterns.ways import PoorListener


WINDOW = 8.0
MOMENT = 1e-6  # seconds; what rounding may add


async def begun() -> str:
    return "begun"


def acquired(bulkhead: RateLimitBulkhead) -> str:
    bulkhead.acquire()
    return "begun"


CALL: Any = Pipeline().call  # mypy cannot solve two of these, one inside the other
DOORS: dict[str, Callable[[RateLimitBulkhead], Any]] = {
    "acquire": acquired,
    "execute": lambda bulkhead: bulkhead.execute(lambda: "begun"),
    "execute a call": lambda bulkhead: bulkhead.execute(CALL, lambda: "begun"),
    "decorator": lambda bulkhead: bulkhead(lambda: "begun")(),
    "await execute": lambda bulkhead: asyncio.run(bulkhead.execute(begun)),
    "await execute a call": lambda bulkhead: asyncio.run(bulkhead.execute(CALL, begun)),
    "async decorator": lambda bulkhead: asyncio.run(bulkhead(begun)()),
}


def items(*_: object) -> Iterator[int]:
    yield 1


async def aitems(*_: object) -> AsyncIterator[int]:
    yield 1


async def walk(iterator: AsyncIterator[int]) -> str:
    async for _ in iterator:
        pass
    return "begun"


def acquired_at_once(bulkhead: RateLimitBulkhead, weight: int) -> str:
    bulkhead.acquire(weight)
    return "begun"


def in_a_block(bulkhead: RateLimitBulkhead, weight: int) -> str:
    with bulkhead.weighing(weight):
        return "begun"


async def in_an_async_block(bulkhead: RateLimitBulkhead, weight: int) -> str:
    async with bulkhead.weighing(weight):
        return await begun()


async def acquired_async(bulkhead: RateLimitBulkhead, weight: int) -> str:
    await bulkhead.acquire_async(weight)
    return "begun"


# Calls that count as several, by a number or by what the call is given.
HEAVY_DOORS: dict[str, Callable[[RateLimitBulkhead, int], Any]] = {
    "acquire": acquired_at_once,
    "acquire_async": lambda limit, weight: asyncio.run(acquired_async(limit, weight)),
    "with": in_a_block,
    "async with": lambda limit, weight: asyncio.run(in_an_async_block(limit, weight)),
    "execute": lambda limit, weight: limit.weighing(weight).execute(lambda: "begun"),
    "decorator": lambda limit, weight: limit.weighing(len)(lambda _: "begun")("x" * weight),
    "async decorator": lambda limit, weight: asyncio.run(limit.weighing(weight)(begun)()),
    "await execute": lambda limit, weight: asyncio.run(limit.weighing(weight).execute(begun)),
    "generator": lambda limit, weight: (
        "begun" * len(list(limit.weighing(len)(items)("x" * weight)))
    ),
    "async generator": lambda limit, weight: asyncio.run(
        walk(limit.weighing(len)(aitems)("x" * weight))
    ),
}


class RateLimitMachine(RuleBasedStateMachine):
    """Calls by every door, statistics asked for in between, time that passes or does not."""

    @initialize(limit=st.integers(1, 6), data=st.data())
    def begin(self, limit: int, data: st.DataObject) -> None:
        burst = data.draw(st.none() | st.integers(1, limit), label="burst")
        self.clock = ManualClock()
        self.limit = limit
        config = BulkheadConfig(max_concurrent=limit, window_size=WINDOW, burst=burst)
        self.bulkhead = RateLimitBulkhead(config, clock=self.clock)
        self.shares = [(limit, WINDOW)]
        if burst is not None:
            self.shares.append((burst, WINDOW * burst / limit))
        self.begun: list[float] = []
        self.rejected = 0
        self.heard: list[Event] = []
        self.bulkhead.listeners.add(PoorListener())
        self.bulkhead.listeners.add(self.heard.append)

    def allowed(self, now: float, weight: int = 1) -> bool:
        """No share of the window holds more than its share of the calls."""
        return all(
            sum(each > now - length for each in self.begun) + weight <= count
            for count, length in self.shares
        )

    @rule(seconds=st.floats(0, WINDOW) | st.sampled_from([1.0, WINDOW / 2, WINDOW, 10 * WINDOW]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(door=st.sampled_from(list(DOORS)))
    def a_call(self, door: str) -> None:
        now = self.clock.monotonic()
        try:
            assert DOORS[door](self.bulkhead) == "begun"
        except BulkheadRejectedError as rejected:
            self.rejected += 1
            assert not self.allowed(now)
            wait = rejected.retry_after
            assert wait is not None
            assert self.allowed(now + wait + MOMENT)
            assert wait < MOMENT or not self.allowed(now + wait - MOMENT)
        else:
            assert self.allowed(now)
            self.begun.append(now)

    @rule(weight=st.integers(1, 6), door=st.sampled_from(list(HEAVY_DOORS)))
    def a_call_with_a_weight(self, weight: int, door: str) -> None:
        now = self.clock.monotonic()
        if weight > min(count for count, _ in self.shares):
            with pytest.raises(ConfigurationError, match=r"^weight="):  # it would never begin
                HEAVY_DOORS[door](self.bulkhead, weight)
            return
        assert self.bulkhead.has_room(weight) == self.allowed(now, weight)
        try:
            assert HEAVY_DOORS[door](self.bulkhead, weight) == "begun"
        except BulkheadRejectedError as rejected:
            self.rejected += 1
            assert not self.allowed(now, weight)
            wait, in_use = rejected.retry_after, sum(each > now - WINDOW for each in self.begun)
            assert rejected.in_use == in_use  # noqa: PT017
            assert wait is not None
            assert self.allowed(now + wait + MOMENT, weight)
            assert wait < MOMENT or not self.allowed(now + wait - MOMENT, weight)
        else:
            assert self.allowed(now, weight)
            self.begun += [now] * weight

    @rule()
    def waiting_as_told_is_enough(self) -> None:
        try:
            self.bulkhead.acquire()
        except BulkheadRejectedError as rejected:
            self.rejected += 1
            self.clock.advance((rejected.retry_after or 0.0) + MOMENT)
            self.bulkhead.acquire()
        self.begun.append(self.clock.monotonic())

    @invariant()
    def the_counts_are_right(self) -> None:
        now, stats = self.clock.monotonic(), self.bulkhead.get_stats()
        current = sum(each > now - WINDOW for each in self.begun)
        assert stats["current_rate"] == current <= self.limit
        assert stats["total_requests"] == len(self.begun)
        assert stats["rejected_requests"] == self.rejected == len(self.heard)
        assert stats["utilization"] == pytest.approx(current / self.limit)


TestRateLimitMachine = RateLimitMachine.TestCase
TestRateLimitMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_a_weight_is_waited_for_as_a_call_is() -> None:
    clock = ManualClock()
    config = BulkheadConfig(max_concurrent=3, window_size=6.0, max_wait=6.0)
    limit = RateLimitBulkhead(config, clock=clock)
    limit.acquire()
    clock.advance(2.0)
    limit.acquire()
    with limit.weighing(2):
        assert clock.monotonic() == 6.0  # the first call has left the window
    with limit.weighing(3):
        assert clock.monotonic() == 12.0


async def async_items() -> AsyncIterator[int]:
    yield 1


def test_an_async_generator_waits_without_blocking_the_loop() -> None:
    """It sleeps by `asleep` of the clock, not by `sleep`."""

    class Clock:
        slept = 0.0

        def monotonic(self) -> float:
            return self.slept

        async def asleep(self, seconds: float) -> None:
            self.slept += seconds

    clock: Any = Clock()
    limit = RateLimitBulkhead(BulkheadConfig(1, window_size=8.0, max_wait=8.0), clock=clock)
    guarded = limit(async_items)
    assert inspect.isasyncgenfunction(guarded)
    for _ in range(2):
        asyncio.run(walk(guarded()))
    assert clock.slept == 8.0


@pytest.mark.parametrize("weight", [0, -1, 4, 2.0, "1", None])
def test_weights_that_make_no_sense(weight: Any) -> None:
    limit = RateLimitBulkhead(BulkheadConfig(3))
    calls: list[Callable[[], object]] = [
        lambda: limit.acquire(weight),
        lambda: limit.has_room(weight),
        lambda: limit.weighing(weight),
        lambda: limit.weighing(lambda: weight).execute(int),
    ]
    for call in calls:
        with pytest.raises((ConfigurationError, TypeError), match=r"^weight"):
            call()
    assert limit.get_stats()["total_requests"] == 0


def test_calls_of_many_threads_with_weights_never_exceed_the_limit() -> None:
    clock, together = ManualClock(), threading.Barrier(8, timeout=30)
    limit = RateLimitBulkhead(BulkheadConfig(1000, window_size=1.0), clock=clock)

    def caller(weight: int) -> int:
        together.wait()
        counted = 0
        for _ in range(500):
            with contextlib.suppress(BulkheadRejectedError):
                limit.acquire(weight)
                counted += weight
        return counted

    with ThreadPoolExecutor(8) as threads:
        counted = sum(threads.map(caller, [1, 2, 3, 1, 5, 1, 7, 1]))
    assert counted == limit.get_stats()["total_requests"] == 1000

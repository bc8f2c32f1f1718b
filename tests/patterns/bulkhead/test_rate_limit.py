"""The rate limit against the definition of a sliding window."""

from __future__ import annotations

import asyncio

from collections.abc import Callable
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
from pytest_resilience import ManualClock
from pytest_resilience import Pipeline
from pytest_resilience.patterns import RateLimitBulkhead


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

    def allowed(self, now: float) -> bool:
        """No share of the window holds more than its share of the calls."""
        return all(
            sum(each > now - length for each in self.begun) < count for count, length in self.shares
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
        assert stats["rejected_requests"] == self.rejected
        assert stats["utilization"] == pytest.approx(current / self.limit)


TestRateLimitMachine = RateLimitMachine.TestCase
TestRateLimitMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)

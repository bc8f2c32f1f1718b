"""Each pattern under many calls at once, with forks, cancellations and listeners.

By default a few hundred calls of each of 32 threads: seconds in all. With `--soak` it is 10^5 of
each, for each pattern, which takes long: `pytest -n 0 --soak` with this file.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import time

from collections import Counter
from collections import deque
from functools import partial
from typing import Any
from typing import ClassVar

import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import CircuitBreakerRegistry
from pytest_resilience import CircuitState
from pytest_resilience import DegradationManager
from pytest_resilience import DuplicateNameError
from pytest_resilience import FeatureFlag
from pytest_resilience import Hedging
from pytest_resilience import HedgingConfig
from pytest_resilience import ManualClock
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import RetryBudget
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import ThreadPoolBulkhead
from pytest_resilience import TimeLimiter
from pytest_resilience import TimeLimitExceededError
from pytest_resilience import UnknownNameError
from pytest_resilience.patterns import BulkheadManager
from pytest_resilience.patterns import BulkheadRejection
from pytest_resilience.patterns import BulkheadType
from pytest_resilience.patterns import CircuitRejection
from pytest_resilience.patterns import CircuitTransition
from pytest_resilience.patterns import FellBack
from pytest_resilience.patterns import HedgeStarted
from pytest_resilience.patterns import LevelChanged
from pytest_resilience.patterns import Pipeline
from pytest_resilience.patterns import RetryAborted
from pytest_resilience.patterns import RetryGaveUp
from pytest_resilience.patterns import RetryScheduled
from pytest_resilience.patterns import RetrySucceeded
from pytest_resilience.patterns import ServiceLevel
from pytest_resilience.patterns import TimeLimitExceeded
from tests.end_to_end.patterns.soak import THREADS
from tests.end_to_end.patterns.soak import CallFailedError
from tests.end_to_end.patterns.soak import Story
from tests.end_to_end.patterns.soak import aoutcome_of
from tests.end_to_end.patterns.soak import outcome_of
from tests.end_to_end.patterns.soak import soak


FEW, MANY = 120, 10**5  # calls of each thread
REJECTED = "CircuitBreakerError"
FULL = "BulkheadRejectedError"


class BreakerStory(Story):
    failing = 0.3
    config: ClassVar[dict[str, Any]] = {"failure_threshold": 3}

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.breaker: Any = CircuitBreaker(
            CircuitBreakerConfig(
                success_threshold=3, timeout=1.0, expected_exception=CallFailedError, **self.config
            ),
            clock=self.clock,
        )
        self.breaker._circuit.journal.latest = deque()  # all of them
        self.decorated, self.adecorated = self.breaker(self.work), self.breaker(self.awork)

    @property
    def listeners(self) -> Any:
        return self.breaker.listeners

    def work(self, chance: random.Random) -> str:
        if chance.random() < 0.05:
            self.clock.advance(0.05)
        return super().work(chance)

    def by_block(self, chance: random.Random) -> str:
        with self.breaker:
            return self.work(chance)

    def by_permit(self, chance: random.Random) -> str:
        permit = self.breaker.acquire()
        try:
            result = self.work(chance)
        except CallFailedError as error:
            permit.raised(error)
            raise
        permit.returned(result)
        return result

    async def aby_block(self, chance: random.Random) -> str:
        async with self.breaker:
            return await self.awork(chance)

    def call(self, chance: random.Random) -> None:
        way: Any = chance.choice(
            [self.decorated, partial(self.breaker.call, self.work), self.by_block, self.by_permit]
        )
        self.end(outcome_of(lambda: way(chance), CircuitBreakerError))

    async def acall(self, chance: random.Random) -> None:
        way: Any = chance.choice(
            [self.adecorated, partial(self.breaker.call, self.awork), self.aby_block]
        )
        self.end(await aoutcome_of(lambda: way(chance), CircuitBreakerError))

    def end(self, outcome: str) -> None:
        self.ended.append(outcome)
        if outcome == REJECTED:
            self.clock.advance(0.01)

    def in_child(self) -> None:
        self.clock.advance(1000)
        for _ in range(3):
            if self.breaker.state is not CircuitState.CLOSED:
                assert self.breaker.call(str, "fine") == "fine"
        assert self.breaker.state is CircuitState.CLOSED
        assert asyncio.run(self.breaker.call(asyncio.sleep, 0, "fine")) == "fine"
        with self.breaker:
            assert self.breaker.get_stats()["state"] == "CLOSED"

    def check(self) -> None:
        journal = list(self.breaker.transitions)
        assert len(journal) > 3
        assert journal[0].old is CircuitState.CLOSED
        assert all(one.new is two.old for one, two in itertools.pairwise(journal))
        assert [each for each in self.heard if isinstance(each, CircuitTransition)] == journal
        rejections = [each for each in self.heard if isinstance(each, CircuitRejection)]
        assert len(rejections) == self.count(REJECTED)
        self.in_child()  # it is not stuck


class CountWindowStory(BreakerStory):
    config: ClassVar[dict[str, Any]] = {
        "failure_rate_threshold": 0.2,
        "window_size": 20,
        "minimum_calls": 5,
    }


class TimeWindowStory(BreakerStory):
    config: ClassVar[dict[str, Any]] = {
        "failure_rate_threshold": 0.1,
        "window_seconds": 1.0,
        "minimum_calls": 5,
    }


class SlowCallStory(BreakerStory):
    config: ClassVar[dict[str, Any]] = {
        "slow_call_duration": 0.04, "slow_call_rate_threshold": 0.1, "window_seconds": 1.0,
        "minimum_calls": 5,
    }  # fmt: skip


class RetryStory(Story):
    failing = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget(0.2, reserve=0.0, capacity=1e9)
        config = RetryConfig(
            max_attempts=4,
            base_delay=0.01,
            retryable_exceptions=(CallFailedError,),
            budget=self.budget,
        )
        self.handler: Any = RetryHandler(config, clock=ManualClock())
        self.attempts: list[None] = []
        self.begun: list[None] = []
        self.decorated, self.adecorated = self.handler(self.work), self.handler(self.awork)

    @property
    def listeners(self) -> Any:
        return self.handler.listeners

    def work(self, chance: random.Random) -> str:
        self.attempts.append(None)
        return super().work(chance)

    def by_block(self, chance: random.Random) -> str:
        for attempt in self.handler:
            with attempt:
                return self.work(chance)
        raise AssertionError

    async def aby_block(self, chance: random.Random) -> str:
        async for attempt in self.handler:
            with attempt:
                return await self.awork(chance)
        raise AssertionError

    def call(self, chance: random.Random) -> None:
        self.begun.append(None)
        way: Any = chance.choice(
            [self.decorated, partial(self.handler.execute, self.work), self.by_block]
        )
        self.ended.append(outcome_of(lambda: way(chance), RetryExhaustedError))

    async def acall(self, chance: random.Random) -> None:
        self.begun.append(None)
        way: Any = chance.choice(
            [self.adecorated, partial(self.handler.execute, self.awork), self.aby_block]
        )
        self.ended.append(await aoutcome_of(lambda: way(chance), RetryExhaustedError))

    def in_child(self) -> None:
        outcomes = iter([CallFailedError, None])

        def flaky() -> str:
            error = next(outcomes)
            if error is not None:
                raise error
            return "fine"

        self.budget.deposit()
        while self.budget.tokens < 1:
            self.budget.deposit()
        assert self.handler.execute(flaky) == "fine"

    def check(self) -> None:
        calls: dict[int, list[type]] = {}
        for event in self.heard:
            calls.setdefault(event.call, []).append(type(event))  # type: ignore[attr-defined]
        ends = {RetrySucceeded, RetryAborted, RetryGaveUp}
        for kinds in calls.values():
            *before, last = kinds
            assert set(before) <= {RetryScheduled}
            assert last in ends
        total = Counter(map(type, self.heard))
        assert total[RetryGaveUp] == self.count("RetryExhaustedError") > 0
        assert self.budget.tokens == pytest.approx(
            0.2 * len(self.begun) - total[RetryScheduled], abs=1e-3
        )
        assert len(self.handler.events) <= 1000


class SemaphoreStory(Story):
    most = 4
    max_wait = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.places: Any = SemaphoreBulkhead(
            BulkheadConfig(max_concurrent=self.most, max_wait=self.max_wait)
        )
        self.inside: list[int] = []
        self.crowded: list[int] = []
        self.decorated, self.adecorated = self.places(self.work), self.places(self.awork)

    @property
    def listeners(self) -> Any:
        return self.places.listeners

    def work(self, chance: random.Random) -> str:
        self.inside.append(1)
        try:
            if len(self.inside) > self.most:
                self.crowded.append(len(self.inside))
            return super().work(chance)
        finally:
            self.inside.pop()

    async def awork(self, chance: random.Random) -> str:
        self.inside.append(1)
        try:
            if len(self.inside) > self.most:
                self.crowded.append(len(self.inside))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            return super().work(chance)
        finally:
            self.inside.pop()

    def by_block(self, chance: random.Random) -> str:
        with self.places:
            return self.work(chance)

    async def aby_block(self, chance: random.Random) -> str:
        async with self.places:
            return await self.awork(chance)

    async def returned(self, chance: random.Random) -> Any:
        return await self.places.execute(lambda: self.awork(chance))

    def call(self, chance: random.Random) -> None:
        way: Any = chance.choice(
            [self.decorated, partial(self.places.execute, self.work), self.by_block]
        )
        self.ended.append(outcome_of(lambda: way(chance), BulkheadRejectedError))

    async def acall(self, chance: random.Random) -> None:
        ways = [self.adecorated, partial(self.places.execute, self.awork), self.aby_block]
        if not self.max_wait:  # until it is called nobody knows that it is async: a thread waits
            ways.append(self.returned)
        way: Any = chance.choice(ways)
        self.ended.append(await aoutcome_of(lambda: way(chance), BulkheadRejectedError))

    def in_child(self) -> None:
        for _ in range(self.most):
            self.places.acquire()
        with pytest.raises(BulkheadRejectedError):
            SemaphoreBulkhead.execute(self.places, str) if not self.max_wait else _reject()
        for _ in range(self.most):
            self.places.release()
        assert self.places.execute(str, "fine") == "fine"
        assert asyncio.run(self.places.execute(asyncio.sleep, 0, "fine")) == "fine"

    def check(self) -> None:
        assert self.crowded == []
        stats = self.places.get_stats()
        assert (stats["active_count"], stats["waiting_count"]) == (0, 0)
        rejected = [each for each in self.heard if isinstance(each, BulkheadRejection)]
        assert stats["total_rejected"] == len(rejected) == self.count(FULL)
        if not self.max_wait:
            assert rejected
        self.in_child()


def _reject() -> None:
    raise BulkheadRejectedError("nobody waits for ever in a child", 0, 0, "")


class WaitingSemaphoreStory(SemaphoreStory):
    share = 0.1
    max_wait = 60.0

    def in_child(self) -> None:
        for _ in range(self.most):
            self.places.acquire()
        for _ in range(self.most):
            self.places.release()
        assert asyncio.run(self.places.execute(asyncio.sleep, 0, "fine")) == "fine"


class ThreadPoolStory(Story):
    share = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.pool: Any = ThreadPoolBulkhead(BulkheadConfig(max_concurrent=4, queue_size=6))
        self.ran: list[None] = []
        self.never: list[None] = []
        self.decorated = self.pool(self.work)

    @property
    def listeners(self) -> Any:
        return self.pool.listeners

    def work(self, chance: random.Random) -> str:
        self.ran.append(None)
        return super().work(random.Random(chance.random()))

    def by_future(self, chance: random.Random) -> Any:
        future = self.pool.submit(self.work, chance)
        if chance.random() < 0.5 and future.cancel():
            self.never.append(None)
            return "fine"
        return future.result()

    def call(self, chance: random.Random) -> None:
        way: Any = chance.choice(
            [self.decorated, partial(self.pool.execute, self.work), self.by_future]
        )
        self.ended.append(outcome_of(lambda: way(chance), BulkheadRejectedError))

    async def acall(self, chance: random.Random) -> None:
        call = partial(self.pool.execute_async, self.work, chance)
        self.ended.append(await aoutcome_of(call, BulkheadRejectedError))

    def in_child(self) -> None:
        assert [self.pool.execute(str, each) for each in "abc"] == ["a", "b", "c"]
        assert asyncio.run(self.pool.execute_async(str, "fine")) == "fine"

    def check(self) -> None:
        assert self.pool.execute(str, "fine") == "fine"
        self.pool.shutdown()
        stats = self.pool.get_stats()
        assert (stats["active_tasks"], stats["queued_tasks"]) == (0, 0)
        assert stats["completed_tasks"] == len(self.ran) + 1
        rejected = [each for each in self.heard if isinstance(each, BulkheadRejection)]
        assert stats["rejected_tasks"] == len(rejected) == self.count(FULL) > 0


class RateLimitStory(Story):
    most, window = 50, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.limit: Any = RateLimitBulkhead(
            BulkheadConfig(max_concurrent=self.most, window_size=self.window), clock=self.clock
        )
        self.granted: list[None] = []
        self.decorated, self.adecorated = self.limit(self.work), self.limit(self.awork)

    @property
    def listeners(self) -> Any:
        return self.limit.listeners

    def work(self, chance: random.Random) -> str:
        self.granted.append(None)
        if chance.random() < 0.05:
            self.clock.advance(0.001)
        return super().work(chance)

    def by_block(self, chance: random.Random) -> str:
        with self.limit:
            return self.work(chance)

    async def aby_block(self, chance: random.Random) -> str:
        async with self.limit:
            return self.work(chance)

    async def awork(self, chance: random.Random) -> str:
        return self.work(chance)

    def call(self, chance: random.Random) -> None:
        way: Any = chance.choice(
            [self.decorated, partial(self.limit.execute, self.work), self.by_block]
        )
        self.end(outcome_of(lambda: way(chance), BulkheadRejectedError))

    async def acall(self, chance: random.Random) -> None:
        way: Any = chance.choice(
            [self.adecorated, partial(self.limit.execute, self.awork), self.aby_block]
        )
        self.end(await aoutcome_of(lambda: way(chance), BulkheadRejectedError))

    def end(self, outcome: str) -> None:
        self.ended.append(outcome)
        if outcome == FULL:
            self.clock.advance(0.001)

    def in_child(self) -> None:
        self.clock.advance(10)
        for _ in range(self.most):
            assert self.limit.execute(str, "fine") == "fine"
        with pytest.raises(BulkheadRejectedError):
            self.limit.acquire()

    def check(self) -> None:
        stats, elapsed = self.limit.get_stats(), self.clock.monotonic()
        assert stats["total_requests"] == len(self.granted)
        assert len(self.granted) <= self.most * (elapsed / self.window + 1)
        rejected = [each for each in self.heard if isinstance(each, BulkheadRejection)]
        assert stats["rejected_requests"] == len(rejected) == self.count(FULL) > 0
        self.in_child()


class TimeLimitStory(Story):
    share = 0.1  # a thread for each call

    def __init__(self) -> None:
        super().__init__()
        self.limiter: Any = TimeLimiter(300)
        self.clock = ManualClock()
        self.late = TimeLimiter(1.0, clock=self.clock)  # by whose clock other calls take long
        self.decorated, self.adecorated = self.limiter(self.work), self.limiter(self.awork)

    @property
    def listeners(self) -> Any:
        return self.late.listeners

    def call(self, chance: random.Random) -> None:
        if chance.random() < 0.2:
            call = partial(self.late.execute, self.clock.advance, 2.0)
            self.ended.append(outcome_of(call, TimeLimitExceededError))
            return
        way: Any = chance.choice([self.decorated, partial(self.limiter.execute, self.work)])
        self.ended.append(outcome_of(lambda: way(chance)))

    async def acall(self, chance: random.Random) -> None:
        async def block(chance: random.Random) -> str:
            async with self.limiter:
                return await self.awork(chance)

        way: Any = chance.choice(
            [self.adecorated, partial(self.limiter.execute, self.awork), block]
        )
        self.ended.append(await aoutcome_of(lambda: way(chance)))

    def in_child(self) -> None:
        assert self.limiter.overdue == ()
        assert self.limiter.execute(str, "fine") == "fine"
        assert asyncio.run(self.limiter.execute(asyncio.sleep, 0, "fine")) == "fine"

    def check(self) -> None:
        assert self.limiter.overdue == self.late.overdue == ()
        exceeded = [each for each in self.heard if isinstance(each, TimeLimitExceeded)]
        assert len(exceeded) == self.count("TimeLimitExceededError") > 0


class HedgingStory(Story):
    share = 0.1  # a thread for each attempt
    failing = 0.3

    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget(0.5, reserve=0.0, capacity=1e9)
        # Another attempt after a failure; or all of them at once, whose losers run on.
        self.hedging: Any = Hedging(
            HedgingConfig(delay=math.inf, max_attempts=3, budget=self.budget)
        )
        self.eager: Any = Hedging(HedgingConfig(delay=0.0))
        self.decorated, self.adecorated = self.hedging(self.work), self.hedging(self.awork)

    @property
    def listeners(self) -> Any:
        return self.hedging.listeners

    def call(self, chance: random.Random) -> None:
        way: Any = chance.choice(
            [
                self.decorated,
                partial(self.hedging.execute, self.work),
                partial(self.eager.execute, self.work),
            ]
        )
        self.ended.append(outcome_of(lambda: way(chance)))

    async def acall(self, chance: random.Random) -> None:
        way: Any = chance.choice(
            [
                self.adecorated,
                partial(self.hedging.execute, self.awork),
                partial(self.eager.execute, self.awork),
            ]
        )
        self.ended.append(await aoutcome_of(lambda: way(chance)))

    def in_child(self) -> None:
        assert self.hedging.get_stats()["running_attempts"] == 0
        assert self.hedging.execute(str, "fine") == "fine"
        assert asyncio.run(self.eager.execute(asyncio.sleep, 0, "fine")) == "fine"

    def check(self) -> None:
        stats = self.hedging.get_stats()
        assert {type(each) for each in self.heard} == {HedgeStarted}
        assert stats["total_hedges"] == len(self.heard)
        assert 0 < stats["won_by_hedges"] <= stats["total_hedges"]
        assert self.budget.tokens == pytest.approx(
            0.5 * stats["total_calls"] - stats["total_hedges"], abs=1e-3
        )
        assert stats["running_attempts"] == 0
        while self.eager.get_stats()["running_attempts"]:
            time.sleep(0)  # until those that have lost are over
        self.in_child()


class DegradationStory(Story):
    share = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.manager = DegradationManager(
            health_check_cache=1.0, recovery_time=0.1, clock=self.clock
        )
        self.well = True
        self.manager.register_feature(
            FeatureFlag(
                "checked", health_check=lambda: self.well, expected_exception=(CallFailedError,)
            )
        )
        self.manager.register_feature(
            FeatureFlag("unchecked", expected_exception=(CallFailedError,))
        )

    @property
    def listeners(self) -> Any:
        return self.manager.listeners

    def work(self, chance: random.Random) -> str:
        if chance.random() < 0.05:
            self.clock.advance(0.05)
        if chance.random() < 0.05:
            raise KeyError  # of the caller's
        return super().work(chance)

    def call(self, chance: random.Random) -> None:
        name = chance.choice(["checked", "unchecked", "unchecked"])
        execute = partial(self.manager.execute_with_degradation, name)
        self.end(outcome_of(lambda: _named(execute(lambda: self.work(chance), _second)), KeyError))

    async def acall(self, chance: random.Random) -> None:
        async def primary() -> str:  # that a lambda is async nobody knows before it is called
            return await self.awork(chance)

        async def call() -> str:
            return _named(await execute(primary, _second))

        name = chance.choice(["checked", "unchecked", "unchecked"])
        execute = partial(self.manager.execute_with_degradation, name)
        self.end(await aoutcome_of(call, KeyError))

    def end(self, outcome: str) -> None:
        self.ended.append(outcome)
        self.clock.advance(0.001)

    def in_child(self) -> None:
        self.clock.advance(1000)
        for name in ("checked", "unchecked"):
            found = [self.manager.execute_with_degradation(name, _first, _second) for _ in "12"]
            assert found[1] == "fine"
            assert self.manager.check_service_health(name) is ServiceLevel.FULL

    def check(self) -> None:
        for name in ("checked", "unchecked"):
            levels = [
                each
                for each in self.heard
                if isinstance(each, LevelChanged) and each.source == name
            ]
            assert levels
            assert all(one.new is two.old for one, two in itertools.pairwise(levels))
        fell_back = [each for each in self.heard if isinstance(each, FellBack)]
        status = self.manager.get_service_status()["services"]
        assert len(fell_back) == sum(each["fallbacks"] for each in status.values())
        self.in_child()


def _first() -> str:
    return "fine"


def _second() -> str:
    return "second"


def _named(result: str) -> str:
    assert result in ("fine", "second")
    return "fine"


class PipelineStory(Story):
    def __init__(self) -> None:
        super().__init__()
        clock = self.clock = ManualClock()
        self.retry = RetryHandler(
            RetryConfig(max_attempts=3, base_delay=0.01, retryable_exceptions=(CallFailedError,)),
            clock=clock,
        )
        self.breaker: Any = CircuitBreaker(
            CircuitBreakerConfig(
                failure_threshold=4, timeout=1.0, expected_exception=CallFailedError
            ),
            clock=clock,
        )
        self.places: Any = SemaphoreBulkhead(BulkheadConfig(4))
        self.pipeline: Any = Pipeline(self.retry, self.breaker, self.places)
        self.attempts: list[None] = []
        self.decorated, self.adecorated = self.pipeline(self.work), self.pipeline(self.awork)

    @property
    def listeners(self) -> Any:
        return self.retry.listeners

    def work(self, chance: random.Random) -> str:
        self.attempts.append(None)
        return super().work(chance)

    def call(self, chance: random.Random) -> None:
        way: Any = chance.choice([self.decorated, partial(self.pipeline.call, self.work)])
        self.end(outcome_of(lambda: way(chance), *self.refusals))

    async def acall(self, chance: random.Random) -> None:
        way: Any = chance.choice([self.adecorated, partial(self.pipeline.call, self.awork)])
        self.end(await aoutcome_of(lambda: way(chance), *self.refusals))

    refusals = (CircuitBreakerError, BulkheadRejectedError, RetryExhaustedError)

    def end(self, outcome: str) -> None:
        self.ended.append(outcome)
        if outcome == REJECTED:
            self.clock.advance(0.1)

    def in_child(self) -> None:
        self.clock.advance(1000)
        for _ in range(3):
            assert self.pipeline.call(str, "fine") == "fine"
        assert asyncio.run(self.pipeline.call(asyncio.sleep, 0, "fine")) == "fine"
        assert self.breaker.state is CircuitState.CLOSED

    def check(self) -> None:
        assert self.places.get_stats()["active_count"] == 0
        assert self.places.get_stats()["total_acquired"] >= len(self.attempts)
        assert "fine" in self.ended
        self.in_child()


class RegistriesStory(Story):
    def __init__(self) -> None:
        super().__init__()
        self.registry, self.manager = CircuitBreakerRegistry(), BulkheadManager()
        self.created: list[str] = []
        self.removed: list[str] = []

    @property
    def listeners(self) -> None:
        return None

    def call(self, chance: random.Random) -> None:
        name = chance.choice("abcdefgh")
        config = BulkheadConfig(bulkhead_type=chance.choice(list(BulkheadType)))
        do = chance.choice(["create", "get", "get or create", "remove", "all", "bulkhead", "use"])
        try:
            if do == "create":
                self.registry.create(name)
                self.created.append(name)
            elif do == "get":
                assert self.registry.get(name).name == name
            elif do == "get or create":
                assert self.registry.get_or_create(name).call(str, "fine") == "fine"
            elif do == "remove":
                self.registry.remove(name)
                self.removed.append(name)
            elif do == "all":
                assert set(self.registry.get_all_stats()) <= set("abcdefgh")
                assert set(self.registry.names) <= set("abcdefgh")
                assert set(self.manager.get_all_stats()) <= set("abcdefgh")
            elif do == "bulkhead":
                self.manager.create_bulkhead(name, config)
            else:
                assert self.manager.get_bulkhead(name).execute(str, "fine") == "fine"
        except (DuplicateNameError, UnknownNameError, BulkheadRejectedError) as error:
            self.ended.append(type(error).__name__)
        else:
            self.ended.append("fine")

    async def acall(self, chance: random.Random) -> None:
        await asyncio.sleep(0)
        self.call(chance)

    def in_child(self) -> None:
        breaker = self.registry.get_or_create("of a child")
        assert breaker.call(str, "fine") == "fine"
        self.manager.create_bulkhead("of a child")
        assert self.manager.get_bulkhead("of a child").execute(str, "fine") == "fine"
        assert self.registry.get_all_stats().keys() >= {"of a child"}

    def check(self) -> None:
        assert {"fine", "DuplicateNameError", "UnknownNameError"} <= set(self.ended)
        assert len(self.ended) >= THREADS
        self.in_child()
        self.manager.shutdown_all()


STORIES: list[type[Story]] = [
    BreakerStory, CountWindowStory, TimeWindowStory, SlowCallStory, RetryStory, SemaphoreStory,
    WaitingSemaphoreStory, ThreadPoolStory, RateLimitStory, TimeLimitStory, HedgingStory,
    DegradationStory, PipelineStory, RegistriesStory,
]  # fmt: skip


@pytest.mark.may_block("threads contend for the locks, each of which is held for a moment")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("story", STORIES, ids=lambda each: each.__name__.removesuffix("Story"))
def test_many_calls_at_once(story: type[Story], request: pytest.FixtureRequest) -> None:
    soak(story(), MANY if request.config.getoption("--soak") else FEW)

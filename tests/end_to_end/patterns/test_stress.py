"""Many threads, and many tasks that are cancelled: what must hold, holds at every moment."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import threading

from collections import Counter
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import ManualClock
from pytest_resilience import RetryBudget
from pytest_resilience.patterns import RateLimitBulkhead
from pytest_resilience.patterns import SemaphoreBulkhead
from pytest_resilience.patterns.circuit_breaker.wrappers import Permit


THREADS = 32
CALLS = 3125  # of each thread: 10^5 in all


@pytest.fixture(autouse=True)
def hasty_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(caller: Callable[[int], None]) -> None:
    """All begin at once; the first error of any is raised."""
    together = threading.Barrier(THREADS, timeout=30)

    def begin(number: int) -> None:
        together.wait()
        caller(number)

    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(begin, range(THREADS)):
            pass


def make_breaker(clock: ManualClock, **config: float) -> CircuitBreaker:
    settings = {"failure_threshold": 3, "success_threshold": 3, "timeout": 1.0} | config
    return CircuitBreaker(CircuitBreakerConfig(**settings), clock=clock)  # type: ignore[arg-type]


class Inside:
    """How many calls are inside at once, at most, by the stay in a state that let them in."""

    def __init__(self) -> None:
        self._now: Counter[Any] = Counter()
        self.most: Counter[Any] = Counter()
        self._lock = threading.Lock()

    def entered(self, permit: Permit) -> None:
        assert permit._permit is not None
        state, _ = permit._permit
        with self._lock:
            self._now[state] += 1
            self.most[state] = max(self.most[state], self._now[state])

    def left(self, permit: Permit) -> None:
        assert permit._permit is not None
        with self._lock:
            self._now[permit._permit[0]] -= 1


@pytest.mark.parametrize("budget", [1, 3])
def test_no_more_trial_calls_in_progress_than_allowed(budget: int) -> None:
    """Counted from outside, by who is inside; calls end well, badly, or are given up."""
    clock = ManualClock()
    breaker = make_breaker(clock, half_open_max_calls=budget)
    circuit, inside = breaker._circuit, Inside()
    circuit.journal.latest = deque()  # all of it

    def caller(number: int) -> None:
        chance = random.Random(number)
        for _ in range(CALLS):
            try:
                permit = breaker.acquire()
            except CircuitBreakerError as rejected:
                if rejected.state == "OPEN":
                    clock.advance(0.01)
                continue
            inside.entered(permit)
            inside.left(permit)
            end = chance.choices(["returned", "raised", "release"], [4, 2, 1])[0]
            arguments = {"returned": (None,), "raised": (OSError(),), "release": ()}[end]
            getattr(permit, end)(*arguments)

    in_threads(caller)
    changes = list(circuit.journal.latest)
    for before, after in itertools.pairwise(changes):
        assert after.old is before.new
    half_open = [most for state, most in inside.most.items() if state.kind.value == "HALF_OPEN"]
    assert len(half_open) > 10
    assert max(half_open) <= budget
    assert 0 <= breaker.get_stats()["success_count"] < 3


def test_a_window_loses_and_doubles_nothing() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker(
        CircuitBreakerConfig(failure_rate_threshold=1.0, window_size=10**6, minimum_calls=10**6),
        clock=clock,
    )

    @breaker
    def call(fails: bool) -> None:
        if fails:
            raise OSError

    def caller(number: int) -> None:
        for turn in range(CALLS):
            with contextlib.suppress(OSError):
                call((number + turn) % 5 == 0)

    in_threads(caller)
    stats = breaker.get_stats()
    assert stats["window_calls"] == THREADS * CALLS
    assert stats["failure_count"] == THREADS * CALLS // 5


def test_a_time_window_loses_and_doubles_nothing() -> None:
    """Where most successes are counted without the lock, and time goes on meanwhile."""
    clock = ManualClock()
    breaker = CircuitBreaker(
        CircuitBreakerConfig(failure_rate_threshold=1.0, window_seconds=1000.0), clock=clock
    )

    @breaker
    def call(fails: bool) -> None:
        if fails:
            raise OSError

    def caller(number: int) -> None:
        for turn in range(CALLS):
            if (number + turn) % 50 == 0:
                clock.advance(0.1)
            with contextlib.suppress(OSError):
                call((number + turn) % 25 == 1)

    in_threads(caller)
    stats = breaker.get_stats()
    assert stats["window_calls"] == THREADS * CALLS
    assert stats["failure_count"] == THREADS * CALLS // 25


@pytest.mark.parametrize("max_wait", [0.0, 60.0])
def test_a_semaphore_is_never_over_its_capacity(max_wait: float) -> None:
    bulkhead = SemaphoreBulkhead(BulkheadConfig(max_concurrent=4, max_wait=max_wait))
    lock = threading.Lock()
    inside = most = made = 0

    @bulkhead
    def call() -> None:
        nonlocal inside, most, made
        with lock:
            inside, made = inside + 1, made + 1
            most = max(most, inside)
        with lock:
            inside -= 1

    rejected = [0] * THREADS
    calls = CALLS // 4 if max_wait else CALLS  # nearly all of which wait, and thus take longer

    def caller(number: int) -> None:
        for _ in range(calls):
            try:
                call()
            except BulkheadRejectedError:
                rejected[number] += 1

    in_threads(caller)
    assert 1 <= most <= 4
    stats = bulkhead.get_stats()
    assert stats["active_count"] == stats["waiting_count"] == 0
    assert stats["total_acquired"] == made == THREADS * calls - sum(rejected)
    assert stats["total_rejected"] == sum(rejected)
    assert sum(rejected) == 0 or max_wait == 0.0


def test_a_rate_limit_is_never_over_its_rate() -> None:
    """The clock moves while threads call: each window holds what it may, none more."""
    clock = ManualClock()
    limit, window = 50, 1.0
    bulkhead = RateLimitBulkhead(
        BulkheadConfig(max_concurrent=limit, window_size=window), clock=clock
    )
    granted: list[float] = []  # append is atomic; read before the call: never later than it

    @bulkhead
    def call() -> None:
        granted.append(clock.monotonic())

    rejected = [0] * THREADS

    def caller(number: int) -> None:
        for turn in range(CALLS):
            if turn % 25 == number % 25:
                clock.advance(0.001)
            try:
                call()
            except BulkheadRejectedError:
                rejected[number] += 1

    in_threads(caller)
    assert len(granted) + sum(rejected) == THREADS * CALLS
    elapsed = clock.monotonic()
    assert limit <= len(granted) <= limit * (elapsed / window + 1)
    assert bulkhead.get_stats()["total_requests"] == len(granted)
    assert bulkhead.get_stats()["rejected_requests"] == sum(rejected)


def test_a_retry_budget_is_never_overspent() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.0, reserve=1.0, capacity=1000.0, clock=clock)
    clock.advance(1000)
    spent = [0] * THREADS

    def caller(number: int) -> None:
        for _ in range(CALLS):
            spent[number] += budget.withdraw()

    in_threads(caller)
    assert sum(spent) == 1000
    assert budget.tokens == pytest.approx(0.0)


def test_cancelled_tasks_leave_nothing_behind() -> None:
    """A breaker and a semaphore around 2000 tasks, most of them cancelled at any point."""
    clock = ManualClock()
    breaker = make_breaker(clock, failure_threshold=10**9)
    bulkhead = SemaphoreBulkhead(BulkheadConfig(max_concurrent=5, max_wait=60.0))
    chance = random.Random(3)
    inside = most = failures = 0

    @bulkhead
    @breaker
    async def call(steps: int) -> None:
        nonlocal inside, most, failures
        inside += 1
        most = max(most, inside)
        try:
            for _ in range(steps):
                await asyncio.sleep(0)
            if steps == 3:
                failures += 1
                raise OSError
        finally:
            inside -= 1

    async def story() -> None:
        for _ in range(100):
            tasks = [asyncio.create_task(call(chance.randrange(4))) for _ in range(20)]
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            for task in tasks:
                if chance.random() < 0.7:
                    task.cancel()
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)

    asyncio.run(story())
    assert 1 <= most <= 5
    assert inside == 0
    stats = bulkhead.get_stats()
    assert (stats["active_count"], stats["waiting_count"]) == (0, 0)
    assert failures > 0
    assert breaker.state.value == "CLOSED"


def test_cancelled_trial_calls_return_their_slots() -> None:
    clock = ManualClock()
    breaker = make_breaker(clock, failure_threshold=1, success_threshold=2)
    chance = random.Random(5)
    inside = most = 0

    @breaker
    async def call() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            inside -= 1

    async def break_it() -> None:
        with pytest.raises(OSError):
            await breaker.call(_broken)
        clock.advance(1.0)

    async def story() -> None:
        for _ in range(200):
            await break_it()
            tasks = [asyncio.create_task(call()) for _ in range(8)]
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # Not stuck, and no slot is lost: two are needed to close it.
            assert breaker.state.value in ("OPEN", "HALF_OPEN")
            await asyncio.gather(call(), call())
            assert breaker.state.value == "CLOSED"

    asyncio.run(story())
    assert most == 2


async def _broken() -> None:
    raise OSError

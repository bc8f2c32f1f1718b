"""The breaker against a model written from the docstring of `CircuitBreakerConfig`."""

from __future__ import annotations

import asyncio

from collections import Counter
from collections.abc import Callable
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import Pipeline
from pytest_resilience.patterns import CircuitRejection
from pytest_resilience.patterns import CircuitTransition
from tests.patterns.ways import InAsyncGenerator
from tests.patterns.ways import InGenerator
from tests.patterns.ways import InGreenlet
from tests.patterns.ways import InTask
from tests.patterns.ways import Ongoing
from tests.patterns.ways import PoorListener


FINE, FAILED_RESULT, FAILURE, IGNORED, CANCELLED = "fine", "poor", "failure", "ignored", "cancelled"
OUTCOMES = st.sampled_from([FINE, FINE, FAILED_RESULT, FAILURE, FAILURE, IGNORED, CANCELLED])
ERRORS = {FAILURE: OSError, IGNORED: KeyError, CANCELLED: asyncio.CancelledError}
SET = {
    "force_open": "FORCED_OPEN",
    "force_closed": "DISABLED",
    "metrics_only": "METRICS_ONLY",
    "reset": "CLOSED",
}
TENTHS = 10  # of a time window: it is as exact as that


class ByPermit:
    """The way of calls that are no functions."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._permit = breaker.acquire()

    def end(self, outcome: Any) -> Any:
        if isinstance(outcome, BaseException):
            self._permit.raised(outcome)
            raise outcome
        self._permit.returned(outcome)
        return outcome


def block(breaker: CircuitBreaker, work: Callable[[], Any]) -> Any:
    with breaker:
        return work()


async def async_block(breaker: CircuitBreaker, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async with breaker:
        return await work()


CALL: Any = Pipeline().call  # mypy cannot solve two of these, one inside the other
Way = Callable[[CircuitBreaker], Ongoing]
WAYS: dict[str, Way] = {
    "acquire": ByPermit,
    "decorator": lambda breaker: InGreenlet(lambda work: breaker(work)()),
    "call": lambda breaker: InGreenlet(breaker.call),
    "call of a call": lambda breaker: InGreenlet(partial(breaker.call, CALL)),
    "with": lambda breaker: InGreenlet(partial(block, breaker)),
    "async decorator": lambda breaker: InTask(lambda work: breaker(work)()),
    "await call": lambda breaker: InTask(breaker.call),
    "await call of a call": lambda breaker: InTask(partial(breaker.call, CALL)),
    "async with": lambda breaker: InTask(partial(async_block, breaker)),
    "generator decorator": lambda breaker: InGenerator(lambda items: breaker(items)()),
    "call of a generator function": lambda breaker: InGenerator(breaker.call),
    "async generator decorator": lambda breaker: InAsyncGenerator(lambda items: breaker(items)()),
    "call of an async generator function": lambda breaker: InAsyncGenerator(breaker.call),
}
# They have none: what is returned from a block never comes to the breaker.
WITHOUT_RESULT = {
    "with", "async with", "async generator decorator", "call of an async generator function",
}  # fmt: skip


def growing(opened: int, error: BaseException | None) -> float:
    assert error is None or isinstance(error, OSError)
    return opened * 3.0


@st.composite
def configs(draw: st.DrawFn) -> CircuitBreakerConfig:
    fields: dict[str, Any] = {
        "failure_threshold": draw(st.integers(1, 4)),
        "success_threshold": draw(st.integers(1, 3)),
        "timeout": draw(st.sampled_from([0.0, 2.0, 10.0, growing])),
        "expected_exception": OSError,
        "half_open_max_calls": draw(st.none() | st.integers(1, 4)),
        "half_open_failure_rate_threshold": draw(st.sampled_from([None, None, 0.3, 0.5, 1.0])),
        "count_calls": draw(st.booleans()),
    }
    if draw(st.booleans()):
        fields["is_failed_result"] = FAILED_RESULT.__eq__
    if draw(st.booleans()):
        fields["slow_call_duration"] = 1.0
    if draw(st.booleans()):
        name = draw(st.sampled_from(["window_size", "window_seconds"]))
        fields[name] = draw(st.integers(1, 6))
        fields["minimum_calls"] = draw(st.integers(1, fields[name]))
        fields["failure_rate_threshold"] = draw(st.sampled_from([0.2, 0.5, 1.0]))
        if "slow_call_duration" in fields and draw(st.booleans()):
            fields["slow_call_rate_threshold"] = draw(st.sampled_from([0.3, 1.0]))
    return CircuitBreakerConfig(**fields)


@dataclass
class Call:
    """A call of the model that is under way, the way it went in, and the era it counts in."""

    ongoing: Ongoing
    way: str
    era: int
    began: float
    state: str


@dataclass
class Ended:
    """A call in the window."""

    at: float
    failed: bool
    slow: bool


class Model:
    """What a breaker must do, told one call after another."""

    def __init__(self, config: CircuitBreakerConfig) -> None:
        self.config = config
        self.state = "CLOSED"
        self.moves: list[str] = []
        self.era = self.consecutive_failures = self.successes = self.opened = self.under_way = 0
        self.trial_failures = 0
        self.totals: Counter[str] = Counter()
        self.ended: list[Ended] = []
        self.reopens_at = self.asked_at = 0.0

    def enter(self, state: str, now: float, error: BaseException | None = None) -> None:
        self.state = state
        self.moves.append(state)
        self.era += 1
        self.under_way = self.successes = self.trial_failures = 0
        self.asked_at = now
        if state == "OPEN":
            self.opened += 1
            timeout = self.config.timeout
            self.reopens_at = now + (timeout(self.opened, error) if callable(timeout) else timeout)
        elif state != "HALF_OPEN":
            self.opened = self.consecutive_failures = 0
            self.ended.clear()

    def slots(self) -> int:
        budget = self.config.half_open_max_calls or self.config.success_threshold
        undecided = self.config.success_threshold - self.successes - self.trial_failures
        return min(budget, undecided)

    def lets_through(self, now: float) -> bool:
        if self.state == "OPEN" and now >= self.reopens_at:
            self.enter("HALF_OPEN", now)
        if self.state != "HALF_OPEN":
            return self.state in ("CLOSED", "DISABLED", "METRICS_ONLY")
        if self.under_way >= self.slots():
            timeout = self.config.timeout
            patience = 60.0 if callable(timeout) else timeout
            if now < self.asked_at + patience:
                return False
            self.era += 1  # who has not come back by now has no slot any more
            self.under_way = 0
        self.under_way += 1
        self.asked_at = now
        return True

    def end(self, call_era: int, outcome: str, slow: bool, now: float) -> None:
        if call_era != self.era or self.state == "DISABLED":
            return
        if self.state == "HALF_OPEN":
            self.under_way -= 1
        if outcome in (IGNORED, CANCELLED):
            return
        failed = outcome == FAILURE or (
            outcome == FAILED_RESULT and self.config.is_failed_result is not None
        )
        error = OSError() if outcome == FAILURE else None
        if self.state == "HALF_OPEN":
            failed = failed or slow
            self.consecutive_failures = self.consecutive_failures + 1 if failed else 0
            self.trial_failures += failed
            self.successes += not failed
            self.decide(now, error)
            return
        windowed = self.config.window_size or self.config.window_seconds
        self.consecutive_failures = (
            self.consecutive_failures + 1 if failed or (slow and not windowed) else 0
        )
        if windowed:
            self.ended.append(Ended(now, failed, slow))
        if self.state == "CLOSED" and self.too_many(now):
            self.enter("OPEN", now, error)

    def decide(self, now: float, error: BaseException | None) -> None:
        """If every way in which the trial calls that are left can end comes to the same."""
        calls, rate = self.config.success_threshold, self.config.half_open_failure_rate_threshold
        left = calls - self.successes - self.trial_failures
        ends = {
            self.trial_failures + failing > 0
            if rate is None
            else (self.trial_failures + failing) / calls >= rate
            for failing in range(left + 1)
        }
        if len(ends) == 1:
            self.enter("OPEN" if ends.pop() else "CLOSED", now, error)

    def window(self, now: float) -> list[Ended]:
        if self.config.window_size is not None:
            return self.ended[-self.config.window_size :]
        if self.config.window_seconds is None:
            return []
        tenth = self.config.window_seconds / TENTHS
        oldest = now // tenth - TENTHS
        return [each for each in self.ended if each.at // tenth > oldest]

    def too_many(self, now: float) -> bool:
        config, calls = self.config, self.window(now)
        if config.window_size is None and config.window_seconds is None:
            return self.consecutive_failures >= config.failure_threshold
        if len(calls) < config.minimum_calls:
            return False
        counted = [
            (sum(each.failed for each in calls), config.failure_rate_threshold),
            (sum(each.slow for each in calls), config.slow_call_rate_threshold),
        ]
        return any(limit is not None and count >= limit * len(calls) for count, limit in counted)


class BreakerMachine(RuleBasedStateMachine):
    """Several calls under way at once, ending in any order, in any way, late or never."""

    @initialize(config=configs())
    def begin(self, config: CircuitBreakerConfig) -> None:
        self.clock = ManualClock()
        self.config = config
        self.breaker = CircuitBreaker(config, name="x", clock=self.clock)
        self.model = Model(config)
        self.calls: list[Call] = []
        self.heard: list[Event] = []
        self.rejected = 0
        self.breaker.listeners.add(PoorListener())
        self.breaker.listeners.add(self.heard.append)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: len(self.calls) < 8)
    @rule(way=st.sampled_from(list(WAYS)))
    def a_call_begins(self, way: str) -> None:
        now = self.clock.monotonic()
        rejects = self.breaker._circuit.rejects()
        let_through = self.model.lets_through(now)
        assert rejects is not let_through
        if let_through:
            ongoing, model = WAYS[way](self.breaker), self.model
            self.calls.append(Call(ongoing, way, model.era, now, model.state))
            return
        self.rejected += 1
        with pytest.raises(CircuitBreakerError) as caught:
            WAYS[way](self.breaker)
        self.model.totals["rejected"] += 1
        error = caught.value
        assert error.state == self.model.state
        if error.state == "OPEN":
            assert error.retry_after == pytest.approx(self.model.reopens_at - now)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=OUTCOMES)
    def a_call_ends(self, data: st.DataObject, outcome: str) -> None:
        self.end(data.draw(st.sampled_from(self.calls), label="call"), outcome)

    @precondition(lambda self: self.calls)
    @rule(outcome=OUTCOMES)
    def the_last_call_ends(self, outcome: str) -> None:
        self.end(self.calls[-1], outcome)

    def end(self, call: Call, outcome: str) -> None:
        self.calls.remove(call)
        now = self.clock.monotonic()
        limit = self.config.slow_call_duration
        slow = limit is not None and now - call.began > limit
        judged = FINE if outcome == FAILED_RESULT and call.way in WITHOUT_RESULT else outcome
        self.count(call, judged, slow)
        self.model.end(call.era, judged, slow, now)
        if outcome in ERRORS:
            error = ERRORS[outcome]()
            with pytest.raises(ERRORS[outcome]) as caught:
                call.ongoing.end(error)
            assert caught.value is error
        else:
            assert call.ongoing.end(outcome) in (outcome, None)

    def count(self, call: Call, judged: str, slow: bool) -> None:
        if call.state == "DISABLED":
            return
        failures = {FAILURE} if self.config.is_failed_result is None else {FAILURE, FAILED_RESULT}
        outcome = (
            "failures" if judged in failures
            else "ignored" if judged in {IGNORED, CANCELLED}
            else "successes"
        )  # fmt: skip
        self.model.totals[outcome] += 1
        self.model.totals["slow"] += slow

    @rule(move=st.sampled_from(list(SET)))
    def somebody_says_so(self, move: str) -> None:
        self.model.enter(SET[move], self.clock.monotonic())
        getattr(self.breaker, move)()

    @invariant()
    def both_agree(self) -> None:
        model, stats = self.model, self.breaker.get_stats()
        window = model.window(self.clock.monotonic())
        windowed = stats["window_calls"] is not None
        assert stats["state"] == model.state
        assert stats["success_count"] == model.successes
        assert stats["times_opened"] == model.opened
        assert [each.new.value for each in self.breaker.transitions] == model.moves[-100:]
        told = [each for each in self.heard if isinstance(each, CircuitTransition)]
        assert [each.new.value for each in told] == model.moves
        assert sum(isinstance(each, CircuitRejection) for each in self.heard) == self.rejected
        counted = self.config.count_calls
        for name in ("failures", "ignored", "slow", "rejected"):
            assert stats[f"total_{name}"] == model.totals[name]
        assert stats["total_successes"] == (model.totals["successes"] if counted else None)
        trials = model.successes + model.trial_failures
        if model.state == "HALF_OPEN":
            assert stats["failure_rate"] == (model.trial_failures / trials if trials else None)
        if windowed:
            assert stats["window_calls"] == len(window)
            assert stats["failure_count"] == sum(each.failed for each in window)
            assert stats["window_slow_calls"] == sum(each.slow for each in window)
        else:
            assert stats["failure_count"] == model.consecutive_failures


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)

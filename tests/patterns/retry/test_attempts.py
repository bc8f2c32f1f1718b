"""Retry against a model written from the docstrings of `RetryConfig` and `RetryBudget`."""

from __future__ import annotations

import asyncio
import random

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import pytest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule

from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import RetryBudget
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience.patterns import Attempt
from pytest_resilience.patterns import RetryAborted
from pytest_resilience.patterns import RetryGaveUp
from pytest_resilience.patterns import RetryScheduled
from pytest_resilience.patterns import RetrySucceeded
from pytest_resilience.patterns.retry.delays import JITTERS
from tests.patterns.ways import PoorListener


class BusyError(Exception):
    """Fails, and asks for a wait."""

    def __init__(self, retry_after: float) -> None:
        super().__init__()
        self.retry_after = retry_after


RETRYABLE = (ConnectionError, BusyError)
UNWANTED = "unwanted"

# Made anew each time: an exception that is raised again and again grows its traceback.
FAILURES = st.one_of(
    st.builds(ConnectionError), st.just(UNWANTED), st.builds(BusyError, st.floats(0, 400))
)
OUTCOMES = st.one_of(
    st.just("fine"), st.builds(KeyError), st.builds(asyncio.CancelledError), FAILURES
)

CONFIGS = st.builds(
    RetryConfig,
    max_attempts=st.integers(1, 6),
    base_delay=st.floats(0, 5),
    max_delay=st.floats(5, 20),
    exponential_multiplier=st.floats(1, 3),
    jitter=st.sampled_from(JITTERS),
    retryable_exceptions=st.just(RETRYABLE),
    max_elapsed=st.none() | st.floats(0, 60),
    retry_on_result=st.just(lambda result: result == UNWANTED),
)


def bounds(config: RetryConfig, attempt: int, previous: float) -> tuple[float, float]:
    """What a wait may be, without anybody asking for one."""
    delay = min(
        config.max_delay, config.base_delay * config.exponential_multiplier ** (attempt - 1)
    )
    low, high = {
        True: (delay * 0.9, delay * 1.1),
        False: (delay, delay),
        "full": (0.0, delay),
        "equal": (delay / 2, delay),
        "decorrelated": (config.base_delay, max(config.base_delay, 3 * previous)),
    }[config.jitter]
    return low - 1e-9, min(high, config.max_delay) + 1e-9


@dataclass
class Call:
    """One call of the model.

    Attributes:
        attempts: where the real one stands.
        started: when it began.
        made: attempts so far.
        delay: due before the next.
        previous: the last wait.
        told: the kinds of event that must have been recorded.
    """

    attempts: Iterator[Attempt]
    started: float
    previous: float
    made: int = 0
    delay: float | None = None
    told: list[type] = field(default_factory=list)


class RetryMachine(RuleBasedStateMachine):
    """Several calls of one handler under way at once, in any order."""

    @initialize(
        config=CONFIGS,
        ratio=st.floats(0, 1),
        reserve=st.floats(0, 0.5),
        capacity=st.floats(1, 5),
        seed=st.integers(),
    )
    def begin(
        self, config: RetryConfig, ratio: float, reserve: float, capacity: float, seed: int
    ) -> None:
        self.clock = ManualClock()
        self.budget = RetryBudget(ratio, reserve=reserve, capacity=capacity, clock=self.clock)
        self.config = RetryConfig(
            **{name: getattr(config, name) for name in config.__slots__} | {"budget": self.budget}
        )
        self.handler = RetryHandler(self.config, clock=self.clock, random=random.Random(seed))
        self.ratio, self.reserve, self.capacity = ratio, reserve, capacity
        self.tokens, self.filled_at = min(reserve, capacity), 0.0
        self.heard: list[Event] = []
        self.handler.listeners.add(PoorListener())
        self.handler.listeners.add(self.heard.append)
        self.calls: list[Call] = []
        self.histories: list[list[type]] = []

    def fill(self) -> None:
        now = self.clock.monotonic()
        self.tokens = min(self.capacity, self.tokens + (now - self.filled_at) * self.reserve)
        self.filled_at = now

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: len(self.calls) < 4)
    @rule()
    def a_call_begins(self) -> None:
        self.fill()
        self.tokens = min(self.capacity, self.tokens + self.ratio)
        attempts = iter(self.handler)
        now = self.clock.monotonic()
        self.calls.append(Call(attempts, started=now, previous=self.config.base_delay))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=OUTCOMES, duration=st.floats(0, 5))
    def an_attempt(self, data: st.DataObject, outcome: Any, duration: float) -> None:
        call = data.draw(st.sampled_from(self.calls), label="call")
        due = self.clock.monotonic() + (call.delay or 0.0)
        attempt = next(call.attempts)
        call.made += 1
        assert attempt.number == call.made
        assert self.clock.monotonic() == pytest.approx(due)
        self.clock.advance(duration)
        try:
            with attempt:
                if isinstance(outcome, BaseException):
                    raise outcome
                attempt.returned(outcome)
        except BaseException as error:
            self.raised(call, outcome, error)
        else:
            self.went_on(call, outcome, attempt.delay)

    def is_failure(self, outcome: Any) -> bool:
        return isinstance(outcome, RETRYABLE) or outcome == UNWANTED

    def raised(self, call: Call, outcome: Any, error: BaseException) -> None:
        if not self.is_failure(outcome):
            assert error is outcome  # unwrapped
            self.ended(call, RetryAborted)
            return
        assert isinstance(error, RetryExhaustedError)
        assert error.attempts == call.made
        assert error.last_exception is error.__cause__
        assert error.last_exception is (None if outcome == UNWANTED else outcome)
        reason = self.why_not(call, outcome)
        assert reason is not None
        assert reason in error.reason
        self.ended(call, RetryGaveUp)

    def why_not(self, call: Call, outcome: Any) -> str | None:
        """Why no attempt may follow; None if it can be no reason but a drawn wait."""
        asked = getattr(outcome, "retry_after", None)
        if call.made >= self.config.max_attempts:
            return "max_attempts"
        if asked is not None and asked > self.config.max_retry_after:
            return "max_retry_after"
        _, longest = bounds(self.config, call.made, call.previous)
        elapsed = self.clock.monotonic() - call.started
        end = elapsed + (longest if asked is None else asked)
        limit = self.config.max_elapsed
        self.fill()
        if self.tokens >= 1 - 1e-6:
            return "max_elapsed" if limit is not None and end > limit else None
        return "" if limit is not None and end > limit else "budget"

    def went_on(self, call: Call, outcome: Any, delay: float | None) -> None:
        if not self.is_failure(outcome):
            assert outcome == "fine"
            assert delay is None
            self.ended(call, RetrySucceeded)
            return
        assert delay is not None
        assert call.made < self.config.max_attempts
        asked = getattr(outcome, "retry_after", None)
        if asked is None:
            low, high = bounds(self.config, call.made, call.previous)
            assert low <= delay <= high
        else:
            assert delay == asked <= self.config.max_retry_after
        if self.config.max_elapsed is not None:
            elapsed = self.clock.monotonic() - call.started
            assert elapsed + delay <= self.config.max_elapsed
        self.fill()
        assert self.tokens >= 1 - 1e-6
        self.tokens = max(0.0, self.tokens - 1)
        call.delay = call.previous = delay
        if not call.told:
            self.histories.append(call.told)
        call.told.append(RetryScheduled)

    def ended(self, call: Call, by: type) -> None:
        if by is RetryGaveUp and not call.told:
            self.histories.append(call.told)
        if call.told or by is RetryGaveUp:
            call.told.append(by)
        self.calls.remove(call)
        with pytest.raises(StopIteration):
            next(call.attempts)

    @invariant()
    def the_budget_is_conserved(self) -> None:
        self.fill()
        assert self.budget.tokens == pytest.approx(self.tokens, abs=1e-6)
        assert 0 <= self.budget.tokens <= self.capacity

    @invariant()
    def each_call_has_its_own_history(self) -> None:
        assert tuple(self.heard) == self.handler.events
        recorded: dict[int, list[type]] = {}
        for event in self.handler.events:
            recorded.setdefault(event.call, []).append(type(event))
        assert list(recorded) == list(range(1, len(self.histories) + 1))
        assert list(recorded.values()) == self.histories


TestRetryMachine = RetryMachine.TestCase
TestRetryMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# The machine uses the form with `for`, in which calls can be interleaved. The others do the same.


class Script:
    """Calls that come out as told; after the last, fine."""

    def __init__(self, clock: ManualClock, outcomes: list[Any]) -> None:
        self._clock = clock
        self._outcomes = iter(outcomes)
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        self._clock.advance(0.25)
        outcome = next(self._outcomes, "fine")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def later(self) -> Any:
        await asyncio.sleep(0)
        return self()


def by_decorator(handler: RetryHandler, script: Script) -> Any:
    return handler(script)()


def by_execute(handler: RetryHandler, script: Script) -> Any:
    return handler.execute(script)


def by_block(handler: RetryHandler, script: Script) -> Any:
    result = None
    for attempt in handler:
        with attempt:
            result = attempt.returned(script())
    return result


def by_coroutine(handler: RetryHandler, script: Script) -> Any:
    return asyncio.run(handler(script.later)())


def by_execute_async(handler: RetryHandler, script: Script) -> Any:
    return asyncio.run(handler.execute(script.later))


def by_lambda(handler: RetryHandler, script: Script) -> Any:
    return asyncio.run(handler(lambda: script.later())())  # noqa: PLW0108  # what it is about


def by_async_block(handler: RetryHandler, script: Script) -> Any:
    async def story() -> Any:
        result = None
        async for attempt in handler:
            with attempt:
                result = attempt.returned(await script.later())
        return result

    return asyncio.run(story())


FORMS: list[Callable[[RetryHandler, Script], Any]] = [
    by_decorator, by_execute, by_block, by_coroutine, by_execute_async, by_lambda, by_async_block,
]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(config=CONFIGS, outcomes=st.lists(OUTCOMES, max_size=6), seed=st.integers())
def test_every_form_does_the_same(config: RetryConfig, outcomes: list[Any], seed: int) -> None:
    def story(form: Callable[[RetryHandler, Script], Any]) -> tuple[Any, ...]:
        clock = ManualClock()
        handler = RetryHandler(config, clock=clock, random=random.Random(seed))
        script = Script(clock, outcomes)
        result: Any
        try:
            result = form(handler, script)
        except RetryExhaustedError as error:
            result = (str(error), error.last_exception, error.__cause__, error.elapsed)
        except (KeyError, asyncio.CancelledError) as error:
            result = type(error)
        return result, script.calls, clock.sleeps, handler.events

    expected = story(by_decorator)
    for form in FORMS:
        assert story(form) == expected, form.__name__

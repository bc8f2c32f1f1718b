"""Retry against a model written from the docstrings of `RetryConfig` and `RetryBudget`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import weakref

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

from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import RetryBudget
from pytest_resilience import RetryConfig
from pytest_resilience import RetryDetails
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience import set_retry_testing
from pytest_resilience.patterns import Attempt
from pytest_resilience.patterns import RetryAborted
from pytest_resilience.patterns import RetryGaveUp
from pytest_resilience.patterns import RetryScheduled
from pytest_resilience.patterns import RetrySucceeded
from pytest_resilience.patterns.retry.config import current_testing
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


class Shop:
    """Answers to who has logged in, and forgets it after each answer."""

    def __init__(self) -> None:
        self.logged_in = False
        self.logins: list[RetryDetails] = []

    def log_in(self, details: RetryDetails) -> None:
        self.logins.append(details)
        self.logged_in = True

    async def log_in_async(self, details: RetryDetails) -> None:
        await asyncio.sleep(0)
        self.log_in(details)

    def ask(self) -> str:
        if not self.logged_in:
            raise PermissionError("401")
        return "answer"

    async def ask_async(self) -> str:
        return self.ask()


def handler(step: Any, clock: ManualClock | None = None, **config: Any) -> RetryHandler:
    settings = {"jitter": False, "base_delay": 2.0, **config}
    return RetryHandler(
        RetryConfig(before_retry=step, **settings), name="shop", clock=clock or ManualClock()
    )


def block(one: RetryHandler, shop: Shop) -> str:
    for attempt in one:
        with attempt:
            return attempt.returned(shop.ask())
    raise AssertionError("no attempt is left, and nothing was raised")


async def async_block(one: RetryHandler, shop: Shop) -> str:
    async for attempt in one:
        with attempt:
            return attempt.returned(shop.ask())
    raise AssertionError("no attempt is left, and nothing was raised")


PLAIN: dict[str, Callable[[RetryHandler, Shop], str]] = {
    "decorator": lambda one, shop: one(shop.ask)(),
    "execute": lambda one, shop: one.execute(shop.ask),
    "block": block,
}
ASYNC: dict[str, Callable[[RetryHandler, Shop], Any]] = {
    "async decorator": lambda one, shop: one(shop.ask_async)(),
    "await execute": lambda one, shop: one.execute(shop.ask_async),
    "async block": async_block,
}


@pytest.mark.parametrize("way", PLAIN)
def test_a_step_before_the_next_attempt(way: str) -> None:
    shop, clock = Shop(), ManualClock()
    assert PLAIN[way](handler(shop.log_in, clock), shop) == "answer"
    [details] = shop.logins
    assert isinstance(details.error, PermissionError)
    assert (details.name, details.attempt, details.result, details.delay) == ("shop", 2, None, 2.0)
    assert clock.sleeps == [2.0]


@pytest.mark.parametrize("step", ["log_in", "log_in_async", "returns an awaitable"])
@pytest.mark.parametrize("way", ASYNC)
def test_a_step_before_the_next_attempt_of_an_async_call(way: str, step: str) -> None:
    shop = Shop()
    steps = {
        "log_in": shop.log_in,
        "log_in_async": shop.log_in_async,
        "returns an awaitable": lambda details: shop.log_in_async(details),  # noqa: PLW0108
    }
    assert asyncio.run(ASYNC[way](handler(steps[step]), shop)) == "answer"
    assert [each.attempt for each in shop.logins] == [2]


@pytest.mark.parametrize("way", PLAIN)
def test_a_coroutine_function_is_no_step_of_a_plain_call(way: str) -> None:
    shop = Shop()
    with pytest.raises(TypeError, match=r"log_in_async.* which a plain call of .* cannot await"):
        PLAIN[way](handler(shop.log_in_async), shop)
    with pytest.raises(TypeError, match=r"<lambda>.* cannot await"):
        PLAIN[way](handler(lambda details: shop.log_in_async(details)), shop)  # noqa: PLW0108
    assert shop.logins == []


@pytest.mark.parametrize("way", [*PLAIN, *ASYNC])
def test_a_step_that_fails_is_an_attempt_that_fails(way: str) -> None:
    shop, tries = Shop(), []

    def step(details: RetryDetails) -> None:
        tries.append(details)
        if len(tries) == 1:
            raise ConnectionError("the login is down too")
        shop.log_in(details)

    clock = ManualClock()
    one = handler(step, clock, max_attempts=3)
    result = PLAIN[way](one, shop) if way in PLAIN else asyncio.run(ASYNC[way](one, shop))
    assert result == "answer"
    assert [type(each.error) for each in tries] == [PermissionError, ConnectionError]
    assert [each.attempt for each in tries] == [2, 3]
    assert clock.sleeps == [2.0, 4.0]
    tries.clear()
    shop.logged_in = False
    one = handler(step, max_attempts=2)
    with pytest.raises(RetryExhaustedError) as caught:
        _ = PLAIN[way](one, shop) if way in PLAIN else asyncio.run(ASYNC[way](one, shop))
    assert isinstance(caught.value.last_exception, ConnectionError)


@pytest.mark.parametrize("way", [*PLAIN, *ASYNC])
def test_a_step_that_fails_for_good_ends_the_call(way: str) -> None:
    def step(_: RetryDetails) -> None:
        raise KeyError("no such user")

    shop, one = Shop(), handler(step, retryable_exceptions=PermissionError)
    with pytest.raises(KeyError, match="no such user"):
        _ = PLAIN[way](one, shop) if way in PLAIN else asyncio.run(ASYNC[way](one, shop))
    assert [type(each) for each in one.events] == [RetryScheduled, RetryAborted]


def test_a_step_after_a_result_that_is_not_acceptable() -> None:
    told: list[RetryDetails] = []
    results = iter(["no", "yes"])
    one = handler(told.append, retry_on_result=lambda result: result == "no")
    assert one.execute(lambda: next(results)) == "yes"
    assert [(each.error, each.result) for each in told] == [(None, "no")]


@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_of_the_errors_is_kept_after_the_steps(is_async: bool) -> None:
    class NotedError(Exception): ...

    gone: list[weakref.ref[Exception]] = []

    def step(details: RetryDetails) -> None:
        assert details.error is not None
        gone.append(weakref.ref(details.error))
        if len(gone) == 1:
            raise NotedError

    def fails_at_first() -> str:
        if not gone:
            raise NotedError
        return "answer"

    async def fails_at_first_async() -> str:
        return fails_at_first()

    gc.disable()
    try:
        if is_async:
            assert asyncio.run(handler(step).execute(fails_at_first_async)) == "answer"
        else:
            assert handler(step).execute(fails_at_first) == "answer"
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def never_runs(details: RetryDetails) -> Iterator[RetryDetails]:
    yield details


@pytest.mark.parametrize("step", [1, "log in", never_runs])
def test_steps_that_make_no_sense(step: Any) -> None:
    with pytest.raises(TypeError, match=r"^before_retry must be a function"):
        RetryConfig(before_retry=step)


# Who is told.


def test_listeners_are_given_the_error_and_the_history_is_not() -> None:
    told: list[Any] = []
    one = handler(None, max_attempts=2)
    one.listeners.add(told.append)
    first, second = OSError("first"), OSError("second")
    errors = iter([first, second])

    def fails() -> None:
        raise next(errors)

    with pytest.raises(RetryExhaustedError):
        one.execute(fails)
    assert [type(each) for each in told] == [RetryScheduled, RetryGaveUp]
    assert [each.error for each in told] == [first, second]
    assert [each.error for each in one.events] == [None, None]  # type: ignore[attr-defined]
    assert list(one.events) == told  # the same in all the rest
    assert "first" not in repr(told[0]).replace(told[0].failure, "")


def test_listeners_are_given_what_ended_a_call() -> None:
    told: list[Any] = []
    one = handler(None)
    one.listeners.add(told.append)
    interrupt = KeyboardInterrupt()
    errors: Any = iter([OSError(), interrupt])

    def fails() -> None:
        raise next(errors)

    with pytest.raises(KeyboardInterrupt):
        one.execute(fails)
    assert told[-1].error is interrupt


# The switch for tests.


def fails() -> None:
    raise OSError


@given(
    configured=st.integers(1, 5),
    attempts=st.none() | st.integers(1, 5),
    requested=st.none() | st.floats(0, 100),
)
def test_in_testing_nothing_waits_and_no_more_is_tried(
    configured: int, attempts: int | None, requested: float | None
) -> None:
    clock = ManualClock()
    config = RetryConfig(max_attempts=configured, wait_from=lambda _: requested)
    one = RetryHandler(config, clock=clock)
    with set_retry_testing(attempts=attempts), pytest.raises(RetryExhaustedError) as caught:
        one.execute(fails)
    assert current_testing() is None
    assert clock.sleeps == []
    assert caught.value.attempts == min(configured, attempts or configured)
    scheduled = [each for each in one.events if isinstance(each, RetryScheduled)]
    assert [each.delay for each in scheduled] == [0.0] * (caught.value.attempts - 1)


def test_in_testing_async_calls_and_blocks_do_not_wait_either() -> None:
    clock, shop = ManualClock(), Shop()
    with set_retry_testing():
        for way in PLAIN.values():
            shop.logged_in = False
            assert way(handler(shop.log_in, clock), shop) == "answer"
        for other in ASYNC.values():
            shop.logged_in = False
            assert asyncio.run(other(handler(shop.log_in, clock), shop)) == "answer"
    assert clock.sleeps == []


@given(changes=st.lists(st.none() | st.booleans() | st.integers(1, 9), max_size=5))
def test_what_was_set_before_is_given_back(changes: list[Any]) -> None:
    """Contexts in one another, and settings within them that nobody gives back."""
    before = []
    with contextlib.ExitStack() as stack:
        for change in changes:
            before.append(current_testing())
            attempts = None if isinstance(change, bool) else change
            stack.enter_context(set_retry_testing(change is not False, attempts=attempts))
            testing = current_testing()
            assert (testing is None) == (change is False)
            assert testing is None or testing.attempts == attempts
        set_retry_testing(attempts=7)
        if not changes:
            set_retry_testing(False)
    assert current_testing() is None
    assert before[:1] in ([], [None])


@pytest.mark.parametrize("attempts", [0, -1, 1.5, True])
def test_a_switch_that_makes_no_sense_changes_nothing(attempts: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError), match=r"^attempts"):
        set_retry_testing(attempts=attempts)
    with pytest.raises(TypeError, match=r"^testing must be True or False"):
        set_retry_testing(1)  # type: ignore[arg-type]
    assert current_testing() is None


# What is counted.


@given(
    calls=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=6), counted=st.booleans()
)
def test_totals(calls: list[tuple[int, bool]], counted: bool) -> None:
    """Calls that fail so often, and then succeed, or end by what is not retried."""
    one = RetryHandler(
        RetryConfig(
            max_attempts=3, base_delay=0, retryable_exceptions=OSError, count_calls=counted
        ),
        clock=ManualClock(),
    )
    kinds = []
    for failures, ends_badly in calls:
        errors: list[Exception] = [OSError()] * failures + [KeyError()] * ends_badly

        def call(errors: list[Exception] = errors) -> None:
            if errors:
                raise errors.pop(0)

        try:
            one.execute(call)
            kinds.append("succeeded")
        except RetryExhaustedError:
            kinds.append("exhausted")
        except KeyError:
            kinds.append("aborted")
    retried = [kind for kind, (failures, _) in zip(kinds, calls, strict=True) if failures]
    assert one.get_stats() == {
        "total_calls": len(calls) if counted else None,
        "retried_calls": len(retried),
        "retries": sum(min(failures, 2) for failures, _ in calls),
        "succeeded_calls": retried.count("succeeded"),
        "exhausted_calls": retried.count("exhausted"),
        "aborted_calls": retried.count("aborted"),
    }

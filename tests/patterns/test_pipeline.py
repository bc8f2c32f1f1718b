from __future__ import annotations

import asyncio
import gc
import re
import warnings
import weakref

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from functools import partial
from itertools import permutations
from typing import Any

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule

from pytest_resilience import BulkheadConfig
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import ThreadPoolBulkhead
from pytest_resilience import TimeLimiter
from pytest_resilience.patterns.pipeline import Pipeline
from pytest_resilience.patterns.pipeline import PipelineOrderWarning
from pytest_resilience.patterns.pipeline import Step
from tests.patterns.ways import PoorListener


def test_the_first_is_outermost() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def pattern(func: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*args: Any) -> Any:
                order.append(name)
                return func(*args)

            return noted

        return pattern

    assert Pipeline(note("a"), note("b"), note("c")).call(len, "xy") == 2
    assert order == ["a", "b", "c"]
    assert Pipeline()(len)("xy") == 2


def make() -> tuple[Pipeline, CircuitBreaker, RetryHandler]:
    clock = ManualClock()
    retry = RetryHandler(RetryConfig(max_attempts=3), name="again", clock=clock)
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=2), name="db", clock=clock)
    return Pipeline(retry, breaker, SemaphoreBulkhead(name="slots")), breaker, retry


def test_a_test_can_compare_what_it_is_made_of() -> None:
    pipeline, breaker, retry = make()
    assert pipeline.describe() == (
        Step(kind="RetryHandler", name="again", config=retry.config),
        Step(kind="CircuitBreaker", name="db", config=breaker.config),
        Step(kind="SemaphoreBulkhead", name="slots", config=BulkheadConfig()),
    )


def test_patterns_work_together_for_sync_and_async() -> None:
    def broken() -> None:
        raise ConnectionError

    async def broken_later() -> None:
        raise ConnectionError

    pipeline, breaker, _ = make()
    with pytest.raises(RetryExhaustedError):
        pipeline.call(broken)
    assert breaker.transitions[0].new.value == "OPEN"
    pipeline, breaker, _ = make()
    with pytest.raises(RetryExhaustedError):
        asyncio.run(pipeline(broken_later)())
    assert breaker.transitions[0].new.value == "OPEN"


class Trace:
    """Patterns of every kind, in any order, around calls that fail and do not."""

    def __init__(self, order: Sequence[str]) -> None:
        clock = ManualClock()
        made: dict[str, Any] = {
            "breaker": CircuitBreaker(CircuitBreakerConfig(failure_threshold=3), clock=clock),
            "limit": RateLimitBulkhead(BulkheadConfig(max_concurrent=4), clock=clock),
            "slots": SemaphoreBulkhead(clock=clock),
            "retry": RetryHandler(RetryConfig(max_attempts=2, jitter=False), clock=clock),
            "time": TimeLimiter(0.5, clock=clock),
            "pool": ThreadPoolBulkhead(clock=clock),
        }
        self.shutdown = made["pool"].shutdown
        self.heard: list[Any] = []
        for name in order:
            made[name].listeners.add(self.heard.append)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PipelineOrderWarning)
            self.pipeline = Pipeline(*map(made.get, order))  # type: ignore[arg-type]

        def answer(outcome: Any, *, late: float) -> Any:
            clock.advance(late)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        async def answer_later(outcome: Any, *, late: float) -> Any:
            await asyncio.sleep(0)
            return answer(outcome, late=late)

        self.answer, self.answer_later = answer, answer_later

    def call(self, call: Callable[[], Any], is_async: bool) -> None:
        try:
            result = asyncio.run(call()) if is_async else call()
        except Exception as error:
            result = (type(error), str(error))
        self.heard.append(result)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "order",
    [*permutations(["breaker", "retry", "time"]), *permutations(["limit", "slots", "time"]),
     ("retry", "breaker", "limit", "slots", "time"), ("breaker", "pool"), ("pool", "slots"), ()],
)  # fmt: skip
def test_a_call_does_what_the_decorator_does(order: Sequence[str], is_async: bool) -> None:
    decorated, called = Trace(order), Trace(order)
    for outcome, late in [(1, 0.0), (OSError("gone"), 0.0), (2, 1.0), *[(OSError("no"), 0.0)] * 3]:
        for trace, form in [(decorated, "decorator"), (called, "call")]:
            answer: Any = trace.answer_later if is_async else trace.answer
            pipeline = trace.pipeline
            call: Any = partial(pipeline.call, answer, outcome, late=late)
            if form == "decorator":  # a pool refuses a coroutine function there and then

                def call(answer: Any = answer, pipeline: Any = pipeline) -> Any:
                    return pipeline(answer)(outcome, late=late)  # noqa: B023  # called at once

            trace.call(call, is_async)
    for trace in (decorated, called):
        trace.shutdown()
    shown, expected = (re.sub("0x[0-9a-f]+", "", repr(each.heard)) for each in (called, decorated))
    assert shown == expected
    if "time" in order and "pool" not in order:
        assert f"<locals>.answer{'_later' * is_async} took longer than 0.5 s" in shown


def test_a_pipeline_is_a_call_among_others() -> None:
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1))

    async def broken() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(breaker.call(Pipeline(SemaphoreBulkhead()).call, broken))
    assert breaker.state.value == "OPEN"


def test_somebody_elses_decorator_is_given_the_function_itself() -> None:
    seen: list[str] = []

    def noted(func: Callable[..., Any]) -> Callable[..., Any]:
        seen.append(func.__name__)
        return func

    pipeline = Pipeline(CircuitBreaker(), noted)
    assert pipeline.call(max, 1, 2) == 2
    assert pipeline.call(min, 1, 2) == 1
    assert seen == ["max", "min"]


def test_generators_go_through_what_takes_them() -> None:
    def rows(count: int) -> Iterator[int]:
        yield from range(count)

    assert list(Pipeline(CircuitBreaker(), RateLimitBulkhead()).call(rows, 3)) == [0, 1, 2]
    with pytest.raises(TypeError, match=r"rows at .* is a generator function"):
        Pipeline(CircuitBreaker(), SemaphoreBulkhead()).call(rows, 3)


@pytest.mark.parametrize(
    ("outer", "text"),
    [
        (CircuitBreaker(), "CircuitBreaker outside RetryHandler: the breaker sees one failure"),
        (RateLimitBulkhead(), "RateLimitBulkhead outside RetryHandler: the retry's calls"),
    ],
)
def test_orders_known_to_be_wrong(outer: Any, text: str) -> None:
    with pytest.warns(PipelineOrderWarning, match=text):
        Pipeline(outer, SemaphoreBulkhead(), RetryHandler())


def test_what_is_no_decorator_is_refused() -> None:
    with pytest.raises(
        TypeError, match="3 cannot be put around a function; give a pattern of this package, or any"
    ):
        Pipeline(3)  # type: ignore[arg-type]


def fine(number: int) -> str:
    return f"fine {number}"


async def answer(number: int) -> str:
    return f"answer {number}"


@pytest.mark.parametrize("last", [fine, answer, None])
def test_a_call_is_of_the_function_that_is_given(last: Any) -> None:
    pipeline = Pipeline(RetryHandler(), CircuitBreaker())
    if last is not None:
        pipeline.call(last, 1) if last is fine else asyncio.run(pipeline.call(last, 1))
    for _ in range(2):
        assert pipeline.call(fine, 1) == "fine 1"
        assert asyncio.run(pipeline.call(answer, 2)) == "answer 2"
        assert pipeline.call(lambda number: number, 3) == 3
        for nothing in (None, 3, pipeline.patterns):
            with pytest.raises(TypeError, match="cannot be called"):
                pipeline.call(nothing)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs a function"):
        pipeline.call()  # type: ignore[call-arg]


def test_a_pipeline_keeps_nothing_of_what_it_has_called() -> None:
    class Large:
        def method(self) -> None: ...

    def call(large: Large) -> weakref.ref[Large]:
        pipeline.call(lambda: large.method())  # noqa: PLW0108  # it is about the closure
        pipeline.call(large.method)
        return weakref.ref(large)

    pipeline = Pipeline(RetryHandler())
    gone = call(Large())
    gc.collect()
    assert gone() is None


# Against the same patterns, put around each function by hand.


class Twin:
    """A retry around a breaker around a semaphore, of a clock of its own."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.retry = RetryHandler(
            RetryConfig(3, 1.0, jitter=False, retryable_exceptions=(OSError,)), clock=self.clock
        )
        self.breaker = CircuitBreaker(
            CircuitBreakerConfig(
                4, success_threshold=1, timeout=5.0, expected_exception=OSError,
                ignored_exception=FileExistsError,
            ),
            clock=self.clock,
        )  # fmt: skip
        self.slots = SemaphoreBulkhead(BulkheadConfig(2), clock=self.clock)
        self.heard: list[str] = []
        for pattern in (self.retry, self.breaker, self.slots):
            pattern.listeners.add(self.hear)
            pattern.listeners.add(PoorListener())

    def hear(self, event: Event) -> None:
        self.heard.append(f"{type(event).__name__} at {event.at:g}")

    def seen(self) -> tuple[Any, ...]:
        return (
            self.clock.monotonic(), self.clock.sleeps, self.heard, self.breaker.get_stats(),
            self.slots.get_stats(),
        )  # fmt: skip


OUTCOMES = st.lists(
    st.sampled_from(["fine", OSError, FileExistsError, KeyError, asyncio.CancelledError]),
    min_size=1, max_size=4,
)  # fmt: skip


class PipelineMachine(RuleBasedStateMachine):
    """Whatever happens, by `call` or by decorator, happens to both."""

    @initialize()
    def begin(self) -> None:
        self.by_hand, self.ours = Twin(), Twin()
        self.pipeline = Pipeline(self.ours.retry, self.ours.breaker, self.ours.slots)

    @rule(
        outcomes=OUTCOMES,
        way=st.sampled_from(["call", "decorator"]),
        is_async=st.booleans(),
    )
    def a_call(self, outcomes: list[Any], way: str, is_async: bool) -> None:
        def script() -> Any:
            left = iter(outcomes)

            def work() -> Any:
                outcome = next(left, "fine")
                if isinstance(outcome, type):
                    raise outcome
                return outcome

            async def awork() -> Any:
                await asyncio.sleep(0)
                return work()

            return awork if is_async else work

        def outcome_of(call: Callable[[], Any]) -> Any:
            try:
                result = call()
                return asyncio.run(result) if is_async else result
            except BaseException as error:
                return type(error), str(error)

        twin, work = self.by_hand, script()
        expected = outcome_of(twin.retry(twin.breaker(twin.slots(work))))
        work = script()
        call = partial(self.pipeline.call, work) if way == "call" else self.pipeline(work)
        assert outcome_of(call) == expected

    @rule(seconds=st.sampled_from([1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        for twin in (self.by_hand, self.ours):
            twin.clock.advance(seconds)

    @rule(taken=st.booleans())
    def somebody_takes_or_returns_a_slot(self, taken: bool) -> None:
        free = self.ours.slots.get_stats()["available_permits"]
        for twin in (self.by_hand, self.ours):
            if taken and free:
                twin.slots.acquire()
            elif not taken and free < 2:
                twin.slots.release()

    @invariant()
    def both_are_alike(self) -> None:
        assert self.ours.seen() == self.by_hand.seen()


TestPipelineMachine = PipelineMachine.TestCase
TestPipelineMachine.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)

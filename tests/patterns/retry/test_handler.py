from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import random
import subprocess
import sys
import threading
import weakref

from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from typing import Any
from typing import assert_type

import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import RetryBudget
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience.patterns import RateLimitBulkhead
from pytest_resilience.patterns import RetryAborted
from pytest_resilience.patterns import RetryGaveUp
from pytest_resilience.patterns import RetryScheduled
from pytest_resilience.patterns import RetrySucceeded


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, **config: Any) -> RetryHandler:
    settings = {"jitter": False, **config}
    return RetryHandler(RetryConfig(**settings), name="prices", clock=clock)


class Flaky:
    """Fails a number of times, then gives a result."""

    def __init__(self, failures: int, error: type[BaseException] = ConnectionError) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error(f"failure {self.calls}")
        return "fine"

    async def later(self) -> str:
        await asyncio.sleep(0)
        return self()


def test_the_seeds_defaults() -> None:
    config = RetryConfig()
    assert (config.max_attempts, config.base_delay, config.max_delay) == (3, 1.0, 60.0)
    assert (config.exponential_multiplier, config.jitter) == (2.0, True)
    assert config.retryable_exceptions == (Exception,)


def drive(coroutine: Any) -> Any:
    """Run a coroutine that waits for nothing but its turn, without a loop."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as stop:
        return stop.value


def both(handler: RetryHandler, flaky: Flaky) -> list[Callable[[], Any]]:
    """The same call in every form there is."""

    def by_decorator() -> str:
        return handler(flaky.__call__)()

    def by_await() -> str:
        return str(drive(handler(flaky.later)()))

    def by_block() -> str:
        for attempt in handler:
            with attempt:
                return flaky()
        raise AssertionError("unreachable")

    def by_async_block() -> str:
        async def story() -> str:
            async for attempt in handler:
                with attempt:
                    return await flaky.later()
            raise AssertionError("unreachable")

        return str(drive(story()))

    return [lambda: handler.execute(flaky), by_decorator, by_await, by_block, by_async_block]


FORMS = range(5)


@pytest.mark.parametrize("form", FORMS)
def test_tries_again_with_growing_delays(clock: ManualClock, form: int) -> None:
    handler, flaky = make(clock, max_attempts=4), Flaky(3)
    assert both(handler, flaky)[form]() == "fine"
    assert flaky.calls == 4
    assert clock.sleeps == [1.0, 2.0, 4.0]
    *scheduled, last = handler.events
    assert [(type(each), each.attempt) for each in scheduled] == [
        (RetryScheduled, 1), (RetryScheduled, 2), (RetryScheduled, 3),
    ]  # fmt: skip
    assert isinstance(last, RetrySucceeded)
    assert (last.source, last.call, last.attempt) == ("prices", 1, 4)


@pytest.mark.parametrize("form", FORMS)
def test_p11_p12_gives_up_after_so_many_calls_in_all(clock: ManualClock, form: int) -> None:
    """Three attempts are three calls, and the error is chained to the last of them."""
    handler, flaky = make(clock), Flaky(99)
    with pytest.raises(RetryExhaustedError) as caught:
        both(handler, flaky)[form]()
    assert flaky.calls == 3
    error = caught.value
    assert (error.attempts, error.reason, error.elapsed) == (3, "max_attempts=3", 3.0)
    assert str(error) == (
        "gave up after 3 attempt(s) (max_attempts=3); last error: ConnectionError: failure 3"
    )
    assert error.__cause__ is error.last_exception
    assert str(error.__cause__) == "failure 3"
    last = handler.events[-1]
    assert isinstance(last, RetryGaveUp)
    assert (last.attempt, last.failure) == (3, "ConnectionError: failure 3")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("failures", [1, 2])
def test_what_is_not_to_be_tried_again_passes_as_it_is(
    clock: ManualClock, form: int, failures: int
) -> None:
    handler = make(clock, retryable_exceptions=(ConnectionError,))
    flaky = Flaky(99, KeyError)
    if failures == 2:
        original = flaky.__call__

        def first_retryable() -> str:
            if not flaky.calls:
                flaky.calls += 1
                raise ConnectionError
            return original()

        with pytest.raises(KeyError) as caught:
            handler.execute(first_retryable)
        assert flaky.calls == 2
    else:
        with pytest.raises(KeyError) as caught:
            both(handler, flaky)[form]()
        assert flaky.calls == 1
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_interrupts_and_cancellation_are_never_tried_again(
    clock: ManualClock, error: type[BaseException]
) -> None:
    handler, flaky = make(clock, retryable_exceptions=(BaseException,)), Flaky(1, error)
    with pytest.raises(error):
        handler.execute(flaky)
    assert flaky.calls == 1
    assert handler.events == ()


def test_no_wait_crosses_max_elapsed(clock: ManualClock) -> None:
    handler = make(clock, max_attempts=99, max_elapsed=10.0)

    def slow() -> None:
        clock.advance(0.5)
        raise ConnectionError

    with pytest.raises(RetryExhaustedError, match=r"max_elapsed=10 s"):
        handler.execute(slow)
    assert clock.sleeps == [1.0, 2.0, 4.0]
    assert clock.monotonic() <= 10.0


def test_results_can_be_tried_again(clock: ManualClock) -> None:
    handler = make(clock, retry_on_result=lambda result: result is None)
    results = iter([None, None, 0])
    assert handler.execute(lambda: next(results)) == 0
    with pytest.raises(RetryExhaustedError, match="last result: None") as caught:
        handler.execute(lambda: None)
    assert caught.value.last_exception is None
    assert caught.value.__cause__ is None

    async def nothing() -> None:
        return None

    with pytest.raises(RetryExhaustedError):
        asyncio.run(handler(nothing)())


def test_the_other_side_says_how_long_to_wait(clock: ManualClock) -> None:
    class BusyError(Exception):
        retry_after = 7.5

    handler = make(clock, max_attempts=2, max_delay=5.0)
    with pytest.raises(RetryExhaustedError):
        handler.execute(Flaky(99, BusyError))
    handler = make(clock, max_attempts=2, wait_from=lambda error: 42)
    with pytest.raises(RetryExhaustedError):
        handler.execute(Flaky(99))
    handler = make(clock, max_attempts=2, wait_from=lambda error: None)
    with pytest.raises(RetryExhaustedError):
        handler.execute(Flaky(99))
    assert clock.sleeps == [7.5, 42.0, 1.0]


def test_a_predicate_overrules_the_types(clock: ManualClock) -> None:
    handler = make(clock, is_retryable=lambda error: "1" in str(error))
    with pytest.raises(ConnectionError, match="failure 2"):
        handler.execute(Flaky(99))


def test_a_shared_budget_ends_the_storm(clock: ManualClock) -> None:
    budget = RetryBudget(0.1, reserve=0.0, clock=clock)
    handlers = [make(clock, max_attempts=5, budget=budget, base_delay=0.0) for _ in range(2)]
    calls = 0

    def down() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError

    for number in range(100):
        with pytest.raises(RetryExhaustedError):
            handlers[number % 2].execute(down)
    assert calls == 110
    last = handlers[1].events[-1]
    assert isinstance(last, RetryGaveUp)
    assert last.reason == "the retry budget is spent"


def test_jitter_is_drawn_from_what_was_given(clock: ManualClock) -> None:
    def waits(seed: int) -> list[float]:
        clock.sleeps.clear()
        config = RetryConfig(max_attempts=5, jitter="full")
        handler = RetryHandler(config, clock=clock, random=random.Random(seed))
        with pytest.raises(RetryExhaustedError):
            handler.execute(Flaky(99))
        return list(clock.sleeps)

    assert waits(1) == waits(1) != waits(2)


class Highest:
    """Chance at its worst."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(
    ("jitter", "waits"),
    [
        (True, [1.1, 2.2, 4.4, 8.8, 10.0]),
        ("full", [1.0, 2.0, 4.0, 8.0, 10.0]),
        ("equal", [1.0, 2.0, 4.0, 8.0, 10.0]),
        ("decorrelated", [3.0, 9.0, 10.0, 10.0, 10.0]),  # three times the wait before
    ],
)
def test_the_longest_waits_there_can_be(clock: ManualClock, jitter: Any, waits: Any) -> None:
    config = RetryConfig(max_attempts=6, max_delay=10.0, jitter=jitter)
    with pytest.raises(RetryExhaustedError):
        RetryHandler(config, clock=clock, random=Highest()).execute(Flaky(99))
    assert clock.sleeps == pytest.approx(waits)


def test_p11_calls_share_no_state_among_threads(clock: ManualClock) -> None:
    handler = make(clock, max_attempts=3)
    together = threading.Barrier(32, timeout=10)

    def caller(_: int) -> int:
        flaky = Flaky(2)
        together.wait()
        assert handler.execute(flaky) == "fine"
        return flaky.calls

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(caller, range(32))) == [3] * 32
    assert sorted(clock.sleeps) == [1.0] * 32 + [2.0] * 32
    by_call: dict[int, list[int]] = {}
    for event in handler.events:
        by_call.setdefault(event.call, []).append(event.attempt)
    assert sorted(by_call) == list(range(1, 33))
    assert all(attempts == [1, 2, 3] for attempts in by_call.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("failures", [0, 2, 99])
def test_p16_no_reference_cycle_is_left(clock: ManualClock, form: int, failures: int) -> None:
    handler = make(clock)
    flaky = Flaky(failures)

    def once() -> None:
        flaky.calls = 0
        with contextlib.suppress(RetryExhaustedError):
            both(handler, flaky)[form]()

    def left(action: Callable[[], None]) -> int:
        action()
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                action()
            return gc.collect()
        finally:
            gc.enable()

    assert left(once) == 0


def test_a_handler_is_used_again_and_again(clock: ManualClock) -> None:
    handler = make(clock, max_attempts=2)
    for _ in range(3):
        assert [attempt.number for attempt in handler if not _fail_first(attempt)] == [2]


def _fail_first(attempt: Any) -> bool:
    with attempt:
        if attempt.number == 1:
            raise ConnectionError
    return bool(attempt.number == 1)


def test_generator_functions_are_refused(clock: ManualClock) -> None:
    def rows() -> Any:
        yield 1

    async def arows() -> Any:
        yield 1

    for func in (rows, arows):
        with pytest.raises(TypeError, match="put the retry around what consumes it"):
            make(clock)(func)


def test_listeners_hear_and_cannot_harm(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []

    def hostile(event: Event) -> None:
        raise RuntimeError

    handler = make(clock)
    handler.listeners.add(hostile)
    handler.listeners.add(heard.append)
    assert handler.execute(Flaky(1)) == "fine"
    assert heard == list(handler.events)
    assert [each.name for each in caplog.records].count("pytest_resilience") == 2


def test_a_decorated_function_looks_like_itself(clock: ManualClock) -> None:
    def fetch() -> None: ...

    assert make(clock)(fetch).__name__ == "fetch"


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("max_attempts", 0, ConfigurationError),
        ("max_attempts", 2.0, TypeError),
        ("base_delay", -1, ConfigurationError),
        ("base_delay", float("nan"), ConfigurationError),
        ("base_delay", 61, ConfigurationError),
        ("max_delay", "60", TypeError),
        ("exponential_multiplier", 0.5, ConfigurationError),
        ("jitter", "some", ConfigurationError),
        ("jitter", 1, ConfigurationError),
        ("retryable_exceptions", "OSError", TypeError),
        ("max_elapsed", -1, ConfigurationError),
        ("wait_from", 3, TypeError),
        ("budget", 0.2, TypeError),
    ],
)
def test_nonsense_is_refused_naming_field_and_value(
    field: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=field) as caught:
        RetryConfig(**{field: value})
    assert repr(value) in str(caught.value)


def test_how_a_call_went_is_logged(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pytest_resilience.retry")
    handler = make(clock, max_attempts=2)
    handler.execute(Flaky(1))
    with pytest.raises(RetryExhaustedError):
        handler.execute(Flaky(2))
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "prices: attempt 1 failed, ConnectionError: failure 1; the next in 1 s"),
        ("INFO", "prices: succeeded at attempt 2"),
        ("WARNING", "prices: attempt 1 failed, ConnectionError: failure 1; the next in 1 s"),
        (
            "ERROR",
            "prices: gave up at attempt 2 (max_attempts=2), ConnectionError: failure 2",
        ),
    ]


def test_a_failure_without_a_text_is_a_failure(clock: ManualClock) -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(RetryExhaustedError, match=r"UnprintableError \(its text cannot be had\)"):
        make(clock).execute(Flaky(99, UnprintableError))


def test_errors_do_not_hang_on_one_another(clock: ManualClock) -> None:
    """The second failure did not happen while the first was handled."""
    handler = make(clock, retryable_exceptions=(ConnectionError,))
    errors = [ConnectionError("first"), ConnectionError("second"), KeyError("third")]

    def call() -> None:
        raise errors.pop(0)

    for protected in (handler(call), lambda: handler.execute(call)):
        errors[:] = [ConnectionError("first"), ConnectionError("second"), KeyError("third")]
        with pytest.raises(KeyError) as caught:
            protected()
        assert caught.value.__context__ is caught.value.__cause__ is None


@pytest.mark.parametrize("kind", ["partial", "method", "callable object", "lambda"])
def test_coroutine_functions_in_every_guise(clock: ManualClock, kind: str) -> None:
    flaky = Flaky(2)

    class Later:
        async def __call__(self) -> str:
            return await flaky.later()

    guises: dict[str, Callable[[], Any]] = {
        "partial": functools.partial(Flaky.later, flaky),
        "method": flaky.later,
        "callable object": Later(),
        "lambda": lambda: flaky.later(),  # noqa: PLW0108  # what it is about
    }
    handler = make(clock)
    assert asyncio.run(handler.execute(guises[kind])) == "fine"
    flaky.calls = 0
    assert asyncio.run(handler(guises[kind])()) == "fine"
    assert clock.sleeps == [1.0, 2.0] * 2


def test_a_coroutine_function_that_fails_before_it_awaits(clock: ManualClock) -> None:
    """A plain function may fail once while it makes the coroutine, and once while it runs."""
    errors = [ConnectionError(), None, None]
    flaky = Flaky(1)

    def call() -> Any:
        error = errors.pop(0)
        if error is not None:
            raise error
        return flaky.later()

    assert asyncio.run(make(clock).execute(call)) == "fine"
    assert clock.sleeps == [1.0, 2.0]


def test_generator_functions_are_refused_by_execute_too(clock: ManualClock) -> None:
    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="put the retry around what consumes it"):
        make(clock).execute(rows)
    # Not a generator function: that it returned is all that is asked.
    assert list(make(clock).execute(lambda: rows())) == [1]  # noqa: PLW0108  # as above


def test_elapsed_counts_from_where_it_was_measured(clock: ManualClock) -> None:
    def slow() -> None:
        clock.advance(5)
        raise ConnectionError

    for config, elapsed in (({}, 6.0), ({"max_elapsed": 100.0}, 11.0)):
        with pytest.raises(RetryExhaustedError) as caught:
            make(clock, max_attempts=2, **config).execute(slow)
        assert caught.value.elapsed == elapsed


def test_events_are_bounded_and_can_be_read_at_any_time(clock: ManualClock) -> None:
    handler = make(clock, max_attempts=50, base_delay=0.0)
    running = threading.Event()
    over = threading.Event()

    def read() -> int:
        longest = 0
        while not over.is_set():
            longest = max(longest, len(handler.events))
            running.set()
        return longest

    def call(_: int) -> None:
        with pytest.raises(RetryExhaustedError):
            handler.execute(Flaky(99))

    with ThreadPoolExecutor(9) as pool:
        reader = pool.submit(read)
        assert running.wait(10)
        list(pool.map(call, range(80)))
        over.set()
        assert reader.result(10) <= 1000
    assert len(handler.events) == 1000


def test_no_event_keeps_what_failed_alive(clock: ManualClock) -> None:
    handler = make(clock)

    class Payload:
        pass

    payload = Payload()
    gone = weakref.ref(payload)

    def call(payload: Payload) -> None:
        raise ConnectionError(payload)

    with pytest.raises(RetryExhaustedError):
        handler.execute(call, payload)
    del payload
    assert handler.events
    gc.collect()  # what pytest itself keeps of the error
    assert gone() is None


FORKED = """
import os
from pytest_resilience import ManualClock, RetryConfig, RetryExhaustedError, RetryHandler

handler = RetryHandler(RetryConfig(max_attempts=5, jitter="full"), clock=ManualClock())

def down():
    raise ConnectionError

for _ in range(2):
    if os.fork() == 0:
        try:
            handler.execute(down)
        except RetryExhaustedError:
            os.write(1, (repr([each.delay for each in handler.events[:-1]]) + "\\n").encode())
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_workers_of_a_server_that_forks_do_not_wait_alike() -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True
    )
    first, second = outcome.stdout.splitlines()
    assert first != second


def test_what_type_checkers_see(clock: ManualClock) -> None:
    """Checked by mypy: what is decorated keeps its types."""
    handler = make(clock)

    @handler
    def plain(number: int, *, text: str = "") -> float:
        return number / 2

    @handler
    async def later(number: int) -> bytes:
        return bytes(number)

    assert_type(plain(3, text="three"), float)
    assert_type(handler.execute(plain, 3), float)
    assert_type(asyncio.run(later(3)), bytes)
    assert_type(asyncio.run(handler.execute(later, 3)), bytes)
    if TYPE_CHECKING:
        plain("3")  # type: ignore[arg-type]
        handler.execute(plain, text=3)  # type: ignore[call-arg,arg-type]


def rejecting_breaker(clock: ManualClock) -> Callable[[], Any]:
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1, timeout=30.0), clock=clock)
    with pytest.raises(ConnectionError):
        breaker.call(Flaky(1))
    return breaker(lambda: "well")


def rejecting_limit(clock: ManualClock) -> Callable[[], Any]:
    limit = RateLimitBulkhead(BulkheadConfig(1, window_size=30.0), clock=clock)
    limit.acquire()
    return limit(lambda: "well")


@pytest.mark.parametrize("make_call", [rejecting_breaker, rejecting_limit])
def test_a_rejection_is_not_slept_out_beyond_max_delay(
    clock: ManualClock, make_call: Callable[[ManualClock], Callable[[], Any]]
) -> None:
    call = make_call(clock)
    handler = make(clock, base_delay=0.2, max_delay=2.0)
    with pytest.raises(RetryExhaustedError, match=r"asked to wait 30 s, max_delay=2 s") as caught:
        handler.execute(call)
    assert isinstance(caught.value.__cause__, (CircuitBreakerError, BulkheadRejectedError))
    assert clock.sleeps == []
    clock.advance(28.5)
    assert handler.execute(call) == "well"
    assert clock.sleeps == [1.5]


@pytest.mark.parametrize("make_call", [rejecting_breaker, rejecting_limit])
def test_a_rejection_that_caused_another_error_is_not_slept_out_either(
    clock: ManualClock, make_call: Callable[[ManualClock], Callable[[], Any]]
) -> None:
    call = make_call(clock)

    def fetch() -> None:
        try:
            call()
        except (CircuitBreakerError, BulkheadRejectedError) as rejection:
            raise ConnectionError("no prices") from rejection

    with pytest.raises(RetryExhaustedError, match=r"asked to wait 30 s, max_delay=2 s"):
        make(clock, base_delay=0.2, max_delay=2.0).execute(fetch)
    assert clock.sleeps == []


@pytest.mark.parametrize("make_call", [rejecting_breaker, rejecting_limit])
def test_a_rejection_is_slept_out_for_those_who_say_so(
    clock: ManualClock, make_call: Callable[[ManualClock], Callable[[], Any]]
) -> None:
    call = make_call(clock)
    handler = make(clock, max_delay=2.0, wait_from=lambda error: error.retry_after)
    assert handler.execute(call) == "well"
    assert clock.sleeps == [30.0]


# --- attempts in blocks ---


def make_for_blocks(clock: ManualClock, **config: Any) -> RetryHandler:
    return make(clock, **{"retryable_exceptions": (ConnectionError,), **config})


def fail(attempt_number: int, failures: int) -> None:
    if attempt_number <= failures:
        raise ConnectionError(attempt_number)


def test_an_attempt_knows_its_number_and_then_its_delay(clock: ManualClock) -> None:
    seen = []
    for attempt in make_for_blocks(clock):
        assert attempt.delay is None
        with attempt:
            fail(attempt.number, 2)
        seen.append((attempt.number, attempt.delay))
    assert seen == [(1, 1.0), (2, 2.0), (3, None)]


def test_results_are_judged_when_the_block_tells_them(clock: ManualClock) -> None:
    handler = make_for_blocks(clock, retry_on_result=lambda result: result == 503)
    answers, answer = iter([503, 503, 200]), 0
    for attempt in handler:
        with attempt:
            answer = attempt.returned(next(answers))
    assert answer == 200
    assert clock.sleeps == [1.0, 2.0]
    with pytest.raises(RetryExhaustedError, match="last result: 503") as caught:  # noqa: PT012
        for attempt in handler:
            with attempt:
                attempt.returned(503)
    assert caught.value.last_result == 503


def test_an_error_says_more_than_a_result_before_it(clock: ManualClock) -> None:
    handler = make_for_blocks(clock, max_attempts=1, retry_on_result=lambda result: False)

    def block() -> None:
        for attempt in handler:
            with attempt:
                attempt.returned("fine")
                fail(1, 1)

    with pytest.raises(RetryExhaustedError, match="last error: ConnectionError"):
        block()


def test_blocks_can_be_left_in_every_way(clock: ManualClock) -> None:
    handler, numbers = make_for_blocks(clock), []

    def by_return() -> int:
        for attempt in handler:
            with attempt:
                fail(attempt.number, 1)
                return attempt.number
        raise AssertionError("unreachable")

    assert by_return() == 2
    for attempt in handler:
        with attempt:
            fail(attempt.number, 1)
            break
    assert attempt.number == 2
    for attempt in handler:
        numbers.append(attempt.number)
        with attempt:
            fail(attempt.number, 1)
            continue
    assert numbers == [1, 2]


def test_an_error_that_passed_ends_it_even_if_somebody_catches_it(clock: ManualClock) -> None:
    numbers = []
    for attempt in make_for_blocks(clock):
        numbers.append(attempt.number)
        with contextlib.suppress(KeyError), attempt:
            raise KeyError
    assert numbers == [1]


@pytest.mark.parametrize("form", ["for", "async for"])
def test_an_attempt_has_to_be_used(clock: ManualClock, form: str) -> None:
    def block() -> None:
        for _ in make_for_blocks(clock):
            pass

    async def async_block() -> None:
        async for _ in make_for_blocks(clock):
            pass

    with pytest.raises(RuntimeError, match=r"attempt 1 was not used; put `with attempt:` around"):
        block() if form == "for" else asyncio.run(async_block())


def test_an_attempt_is_for_one_with(clock: ManualClock) -> None:
    attempt = next(iter(make_for_blocks(clock)))
    with attempt:
        pass
    with pytest.raises(RuntimeError, match=r"attempt 1 was entered before; each is for one"):
        attempt.__enter__()


def test_p11_two_loops_share_nothing(clock: ManualClock) -> None:
    """One iterator for all callers would hand the one the longer waits of the other."""
    handler = make_for_blocks(clock, max_attempts=4)
    first, second = iter(handler), iter(handler)
    delays: dict[str, list[float | None]] = {"first": [], "second": []}
    for _ in range(3):
        for name, attempts in (("first", first), ("second", second)):
            attempt = next(attempts)
            with attempt:
                fail(1, 1)
            delays[name].append(attempt.delay)
    assert delays == {"first": [1.0, 2.0, 4.0], "second": [1.0, 2.0, 4.0]}


def test_cancelled_while_waiting() -> None:
    class Held:
        """A clock on which a sleep never ends."""

        def monotonic(self) -> float:
            return 0.0

        def time(self) -> float:
            return 0.0

        def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

        async def asleep(self, seconds: float) -> None:
            await asyncio.get_running_loop().create_future()

    handler = RetryHandler(RetryConfig(), clock=Held())

    def check() -> None:
        scheduled, aborted = handler.events[-2:]
        assert isinstance(scheduled, RetryScheduled)
        assert isinstance(aborted, RetryAborted)
        assert (aborted.call, aborted.attempt) == (scheduled.call, 1)

    def call() -> None:
        raise ConnectionError

    async def later() -> None:
        call()

    async def block() -> None:
        async for attempt in handler:
            with attempt:
                call()

    async def cancelled(coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        check()

    asyncio.run(cancelled(handler(later)()))
    asyncio.run(cancelled(block()))
    with pytest.raises(KeyboardInterrupt):
        handler.execute(call)
    check()
    assert len(handler.events) == 6


def test_cancelled_in_a_later_attempt(clock: ManualClock) -> None:
    handler = make_for_blocks(clock)

    async def block() -> None:
        async for attempt in handler:
            with attempt:
                fail(attempt.number, 1)
                raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(block())
    last = handler.events[-1]
    assert isinstance(last, RetryAborted)
    assert (last.attempt, last.failure) == (2, "CancelledError")


def test_leaving_an_async_block_leaves_nothing_to_clean_up(clock: ManualClock) -> None:
    """An async generator would be closed by a task of its own, some time."""
    handler = make_for_blocks(clock)

    async def story() -> set[asyncio.Task[Any]]:
        async def block() -> None:
            async for attempt in handler:
                with attempt:
                    return

        await block()
        gc.collect()
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(story()) == set()

"""Rates, slow calls, other ways to call, states that somebody sets."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import CircuitState
from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_state
from pytest_resilience.assertions import assert_fails_fast
from pytest_resilience.patterns import CircuitRejection
from pytest_resilience.patterns import CircuitTransition
from pytest_resilience.patterns import CircuitWouldOpen


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, **config: Any) -> CircuitBreaker:
    return CircuitBreaker(CircuitBreakerConfig(**config), name="prices", clock=clock)


def broken() -> None:
    raise ConnectionError("gone")


def run(breaker: CircuitBreaker, story: str) -> None:
    """Call it once per letter: s(uccess) or f(ailure)."""
    for letter in story:
        if letter == "s":
            breaker.call(int)
        else:
            with pytest.raises(ConnectionError):
                breaker.call(broken)


def moves(breaker: CircuitBreaker) -> list[str]:
    return [each.new.value for each in breaker.transitions]


def test_a_failure_rate_over_the_last_calls(clock: ManualClock) -> None:
    breaker = make(clock, failure_rate_threshold=0.5, window_size=4, minimum_calls=3)
    run(breaker, "fs")
    assert moves(breaker) == []  # too few to tell
    run(breaker, "ssfs")
    assert moves(breaker) == []
    run(breaker, "f")
    assert moves(breaker) == ["OPEN"]
    assert breaker.transitions[0].reason == "2 of 4 calls failed, with ConnectionError"


def test_a_failure_rate_over_the_last_seconds(clock: ManualClock) -> None:
    breaker = make(clock, failure_rate_threshold=0.5, window_seconds=10.0, minimum_calls=2)
    run(breaker, "f")
    clock.advance(20)
    run(breaker, "sf")
    assert moves(breaker) == ["OPEN"]
    assert breaker.transitions[0].reason == "1 of 2 calls failed, with ConnectionError"


def test_slow_calls_are_failures_where_failures_in_a_row_count(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=2, slow_call_duration=1.0)
    breaker.call(clock.sleep, 1.0)
    breaker.call(clock.sleep, 1.1)
    breaker.call(clock.sleep, 1.1)
    assert breaker.transitions[-1].reason == "2 failures in a row, too slow"
    clock.advance(60)
    breaker.call(clock.sleep, 5)
    assert breaker.transitions[-1].reason == "a trial call failed, too slow"


def test_a_rate_of_slow_calls(clock: ManualClock) -> None:
    breaker = make(
        clock, slow_call_duration=1.0, slow_call_rate_threshold=0.6, window_size=5, minimum_calls=5
    )
    for seconds in (2, 0, 2, 0, 2):
        breaker.call(clock.sleep, seconds)
    assert breaker.transitions[0].reason == "3 of 5 calls were slow, too slow"


def test_outcomes_by_exception_predicate_and_result(clock: ManualClock) -> None:
    def http_status(error: Exception) -> bool:
        return isinstance(error, OSError) and error.errno == 500

    breaker = make(clock, failure_threshold=2, is_failure=http_status)
    for _ in range(5):
        with pytest.raises(OSError, match="404"):
            breaker.call(_raise, OSError(404, "404"))
    for _ in range(2):
        with pytest.raises(OSError, match="500"):
            breaker.call(_raise, OSError(500, "500"))
    assert moves(breaker) == ["OPEN"]

    breaker = make(clock, failure_threshold=1, ignored_exception=ConnectionError)
    run(breaker, "fff")
    assert moves(breaker) == []

    breaker = make(clock, failure_threshold=1, is_failed_result=lambda result: result is None)
    assert breaker.call(lambda: None) is None
    assert breaker.transitions[0].reason == "1 failures in a row, by its result"


def _raise(error: Exception) -> None:
    raise error


def test_no_more_trial_calls_at_once_than_configured(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1, success_threshold=3, half_open_max_calls=1)
    run(breaker, "f")
    clock.advance(60)
    first = breaker.acquire()
    with pytest.raises(CircuitBreakerError, match="its trial calls are in progress"):
        breaker.acquire()
    first.release()  # it said nothing: its slot is free again
    run(breaker, "ss")
    last = breaker.acquire()
    with pytest.raises(CircuitBreakerError):
        breaker.acquire()  # one success is missing, and one call is under way for it
    last.returned("fine")
    assert moves(breaker) == ["OPEN", "HALF_OPEN", "CLOSED"]


def test_trial_calls_that_never_end_are_given_up(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1, success_threshold=1, timeout=10.0)
    run(breaker, "f")
    clock.advance(10)
    lost = breaker.acquire()
    clock.advance(9.9)
    with pytest.raises(CircuitBreakerError):
        breaker.acquire()
    clock.advance(0.1)
    again = breaker.acquire()
    lost.raised(ConnectionError())  # too late to matter
    again.returned(1)
    assert moves(breaker) == ["OPEN", "HALF_OPEN", "CLOSED"]


def test_how_a_call_ended_is_said_once(clock: ManualClock) -> None:
    permit = make(clock).acquire()
    permit.returned(1)
    with pytest.raises(RuntimeError, match="a permit is for one call"):
        permit.raised(OSError())


def test_open_time_as_a_function(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[tuple[int, BaseException | None]] = []

    def timeout(times: int, error: BaseException | None) -> float:
        assert breaker.get_stats()["state"] == "OPEN"  # no lock is held
        asked.append((times, error))
        if times == 3:
            raise RuntimeError("cannot say")
        return 10.0 * times

    breaker = make(clock, failure_threshold=1, success_threshold=1, timeout=timeout)
    for seconds in (10, 20, 60):
        run(breaker, "f")
        with pytest.raises(CircuitBreakerError) as rejected:
            breaker.call(int)
        assert rejected.value.retry_after == seconds
        clock.advance(seconds)
    run(breaker, "s")
    run(breaker, "f")
    assert [times for times, _ in asked] == [1, 2, 3, 1]
    assert all(isinstance(error, ConnectionError) for _, error in asked)
    assert "cannot say how long to stay open" in caplog.text


def test_states_that_somebody_sets(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1)
    breaker.force_open()
    clock.advance(1e9)
    with pytest.raises(CircuitBreakerError) as rejected:
        breaker.call(int)
    assert str(rejected.value) == "prices is FORCED_OPEN: nobody can say until when"
    assert rejected.value.retry_after is None
    breaker.metrics_only()
    run(breaker, "ff")
    assert breaker.get_stats()["failure_count"] == 2
    breaker.force_closed()
    run(breaker, "ff")
    assert breaker.get_stats()["failure_count"] == 0
    breaker.reset()
    assert breaker.get_stats()["last_failure_time"] is None
    run(breaker, "f")
    assert moves(breaker) == ["FORCED_OPEN", "METRICS_ONLY", "DISABLED", "CLOSED", "OPEN"]
    breaker.reset()
    run(breaker, "s")


@pytest.mark.parametrize("story", ["f", "fff", "fff half open"])
def test_an_isolated_breaker_goes_back_to_what_it_was(clock: ManualClock, story: str) -> None:
    breaker = make(clock, failure_threshold=3, success_threshold=2, timeout=10.0)
    heard: list[Event] = []
    breaker.listeners.add(heard.append)
    letters, _, half_open = story.partition(" ")
    run(breaker, letters)
    trials = 0
    if half_open:
        clock.advance(10)
        run(breaker, "s")
        breaker.acquire()  # never ends: what isolates it forgets the trial
        trials = 2
    before, stats = breaker.state, breaker.get_stats()
    with breaker.isolate():
        assert_circuit_state(breaker, "FORCED_OPEN")
        assert_fails_fast(breaker)
        isolated = {"state": "FORCED_OPEN", "success_count": 0, "failure_rate": None}
        assert breaker.get_stats() == {**stats, **isolated, "total_rejected": 1}
        clock.advance(4)
        with pytest.raises(CircuitBreakerError, match="FORCED_OPEN: nobody can say until when"):
            breaker.call(int)
    assert breaker.state is before
    assert breaker.get_stats()["failure_count"] == stats["failure_count"]
    assert breaker.get_stats()["success_count"] == stats["success_count"]
    changes = [each for each in heard if isinstance(each, CircuitTransition)][-2:]
    assert [each.reason for each in changes] == ["isolated", "isolated no more"]
    assert [each.new.value for each in changes] == ["FORCED_OPEN", before.value]
    if story == "fff":
        with pytest.raises(CircuitBreakerError) as rejected:
            breaker.call(int)
        assert rejected.value.retry_after == 6  # its time has gone on
    if trials:
        run(breaker, "s")
        assert_circuit_closed(breaker)


def test_isolations_nest_and_end_with_what_somebody_sets(clock: ManualClock) -> None:
    breaker = make(clock)
    first, second = breaker.isolate(), breaker.isolate()
    first.end()
    first.end()
    assert_circuit_state(breaker, CircuitState.FORCED_OPEN)
    second.end()
    assert_circuit_state(breaker, CircuitState.CLOSED)
    assert moves(breaker) == ["FORCED_OPEN", "CLOSED"]
    with breaker.isolate():
        breaker.metrics_only()
    assert_circuit_state(breaker, "METRICS_ONLY")
    with pytest.raises(AssertionError, match="to be CLOSED, but it is METRICS_ONLY"):
        assert_circuit_closed(breaker)


def test_a_call_that_ends_while_isolated_says_nothing(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1)
    call = breaker.acquire()
    with breaker.isolate():
        call.raised(ConnectionError())
    assert_circuit_closed(breaker)


def test_a_breaker_that_only_watches_tells_when_it_would_open(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=2)
    heard: list[Event] = []
    breaker.listeners.add(heard.append)
    breaker.metrics_only()
    run(breaker, "f")
    assert breaker.get_stats()["would_open"] is None
    run(breaker, "ff")
    assert breaker.get_stats()["would_open"] == "3 failures in a row"
    run(breaker, "sff")
    told = [each.reason for each in heard if isinstance(each, CircuitWouldOpen)]
    assert told == ["2 failures in a row, with ConnectionError"] * 2
    assert moves(breaker) == ["METRICS_ONLY"]
    breaker.reset()
    assert breaker.get_stats()["would_open"] is None


def test_a_breaker_that_only_watches_tells_of_rates(clock: ManualClock) -> None:
    breaker = make(clock, failure_rate_threshold=0.5, window_size=4, minimum_calls=4)
    heard: list[Event] = []
    breaker.metrics_only()
    breaker.listeners.add(heard.append)
    run(breaker, "fssfs")
    assert breaker.get_stats()["would_open"] is None
    run(breaker, "f")
    told = [each.reason for each in heard if isinstance(each, CircuitWouldOpen)]
    assert told == ["2 of 4 calls failed, with ConnectionError"] * 2
    assert breaker.get_stats()["would_open"] == "2 of 4 calls failed"


def test_opened_for_a_time(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1, success_threshold=1, timeout=10.0)
    breaker.open_for(30)
    assert breaker.transitions[-1].reason == "asked to, for 30 s"
    breaker.open_for(5)  # no sooner than that
    clock.advance(29)
    with pytest.raises(CircuitBreakerError) as rejected:
        breaker.call(int)
    assert rejected.value.retry_after == 1
    clock.advance(1)
    run(breaker, "f")  # and then as always: a trial call
    breaker.open_for(20)
    clock.advance(20)
    run(breaker, "s")
    assert moves(breaker) == ["OPEN", "HALF_OPEN", "OPEN", "HALF_OPEN", "CLOSED"]


@pytest.mark.parametrize("name", ["force_open", "force_closed", "metrics_only", "isolate"])
def test_what_somebody_has_set_is_not_opened_for_a_time(clock: ManualClock, name: str) -> None:
    breaker = make(clock)
    getattr(breaker, name)()
    before = breaker.state
    breaker.open_for(1)
    assert breaker.state is before


def test_a_time_of_which_nobody_can_say_how_long(clock: ManualClock) -> None:
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="seconds="):
            make(clock).open_for(seconds)


def test_a_call_that_failed_whatever_it_returned(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1, expected_exception=OSError)
    breaker.acquire().failed()
    assert breaker.transitions[-1].reason == "1 failures in a row, by its result"


def test_p7_a_block_checks_open_and_counts(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1, timeout=10.0, success_threshold=1)
    with pytest.raises(ConnectionError), breaker:
        broken()
    with pytest.raises(CircuitBreakerError), breaker:
        pytest.fail("the block was entered")
    clock.advance(10)
    other = make(clock)
    with breaker, other, other:
        pass
    assert moves(breaker) == ["OPEN", "HALF_OPEN", "CLOSED"]


def test_blocks_of_tasks_do_not_mix(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1)

    async def block(fails: bool, inside: asyncio.Event, leave: asyncio.Event) -> None:
        async with breaker:
            inside.set()
            await leave.wait()
            if fails:
                broken()

    async def story() -> None:
        first, second = [(asyncio.Event(), asyncio.Event()) for _ in range(2)]
        good = asyncio.create_task(block(False, *first))
        bad = asyncio.create_task(block(True, *second))
        await first[0].wait()
        await second[0].wait()
        first[1].set()
        await good
        assert moves(breaker) == []
        second[1].set()
        with pytest.raises(ConnectionError):
            await bad

    asyncio.run(story())
    assert moves(breaker) == ["OPEN"]


def test_blocks_that_end_in_another_order_than_they_began(clock: ManualClock) -> None:
    """As those in two generators do, which whoever iterates takes turns with."""
    good, bad = make(clock, failure_threshold=1), make(clock, failure_threshold=1)

    def block(breaker: CircuitBreaker, fails: bool) -> Iterator[None]:
        with breaker:
            yield
            if fails:
                broken()

    first, second, third = block(bad, True), block(bad, False), block(good, True)
    for each in (first, second, third):
        next(each)
    with pytest.raises(ConnectionError):
        next(first)
    assert (moves(bad), moves(good)) == (["OPEN"], [])
    with pytest.raises(StopIteration):
        next(second)
    good.reset()
    with pytest.raises(ConnectionError):
        next(third)  # it began before: its block is still known, and too late to count
    assert (moves(bad), moves(good)) == (["OPEN"], ["CLOSED"])
    with pytest.raises(ConnectionError), good:
        broken()  # nothing of the others is left around it
    assert moves(good) == ["CLOSED", "OPEN"]


def test_a_block_that_is_left_in_another_context_counts(clock: ManualClock) -> None:
    """Frameworks run the two halves of a dependency each in a thread and context of its own."""
    breaker = make(clock, failure_threshold=2, success_threshold=1, timeout=10.0)

    @contextlib.contextmanager
    def dependency() -> Iterator[None]:
        with breaker:
            yield

    def elsewhere(half: Callable[..., Any], *arguments: Any) -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(contextvars.copy_context().run, half, *arguments).result()

    def request(*error: Any) -> None:
        block = dependency()
        elsewhere(block.__enter__)
        elsewhere(block.__exit__, *error)

    for _ in range(2):
        request(ConnectionError, ConnectionError(), None)
    assert moves(breaker) == ["OPEN"]
    clock.advance(10)
    request(None, None, None)
    assert moves(breaker) == ["OPEN", "HALF_OPEN", "CLOSED"]


def test_a_block_left_in_another_context_is_no_trial_call_where_none_is_in_progress(
    clock: ManualClock,
) -> None:
    breaker = make(clock, failure_threshold=1, success_threshold=2, timeout=10.0)
    contextvars.copy_context().run(breaker.__enter__)
    run(breaker, "f")
    clock.advance(10)
    run(breaker, "s")
    breaker.__exit__(None, None, None)
    assert breaker.get_stats()["success_count"] == 1
    assert breaker.state.value == "HALF_OPEN"


def test_a_block_left_in_a_copied_context_is_left_where_it_was_entered(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1, success_threshold=1, timeout=10.0)
    with contextlib.ExitStack() as around:
        around.enter_context(breaker)
        contextvars.copy_context().run(around.close)
    run(breaker, "f")
    clock.advance(10)
    contextvars.Context().run(breaker.__enter__)
    breaker.__exit__(None, None, None)  # of the trial call, not of the block that began before
    assert moves(breaker) == ["OPEN", "HALF_OPEN", "CLOSED"]


def test_a_block_has_no_result_to_be_judged(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1, is_failed_result=lambda answer: answer.status > 499)
    with breaker:
        pass

    @breaker
    async def rows() -> AsyncIterator[int]:
        yield 1

    async def story() -> None:
        async with breaker:
            pass
        assert [row async for row in rows()] == [1]

    asyncio.run(story())
    assert moves(breaker) == []


@pytest.mark.parametrize("predicate", ["is_failure", "is_failed_result"])
def test_a_predicate_that_raises_takes_no_slot_along(clock: ManualClock, predicate: str) -> None:
    answers: list[bool] = []

    def judge(ending: Any) -> bool:
        return answers.pop()

    breaker = make(
        clock, failure_threshold=1, success_threshold=1, timeout=10.0, **{predicate: judge}
    )
    call = partial(breaker.call, int) if predicate == "is_failed_result" else partial(
        breaker.call, broken
    )  # fmt: skip
    answers.append(True)
    with contextlib.suppress(ConnectionError):
        call()
    assert moves(breaker) == ["OPEN"]
    clock.advance(10)
    for _ in range(3):
        with pytest.raises(IndexError):
            call()
    assert breaker.state.value == "HALF_OPEN"


@pytest.mark.parametrize("listened", ["transition", "timeout"])
def test_an_interrupt_in_what_the_user_gave_leaves_the_breaker_working(
    clock: ManualClock, listened: str
) -> None:
    """KeyboardInterrupt reaches whatever runs, so a listener, or a function that is asked, too."""

    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    breaker = make(
        clock, failure_threshold=1, success_threshold=1,
        timeout=interrupted if listened == "timeout" else 10.0,
    )  # fmt: skip
    if listened == "timeout":
        with pytest.raises(KeyboardInterrupt):
            breaker.call(broken)
        clock.advance(60.0)  # as when the function cannot say
    else:
        run(breaker, "f")
        clock.advance(10.0)
        remove = breaker.listeners.add(interrupted)
        with pytest.raises(KeyboardInterrupt):
            breaker.call(pytest.fail, "it was called")
        remove()
        assert breaker.state.value == "HALF_OPEN"
    assert breaker.call(int) == 0  # its only slot is free
    assert breaker.state.value == "CLOSED"


def test_a_rejection_that_interrupts_a_listener_takes_no_slot(clock: ManualClock) -> None:
    def interrupted(event: Event) -> None:
        if isinstance(event, CircuitRejection):
            raise KeyboardInterrupt

    breaker = make(clock, failure_threshold=1, success_threshold=1)
    run(breaker, "f")
    clock.advance(60)
    breaker.listeners.add(interrupted)
    trial = breaker.acquire()
    with pytest.raises(KeyboardInterrupt):
        breaker.acquire()
    trial.returned(1)
    assert breaker.state.value == "CLOSED"


def test_a_generator_that_cannot_be_called_takes_no_slot_along(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1, success_threshold=1, timeout=10.0)
    run(breaker, "f")
    clock.advance(10)

    @breaker
    def rows(count: int) -> Iterator[int]:
        yield count

    @breaker
    async def later(count: int) -> AsyncIterator[int]:
        yield count

    first: Any = rows
    second: Any = later

    async def start() -> None:
        async for _ in second():
            pass

    for call in (lambda: list(first()), lambda: asyncio.run(start())):
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            call()
        assert moves(breaker)[-1] == "OPEN"  # it is a failure like any other, and counted
        clock.advance(10)
    assert list(rows(1)) == [1]
    assert moves(breaker)[-1] == "CLOSED"


def test_generators_are_protected_while_they_are_iterated(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1)

    @breaker
    def rows(fails: bool) -> Iterator[Any]:
        received = yield 1
        yield received
        if fails:
            broken()

    generator: Any = rows(fails=False)
    assert [next(generator), generator.send(7), list(generator)] == [1, 7, []]
    partly = rows(fails=True)
    next(partly)
    partly.close()  # type: ignore[attr-defined]  # whoever iterated has had enough: no failure
    assert moves(breaker) == []
    with pytest.raises(ConnectionError):
        list(rows(fails=True))
    assert moves(breaker) == ["OPEN"]
    with pytest.raises(CircuitBreakerError):
        next(rows(fails=False))


def test_async_generators_are_protected_while_they_are_iterated(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1)
    closed = []

    @breaker
    async def rows(fails: bool) -> AsyncIterator[Any]:
        try:
            received = yield 1
            try:
                yield received
            except KeyError:
                yield "caught"
            if fails:
                broken()
        finally:
            closed.append(fails)

    async def story() -> None:
        generator: Any = rows(fails=False)
        assert await anext(generator) == 1
        assert await generator.asend(7) == 7
        assert await generator.athrow(KeyError()) == "caught"
        assert [row async for row in generator] == []
        partly: Any = rows(fails=True)
        await anext(partly)
        await partly.aclose()
        assert closed == [False, True]
        assert moves(breaker) == []
        with pytest.raises(ConnectionError):
            [row async for row in rows(fails=True)]
        with pytest.raises(CircuitBreakerError):
            await anext(rows(fails=False))

    asyncio.run(story())


def test_coroutines_under_a_window(clock: ManualClock) -> None:
    breaker = make(clock, failure_rate_threshold=1.0, window_size=2, minimum_calls=2)

    @breaker
    async def call(fails: bool) -> str:
        if fails:
            broken()
        return "fine"

    async def story() -> None:
        assert await call(False) == "fine"
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await call(True)
        with pytest.raises(CircuitBreakerError):
            await call(False)

    asyncio.run(story())


def test_listeners_hear_of_refusals(clock: ManualClock) -> None:
    breaker = make(clock)
    heard: list[Event] = []
    breaker.force_open()
    breaker.listeners.add(heard.append)
    with pytest.raises(CircuitBreakerError):
        breaker.call(int)
    (event,) = heard
    assert isinstance(event, CircuitRejection)
    assert event.state.value == "FORCED_OPEN"


def test_p6_each_refusal_is_an_error_of_its_own(clock: ManualClock) -> None:
    """One error object raised again and again would grow a traceback without end."""
    breaker = make(clock)
    breaker.force_open()
    errors = set()
    for _ in range(3):
        with pytest.raises(CircuitBreakerError) as rejected:
            breaker.call(int)
        errors.add(id(rejected.value))
        frames, traceback = 0, rejected.value.__traceback__
        while traceback is not None:
            frames, traceback = frames + 1, traceback.tb_next
        assert frames < 8


def test_p9_a_keyboard_interrupt_is_no_failure(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1, expected_exception=BaseException)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaker.call(interrupted)
    assert moves(breaker) == []


def test_p10_the_call_that_opens_it_raises_its_own_error(clock: ManualClock) -> None:
    breaker = make(clock, failure_threshold=1)
    with pytest.raises(ConnectionError, match="gone") as caught:
        breaker.call(broken)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"failure_rate_threshold": 0.5}, "a rate needs one of them, and one only"),
        (
            {"failure_rate_threshold": 0.5, "window_size": 5, "window_seconds": 5.0},
            "a rate needs one of them",
        ),
        ({"window_size": 20}, "a window needs failure_rate_threshold or slow_call_rate_threshold"),
        (
            {"failure_rate_threshold": 0.5, "window_size": 5},
            "minimum_calls=10: at most window_size=5 calls are ever in the window; give less",
        ),
        (
            {"slow_call_rate_threshold": 0.5, "window_size": 20},
            "slow_call_rate_threshold needs slow_call_duration",
        ),
        ({"failure_rate_threshold": 1.5, "window_size": 20}, "failure_rate_threshold=1.5"),
        ({"slow_call_duration": 0}, "slow_call_duration=0"),
    ],
)
def test_configurations_that_make_no_sense(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CircuitBreakerConfig(**config)
    assert why in str(caught.value)


def test_a_rate_of_failures_among_trial_calls(clock: ManualClock) -> None:
    breaker = make(
        clock, failure_threshold=1, success_threshold=4, half_open_failure_rate_threshold=0.5,
        timeout=10.0,
    )  # fmt: skip
    run(breaker, "f")
    clock.advance(10)
    run(breaker, "sfs")
    assert breaker.get_stats()["failure_rate"] == pytest.approx(1 / 3)
    run(breaker, "s")  # one of four failed
    assert breaker.state is CircuitState.CLOSED
    run(breaker, "f")
    clock.advance(10)
    run(breaker, "ff")  # the other two cannot change it
    assert moves(breaker)[-2:] == ["HALF_OPEN", "OPEN"]
    assert "2 of 4 trial calls failed" in breaker.transitions[-1].reason


def test_totals_of_many_threads_lose_nothing() -> None:
    breaker = CircuitBreaker(CircuitBreakerConfig(count_calls=True, failure_threshold=10**6))
    together = threading.Barrier(8, timeout=30)

    def caller(number: int) -> None:
        together.wait()
        for _ in range(500):
            with contextlib.suppress(OSError):
                breaker.call(fails if number == 0 else int)

    def fails() -> None:
        raise OSError

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(caller, range(8)))
    stats = breaker.get_stats()
    assert (stats["total_successes"], stats["total_failures"]) == (3500, 500)
    breaker.reset()
    assert breaker.get_stats()["total_failures"] == 500

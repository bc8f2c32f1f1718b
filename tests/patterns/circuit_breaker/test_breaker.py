from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import CircuitState
from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience.patterns import CircuitTransition
from pytest_resilience.patterns.circuit_breaker.breaker import _innermost
from pytest_resilience.patterns.circuit_breaker.states import HalfOpen


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> CircuitBreaker:
    config = CircuitBreakerConfig(
        failure_threshold=3, success_threshold=2, timeout=30.0, expected_exception=(OSError,)
    )
    return CircuitBreaker(config, name="prices", clock=clock)


def fine() -> str:
    return "fine"


def broken() -> None:
    raise ConnectionError("gone")


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError, match="gone"):
            breaker.call(broken)


def open_up(breaker: CircuitBreaker) -> None:
    fail(breaker, breaker.config.failure_threshold)


def moves(breaker: CircuitBreaker) -> list[str]:
    return [each.new.value for each in breaker.transitions]


def test_the_seeds_defaults() -> None:
    config = CircuitBreakerConfig()
    assert (config.failure_threshold, config.success_threshold, config.timeout) == (5, 3, 60.0)
    assert config.expected_exception == (Exception,)


def test_opens_after_failures_in_a_row_and_refuses(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    fail(breaker, 2)
    assert breaker.call(fine) == "fine"
    fail(breaker, 3)
    assert breaker.state.value == "OPEN"
    clock.advance(10)
    with pytest.raises(
        CircuitBreakerError, match=r"(?m)^prices is OPEN: try again in 20 s$"
    ) as rejected:
        breaker.call(pytest.fail, "it was called")
    assert (rejected.value.name, rejected.value.state, rejected.value.retry_after) == (
        "prices", "OPEN", 20.0,
    )  # fmt: skip


def test_closes_after_enough_successes(breaker: CircuitBreaker, clock: ManualClock) -> None:
    open_up(breaker)
    clock.advance(30)
    assert breaker.state.value == "OPEN"  # looking changes nothing
    breaker.call(fine)
    assert moves(breaker) == ["OPEN", "HALF_OPEN"]
    breaker.call(fine)
    assert moves(breaker) == ["OPEN", "HALF_OPEN", "CLOSED"]
    fail(breaker, 2)
    assert len(moves(breaker)) == 3  # it counts from nothing again


def test_seed_defect_half_open_failure_needed_the_full_threshold(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    open_up(breaker)
    clock.advance(30)
    breaker.call(fine)
    fail(breaker)
    assert moves(breaker) == ["OPEN", "HALF_OPEN", "OPEN"]
    clock.advance(29.9)
    with pytest.raises(CircuitBreakerError):
        breaker.call(fine)


def test_seed_defect_lock_was_held_during_the_call(breaker: CircuitBreaker) -> None:
    """Calls run side by side: each waits until all are inside."""
    together = threading.Barrier(8, timeout=10)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: breaker.call(together.wait), range(8)))


def test_p1_seed_defect_every_caller_was_let_through_half_open(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    open_up(breaker)
    clock.advance(30)
    release = threading.Event()
    arrived = threading.Barrier(32, timeout=10)

    def trial() -> None:
        assert release.wait(10)

    def caller(_: int) -> str:
        arrived.wait()
        try:
            breaker.call(trial)
        except CircuitBreakerError as rejected:
            assert (rejected.state, rejected.retry_after) == ("HALF_OPEN", None)  # noqa: PT017  # others get through
            rejections.release()
            return str(rejected)
        return "called"

    rejections = threading.Semaphore(0)
    with ThreadPoolExecutor(32) as pool:
        results = [pool.submit(caller, number) for number in range(32)]
        for _ in range(30):
            assert rejections.acquire(timeout=10)
        release.set()
        outcomes = [result.result(10) for result in results]
    assert outcomes.count("called") == 2
    assert outcomes.count("prices is HALF_OPEN: its trial calls are in progress") == 30
    assert breaker.state.value == "CLOSED"


def test_p2_late_results_of_an_earlier_state_do_not_count(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    @breaker
    def slow(outcome: Callable[[], Any]) -> Any:
        open_up(breaker)  # meanwhile
        clock.advance(25)
        return outcome()

    slow(fine)
    assert breaker.state.value == "OPEN"
    clock.advance(5)
    breaker.call(fine)
    breaker.call(fine)
    with pytest.raises(ConnectionError):
        slow(broken)
    clock.advance(5)  # 30 s after it opened, not after the late failure
    breaker.call(fine)
    assert breaker.state.value == "HALF_OPEN"


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, asyncio.CancelledError])
def test_other_exceptions_count_neither_way(
    breaker: CircuitBreaker, clock: ManualClock, error: type[BaseException]
) -> None:
    def other() -> None:
        raise error

    fail(breaker, 2)
    with pytest.raises(error):
        breaker.call(other)
    assert breaker.get_stats()["failure_count"] == 2
    fail(breaker)
    clock.advance(30)
    for _ in range(5):  # each returns its slot
        with pytest.raises(error):
            breaker.call(other)
    assert breaker.state.value == "HALF_OPEN"
    breaker.call(fine)
    breaker.call(fine)
    assert breaker.state.value == "CLOSED"


def test_p3_cancellation_is_no_failure_even_where_all_is_expected(clock: ManualClock) -> None:
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1), clock=clock)

    @breaker
    async def endless() -> None:
        await asyncio.Event().wait()

    async def cancel() -> None:
        task = asyncio.create_task(endless())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert breaker.state.value == "CLOSED"


def test_p4_coroutine_functions_are_awaited_and_counted(breaker: CircuitBreaker) -> None:
    @breaker
    async def answer(value: str) -> str:
        await asyncio.sleep(0)
        if value == "broken":
            broken()
        return value

    async def story() -> None:
        assert await answer("fine") == "fine"
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await breaker.call(answer.__wrapped__, "broken")  # type: ignore[attr-defined]
        with pytest.raises(CircuitBreakerError):
            await answer("fine")

    asyncio.run(story())


def test_a_decorated_function_looks_like_itself(breaker: CircuitBreaker) -> None:
    assert breaker(fine).__name__ == "fine"
    assert breaker(fine)() == "fine"


def test_stats_have_the_seeds_keys(breaker: CircuitBreaker, clock: ManualClock) -> None:
    seed = {
        "state": "CLOSED",
        "failure_count": 0,
        "success_count": 0,
        "last_failure_time": None,
        "time_since_last_failure": None,
    }
    assert breaker.get_stats().items() >= seed.items()
    clock.advance(5)
    fail(breaker)
    clock.advance(2)
    later = {"failure_count": 1, "last_failure_time": 5.0, "time_since_last_failure": 2.0}
    assert breaker.get_stats().items() >= later.items()


def test_p8_listeners_hear_of_transitions_and_cannot_harm(
    breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []

    def hostile(event: Event) -> None:
        raise RuntimeError(breaker.get_stats())  # no lock is held: this does not block

    breaker.listeners.add(hostile)
    breaker.listeners.add(heard.append)
    open_up(breaker)
    assert heard == list(breaker.transitions)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert repr(breaker) == "<CircuitBreaker 'prices' OPEN failures=3>"


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("failure_threshold", 0, ConfigurationError),
        ("failure_threshold", 2.5, TypeError),
        ("success_threshold", True, TypeError),
        ("timeout", -1, ConfigurationError),
        ("timeout", float("nan"), ConfigurationError),
        ("timeout", "60", TypeError),
        ("expected_exception", "OSError", TypeError),
        ("expected_exception", (OSError, 3), TypeError),
    ],
)
def test_nonsense_is_refused_naming_field_and_value(
    field: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=field):
        CircuitBreakerConfig(**{field: value})


def test_one_exception_class_will_do() -> None:
    assert CircuitBreakerConfig(expected_exception=OSError).expected_exception == (OSError,)


def test_transitions_reach_listeners_in_their_order() -> None:
    """One that is told of while another listener still runs waits for its turn."""
    breaker = CircuitBreaker()
    heard: list[str] = []

    def resets(event: Event) -> None:
        if isinstance(event, CircuitTransition) and event.new is CircuitState.FORCED_OPEN:
            other = threading.Thread(target=breaker.reset)
            other.start()
            other.join()

    breaker.listeners.add(resets)
    breaker.listeners.add(lambda event: heard.append(event.new.value))  # type: ignore[attr-defined]
    breaker.force_open()
    assert heard == ["FORCED_OPEN", "CLOSED"]


def test_a_quick_success_can_be_the_call_that_shows_too_many_to_be_slow(clock: ManualClock) -> None:
    config = CircuitBreakerConfig(
        window_size=2, minimum_calls=2, slow_call_duration=1.0, slow_call_rate_threshold=0.3
    )
    breaker = CircuitBreaker(config, clock=clock)
    breaker.call(clock.advance, 1.5)
    states = [breaker.state]  # one call is too few to tell
    breaker.call(fine)
    assert [*states, breaker.state] == [CircuitState.CLOSED, CircuitState.OPEN]


def test_blocks_that_overlap_for_ever_leave_nothing_behind() -> None:
    """Each is entered before the one before is left, as generators that are chained do."""

    def story() -> int:
        breakers = CircuitBreaker(), CircuitBreaker()
        breakers[0].__enter__()
        for number in range(1, 1000):
            breakers[number % 2].__enter__()
            breakers[(number + 1) % 2].__exit__(None, None, None)
        block, length = _innermost.get(), 0
        while block is not None:
            block, length = block[2], length + 1
        return length

    assert contextvars.copy_context().run(story) <= 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_trial_call_is_judged_is_not_left_half_open(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = CircuitBreaker(
        CircuitBreakerConfig(failure_threshold=1, success_threshold=1, timeout=1), clock=clock
    )
    with pytest.raises(ConnectionError):
        breaker.call(broken)
    clock.advance(2)
    decide, children = HalfOpen.decide, [0]

    def forking(state: HalfOpen) -> Any:
        if children == [0]:
            children.append(-1)
            children[1] = os.fork()
            if children[1] == 0:
                with contextlib.suppress(CircuitBreakerError):
                    breaker.call(fine)
                    os._exit(0 if breaker.call(fine) == "fine" else 1)
                os._exit(2)
        return decide(state)

    monkeypatch.setattr(HalfOpen, "decide", forking)
    while breaker.state is not CircuitState.CLOSED:
        assert breaker.call(fine) == "fine"
    assert os.waitstatus_to_exitcode(os.waitpid(children[1], 0)[1]) == 0


def test_a_child_does_not_wait_for_what_another_thread_asks(clock: ManualClock) -> None:
    """Forked while a thread calculates how long to stay open: in the child nobody does."""
    asked, answered = threading.Event(), threading.Event()

    def timeout(opened: int, error: BaseException | None) -> float:
        asked.set()
        assert answered.wait(60)
        return 1.0

    config = CircuitBreakerConfig(failure_threshold=1, timeout=timeout)
    breaker = CircuitBreaker(config, clock=clock)
    with ThreadPoolExecutor(1) as other:
        call = other.submit(breaker.call, broken)
        assert asked.wait(60)
        child = os.fork()
        if child == 0:
            clock.advance(1000)
            with contextlib.suppress(CircuitBreakerError):
                os._exit(0 if breaker.call(fine) == "fine" else 1)
            os._exit(2)
        answered.set()
        assert isinstance(call.exception(), ConnectionError)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

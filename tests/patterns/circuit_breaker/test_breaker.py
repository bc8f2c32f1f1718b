from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import os
import threading

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import CircuitBreakerRegistry
from pytest_resilience import CircuitState
from pytest_resilience import ConfigurationError
from pytest_resilience import DuplicateNameError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import UnknownNameError
from pytest_resilience.patterns import CircuitTransition
from pytest_resilience.patterns.circuit_breaker.breaker import _innermost
from pytest_resilience.patterns.circuit_breaker.states import HalfOpen
from tests.patterns.meddling import Meddling


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


def test_breakers_by_name_with_defaults() -> None:
    registry = CircuitBreakerRegistry(CircuitBreakerConfig(failure_threshold=7))
    prices = registry.get_or_create("prices")
    assert prices.name == "prices"
    assert prices.config.failure_threshold == 7
    assert registry.get_or_create("prices") is registry.get("prices") is prices
    stock = registry.create("stock", CircuitBreakerConfig(failure_threshold=2))
    assert stock.config.failure_threshold == 2
    assert set(registry.names) == {"prices", "stock"}
    assert registry.get_all_stats()["stock"]["state"] == "CLOSED"
    registry.remove("stock")
    assert "stock" not in registry.names


def test_all_who_ask_at_once_are_given_the_same_breaker() -> None:
    registry, together = CircuitBreakerRegistry(), threading.Barrier(8, timeout=30)

    def ask(_: int) -> list[CircuitBreaker]:
        together.wait()
        return [registry.get_or_create(str(number)) for number in range(200)]

    with ThreadPoolExecutor(8) as threads:
        first, *others = threads.map(ask, range(8))
    assert all(each == first for each in others)


def test_a_name_is_given_once() -> None:
    registry = CircuitBreakerRegistry()
    registry.create("prices")
    with pytest.raises(DuplicateNameError, match="a circuit breaker named 'prices' exists"):
        registry.create("prices")


def test_an_unknown_name_is_told_the_known() -> None:
    registry = CircuitBreakerRegistry()
    registry.create("prices")
    with pytest.raises(UnknownNameError, match="no circuit breaker is named 'prizes'; known: 'pri"):
        registry.get("prizes")
    with pytest.raises(KeyError):
        registry.remove("prizes")


def test_statistics_while_others_add_and_remove() -> None:
    clock = Meddling()
    registry = CircuitBreakerRegistry(clock=clock)  # type: ignore[arg-type]
    for name in ("a", "b", "c"):
        registry.create(name)
    numbers = itertools.count()

    def meddle() -> None:
        for name in registry.names:
            registry.remove(name)
        registry.create(f"z{next(numbers)}")

    clock.meddle = meddle
    assert list(registry.get_all_stats()) == ["a", "b", "c"]
    assert list(registry.get_all_stats()) == ["z2"]


def test_replacing_and_retiring() -> None:
    registry = CircuitBreakerRegistry()
    old = registry.get_or_create("prices", CircuitBreakerConfig(failure_threshold=2))
    assert old.config.failure_threshold == 2
    new = registry.replace("prices", CircuitBreakerConfig(failure_threshold=7))
    assert registry.get("prices") is new is not old
    assert new.config.failure_threshold == 7
    assert registry.remove("prices") is new
    for change in (registry.replace, registry.remove):
        with pytest.raises(UnknownNameError, match="no circuit breaker is named 'prices'"):
            change("prices")
    assert registry.names == ()


def test_all_who_remove_at_once_get_it_once() -> None:
    registry, together = CircuitBreakerRegistry(), threading.Barrier(8, timeout=30)
    for number in range(100):
        registry.create(str(number))

    def remove(_: int) -> int:
        together.wait()
        removed = 0
        for number in range(100):
            with contextlib.suppress(UnknownNameError):
                registry.remove(str(number))
                removed += 1
        return removed

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(remove, range(8))) == 100


NAMES = st.sampled_from("abc")
THRESHOLDS = st.none() | st.integers(2, 9)


class RegistryMachine(RuleBasedStateMachine):
    """The registry against a dictionary."""

    @initialize(default=st.integers(2, 9))
    def begin(self, default: int) -> None:
        self.default = default
        self.registry = CircuitBreakerRegistry(CircuitBreakerConfig(failure_threshold=default))
        self.known: dict[str, CircuitBreaker] = {}
        self.failures: dict[str, int] = {}

    def created(self, breaker: CircuitBreaker, name: str, threshold: int | None) -> None:
        assert breaker.name == name
        assert breaker.config.failure_threshold == (threshold or self.default)
        assert breaker not in self.known.values()
        self.known[name], self.failures[name] = breaker, 0

    def config(self, threshold: int | None) -> CircuitBreakerConfig | None:
        return None if threshold is None else CircuitBreakerConfig(failure_threshold=threshold)

    @rule(name=NAMES, threshold=THRESHOLDS)
    def create(self, name: str, threshold: int | None) -> None:
        if name in self.known:
            with pytest.raises(DuplicateNameError, match=name):
                self.registry.create(name, self.config(threshold))
        else:
            self.created(self.registry.create(name, self.config(threshold)), name, threshold)

    @rule(name=NAMES, threshold=THRESHOLDS)
    def get_or_create(self, name: str, threshold: int | None) -> None:
        found = self.registry.get_or_create(name, self.config(threshold))
        if name in self.known:
            assert found is self.known[name]
        else:
            self.created(found, name, threshold)

    @rule(name=NAMES, threshold=THRESHOLDS)
    def replace(self, name: str, threshold: int | None) -> None:
        if name in self.known:
            found = self.registry.replace(name, self.config(threshold))
            assert found is not self.known.pop(name)
            self.created(found, name, threshold)
        else:
            with pytest.raises(UnknownNameError, match=name):
                self.registry.replace(name, self.config(threshold))

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if name in self.known:
            assert self.registry.remove(name) is self.known.pop(name)
        else:
            with pytest.raises(UnknownNameError, match=name):
                self.registry.remove(name)

    @rule(name=NAMES)
    def a_call_fails(self, name: str) -> None:
        if name not in self.known:
            with pytest.raises(UnknownNameError, match=name):
                self.registry.get(name)
        elif self.failures[name] == 0:  # one opens none of them
            self.failures[name] = 1
            with pytest.raises(ZeroDivisionError):
                self.registry.get(name).call(divmod, 1, 0)

    @invariant()
    def all_are_there(self) -> None:
        assert self.registry.names == tuple(sorted(self.known))
        stats = self.registry.get_all_stats()
        failures = {name: each["failure_count"] for name, each in stats.items()}
        assert failures == {name: self.failures[name] for name in self.known}


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)

from __future__ import annotations

import threading

from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import ConfigurationError
from pytest_resilience import ManualClock
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.monkey.events import MonkeyStopped
from pytest_resilience.monkey.monkey import Monkey
from pytest_resilience.monkey.steady_state import Verdict
from pytest_resilience.monkey.stop_conditions import BreakerOpens
from pytest_resilience.monkey.stop_conditions import ErrorBudget
from pytest_resilience.monkey.stop_conditions import StopCondition
from pytest_resilience.monkey.stop_conditions import When
from pytest_resilience.monkey.stop_conditions import reason_of


PATIENCE = 30  # seconds of real time


def fail() -> None:
    raise OSError("gone")


def open_up(breaker: CircuitBreaker) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            breaker.call(fail)


def breaker(name: str = "payments") -> CircuitBreaker:
    return CircuitBreaker(CircuitBreakerConfig(failure_threshold=2), name=name)


def monkey(*conditions: StopCondition | Callable[[], Any], **settings: Any) -> Monkey:
    found = Monkey(
        Engine(lambda _: []).start,
        **{"clock": ManualClock(), "background": False, "seed": 1, **settings},
        stop_when=conditions,
    )
    found.register_experiment(ChaosExperiment("slow", "network_latency", 1.0))
    return found


def ending(monkey: Monkey) -> tuple[Verdict, str]:
    event = monkey.events[-1]
    assert isinstance(event, MonkeyStopped)
    return event.verdict, event.reason


def test_a_function_ends_it() -> None:
    answers = [0, False, None, "", 0, True]  # the first before anything starts
    chaos = monkey(lambda: answers.pop(0))
    chaos.start_chaos_monkey()
    for _ in range(4):
        chaos.tick()
        assert chaos.get_active_experiments()
    chaos.tick()
    assert not chaos.running
    assert chaos.get_active_experiments() == {}
    verdict, reason = ending(chaos)
    assert verdict is Verdict.ABORTED
    assert reason.endswith("<lambda> is true")


def test_a_function_can_say_why() -> None:
    def queue_is_full() -> str:
        return "900 of 1000 places are taken"

    assert When(queue_is_full, "queue").reason() == "queue: 900 of 1000 places are taken"
    assert When(queue_is_full).name.endswith("queue_is_full")


def test_a_condition_that_cannot_be_asked_ends_it() -> None:
    chaos = monkey(fail)
    with chaos:
        chaos.tick()
        assert not chaos.running
    assert ending(chaos) == (
        Verdict.ABORTED, "its stop condition cannot be asked: OSError: gone",
    )  # fmt: skip


def test_a_breaker_that_opens_ends_it() -> None:
    payments = breaker()
    chaos = monkey(BreakerOpens(payments))
    with chaos:
        chaos.tick()
        assert chaos.running
        open_up(payments)
        chaos.tick()
        assert not chaos.running
    assert ending(chaos) == (Verdict.ABORTED, "payments has opened")
    assert len(payments.listeners) == 0


@pytest.mark.parametrize("background", [True, False])
def test_where_the_breaker_is_open_already_nothing_starts(background: bool) -> None:
    payments = breaker()
    open_up(payments)
    chaos = monkey(BreakerOpens(payments), background=background)
    with chaos:
        assert not chaos.running
        chaos.tick()
    assert [type(event).__name__ for event in chaos.events] == ["MonkeyStarted", "MonkeyStopped"]
    assert ending(chaos) == (Verdict.ABORTED, "payments has opened")


def test_a_breaker_that_opens_and_closes_between_two_looks_ends_it() -> None:
    payments = breaker()
    chaos = monkey(BreakerOpens(payments))
    with chaos:
        open_up(payments)
        payments.reset()
        chaos.tick()
        assert not chaos.running
    with chaos:  # a new period knows nothing of it
        chaos.tick()
        assert chaos.running


def test_a_breaker_that_opens_is_heard_at_once_in_the_background() -> None:
    payments = breaker()
    over = threading.Event()
    chaos = monkey(
        BreakerOpens(payments),
        background=True,
        clock=ManualClock(),
        interval="1h",
        check_every="1h",
    )
    chaos.listeners.add(lambda event: over.set() if isinstance(event, MonkeyStopped) else None)
    with chaos:
        open_up(payments)
        assert over.wait(PATIENCE)
    assert chaos.verdict is Verdict.ABORTED


class State(Enum):
    OPEN = 1
    CLOSED = 2


@pytest.mark.parametrize(
    ("closed", "opened"),
    [
        (SimpleNamespace(current_state="closed"), SimpleNamespace(current_state="open")),
        (SimpleNamespace(state="closed"), SimpleNamespace(state="open")),
        (SimpleNamespace(state=State.CLOSED), SimpleNamespace(state=State.OPEN)),
        (
            SimpleNamespace(state=SimpleNamespace(name="half-open")),
            SimpleNamespace(state=SimpleNamespace(name="forced_open")),
        ),
        (SimpleNamespace(state=3), SimpleNamespace(state="Open", name="stock", listeners=[])),
    ],
)
def test_breakers_of_other_libraries(closed: object, opened: object) -> None:
    assert BreakerOpens(closed).reason() == ""
    condition = BreakerOpens(opened)
    condition.begin(lambda: None)
    assert condition.reason() in {"SimpleNamespace has opened", "stock has opened"}
    condition.end()


def test_a_real_breaker_of_another_library() -> None:
    pybreaker = pytest.importorskip("pybreaker")
    other = pybreaker.CircuitBreaker(fail_max=1, name="other")
    condition = BreakerOpens(other)
    condition.begin(lambda: None)
    assert condition.reason() == ""
    with pytest.raises(pybreaker.CircuitBreakerError):
        other.call(fail)
    assert condition.reason() == "other has opened"
    condition.end()


def test_a_budget_that_is_spent_ends_it() -> None:
    clock = ManualClock()
    budget = ErrorBudget("10%", calls=10, window="1m", clock=clock)
    chaos = monkey(budget, clock=clock)
    with chaos:
        for failed in [True, *[False] * 8]:
            budget.record(failed=failed)
        chaos.tick()  # one of nine, but nine calls say nothing
        budget.record(failed=False)
        chaos.tick()  # one of ten may
        assert chaos.running
        budget.record(failed=True)
        chaos.tick()
        assert not chaos.running
    assert ending(chaos) == (Verdict.ABORTED, "2 of 11 calls failed, and 0.1 of them may")


def test_a_budget_forgets() -> None:
    clock = ManualClock()
    budget = ErrorBudget(0.5, calls=1, window=60, clock=clock)
    budget.record(failed=True)
    clock.advance(50)
    assert budget.reason()
    clock.advance(10)
    assert budget.reason() == ""


def test_a_budget_raises_the_alarm_at_once() -> None:
    alarms: list[int] = []
    budget = ErrorBudget(0, calls=2, clock=ManualClock())
    budget.begin(lambda: alarms.append(1))
    budget.record(failed=True)
    budget.record(failed=False)
    assert alarms == []
    budget.record(failed=True)
    assert alarms == [1]
    budget.end()
    budget.record(failed=True)
    assert alarms == [1]


@given(
    share=st.floats(0, 1),
    calls=st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=60),
)
def test_a_budget_counts_the_calls_of_its_window(
    share: float, calls: list[tuple[bool, float]]
) -> None:
    clock = ManualClock()
    budget = ErrorBudget(share, calls=3, window=60, clock=clock)
    past: list[tuple[float, bool]] = []
    for failed, pause in calls:
        budget.record(failed=failed)
        past.append((clock.monotonic(), failed))
        clock.advance(pause)
        part = int(clock.monotonic() / 60 * 10)  # it slides by tenths
        recent = [bad for at, bad in past if int(at / 60 * 10) > part - 10]
        spent = len(recent) >= 3 and sum(recent) > share * len(recent)
        assert bool(budget.reason()) is spent


def test_a_condition_that_cannot_begin_leaves_nothing_running() -> None:
    class Broken(When):
        def begin(self, alarm: Callable[[], None]) -> None:
            raise OSError("no alarm")

    chaos = monkey(Broken(lambda: False))
    with pytest.raises(OSError, match="no alarm"):
        chaos.start_chaos_monkey()
    assert not chaos.running
    assert ending(chaos) == (Verdict.FAILED, "OSError: no alarm")


def test_a_condition_of_ones_own() -> None:
    class Own:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def begin(self, alarm: Callable[[], None]) -> None:
            self.calls.append("begin")

        def reason(self) -> str:
            self.calls.append("reason")
            return ""

        def end(self) -> None:
            self.calls.append("end")

    own = Own()
    with monkey(own) as chaos:
        chaos.tick()
    assert own.calls == ["begin", "reason", "reason", "end"]
    assert reason_of(own) == ""


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: monkey("stop"), "'stop' is no stop condition; give a function"),  # type: ignore[arg-type]
        (lambda: BreakerOpens(object()), "<object object at .*> has no state"),
        (lambda: ErrorBudget(2), "share=2 is outside 0..1"),
        (lambda: ErrorBudget(calls=0), "calls=0: give a whole number"),
        (lambda: ErrorBudget(window=0), "window=0: a window is longer than nothing; give '60s'"),
    ],
)
def test_what_could_never_end_anything_is_refused(make: Callable[[], object], why: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{why}"):
        make()

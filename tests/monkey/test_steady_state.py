from __future__ import annotations

import asyncio
import pickle
import threading

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience import DuplicateNameError
from pytest_resilience import ManualClock
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.errors import SteadyStateError
from pytest_resilience.monkey.events import MonkeyStopped
from pytest_resilience.monkey.events import SteadyStateRead
from pytest_resilience.monkey.monkey import Monkey
from pytest_resilience.monkey.steady_state import Matches
from pytest_resilience.monkey.steady_state import OneOf
from pytest_resilience.monkey.steady_state import Probe
from pytest_resilience.monkey.steady_state import Reading
from pytest_resilience.monkey.steady_state import SteadyState
from pytest_resilience.monkey.steady_state import Verdict
from pytest_resilience.monkey.steady_state import Within


PATIENCE = 30  # seconds of real time


class System:
    """Something that is well or not, by what experiments do to it."""

    def __init__(self) -> None:
        self.latency = 0.1
        self.suffers = 0.0  # what an experiment adds
        self.keeps = 0.0  # of that, what is not taken back
        self.undone: list[str] = []

    def start(self, experiment: ChaosExperiment, *, seed: int) -> Injury:
        self.latency += self.suffers
        return Injury(self, experiment)

    def probe(self) -> float:
        return self.latency


class Injury(ActiveExperiment):
    def __init__(self, system: System, experiment: ChaosExperiment) -> None:
        super().__init__(experiment, seed=1, started_at=0.0)
        self.system = system

    def stop(self) -> None:
        self.system.latency -= self.system.suffers - self.system.keeps
        self.system.undone.append(self.experiment.name)


def monkey(system: System, *probes: Probe, **settings: Any) -> Monkey:
    found = Monkey(
        system.start,
        **{"clock": ManualClock(), "background": False, "seed": 1, **settings},
        steady_state=probes or [Probe("latency", system.probe, Within(0, 0.5))],
    )
    found.register_experiment(ChaosExperiment("slow", "network_latency", 1.0))
    return found


def phases(monkey: Monkey) -> list[tuple[str, bool]]:
    return [
        (event.phase, event.met) for event in monkey.events if isinstance(event, SteadyStateRead)
    ]


def ending(monkey: Monkey) -> tuple[Verdict, str]:
    event = monkey.events[-1]
    assert isinstance(event, MonkeyStopped)
    assert event.verdict is monkey.verdict
    return event.verdict, event.reason


def test_a_system_that_stays_well() -> None:
    system = System()
    system.suffers = 0.3
    chaos = monkey(system)
    with chaos:
        chaos.tick()
        assert chaos.running
    assert phases(chaos) == [("before", True), ("during", True), ("after", True)]
    assert ending(chaos) == (Verdict.PASSED, "stopped")


def test_a_system_that_leaves_its_steady_state_is_left_alone_at_once() -> None:
    system = System()
    system.suffers = 0.6
    chaos = monkey(system)
    with chaos:
        chaos.tick()
        assert not chaos.running
        assert system.undone == ["slow"]
    assert phases(chaos) == [("before", True), ("during", False)]
    assert ending(chaos) == (
        Verdict.DEVIATED, "latency says 0.7, which is not tolerated (0 to 0.5)",
    )  # fmt: skip


def test_a_system_that_does_not_recover_has_deviated() -> None:
    system = System()
    system.suffers, system.keeps = 0.3, 0.25
    chaos = monkey(system, Probe("latency", system.probe, Within(0, 0.4)))
    chaos.register_experiment(ChaosExperiment("slower", "network_latency", 0.0))
    with chaos:
        chaos.tick()
        system.keeps = 0.8
    assert phases(chaos) == [("before", True), ("during", True), ("after", False)]
    assert ending(chaos)[0] is Verdict.DEVIATED
    assert system.undone == ["slow"]


def test_a_system_that_is_not_well_to_begin_with_is_left_alone() -> None:
    system = System()
    system.latency = 9.0
    chaos = monkey(system)
    with pytest.raises(SteadyStateError) as raised:
        chaos.start_chaos_monkey()
    said = "latency says 9.0, which is not tolerated (0 to 0.5)"
    assert raised.value.missed == {"latency": said}
    assert str(raised.value) == (
        f"the system is not in its steady state, so no chaos was started: {said}"
    )
    assert pickle.loads(pickle.dumps(raised.value)).missed == raised.value.missed
    assert not chaos.running
    assert phases(chaos) == [("before", False)]
    assert ending(chaos)[0] is Verdict.FAILED


def test_what_cannot_be_undone_is_a_failure_and_no_deviation() -> None:
    system = System()
    chaos = monkey(system)

    def broken() -> None:
        raise OSError("stuck")

    with chaos, pytest.MonkeyPatch.context() as patch:
        chaos.tick()
        patch.setattr(Injury, "stop", lambda _: broken())
        chaos.stop_chaos_monkey()
    assert ending(chaos) == (Verdict.FAILED, "stopped")


def test_a_probe_that_fails_under_chaos_is_a_deviation() -> None:
    system = System()

    def probe() -> bool:
        if len(answers) == 1:
            raise ConnectionRefusedError(111, "Connection refused")
        return answers.pop()

    answers = [True, True]
    chaos = monkey(system, Probe("health", probe))
    with chaos:
        chaos.tick()
    assert ending(chaos) == (
        Verdict.DEVIATED,
        "health failed with ConnectionRefusedError: [Errno 111] Connection refused",
    )


def test_a_probe_that_hangs_keeps_nobody_from_ending_and_is_heard_no_more() -> None:
    system = System()
    hangs, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def probe() -> bool:
        calls.append(1)
        if len(calls) == 2:
            hangs.set()
            assert go_on.wait(PATIENCE)
            return False  # about what is long over
        return True

    chaos = monkey(system, Probe("hung", probe), background=True, check_every=0.001, interval="1h")
    before = set(threading.enumerate())
    chaos.start_chaos_monkey()
    threads = set(threading.enumerate()) - before
    assert hangs.wait(PATIENCE)
    chaos.stop_chaos_monkey()
    assert chaos.verdict is Verdict.PASSED
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert phases(chaos) == [("before", True), ("after", True)]
    assert ending(chaos) == (Verdict.PASSED, "stopped")


def test_in_the_background_a_deviation_ends_it() -> None:
    system = System()
    system.suffers = 5
    over = threading.Event()
    clock = ManualClock()
    chaos = monkey(system, background=True, check_every=0.001, clock=clock)
    chaos.listeners.add(lambda event: over.set() if isinstance(event, MonkeyStopped) else None)
    with chaos:
        assert over.wait(PATIENCE)
    assert system.undone == ["slow"]
    assert ending(chaos)[0] is Verdict.DEVIATED


async def answer() -> float:
    await asyncio.sleep(0)
    return 0.2


async def refuse() -> float:
    raise OSError("refused")


@pytest.mark.may_block("who reads a probe waits for what it says")
def test_coroutine_functions_are_probes_also_within_a_loop() -> None:
    probe = Probe("quick", answer, Within(0, 1))
    assert probe.read() == Reading(probe="quick", value=0.2, met=True)

    async def inside() -> Reading:
        return probe.read()

    assert asyncio.run(inside()).met
    assert Probe("refused", refuse).read().problem == "refused failed with OSError: refused"


@pytest.mark.parametrize(
    ("tolerance", "value", "problem"),
    [
        (True, True, ""),
        (True, False, "x says False, which is not tolerated (expected True)"),
        (200, 503, "x says 503, which is not tolerated (expected 200)"),
        (Within(1, 2), 2, ""),
        (Within(1, 2), 2.1, "x says 2.1, which is not tolerated (1 to 2)"),
        (Within(1, 2), "two", "x says 'two', which cannot be judged: TypeError: '<=' not "),
        (OneOf((200, 204)), 204, ""),
        (OneOf((200, 204)), 404, "x says 404, which is not tolerated (200 or 204)"),
        (Matches("^o+k$"), "ook", ""),
        (Matches("5.."), 503, ""),
        (Matches("^ok$"), "no", "x says 'no', which is not tolerated (text with '^ok$')"),
        (bool, [], "x says [], which is not tolerated (by bool)"),
    ],
)
def test_tolerances(tolerance: object, value: object, problem: str) -> None:
    reading = Probe("x", lambda: value, tolerance).read()
    assert reading.problem.startswith(problem)
    assert reading.met is not bool(problem)
    assert reading.value == value


def test_an_interrupt_is_no_answer() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Probe("x", interrupt).read()


def yes() -> bool:
    return True


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (lambda: Probe("", yes), ConfigurationError, "name='': a probe needs a name; give a text"),
        (lambda: Probe("x", 3), ConfigurationError, "probe 'x': 3 cannot be called"),  # type: ignore[arg-type]
        (lambda: SteadyState([yes]), ConfigurationError, "<function yes .*> is no probe; write"),  # type: ignore[list-item]
        (
            lambda: SteadyState([Probe("x", yes), Probe("x", yes)]),
            DuplicateNameError,
            "a probe named 'x' exists already",
        ),
        (lambda: Within(2, 1), ConfigurationError, "nothing is within 2 and 1"),
        (lambda: Matches("("), ConfigurationError, r"'\(' is no regular expression"),
    ],
)
def test_what_says_nothing_is_refused(
    make: Callable[[], object], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=rf"^{why}"):
        make()

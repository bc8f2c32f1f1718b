from __future__ import annotations

import threading
import time

from collections.abc import Callable
from typing import Any
from typing import TypeVar

import pytest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience import DuplicateNameError
from pytest_resilience import Event
from pytest_resilience import ManualClock
from pytest_resilience import UnknownNameError
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.monkey.events import ExperimentEnded
from pytest_resilience.monkey.events import ExperimentFailed
from pytest_resilience.monkey.events import ExperimentHeldBack
from pytest_resilience.monkey.events import ExperimentStarted
from pytest_resilience.monkey.events import MonkeyStarted
from pytest_resilience.monkey.events import MonkeyStopped
from pytest_resilience.monkey.monkey import Monkey
from pytest_resilience.monkey.schedule import FixedSequence
from pytest_resilience.monkey.schedule import Windows
from pytest_resilience.monkey.session import ActiveExperiments
from pytest_resilience.monkey.session import Starter
from pytest_resilience.monkey.steady_state import Probe
from pytest_resilience.monkey.steady_state import Verdict


_Event = TypeVar("_Event", bound=Event)

PATIENCE = 30  # seconds of real time, for what is only waited for when it is broken


class World:
    """What experiments happen to: knows what is on, and can refuse."""

    def __init__(self) -> None:
        self.on: list[str] = []
        self.done: list[tuple[str, str, int]] = []
        self.broken: set[str] = set()
        self.stuck: set[str] = set()
        self.changed = threading.Condition()

    def start(self, experiment: ChaosExperiment, *, seed: int) -> Effect:
        if experiment.name in self.broken:
            raise OSError(f"{experiment.name} cannot be started")
        with self.changed:
            self.on.append(experiment.name)
            self.done.append(("start", experiment.name, seed))
            self.changed.notify_all()
        return Effect(self, experiment)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)


class Effect(ActiveExperiment):
    def __init__(self, world: World, experiment: ChaosExperiment) -> None:
        super().__init__(experiment, seed=1, started_at=0.0)
        self.world = world
        self.name = experiment.name

    def stop(self) -> None:
        if self.name in self.world.stuck:
            raise OSError(f"{self.name} cannot be undone")
        with self.world.changed:
            if self.name in self.world.on:
                self.world.on.remove(self.name)
                self.world.done.append(("stop", self.name, 0))
            self.world.changed.notify_all()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(epoch=1_000_000)


def by_hand(world: World, clock: ManualClock, **settings: Any) -> Monkey:
    return Monkey(world.start, clock=clock, background=False, **{"seed": 1, **settings})


def experiment(name: str, probability: float = 1.0, duration: float = 60.0) -> ChaosExperiment:
    return ChaosExperiment(name, "network_latency", probability, duration, delay="200ms")


def of(monkey: Monkey, kind: type[_Event]) -> list[_Event]:
    return [event for event in monkey.events if isinstance(event, kind)]


def history(monkey: Monkey) -> list[tuple[str, float, str]]:
    return [
        (type(event).__name__.removeprefix("Experiment"), event.at, event.source)
        for event in monkey.events
        if isinstance(event, (ExperimentStarted, ExperimentEnded, ExperimentHeldBack))
    ]


def test_an_experiment_starts_by_its_probability_and_ends_after_its_duration(
    world: World, clock: ManualClock
) -> None:
    monkey = by_hand(world, clock)
    monkey.register_experiment(experiment("always", duration=45))
    monkey.register_experiment(experiment("never", probability=0))
    monkey.register_experiment(ChaosExperiment("off", "network_latency", 1.0, enabled=False))
    monkey.start_chaos_monkey(interval=30)
    for _ in range(4):
        monkey.tick()
        clock.advance(15)
    assert history(monkey) == [
        ("Started", 0, "always"), ("Ended", 45, "always"),
    ]  # fmt: skip
    monkey.tick()
    assert world.on == ["always"]
    monkey.stop_chaos_monkey()
    assert of(monkey, ExperimentEnded)[-1].reason == "stopped"
    assert [event.lasted for event in of(monkey, ExperimentEnded)] == [45, 0]
    assert world.on == []


def test_what_is_active_is_told_as_in_the_seed(world: World, clock: ManualClock) -> None:
    monkey = by_hand(world, clock)
    monkey.register_experiment(experiment("slow"))
    assert monkey.get_active_experiments() == {}
    monkey.start_chaos_monkey()
    monkey.tick()
    clock.advance(5)
    assert monkey.get_active_experiments() == {
        "slow": {
            "experiment_name": "slow",
            "chaos_type": "network_latency",
            "start_time": 1_000_000,
            "duration": 60,
            "elapsed": 5,
        }
    }
    assert repr(monkey) == "<Monkey 'chaos monkey' running active=1 seed=1>"
    monkey.stop_chaos_monkey()
    assert monkey.get_active_experiments() == {}
    assert repr(monkey) == "<Monkey 'chaos monkey' stopped active=0 seed=1>"


def test_what_happened_can_be_read_in_order(world: World, clock: ManualClock) -> None:
    monkey = by_hand(world, clock, name="george")
    heard: list[Event] = []
    monkey.listeners.add(heard.append)
    monkey.register_experiment(experiment("slow"))
    with monkey:
        assert monkey.running
        monkey.tick()
    assert not monkey.running
    assert tuple(heard) == monkey.events
    started, begun, ended, stopped = monkey.events
    assert started == MonkeyStarted(at=0, source="george", interval=30, seed=1)
    assert isinstance(begun, ExperimentStarted)
    assert (begun.what, begun.ends_at) == ("slow: latency 200ms, always, target any", 60)
    assert begun.seed == world.done[0][2]
    assert ended == ExperimentEnded(at=0, source="slow", lasted=0, reason="stopped")
    assert stopped == MonkeyStopped(at=0, source="george", verdict=Verdict.PASSED, reason="stopped")
    assert monkey.verdict is Verdict.PASSED


def test_a_thousand_experiments_in_an_hour_are_decided_the_same_for_one_seed() -> None:
    def run(seed: int, extra: int = 0) -> tuple[list[tuple[str, float, str]], list[int], float]:
        world, clock = World(), ManualClock()
        monkey = by_hand(world, clock, seed=seed)
        for number in range(1000 + extra):
            monkey.register_experiment(experiment(f"e{number}", probability=0.01, duration=45))
        began = time.process_time()
        monkey.start_chaos_monkey()
        for _ in range(120):
            monkey.tick()
            clock.advance(30)
        monkey.stop_chaos_monkey()
        assert world.on == []
        seeds = [event.seed for event in of(monkey, ExperimentStarted)]
        return history(monkey), seeds, time.process_time() - began

    first, seeds, taken = run(7)
    again, seeds_again, _ = run(7)
    assert (first, seeds) == (again, seeds_again)
    assert len(set(seeds)) == len(seeds) > 800
    assert run(8)[0] != first
    # Other experiments change nothing for those that are there already.
    more, _, _ = run(7, extra=5)
    late = {f"e{number}" for number in range(1000, 1005)}
    assert sorted(each for each in more if each[2] not in late) == sorted(first)
    assert taken < 10  # of CPU time; benchmarks/monkey.py measures how much less


def test_a_second_period_is_dealt_other_chances(world: World, clock: ManualClock) -> None:
    def periods() -> list[list[tuple[str, str, int]]]:
        world = World()
        monkey = by_hand(world, ManualClock())
        for number in range(50):
            monkey.register_experiment(experiment(f"e{number}", probability=0.5))
        dealt = []
        for _ in range(2):
            with monkey:
                monkey.tick()
            dealt.append([each for each in world.done if each[0] == "start"])
            world.done.clear()
        return dealt

    first, second = periods()
    assert first != second
    assert [first, second] == periods()


def test_missed_ticks_are_not_made_up_for(world: World, clock: ManualClock) -> None:
    monkey = by_hand(world, clock)
    monkey.register_experiment(experiment("short", duration=1))
    monkey.start_chaos_monkey(interval=10)
    clock.advance(1000)  # the machine slept
    monkey.tick()
    monkey.tick()
    assert len(of(monkey, ExperimentStarted)) == 1
    monkey.stop_chaos_monkey()


def test_no_more_than_max_active_run_and_everybody_has_a_turn(clock: ManualClock) -> None:
    world = World()
    monkey = by_hand(world, clock, max_active=2)
    names = [f"e{number}" for number in range(6)]
    for name in names:
        monkey.register_experiment(experiment(name, duration=10))
    monkey.start_chaos_monkey(interval=10)
    for _ in range(30):
        monkey.tick()
        assert len(world.on) == 2
        clock.advance(10)
    assert {event.source for event in of(monkey, ExperimentStarted)} == set(names)
    held = of(monkey, ExperimentHeldBack)
    assert {event.source for event in held} == set(names)
    assert held[0].most == 2
    monkey.stop_chaos_monkey()


def test_overlapping_experiments_of_one_kind_add_up_and_end_alone(clock: ManualClock) -> None:
    """The seed restored the delay that it had found, which was another experiment's."""
    engine = Engine(lambda _: [], clock=clock)

    def delay() -> float:
        effect = engine.decide(Operation(kind=CONNECT, target="a:1", names=("a:1",)))
        return 0.0 if effect is None else effect.delay

    schedule = FixedSequence([(0, "first"), (10, "second")])
    monkey = Monkey(engine.start, schedule=schedule, clock=clock, background=False)
    monkey.register_experiment(ChaosExperiment("first", "network_latency", duration=15, delay=1))
    monkey.register_experiment(ChaosExperiment("second", "network_latency", duration=15, delay=2))
    monkey.start_chaos_monkey()
    delays = []
    for _ in range(6):
        monkey.tick()
        delays.append(delay())
        clock.advance(5)
    assert delays == [1, 1, 3, 2, 2, 0]
    monkey.stop_chaos_monkey()
    assert engine.active == ()


def test_a_failing_experiment_is_an_event_and_the_others_go_on(
    world: World, clock: ManualClock
) -> None:
    monkey = by_hand(world, clock)
    world.broken.add("bad")
    for name in ("bad", "good"):
        monkey.register_experiment(experiment(name, duration=10))
    with monkey:
        monkey.tick()
        assert world.on == ["good"]
        assert set(monkey.get_active_experiments()) == {"good"}
        world.broken.clear()
        clock.advance(30)
        monkey.tick()
        assert sorted(world.on) == ["bad", "good"]
    (failed,) = of(monkey, ExperimentFailed)
    assert failed == ExperimentFailed(
        at=0, source="bad", doing="start", error="OSError: bad cannot be started"
    )
    assert monkey.verdict is Verdict.FAILED


def test_one_that_cannot_be_undone_keeps_no_other_from_being_undone(
    world: World, clock: ManualClock
) -> None:
    monkey = by_hand(world, clock)
    world.stuck.add("a")
    for name in ("a", "b", "c"):
        monkey.register_experiment(experiment(name))
    with monkey:
        monkey.tick()
    assert world.on == ["a"]
    (failed,) = of(monkey, ExperimentFailed)
    assert (failed.source, failed.doing) == ("a", "stop")
    assert monkey.verdict is Verdict.FAILED


def test_an_interrupt_while_undoing_keeps_no_other_from_being_undone(clock: ManualClock) -> None:
    world = World()

    class Interrupted(Effect):
        def stop(self) -> None:
            super().stop()
            if self.name == "a":
                raise KeyboardInterrupt

    def start(experiment: ChaosExperiment, *, seed: int) -> Effect:
        world.start(experiment, seed=seed)
        return Interrupted(world, experiment)

    monkey = Monkey(start, seed=1, clock=clock, background=False)
    for name in ("a", "b", "c"):
        monkey.register_experiment(experiment(name))
    monkey.start_chaos_monkey()
    monkey.tick()
    with pytest.raises(KeyboardInterrupt):
        monkey.stop_chaos_monkey()
    assert world.on == []
    assert not monkey.running


def test_an_interrupt_while_starting_leaves_the_name_free(clock: ManualClock) -> None:
    world = World()
    interrupts = [KeyboardInterrupt()]

    def start(experiment: ChaosExperiment, *, seed: int) -> Effect:
        if interrupts:
            raise interrupts.pop()
        return world.start(experiment, seed=seed)

    monkey = Monkey(start, seed=1, clock=clock, background=False)
    monkey.register_experiment(experiment("slow"))
    with monkey:
        with pytest.raises(KeyboardInterrupt):
            monkey.tick()
        clock.advance(30)
        monkey.tick()
        assert world.on == ["slow"]
    assert world.on == []


def test_a_schedule_that_fails_is_an_event_and_the_monkey_goes_on(
    world: World, clock: ManualClock
) -> None:
    class Broken(FixedSequence):
        def choose(self, experiments: Any, moment: Any) -> Any:
            if moment.elapsed < 10:
                raise RuntimeError("no choice")
            return super().choose(experiments, moment)

    monkey = by_hand(world, clock, schedule=Broken([(0, "slow"), (10, "slow")]))
    monkey.register_experiment(experiment("slow"))
    with monkey:
        monkey.tick()
        clock.advance(10)
        monkey.tick()
        assert world.on == ["slow"]
    (failed,) = of(monkey, ExperimentFailed)
    assert (failed.source, failed.doing) == ("chaos monkey", "decide")
    assert failed.error == "RuntimeError: no choice"
    assert monkey.verdict is Verdict.FAILED


def test_a_listener_may_stop_the_monkey(world: World, clock: ManualClock) -> None:
    monkey = by_hand(world, clock)

    def stop(event: Event) -> None:
        if isinstance(event, ExperimentStarted):
            monkey.stop_chaos_monkey()

    monkey.listeners.add(stop)
    for name in ("a", "b"):
        monkey.register_experiment(experiment(name))
    monkey.start_chaos_monkey()
    monkey.tick()
    assert not monkey.running
    assert world.on == []
    assert len(of(monkey, ExperimentStarted)) == 1


def test_a_window_that_closes_ends_what_runs(world: World, clock: ManualClock) -> None:
    monkey = by_hand(world, clock, schedule=Windows(["10s..25s"], every="1m"))
    monkey.register_experiment(experiment("slow", duration=60))
    with monkey:
        monkey.start_chaos_monkey(interval=30)  # as it is: nothing happens
        monkey.tick()
    monkey.start_chaos_monkey(interval=10)
    for _ in range(15):
        monkey.tick()
        clock.advance(5)
    assert history(monkey) == [
        ("Started", 10, "slow"), ("Ended", 25, "slow"), ("Started", 70, "slow"),
    ]  # fmt: skip
    assert of(monkey, ExperimentEnded)[0].reason == "its window closed"
    monkey.stop_chaos_monkey()


def test_what_cannot_mean_anything_is_refused(world: World, clock: ManualClock) -> None:
    monkey = by_hand(world, clock, schedule=FixedSequence([(0, "slow")]))
    with pytest.raises(
        UnknownNameError, match=r"^no chaos experiment is named 'slow'; known: none"
    ):
        monkey.start_chaos_monkey()
    monkey.register_experiment(experiment("slow"))
    with pytest.raises(DuplicateNameError, match="a chaos experiment named 'slow' exists already"):
        monkey.register_experiment(experiment("slow"))
    with pytest.raises(
        ConfigurationError, match="'slow' is no ChaosExperiment; give one, such as Chaos"
    ):
        monkey.register_experiment("slow")  # type: ignore[arg-type]
    for bad in (0, -1, "soon", float("nan")):
        with pytest.raises(ConfigurationError, match=r"^interval="):
            monkey.start_chaos_monkey(bad)
    with pytest.raises(ConfigurationError, match="max_active=0: give a whole number of at least"):
        by_hand(world, clock, max_active=0)
    with pytest.raises(ConfigurationError, match="check_every=0: give 100us or more"):
        by_hand(world, clock, check_every=0)
    with pytest.raises(ConfigurationError, match="nothing is given that makes experiments happen"):
        Monkey()
    assert not monkey.running
    assert monkey.events == ()


def test_starting_twice_and_stopping_without_a_start(world: World, clock: ManualClock) -> None:
    monkey = by_hand(world, clock)
    monkey.stop_chaos_monkey()
    monkey.tick()
    assert monkey.events == ()
    monkey.start_chaos_monkey(interval=10)
    monkey.start_chaos_monkey(interval=10)
    assert len(of(monkey, MonkeyStarted)) == 1
    with pytest.raises(ConfigurationError, match="runs already, at an interval of 10 s; stop it"):
        monkey.start_chaos_monkey(interval=20)
    monkey.stop_chaos_monkey()
    monkey.stop_chaos_monkey()
    assert len(of(monkey, MonkeyStopped)) == 1
    monkey.start_chaos_monkey(interval=20)
    monkey.stop_chaos_monkey()


# In threads of its own, on the machine's clock.


def test_in_the_background_it_starts_and_ends_by_itself(world: World) -> None:
    monkey = Monkey(world.start, seed=1, interval="1h")
    monkey.register_experiment(experiment("slow", duration=0.01))
    with monkey:
        world.wait_for(lambda: len(world.done) == 2)
    assert [what for what, _, _ in world.done] == ["start", "stop"]
    assert monkey.verdict is Verdict.PASSED


def test_stopping_waits_for_no_interval(world: World) -> None:
    """The seed joined a thread that slept for a whole interval, here an hour."""
    monkey = Monkey(world.start, seed=1, interval="1h")
    monkey.register_experiment(experiment("slow", duration=3600))
    before = set(threading.enumerate())
    monkey.start_chaos_monkey()
    (thread,) = set(threading.enumerate()) - before
    world.wait_for(lambda: world.on == ["slow"])
    began = time.monotonic()
    monkey.stop_chaos_monkey()
    assert time.monotonic() - began < PATIENCE
    assert world.on == []
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_stopping_undoes_everything_and_no_lock_is_in_the_way(world: World) -> None:
    """The seed's clean-up asked for the lock that it held, for ever."""
    monkey = Monkey(world.start, seed=1, interval="1h")
    for number in range(20):
        monkey.register_experiment(experiment(f"e{number}"))
    monkey.start_chaos_monkey()
    world.wait_for(lambda: len(world.on) == 20)
    stopper = threading.Thread(target=monkey.stop_chaos_monkey, daemon=True)
    stopper.start()
    stopper.join(PATIENCE)
    assert not stopper.is_alive()
    assert world.on == []


def test_no_timer_outlives_the_monkey(world: World) -> None:
    """The seed's clean-up timers ended what a later run had started."""
    monkey = Monkey(world.start, seed=1, interval="1h")
    monkey.register_experiment(experiment("slow", duration=3600))
    before = set(threading.enumerate())
    for _ in range(3):
        with monkey:
            world.wait_for(lambda: world.on == ["slow"])
        assert world.on == []
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


class SlowStart:
    """Starts experiments, as `start` does, not before it is told to go on."""

    def __init__(self, start: Starter) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self._start = start

    def __call__(self, experiment: ChaosExperiment, *, seed: int) -> Any:
        self.entered.set()
        assert self.go_on.wait(PATIENCE)
        return self._start(experiment, seed=seed)


def starting(start: SlowStart) -> Monkey:
    """A monkey whose experiment is just being started."""
    monkey = Monkey(start, seed=1, interval="1h")
    monkey.register_experiment(experiment("slow"))
    monkey.start_chaos_monkey()
    assert start.entered.wait(PATIENCE)
    return monkey


def stop_meanwhile(monkey: Monkey, start: SlowStart) -> None:
    stopper = threading.Thread(target=monkey.stop_chaos_monkey, daemon=True)
    stopper.start()
    while monkey.running:
        time.sleep(0)
    start.go_on.set()
    stopper.join(PATIENCE)
    assert not stopper.is_alive()


def test_what_is_just_being_started_is_undone_before_stopping_returns() -> None:
    world = World()
    start = SlowStart(world.start)
    monkey = starting(start)
    stop_meanwhile(monkey, start)
    assert world.on == []
    assert [what for what, _, _ in world.done] == ["start", "stop"]
    assert of(monkey, ExperimentEnded)[0].reason == "stopped while it started"
    assert [event.source for event in of(monkey, ExperimentStarted)] == ["slow"]


def test_a_start_that_fails_while_all_is_stopped_is_a_failure_and_no_more() -> None:
    def fail(experiment: ChaosExperiment, *, seed: int) -> Any:
        raise OSError("too late")

    start = SlowStart(fail)
    monkey = starting(start)
    stop_meanwhile(monkey, start)
    assert monkey.get_active_experiments() == {}
    assert monkey.verdict is Verdict.FAILED


def test_a_start_that_hangs_keeps_nobody_for_ever_and_is_undone_when_it_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pytest_resilience.monkey.session._PATIENCE", 0.01)
    world = World()
    start = SlowStart(world.start)
    starting(start).stop_chaos_monkey()
    assert "['slow']: under way for 0.01 s, undone as soon as it can be" in caplog.text
    start.go_on.set()
    world.wait_for(lambda: [what for what, _, _ in world.done] == ["start", "stop"])


def test_an_experiment_may_stop_the_monkey_while_it_starts(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()

    def start(experiment: ChaosExperiment, *, seed: int) -> Effect:
        monkey.stop_chaos_monkey()
        return world.start(experiment, seed=seed)

    monkey = Monkey(start, seed=1, clock=clock, background=False)
    monkey.register_experiment(experiment("slow"))
    monkey.start_chaos_monkey()
    monkey.tick()
    assert [what for what, _, _ in world.done] == ["start", "stop"]
    assert "under way" not in caplog.text  # it did not wait for itself


def test_who_stops_it_second_returns_when_all_is_undone_as_well(clock: ManualClock) -> None:
    world = World()
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Effect):
        def stop(self) -> None:
            entered.set()
            assert go_on.wait(PATIENCE)
            super().stop()

    def start(experiment: ChaosExperiment, *, seed: int) -> Effect:
        world.start(experiment, seed=seed)
        return Slow(world, experiment)

    def stop() -> None:
        monkey.stop_chaos_monkey()
        left.append(list(world.on))

    left: list[list[str]] = []
    monkey = Monkey(start, seed=1, clock=clock, background=False)
    monkey.register_experiment(experiment("slow"))
    monkey.start_chaos_monkey()
    monkey.tick()
    stoppers = [threading.Thread(target=stop) for _ in range(2)]
    stoppers[0].start()
    assert entered.wait(PATIENCE)
    stoppers[1].start()
    stoppers[1].join(0.05)  # time enough to return, if it did not wait
    go_on.set()
    for stopper in stoppers:
        stopper.join(PATIENCE)
    assert left == [[], []]


def test_its_thread_waits_again_after_a_tick_from_elsewhere(world: World) -> None:
    monkey = Monkey(world.start, seed=1, interval="1h")
    with monkey:
        monkey.tick()
        run = monkey._session
        assert run is not None
        deadline = time.monotonic() + PATIENCE
        while run.wake.is_set() and time.monotonic() < deadline:
            time.sleep(0)
        assert not run.wake.is_set()


def test_an_interrupt_right_after_a_start_leaves_something_that_can_be_stopped(
    world: World, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkey = by_hand(world, clock)
    monkey.register_experiment(experiment("slow"))
    monkey.start_chaos_monkey()
    monkeypatch.setattr(ActiveExperiments, "_started", interrupt)
    with pytest.raises(KeyboardInterrupt):
        monkey.tick()
    assert world.on == ["slow"]
    monkey.stop_chaos_monkey()
    assert world.on == []


def test_of_two_who_start_it_one_does(world: World, clock: ManualClock) -> None:
    barrier = threading.Barrier(2)

    def together() -> bool:
        if not monkey.events:
            barrier.wait(PATIENCE)
        return True

    monkey = by_hand(world, clock, steady_state=[Probe("together", together)])
    threads = [threading.Thread(target=monkey.start_chaos_monkey) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(of(monkey, MonkeyStarted)) == 1
    monkey.stop_chaos_monkey()
    assert len(of(monkey, MonkeyStopped)) == 1


def test_the_thread_survives_what_experiments_do_to_it(world: World) -> None:
    world.broken.add("bad")
    monkey = Monkey(world.start, seed=1, interval=0.001)
    monkey.register_experiment(experiment("bad"))
    monkey.register_experiment(experiment("good", duration=0.001))
    with monkey:
        world.wait_for(lambda: len(world.done) >= 6)
    assert len(of(monkey, ExperimentFailed)) >= 3
    assert world.on == []


def test_many_threads_may_tick_and_one_may_stop() -> None:
    world = World()
    monkey = Monkey(world.start, seed=1, interval=0.0005, max_active=3)
    for number in range(10):
        monkey.register_experiment(experiment(f"e{number}", probability=0.5, duration=0.001))
    monkey.start_chaos_monkey()
    most: list[int] = []

    def tick() -> None:
        for _ in range(200):
            monkey.tick()
            most.append(len(monkey.get_active_experiments()))

    threads = [threading.Thread(target=tick) for _ in range(4)]
    for thread in threads:
        thread.start()
    world.wait_for(lambda: len(world.done) >= 20)
    monkey.stop_chaos_monkey()
    assert world.on == []
    for thread in threads:
        thread.join(PATIENCE)
    assert world.on == []
    assert max(most) <= 3
    assert len(of(monkey, ExperimentStarted)) == len(of(monkey, ExperimentEnded))


class MonkeyMachine(RuleBasedStateMachine):
    """Whatever is done in whatever order: what is told is what is on, and stop leaves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.clock = ManualClock()
        self.monkey = by_hand(self.world, self.clock, max_active=3)

    @rule(probability=st.floats(0, 1), duration=st.floats(0.1, 100), broken=st.booleans())
    def register(self, probability: float, duration: float, broken: bool) -> None:
        name = f"e{len(self.monkey.experiments)}"
        self.monkey.register_experiment(experiment(name, probability, duration))
        if broken:
            self.world.broken.add(name)

    @rule()
    def start(self) -> None:
        self.monkey.start_chaos_monkey(10)
        assert self.monkey.running

    @rule(seconds=st.floats(0, 60))
    def tick(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.monkey.tick()
        for active in self.monkey.get_active_experiments().values():
            assert 0 <= active["elapsed"] < active["duration"]

    @rule()
    def stop(self) -> None:
        self.monkey.stop_chaos_monkey()
        assert self.world.on == []
        assert not self.monkey.running

    @precondition(lambda self: not self.monkey.running)
    @rule()
    def nothing_happens_without_a_start(self) -> None:
        done = len(self.world.done)
        self.monkey.tick()
        assert len(self.world.done) == done

    @invariant()
    def what_is_told_is_what_is_on(self) -> None:
        assert sorted(self.monkey.get_active_experiments()) == sorted(self.world.on)
        assert len(self.world.on) <= 3
        started, ended = of(self.monkey, ExperimentStarted), of(self.monkey, ExperimentEnded)
        assert len(started) - len(ended) == len(self.world.on)

    def teardown(self) -> None:
        self.monkey.stop_chaos_monkey()
        assert self.world.on == []
        assert self.monkey.get_active_experiments() == {}


TestMonkeyMachine = MonkeyMachine.TestCase
TestMonkeyMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.floats(0, 100), max_size=20))
def test_when_it_is_asked_changes_no_chance(seed: int, steps: list[float]) -> None:
    """A tick that comes late decides as it would have decided in time."""

    def run(steps: list[float]) -> dict[tuple[str, int], bool]:
        clock = ManualClock()
        world = World()
        monkey = by_hand(world, clock, seed=seed)
        for number in range(5):
            monkey.register_experiment(experiment(f"e{number}", probability=0.5, duration=1e-3))
        dealt: dict[tuple[str, int], bool] = {}
        with monkey:
            for step in steps:
                clock.advance(step)
                clock.advance(0.01)  # so that all of the tick before have ended
                world.done.clear()
                monkey.tick()
                number = int(clock.monotonic() // 30)
                names = {name for what, name, _ in world.done if what == "start"}
                if names:
                    dealt |= {(f"e{each}", number): f"e{each}" in names for each in range(5)}
        return dealt

    exact = run([0.0] + [29.99 + 1e-9] * 80)
    for key, started in run(steps).items():
        if key in exact:
            assert started == exact[key]

from __future__ import annotations

import gc
import math
import weakref

from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import Event
from pytest_resilience import FaultInjected
from pytest_resilience import ManualClock
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import CHANGED
from pytest_resilience.chaos.faults.network import PACED
from pytest_resilience.chaos.faults.network import RECEIVED
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.diagnosis import never_fired


class FakeInterceptor:
    """An interceptor that notes what is done with it."""

    kinds = frozenset({CONNECT, RECEIVE})

    def __init__(self) -> None:
        self.done: list[str] = []

    def install(self) -> None:
        self.done.append("install")

    def refresh(self) -> None:
        self.done.append("refresh")

    def remove(self) -> bool | None:
        self.done.append("remove")
        return None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def interceptor() -> FakeInterceptor:
    return FakeInterceptor()


@pytest.fixture
def engine(clock: ManualClock, interceptor: FakeInterceptor) -> Engine:
    return Engine(lambda _: [interceptor], clock=clock)


def operation(kind: str = CONNECT, name: str = "api:443", *, blocking: bool = True) -> Operation:
    return Operation(kind=kind, target=name, names=(name,), blocking=blocking)


def test_an_effect_does_not_lead_to_who_awaits_the_operation(engine: Engine) -> None:
    """A connection has the effect, and would be kept open by it."""

    class Protocol:
        pass

    events: list[Event] = []
    engine.listeners.add(events.append)
    protocol = Protocol()
    there = weakref.ref(protocol)
    site = CallSite(loop_objects=(protocol,))
    engine.start(ChaosExperiment("late", "network_latency", delay="1s", rate=1), seed=0)
    effect = engine.decide(operation(RECEIVE)._replace(call_site=site))
    assert effect is not None
    del protocol, site
    gc.collect()
    assert there() is None


def ask(engine: Engine, *args: str) -> Effect:
    effect = engine.decide(operation(*args))
    assert effect is not None
    return effect


LATENCY = ChaosExperiment("slow", "network_latency", delay=0.2)
FAILURE = ChaosExperiment("gone", "network_failure", rate=1)


def test_interceptors_are_installed_while_an_experiment_needs_them(
    engine: Engine, interceptor: FakeInterceptor
) -> None:
    names = ChaosExperiment("names", "network_failure", mode="dns")
    other = engine.start(names, seed=1)  # which this interceptor does not know
    assert interceptor.done == []
    first, second = engine.start(LATENCY, seed=1), engine.start(FAILURE, seed=1)
    first.stop()
    assert "remove" not in interceptor.done
    second.stop()
    other.stop()
    assert interceptor.done[-1] == "remove"
    assert interceptor.done.count("remove") == 1
    assert engine.active == ()


def test_interceptors_learn_once_of_what_begins_and_ends_at_once(
    engine: Engine, interceptor: FakeInterceptor
) -> None:
    with engine.at_once():
        both = engine.start(LATENCY, seed=1), engine.start(FAILURE, seed=1)
        assert [*engine.active] == [*both]
        assert interceptor.done == []
    assert interceptor.done == ["install", "refresh"]
    with engine.at_once():
        for each in both:
            each.stop()
    assert interceptor.done == ["install", "refresh", "remove"]
    assert engine.active == ()


def test_what_has_to_stay_is_removed_once_more_until_it_is_gone() -> None:
    left = [True, True, False]

    class Covered(FakeInterceptor):
        def remove(self) -> bool:
            super().remove()
            return left.pop(0)

    covered = Covered()
    engine = Engine(lambda _: [covered])
    engine.start(LATENCY, seed=1).stop()
    for _ in range(5):
        engine.refresh()
    assert covered.done.count("remove") == 3


def test_who_was_installed_last_is_removed_first() -> None:
    """Both may replace the same function, and the latter lies over the other's."""
    removed: list[FakeInterceptor] = []

    class Noted(FakeInterceptor):
        def remove(self) -> None:
            removed.append(self)

    first, last = Noted(), Noted()
    Engine(lambda _: [first, last]).start(LATENCY, seed=1).stop()
    assert removed == [last, first]


def test_latencies_add_up_and_the_oldest_failure_wins(engine: Engine) -> None:
    engine.start(LATENCY, seed=1)
    engine.start(ChaosExperiment("slower", "network_latency", delay=0.3), seed=1)
    assert ask(engine).delay == pytest.approx(0.5)
    assert ask(engine).failure is None
    engine.start(FAILURE, seed=1)
    assert ask(engine).failure == Refusal()
    assert ask(engine, RECEIVE).failure is None


@pytest.mark.parametrize(
    ("older", "newer", "hits"),
    [
        ({"mode": "reset"}, {"mode": "close"}, (1, 0)),
        ({"mode": "reset"}, {"mode": "reset"}, (1, 1)),  # the same happens for both
        ({"mode": "corrupt"}, {"mode": "reset"}, (0, 1)),  # and not what needs a response
        ({"mode": "truncate"}, {"mode": "lose_answer"}, (0, 1)),
        ({"mode": "timeout"}, {"mode": "reset"}, (1, 0)),
        ({"mode": "partition"}, {"mode": "reset"}, (1, 1)),  # one after the other
        ({"mode": "truncate", "after_bytes": 1}, {"mode": "reset", "after_bytes": 9}, (1, 0)),
        ({"mode": "reset", "after_bytes": 9}, {"mode": "truncate", "after_bytes": 1}, (0, 1)),
        ({"mode": "corrupt", "share": 1}, {"mode": "truncate", "after_bytes": 1}, (1, 1)),
    ],
)
def test_what_happens_in_the_place_of_another_is_counted_alone(
    older: dict[str, Any], newer: dict[str, Any], hits: tuple[int, int], engine: Engine
) -> None:
    started = [
        engine.start(ChaosExperiment(f"{at}", "network_failure", rate=1, **each), seed=1)
        for at, each in enumerate((older, newer))
    ]
    told: list[FaultInjected] = []
    engine.listeners.add(told.append)
    stream = ResponseStream(ask(engine, RECEIVE))
    stream.arrive(engine.clock.monotonic())
    stream.next(20, engine.clock.monotonic())
    stream.take(bytes(20))
    assert tuple(each.hits for each in started) == hits
    assert [each.source for each in told] == [f"{at}" for at, count in enumerate(hits) if count]


def test_experiments_end_by_themselves(engine: Engine, clock: ManualClock) -> None:
    short = ChaosExperiment("short", "network_latency", delay=1, duration=10)
    active_experiment = engine.start(short, seed=1)
    effect = ask(engine)
    clock.advance(9.9)
    assert effect.left() == pytest.approx(0.1)
    assert not active_experiment.ended
    clock.advance(0.2)
    assert effect.left() == 0
    assert active_experiment.ended
    assert engine.decide(operation()) is None
    assert active_experiment.matched == 1


def test_the_time_of_one_that_is_not_started_passes(engine: Engine, clock: ManualClock) -> None:
    clock.advance(50)
    short = ChaosExperiment("short", "network_latency", delay=1, duration=10)
    idle = engine.not_started(short)
    assert (idle.ends_at, idle.ended, idle.must_fire, engine.active) == (60, False, False, ())
    clock.advance(10)
    assert idle.ended


def test_its_time_begins_when_what_it_needs_is_in_place(clock: ManualClock) -> None:
    class Slow(FakeInterceptor):
        def install(self) -> None:
            clock.advance(5)  # it has much to load

    engine = Engine(lambda _: [Slow()], clock=clock)
    short = ChaosExperiment("short", "network_latency", delay=0.2, duration=1)
    active_experiment = engine.start(short, seed=1)
    assert (active_experiment.started_at, active_experiment.ends_at) == (5, 6)
    ask(engine)


def test_what_interceptors_need_can_be_loaded_before(
    engine: Engine, interceptor: FakeInterceptor
) -> None:
    engine.preload()
    assert interceptor.done == ["install", "remove"]
    engine.start(LATENCY, seed=1)
    interceptor.done.clear()
    engine.preload()  # it is, by now
    assert interceptor.done == []


@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_silence_ends_with_its_own_experiment(
    engine: Engine, clock: ManualClock, mode: str
) -> None:
    engine.start(LATENCY, seed=1)
    silent = ChaosExperiment("silent", "network_failure", mode=mode, rate=1, duration=10)  # type: ignore[call-overload]
    engine.start(silent, seed=1)
    effect = ask(engine)
    assert effect.left() == pytest.approx(10)
    clock.advance(10.1)
    assert effect.left() == 0


def test_only_what_it_is_aimed_at_counts(engine: Engine) -> None:
    aimed = ChaosExperiment("aimed", "network_latency", delay=1, target="api:443")
    active_experiment = engine.start(aimed, seed=1)
    assert engine.is_targeted(operation())
    assert not engine.is_targeted(operation(CONNECT, "db:5432"))
    assert engine.decide(operation(CONNECT, "db:5432")) is None
    assert engine.decide(operation(SEND)) is None
    assert engine.decide(operation(RECEIVE, blocking=False)) is None
    assert (active_experiment.matched, active_experiment.hits) == (0, 0)
    assert never_fired(active_experiment).seen == (
        "network.connect db:5432",
        "network.send api:443",
        "network.receive api:443 (begun without blocking, in no loop of asyncio or trio)",
    )


def test_only_so_much_is_remembered_of_what_it_is_not_aimed_at(engine: Engine) -> None:
    active_experiment = engine.start(ChaosExperiment("x", "network_latency", target="y"), seed=1)
    for number in range(1000):
        engine.note_unmatched(operation(CONNECT, f"host{number}:1"))
    assert len(never_fired(active_experiment).seen) == 8


def test_events_say_what_happened_where(engine: Engine, clock: ManualClock) -> None:
    heard: list[Event] = []

    def hostile(event: Event) -> None:
        raise RuntimeError(event)

    engine.listeners.add(hostile)
    engine.listeners.add(heard.append)
    clock.advance(5)
    engine.start(LATENCY, seed=1)
    ask(engine)
    (event,) = heard
    assert isinstance(event, FaultInjected)
    assert event.place.endswith(" in ask")
    assert "test_engine.py:" in event.place
    assert (event.at, event.source, event.kind, event.target) == (5, "slow", CONNECT, "api:443")
    assert (event.fault, event.number, event.delay) == ("latency 200ms", 1, 0.2)


def test_waits_are_booked_on_those_who_caused_them(engine: Engine) -> None:
    slow = engine.start(ChaosExperiment("slow", "network_latency", delay=1), seed=1)
    slower = engine.start(ChaosExperiment("slower", "network_latency", delay=3), seed=1)
    ask(engine).add_delay(2.0)  # a timeout cut it short
    assert (slow.delay, slower.delay) == (0.5, 1.5)
    silent = engine.start(ChaosExperiment("x", "network_failure", mode="timeout", rate=1), seed=1)
    assert ask(engine).delay == math.inf
    ask(engine).add_delay(4.0)
    assert (slow.delay, slower.delay, silent.delay) == (0.5, 1.5, 4.0)


@given(
    seed=st.integers(0, 2**64 - 1),
    rate=st.floats(0, 1),
    steps=st.lists(st.sampled_from([CONNECT, RECEIVE, SEND]), max_size=50),
)
def test_the_same_seed_deals_the_same_faults(seed: int, rate: float, steps: list[str]) -> None:
    def run() -> tuple[list[bool], ActiveExperiment]:
        engine = Engine(lambda _: [], clock=ManualClock())
        active_experiment = engine.start(
            ChaosExperiment("x", "network_latency", rate=rate), seed=seed
        )
        return [engine.decide(operation(kind)) is not None for kind in steps], active_experiment

    dealt, active_experiment = run()
    assert run()[0] == dealt
    assert active_experiment.matched == sum(kind != SEND for kind in steps)
    assert active_experiment.counts.chosen == sum(dealt)


def test_what_awaits_bytes_is_counted_and_told_when_it_happens(engine: Engine) -> None:
    heard: list[Event] = []
    engine.listeners.add(heard.append)
    far = engine.start(LATENCY, seed=1)
    thin = engine.start(ChaosExperiment("thin", "network_latency", bandwidth="1kB"), seed=1)
    cut = engine.start(ChaosExperiment("cut", "network_failure", mode="truncate", rate=1), seed=1)
    effect = ask(engine, RECEIVE)
    counts = []
    for what in (RECEIVED, PACED, CHANGED):
        counts.append((far.hits, thin.hits, cut.hits, len(heard)))
        effect.happen(what)
    counts.append((far.hits, thin.hits, cut.hits, len(heard)))
    effect.uncount()
    assert counts == [(0, 0, 0, 0), (1, 0, 0, 1), (1, 1, 0, 2), (1, 1, 1, 3)]
    effect.happen(CHANGED)  # once is enough
    assert [event.source for event in heard] == ["slow", "thin", "cut"]
    assert (far.matched, thin.matched, cut.matched, cut.hits) == (1, 1, 1, 1)


@pytest.mark.parametrize("delay", ["0ms", "10ms"])
def test_a_delay_that_differs_is_counted_once_also_where_it_is_none(
    engine: Engine, delay: str
) -> None:
    uneven = engine.start(ChaosExperiment("x", "network_latency", delay=delay, jitter=0.02), seed=1)
    delays = []
    for number in range(1, 21):
        effect = ask(engine, RECEIVE)
        effect.happen(RECEIVED)
        delays.append(effect.delay)
        assert uneven.hits == number
    assert min(delays) == 0 < max(delays)


def test_an_experiment_that_cannot_start_leaves_nothing(clock: ManualClock) -> None:
    class Broken(FakeInterceptor):
        def install(self) -> None:
            super().install()
            raise KeyboardInterrupt

    interceptor = Broken()
    engine = Engine(lambda _: [interceptor], clock=clock)
    with pytest.raises(KeyboardInterrupt):
        engine.start(LATENCY, seed=1)
    assert engine.active == ()
    assert interceptor.done == ["install", "remove"]


def test_an_activation_tells_its_counts(engine: Engine) -> None:
    active_experiment = engine.start(LATENCY, seed=1)
    ask(engine)
    assert repr(active_experiment) == "<ActiveExperiment 'slow' matched=1 hits=1 until=60.000>"


def test_a_recording_goes_on_after_one_in_it() -> None:
    engine, outer, inner = Engine(lambda _: ()), Recorder([]), Recorder([])
    with engine.recording(outer):
        with engine.recording(inner):
            assert engine.recorder is inner
        assert engine.recorder is outer
    assert engine.recorder is None

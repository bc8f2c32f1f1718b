"""Which datagrams arrive, and in which order, follows from the seed alone."""

from __future__ import annotations

import math

from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import FaultInjected
from pytest_resilience.chaos.datagram_faults import PATIENCE
from pytest_resilience.chaos.datagram_faults import DatagramLine
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RECEIVE_DATAGRAM
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.clock import ManualClock


SENT = Operation(kind=SEND_DATAGRAM, target="statsd:8125", names=("statsd:8125",))
RECEIVED = Operation(kind=RECEIVE_DATAGRAM, target="statsd:8125", names=("statsd:8125",))
STEP = 0.001  # seconds between two


class Passage:
    """Datagrams that pass, one every `STEP` seconds, and arrive as soon as they are due."""

    def __init__(self, *experiments: ChaosExperiment, seed: int) -> None:
        self.clock = ManualClock()
        self.engine = Engine(lambda _: (), clock=self.clock)
        self.line: DatagramLine[int] = DatagramLine()
        self.hits: set[int] = set()
        self.arrived: list[tuple[int, float]] = []
        self.engine.listeners.add(self._note)
        for each in experiments:
            self.engine.start(each, seed=seed)

    def _note(self, event: Any) -> None:
        assert isinstance(event, FaultInjected)
        self.hits.add(event.number)

    def pass_all(self, count: int, operation: Operation = SENT) -> list[int]:
        for number in range(1, count + 1):
            self.line.put(number, self.engine.decide(operation), self.clock.monotonic())
            self.take()
            self.clock.advance(STEP)
        while self.line:
            self.clock.advance(max(1e-9, self.line.due - self.clock.monotonic()))
            self.take()
        return [each for each, _ in self.arrived]

    def take(self) -> None:
        while (arrived := self.line.take(self.clock.monotonic())) is not None:
            self.arrived.append((arrived, self.clock.monotonic()))


def failure(mode: str, **given: Any) -> ChaosExperiment:
    parameters = {"mode": mode, **given}
    return ChaosExperiment("x", "network_failure", **parameters)


def expected(mode: str, count: int, hits: set[int]) -> list[int]:
    numbers = iter(range(1, count + 1))
    arrived: list[int] = []
    for each in numbers:
        if each not in hits:
            arrived.append(each)
        elif mode == "duplicate":
            arrived += [each, each]
        elif mode == "reorder":
            following = next(numbers, None)  # which overtakes, though it may have been hit itself
            arrived += [each] if following is None else [following, each]
    return arrived


@given(
    mode=st.sampled_from(["drop", "duplicate", "reorder"]),
    count=st.integers(0, 30),
    rate=st.floats(0.05, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_arrives(mode: str, count: int, rate: float, seed: int) -> None:
    first, second = (Passage(failure(mode, rate=rate), seed=seed) for _ in range(2))
    arrived = first.pass_all(count)
    assert arrived == expected(mode, count, first.hits)
    assert second.pass_all(count) == arrived
    assert second.arrived == first.arrived


@given(
    count=st.integers(1, 30),
    delay=st.integers(1, 50),
    jitter=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_all_that_is_late_arrives(count: int, delay: int, jitter: int, seed: int) -> None:
    late = ChaosExperiment(
        "x", "network_latency", delay=f"{delay}ms", jitter=f"{min(delay, jitter)}ms"
    )
    passage = Passage(late, seed=seed)
    began = passage.clock.monotonic()
    assert sorted(passage.pass_all(count, RECEIVED)) == list(range(1, count + 1))
    moments = [moment for _, moment in passage.arrived]
    assert moments == sorted(moments)
    for number, moment in passage.arrived:
        least = began + (number - 1) * STEP + max(0, delay - jitter) / 1e3
        assert moment >= least - 1e-9


@pytest.mark.parametrize("mode", ["refuse", "partition", "drop"])
def test_nothing_arrives(mode: str) -> None:
    passage = Passage(failure(mode, rate=1), seed=1)
    assert passage.pass_all(3) == []
    assert passage.line.due == math.inf


def test_one_that_nobody_overtakes_arrives_after_a_while() -> None:
    passage = Passage(failure("reorder", nth=2), seed=1)
    assert passage.pass_all(2) == [1, 2]
    assert passage.arrived[1][1] - passage.arrived[0][1] == pytest.approx(PATIENCE + STEP)


def test_what_is_lost_overtakes_nobody() -> None:
    passage = Passage(failure("reorder", nth=1), failure("drop", nth=2), seed=1)
    assert passage.pass_all(3) == [3, 1]


def test_what_is_late_itself_overtakes_late() -> None:
    passage = Passage(
        failure("reorder", nth=1),
        ChaosExperiment("late", "network_latency", delay="50ms", nth=2),
        seed=1,
    )
    assert passage.pass_all(3, RECEIVED) == [3, 2, 1]


def test_when_the_experiment_has_ended_nothing_is_late() -> None:
    passage = Passage(ChaosExperiment("x", "network_latency", delay="1h", duration="5s"), seed=1)
    passage.line.put(1, passage.engine.decide(RECEIVED), passage.clock.monotonic())
    passage.clock.advance(4)
    passage.line.release_ended(passage.clock.monotonic())
    passage.take()
    assert not passage.arrived
    passage.clock.advance(2)
    passage.line.release_ended(passage.clock.monotonic())
    passage.take()
    assert [each for each, _ in passage.arrived] == [1]
    assert not passage.line

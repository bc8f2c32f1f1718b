from __future__ import annotations

import math
import threading

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import ManualClock
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.parsing.targets import Target


def operation(target: str = "api:443", *, blocking: bool = True) -> Operation:
    return Operation(kind=CONNECT, target=target, names=(target,), blocking=blocking)


def active_experiment(kind: str = "network_latency", **parameters: Any) -> ActiveExperiment:
    return ActiveExperiment(ChaosExperiment("x", kind, **parameters), seed=1, started_at=100.0)


def test_it_lasts_as_long_as_it_was_given() -> None:
    running = active_experiment(duration=10)
    assert [running.left(now) for now in (100.0, 104.0, 110.0, 111.0)] == [10.0, 6.0, 0.0, 0.0]
    running.stop()
    assert running.left(100.0) == 0
    assert active_experiment(duration=math.inf).left(1e9) == math.inf


@pytest.mark.parametrize("duration", [10, math.inf])
def test_it_has_ended_by_its_duration_or_by_stop(duration: float) -> None:
    clock = ManualClock(start=100)
    running = ActiveExperiment(
        ChaosExperiment("x", "network_latency", duration=duration),
        seed=1,
        started_at=100.0,
        clock=clock,
    )
    clock.advance(9.9)
    assert not running.ended
    running.paused = True  # its time goes on
    assert not running.ended
    clock.advance(0.1)
    assert running.ended is (duration == 10)
    assert not running.stopped
    running.stop()
    assert running.ended


def test_each_hit_knows_its_number() -> None:
    running = active_experiment(every=2)
    hits = [running.decide(operation(), 100.0) for _ in range(4)]
    assert [[hit.number for hit in each] for each in hits] == [[], [2], [], [4]]
    assert hits[1][0].active_experiment is running
    assert hits[1][0].fault == running.experiment.faults[0]


def test_where_several_triggers_choose_each_has_to() -> None:
    running = active_experiment(from_nth=3, every=2, first=7)
    hits = chain.from_iterable(running.decide(operation(), 100.0) for _ in range(10))
    assert [hit.number for hit in hits] == [4, 6]


def test_time_counts_from_its_start() -> None:
    running = active_experiment(between="1s..2s")
    assert [bool(running.decide(operation(), at)) for at in (100.5, 101.0, 102.0)] == [
        False, True, False,
    ]  # fmt: skip
    assert (running.matched, running.hits) == (3, 1)


@pytest.mark.parametrize(
    ("chosen", "nothing"),
    [
        ({"nth": 3}, True), ({"from_nth": 3}, True), ({"every": 3}, True),
        ({"between": "1s..2s"}, True), ({"nth": 4, "every": 2}, True), ({"nth": 2}, False),
        ({"first": 1}, False), ({"rate": 0}, False), ({"nth": 3, "rate": 0.5}, False),
        ({"nth": 3, "intensity": 0}, False), ({}, False),
    ],
)  # fmt: skip
def test_a_trigger_that_chose_none_of_two_proves_nothing(
    chosen: dict[str, Any], nothing: bool
) -> None:
    running = active_experiment(**chosen)
    assert running.proves_nothing
    for _ in range(2):
        running.decide(operation(), 100.0)
    assert running.matched == 2
    assert running.proves_nothing is nothing


def on(connection: int, *names: str) -> Operation:
    tcp = TcpDetails(connection=connection)
    return Operation(kind=CONNECT, target=names[0], names=names, tcp=tcp)


@pytest.mark.parametrize(
    ("target", "hit"),
    [
        ("a:80#2", [12]), ("a:80#1-2", [11, 12]), ("b#1", [21]), ("*#3", [12]), ("!a", [21, 22]),
        ("!a:80#2", [11, 21, 22]), ("*:80-81|!b", [11, 12]), ("a#2|b#1", [21, 12]),
        ("!a#1|!b#1", [12, 22]), ("10.0.0.1#2", [12]), ("a:81-90", []), ("b:81-90#2", [22]),
    ],
)  # fmt: skip
def test_targets_exclude_and_name_connections(target: str, hit: list[int]) -> None:
    """Connections count from the first operation on, whatever kind that is."""
    running = active_experiment("network_failure", rate=1, target=target)
    done = [
        on(11, "a:80", "10.0.0.1:80"), on(21, "b:81"),
        on(12, "a:80", "10.0.0.1:80"), on(22, "b:81"),
    ]  # fmt: skip
    found = [each.tcp.connection for each in done if running.decide(each, 100.0)]
    assert found == hit
    assert [each.tcp.connection for each in done if running.decide(each, 100.0)] == hit


def test_what_has_no_number_is_none_of_those_that_are_numbered() -> None:
    for target, hit in (("a#1", False), ("!a#1", True)):
        running = active_experiment("network_failure", rate=1, target=target)
        assert bool(running.decide(on(0, "a:80"), 100.0)) is hit


def test_a_connection_that_nobody_has_met_may_get_any_number() -> None:
    running = active_experiment("network_failure", rate=1, target="a#2")
    assert running.matches_target(on(5, "a:80"))
    assert not running.matches_target(on(5, "b:80"))
    running.decide(on(5, "a:80"), 100.0)
    assert not running.matches_target(on(5, "a:80"))


@given(
    opened=st.lists(st.sampled_from(["a:80", "b:80", "b:81"]), max_size=12),
    wanted=st.tuples(st.sampled_from(["a:80", "b", "*:80", "*"]), st.integers(1, 6)),
)
def test_the_nth_connection_is_the_nth_that_matches(
    opened: list[str], wanted: tuple[str, int]
) -> None:
    where, number = wanted
    running = active_experiment("network_failure", rate=1, target=f"{where}#{number}")
    hit = [at for at, name in enumerate(opened, 1) if running.decide(on(at, name), 100.0)]
    meant = [at for at, name in enumerate(opened, 1) if Target(where).matches(name)]
    assert hit == meant[number - 1 : number]


def test_what_is_taken_back_is_counted_no_more() -> None:
    running = active_experiment("network_failure", mode="truncate", nth=2)
    running.decide(response("a:1"), 100.0)
    [hit] = running.decide(response("b:1"), 100.0)
    assert (running.matched, running.counts.chosen, running.hits) == (2, 1, 0)
    running.uncount(hit)
    assert (running.matched, running.counts.chosen, running.hits) == (1, 0, 0)
    assert running.counted is not None
    assert running.counted.lines(running.matched) == ("1 network.receive a:1",)
    assert running.proves_nothing


@pytest.mark.parametrize("mode", ["truncate", "corrupt", "lose_answer"])
def test_what_awaits_bytes_proves_nothing_before_they_have_come(mode: str) -> None:
    running = active_experiment("network_failure", mode=mode, rate=1)
    assert running.decide(response("a:1"), 100.0)
    assert (running.matched, running.hits, running.proves_nothing) == (1, 0, True)


def test_what_may_come_to_nothing_is_kept_until_something_has_happened() -> None:
    running = active_experiment("network_failure", mode="truncate", rate=1)
    running.decide(response("a:1"), 100.0)
    running.counts.add(hits=1)
    running.decide(response("b:1"), 100.0)
    assert running.counted is not None
    assert running.counted.lines(running.matched) == ("1 network.receive a:1", "and 1 more")


def response(name: str) -> Operation:
    return Operation(kind=RECEIVE, target=name, names=(name,))


def test_threads_lose_neither_counts_nor_seconds() -> None:
    running = active_experiment(rate=0.5)
    together = threading.Barrier(8, timeout=10)

    def work(_: int) -> list[int]:
        together.wait()
        numbers = []
        for _ in range(500):
            numbers += [hit.number for hit in running.decide(operation(), 100.0)]
            running.counts.add(delay=0.5)
        return numbers

    with ThreadPoolExecutor(8) as pool:
        numbers = sorted(chain.from_iterable(pool.map(work, range(8))))
    assert running.matched == 4000
    assert running.hits == len(numbers)
    assert running.delay == 2000.0

    alone = active_experiment(rate=0.5)
    alone_numbers = [hit.number for _ in range(4000) for hit in alone.decide(operation(), 100.0)]
    assert numbers == alone_numbers  # which of them are hit does not depend on who came first


@pytest.mark.parametrize("mode", ["refuse", "reset"])
def test_what_does_not_wait_hits_non_blocking_sockets(mode: str) -> None:
    running = active_experiment("network_failure", mode=mode, rate=1)
    for kind in running.kinds:
        asked = Operation(kind=kind, target="a:1", names=("a:1",), blocking=False)
        assert running.decide(asked, 100.0)


def test_more_of_a_message_is_only_held_back_by_what_lets_nothing_through() -> None:
    more = Operation(kind=CONNECT, target="a:1", names=("a:1",), tcp=TcpDetails(mid_message=True))
    for kind, parameters, hit in (
        ("network_latency", {}, False),
        ("network_failure", {"mode": "timeout", "rate": 1}, False),
        ("network_failure", {"mode": "partition"}, True),
    ):
        running = active_experiment(kind, **parameters)
        assert bool(running.decide(more, 100.0)) is hit
        assert running.matched == hit

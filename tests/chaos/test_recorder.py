from __future__ import annotations

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services


REFUSED = ChaosExperiment("refused", "network_failure", mode="refuse")
CORRUPT = ChaosExperiment("corrupt", "network_failure", mode="corrupt")
CLOSE = ChaosExperiment("close", "network_latency", mode="slow_close")
COMMIT = ChaosExperiment("commit", "database_slowdown", at="commit")
BUSY = ChaosExperiment("busy", "cpu_stress")
ALL = [REFUSED, CORRUPT, CLOSE, COMMIT, BUSY]
SERVICES = Services([
    Service.at("host", ["shop.example:80"]), Service.at("function", ["shop:stock"]),
    Service.at("both", ["shop.example:80", "shop:stock"]),
])  # fmt: skip


def seen(*operations: Operation, noting: bool = True) -> set[str]:
    recorder = Recorder(ALL)
    recorder.in_test = noting
    for each in operations:
        recorder.note(each)
    return {each.name for each in ALL if recorder.could_hit(each)} - {"busy"}


def operation(kind: str, advice: str = "") -> Operation:
    return Operation(kind=kind, target="shop:80", names=("shop:80",), advice=advice)


def test_pressure_and_what_has_no_fault_at_all_could_hit_anything() -> None:
    weak = ChaosExperiment("weak", "cpu_stress", intensity=0)
    recorder = Recorder([BUSY, weak, REFUSED])
    assert recorder.could_hit(BUSY)
    assert recorder.could_hit(weak)
    assert not recorder.could_hit(REFUSED)
    assert recorder.kinds == {CONNECT, SEND_DATAGRAM}


@pytest.mark.parametrize(
    ("kind", "advice", "expected"),
    [
        (CONNECT, "", {"refused"}),
        (RECEIVE, "", {"corrupt", "close"}),
        (SEND, "", set()),
        (SEND_DATAGRAM, "", {"refused"}),
        (RESOLVE, "", set()),
        (CONNECT, "it is written in C", {"refused", "corrupt", "close"}),
        (RESOLVE, "it does not resolve", {"refused", "corrupt", "close"}),
        (EXECUTE, "", set()),
        (EXECUTE, "it was opened before", {"commit"}),
        ("process.start", "it is a process of its own", set()),
    ],
)
def test_what_is_done_could_be_hit(kind: str, advice: str, expected: set[str]) -> None:
    assert seen(operation(kind, advice)) == expected
    assert seen(operation(kind, advice), noting=False) == set()


def test_it_lacks_what_it_has_not_seen_of_what_is_asked_for() -> None:
    recorder = Recorder([REFUSED, CORRUPT])
    talk = frozenset({SEND, RECEIVE})
    assert not recorder.lacks(talk)  # the test has not begun
    recorder.in_test = True
    assert recorder.lacks(talk)
    recorder.note(operation(RECEIVE))
    assert not recorder.lacks(talk)  # nobody asked for what is sent


@pytest.mark.parametrize(
    ("name", "called", "connected"),
    [("host", False, True), ("function", True, False), ("both", True, True)],
)
def test_a_service_is_reached_where_it_is(name: str, called: bool, connected: bool) -> None:
    experiment = ChaosExperiment("down", "service_failure", target_services=[name])
    for kind, expected in ((CALL, called), (CONNECT, connected)):
        recorder = Recorder([experiment.bind(SERVICES)])
        recorder.in_test = True
        recorder.note(Operation(kind=kind, target=name, names=(name,)))
        assert recorder.could_hit(experiment) == expected


def test_a_child_is_not_seen() -> None:
    recorder = Recorder(ALL)
    recorder.forked()
    assert not recorder.could_hit(REFUSED)  # that of a fixture
    recorder.in_test = True
    recorder.forked()
    assert all(map(recorder.could_hit, ALL))


def test_only_the_first_lines_are_kept() -> None:
    recorder = Recorder(ALL)
    recorder.in_test = True
    for number in range(100):
        recorder.note(Operation(kind=CONNECT, target=f"shop:{number}", names=()))
    assert list(recorder.lines) == [f"network.connect shop:{number}" for number in range(8)]

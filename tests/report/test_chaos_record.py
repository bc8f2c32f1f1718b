from __future__ import annotations

import json

from pytest_resilience import FaultInjected
from pytest_resilience.report.chaos_record import ChaosRecord
from pytest_resilience.report.chaos_record import ExperimentRecord
from pytest_resilience.report.chaos_record import Tallies
from pytest_resilience.report.chaos_record import timeline


def row(what: str, *, started: bool = True, matched: int = 0, delay: float = 0) -> ExperimentRecord:
    return ExperimentRecord(
        name="x",
        what=what,
        requested_by="flag",
        started=started,
        matched=matched,
        hits=matched // 2,
        delay=delay,
    )


def record(*rows: ExperimentRecord) -> ChaosRecord:
    return ChaosRecord(nodeid="test_it.py::test_it", experiments=rows)


def test_a_line_per_experiment_over_all_tests() -> None:
    tallies = Tallies()
    tallies.add(record(row("slow", matched=4, delay=0.5), row("gone")))
    tallies.add(record(row("slow", matched=2, delay=1), row("gone"), row("rare", started=False)))
    assert tallies.lines() == [
        "slow [flag] - 2 tests, matched 6, hit 3, delayed 1.5s",
        "gone [flag] - 2 tests, never fired: nothing matched",
        "rare [flag] - 0 tests, not started in 1 (chance), matched 0, hit 0",
    ]


def test_what_differs_in_numbers_only_shares_a_line_unless_all_is_asked_for() -> None:
    tallies = Tallies()
    for number in range(1, 61):
        tallies.add(record(row(f"disk: full, number {number}, target any", matched=2)))
    tallies.add(record(row("slow", matched=2), row("gone: number 1"), row("gone: number 2")))
    shared = "disk: full, number 1, target any, and 59 more with other numbers"
    assert tallies.lines(whole=False) == [
        f"{shared} [flag] - 60 tests, matched 120, hit 60",
        "slow [flag] - 1 test, matched 2, hit 1",
        "gone: number 1 [flag] - 1 test, never fired: nothing matched",
        "gone: number 2 [flag] - 1 test, never fired: nothing matched",
    ]
    assert len(tallies.lines()) == 63


def test_records_travel_as_json() -> None:
    original = record(row("slow", matched=4, delay=0.5), row("rare", started=False))
    assert ChaosRecord.from_json(json.loads(json.dumps(original.to_json()))) == original


def event(number: int, place: str = "") -> FaultInjected:
    return FaultInjected(
        at=0, source="slow", kind="network.connect", target="a:1", fault="latency 1s",
        number=number, delay=1, place=place,
    )  # fmt: skip


def test_a_timeline_shows_when_what_and_where() -> None:
    assert timeline([(0.25, event(1, "shop.py:3 in buy")), (1, event(2))]) == (
        "+0.250s slow: latency 1s on network.connect a:1 at shop.py:3 in buy\n"
        "+1.000s slow: latency 1s on network.connect a:1"
    )
    assert timeline([]) == "no fault was injected"


def test_a_long_timeline_keeps_its_end() -> None:
    lines = timeline([(number, event(number)) for number in range(100)]).splitlines()
    assert lines[0] == "… 70 earlier faults"
    assert lines[-1].startswith("+99.000s")
    assert len(lines) == 31

"""A failing schedule becomes the smallest that fails in the same way."""

from __future__ import annotations

import itertools

from dataclasses import replace

import pytest

from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.exploration.shrink import shrink
from tests.exploration.pieces import System
from tests.exploration.pieces import seen


TARGETS = ("a", "b", "c", "d")
MOST_RUNS = 12


def step(target: str, fault: str = "refuse", *, lasts: bool = False) -> Step:
    return Step(seen(target).point, fault, lasts)


CAUSES = [
    (pair, fault) for fault in ("refuse", "timeout") for pair in itertools.combinations(TARGETS, 2)
]


@pytest.mark.parametrize(("pair", "fault"), CAUSES)
def test_five_faults_become_the_two_that_matter(pair: tuple[str, str], fault: str) -> None:
    causes = frozenset((target, fault) for target in pair)
    system = System([seen(each) for each in TARGETS], lambda happened: causes <= happened)
    schedule = (*(step(each, fault) for each in TARGETS), step("nowhere"))
    outcome = system.run(schedule)
    assert outcome.verdict.bad
    system.runs.clear()
    smallest, found = shrink(schedule, outcome, system.run)
    assert smallest == tuple(step(each, fault) for each in pair)
    assert found.signature == outcome.signature
    assert len(system.runs) <= MOST_RUNS


def test_the_simplest_fault_is_taken_that_fails_in_the_same_way() -> None:
    system = System([seen("a")], bool)
    schedule = (step("a", "timeout", lasts=True),)
    smallest, _ = shrink(schedule, system.run(schedule), system.run)
    assert smallest == (step("a", "timeout"),)


def test_no_fault_takes_its_place_that_is_not_meant() -> None:
    system = System([seen("a")], bool)
    schedule = (step("a", "timeout"),)
    smallest, _ = shrink(
        schedule, system.run(schedule), system.run, meant=lambda name: name != "refuse"
    )
    assert smallest == schedule


def test_another_failure_does_not_take_the_place_of_the_first() -> None:
    causes = frozenset({("a", "timeout")})
    system = System([seen("a"), seen("b")], lambda happened: causes <= happened)
    schedule = (step("a", "timeout"), step("b"))
    smallest, _ = shrink(schedule, system.run(schedule), system.run)
    assert smallest == (step("a", "timeout"),)


def test_without_runs_it_stays_as_it_is() -> None:
    def none(_: Schedule) -> Outcome | None:
        return None

    system = System([seen("a"), seen("b")], bool)
    schedule = (step("a"), step("b"))
    assert shrink(schedule, system.run(schedule), none)[0] == schedule


def test_a_crash_becomes_the_one_that_needs_the_least_to_happen() -> None:
    tried: list[Schedule] = []

    def run(schedule: Schedule) -> Outcome:
        tried.append(schedule)
        failed = System([seen("a")], bool).run((step("a"),))
        return replace(failed, hit=frozenset(schedule))

    crash = step("a")._replace(fault="crash_posix")
    smallest, _ = shrink((crash,), run((crash,)), run)
    assert smallest == (crash._replace(fault="killed"),)
    assert {each.fault for (each,) in tried} == {"crash_posix", "killed"}

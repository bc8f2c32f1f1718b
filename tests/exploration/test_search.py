"""Which schedules are tried: all singles, pairs where they are reached; and what they shrink to."""

from __future__ import annotations

import dataclasses
import itertools

from dataclasses import replace

import pytest

from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.outcome import Signature
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.exploration.search import Budget
from pytest_resilience.exploration.search import Search
from pytest_resilience.exploration.search import shrink
from pytest_resilience.exploration.search import singles
from pytest_resilience.report.cell import CellVerdict
from tests.exploration.pieces import System
from tests.exploration.pieces import request
from tests.exploration.pieces import seen


def explored(
    system: System, *, depth: int = 2, prune: bool = True, runs: int | None = None
) -> Search:
    budget = Budget(runs, None, lambda: 0.0)

    def attempt(schedule: Schedule) -> Outcome | None:
        if budget.is_over:
            return None
        budget.spend()
        return system.run(schedule)

    search = Search(system.faultless, attempt, depth=depth, prune=prune)
    search.run()
    return search


def failing(search: Search) -> set[Schedule]:
    return {schedule for schedule, each in search.outcomes.items() if each.verdict.bad}


def test_each_operation_has_each_fault_once_and_from_there_on() -> None:
    system = System([seen("a"), seen("b"), seen("a", 2)], lambda _: False)
    search = explored(system, depth=1, prune=False)
    assert set(map(format_schedule, search.outcomes)) == {
        f"connect({where})@shop.pay#{number}{mode}={fault}"
        for where, number in [("a", 1), ("b", 1), ("a", 2)]
        for mode in ("", "+")
        for fault in ("refuse", "timeout")
    }


def test_the_first_of_each_site_comes_first_and_the_simplest_fault() -> None:
    found = list(map(str, singles([seen("a"), seen("a", 2), seen("b")])))
    assert found[:2] == ["connect(a)@shop.pay#1=refuse", "connect(b)@shop.pay#1=refuse"]
    assert all("#2" in each for each in found[-4:])


def test_orders_come_after_all_faults_and_only_where_somebody_goes_first_in_pairs() -> None:
    one, other = (seen(each)._replace(faults=("refuse", "later")) for each in "ab")
    late = "connect(a)@shop.pay#1=later"
    runs = []

    def attempt(schedule: Schedule) -> Outcome:
        runs.append(format_schedule(schedule))
        steps = tuple((step, "ab".index(step.point.site.target)) for step in schedule)
        in_vain = frozenset(step for step in schedule if str(step) == late)
        survived = Signature(verdict=CellVerdict.SURVIVED)
        return Outcome(
            verdict=survived.verdict, signature=survived, seen=(one, other), positions=steps,
            hit=frozenset(schedule), in_vain=in_vain,
        )  # fmt: skip

    Search([one, other], attempt, meant=lambda fault: fault == "later").run()
    faults, orders = runs[:2], runs[2:4]
    assert all("refuse" in each for each in faults)
    assert orders == [late, "connect(b)@shop.pay#1=later"]
    refused = "connect(a)@shop.pay#1=refuse"
    assert runs[4:] == [f"{refused}, connect(b)@shop.pay#1=later"]


def test_a_pair_is_found_that_only_a_faulted_run_reaches() -> None:
    both = frozenset({("first", "refuse"), ("backup", "refuse")})
    system = System([seen("first")], lambda happened: both <= happened, [seen("backup")])
    (pair,) = {each for each in failing(explored(system)) if not any(s.lasts for s in each)}
    assert [step.point.site.target for step in pair] == ["first", "backup"]


def test_new_operations_come_before_later_ones() -> None:
    system = System([seen("a"), seen("b")], lambda _: False, [seen("new")])
    pairs = [schedule for schedule in explored(system).outcomes if len(schedule) == 2]
    is_new = [schedule[1].point.site.target == "new" for schedule in pairs]
    assert any(is_new)
    assert not all(is_new)
    assert is_new == sorted(is_new, reverse=True)


def test_no_pair_is_tried_in_two_orders_and_none_beyond_a_failure() -> None:
    system = System([seen("a"), seen("b"), seen("c")], lambda happened: ("a", "refuse") in happened)
    tried = [frozenset(schedule) for schedule in explored(system, depth=3, prune=False).outcomes]
    assert len(tried) == len(set(tried))
    failed = list(failing(explored(system, depth=3)))
    assert all(len(schedule) == 1 for schedule in failed)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_larger_budget_goes_on_where_a_smaller_one_ends(depth: int) -> None:
    def order(runs: int | None) -> list[Schedule]:
        system = System([*request("a"), *request("b")], lambda _: False, [seen("c")])
        return list(explored(system, depth=depth, runs=runs).outcomes)

    whole = order(None)
    for runs in range(1, len(whole) + 2, 7):
        assert order(runs) == whole[:runs]


def test_what_there_is_no_budget_for_is_counted() -> None:
    system = System([seen("a"), seen("b")], lambda _: False)
    search = explored(system, depth=1, prune=False, runs=3)
    assert len(search.outcomes) == 3
    assert len(search.unexplored) == 5


def test_pruning_changes_no_verdict_and_saves_runs() -> None:
    # As a breaker does, it counts failures that it survives.
    def fails(happened: frozenset[tuple[str, str]]) -> bool:
        return len(happened) > 1

    def system() -> System:
        return System([*request("a"), *request("a", 2), *request("b")], fails, [seen("c")])

    pruned, whole = (explored(system(), prune=prune) for prune in (True, False))
    assert pruned.pruned > 0
    assert len(pruned.outcomes) < len(whole.outcomes)
    assert {each.signature for each in pruned.outcomes.values()} == {
        each.signature for each in whole.outcomes.values()
    }
    for schedule, outcome in whole.outcomes.items():
        once = tuple(
            type(step)(step.point, step.fault) if schedule not in pruned.outcomes else step
            for step in schedule
        )
        if once in pruned.outcomes:
            assert pruned.outcomes[once].signature == outcome.signature


def test_a_fault_that_stays_is_left_out_where_nothing_comes_after() -> None:
    system = System([seen("a"), seen("a", 2)], lambda _: False)
    tried = {format_schedule(each) for each in explored(system, depth=1).outcomes}
    assert "connect(a)@shop.pay#1+=refuse" in tried
    assert "connect(a)@shop.pay#2+=refuse" not in tried


def test_what_failed_the_last_time_comes_first_and_once() -> None:
    system = System([seen("a"), seen("b")], lambda _: False)
    last = list(singles(system.faultless))[-1]
    search = Search(system.faultless, system.run, depth=1)
    search.try_first([(last,), (last,)])
    search.run()
    assert system.runs[0] == (last,)
    assert system.runs.count((last,)) == 1


def test_what_cannot_happen_is_found_out_once() -> None:
    system = System([seen("a"), seen("b")], lambda _: False)
    first = next(singles(system.faultless))

    def attempt(schedule: Schedule) -> Outcome:
        outcome = system.run(schedule)
        if first not in schedule:
            return outcome
        return dataclasses.replace(outcome, verdict=CellVerdict.STALE, impossible=True)

    search = Search(system.faultless, attempt, depth=1)
    search.try_first([(first,), (first,)])
    assert search.pruned == 1
    assert search.gone.keys() == {(first,)}
    search.run()
    assert system.runs.count((first,)) == 1


def test_a_budget_of_time_lets_none_begin_after_it() -> None:
    now = iter([0.0, 1.0, 2.0, 2.0])
    budget = Budget(None, 1.5, lambda: next(now))
    assert not budget.is_over
    assert budget.is_over
    assert budget.left() == "0 s"


@pytest.mark.parametrize("met", [1, 2])
def test_a_pair_whose_second_fault_does_not_come_is_counted_and_is_no_result(met: int) -> None:
    system = System([seen("a"), seen("b")], lambda _: False)

    def attempt(schedule: Schedule) -> Outcome:
        outcome = system.run(schedule)
        if len(schedule) < 2:
            return outcome
        stale = Signature(verdict=CellVerdict.STALE)
        return dataclasses.replace(
            outcome, verdict=stale.verdict, signature=stale, positions=outcome.positions[:met]
        )

    search = Search(system.faultless, attempt)
    search.run()
    assert search.unsteady == len(search.gone) > 0
    assert {len(each) for each in search.outcomes} == {1}


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

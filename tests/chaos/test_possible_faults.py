"""The faults that operations can have: made by experiments, and named once for each kind."""

from __future__ import annotations

import asyncio

from typing import Any

import pytest

from pytest_resilience.chaos.operation import BODILESS
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.operation import OPEN_IN_VAIN
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import TURNS
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.possible_faults import CANCEL_WAITING
from pytest_resilience.chaos.possible_faults import CANCEL_WOKEN
from pytest_resilience.chaos.possible_faults import CRASHES
from pytest_resilience.chaos.possible_faults import CRASHING
from pytest_resilience.chaos.possible_faults import LATER
from pytest_resilience.chaos.possible_faults import PossibleFault
from pytest_resilience.chaos.possible_faults import fault_named
from pytest_resilience.chaos.possible_faults import fault_names
from pytest_resilience.chaos.possible_faults import possible_faults
from pytest_resilience.chaos.possible_faults import possible_names
from pytest_resilience.errors import ConfigurationError


# Nobody of the code under test does them; or it fails anyway.
WITHOUT = {CLOSE, END, OPEN_IN_VAIN}
ALL = [(kind, each) for kind in sorted(KINDS) for each in possible_faults(kind)]


def test_every_kind_of_operation_has_faults_but_those_that_others_stand_for() -> None:
    assert {kind for kind in KINDS if not possible_faults(kind)} == WITHOUT


@pytest.mark.parametrize(("kind", "fault"), ALL, ids=[f"{kind}-{each.name}" for kind, each in ALL])
def test_each_is_made_by_an_experiment_that_hits_the_kind_here_and_always(
    kind: str, fault: PossibleFault
) -> None:
    experiment = fault.experiment("it", "stock")
    assert kind in experiment.kinds
    assert experiment.triggers_text == "always"
    assert not experiment.reaches_children
    assert fault_named(kind, fault.name) is fault


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_has_each_name_once(kind: str) -> None:
    names = [each.name for each in possible_faults(kind)]
    assert len(names) == len(set(names))


def test_it_can_happen_to_operations_of_its_kind_where_it_is_possible() -> None:
    refusal, truncation = fault_named(CONNECT, "refuse"), fault_named(RECEIVE, "truncate")
    response = Operation(kind=RECEIVE, target="a:1", names=("a:1",))
    bodiless = Operation(kind=RECEIVE, target="a:1", names=("a:1",), tcp=TcpDetails(form=BODILESS))
    assert not refusal.can_happen_to(response)
    assert truncation.can_happen_to(response)
    assert not truncation.can_happen_to(bodiless)
    known = SqlDetails(statement="SELECT 1", conditions=frozenset({"locked"}))
    statement = Operation(kind=EXECUTE, target="x.db", names=("x.db",), sql=known)
    assert fault_named(EXECUTE, "locked").can_happen_to(statement)
    assert not fault_named(EXECUTE, "deadlock").can_happen_to(statement)


@pytest.mark.parametrize("kind", sorted(KINDS - WITHOUT))
def test_what_is_known_of_an_operation_says_which_names_are_possible(kind: str) -> None:
    known = SqlDetails(statement="SELECT 1", conditions=frozenset({"locked"}))
    cases: tuple[dict[str, Any], ...] = (
        {}, {"sql": known}, {"blocking": False}, {"tcp": TcpDetails(form=BODILESS)},
        {"sql": known, "blocking": False}, {"tcp": TcpDetails(unseen=True)},
    )  # fmt: skip
    for more in cases:
        operation = Operation(kind=kind, target="stock", names=("stock",))._replace(**more)
        possible = [each for each in possible_faults(kind) if each.can_happen_to(operation)]
        assert possible_names(operation) == tuple(each.name for each in possible)

    async def awaiting() -> tuple[str, ...]:
        await asyncio.sleep(0)
        return possible_names(Operation(kind=kind, target="stock", names=("stock",)))

    there = possible_names(Operation(kind=kind, target="stock", names=("stock",)))
    assert set(asyncio.run(awaiting())) - {"cancel"} == set(there)


def test_an_unknown_name_is_told_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"no fault of network\.resolve.*: dns"):
        fault_named("network.resolve", "refuse")


def test_no_crash_has_the_name_of_a_fault_and_each_is_at_what_is_known() -> None:
    assert CRASHING <= KINDS
    for kind in KINDS:
        names = fault_names(kind)
        assert len(set(names)) == len(names)
        crashes = tuple(CRASHES) if kind in CRASHING else ()
        orders = (LATER,) if possible_faults(kind) or kind in TURNS else ()
        others = (CANCEL_WOKEN, CANCEL_WAITING) if "cancel" in names else ()
        assert names[len(possible_faults(kind)) :] == (*crashes, *orders, *others)

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.types.callers import CallerFault
from pytest_resilience.chaos.types.callers import Cancellation
from pytest_resilience.chaos.types.callers import OutOfMemory


def fault(kind: str, **parameters: Any) -> CallerFault:
    [only] = ChaosExperiment(kind, kind, **parameters).faults
    assert isinstance(only, CallerFault)
    return only


@pytest.mark.parametrize(
    ("kind", "made", "words"),
    [
        ("cancellation", Cancellation, "cancellation"),
        ("memory_failure", OutOfMemory, "out of memory"),
    ],
)
def test_what_they_make(kind: str, made: type, words: str) -> None:
    found = fault(kind, at="connect|commit")
    assert type(found) is made
    assert found.kinds == {CONNECT, OPEN_CONNECTION, COMMIT}
    assert str(found) == words


def test_they_can_happen_to_all_that_the_code_under_test_does() -> None:
    # A peer's closing, and the client's own, are done by nobody who could be struck.
    assert KINDS - fault("memory_failure").kinds == {"network.close", "network.end"}


def test_a_step_that_there_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"at='recieve' \(did you mean 'receive'\?\)"):
        fault("cancellation", at="recieve")


def experiment(**parameters: Any) -> ChaosExperiment:
    return ChaosExperiment("memory", "memory_failure", **parameters)


@pytest.mark.parametrize(
    ("parameters", "meant"),
    [
        ({}, ["file", "database", "network"]),
        ({"target": "shop:80"}, ["network"]),
        ({"path": "/data/**"}, ["file"]),
        ({"database": "shop.db"}, ["database"]),
    ],
)
def test_whose_operations_are_meant(parameters: dict[str, Any], meant: list[str]) -> None:
    operations = (
        Operation(kind=WRITE, target="/data/tea", names=("/data/tea",)),
        Operation(kind=COMMIT, target="shop.db", names=("shop.db",)),
        Operation(kind=RECEIVE, target="shop:80", names=("shop:80",)),
    )
    matched = [each.kind for each in operations if experiment(**parameters).matches_target(each)]
    assert [kind.partition(".")[0] for kind in matched] == meant


def test_memory_is_missing_where_it_is_decided() -> None:
    receive = Operation(kind=RECEIVE, target="shop:80", names=("shop:80",))
    found = fault("memory_failure")
    assert not found.awaits
    with pytest.raises(MemoryError):
        found.strike(receive)


@pytest.mark.parametrize("kind", ["cancellation", "memory_failure"])
def test_nothing_can_be_raised_in_c(kind: str) -> None:
    tcp = TcpDetails(unseen=True)
    connect = Operation(kind=CONNECT, target="shop:80", names=("shop:80",), tcp=tcp)
    assert not fault(kind).can_happen_to(connect)

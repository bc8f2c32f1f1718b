"""What the chaos types of databases can be told."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails


def experiment(kind: str, **parameters: Any) -> ChaosExperiment:
    return ChaosExperiment("x", kind, **parameters)


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({}, "connection lost before execute"),
        ({"after": "commit"}, "connection lost after commit"),
        ({"during": "fetch"}, "connection lost during fetch"),
        ({"mode": "refused"}, "refused during connect"),
        ({"mode": "serialization_failure"}, "serialization failure during commit"),
        ({"mode": "disk_full", "during": "commit"}, "disk full during commit"),
        ({"mode": "pool_exhausted"}, "pool exhausted during checkout"),
    ],
)
def test_failures_happen_where_they_do(parameters: dict[str, Any], shown: str) -> None:
    (fault,) = experiment("database_failure", **parameters).faults
    assert str(fault) == shown


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mode": "dedlock"}, r"did you mean 'deadlock'\?\): give one of 'lost', 'refused'"),
        ({"before": "commit", "after": "commit"}, "before and after: give one of them"),
        (
            {"mode": "refused", "during": "execute"},
            "during='execute' does not go with mode='refused'; leave it out",
        ),
        (
            {"mode": "deadlock", "before": "execute"},
            "before='execute' does not go with mode='deadlock'; write during='execute'",
        ),
        ({"mode": "deadlock", "during": "connect"}, "happens to execute or commit"),
        ({"after": "rollback"}, "after='rollback': give one of 'connect', 'execute'"),
        ({"position": 0}, "position=0: give a whole number of at least 1"),
        ({"database": ""}, "give a database's name or path"),
        ({"match": 3}, "match=3: give a text"),
    ],
)
def test_nonsense(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        experiment("database_failure", **parameters)


def test_several_steps_can_be_slow() -> None:
    slow = experiment("database_slowdown", delay="20ms", at="connect | commit")
    assert [str(fault) for fault in slow.faults] == [
        "connect slower by 20ms", "commit slower by 20ms",
    ]  # fmt: skip
    with pytest.raises(ConfigurationError, match="at='flush'"):
        experiment("database_slowdown", at="execute|flush")


def operation(kind: str = EXECUTE, **fields: Any) -> Operation:
    names = ("shop", "/data/shop.db")
    return Operation(kind=kind, target="shop", names=names, sql=SqlDetails(**fields))


def test_what_is_meant() -> None:
    aimed = experiment("database_failure", match="UPDATE orders", position=2, database="*.db|other")
    assert aimed.target_text == (
        "match UPDATE orders, statement 2 of each transaction, database *.db | other"
    )
    update = "UPDATE orders SET x = 1"
    assert aimed.matches_target(operation(statement=update, position=2))
    assert not aimed.matches_target(operation(statement=update, position=1))
    assert not aimed.matches_target(operation(statement="SELECT 1", position=2))
    second = SqlDetails(statement=update, position=2)
    elsewhere = Operation(kind=EXECUTE, target="x", names=("x",), sql=second)
    assert not aimed.matches_target(elsewhere)
    assert experiment("database_failure").matches_target(operation(COMMIT))
    assert experiment("database_failure").matches_target(operation(OPEN_CONNECTION))

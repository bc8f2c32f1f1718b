"""A correct application under every fault, and a naive one that each time loses something."""

from __future__ import annotations

import contextlib

from typing import Any

import pytest

from pytest_resilience.assertions import assert_no_partial_write
from tests.end_to_end.databases.conftest import Chaos
from tests.end_to_end.databases.conftest import Database
from tests.end_to_end.databases.conftest import rows
from tests.end_to_end.databases.orders import HALF_ORDERS
from tests.end_to_end.databases.orders import TEA
from tests.end_to_end.databases.orders import NaiveOrders
from tests.end_to_end.databases.orders import Orders


FAULTS: list[dict[str, Any]] = [
    {"mode": "lost", "before": "commit"},
    {"mode": "lost", "during": "commit"},
    {"mode": "lost", "after": "commit"},
    {"mode": "lost", "before": "execute", "match": "INSERT INTO items*", "nth": 2},
    {"mode": "lost", "during": "execute", "match": "INSERT INTO items*"},
    {"mode": "lost", "after": "execute", "match": "INSERT INTO orders*"},
    {"mode": "refused"},
    {"mode": "too_many_connections"},
    {"mode": "locked", "match": "INSERT INTO items*"},
    {"mode": "deadlock", "match": "INSERT INTO items*"},
    {"mode": "serialization_failure"},
    {"mode": "statement_timeout", "match": "INSERT INTO orders*"},
    {"mode": "read_only", "match": "INSERT INTO orders*"},
    {"mode": "disk_full", "match": "INSERT INTO items*", "nth": 3},
    {"mode": "disk_full", "during": "commit"},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(map(str, fault.values())))
def test_an_order_is_placed_once_and_whole(
    database: Database, chaos_on_databases: Chaos, fault: dict[str, Any]
) -> None:
    """Whether the fault goes away or stays: then there is an error, and no half of an order."""
    orders = Orders(database.connect, database.mark, database.transient)
    passing = fault if "nth" in fault else {**fault, "first": 1}
    experiment = chaos_on_databases("database_failure", **passing)
    try:
        orders.place("k1", "Ada", TEA)
        placed = 1
    except database.error:  # one that is not transient, for this driver
        placed = 0
    experiment.stop()
    assert experiment.hits == 1
    if placed:
        assert rows(database, "SELECT id, total FROM orders") == [("k1", 31)]
    connection = database.connect()
    assert_no_partial_write(connection, HALF_ORDERS)
    connection.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(map(str, fault.values())))
def test_a_fault_that_stays_is_an_error_and_nothing_else(
    database: Database, chaos_on_databases: Chaos, fault: dict[str, Any]
) -> None:
    orders = Orders(database.connect, database.mark, database.transient)
    fault = {name: value for name, value in fault.items() if name != "nth"}
    experiment = chaos_on_databases("database_failure", **fault)
    done = fault.get("after") == "commit" or fault.get("during") == "commit"
    with contextlib.suppress(database.error):
        orders.place("k1", "Ada", TEA)
    experiment.stop()
    assert experiment.hits >= 1
    assert done or rows(database, "SELECT id FROM orders") == []
    connection = database.connect()
    assert_no_partial_write(connection, HALF_ORDERS)
    connection.close()


def test_the_naive_one_charges_twice(database: Database, chaos_on_databases: Chaos) -> None:
    naive = NaiveOrders(database.connect, database.mark, database.transient)
    experiment = chaos_on_databases("database_failure", after="commit", nth=4)
    naive.place("k1", "Ada", TEA)
    experiment.stop()
    assert len(rows(database, "SELECT id FROM orders")) == 2


def test_the_naive_one_leaves_half_an_order(database: Database, chaos_on_databases: Chaos) -> None:
    naive = NaiveOrders(database.connect, database.mark, database.transient)
    experiment = chaos_on_databases("database_failure", match="INSERT INTO items*", nth=2)
    naive.place("k1", "Ada", TEA)
    experiment.stop()
    connection = database.connect()
    with pytest.raises(AssertionError, match="half of something was written; found by"):
        assert_no_partial_write(connection, HALF_ORDERS)
    connection.close()

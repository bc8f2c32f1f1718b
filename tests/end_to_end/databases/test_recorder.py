"""What drivers do while nothing is injected is noted, of every kind that could be hit."""

from __future__ import annotations

import contextlib

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.runtime import Runtime
from tests.end_to_end.databases.conftest import Database


STEPS = [
    ChaosExperiment("connect", "database_failure", mode="refused"),
    ChaosExperiment("execute", "database_slowdown"),
    ChaosExperiment("commit", "database_slowdown", at="commit"),
    ChaosExperiment("fetch", "database_slowdown", at="fetch"),
]


@contextlib.contextmanager
def noting(runtime: Runtime, found: set[str]) -> Any:
    recorder = Recorder(STEPS)
    with runtime.engine.recording(recorder), runtime.engine.recording_test():
        yield
    found |= {each.name for each in STEPS if recorder.could_hit(each)}


def test_each_step_of_each_driver_is_noted(database: Database) -> None:
    runtime = Runtime()
    whole: set[str] = set()
    with noting(runtime, whole), contextlib.closing(database.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id FROM orders")
        cursor.fetchall()
        cursor.execute("INSERT INTO items VALUES ('a', 'tea', 4)")
        connection.commit()
    assert whole == {"connect", "execute", "commit", "fetch"}


def test_a_connection_that_is_opened_before_the_test_is_left_as_it_is(
    database: Database,
) -> None:
    runtime = Runtime()
    with contextlib.closing(database.connect()) as connection:
        usual = type(connection)
    recorder = Recorder(STEPS)
    with runtime.engine.recording(recorder), recorder.opening() as kinds:
        connection = database.connect()
    with contextlib.closing(connection):
        assert type(connection) is usual
    assert all(each.kinds & kinds for each in STEPS)


@pytest.mark.parametrize("database", ["psycopg", "sqlalchemy"], indirect=True)
def test_a_connection_of_a_driver_that_is_reached_anyway_is_noted(database: Database) -> None:
    runtime = Runtime()
    found: set[str] = set()
    with contextlib.closing(database.connect()) as connection:
        with noting(runtime, found):
            connection.cursor().execute("SELECT id FROM orders")
        connection.rollback()
    assert found == {"execute"}

"""Real databases: files of SQLite, and a PostgreSQL server of the test run's own."""

from __future__ import annotations

import sqlite3

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.runtime import Runtime
from tests.end_to_end.databases.orders import SCHEMA
from tests.injecting import ending


Chaos = Callable[..., ActiveExperiment]


@pytest.fixture(scope="session")
def _runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def chaos_on_databases(_runtime: Runtime) -> Iterator[Chaos]:
    """Starts an experiment until the test ends: `start("database_failure", mode=..., ...)`."""

    def start(kind: str, **parameters: Any) -> ActiveExperiment:
        given = {"rate": 1} | parameters
        return _runtime.start(ChaosExperiment(kind, kind, **given), seed=1)

    with ending(_runtime.engine):
        yield start


@dataclass(frozen=True)
class Database:
    """One driver, and an empty shop behind it.

    Attributes:
        connect: a new connection.
        mark: stands for a parameter in SQL.
        transient: the errors that may go away.
        error: the base of all errors.
    """

    connect: Callable[[], Any]
    mark: str
    transient: tuple[type[Exception], ...]
    error: type[Exception]


def with_sqlite(tmp_path: Path) -> Database:
    path = tmp_path / "shop.db"
    return Database(
        lambda: sqlite3.connect(path, timeout=0), "?", (sqlite3.OperationalError,), sqlite3.Error
    )


def with_psycopg(url: str) -> Database:
    import psycopg

    transient = (psycopg.OperationalError, psycopg.errors.SerializationFailure)
    return Database(lambda: psycopg.connect(url), "%s", transient, psycopg.Error)


def with_psycopg2(url: str) -> Database:
    import psycopg2

    transient = (psycopg2.OperationalError, psycopg2.InterfaceError)
    return Database(lambda: psycopg2.connect(url), "%s", transient, psycopg2.Error)


def with_sqlalchemy(url: str) -> Database:
    """Its raw connections, which are the driver's with a cover of its own."""
    import psycopg
    import sqlalchemy

    from sqlalchemy.pool import NullPool

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool
    )
    transient = (
        psycopg.OperationalError,
        sqlalchemy.exc.OperationalError,
        sqlalchemy.exc.TimeoutError,
    )
    return Database(engine.raw_connection, "%s", transient, Exception)


@pytest.fixture(params=["sqlite3", "psycopg", "psycopg2", "sqlalchemy"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Each driver in turn, with the tables of the shop."""
    if request.param == "sqlite3":
        found = with_sqlite(tmp_path)
    else:
        pytest.importorskip(request.param)
        make = {
            "psycopg": with_psycopg, "psycopg2": with_psycopg2, "sqlalchemy": with_sqlalchemy,
        }[request.param]  # fmt: skip
        found = make(request.getfixturevalue("postgres"))
    run(found, *SCHEMA)
    yield found
    run(found, "DROP TABLE items", "DROP TABLE orders")


def run(database: Database, *statements: str) -> None:
    """In one transaction, on a connection of its own."""
    connection = database.connect()
    try:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        connection.commit()
    finally:
        connection.close()


def rows(database: Database, query: str) -> list[Any]:
    connection = database.connect()
    try:
        cursor = connection.cursor()
        cursor.execute(query)
        return list(cursor.fetchall())
    finally:
        connection.close()

"""Classes that users derive from a driver's connection, and connections that are used again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

from typing import Any

import pytest

from tests.end_to_end.databases.conftest import Chaos
from tests.end_to_end.databases.conftest import Database


class Prepared(sqlite3.Connection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA foreign_keys = ON")


def test_a_class_of_sqlite3_that_executes_statements_when_it_is_made(
    chaos_on_databases: Chaos,
) -> None:
    pragma = chaos_on_databases("database_slowdown", delay=0.001, match="PRAGMA*")
    with contextlib.closing(sqlite3.connect(":memory:", factory=Prepared)) as connection:
        assert isinstance(connection, Prepared)
    assert pragma.hits == 1


def test_the_class_of_a_connection_makes_others(chaos_on_databases: Chaos) -> None:
    chaos_on_databases("database_failure", mode="locked", match="SELECT*")
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        cls = type(connection)
    for other in (cls(":memory:"), sqlite3.connect(":memory:", factory=cls)):
        with contextlib.closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("SELECT 1")


def test_a_factory_of_psycopg2_that_executes_statements_or_is_no_class(
    chaos_on_databases: Chaos, postgres: str
) -> None:
    psycopg2 = pytest.importorskip("psycopg2")

    plain: Any = psycopg2.extensions.connection

    class PreparedToo(plain):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.cursor().execute("SET statement_timeout = 0")

    set_up = chaos_on_databases("database_slowdown", delay=0.001, match="SET*")
    with contextlib.closing(psycopg2.connect(postgres, PreparedToo)) as connection:
        assert isinstance(connection, PreparedToo)
    assert set_up.hits == 1

    def make(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    with contextlib.closing(psycopg2.connect(postgres, make)) as connection:
        assert type(connection) is plain


def test_a_class_of_psycopg_connects_to_connections_of_its_own(
    chaos_on_databases: Chaos, postgres: str
) -> None:
    psycopg = pytest.importorskip("psycopg")
    chaos_on_databases("database_slowdown", delay=0.001)
    own: Any = type("Own", (psycopg.Connection,), {})
    with contextlib.closing(own.connect(postgres)) as connection:
        assert type(connection) is own

    async def story() -> None:
        own: Any = type("Own", (psycopg.AsyncConnection,), {})
        async with await own.connect(postgres) as connection:
            assert type(connection) is own

    asyncio.run(story())


@pytest.mark.parametrize("database", ["sqlite3", "psycopg2"], indirect=True)
def test_with_a_connection_a_second_time(database: Database, chaos_on_databases: Chaos) -> None:
    chaos_on_databases("database_slowdown", delay=0.001, match="DELETE*")
    with contextlib.closing(database.connect()) as connection:
        for customer in ("ann", "bob"):
            with connection:
                connection.cursor().execute(f"INSERT INTO orders VALUES ('{customer}', 'x', 1)")
        cursor = connection.cursor()
        cursor.execute("SELECT id FROM orders ORDER BY id")
        assert [row[0] for row in cursor.fetchall()] == ["ann", "bob"]


@pytest.mark.parametrize("database", ["sqlite3", "psycopg", "psycopg2"], indirect=True)
@pytest.mark.parametrize("commit", ["COMMIT", "commit;", "/* all */ End"])
def test_a_commit_that_fails_leaves_no_transaction_however_it_is_spelled(
    database: Database, commit: str, chaos_on_databases: Chaos
) -> None:
    chaos_on_databases("database_failure", mode="disk_full", during="commit")
    with contextlib.closing(database.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("INSERT INTO orders VALUES ('a', 'ann', 1)")
        with pytest.raises(database.error):
            cursor.execute(commit)
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM orders")
        assert cursor.fetchone() == (0,)

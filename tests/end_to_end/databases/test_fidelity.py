"""What is injected beside what the engine itself does: class, code, and the state it leaves.

The tables of `docs/fidelity.md` are what these tests find.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.plugin.fixtures.databases import PostgresChaos
from pytest_resilience.plugin.fixtures.databases import SqliteChaos
from pytest_resilience.runtime import Runtime
from tests.end_to_end.databases.conftest import Chaos
from tests.fidelity_page import Section
from tests.fidelity_page import assert_complete


BIG = "INSERT INTO orders SELECT 'b' || value, hex(randomblob(900)) FROM numbers"
LONG = "INSERT INTO orders VALUES ('k', hex(randomblob(9000)))"
SMALL = "INSERT INTO orders VALUES ('k', 'x')"

Outcome = tuple[str, str, str]


SQLITE_SECTION = Section(
    title="sqlite3",
    events=(
        "locked", "disk full", "interrupted", "read-only", "constraint", "cannot be opened",
    ),
)  # fmt: skip
POSTGRES_SECTION = Section(
    title="PostgreSQL",
    events=(
        "connection lost", "deadlock", "locked", "statement timeout", "read-only", "constraint",
        "serialization failure", "too many connections",
    ),
    libraries=("psycopg", "pgserver"),
    about="The server raises its failures itself, so other drivers meet them the same way.",
)  # fmt: skip


def note(section: Section, event: str, injected: Outcome, real: Outcome, remark: str = "") -> None:
    section.note(event, ", ".join(injected), ", ".join(real), remark)


def test_all_of_it_is_on_the_page() -> None:
    assert_complete(SQLITE_SECTION, POSTGRES_SECTION)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, note TEXT)")
        connection.execute("CREATE TABLE numbers (value INTEGER)")
        connection.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(200)])
        connection.commit()
    return path


def sqlite_outcome(connection: sqlite3.Connection, statement: str) -> Outcome:
    def do() -> None:
        connection.execute(statement)
        connection.commit()

    with pytest.raises(sqlite3.Error) as caught:
        do()
    state = "in a transaction" if connection.in_transaction else "no transaction"
    error = caught.value
    return type(error).__name__, error.sqlite_errorname, f"{error}; {state}"


SQLITE: dict[str, tuple[dict[str, Any], str, Callable[[SqliteChaos, Any, Path], Any]]] = {
    "locked": ({"mode": "locked"}, SMALL, lambda chaos, _, path: chaos.locked(path)),
    "disk full": ({"mode": "disk_full"}, LONG, lambda chaos, connection, _: chaos.full(connection)),
    "interrupted": (
        {"mode": "statement_timeout"},
        BIG,
        lambda chaos, connection, _: chaos.interrupted(connection),
    ),
    "read-only": (
        {"mode": "read_only"},
        SMALL,
        lambda chaos, connection, _: chaos.read_only(connection),
    ),
}


@pytest.mark.parametrize("event", SQLITE)
def test_sqlite(
    event: str, shop: Path, sqlite_chaos: SqliteChaos, chaos_on_databases: Chaos
) -> None:
    parameters, statement, trouble = SQLITE[event]
    with contextlib.closing(sqlite3.connect(shop, timeout=0)) as connection:
        # So that it knows the tables: a rival's lock would keep it from finding out.
        connection.execute("SELECT * FROM orders").fetchall()
        with trouble(sqlite_chaos, connection, shop):
            real = sqlite_outcome(connection, statement)
            connection.rollback()
    experiment = chaos_on_databases("database_failure", match="INSERT*", **parameters)
    with contextlib.closing(sqlite3.connect(shop, timeout=0)) as connection:
        injected = sqlite_outcome(connection, statement)
        experiment.stop()
        connection.rollback()
        connection.execute(SMALL)  # it can be used as before
        connection.commit()
    note(SQLITE_SECTION, event, injected, real)


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "begin exclusive transaction"])
def test_a_transaction_of_sqlite_that_takes_the_lock_as_it_begins(
    begin: str, shop: Path, sqlite_chaos: SqliteChaos, chaos_on_databases: Chaos
) -> None:
    with contextlib.closing(sqlite3.connect(shop, timeout=0, isolation_level=None)) as connection:
        with sqlite_chaos.locked(shop):
            real = sqlite_outcome(connection, begin)
        full = chaos_on_databases("database_failure", mode="disk_full", match="BEGIN*")
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
        full.stop()
    locked = chaos_on_databases("database_failure", mode="locked", match="BEGIN*")
    with contextlib.closing(sqlite3.connect(shop, timeout=0, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.rollback()
        assert sqlite_outcome(connection, begin) == real
        locked.stop()
        connection.execute(begin)
        connection.rollback()
    assert (full.hits, locked.hits) == (0, 1)


def test_sqlite_constraint(shop: Path, chaos_on_databases: Chaos) -> None:
    with contextlib.closing(sqlite3.connect(shop)) as connection:
        connection.execute(SMALL)
        real = sqlite_outcome(connection, SMALL)
    chaos_on_databases("database_failure", match="INSERT*", mode="constraint")
    with contextlib.closing(sqlite3.connect(shop)) as connection:
        injected = sqlite_outcome(connection, SMALL)
    note(SQLITE_SECTION, "constraint", injected, real, "no column is named: nobody knows which")


def test_sqlite_refused(tmp_path: Path, chaos_on_databases: Chaos) -> None:
    def outcome(path: Path) -> Outcome:
        with pytest.raises(sqlite3.OperationalError) as caught:
            sqlite3.connect(path)
        return type(caught.value).__name__, caught.value.sqlite_errorname, str(caught.value)

    real = outcome(tmp_path / "no" / "folder.db")
    chaos_on_databases("database_failure", mode="refused")
    note(SQLITE_SECTION, "cannot be opened", outcome(tmp_path / "shop.db"), real)


@pytest.fixture
def table(postgres: str) -> Iterator[str]:
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, note TEXT)")
        connection.execute("INSERT INTO orders VALUES ('a', ''), ('b', '')")
        yield postgres
        connection.execute("DROP TABLE orders")


def postgres_outcome(connection: Any, *statements: str) -> Outcome:
    import psycopg

    def do() -> None:
        for statement in statements:
            connection.execute(statement)
        connection.commit()

    with pytest.raises(psycopg.Error) as caught:
        do()
    error = caught.value
    state = "closed" if connection.closed else connection.info.transaction_status.name
    return type(error).__name__, str(error.sqlstate), state


UPDATE = "UPDATE orders SET note = 'mine'"


def terminated(chaos: PostgresChaos, connection: Any) -> Outcome:
    connection.execute("SELECT 1")
    chaos.terminate(connection.info.backend_pid)
    return postgres_outcome(connection, UPDATE)


def deadlocked(chaos: PostgresChaos, connection: Any) -> Outcome:
    connection.execute("SELECT set_config('deadlock_timeout', '10ms', true)")
    connection.execute(f"{UPDATE} WHERE id = 'a'")
    rival = "UPDATE orders SET note = 'theirs' WHERE id = "
    with chaos.deadlock(f"{rival}'b'", f"{rival}'a'"):
        return postgres_outcome(connection, f"{UPDATE} WHERE id = 'b'")


def locked(chaos: PostgresChaos, connection: Any) -> Outcome:
    connection.execute("SET lock_timeout = '10ms'")
    connection.commit()
    with chaos.locked("LOCK TABLE orders"):
        return postgres_outcome(connection, UPDATE)


def timed_out(chaos: PostgresChaos, connection: Any) -> Outcome:
    import psycopg

    with chaos.statement_timeout("10ms"), psycopg.connect(connection.info.dsn) as later:
        return postgres_outcome(later, "SELECT pg_sleep(10)")


def read_only(chaos: PostgresChaos, connection: Any) -> Outcome:
    import psycopg

    with chaos.read_only(), psycopg.connect(connection.info.dsn) as later:
        return postgres_outcome(later, UPDATE)


def duplicate(_: PostgresChaos, connection: Any) -> Outcome:
    return postgres_outcome(connection, "INSERT INTO orders VALUES ('a', '')")


def unserializable(chaos: PostgresChaos, connection: Any) -> Outcome:
    del chaos
    import psycopg

    connection.execute("SET default_transaction_isolation = 'repeatable read'")
    connection.commit()
    connection.execute("SELECT * FROM orders")
    with psycopg.connect(connection.info.dsn) as rival:
        rival.execute("UPDATE orders SET note = 'theirs'")
    return postgres_outcome(connection, UPDATE)


REAL: dict[str, tuple[dict[str, Any], Callable[[PostgresChaos, Any], Outcome]]] = {
    "connection lost": ({"mode": "lost", "before": "execute"}, terminated),
    "deadlock": ({"mode": "deadlock"}, deadlocked),
    "locked": ({"mode": "locked"}, locked),
    "statement timeout": ({"mode": "statement_timeout"}, timed_out),
    "read-only": ({"mode": "read_only"}, read_only),
    "constraint": ({"mode": "constraint"}, duplicate),
    "serialization failure": (
        {"mode": "serialization_failure", "during": "execute"},
        unserializable,
    ),
}


@pytest.mark.parametrize("event", REAL)
def test_postgres(
    event: str,
    table: str,
    postgres_chaos: Callable[[str], PostgresChaos],
    chaos_on_databases: Chaos,
) -> None:
    import psycopg

    parameters, trouble = REAL[event]
    with psycopg.connect(table) as connection:
        real = trouble(postgres_chaos(table), connection)
        if not connection.closed:
            connection.rollback()
    chaos_on_databases("database_failure", match="UPDATE*", **parameters)
    with psycopg.connect(table) as connection:
        injected = postgres_outcome(connection, UPDATE)
        if not connection.closed:
            connection.rollback()
    told = "the server says why before it goes: AdminShutdown, 57P01"
    note(POSTGRES_SECTION, event, injected, real, told if event == "connection lost" else "")


def test_postgres_with_too_many_connections(
    postgres: str, postgres_chaos: Callable[[str], PostgresChaos], chaos_on_databases: Chaos
) -> None:
    import psycopg

    def outcome() -> Outcome:
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(postgres)
        text = str(caught.value).partition("FATAL:")[2].strip()
        return type(caught.value).__name__, str(caught.value.sqlstate), text

    with postgres_chaos(postgres).exhausted() as taken:
        assert taken > 10
        real = outcome()
    chaos_on_databases("database_failure", mode="too_many_connections")
    note(POSTGRES_SECTION, "too many connections", outcome(), real)


def test_nothing_of_it_stays(table: str, postgres_chaos: Callable[[str], PostgresChaos]) -> None:
    import psycopg

    chaos = postgres_chaos(table)
    with chaos.statement_timeout(), chaos.read_only(), chaos.locked("LOCK TABLE orders"):
        pass
    with psycopg.connect(table) as connection:
        connection.execute(UPDATE)
    assert threading.active_count() < 20


def test_what_a_database_had_set_before_is_set_again(
    table: str, postgres_chaos: Callable[[str], PostgresChaos]
) -> None:
    import psycopg

    def timeout() -> object:
        with psycopg.connect(table) as connection:
            row = connection.execute("SHOW statement_timeout").fetchone()
            assert row is not None
            return row[0]

    with psycopg.connect(table, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET statement_timeout = '77s'")
        try:
            chaos = postgres_chaos(table)
            first = chaos.statement_timeout("11s")
            second = postgres_chaos(table).statement_timeout("22s")
            first.__enter__()
            second.__enter__()
            first.__exit__(None, None, None)
            assert timeout() == "22s"
            second.__exit__(None, None, None)
            assert timeout() == "77s"
        finally:
            admin.execute(f"ALTER DATABASE {admin.info.dbname} RESET statement_timeout")


def test_what_a_connection_had_set_before_is_set_again(
    shop: Path, sqlite_chaos: SqliteChaos
) -> None:
    with contextlib.closing(sqlite3.connect(shop)) as connection:

        def settings() -> list[int]:
            names = ("max_page_count", "query_only")
            return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

        connection.execute("PRAGMA max_page_count = 1000")
        with sqlite_chaos.read_only(connection):
            first = sqlite_chaos.full(connection, more=5)
            second = sqlite_chaos.full(connection)
            first.__enter__()
            second.__enter__()
            first.__exit__(None, None, None)
            with pytest.raises(sqlite3.Error), sqlite_chaos.read_only(connection):
                connection.execute(SMALL)
            assert settings()[1] == 1
            second.__exit__(None, None, None)
        assert settings() == [1000, 0]


def test_statements_are_interrupted_until_the_last_block_ends(
    shop: Path, sqlite_chaos: SqliteChaos
) -> None:
    with contextlib.closing(sqlite3.connect(shop)) as connection:
        first, second = sqlite_chaos.interrupted(connection), sqlite_chaos.interrupted(connection)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            connection.execute("SELECT * FROM orders").fetchall()
        second.__exit__(None, None, None)
        connection.execute("SELECT * FROM orders").fetchall()


def test_postgres_works_while_a_limit_leaves_no_descriptor(
    table: str, postgres_chaos: Callable[[str], PostgresChaos]
) -> None:
    import psycopg

    with psycopg.connect(table) as client, contextlib.ExitStack() as stack:
        limit = Runtime().start(ChaosExperiment("files", "fd_exhaustion", leave=0), seed=1)
        stack.callback(limit.stop)
        chaos = postgres_chaos(table)
        with chaos.locked("LOCK TABLE orders"):
            client.execute("SET lock_timeout = '10ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                client.execute(UPDATE)
        with chaos.exhausted() as taken:
            assert taken > 5

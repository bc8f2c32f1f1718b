"""sqlite3 under chaos: every way to call it, and its own ways left alone."""

from __future__ import annotations

import contextlib
import sqlite3

from pathlib import Path
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ManualClock
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.runtime import Runtime
from tests.end_to_end.databases.conftest import Chaos


def connect(**options: Any) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(":memory:", **options)
    connection.executescript("CREATE TABLE t (a INTEGER); CREATE TABLE u (a INTEGER)")
    return connection


class Own(sqlite3.Connection):
    pass


class OwnCursor(sqlite3.Cursor):
    def shout(self) -> str:
        return "!"


def test_what_is_there_stays_what_it_was(chaos_on_databases: Chaos) -> None:
    original = sqlite3.connect
    experiment = chaos_on_databases("database_failure", match="DELETE*")
    with contextlib.closing(connect(factory=Own)) as connection:
        assert isinstance(connection, Own)
        assert type(connection).__name__ == "Own"
        connection.row_factory = sqlite3.Row
        row = connection.execute("SELECT 1 AS one").fetchone()
        assert row["one"] == 1
        cursor = connection.cursor(OwnCursor)
        assert cursor.shout() == "!"
        assert cursor.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)]) is cursor
        assert [a for (a,) in connection.execute("SELECT a FROM t")] == [1, 2]
        assert len(connection.execute("SELECT a FROM t").fetchmany(1)) == 1
        assert connection.in_transaction
        connection.rollback()
        with connection:
            connection.execute("INSERT INTO t VALUES (3)")
        assert connection.execute("SELECT a FROM t").fetchall()[0][0] == 3
        with contextlib.suppress(ZeroDivisionError), connection:
            connection.execute("INSERT INTO t VALUES (4)")
            _ = 1 / 0
        assert len(connection.execute("SELECT a FROM t").fetchall()) == 1
    experiment.stop()
    assert sqlite3.connect is original
    assert experiment.matched == 0


def test_it_is_put_back() -> None:
    original = sqlite3.connect, sqlite3.dbapi2.connect
    runtime = Runtime()
    running = runtime.start(ChaosExperiment("x", "database_failure", match="DELETE*"), seed=1)
    with contextlib.closing(connect()) as connection:
        running.stop()
        assert (sqlite3.connect, sqlite3.dbapi2.connect) == original
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()


@pytest.mark.parametrize("position", [1, 2, 3])
def test_a_statement_by_its_place_in_each_transaction(
    chaos_on_databases: Chaos, position: int
) -> None:
    experiment = chaos_on_databases(
        "database_failure", mode="locked", position=position, match="INSERT*"
    )
    with contextlib.closing(connect(isolation_level=None)) as connection:
        for _ in range(2):
            done = 0
            connection.execute("BEGIN")
            for number in range(3):
                with contextlib.suppress(sqlite3.OperationalError):
                    connection.execute("INSERT INTO t VALUES (?)", (number,))
                    done += 1
            assert done == 2
            connection.execute("COMMIT")
    assert experiment.hits == 2


def test_a_commit_however_it_is_said(chaos_on_databases: Chaos) -> None:
    experiment = chaos_on_databases("database_failure", mode="locked", during="commit")
    with contextlib.closing(connect()) as connection:
        connection.commit()  # there is nothing to commit
        assert experiment.matched == 0
        connection.execute("INSERT INTO t VALUES (1)")
        for say in (connection.commit, lambda: connection.execute("COMMIT")):
            with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                say()
            assert connection.in_transaction  # to be tried again
        with pytest.raises(sqlite3.OperationalError), connection:
            pass
        assert not connection.in_transaction  # a block rolls back
    assert experiment.hits == 3


def test_each_step_can_be_slow() -> None:
    clock = ManualClock()
    runtime = Runtime(clock=clock)

    def asked(at: str) -> float:
        slow = ChaosExperiment("slow", "database_slowdown", delay="100ms", at=at)
        running = runtime.start(slow, seed=1)
        before = clock.monotonic()
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("CREATE TABLE t (a)")
            connection.execute("INSERT INTO t VALUES (1)")
            connection.commit()
            connection.execute("SELECT a FROM t").fetchall()
        running.stop()
        return clock.monotonic() - before

    assert asked("connect") == pytest.approx(0.1)
    assert asked("execute") == pytest.approx(0.3)
    assert asked("commit") == pytest.approx(0.1)
    assert asked("fetch") == pytest.approx(0.1)
    assert asked("execute|commit") == pytest.approx(0.4)


def test_delays_differ_as_asked() -> None:
    clock = ManualClock()
    runtime = Runtime(clock=clock)
    with contextlib.closing(sqlite3.connect(":memory:")):
        pass
    slow = ChaosExperiment("slow", "database_slowdown", delay="100ms", jitter="50ms")
    running = runtime.start(slow, seed=1)
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for _ in range(50):
            before = clock.monotonic()
            connection.execute("SELECT 1")
            assert 0.05 <= clock.monotonic() - before <= 0.15
    assert len(set(clock.sleeps)) > 25
    running.stop()


def test_only_one_database(chaos_on_databases: Chaos, tmp_path: Path) -> None:
    experiment = chaos_on_databases("database_failure", mode="disk_full", database="orders.db")
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "stock.db")) as stock,
        contextlib.closing(sqlite3.connect(tmp_path / "orders.db")) as orders,
    ):
        stock.execute("CREATE TABLE t (a)")
        with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
            orders.execute("CREATE TABLE t (a)")
    assert experiment.matched == 1


@pytest.mark.parametrize(
    "uri", ["file:{}?cache=private", "file://{}?mode=rwc", "file://localhost{}"]
)
def test_a_uri_is_the_file_that_it_names(
    chaos_on_databases: Chaos, tmp_path: Path, uri: str
) -> None:
    path = tmp_path / "it is.db"
    chaos_on_databases("database_failure", mode="disk_full", database=str(path))
    given = uri.format(str(path).replace(" ", "%20"))
    with (
        contextlib.closing(sqlite3.connect(given, uri=True)) as connection,
        pytest.raises(sqlite3.OperationalError, match="database or disk is full"),
    ):
        connection.execute("CREATE TABLE t (a)")


def test_statements_that_are_not_meant_are_named_when_it_never_fires(
    chaos_on_databases: Chaos,
) -> None:
    experiment = chaos_on_databases("database_failure", match="DELETE*")
    with contextlib.closing(connect()) as connection:
        connection.execute("SELECT a FROM t")
    text = str(never_fired(experiment))
    assert "database.execute :memory: SELECT a FROM t" in text
    assert "not match DELETE*" in text


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("database_failure", {"after": "execute"}),
        ("database_failure", {"before": "fetch"}),
        ("memory_failure", {"at": "fetch"}),
    ],
)
def test_a_query_that_failed_locks_nobody_out(
    chaos_on_databases: Chaos, tmp_path: Path, kind: str, parameters: dict[str, Any]
) -> None:
    """As really: whoever keeps the error has the cursor with it, which was reading."""
    path = tmp_path / "t.db"
    with contextlib.closing(sqlite3.connect(path)) as writer:
        writer.execute("CREATE TABLE t (a)")
        writer.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        writer.commit()
    experiment = chaos_on_databases(kind, match="SELECT*", **parameters)
    with contextlib.closing(sqlite3.connect(path)) as reader:
        with pytest.raises((sqlite3.Error, MemoryError)) as caught:
            reader.execute("SELECT a FROM t").fetchone()
        experiment.stop()
        with contextlib.closing(sqlite3.connect(path, timeout=0)) as writer:
            writer.execute("INSERT INTO t VALUES (3)")
            writer.commit()
        caught.value.add_note("kept")

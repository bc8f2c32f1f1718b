"""Connections of sqlite3 that were opened before an experiment, and what is said of them."""

from __future__ import annotations

import contextlib

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from sqlalchemy.pool import StaticPool

from pytest_resilience import ChaosExperiment
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.runtime import new_engine
from tests.ahead import runs_python
from tests.end_to_end.databases.conftest import with_psycopg2
from tests.end_to_end.databases.conftest import with_sqlite


DJANGO = """
import django

from django.conf import settings
from pytest_resilience import ChaosExperiment
from pytest_resilience.runtime import new_engine

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()

from django.db import OperationalError, connection, connections

connection.creation.create_test_db(verbosity=0)  # as django_db_setup does
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE tea (name)")
    cursor.execute("INSERT INTO tea VALUES ('green')")

engine = new_engine()
slow = ChaosExperiment("x", "database_failure", mode="locked", match="*tea*")

def teas():
    with connection.cursor() as cursor:
        return cursor.execute("SELECT name FROM tea").fetchall()

running = engine.start(slow, seed=1)
assert teas() == [("green",)]
running.stop()
from pytest_resilience.diagnosis import never_fired
print(never_fired(running))

running = engine.start(slow, seed=1)
connections["default"].connect()  # what it has said
try:
    teas()
except OperationalError as error:
    print(error, running.hits)
running.stop()
assert teas() == [("green",)]
"""


@runs_python(DJANGO)  # its settings are those of a process
def test_django_in_memory(ran: pytest.RunResult) -> None:
    assert ran.errlines == []
    lines = ran.outlines
    assert "SELECT name FROM tea (on a connection opened before)" in lines[2]
    assert lines[3].startswith("  The connection of sqlite3 to file:memorydb_default?")
    assert (
        "is not reached: it was opened before the experiment began, by Django, before this run was "
        "known to have chaos. Ask for it by a flag such as --chaos-seed; or, outside of a "
        "transaction (django_db(transaction=True)), call django.db.connections['default'].connect()"
    ) in lines[3]
    assert lines[4:] == ["database is locked 1"]


@pytest.mark.parametrize("parameters", [{}, {"match": "DELETE*"}], ids=["meant", "not meant"])
def test_sqlalchemy_in_memory(parameters: dict[str, Any]) -> None:
    database = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    with database.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE tea (name)"))
    engine = new_engine()
    running = engine.start(
        ChaosExperiment("x", "database_slowdown", delay="1ms", **parameters), seed=1
    )
    with database.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT name FROM tea"))
    running.stop()
    error = never_fired(running)
    why = "; not match DELETE*" if parameters else ""
    assert error.seen == (
        f"database.execute :memory: SELECT name FROM tea (on a connection opened before{why})",
    )
    told = (
        "The connection of sqlite3 to :memory: is not reached: it was opened before the experiment "
        "began, by SQLAlchemy, before this run was known to have chaos. Ask for it by a flag"
    )
    assert (told in str(error)) == (not parameters)
    running = engine.start(ChaosExperiment("x", "database_slowdown", delay="1ms"), seed=1)
    database.dispose()
    with database.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
    running.stop()
    database.dispose()
    assert running.hits


@pytest.mark.parametrize("driver", ["sqlite3", "psycopg2"])
def test_what_is_opened_while_the_engine_watches_is_reached_later(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if driver == "sqlite3":
        database = with_sqlite(tmp_path)
    else:
        database = with_psycopg2(request.getfixturevalue("postgres"))
    engine = new_engine()
    engine.watch(True)
    with contextlib.closing(database.connect()) as connection:
        engine.watch(False)
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        running = engine.start(
            ChaosExperiment("x", "database_failure", mode="statement_timeout", rate=1), seed=1
        )
        with pytest.raises(database.error):
            cursor.execute("SELECT 1")
        running.stop()
        assert running.hits == 1
        connection.rollback()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    with contextlib.closing(database.connect()) as later:
        assert not hasattr(later, "chaos_session")

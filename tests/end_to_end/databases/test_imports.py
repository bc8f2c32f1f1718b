"""Drivers are reached whenever they are loaded, and none is loaded for that."""

from __future__ import annotations

import pytest

from tests.ahead import runs_python


DRIVERS = ["sqlite3", "psycopg", "psycopg_pool", "psycopg2", "asyncpg", "redis", "sqlalchemy"]

NOTHING_IS_LOADED = """
import sys
from pytest_resilience import ChaosExperiment
from pytest_resilience.runtime import Runtime

running = Runtime().start(ChaosExperiment("down", "database_failure", rate=1), seed=1)
loaded = [name for name in {drivers!r} if name in sys.modules]
assert not loaded, loaded
"""

ONE_THAT_COMES_LATER = """
import sys
from pytest_resilience import ChaosExperiment
from pytest_resilience.runtime import Runtime

experiment = ChaosExperiment("down", "database_failure", mode="locked", match="CREATE*", rate=1)
runtime = Runtime()
for _ in range(2):
    running = runtime.start(experiment, seed=1)
    from sqlite3 import OperationalError, connect

    try:
        connect(":memory:").execute("CREATE TABLE teas (name)")
    except OperationalError as error:
        assert str(error) == "database is locked"
    else:
        raise AssertionError("nothing has happened")
    running.stop()
    connect(":memory:").execute("CREATE TABLE teas (name)")
"""

ONE_THAT_IS_OF_ANOTHER_VERSION = """
import sys, types
from pytest_resilience import ChaosExperiment
from pytest_resilience.runtime import Runtime

sys.modules["psycopg_pool"] = types.ModuleType("psycopg_pool")
Runtime().start(ChaosExperiment("down", "database_failure", rate=1), seed=1)
import sqlite3

try:
    sqlite3.connect(":memory:").execute("SELECT 1")
except sqlite3.OperationalError:
    print("the others are reached")
"""


@runs_python(NOTHING_IS_LOADED.format(drivers=DRIVERS))
def test_no_driver_is_loaded(ran: pytest.RunResult) -> None:
    assert ran.ret == 0


@runs_python(ONE_THAT_COMES_LATER)
def test_one_that_is_loaded_while_an_experiment_runs(ran: pytest.RunResult) -> None:
    assert ran.ret == 0


@runs_python(ONE_THAT_IS_OF_ANOTHER_VERSION)
def test_one_that_is_of_another_version_is_left_alone(ran: pytest.RunResult) -> None:
    assert (ran.ret, ran.outlines) == (0, ["the others are reached"])

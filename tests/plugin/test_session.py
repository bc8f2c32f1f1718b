"""Connections that conftest files open while pytest loads them, before it has read its flags."""

from __future__ import annotations

import pytest

from tests.ahead import ALONE_AND_XDIST
from tests.ahead import runs
from tests.ahead import runs_each


CONFTEST = """
import sqlite3

connection = sqlite3.connect(":memory:", check_same_thread=False)
"""

TESTS = """
import sqlite3
import pytest

from conftest import connection

def test_orders():
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        connection.execute("SELECT 1")

def test_calm():
    assert type(connection) is sqlite3.Connection
    assert connection.execute("SELECT 1").fetchone() == (1,)
"""

LOCKED = "--chaos=database_failure:mode=locked,rate=1"


@runs_each(ALONE_AND_XDIST, LOCKED, "-k", "orders", conftest=CONFTEST, test_shop=TESTS)
def test_they_are_reached_where_a_flag_asks_for_chaos(ran: pytest.RunResult) -> None:
    assert ran.ret == 0


@runs("--no-chaos", LOCKED, "-k", "calm", conftest=CONFTEST, test_shop=TESTS)
def test_they_are_what_they_are_where_none_starts(ran: pytest.RunResult) -> None:
    assert ran.ret == 0


@runs("--virtual-time", "-k", "calm", conftest=CONFTEST, test_shop=TESTS)
def test_they_are_what_they_are_where_none_is_asked_for(ran: pytest.RunResult) -> None:
    assert ran.ret == 0

"""Connections that conftest files open while pytest loads them, before it has read its flags."""

from __future__ import annotations

import re

import pytest

from tests.ahead import ALONE_AND_XDIST
from tests.ahead import runs
from tests.ahead import runs_each
from tests.suites import SERVER


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


WORKERS = ("-p", "xdist", "-n2")

SUITE = """
    import pytest
    import requests

    @pytest.mark.parametrize("number", range(8))
    @pytest.mark.chaos("network_failure", rate=0.5)
    def test_request(url, number):
        requests.get(url, timeout=5)
"""


@runs(*WORKERS, "-rf", "--chaos-seed=5", conftest=SERVER, test_it=SUITE)
def test_workers_deal_the_same_faults_as_one_process(
    suite: pytest.Pytester, ran: pytest.RunResult
) -> None:
    suite.makepyfile(test_it=SUITE)

    def outcome(result: pytest.RunResult) -> tuple[set[str], list[str]]:
        failed = set(re.findall(r"^FAILED (\S+)", result.stdout.str(), re.MULTILINE))
        return failed, sorted(
            line for line in result.outlines if line.startswith(("repeat:", "network_failure:"))
        )

    alone = outcome(suite.runpytest("-rf", "--chaos-seed=5"))
    assert alone[0]
    assert outcome(ran) == alone


@runs(*WORKERS, conftest=SERVER, test_it=SUITE)
def test_workers_share_a_seed_that_nobody_chose(ran: pytest.RunResult) -> None:
    seeds = set(re.findall(r"seed[ =](\d+)", ran.stdout.str()))
    assert len(seeds) == 1

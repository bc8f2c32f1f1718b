"""Connections of clients in C that fixtures have opened before the experiment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_resilience.native.loader_tables import unsupported
from pytest_resilience.plugin.matrix.results_and_exit_status import MATRIX_FAILED
from tests.proxy.postgres import listening


pytestmark = pytest.mark.skipif(bool(unsupported()), reason=unsupported())
pytest.importorskip("psycopg_pool")
pytest.importorskip("psycopg2")
pytest.importorskip("grpc")

CONFTEST = """
import concurrent.futures
import os

import grpc
import psycopg
import psycopg2
import psycopg_pool
import pytest

PORT, USER = os.environ["SHOP_DATABASE"].split()
DSN = f"host=127.0.0.1 port={PORT} user={USER} dbname=postgres"

@pytest.fixture(scope="session")
def pool():
    with psycopg_pool.ConnectionPool(DSN, min_size=1, max_size=1, timeout=5) as made:
        made.wait()
        yield made

@pytest.fixture(scope="session")
def connection():
    made = psycopg2.connect(DSN)
    made.autocommit = True
    yield made
    made.close()

@pytest.fixture(scope="session")
def price():
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"4")
    service = grpc.method_handlers_generic_handler("shop.Prices", {"Price": handler})
    server = grpc.server(concurrent.futures.ThreadPoolExecutor())
    server.add_generic_rpc_handlers([service])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/shop.Prices/Price")
        assert call(b"tea", wait_for_ready=True, timeout=60) == b"4"
        yield lambda seconds=60: call(b"tea", timeout=seconds)
    server.stop(0).wait()
"""

MARKED = """
import threading
import time

import grpc
import psycopg
import psycopg2
import pytest

from conftest import DSN
from conftest import PORT

DATABASE = f"127.0.0.1:{PORT}"  # a channel of grpc receives pings

def one(pool):
    with pool.connection() as connection:
        return connection.execute("SELECT 1").fetchone()

def test_before_any(pool, connection, price):
    assert one(pool) == (1,)
    assert price() == b"4"

@pytest.mark.chaos("network_latency", delay="60ms")
def test_latency(pool, price):
    began = time.monotonic()
    assert one(pool) == (1,)
    assert time.monotonic() - began >= 0.06
    began = time.monotonic()
    assert price() == b"4"
    assert time.monotonic() - began >= 0.06

@pytest.mark.chaos("network_failure", mode="reset", first=1, target=DATABASE)
def test_a_reset(connection):
    with connection.cursor() as cursor, pytest.raises(psycopg2.OperationalError):
        cursor.execute("SELECT 1")
    assert connection.closed

@pytest.mark.chaos("network_failure", mode="reset", first=1, target=DATABASE)
def test_a_reset_of_a_pool(pool):
    with pytest.raises(psycopg.OperationalError), pool.connection() as one:
        one.execute("SELECT 1")
    with pool.connection() as another:
        another.execute("SELECT 1")

@pytest.mark.chaos("network_failure", mode="timeout", rate=1)
def test_silence(price):
    with pytest.raises(grpc.RpcError) as caught:
        price(0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

def test_after_silence(price):
    assert price() == b"4"

@pytest.mark.chaos("network_failure", mode="down")
def test_down(price, pool):
    with pytest.raises(grpc.RpcError) as caught:
        price()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(psycopg.OperationalError), pool.connection() as one:
        one.execute("SELECT 1")

def test_who_listens_is_struck(pool, chaos):
    met, began = [], threading.Event()
    with pool.connection() as one:
        one.execute("COMMIT")
        one.autocommit = True
        one.execute("LISTEN tea")

        def listen():
            began.set()
            try:
                list(one.notifies(timeout=60))
            except psycopg.OperationalError as error:
                met.append(error)

        thread = threading.Thread(target=listen)
        thread.start()
        assert began.wait(60)
        with chaos.network_failure(mode="down"):
            thread.join(50)
    assert met

@pytest.mark.parametrize("mode", ["reset", "close"])
def test_who_comes_to_listen_later_is_struck(mode, chaos):
    with psycopg.connect(DSN, autocommit=True) as one:
        one.execute("LISTEN tea")
        with chaos.network_failure(mode=mode, rate=1, target=DATABASE) as outage:
            with pytest.raises(psycopg.OperationalError):
                list(one.notifies(timeout=60))
        assert outage.hits  # maybe of the pool as well

def test_who_is_only_closed_by_a_service_that_goes_down_is_counted(chaos):
    with psycopg.connect(DSN, autocommit=True) as one:
        with chaos.network_failure(mode="down", target=DATABASE) as outage:
            with pytest.raises(psycopg.OperationalError):
                one.execute("SELECT 1")
        assert outage.hits  # maybe of the pool as well
"""


PLAIN = """
def test_rows(pool):
    with pool.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)

def test_price(price):
    assert price() == b"4"
"""

AT_IMPORT = """
import psycopg2
import pytest

from conftest import DSN

connection = psycopg2.connect(DSN)

def test_it():
    with connection.cursor() as cursor, pytest.raises(psycopg2.OperationalError):
        cursor.execute("SELECT 1")
    connection.close()
"""

each_way = pytest.mark.parametrize(
    "flags", [(), ("-p", "xdist", "-n", "1")], ids=["alone", "xdist"]
)


@pytest.fixture
def database(postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a PostgreSQL, which suites find in their environment."""
    with listening(postgres) as (port, user):
        monkeypatch.setenv("SHOP_DATABASE", f"{port} {user}")
        yield port


@pytest.fixture
def suite(pytester: pytest.Pytester, database: int) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    return pytester


@each_way
def test_they_are_struck_by_markers(suite: pytest.Pytester, flags: tuple[str, ...]) -> None:
    suite.makepyfile(MARKED)
    suite.runpytest_subprocess("-p", "no:randomly", *flags).assert_outcomes(passed=11)


@each_way
def test_they_are_struck_in_the_matrix(suite: pytest.Pytester, flags: tuple[str, ...]) -> None:
    suite.makepyfile(PLAIN)
    names = ("first response reset", "connection closed as it is first used")
    only = (f"--chaos-experiment={name}" for name in (*names, "first connection refused"))
    result = suite.runpytest_subprocess(
        "-p", "no:randomly", "--chaos-matrix", "--chaos-profile=flaky-network", *only, *flags
    )
    assert result.ret == MATRIX_FAILED
    result.stdout.fnmatch_lines(
        ["first connection refused: 2 not applicable", "*test_rows under 'first response reset'"]
    )
    assert not {"never fired", "invalid"} & {each.partition(":")[0] for each in result.outlines}


def test_they_are_struck_in_the_matrix_of_databases(suite: pytest.Pytester) -> None:
    suite.makepyfile(PLAIN)
    result = suite.runpytest_subprocess(
        "-p", "no:randomly", "--chaos-matrix", "--chaos-profile=database-trouble", "-k", "rows",
        "--chaos-experiment=connection lost at the first statement",
    )  # fmt: skip
    assert result.ret == MATRIX_FAILED
    result.stdout.fnmatch_lines(["connection lost at the first statement: 1 failed"])


def test_those_made_at_import_are_reached_where_a_flag_asks_for_chaos(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(AT_IMPORT)
    flag = "--chaos=network_failure:mode=reset,rate=1"
    suite.runpytest_subprocess(flag).assert_outcomes(passed=1)


def test_or_where_the_text_of_a_module_does(suite: pytest.Pytester) -> None:
    marked = '@pytest.mark.chaos("network_failure", mode="reset", first=1)\ndef test_it'
    suite.makepyfile(AT_IMPORT.replace("def test_it", marked))
    suite.runpytest_subprocess().assert_outcomes(passed=1)


def test_what_is_made_later_is_led_by_us_only_if_a_test_may_hit_it(suite: pytest.Pytester) -> None:
    """At import nobody knows."""
    suite.makepyfile("""
        import os
        import socket

        import psycopg2
        import pytest

        from conftest import DSN
        from conftest import PORT

        early = psycopg2.connect(DSN)

        def is_direct(connection):
            with socket.socket(fileno=os.dup(connection.fileno())) as sock:
                return sock.getpeername()[1] == int(PORT)

        @pytest.fixture(scope="module")
        def connection():
            made = psycopg2.connect(DSN)
            yield made
            made.close()

        @pytest.mark.chaos("network_failure", target="elsewhere:80", must_fire=False)
        def test_it(connection):
            assert [is_direct(early), is_direct(connection)] == [False, True]
            early.close()
    """)
    suite.runpytest_subprocess().assert_outcomes(passed=1)

"""Real servers and their drivers: in Python, and in C, which nothing else can reach."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
import time

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience.proxy import ChaosProxy
from tests.proxy.conftest import until
from tests.proxy.postgres import listening
from tests.redis_server import redis_server
from tests.waiting import until_all_wait


# --- Redis ---


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    with redis_server() as (number, _):
        yield number


@pytest.fixture
def cache(redis_port: int) -> Iterator[ChaosProxy]:
    with ChaosProxy(("127.0.0.1", redis_port), seed=1) as proxy:
        yield proxy


def client_of(proxy: ChaosProxy, **settings: Any) -> Any:
    import redis

    from redis.backoff import NoBackoff
    from redis.retry import Retry

    url = proxy.dsn("redis://localhost:6379/0")
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **settings)


def test_redis_through_latency(cache: ChaosProxy) -> None:
    with client_of(cache, socket_timeout=10) as client:
        assert client.set("key", "value")
        with cache.inject("network_latency", delay="20ms") as latency:
            started = time.monotonic()
            assert client.get("key") == b"value"
            assert time.monotonic() - started >= 0.02
        assert latency.matched == 1


def test_redis_resets_and_recovers(cache: ChaosProxy) -> None:
    import redis

    with client_of(cache, socket_timeout=10) as client:
        assert client.ping()
        with (
            cache.inject("network_failure", mode="reset", rate=1, first=1),
            pytest.raises(redis.ConnectionError, match="Connection reset by peer"),
        ):
            client.ping()
        assert client.ping()


def test_redis_times_out(cache: ChaosProxy) -> None:
    import redis

    with client_of(cache, socket_timeout=0.05) as client:
        assert client.ping()
        with cache.having("timeout"), pytest.raises(redis.TimeoutError):
            client.ping()


def test_redis_has_done_what_its_client_does_not_know(cache: ChaosProxy) -> None:
    import redis

    with client_of(cache, socket_timeout=10) as client:
        client.delete("count")
        with cache.having("lose_answer"), pytest.raises(redis.ConnectionError):
            client.incr("count")
        assert client.get("count") == b"1"


@pytest.mark.parametrize("began_before", [True, False])
def test_a_subscriber_of_redis_is_struck(cache: ChaosProxy, began_before: bool) -> None:
    import redis

    with client_of(cache, socket_timeout=10) as client, client.pubsub() as channel:
        channel.subscribe("news")
        assert channel.get_message(timeout=10)["type"] == "subscribe"
        kept = client.client_id()
        found: list[Exception] = []

        def listen() -> None:
            try:
                channel.get_message(timeout=10)
            except redis.ConnectionError as error:
                found.append(error)

        listener = threading.Thread(target=listen, daemon=True)
        with contextlib.ExitStack() as running:
            if not began_before:
                running.enter_context(cache.inject("network_failure", mode="reset"))
            listener.start()
            if began_before:
                until_all_wait()
                running.enter_context(cache.inject("network_failure", mode="reset"))
            listener.join(10)
            assert len(found) == 1
        assert client.client_id() == kept  # the connection in its pool, for which nobody waited


def test_a_subscriber_in_a_loop_is_struck(cache: ChaosProxy) -> None:
    import redis.asyncio

    async def story() -> None:
        url = cache.dsn("redis://localhost:6379/0")
        client = redis.asyncio.Redis.from_url(url, retry=None)
        async with client, client.pubsub() as channel:
            await channel.subscribe("news")
            assert (await channel.get_message(timeout=10))["type"] == "subscribe"
            kept = await client.client_id()
            with (
                cache.inject("network_failure", mode="reset") as outage,
                pytest.raises(redis.ConnectionError),
            ):
                await channel.get_message(timeout=10)
            assert outage.hits
            assert await client.client_id() == kept

    asyncio.run(story())


# --- PostgreSQL ---


@pytest.fixture(scope="module")
def postgres_port(postgres: str) -> Iterator[tuple[int, str]]:
    """The port and the name of the user of a real server."""
    with listening(postgres) as there:
        yield there


@pytest.fixture
def database(postgres_port: tuple[int, str]) -> Iterator[ChaosProxy]:
    with ChaosProxy(("127.0.0.1", postgres_port[0]), seed=1) as proxy:
        yield proxy


@pytest.fixture
def url(database: ChaosProxy, postgres_port: tuple[int, str]) -> str:
    return database.dsn(
        f"postgresql://{postgres_port[1]}@localhost:5432/postgres?connect_timeout=20"
    )


@pytest.fixture(params=["psycopg", "psycopg2"])
def driver(request: pytest.FixtureRequest) -> Any:
    """libpq's drivers, each in turn."""
    return pytest.importorskip(request.param)


@contextlib.contextmanager
def connected(driver: Any, dsn: str) -> Iterator[Any]:
    """A connection without transactions."""
    connection = driver.connect(dsn)
    try:
        connection.autocommit = True
        yield connection
    finally:
        connection.close()


def execute(connection: Any, query: str) -> Any:
    cursor = connection.cursor()
    cursor.execute(query)
    return cursor.fetchall()


def test_latency_reaches_libpq(database: ChaosProxy, url: str, driver: Any) -> None:
    with connected(driver, url) as connection:
        assert execute(connection, "SELECT 1") == [(1,)]
        with database.inject("network_latency", delay="30ms") as latency:
            started = time.monotonic()
            assert execute(connection, "SELECT 2") == [(2,)]
            assert time.monotonic() - started >= 0.03
    assert latency.matched >= 1


def test_a_reset_reaches_libpq(database: ChaosProxy, url: str, driver: Any) -> None:
    with connected(driver, url) as connection:
        with (
            database.inject("network_failure", mode="reset", rate=1, first=1),
            pytest.raises(driver.OperationalError) as caught,
        ):
            execute(connection, "SELECT 1")
        text = str(caught.value)
        assert "Connection reset by peer" in text or "closed the connection" in text
        assert connection.closed
    with connected(driver, url) as again:
        assert execute(again, "SELECT 1") == [(1,)]


def test_a_refusal_reaches_libpq(database: ChaosProxy, url: str, driver: Any) -> None:
    with (
        database.inject("network_failure", mode="refuse", rate=1),
        pytest.raises(driver.OperationalError, match="Connection refused"),
    ):
        driver.connect(url)


def test_silence_meets_libpqs_own_timeout(database: ChaosProxy, url: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    with database.having("timeout"), pytest.raises(psycopg.OperationalError, match="timeout"):
        psycopg.connect(url.replace("connect_timeout=20", "connect_timeout=2"))


def test_a_commit_whose_answer_is_lost_was_made(
    database: ChaosProxy, url: str, driver: Any
) -> None:
    with connected(driver, url) as connection:
        connection.cursor().execute("CREATE TABLE charges (id int)")
        with database.having("lose_answer"), pytest.raises(driver.OperationalError):
            connection.cursor().execute("INSERT INTO charges VALUES (1)")
    with connected(driver, url) as again:
        assert execute(again, "SELECT count(*) FROM charges") == [(1,)]
        again.cursor().execute("DROP TABLE charges")


def test_a_result_that_is_cut_short(database: ChaosProxy, url: str, driver: Any) -> None:
    with (
        connected(driver, url) as connection,
        database.having("truncate"),
        pytest.raises(driver.OperationalError),
    ):
        execute(connection, "SELECT generate_series(1, 1000)")


def test_variables_lead_a_subprocess_there(
    database: ChaosProxy, postgres_port: tuple[int, str]
) -> None:
    pgserver: Any = pytest.importorskip("pgserver")
    program = os.path.join(os.path.dirname(pgserver.__file__), "pginstall", "bin", "psql")
    done = subprocess.run(
        [program, "-X", "-A", "-t", "-U", postgres_port[1], "-c", "SELECT 42", "postgres"],
        env=os.environ | database.environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "42"
    assert database.accepted == 1


def test_variables_lead_this_process_there(
    database: ChaosProxy, postgres_port: tuple[int, str], driver: Any
) -> None:
    with (
        database.in_environment(),
        connected(driver, f"user={postgres_port[1]} dbname=postgres") as connection,
    ):
        assert execute(connection, "SELECT 1") == [(1,)]
        assert database.connections == 1
    until(lambda: database.connections == 0)


def test_who_listens_is_struck(url: str, database: ChaosProxy) -> None:
    import psycopg

    with (
        psycopg.connect(url, autocommit=True) as kept,
        psycopg.connect(url, autocommit=True) as listener,
    ):
        listener.execute("LISTEN news")
        with (
            database.inject("network_failure", mode="reset") as outage,
            pytest.raises(psycopg.OperationalError),
        ):
            list(listener.notifies(timeout=10))
        assert outage.hits == 1
        assert kept.execute("SELECT 42").fetchone() == (42,)

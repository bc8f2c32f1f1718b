"""A real PostgreSQL over TCP on loopback, met by asyncpg through faults."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import urllib.parse

from collections.abc import Coroutine
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience import FaultInjected
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import serve


asyncpg = pytest.importorskip("asyncpg")
pytest.importorskip("pgserver", reason="there is no PostgreSQL for this Python")


DELAY = 0.05
PATIENCE = 30  # seconds


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def path(postgres: str) -> str:
    """Of the server's own socket, which is none of TCP."""
    folder = urllib.parse.parse_qs(urllib.parse.urlsplit(postgres).query)["host"][0]
    return f"{folder}/.s.PGSQL.5432"


@pytest.fixture
def port(path: str) -> Iterator[int]:
    def relay(connection: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(path)
            back = threading.Thread(target=pump, args=(upstream, connection), daemon=True)
            back.start()
            pump(connection, upstream)
            back.join(PATIENCE)

    with serve(relay) as port:
        yield port


def run(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(story, PATIENCE))


async def connect(port: int, **options: Any) -> Any:
    return await asyncpg.connect(
        host=HOST, port=port, user="postgres", database="postgres", ssl=False, **options
    )


def kinds(events: list[FaultInjected]) -> list[str]:
    return [event.kind.removeprefix("network.") for event in events]


def test_connecting_preparing_and_executing_are_late(
    port: int, inject: Inject, events: list[FaultInjected]
) -> None:
    async def story() -> None:
        with inject("network_latency", delay=DELAY):
            started = time.monotonic()
            connection = await connect(port)
            assert time.monotonic() - started >= 2 * DELAY  # and to be let in
            started = time.monotonic()
            assert await connection.fetchval("SELECT $1::int", 7) == 7
            assert time.monotonic() - started >= 2 * DELAY
        assert kinds(events) == ["connect", "receive", "receive", "receive"]
        await connection.close()

    run(story())


def test_its_own_timeouts_fire(port: int, inject: Inject) -> None:
    async def story() -> None:
        with inject("network_failure", mode="timeout", rate=1) as silence:
            with pytest.raises(TimeoutError):
                await connect(port, timeout=0.1)
            assert silence.hits == 1
        connection = await connect(port)
        with inject("network_latency", delay=3600) as latency:
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                await connection.execute("SELECT 1", timeout=0.1)
            assert 0.099 <= time.monotonic() - started < PATIENCE
            assert latency.hits >= 1
        connection.terminate()

    run(story())


def test_silence_without_a_timeout_loses_the_connection(port: int, inject: Inject) -> None:
    async def story() -> None:
        connection = await connect(port)
        with inject("network_failure", mode="timeout", rate=1) as silence:
            asked = asyncio.create_task(connection.execute("SELECT 1"))
            while not silence.matched:  # noqa: ASYNC110  # nobody is told
                await asyncio.sleep(0.001)
            silence.stop()
            with pytest.raises((TimeoutError, asyncpg.ConnectionDoesNotExistError)):
                await asked
        assert connection.is_closed()

    run(story())


@pytest.mark.parametrize("mode", ["reset", "close", "down"])
def test_who_listens_by_callbacks_alone_is_told_that_the_connection_is_lost(
    mode: str, port: int, inject: Inject
) -> None:
    async def story() -> list[str]:
        connection, lost = await connect(port), list[str]()
        connection.add_termination_listener(lambda _: lost.append("lost"))
        await connection.add_listener("tea", lambda *_: None)
        with inject("network_failure", mode=mode, first=1) as outage:
            for _ in range(5):
                await asyncio.sleep(0.001)
        assert (outage.hits, connection.is_closed()) == (1, True)
        return lost

    assert run(story()) == ["lost"]


def test_a_connection_that_nobody_listens_on_is_left_alone(port: int, inject: Inject) -> None:
    async def story() -> None:
        connection = await connect(port)
        with inject("network_failure", mode="reset", rate=1) as outage:
            for _ in range(5):
                await asyncio.sleep(0.001)
        assert outage.matched == 0
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()

    run(story())

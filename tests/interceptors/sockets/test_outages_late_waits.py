"""Tasks that come to wait after an outage has begun, and protocols that nobody awaits."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from typing import Any

import aiohttp
import httpx
import pytest

from pytest_resilience.interceptors.sockets import outages
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent


PATIENCE = 20  # seconds
MODES = [("reset", "ConnectionResetError"), ("close", b""), ("down", b"")]

Story = Callable[[int], Coroutine[Any, Any, object]]


async def turns() -> None:
    """Let the loop go round, and wait for nothing: whom an outage finds waiting is struck then."""
    for _ in range(10):
        await asyncio.sleep(0)


async def met_by(wait: Awaitable[object]) -> object:
    """What it finds, or the name of the error that it meets."""
    try:
        return await wait
    except OSError as error:
        return type(error).__name__


def told(handler: Handler, story: Story) -> object:
    """What comes of it beside a server."""
    with serve(handler) as port:
        return asyncio.run(asyncio.wait_for(story(port), PATIENCE))


async def ask(
    port: int, inject: Inject, tls: ssl.SSLContext | None = None, *, asks: bool, **given: Any
) -> tuple[object, int]:
    """What is met by who waits on an older connection, and how often it is hit."""
    reader, writer = await asyncio.open_connection(HOST, port, ssl=tls)
    with contextlib.closing(writer):
        if asks:
            writer.write(b"tea")
            assert await reader.readexactly(3) == b"tea"
        with inject("network_failure", **given) as outage:
            await turns()
            return await met_by(reader.read(100)), outage.hits


@pytest.mark.parametrize("asks", [True, False], ids=["after a response", "before any"])
@pytest.mark.parametrize("which", [{"rate": 1}, {"first": 1}], ids=["all", "the first"])
@pytest.mark.parametrize(("mode", "expected"), MODES)
def test_they_are_struck(
    mode: str, expected: object, which: dict[str, Any], asks: bool, inject: Inject
) -> None:
    met = told(echo, lambda port: ask(port, inject, asks=asks, mode=mode, **which))
    assert met == (expected, 1)


@pytest.mark.parametrize(("mode", "expected"), MODES)
def test_so_they_are_over_tls(mode: str, expected: object, trust: Trust, inject: Inject) -> None:
    with serve(trust.over_tls(echo)) as port:
        story = ask(port, inject, trust.client, asks=True, mode=mode, rate=1)
        assert asyncio.run(asyncio.wait_for(story, PATIENCE)) == (expected, 1)


def test_who_connects_later_too(inject: Inject) -> None:
    async def story(port: int) -> object:
        reader, writer = await asyncio.open_connection(HOST, port)
        with contextlib.closing(writer):
            return await met_by(reader.readline())

    with inject("network_failure", mode="reset", rate=1) as outage:
        assert told(silent, story) == "ConnectionResetError"
    assert (outage.matched, outage.hits) == (1, 1)


def test_within_a_window(inject: Inject) -> None:
    met = told(silent, lambda port: ask(port, inject, asks=False, mode="reset", between="0..9s"))
    assert met == ("ConnectionResetError", 1)


def test_looking_that_takes_long_is_done_later(
    inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "_SHORT_LOOK", -1)
    met = told(silent, lambda port: ask(port, inject, asks=False, mode="reset", rate=1))
    assert met == ("ConnectionResetError", 1)


def test_each_wait_is_one_operation(inject: Inject) -> None:
    async def story(port: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        with contextlib.closing(writer), inject("network_failure", mode="reset", nth=2) as outage:
            for _ in range(3):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.01)
            assert (outage.matched, outage.hits) == (1, 0)
            writer.write(b"tea")
            assert await met_by(reader.read(3)) == "ConnectionResetError"
        assert (outage.matched, outage.hits) == (2, 1)

    told(echo, story)


def test_a_connection_that_is_kept_and_nobody_waits_for_is_left_alone(inject: Inject) -> None:
    def answer(connection: Any) -> None:
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntea")

    async def story(port: int) -> None:
        url = f"http://{HOST}:{port}/"
        async with httpx.AsyncClient(trust_env=False) as client, aiohttp.ClientSession() as other:
            assert (await client.get(url)).status_code == 200
            async with other.get(url) as response:
                assert await response.read() == b"tea"
            with inject("network_failure", mode="reset", rate=1) as outage:
                for _ in range(5):
                    await asyncio.sleep(0.001)
                assert outage.matched == 0

    told(answer, story)


class Consumer(asyncio.Protocol):
    """Whom nobody awaits."""

    def __init__(self) -> None:
        self.met: list[object] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.met.append(exc and type(exc).__name__)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode": "reset", "rate": 1}, ["ConnectionResetError"]),
        ({"mode": "close", "rate": 1}, [None]),
        ({"mode": "down", "rate": 1}, [None]),
        ({"mode": "reset", "first": 1}, []),
        ({"mode": "timeout", "rate": 1}, []),
    ],
    ids=["reset", "close", "down", "the first", "silence"],
)
def test_a_protocol_of_the_user_s_own_is_told_at_once(
    given: dict[str, Any], expected: list[object], inject: Inject
) -> None:
    async def story(port: int) -> list[object]:
        loop = asyncio.get_running_loop()
        transport, consumer = await loop.create_connection(Consumer, HOST, port)
        with inject("network_failure", **given):
            for _ in range(5):
                await asyncio.sleep(0.001)
            found = [*consumer.met]
        transport.abort()
        return found

    assert told(silent, story) == expected


@pytest.mark.parametrize("mode", ["reset", "close", "down"])
def test_so_it_is_over_tls(mode: str, trust: Trust, inject: Inject) -> None:
    async def story(port: int) -> list[object]:
        loop = asyncio.get_running_loop()
        _, consumer = await loop.create_connection(Consumer, HOST, port, ssl=trust.client)
        with inject("network_failure", mode=mode, rate=1):
            for _ in range(20):
                await asyncio.sleep(0.001)
            return [*consumer.met]

    assert told(trust.over_tls(silent), story) == [
        "ConnectionResetError" if mode == "reset" else None
    ]


@pytest.mark.parametrize("mode", ["reset", "close", "down"])
def test_so_is_a_websocket_that_nobody_receives_from(mode: str, inject: Inject) -> None:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve as serve_websockets

    async def story() -> None:
        async with (
            serve_websockets(lambda peer: peer.wait_closed(), HOST, 0) as server,
            connect(f"ws://{HOST}:{server.sockets[0].getsockname()[1]}", ping_interval=None) as one,
        ):
            with inject("network_failure", mode=mode, rate=1) as outage:
                for _ in range(20):
                    await asyncio.sleep(0.001)
                assert one.state.name == "CLOSED"
            assert outage.hits == 1

    asyncio.run(asyncio.wait_for(story(), PATIENCE))

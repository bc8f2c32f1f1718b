"""Streams that are cut, silent, damaged or a message short after the n-th event.

A server that really does so is the measure.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import websockets.asyncio.client
import websockets.sync.client
import websockets.sync.server

from tests.end_to_end.network.clients import everything_closed
from tests.injecting import Inject
from tests.interceptors.conftest import Trust
from tests.resets import reset_when_closed
from tests.waiting import PATIENCE


TIMEOUT = 0.6  # seconds, of who is to meet silence: any event of a server comes sooner
EVENTS = 5
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: close\r\n\r\n"
)
ALL_WELL = -1


def event(number: int) -> bytes:
    data = b"data: %d\n\n" % number
    return b"%x\r\n%b\r\n" % (len(data), data)


class Feed:
    """Five events; after `until` of them the connection ends as `end` says."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.until, self.end = ALL_WELL, ""
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http{'s' if self._context else ''}://127.0.0.1:{self.port}/feed"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                thread = threading.Thread(target=self._greet, args=(accepted,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _greet(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            with client:
                self._speak(client)

    def _speak(self, client: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += client.recv(4096) or b"\r\n\r\n"
        client.sendall(HEAD)
        for number in range(EVENTS):
            if number == self.until:
                self._end(client)
                return
            client.sendall(event(number))
        client.sendall(b"0\r\n\r\n")
        client.recv(1)

    def _end(self, client: socket.socket) -> None:
        if self.end == "reset":
            client.settimeout(0.1)
            with contextlib.suppress(TimeoutError):  # so that what was sent is read before
                client.recv(1)
            reset_when_closed(client)
        elif self.end == "timeout":
            client.recv(1)  # until the client goes


@pytest.fixture(scope="module", params=["plain", "tls"])
def feed(request: pytest.FixtureRequest, trust: Trust) -> Iterator[Feed]:
    running = Feed(trust.server if request.param == "tls" else None)
    yield running
    running.close()


Heard = tuple[list[str], str]


def with_requests(url: str, ca: str, patience: float) -> Heard:
    heard: list[str] = []
    try:
        with requests.get(url, stream=True, timeout=(PATIENCE, patience), verify=ca) as response:
            for line in response.iter_lines(chunk_size=1):
                heard += [line.decode()] if line else []
    except requests.RequestException as error:
        return heard, type(error).__name__
    return heard, ""


def reading(patience: float) -> httpx.Timeout:
    """All but reading may take as long as it does on a busy machine."""
    return httpx.Timeout(PATIENCE, read=patience)


def with_httpx(url: str, ca: str, patience: float) -> Heard:
    heard: list[str] = []
    try:
        context = ssl.create_default_context(cafile=ca)
        with (
            httpx.Client(verify=context, timeout=reading(patience)) as client,
            client.stream("GET", url) as response,
        ):
            for line in response.iter_lines():
                heard += [line] if line else []
    except httpx.HTTPError as error:
        return heard, type(error).__name__
    return heard, ""


def with_httpx_async(url: str, ca: str, patience: float) -> Heard:
    heard: list[str] = []
    context = ssl.create_default_context(cafile=ca)

    async def story() -> str:
        try:
            async with (
                httpx.AsyncClient(verify=context, timeout=reading(patience)) as client,
                client.stream("GET", url) as response,
            ):
                async for line in response.aiter_lines():
                    heard.extend([line] if line else [])
        except httpx.HTTPError as error:
            return type(error).__name__
        finally:
            await everything_closed()
        return ""

    return heard, asyncio.run(story())


def with_aiohttp(url: str, ca: str, patience: float) -> Heard:
    heard: list[str] = []
    context = ssl.create_default_context(cafile=ca)

    async def story() -> str:
        timeout = aiohttp.ClientTimeout(sock_read=patience)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, ssl=context) as response,
            ):
                async for line in response.content:
                    heard.extend([line.decode().strip()] if line.strip() else [])
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__
        finally:
            await everything_closed()
        return ""

    return heard, asyncio.run(story())


every_client = pytest.mark.parametrize(
    "ask", [with_requests, with_httpx, with_httpx_async, with_aiohttp]
)
Ask = Callable[[str, str, float], Heard]
Listen = Callable[..., Heard]
DATA = [f"data: {number}" for number in range(EVENTS)]


@pytest.fixture
def listen(feed: Feed, trust: Trust) -> Listen:
    """Hears all that a client is told, which gives up in silence alone: soon where that is sure."""
    return lambda ask, *, silent=False: ask(feed.url, trust.file, TIMEOUT if silent else PATIENCE)


def really(feed: Feed, listen: Listen, ask: Ask, until: int, end: str) -> Heard:
    feed.until, feed.end = until, end
    try:
        return listen(ask, silent=end == "timeout")
    finally:
        feed.until = ALL_WELL


@every_client
@pytest.mark.parametrize("end", ["close", "reset", "timeout"])
def test_a_stream_ends_after_so_many_events_as_if_its_server_had_ended_it(
    ask: Ask, end: str, feed: Feed, listen: Listen, inject: Inject
) -> None:
    expected = really(feed, listen, ask, 3, end)
    with inject("network_failure", mode=end, after_items=3, target=f"*:{feed.port}") as fault:
        met = listen(ask, silent=end == "timeout")
    assert met == expected
    assert met[0] == DATA[:3]
    assert fault.hits == 1


@every_client
def test_one_message_is_lost_and_the_connection_lives(
    ask: Ask, feed: Feed, listen: Listen, inject: Inject
) -> None:
    target = f"*:{feed.port}"
    with inject("network_failure", mode="drop_message", after_items=2, target=target) as fault:
        heard = listen(ask)
    assert heard == ([*DATA[:2], *DATA[3:]], "")
    assert fault.hits == 1


@every_client
def test_what_comes_later_than_the_last_event_never_fires(
    ask: Ask, feed: Feed, listen: Listen, inject: Inject
) -> None:
    with inject("network_failure", mode="reset", after_items=9, target=f"*:{feed.port}") as fault:
        heard = listen(ask)
    assert heard == (DATA, "")
    assert fault.hits == 0


@pytest.fixture
def ticker() -> Iterator[str]:
    """A server of WebSockets that sends five messages to whoever says something, and closes."""

    def tick(connection: Any) -> None:
        connection.recv()
        for number in range(EVENTS):
            connection.send(str(number))

    with websockets.sync.server.serve(tick, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{running.socket.getsockname()[1]}"
        running.shutdown()
        thread.join(10)


def with_websockets(url: str, patience: float) -> Heard:
    heard: list[str] = []
    with websockets.sync.client.connect(url, close_timeout=0.2) as connection:
        connection.send("go")
        try:
            while True:
                heard.append(str(connection.recv(timeout=patience if heard else PATIENCE)))
        except (websockets.ConnectionClosed, TimeoutError) as error:
            return heard, type(error).__name__


def with_websockets_async(url: str, patience: float) -> Heard:
    heard: list[str] = []

    async def story() -> str:
        async with websockets.asyncio.client.connect(url, close_timeout=0.2) as connection:
            await connection.send("go")
            try:
                while True:
                    rest = patience if heard else PATIENCE
                    heard.append(str(await asyncio.wait_for(connection.recv(), rest)))
            except (websockets.ConnectionClosed, TimeoutError) as error:
                return type(error).__name__

    return heard, asyncio.run(story())


@pytest.mark.parametrize("ask", [with_websockets, with_websockets_async])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode": "drop_message", "after_items": 2}, ([*"0134"], "ConnectionClosedOK")),
        ({"mode": "close", "after_items": 2}, ([*"01"], "ConnectionClosedError")),
        ({"mode": "reset", "after_items": 3}, ([*"012"], "ConnectionClosedError")),
        ({"mode": "timeout", "after_items": 1}, ([*"0"], "TimeoutError")),
    ],
    ids=["drop_message", "close", "reset", "timeout"],
)
def test_messages_of_a_websocket_are_told_apart(
    ask: Callable[[str, float], Heard],
    given: dict[str, Any],
    expected: Heard,
    ticker: str,
    inject: Inject,
) -> None:
    target = ticker.removeprefix("ws://")
    # They belong to the response to the handshake, though the client speaks after that.
    with inject("network_failure", target=target, nth=1, **given) as fault:
        assert ask(ticker, TIMEOUT if expected[1] == "TimeoutError" else PATIENCE) == expected
    assert fault.hits == 1


@pytest.mark.parametrize("polled", [False, True], ids=["blocking", "polled"])
@pytest.mark.parametrize("mode", ["drop_message", "close", "timeout"])
def test_lines_of_another_protocol_are_told_apart(
    mode: str, inject: Inject, *, polled: bool
) -> None:
    lines = [b"one\r\n", b"two\r\n", b"three\r\n"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        target = f"127.0.0.1:{address[1]}"
        with inject("network_failure", mode=mode, after_items=1, target=target) as fault:
            client = socket.create_connection(address)
            peer, _ = listener.accept()
            with client, peer:
                client.sendall(b"list\r\n")
                peer.sendall(b"".join(lines))
                if mode == "drop_message":
                    peer.shutdown(socket.SHUT_WR)
                patience = TIMEOUT if mode == "timeout" else PATIENCE
                client.settimeout(0 if polled else patience)
                got, end = received(client, patience)
    kept = [lines[0], lines[2]] if mode == "drop_message" else lines[:1]
    assert got == b"".join(kept)
    assert end == ("silence" if mode == "timeout" else "EOF")
    assert fault.hits == 1


def received(client: socket.socket, patience: float) -> tuple[bytes, str]:
    got = b""
    while True:
        if client.gettimeout() == 0 and not select.select([client], [], [], patience)[0]:
            return got, "silence"
        try:
            data = client.recv(4)
        except BlockingIOError:
            continue
        except TimeoutError:
            return got, "silence"
        if not data:
            return got, "EOF"
        got += data


@every_client
def test_a_stream_pauses_after_so_many_events(
    ask: Ask, feed: Feed, listen: Listen, inject: Inject
) -> None:
    target = f"*:{feed.port}"
    asynchronous = ask in {with_httpx_async, with_aiohttp}
    with inject("network_latency", delay=2 * TIMEOUT, after_items=2, target=target) as fault:
        heard, end = listen(ask, silent=True)  # which has a timeout of half of that
    if feed.url.startswith("https") and asynchronous:  # nobody sees where in the records it is
        assert (heard, end, fault.hits) == (DATA, "", 0)
    else:
        assert (heard, fault.hits) == (DATA[:2], 1)
        assert end in {"ConnectionError", "ReadTimeout", "SocketTimeoutError"}

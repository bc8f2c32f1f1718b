"""Streams that are cut, silent, damaged or a message short after the n-th event.

A server that really does so is the measure.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading

from collections.abc import Callable
from collections.abc import Iterator

import aiohttp
import httpx
import pytest
import requests

from tests.end_to_end.network.clients import everything_closed
from tests.injecting import Inject
from tests.interceptors.conftest import Trust


TIMEOUT = 0.3
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
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif self.end == "timeout":
            client.recv(1)  # until the client goes


@pytest.fixture(scope="module", params=["plain", "tls"])
def feed(request: pytest.FixtureRequest, trust: Trust) -> Iterator[Feed]:
    running = Feed(trust.server if request.param == "tls" else None)
    yield running
    running.close()


Heard = tuple[list[str], str]


def with_requests(url: str, ca: str) -> Heard:
    heard: list[str] = []
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT, verify=ca) as response:
            for line in response.iter_lines(chunk_size=1):
                heard += [line.decode()] if line else []
    except requests.RequestException as error:
        return heard, type(error).__name__
    return heard, ""


def with_httpx(url: str, ca: str) -> Heard:
    heard: list[str] = []
    try:
        context = ssl.create_default_context(cafile=ca)
        with (
            httpx.Client(verify=context, timeout=TIMEOUT) as client,
            client.stream("GET", url) as response,
        ):
            for line in response.iter_lines():
                heard += [line] if line else []
    except httpx.HTTPError as error:
        return heard, type(error).__name__
    return heard, ""


def with_httpx_async(url: str, ca: str) -> Heard:
    heard: list[str] = []
    context = ssl.create_default_context(cafile=ca)

    async def story() -> str:
        try:
            async with (
                httpx.AsyncClient(verify=context, timeout=TIMEOUT) as client,
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


def with_aiohttp(url: str, ca: str) -> Heard:
    heard: list[str] = []
    context = ssl.create_default_context(cafile=ca)

    async def story() -> str:
        timeout = aiohttp.ClientTimeout(sock_read=TIMEOUT)
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
Ask = Callable[[str, str], Heard]
DATA = [f"data: {number}" for number in range(EVENTS)]


@pytest.fixture
def listen(feed: Feed, trust: Trust) -> Callable[[Ask], Heard]:
    return lambda ask: ask(feed.url, trust.file)


def really(feed: Feed, listen: Callable[[Ask], Heard], ask: Ask, until: int, end: str) -> Heard:
    feed.until, feed.end = until, end
    try:
        return listen(ask)
    finally:
        feed.until = ALL_WELL


@every_client
@pytest.mark.parametrize("end", ["close", "reset", "timeout"])
def test_a_stream_ends_after_so_many_events_as_if_its_server_had_ended_it(
    ask: Ask, end: str, feed: Feed, listen: Callable[[Ask], Heard], inject: Inject
) -> None:
    expected = really(feed, listen, ask, 3, end)
    with inject("network_failure", mode=end, after_items=3, target=f"*:{feed.port}") as fault:
        met = listen(ask)
    assert met == expected
    assert met[0] == DATA[:3]
    assert fault.hits == 1


@every_client
def test_one_message_is_lost_and_the_connection_lives(
    ask: Ask, feed: Feed, listen: Callable[[Ask], Heard], inject: Inject
) -> None:
    target = f"*:{feed.port}"
    with inject("network_failure", mode="drop_message", after_items=2, target=target) as fault:
        heard = listen(ask)
    assert heard == ([*DATA[:2], *DATA[3:]], "")
    assert fault.hits == 1


@every_client
def test_what_comes_later_than_the_last_event_never_fires(
    ask: Ask, feed: Feed, listen: Callable[[Ask], Heard], inject: Inject
) -> None:
    with inject("network_failure", mode="reset", after_items=9, target=f"*:{feed.port}") as fault:
        heard = listen(ask)
    assert heard == (DATA, "")
    assert fault.hits == 0

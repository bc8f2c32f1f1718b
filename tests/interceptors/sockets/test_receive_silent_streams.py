"""A response that stops, and all of it has come already: whoever waits is told when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import selectors
import socket
import ssl
import threading

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import trio

from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import met
from tests.interceptors.conftest import serve
from tests.resets import reset_when_closed


PATIENCE = 10  # seconds: a client's own timeout, which nobody comes near
EVENTS = [b"data: %d\n\n" % number for number in range(5)]
ITEMS = [b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ALL = HEAD + b"".join(ITEMS) + b"0\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"

Then = Callable[[bytes], None]  # told of all that was received until now
Client = Callable[[int, Trust | None, Then], None]


def connected(port: int, trust: Trust | None) -> socket.socket:
    sock = socket.create_connection((HOST, port), timeout=PATIENCE)
    if trust is not None:
        sock = trust.client.wrap_socket(sock, server_hostname=HOST)
    sock.sendall(REQUEST)
    return sock


def url(port: int, trust: Trust | None) -> str:
    return f"http{'' if trust is None else 's'}://{HOST}:{port}/"


def collect(pieces: Iterator[bytes], then: Then) -> None:
    found = b""
    then(found)
    for piece in pieces:
        found += piece
        then(found)


async def collect_async(pieces: AsyncIterator[bytes], then: Then) -> None:
    found = b""
    then(found)
    async for piece in pieces:
        found += piece
        then(found)


def blocking(size: int, port: int, trust: Trust | None, then: Then) -> None:
    with connected(port, trust) as sock:
        collect(iter(lambda: sock.recv(size), b""), then)
    raise EOFError  # as TLS tells of a reset on some Pythons (gh-115627)


def polling(size: int, port: int, trust: Trust | None, then: Then) -> None:
    def pieces() -> Iterator[bytes]:
        while True:
            pending = getattr(sock, "pending", int)()
            assert pending or selector.select(PATIENCE)
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                if not (data := sock.recv(size)):
                    return
                yield data

    with connected(port, trust) as sock, selectors.DefaultSelector() as selector:
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
        collect(pieces(), then)
    raise EOFError


def blocking_at_once(port: int, trust: Trust | None, then: Then) -> None:
    blocking(65536, port, trust, then)


def blocking_in_parts(port: int, trust: Trust | None, then: Then) -> None:
    blocking(7, port, trust, then)


def polling_at_once(port: int, trust: Trust | None, then: Then) -> None:
    polling(65536, port, trust, then)


def polling_in_parts(port: int, trust: Trust | None, then: Then) -> None:
    polling(7, port, trust, then)


def with_http_client(port: int, trust: Trust | None, then: Then) -> None:
    connection = (
        http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
        if trust is None
        else http.client.HTTPSConnection(HOST, port, timeout=PATIENCE, context=trust.client)
    )
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        collect(iter(lambda: response.read1(100), b""), then)


def with_requests(port: int, trust: Trust | None, then: Then) -> None:
    verify = None if trust is None else trust.file
    with requests.get(url(port, trust), stream=True, timeout=PATIENCE, verify=verify) as response:
        collect(response.iter_content(None), then)


def with_httpx(port: int, trust: Trust | None, then: Then) -> None:
    verify = trust.client if trust is not None else False
    with (
        httpx.Client(trust_env=False, timeout=PATIENCE, verify=verify) as client,
        client.stream("GET", url(port, trust)) as response,
    ):
        collect(response.iter_raw(), then)


async def ask_with_httpx(port: int, trust: Trust | None, then: Then) -> None:
    verify = trust.client if trust is not None else False
    async with (
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE, verify=verify) as client,
        client.stream("GET", url(port, trust)) as response,
    ):
        await collect_async(response.aiter_raw(), then)


def with_httpx_in_asyncio(port: int, trust: Trust | None, then: Then) -> None:
    asyncio.run(ask_with_httpx(port, trust, then))


def with_httpx_in_trio(port: int, trust: Trust | None, then: Then) -> None:
    trio.run(ask_with_httpx, port, trust, then)


def with_streams(port: int, trust: Trust | None, then: Then) -> None:
    async def story() -> None:
        reader, writer = await asyncio.open_connection(
            HOST, port, ssl=None if trust is None else trust.client
        )
        writer.write(REQUEST)
        try:
            await collect_async(_until_empty(lambda: reader.read(100)), then)
        finally:
            writer.close()

    asyncio.run(asyncio.wait_for(story(), PATIENCE))


def with_sock_recv(port: int, trust: Trust | None, then: Then) -> None:
    assert trust is None  # loop.sock_recv takes no socket of TLS

    async def story() -> None:
        loop = asyncio.get_running_loop()
        await collect_async(_until_empty(lambda: loop.sock_recv(sock, 100)), then)

    with connected(port, None) as sock:
        sock.setblocking(False)
        asyncio.run(asyncio.wait_for(story(), PATIENCE))


async def _until_empty(receive: Callable[[], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    while data := await receive():
        yield data


CLIENTS: list[Client] = [
    blocking_at_once, blocking_in_parts, polling_at_once, polling_in_parts, with_http_client,
    with_requests, with_httpx, with_httpx_in_asyncio, with_httpx_in_trio, with_streams,
    with_sock_recv,
]  # fmt: skip
RAW = {
    blocking_at_once, blocking_in_parts, polling_at_once, polling_in_parts, with_streams,
    with_sock_recv,
}  # fmt: skip


def all_at_once(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(ALL)
    connection.recv(1)  # until the client goes


class Listener:
    """Ends something once a client has received so much, in another thread: it waits by then."""

    def __init__(self, kept: bytes, end: Callable[[], None]) -> None:
        self.received = b""
        self._kept = kept
        self._thread = threading.Thread(target=end)

    def __call__(self, received: bytes) -> None:
        self.received = received
        if received == self._kept:
            self._thread.start()

    def join(self) -> None:
        self._thread.join(PATIENCE)


every_client = pytest.mark.parametrize(
    ("client", "tls"),
    [
        pytest.param(client, tls, id=f"{client.__name__}-{'tls' if tls else 'plain'}")
        for client in CLIENTS
        for tls in (False, True)
        if not (tls and client is with_sock_recv)  # which takes no socket of TLS
    ],
)


@every_client
def test_a_stream_that_was_silent_is_lost_when_the_silence_ends(
    client: Client, tls: bool, trust: Trust, inject: Inject
) -> None:
    """As one whose server goes silent after as much, and resets it then."""
    over = threading.Event()

    def silent_then_reset(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + b"".join(ITEMS[:2]))
        over.wait(PATIENCE)
        reset_when_closed(connection)

    def outcome(handler: Handler, end: Callable[[], None]) -> tuple[bytes, Any]:
        kept = HEAD + b"".join(ITEMS[:2]) if client in RAW else b"".join(EVENTS[:2])
        listener = Listener(kept, end)
        with serve(trust.over_tls(handler) if tls else handler) as port:
            error = met(lambda: client(port, trust if tls else None, listener))
        listener.join()
        return listener.received, error

    real = outcome(silent_then_reset, over.set)
    with inject("network_failure", mode="timeout", after_items=2, rate=1) as silence:
        assert outcome(all_at_once, silence.stop) == real
    assert silence.hits == 1

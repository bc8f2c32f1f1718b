"""A forked process lets go of its parent's proxies, and they stay whole."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import os
import re
import socket
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
import websockets.exceptions
import websockets.sync.client

from pytest_resilience import ShutdownError
from pytest_resilience.chaos.waiting_clients import awaited_among
from pytest_resilience.proxy import ChaosProxy
from pytest_resilience.proxy import tcp_forwarder
from tests.interceptors.conftest import outcome
from tests.interceptors.sockets.test_outages import WAITS
from tests.interceptors.sockets.test_outages import waiting
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import read_all
from tests.proxy.conftest import receive
from tests.resets import reset_when_closed
from tests.waiting import InAThread


pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@contextlib.contextmanager
def forked(work: Callable[[], object] = lambda: None) -> Iterator[int]:
    """A child that does some work, and stays until the `with` ends; what its work gave: 0 or 1."""
    reader, writer = os.pipe()
    done, end = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(end)
            os.write(writer, b"1" if work() else b"0")
            os.read(done, 1)
        finally:
            os._exit(0)
    os.close(done)
    try:
        yield int(os.read(reader, 1))
    finally:
        for each in (reader, writer, end):
            os.close(each)
        os.waitpid(child, 0)


def is_shut(proxy: ChaosProxy) -> bool:
    with contextlib.suppress(ShutdownError):
        proxy.add("latency")
        return False
    proxy.close()
    return True


def test_it_is_closed_in_the_child_alone(
    proxy: ChaosProxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    assert ask(client) == b"ping"
    with forked(lambda: is_shut(proxy)) as shut:
        assert shut
        assert ask(client) == b"ping"
        assert ask(connect()) == b"ping"
    assert ask(client) == b"ping"


def test_the_port_is_free_when_the_parent_closes_it(proxy: ChaosProxy) -> None:
    with ChaosProxy(proxy.upstream) as another, forked():
        another.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(another.address, timeout=10)


def test_refusals_and_ends_are_real_though_a_child_lives(
    proxy: ChaosProxy, connect: Callable[[], socket.socket]
) -> None:
    cut, lost = connect(), connect()
    assert ask(cut) == ask(lost) == b"ping"
    with forked():
        with (
            proxy.inject("network_failure", mode="refuse", rate=1),
            pytest.raises(ConnectionRefusedError),
        ):
            connect()
        assert ask(connect()) == b"ping"
        with proxy.inject("network_failure", mode="truncate", rate=1):
            cut.sendall(b"ping")
            assert read_all(cut) == b"pi"
        with proxy.inject("network_failure", mode="reset", rate=1):
            lost.sendall(b"ping")
            with pytest.raises(ConnectionResetError):
                lost.recv(1)


OUTCOME = {"reset": "ConnectionResetError", "close": "EOF", "down": "EOF"}
HEAD = b"HTTP/1.1 200 OK\r\n"
PAUSING = {
    "until the end": HEAD + b"Content-Type: text/event-stream\r\n\r\ndata: 1\n\n",
    "in chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
    "of a length": HEAD + b"Content-Length: 90\r\n\r\ndata: 1\n\n",
}
WHOLE = {
    "in chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n-\r\n0\r\n\r\n",
    "of a length": HEAD + b"Content-Length: 1\r\n\r\n-",
    "no HTTP": b"+OK\r\n",
}


def ending(client: socket.socket) -> str:
    """How it ends to receive."""
    try:
        return "EOF" if client.recv(1) == b"" else "it goes on"
    except OSError as error:
        return type(error).__name__


def saying(response: bytes) -> Any:
    """A handler that answers each request so."""

    def handle(connection: socket.socket) -> None:
        while connection.recv(1000):
            connection.sendall(response)

    return handle


@contextlib.contextmanager
def answered(serve: Serve, response: bytes) -> Iterator[tuple[ChaosProxy, socket.socket]]:
    """A client that has received that through a proxy."""
    with (
        ChaosProxy(("127.0.0.1", serve(saying(response)))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert receive(client, len(response)) == response
        yield proxy, client


@pytest.mark.parametrize("mode", OUTCOME)
@pytest.mark.parametrize("response", PAUSING)
def test_a_response_that_pauses(serve: Serve, response: str, mode: Any) -> None:
    with answered(serve, PAUSING[response]) as (proxy, client):
        with proxy.inject("network_failure", mode=mode) as outage:
            assert ending(client) == OUTCOME[mode]
        assert outage.hits


@pytest.mark.parametrize("mode", ["reset", "close"])
@pytest.mark.parametrize("response", WHOLE)
def test_a_connection_that_is_kept_is_left_alone(serve: Serve, response: str, mode: Any) -> None:
    with answered(serve, WHOLE[response]) as (proxy, client):
        with proxy.inject("network_failure", mode=mode, must_fire=False) as outage:
            pass
        assert outage.matched == 0
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert receive(client, len(WHOLE[response])) == WHOLE[response]


def websocket(connection: socket.socket) -> None:
    """Open one, say "hello", and then nothing."""
    request = connection.recv(10_000)
    key = re.findall(rb"Sec-WebSocket-Key: (\S+)", request, re.IGNORECASE)[0]
    accepted = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n\r\n\x81\x05hello" % base64.b64encode(accepted)
    )
    connection.recv(1)


@pytest.mark.parametrize("mode", OUTCOME)
def test_a_websocket(serve: Serve, mode: Any) -> None:
    with ChaosProxy(("127.0.0.1", serve(websocket))) as proxy:
        url = f"ws://{proxy.listen}/"
        with websockets.sync.client.connect(url, proxy=None) as client:
            assert client.recv(10) == "hello"
            with (
                proxy.inject("network_failure", mode=mode) as outage,
                pytest.raises(websockets.exceptions.ConnectionClosedError),
            ):
                client.recv(10)
            assert outage.hits


# --- In this process, where the protocol is not HTTP ---


@pytest.mark.parametrize("mode", OUTCOME)
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_who_waits_in_this_process(
    wait: Callable[[socket.socket], object], mode: Any, serve: Serve
) -> None:
    """As by a server that really does it, and that nobody has asked for anything."""
    told = threading.Event()

    def hang_up(connection: socket.socket) -> None:
        told.wait(10)
        if mode == "reset":
            reset_when_closed(connection)

    with waiting(wait, serve(hang_up)) as meet:
        told.set()
        real = meet()
    with ChaosProxy(("127.0.0.1", serve(saying(b"")))) as proxy:
        with (
            waiting(wait, proxy.address[1]) as meet,
            proxy.inject("network_failure", mode=mode) as outage,
        ):
            assert meet() == real
        assert outage.hits


@pytest.mark.parametrize("mode", ["reset", "close"])
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_who_comes_to_wait_during_the_outage(
    wait: Callable[[socket.socket], object], mode: Any, proxy: ChaosProxy
) -> None:
    with (
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject("network_failure", mode=mode) as outage,
    ):
        client.settimeout(None)
        met = InAThread(lambda: outcome(lambda: wait(client))).result()
    assert met == (f"ConnectionResetError {errno.ECONNRESET}" if mode == "reset" else "b''")
    assert (outage.matched, outage.hits) == (1, 1)


def test_who_waits_is_struck_though_a_look_has_failed(
    proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(["nobody waits yet", "it has changed meanwhile"])

    def look(addresses: frozenset[Any]) -> frozenset[Any]:
        if next(looks, "") == "it has changed meanwhile":
            raise RuntimeError
        return awaited_among(addresses)

    monkeypatch.setattr(tcp_forwarder, "awaited_among", look)
    with (
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject("network_failure", mode="close"),
    ):
        assert client.recv(1) == b""


@pytest.mark.parametrize("mode", ["reset", "close"])
def test_a_connection_that_a_loop_keeps_is_left_alone(proxy: ChaosProxy, mode: Any) -> None:
    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"ping")
        return await reader.readexactly(4)

    async def story() -> None:
        kept = await asyncio.open_connection(*proxy.address)
        reader, writer = await asyncio.open_connection(*proxy.address)
        with contextlib.closing(kept[1]), contextlib.closing(writer):
            assert [await ask(*kept), await ask(reader, writer)] == [b"ping", b"ping"]
            with (
                proxy.inject("network_failure", mode=mode) as outage,
                contextlib.suppress(ConnectionResetError),
            ):
                assert await reader.read(1) == b""
            assert (outage.matched, outage.hits) == (1, 1)
            assert await ask(*kept) == b"ping"

    asyncio.run(story())

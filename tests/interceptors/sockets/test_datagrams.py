"""Datagrams are lost, late, doubled, out of order or refused, on sockets of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import select
import selectors
import socket
import threading
import time

from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from typing import Any

import pytest

from tests.injecting import Inject


HOST = "127.0.0.1"
PATIENCE = 20  # seconds
SHORT = 0.05  # seconds until a client gives up


class Echo:
    """A server of UDP that answers each datagram with the same, and notes it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.address: tuple[str, int] = sock.getsockname()[:2]
        self.target = f"{HOST}:{self.address[1]}"
        self.received: list[bytes] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            data, sender = self.sock.recvfrom(65535)
            if data == b"end":
                return
            self.received.append(data)
            if not data.startswith(b"quiet"):
                self.sock.sendto(data, sender)

    def end(self) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", self.address)
        self.thread.join(PATIENCE)


@pytest.fixture
def server() -> Iterator[Echo]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        echo = Echo(sock)
        yield echo
        echo.end()


@pytest.fixture(params=["connected", "unconnected"])
def client(request: pytest.FixtureRequest, server: Echo) -> Iterator[Client]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        yield Client(sock, None if request.param == "connected" else server.address, server)


class Client:
    """Sends and receives on a socket that is connected, or not."""

    def __init__(self, sock: socket.socket, where: Any, server: Echo) -> None:
        self.sock = sock
        self.where = where
        if where is None:
            sock.connect(server.address)

    def send(self, data: bytes) -> int:
        if self.where is None:
            return self.sock.send(data)
        return self.sock.sendto(data, self.where)

    def receive(self, timeout: float = PATIENCE) -> bytes | None:
        self.sock.settimeout(timeout)
        try:
            return self.sock.recv(100)
        except TimeoutError:
            return None

    def receive_all(self, most: int) -> list[bytes]:
        found = [self.receive() for _ in range(most)]
        assert self.receive(SHORT) is None
        return [each for each in found if each is not None]


def test_a_lost_request_does_not_arrive(inject: Inject, client: Client, server: Echo) -> None:
    with inject("network_failure", mode="drop", nth=1, target=server.target) as loss:
        assert client.send(b"one") == 3
        assert client.send(b"two") == 3
        assert client.receive() == b"two"
    assert server.received == [b"two"]
    assert (loss.matched, loss.hits) == (3, 1)


def test_a_lost_answer(inject: Inject, client: Client, server: Echo) -> None:
    with inject("network_failure", mode="drop", nth=2, target=server.target):
        client.send(b"one")
        assert client.receive(SHORT) is None
        client.send(b"two")
        assert client.receive() == b"two"
    assert server.received == [b"one", b"two"]


def test_late(inject: Inject, client: Client, server: Echo) -> None:
    with inject("network_latency", delay="60ms", target=server.target) as latency:
        began = time.monotonic()
        client.send(b"one")
        assert client.receive() == b"one"
        assert time.monotonic() - began >= 0.06
    assert (latency.matched, latency.hits) == (1, 1)
    assert latency.delay == pytest.approx(0.06, abs=0.02)


def test_a_timeout_comes_first(inject: Inject, client: Client, server: Echo) -> None:
    with inject("network_latency", delay="150ms", target=server.target):
        client.send(b"one")
        assert client.receive(0.02) is None
        assert client.receive() == b"one"


def test_doubled(inject: Inject, client: Client, server: Echo) -> None:
    with inject("network_failure", mode="duplicate", nth=1, target=server.target):
        client.send(b"one")
        assert client.receive_all(2) == [b"one", b"one"]
    assert server.received == [b"one", b"one"]
    with inject("network_failure", mode="duplicate", nth=2, target=server.target):
        client.send(b"two")
        assert client.receive_all(2) == [b"two", b"two"]
    assert server.received == [b"one", b"one", b"two"]


def test_out_of_order(inject: Inject, client: Client, server: Echo) -> None:
    with inject("network_failure", mode="reorder", nth=1, target=server.target):
        for each in (b"one", b"two", b"three"):
            client.send(each)
        assert client.receive_all(3) == [b"two", b"one", b"three"]
    assert server.received == [b"two", b"one", b"three"]


def test_one_that_nobody_overtakes_comes_late(inject: Inject, client: Client, server: Echo) -> None:
    with inject("network_failure", mode="reorder", nth=1, target=server.target):
        began = time.monotonic()
        client.send(b"one")
        assert client.receive() == b"one"
        assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_silence(inject: Inject, client: Client, server: Echo, mode: str) -> None:
    with inject("network_failure", mode=mode, rate=1, target=server.target) as failure:
        client.send(b"one")
        assert client.receive(SHORT) is None
        assert failure.hits == 1
    client.send(b"two")
    assert client.receive() == b"two"
    assert server.received == ([b"one", b"two"] if mode == "timeout" else [b"two"])


# --- refused ---


def test_refused_where_it_is_connected(inject: Inject, server: Echo) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(server.address)
        sock.settimeout(PATIENCE)
        with inject("network_failure", mode="refuse", rate=1, target=server.target) as refusal:
            sock.send(b"one")
            with pytest.raises(ConnectionRefusedError) as caught:
                sock.recv(10)
            assert caught.value.errno == errno.ECONNREFUSED
            sock.send(b"two")
            with pytest.raises(ConnectionRefusedError):
                sock.send(b"three")
            sock.send(b"four")
        assert refusal.hits == 3
    assert server.received == []


def test_refused_where_it_is_not_connected(inject: Inject, server: Echo) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(SHORT)
        with inject("network_failure", mode="refuse", rate=1, target=server.target):
            for _ in range(3):
                sock.sendto(b"one", server.address)
            with pytest.raises(TimeoutError):
                sock.recv(10)
    assert server.received == []


def test_a_thread_that_receives_is_told_of_a_refusal(inject: Inject, server: Echo) -> None:
    errors: list[BaseException] = []
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(server.address)
        sock.settimeout(PATIENCE)

        def receive() -> None:
            try:
                sock.recv(10)
            except OSError as error:
                errors.append(error)

        with inject("network_failure", mode="refuse", rate=1, target=server.target):
            thread = threading.Thread(target=receive)
            thread.start()
            sock.send(b"one")
            thread.join(PATIENCE)
    assert [type(each) for each in errors] == [ConnectionRefusedError]


# --- who polls ---


def by_select(sock: socket.socket) -> None:
    assert select.select([sock], [], [], PATIENCE)[0]


def by_poll(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)


def by_epoll(sock: socket.socket) -> None:
    with select.epoll() as poll:
        poll.register(sock, select.EPOLLIN)
        assert poll.poll(PATIENCE)


def by_selectors(sock: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        assert selector.select(PATIENCE)


def received_by(sock: socket.socket, wait: Callable[[socket.socket], None]) -> tuple[bytes, int]:
    """What it receives, and how often it was told that it could, and could not."""
    for vain in range(10):
        wait(sock)
        with contextlib.suppress(BlockingIOError):
            return sock.recv(100), vain
    raise AssertionError("told too often")


@pytest.fixture(params=[by_select, by_poll, by_epoll, by_selectors])
def wait(request: pytest.FixtureRequest) -> Callable[[socket.socket], None]:
    found: Callable[[socket.socket], None] = request.param
    return found


def test_late_for_who_polls(
    inject: Inject, client: Client, server: Echo, wait: Callable[[socket.socket], None]
) -> None:
    client.sock.setblocking(False)
    with inject("network_latency", delay="60ms", target=server.target):
        began = time.monotonic()
        client.send(b"one")
        data, vain = received_by(client.sock, wait)
        assert data == b"one"
        assert time.monotonic() - began >= 0.06
        assert vain <= 1
        assert not select.select([client.sock], [], [], 0)[0]


def test_doubled_for_who_polls(
    inject: Inject, client: Client, server: Echo, wait: Callable[[socket.socket], None]
) -> None:
    client.sock.setblocking(False)
    with inject("network_failure", mode="duplicate", nth=2, target=server.target):
        client.send(b"one")
        assert received_by(client.sock, wait) == (b"one", 0)
        assert received_by(client.sock, wait) == (b"one", 0)
        assert not select.select([client.sock], [], [], 0)[0]


def test_refused_for_who_polls(
    inject: Inject, server: Echo, wait: Callable[[socket.socket], None]
) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(server.address)
        sock.setblocking(False)
        with inject("network_failure", mode="refuse", rate=1, target=server.target):
            sock.send(b"one")
            wait(sock)
            with pytest.raises(ConnectionRefusedError):
                sock.recv(10)
            assert not select.select([sock], [], [], 0)[0]


# --- asyncio ---


def in_a_loop(story: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(story)
    def test(**fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(story(**fixtures), PATIENCE))

    return test


class Note(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.told: asyncio.Queue[Any] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.told.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.told.put_nowait(exc)

    async def next(self) -> Any:
        return await asyncio.wait_for(self.told.get(), PATIENCE)


async def opened(server: Echo, *, connected: bool) -> tuple[Any, Note, Callable[[bytes], None]]:
    loop = asyncio.get_running_loop()
    transport, note = await loop.create_datagram_endpoint(
        Note,
        remote_addr=server.address if connected else None,
        family=socket.AF_INET,
    )
    where = None if connected else server.address
    return transport, note, lambda data: transport.sendto(data, where)


@pytest.fixture(params=[True, False], ids=["connected", "unconnected"])
def connected(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@in_a_loop
async def test_asyncio_late(inject: Inject, server: Echo, connected: bool) -> None:
    with inject("network_latency", delay="60ms", target=server.target):
        transport, note, send = await opened(server, connected=connected)
        began = time.monotonic()
        send(b"one")
        assert await note.next() == b"one"
        assert time.monotonic() - began >= 0.06
        transport.close()


@in_a_loop
async def test_asyncio_doubled_and_out_of_order(
    inject: Inject, server: Echo, connected: bool
) -> None:
    with (
        inject("network_failure", mode="duplicate", nth=1, target=server.target),
        inject("network_failure", mode="reorder", nth=2, target=server.target),
    ):
        transport, note, send = await opened(server, connected=connected)
        for each in (b"one", b"two", b"three"):
            send(each)
        assert [await note.next() for _ in range(4)] == [b"one", b"one", b"three", b"two"]
        transport.close()
    assert server.received == [b"one", b"one", b"three", b"two"]


@in_a_loop
async def test_asyncio_refused(inject: Inject, server: Echo) -> None:
    with inject("network_failure", mode="refuse", rate=1, target=server.target):
        transport, note, send = await opened(server, connected=True)
        send(b"one")
        error = await note.next()
        assert isinstance(error, ConnectionRefusedError)
        assert error.errno == errno.ECONNREFUSED
        transport.close()


@in_a_loop
async def test_a_loop_goes_on_meanwhile(inject: Inject, server: Echo) -> None:
    with inject("network_latency", delay="50ms", target=server.target):
        transport, note, send = await opened(server, connected=True)
        send(b"one")
        turns = 0
        while note.told.empty():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 100
        transport.close()


@in_a_loop
async def test_what_is_late_comes_when_the_experiment_ends(
    inject: Inject, server: Echo, connected: bool
) -> None:
    with inject("network_latency", delay="1h", duration="2h", target=server.target) as latency:
        transport, note, send = await opened(server, connected=connected)
        send(b"one")
        while not latency.hits:  # noqa: ASYNC110  # of which nobody tells
            await asyncio.sleep(0)
    assert await note.next() == b"one"
    transport.close()


@in_a_loop
async def test_sock_recvfrom(inject: Inject, client: Client, server: Echo) -> None:
    loop = asyncio.get_running_loop()
    client.sock.setblocking(False)
    if client.where is None:
        with inject("network_latency", delay="60ms", target=server.target):
            client.send(b"one")
            assert await loop.sock_recvfrom(client.sock, 10) == (b"one", server.address)
        return
    with inject("network_latency", delay="60ms", target=server.target):
        began = time.monotonic()
        await loop.sock_sendto(client.sock, b"one", server.address)
        assert await loop.sock_recvfrom(client.sock, 10) == (b"one", server.address)
        assert time.monotonic() - began >= 0.06
        buffer = bytearray(10)
        await loop.sock_sendto(client.sock, b"two", server.address)
        found = await loop.sock_recvfrom_into(client.sock, buffer)
        assert (found, bytes(buffer[:3])) == ((3, server.address), b"two")

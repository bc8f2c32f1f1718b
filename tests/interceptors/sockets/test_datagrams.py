"""Datagrams are lost, late, doubled, out of order or refused, on sockets of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import select
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time

from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from pytest_resilience import ChaosExperiment
from pytest_resilience import FaultInjected
from pytest_resilience.chaos.descriptors import readable
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.clock import ManualClock
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from tests.injecting import Inject
from tests.interceptors.conftest import all_names_are_ours


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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode": "drop", "stream": "upstream", "nth": 1}, "2 2"),
        ({"mode": "drop", "stream": "downstream", "nth": 1}, "12 2"),
        ({"mode": "duplicate", "stream": "upstream", "nth": 1}, "112 112"),
        ({"mode": "duplicate", "stream": "downstream", "nth": 1}, "12 112"),
        ({"mode": "reorder", "stream": "upstream", "nth": 1}, "21 21"),
        ({"mode": "reorder", "stream": "downstream", "nth": 1}, "12 21"),
        ({"mode": "timeout", "stream": "upstream", "nth": 1}, "2 2"),
        ({"mode": "partition", "stream": "upstream", "nth": 1}, "2 2"),
        ({"mode": "partition", "stream": "downstream", "nth": 1}, "12 2"),
    ],
)
def test_one_way(
    inject: Inject, client: Client, server: Echo, given: dict[str, Any], expected: str
) -> None:
    """`expected`: what arrives at the server, and at the client."""
    arrived, answers = expected.split()
    with inject("network_failure", target=server.target, **given) as failure:
        client.send(b"1")
        client.send(b"2")
        assert b"".join(client.receive_all(len(answers))).decode() == answers
    assert failure.hits == 1
    assert b"".join(server.received).decode() == arrived


@pytest.mark.parametrize(("stream", "hits"), [("upstream", 1), ("both", 2)])
def test_late_on_its_way_to_the_server(
    inject: Inject, client: Client, server: Echo, stream: str, hits: int
) -> None:
    with inject("network_latency", delay="60ms", stream=stream, target=server.target) as latency:
        began = time.monotonic()
        client.send(b"one")
        assert client.receive() == b"one"
        assert time.monotonic() - began >= 0.06 * hits
    assert latency.hits == hits


def test_what_is_only_sent_is_late(inject: Inject, client: Client, server: Echo) -> None:
    with inject("network_latency", delay="1h", duration="2h", stream="upstream") as latency:
        client.send(b"quiet")
        assert server.received == []
        assert latency.hits == 1
    client.send(b"last")
    assert client.receive() == b"last"
    assert server.received == [b"quiet", b"last"]


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


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
def test_a_shutdown_wakes_who_waits_for_an_answer_that_was_lost(
    inject: Inject, server: Echo, how: int
) -> None:
    def found(question: bytes) -> list[bytes]:
        received: list[bytes] = []
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(server.address)
            sock.send(question)
            thread = threading.Thread(target=lambda: received.append(sock.recv(10)), daemon=True)
            thread.start()
            sock.shutdown(how)
            thread.join(PATIENCE)
        return received

    real = found(b"quiet")
    with inject("network_failure", mode="timeout", target=server.target):
        assert found(b"one") == real == [b""]


@pytest.mark.parametrize("mode", ["timeout", "partition", "drop"])
def test_a_lost_answer_is_waited_for_as_long_as_the_kernel_was_told(
    inject: Inject, server: Echo, mode: str
) -> None:
    def found(question: bytes, *, comes: bool = False) -> str:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 20_000))
            sock.connect(server.address)
            sock.send(question)
            assert not comes or readable(sock, PATIENCE)
            return outcome(lambda: sock.recv(10))

    real = found(b"quiet")
    with inject("network_failure", mode=mode, rate=1, target=server.target) as failure:
        # Only silence hits the answer, which has to come within that time; the others the question.
        assert found(b"one", comes=mode == "timeout") == real
    assert real.startswith("BlockingIOError")
    assert failure.hits == 1


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
    with inject("network_latency", delay="1h", duration="2h", target=server.target):
        transport, note, send = await opened(server, connected=True)
        send(b"one")
        for _ in range(100):
            assert note.told.empty()
            await asyncio.sleep(0)
    assert await note.next() == b"one"
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


# --- whose datagrams are meant ---


def test_a_server_in_this_process_is_left_alone(
    inject: Inject, client: Client, server: Echo
) -> None:
    with inject("network_failure", mode="drop", every=2) as loss:  # the answers, if it were all
        for each in (b"one", b"two"):
            client.send(each)
            assert client.receive(SHORT) is None
        assert loss.matched == 4
    assert server.received == [b"one", b"two"]


def test_a_server_that_receives_first_is_left_alone(inject: Inject) -> None:
    """Though its client is in another process, whose sends nobody sees."""
    ask = "import socket; sock = socket.socket(type=socket.SOCK_DGRAM); sock.settimeout(20);"
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sock.settimeout(PATIENCE)
        ask += f"sock.sendto(b'one', {sock.getsockname()!r}); print(sock.recv(10).decode())"
        with inject("network_failure", mode="drop", rate=1) as loss:
            with subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE) as process:
                data, there = sock.recvfrom(10)
                sock.sendto(data, there)
                assert process.communicate()[0] == b"one\n"
            with inject("network_failure", mode="duplicate", rate=1):  # it is still known
                sock.sendto(b"more", there)
    assert loss.matched == 0


def test_one_socket_of_many_peers(inject: Inject, server: Echo) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as other,
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        inject("network_failure", mode="drop", rate=1, target=server.target) as loss,
    ):
        other.bind((HOST, 0))
        other.settimeout(PATIENCE)
        sock.settimeout(PATIENCE)
        for _ in range(2):
            sock.sendto(b"lost", server.address)
            sock.sendto(b"kept", other.getsockname())
            data, there = other.recvfrom(10)
            other.sendto(data, there)
            assert sock.recvfrom(10) == (b"kept", other.getsockname())
    assert (loss.matched, loss.hits) == (2, 2)
    assert server.received == []


def test_a_host_by_its_name(inject: Inject, server: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    all_names_are_ours(monkeypatch)
    port = server.address[1]
    with inject("network_failure", mode="drop", nth=1, target=f"statsd.internal:{port}") as loss:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            there = socket.getaddrinfo("statsd.internal", port, type=socket.SOCK_DGRAM)[0][4]
            sock.sendto(b"one", there)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            there = socket.getaddrinfo("other.internal", port, type=socket.SOCK_DGRAM)[0][4]
            sock.sendto(b"two", there)
            sock.settimeout(PATIENCE)
            assert sock.recv(10) == b"two"
    assert loss.matched == 1
    with (
        inject("network_failure", mode="dns", rate=1, target="localhost:*") as failure,
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(socket.gaierror),
    ):
        sock.sendto(b"one", ("localhost", port))
    assert failure.hits == 1


def test_ipv6_and_both_versions(inject: Inject, server: Echo) -> None:
    mapped = ("::ffff:127.0.0.1", server.address[1])
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock,
        inject("network_failure", mode="duplicate", nth=2, target=server.target),
    ):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        sock.setblocking(False)
        sock.sendto(b"one", mapped)
        assert received_by(sock, by_select) == (b"one", 0)
        assert received_by(sock, by_select) == (b"one", 0)
        assert not select.select([sock], [], [], 0)[0]


def test_events_tell_where(inject: Inject, events: list[FaultInjected], server: Echo) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        inject("network_failure", mode="drop", rate=1, target=server.target),
    ):
        sock.sendto(b"one", server.address)
    assert [(each.kind, each.target, each.fault) for each in events] == [
        ("network.send_datagram", server.target, "loss")
    ]
    assert "test_datagrams.py" in events[0].place


# --- every method ---


def filled(receive: Callable[[Any], Any], size: int) -> Any:
    buffer = bytearray(size)
    return receive(buffer), bytes(buffer)


WAYS: dict[str, Callable[[socket.socket], Any]] = {
    "recv": lambda sock: sock.recv(4),
    "recv, flags": lambda sock: sock.recv(4, 0),
    "recvfrom": lambda sock: sock.recvfrom(4),
    "recvmsg": lambda sock: sock.recvmsg(4)[:3],
    "recvmsg, all of it": lambda sock: sock.recvmsg(100, 0)[:3],
    "recv_into": lambda sock: filled(sock.recv_into, 4),
    "recv_into, size": lambda sock: filled(lambda buffer: sock.recv_into(buffer, 2), 4),
    "recvfrom_into": lambda sock: filled(sock.recvfrom_into, 9),
    "recvmsg_into": lambda sock: filled(
        lambda buffer: sock.recvmsg_into([memoryview(buffer)[:2], memoryview(buffer)[2:]])[:3], 5
    ),
    "peek": lambda sock: (sock.recv(100, socket.MSG_PEEK), sock.recv(100)),
    "at once": lambda sock: outcome(lambda: sock.recv(4, socket.MSG_DONTWAIT)),
    "nothing": lambda sock: outcome(lambda: sock.recv(-1)),
    "no size": lambda sock: outcome(sock.recv),  # type: ignore[arg-type]
}


def outcome(action: Callable[[], object]) -> str:
    try:
        return repr(action())
    except (OSError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_receive(inject: Inject, client: Client, server: Echo, way: str) -> None:
    client.sock.settimeout(None)
    client.send(b"hello")
    assert select.select([client.sock], [], [], PATIENCE)[0]
    expected = WAYS[way](client.sock)
    if way in {"nothing", "no size"}:
        client.receive()
        client.sock.settimeout(None)
    with inject("network_failure", mode="drop", nth=9, target=server.target):
        client.send(b"hello")
        assert select.select([client.sock], [], [], PATIENCE)[0]
        assert WAYS[way](client.sock) == expected


def test_every_way_to_send(inject: Inject, server: Echo) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        socket.socket(type=socket.SOCK_DGRAM) as connected,
        inject("network_failure", mode="reorder", rate=1, target=server.target),
    ):
        connected.connect(server.address)
        assert sock.sendto(b"quiet 1", server.address) == 7
        assert sock.sendto(b"quiet 2", 0, server.address) == 7
        assert sock.sendmsg([b"quiet ", b"3"], [], 0, server.address) == 7
        assert sock.sendmsg([b"quiet ", b"4"], [], 0, server.address) == 7
        assert connected.send(b"quiet 5") == 7
        connected.sendall(b"quiet 6")
        assert connected.sendmsg([b"quiet 7"]) == 7
        assert connected.sendto(b"quiet 8", server.address) == 7
        with pytest.raises(OSError, match="too long") as caught:
            sock.sendto(bytes(70000), server.address)
        assert caught.value.errno == errno.EMSGSIZE
        with pytest.raises(TypeError):
            sock.sendto("quiet", server.address)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            sock.sendto(b"quiet", None)  # type: ignore[call-overload]
    ask(server)
    assert [each[-1:] for each in server.received[:-1]] == [
        b"%d" % each for each in (2, 1, 4, 3, 6, 5, 8, 7)
    ]


def ask(server: Echo) -> None:
    """Until it has received all that came before."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.sendto(b"last", server.address)
        assert sock.recv(10) == b"last"


def test_the_port_is_there_though_nothing_has_left(inject: Inject, server: Echo) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        inject("network_failure", mode="drop", rate=1, target=server.target),
    ):
        sock.sendto(b"one", server.address)
        assert sock.getsockname()[1] != 0


def test_what_was_sent_before_a_close_arrives(inject: Inject, server: Echo) -> None:
    with inject("network_failure", mode="reorder", rate=1, target=server.target):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"quiet", server.address)
        gc.collect()
    ask(server)
    assert server.received == [b"quiet", b"last"]


# --- time ---


def test_a_frozen_clock_delays_nothing_for_ever(server: Echo) -> None:
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=ManualClock())
    latency = engine.start(
        ChaosExperiment("x", "network_latency", delay="50ms", target=server.target), seed=1
    )
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.sendto(b"one", server.address)
        assert sock.recv(10) == b"one"
    latency.stop()


def test_a_clock_that_is_advanced_brings_what_is_late(server: Echo) -> None:
    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    latency = engine.start(
        ChaosExperiment("x", "network_latency", delay="1h", duration="2h", target=server.target),
        seed=1,
    )
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(SHORT)
        sock.sendto(b"one", server.address)
        with pytest.raises(TimeoutError):
            sock.recv(10)
        clock.advance(3600)
        assert sock.recv(10) == b"one"
    latency.stop()


def test_what_was_there_when_the_loop_first_looked_is_late_from_the_send_on(
    server: Echo,
) -> None:
    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    latency = engine.start(
        ChaosExperiment("x", "network_latency", delay="1h", duration="2h", target=server.target),
        seed=1,
    )

    async def story() -> None:
        transport, note, send = await opened(server, connected=True)
        send(b"one")
        select.select([transport.get_extra_info("socket")], [], [], PATIENCE)  # busy meanwhile
        clock.advance(3600)
        assert await note.next() == b"one"
        transport.close()

    asyncio.run(story())
    latency.stop()


def test_nothing_is_left_of_it(inject: Inject, client: Client, server: Echo) -> None:
    method = socket.socket.sendto
    with inject("network_latency", delay="1h", duration="2h", target=server.target):
        client.sock.setblocking(False)
        client.send(b"one")
        by_select(client.sock)
        with pytest.raises(BlockingIOError):
            client.sock.recv(10)
    assert socket.socket.sendto is method
    names = [each.name for each in threading.enumerate()]
    assert not [each for each in names if each.startswith("pytest-resilience datagrams")]
    assert not select.select([client.sock], [], [], 0)[0]
    client.sock.setblocking(True)
    client.send(b"two")
    assert client.receive() == b"two"


def test_in_a_loop_whose_time_is_virtual_no_real_time_is_taken(inject: Inject) -> None:
    class Virtual(asyncio.SelectorEventLoop):
        ahead = 0.0

        def time(self) -> float:
            return super().time() + self.ahead

        def _run_once(self) -> None:
            if not self._ready and self._scheduled and not self._selector.select(0):  # type: ignore[attr-defined]
                self.ahead += max(0.0, self._scheduled[0].when() - self.time())  # type: ignore[attr-defined]
            super()._run_once()  # type: ignore[misc]

    async def story() -> None:
        loop = asyncio.get_running_loop()
        answering, _ = await loop.create_datagram_endpoint(Answer, local_addr=(HOST, 0))
        there = answering.get_extra_info("sockname")
        with inject(
            "network_latency", delay="60s", duration="2h", target=f"{HOST}:{there[1]}"
        ) as latency:
            transport, note = await loop.create_datagram_endpoint(Note, remote_addr=there)
            transport.sendto(b"one")
            assert await note.told.get() == b"one"
            transport.close()
        assert latency.hits == 1
        answering.close()

    with asyncio.Runner(loop_factory=Virtual) as runner:
        runner.run(story())


class Answer(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


# --- trio and gevent ---


def test_trio(inject: Inject, server: Echo) -> None:
    async def story() -> None:
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
            await sock.connect(server.address)
            with inject("network_latency", delay="60ms", target=server.target):
                began = time.monotonic()
                await sock.send(b"one")
                assert await sock.recv(10) == b"one"
                assert time.monotonic() - began >= 0.06
            with inject("network_failure", mode="duplicate", nth=2, target=server.target):
                await sock.send(b"two")
                assert [await sock.recv(10) for _ in range(2)] == [b"two", b"two"]
            with inject("network_failure", mode="refuse", rate=1, target=server.target):
                await sock.send(b"three")
                with pytest.raises(ConnectionRefusedError):
                    await sock.recv(10)

    trio.run(story)


GEVENT = """
from gevent import monkey
monkey.patch_all()
import socket, threading, time
from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor

def serve():
    while True:
        data, there = server.recvfrom(100)
        if data == b"end":
            return
        server.sendto(data, there)

server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
thread = threading.Thread(target=serve)
thread.start()
there = server.getsockname()
turns = []

def count():
    while thread.is_alive():
        turns.append(1)
        time.sleep(0.001)

counter = threading.Thread(target=count)
counter.start()
engine = Engine(lambda engine: [SocketInterceptor(engine)])
target = "127.0.0.1:%d" % there[1]
client = socket.socket(type=socket.SOCK_DGRAM)
client.settimeout(20)
late = engine.start(ChaosExperiment("x", "network_latency", delay="100ms", target=target), seed=1)
began = time.monotonic()
client.sendto(b"one", there)
assert client.recv(10) == b"one"
assert time.monotonic() - began >= 0.1
assert len(turns) > 5, turns
late.stop()
loss = ChaosExperiment("x", "network_failure", mode="drop", nth=2, target=target)
lost = engine.start(loss, seed=1)
client.sendto(b"two", there)
client.settimeout(0.05)
try:
    client.recv(10)
except TimeoutError:
    print("lost")
client.settimeout(20)
client.sendto(b"three", there)
assert client.recv(10) == b"three"
lost.stop()
client.sendto(b"end", there)
thread.join()
counter.join()
"""


def test_gevent() -> None:
    done = subprocess.run(  # which patches all of a process
        [sys.executable, "-c", GEVENT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("lost\n", "")

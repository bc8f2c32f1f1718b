"""Programs that poll their sockets by themselves: nothing is there before its time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import selectors
import socket
import ssl
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.descriptors import available
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.clock import ManualClock
from pytest_resilience.interceptors.sockets import readiness
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from tests.injecting import Inject
from tests.injecting import injecting
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import engine_by
from tests.interceptors.conftest import serve
from tests.waiting import eventually
from tests.waiting import until_all_wait


DELAY = 0.05  # seconds
LONG = 60
PATIENCE = 10
MANY = b"x" * 1000


class Polling:
    """A client that waits for nothing but its selector.

    Attributes:
        looks: how often it was told that there is something.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.looks = 0

    def send(self, message: bytes) -> None:
        self._when(selectors.EVENT_WRITE, lambda: self.sock.sendall(message))

    def receive(self, patience: float = PATIENCE) -> bytes:
        """What comes next. Raises TimeoutError."""
        return bytes(self._when(selectors.EVENT_READ, lambda: self.sock.recv(65536), patience))

    def receive_all(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            received += self.receive()
        return received

    def _when(self, event: int, action: Callable[[], Any], patience: float = PATIENCE) -> Any:
        deadline = time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, event)
            while selector.select(max(0, deadline - time.monotonic())):
                self.looks += 1
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                    return action()
                if time.monotonic() > deadline:
                    break
        raise TimeoutError


@contextlib.contextmanager
def polling(port: int, trust: Trust | None = None) -> Iterator[Polling]:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection((HOST, port), PATIENCE))
        if trust is not None:
            sock = stack.enter_context(trust.client.wrap_socket(sock, server_hostname=HOST))
        sock.setblocking(False)
        yield Polling(sock)


@pytest.fixture(params=["plain", "TLS"])
def client(request: pytest.FixtureRequest, trust: Trust) -> Iterator[Polling]:
    sealed = request.param == "TLS"
    with (
        serve(trust.over_tls(echo) if sealed else echo) as port,
        polling(port, trust if sealed else None) as opened,
    ):
        yield opened


@pytest.fixture
def plain(echo_port: int) -> Iterator[Polling]:
    with polling(echo_port) as opened:
        yield opened


def seconds(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def test_an_answer_is_late(client: Polling, inject: Inject) -> None:
    def ask() -> None:
        client.send(b"hello")
        assert client.receive() == b"hello"

    with inject("network_latency", delay=DELAY) as latency:
        for _ in range(3):
            assert seconds(ask) >= DELAY
    assert (latency.matched, latency.hits) == (3, 3)
    assert latency.delay >= 3 * DELAY * 0.99
    ask()
    assert latency.hits == 3


def test_who_polls_is_not_told_in_vain(plain: Polling, inject: Inject) -> None:
    with inject("network_latency", delay=DELAY):
        plain.send(b"hello")
        before = plain.looks
        assert plain.receive() == b"hello"
    assert plain.looks - before == 1


def test_nor_is_it_without_a_mark(
    plain: Polling, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "raise_mark", lambda _: None)
    with inject("network_latency", delay=DELAY):
        plain.send(b"hello")
        before = plain.looks
        assert seconds(plain.receive) >= DELAY * 0.9
    assert plain.looks - before == 1


def test_the_mark_is_put_back(plain: Polling, inject: Inject) -> None:
    def mark() -> int:
        return plain.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    plain.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 3)
    with inject("network_latency", delay=LONG):
        plain.send(b"hello")
        with pytest.raises(TimeoutError):
            plain.receive(DELAY)
        assert mark() > 3
    assert mark() == 3
    assert plain.receive() == b"hello"
    with inject("network_latency", delay=LONG):
        plain.send(b"hello")
        with pytest.raises(TimeoutError):
            plain.receive(DELAY)
        plain.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5)
    assert mark() == 5
    assert plain.receive() == b"hello"


def test_an_answer_comes_on_top_of_what_the_peer_takes(inject: Inject) -> None:
    asked, answer = threading.Event(), threading.Event()

    def late(connection: socket.socket) -> None:
        connection.recv(100)
        asked.set()
        answer.wait(PATIENCE)
        connection.sendall(b"late")

    with serve(late) as port, polling(port) as client, inject("network_latency", delay=DELAY):
        client.send(b"hello")
        assert asked.wait(PATIENCE)
        with pytest.raises(BlockingIOError):
            client.sock.recv(100)
        sent = time.monotonic()
        answer.set()
        assert client.receive() == b"late"
        assert time.monotonic() - sent >= DELAY


@pytest.mark.parametrize("waits", [False, True])
def test_what_is_asked_meanwhile_has_its_own_time(waits: bool) -> None:
    """What came before is heard when it is time, and nothing of what came later with it.

    `waits`: for the second answer, or has it while the first is held.
    """
    go_on, clock = threading.Event(), ManualClock()

    def answer(connection: socket.socket) -> None:
        for last in (False, True):
            message = connection.recv(3)
            if last:
                go_on.wait(PATIENCE)
            connection.sendall(message)

    with (
        serve(answer) as port,
        polling(port) as client,
        engine_by(clock) as engine,
        injecting(engine.start)("network_latency", delay=LONG, duration=5 * LONG) as latency,
    ):

        def has_come(size: int) -> bool:
            return available(client.sock) == size

        def hears_nothing() -> None:
            with pytest.raises(TimeoutError):
                client.receive(DELAY / 5)

        client.send(b"one")
        assert eventually(lambda: has_come(3))
        hears_nothing()
        clock.advance(LONG / 2)
        client.send(b"two")
        if not waits:
            go_on.set()
            assert eventually(lambda: has_come(6))
        hears_nothing()
        clock.advance(LONG / 2)
        assert client.receive() == b"one"
        if waits:
            go_on.set()
            assert eventually(lambda: has_come(3))
        hears_nothing()
        clock.advance(LONG / 3)
        hears_nothing()
        clock.advance(LONG)
        assert client.receive() == b"two"
        assert latency.hits == 2


def test_tickets_are_no_answer(trust: Trust, inject: Inject) -> None:
    """In TLS 1.3 a server gives them before its first answer, which comes later here."""
    asked, go_on = threading.Event(), threading.Event()

    def answer(connection: socket.socket) -> None:
        message = connection.recv(100)
        asked.set()
        go_on.wait(PATIENCE)
        connection.sendall(message)

    with (
        serve(trust.over_tls(answer)) as port,
        polling(port, trust) as client,
        inject("network_latency", delay=DELAY) as latency,
    ):
        client.send(b"hello")
        assert asked.wait(PATIENCE)
        assert available(client.sock)  # the tickets
        while available(client.sock):  # until they are read
            with pytest.raises(TimeoutError):
                client.receive(2 * DELAY)
        came = time.monotonic()
        go_on.set()
        assert client.receive() == b"hello"
        assert time.monotonic() - came >= DELAY
        assert latency.hits == 1


def test_who_waits_by_blocking_after_all_waits_no_longer(plain: Polling, inject: Inject) -> None:
    with inject("network_latency", delay=DELAY):
        started = time.monotonic()
        plain.send(b"hello")
        with pytest.raises(TimeoutError):
            plain.receive(DELAY / 5)
        plain.sock.settimeout(None)
        assert plain.sock.recv(65536) == b"hello"  # and does not wait for so many bytes
        assert time.monotonic() - started >= DELAY * 0.99


def test_detached_meanwhile(plain: Polling, inject: Inject) -> None:
    with inject("network_latency", delay=LONG):
        plain.send(b"hello")
        with pytest.raises(TimeoutError):
            plain.receive(DELAY)
        with socket.socket(fileno=plain.sock.detach()) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


def test_a_child_waits_by_itself(echo_port: int, inject: Inject) -> None:
    with inject("network_latency", delay=DELAY), polling(echo_port) as client:
        client.send(b"hello")
        with pytest.raises(TimeoutError):
            client.receive(DELAY / 5)
        child = os.fork()
        if not child:
            with polling(echo_port) as mine:
                mine.send(b"hello")
                os._exit(0 if mine.receive() == b"hello" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.receive() == b"hello"


def test_nothing_comes_in_silence(client: Polling, inject: Inject) -> None:
    with inject("network_failure", mode="timeout", rate=1) as failure:
        client.send(b"hello")
        with pytest.raises(TimeoutError):
            client.receive(DELAY)
        until_all_wait()  # the answer is there, before the connection is ended as one that is lost
    assert failure.hits == 1
    assert client.receive() == b"hello"


def test_silence_ends_for_who_waits(plain: Polling, inject_briefly: Inject) -> None:
    """The selector itself wakes up when the experiment is over."""
    with inject_briefly("network_failure", mode="timeout", rate=1):
        plain.send(b"hello")
        with pytest.raises(OSError, match="timed out") as caught:
            plain.receive()
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_partition_heals(client: Polling, inject_briefly: Inject) -> None:
    with inject_briefly("network_failure", mode="partition") as partition:
        client.send(b"hello")
        assert client.receive() == b"hello"
    assert partition.hits


def test_a_partition_takes_no_more_than_it_has_room_for(client: Polling, inject: Inject) -> None:
    """And says so as the kernel would, or TLS above it."""
    full = ssl.SSLWantWriteError if hasattr(client.sock, "pending") else BlockingIOError

    def send_much() -> None:
        for _ in range(100):
            client.sock.send(b"x" * 65536)

    with inject("network_failure", mode="partition"), pytest.raises(full):
        send_much()


def test_a_reset_is_late_too(client: Polling, inject: Inject) -> None:
    def ask() -> None:
        with contextlib.suppress(OSError):  # in TLS, some versions of Python see but an end
            assert client.receive() == b""

    with (
        inject("network_latency", delay=DELAY),
        inject("network_failure", mode="reset", rate=1) as failure,
    ):
        client.send(b"hello")
        assert seconds(ask) >= DELAY
    assert failure.hits == 1


@pytest.mark.parametrize(
    "pace",
    [{"mode": "dribble", "piece": 250, "delay": 0.01}, {"mode": "bandwidth", "bandwidth": "25kB"}],
)
def test_an_answer_comes_in_pieces(client: Polling, inject: Inject, pace: dict[str, Any]) -> None:
    with inject("network_latency", **pace) as slow:
        client.send(MANY)
        took = seconds(lambda: client.receive_all(len(MANY)))
    assert took >= 0.03
    assert slow.hits == 1


def test_records_of_tls_are_carried_once(trust: Trust, inject: Inject) -> None:
    """However many are there while the first is on its way."""

    def answer(connection: socket.socket) -> None:
        while connection.recv(100):
            connection.sendall(100 * MANY)

    with (
        serve(trust.over_tls(answer)) as port,
        polling(port, trust) as client,
        inject("network_latency", mode="bandwidth", bandwidth="1MB") as slow,
    ):
        client.send(b"hello")
        assert seconds(lambda: client.receive_all(100_000)) >= 0.1
    assert 0 < slow.delay <= 0.12  # all of it, and what is around the bytes


@pytest.mark.parametrize("size", [10, 1000])
def test_a_record_that_comes_later_is_carried_too(trust: Trust, inject: Inject, size: int) -> None:
    """The tickets of TLS 1.3 come first, and it comes while these are on their way."""

    def answer(connection: socket.socket) -> None:
        while connection.recv(100):
            connection.sendall(size * b"x")

    with (
        serve(trust.over_tls(answer)) as port,
        polling(port, trust) as client,
        inject("network_latency", mode="bandwidth", bandwidth="10kB"),
    ):
        client.send(b"hello")
        assert seconds(lambda: client.receive_all(size)) >= size / 10_000


def test_the_end_is_late(inject: Inject) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"hello")

    with serve(answer) as port, polling(port) as client:
        with inject("network_latency", mode="slow_close", delay=DELAY) as latency:
            client.send(b"hello")
            assert client.receive() == b"hello"
            assert seconds(client.receive) >= DELAY * 0.9
            assert client.receive() == b""
        assert latency.hits == 1


def test_an_answer_and_the_end_with_it_are_late(inject: Inject) -> None:
    """The end of a stream is told of below any mark."""

    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"hello")

    with serve(answer) as port, polling(port) as client, inject("network_latency", delay=DELAY):
        client.send(b"hello")
        assert seconds(client.receive) >= DELAY * 0.9
        assert client.receive() == b""


@pytest.mark.parametrize(
    ("parameters", "heard"),
    [
        ({"mode": "truncate"}, b"abcd"),
        ({"mode": "corrupt", "share": 1.0}, None),
    ],
)
def test_an_answer_is_altered(
    plain: Polling, inject: Inject, parameters: dict[str, Any], heard: bytes | None
) -> None:
    with inject("network_failure", rate=1, **parameters) as failure:
        plain.send(b"abcdefgh")
        received = plain.receive()
    assert received == heard if heard else received != b"abcdefgh"
    assert failure.hits == 1


@pytest.mark.parametrize("mode", ["reset", "close"])
@pytest.mark.parametrize("timeout", [None, PATIENCE, 0])
def test_an_epoll_of_its_own_knows_the_connection_to_the_end(
    client: Polling, inject: Inject, mode: str, timeout: float | None
) -> None:
    """Clients take it out of there, or change what they ask for, before they close it."""
    with select.epoll() as epoll:
        client.sock.settimeout(timeout)
        epoll.register(client.sock, select.EPOLLIN)
        with inject("network_failure", mode=mode), contextlib.suppress(ConnectionResetError):
            client.send(b"tea")
            assert epoll.poll(PATIENCE)
            assert client.receive() == b""
        assert [descriptor for descriptor, _ in epoll.poll(0)] == [client.sock.fileno()]
        epoll.modify(client.sock, select.EPOLLOUT)
        epoll.unregister(client.sock)


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_call_that_must_not_block(echo_port: int, inject: Inject, timeout: float | None) -> None:
    """On a socket that does."""
    with (
        socket.create_connection((HOST, echo_port), PATIENCE) as sock,
        inject("network_latency", delay=DELAY) as latency,
    ):
        sock.settimeout(timeout)
        started = time.monotonic()
        sock.sendall(b"hello")
        received = b""
        while not received:
            assert time.monotonic() < started + PATIENCE
            with contextlib.suppress(BlockingIOError):
                received = sock.recv(100, socket.MSG_DONTWAIT)
        assert received == b"hello"
        assert time.monotonic() - started >= DELAY * 0.99
    assert latency.hits == 1


@pytest.mark.parametrize("mode", ["refuse", "reset"])
def test_who_asks_how_far_a_connect_is_begins_no_other(
    echo_port: int, inject: Inject, mode: str
) -> None:
    with socket.socket() as sock, inject("network_failure", mode=mode, rate=1) as failure:
        sock.setblocking(False)
        met, deadline = 0, time.monotonic() + PATIENCE
        while met not in {errno.EISCONN, errno.ECONNREFUSED} and time.monotonic() < deadline:
            met = sock.connect_ex((HOST, echo_port)) or errno.EISCONN
        assert met == (errno.ECONNREFUSED if mode == "refuse" else errno.EISCONN)
    assert failure.matched == (mode == "refuse")


def test_who_looks_whether_anybody_is_there_is_told(plain: Polling, inject: Inject) -> None:
    with inject("network_latency", delay=LONG) as latency, pytest.raises(BlockingIOError):
        plain.sock.recv(1, socket.MSG_PEEK)
    assert latency.matched == 0


def test_sockets_of_asyncio_without_a_transport(echo_port: int, inject: Inject) -> None:
    async def story() -> float:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, (HOST, echo_port))
            started = loop.time()
            await loop.sock_sendall(sock, b"hello")
            assert await loop.sock_recv(sock, 100) == b"hello"
            return loop.time() - started

    with inject("network_latency", delay=DELAY) as latency:
        assert asyncio.run(story()) >= DELAY
    assert latency.hits == 2


def test_a_clock_that_stands_still_holds_nobody_up(echo_port: int) -> None:
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=ManualClock())
    latency = engine.start(ChaosExperiment("slow", "network_latency", delay=DELAY), seed=1)
    with polling(echo_port) as client:
        client.send(b"hello")
        assert seconds(client.receive) >= DELAY * 0.9
    latency.stop()


def test_a_clock_that_leaps_leads_the_way(echo_port: int) -> None:
    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    with polling(echo_port) as client:
        latency = engine.start(ChaosExperiment("slow", "network_latency", delay=LONG), seed=1)
        client.send(b"hello")
        with pytest.raises(TimeoutError):
            client.receive(DELAY)
        clock.advance(LONG)
        assert client.receive() == b"hello"
        latency.stop()
    assert latency.delay == LONG


def test_many_wait_at_once(echo_port: int) -> None:
    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(polling(echo_port)) for _ in range(50)]
        latency = engine.start(ChaosExperiment("slow", "network_latency", delay=LONG), seed=1)
        stack.callback(latency.stop)
        for client in clients:
            client.send(b"hello")
        with pytest.raises(TimeoutError):
            clients[0].receive(DELAY)
        clock.advance(LONG)  # for all of them, and not for one after the other
        assert [client.receive() for client in clients] == [b"hello"] * 50


def test_closed_meanwhile(plain: Polling, inject: Inject) -> None:
    with inject("network_latency", delay=LONG) as latency:
        plain.send(b"hello")
        with pytest.raises(TimeoutError):
            plain.receive(DELAY)
        plain.sock.close()
        for each in threading.enumerate():
            if "readiness" in each.name:
                each.join(PATIENCE)
        assert latency.delay > 0
    assert not [each for each in threading.enumerate() if "readiness" in each.name]

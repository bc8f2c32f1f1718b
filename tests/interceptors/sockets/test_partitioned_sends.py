"""Nothing gets through, either way, while it lasts; then everything does."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import select
import socket
import ssl
import struct
import threading

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from pytest_resilience import ChaosExperiment
from pytest_resilience import FaultInjected
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.descriptors import unread
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from pytest_resilience.interceptors.sockets.partitioned_sends import PartitionedSends
from tests.clocks import MovableClock
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import engine_by
from tests.interceptors.conftest import serve
from tests.waiting import eventually
from tests.waiting import until_all_wait


PARTITION: dict[str, Any] = {"mode": "partition"}
KEPT, LATER = b"kept" * 50_000, b"later" * 50_000

Stop = Callable[[ActiveExperiment], None]


class Listener:
    """A server that notes what reaches it, and answers with the same as soon as it may.

    Attributes:
        received: the notes.
        may_answer: set unless a test clears it.
    """

    def __init__(self) -> None:
        self.received: queue.Queue[bytes] = queue.Queue()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, connection: socket.socket) -> None:
        while data := connection.recv(65536):
            self.received.put(data)
            assert self.may_answer.wait(10)
            connection.sendall(data)

    def next(self) -> bytes:
        return self.received.get(timeout=10)

    def through(self, end: bytes) -> bytes:
        """All that comes next, up to what ends so."""
        heard = b""
        while not heard.endswith(end):
            heard += self.next()
        return heard


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture(params=["plain", "tls"])
def over(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(listener: Listener, over: str, trust: Trust) -> Iterator[socket.socket]:
    """A connection that was open before."""
    handler = listener if over == "plain" else trust.over_tls(listener)
    with serve(handler) as port, socket.create_connection((HOST, port), timeout=10) as plain:
        if over == "plain":
            yield plain
        else:
            with trust.client.wrap_socket(plain, server_hostname=HOST) as wrapped:
                yield wrapped


def start(engine: Engine, **given: Any) -> ActiveExperiment:
    return engine.start(ChaosExperiment("wall", "network_failure", **PARTITION, **given), seed=1)


def unacknowledged(client: socket.socket) -> int:
    """Segments that are on their way, says Linux."""
    (found,) = struct.unpack_from(
        "=I", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 100), 24
    )
    return int(found)


def in_the_background(action: Callable[[], Any]) -> tuple[threading.Thread, queue.Queue[Any]]:
    result: queue.Queue[Any] = queue.Queue()
    thread = threading.Thread(target=lambda: result.put(action()))
    thread.start()
    return thread, result


def test_a_request_does_not_arrive_before_it_is_over(
    client: socket.socket, listener: Listener, engine: Engine
) -> None:
    wall = start(engine)
    client.sendall(b"one ")
    assert client.send(b"two ") == 4
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(100)
    assert listener.received.empty()
    client.settimeout(None)
    waiting, answer = in_the_background(lambda: client.recv(100))
    wall.stop()
    waiting.join(10)
    assert listener.next().startswith(b"one ")
    assert answer.get(timeout=10).startswith(b"one ")
    assert wall.hits >= 2


class Jumping:
    """A clock that jumps far ahead just before somebody reads it for the n-th time."""

    def __init__(self) -> None:
        self.reads_left = 0
        self.ahead = 0.0

    def monotonic(self) -> float:
        if self.reads_left:
            self.reads_left -= 1
            self.ahead = 0.0 if self.reads_left else 3600.0
        return MACHINE_CLOCK.monotonic() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(MACHINE_CLOCK, name)


@pytest.mark.parametrize("nth", range(1, 9))
def test_whenever_it_is_over_who_comes_to_receive_is_held_up_no_more(
    client: socket.socket, nth: int
) -> None:
    clock = Jumping()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    wall = start(engine, between="0s..60s")
    client.sendall(b"hello")
    client.settimeout(None)
    clock.reads_left = nth
    _, answer = in_the_background(lambda: client.recv(100))
    assert answer.get(timeout=10) == b"hello"
    wall.stop()


@pytest.mark.parametrize("over", ["tls"], indirect=True)
def test_tls_is_not_looked_into_while_another_thread_sends_what_was_kept(
    client: socket.socket, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It bears no two at once: what is sent would be lost."""
    sending, may_send, reads = threading.Event(), threading.Event(), list[bool]()
    send, read = ssl.SSLSocket.send, ssl.SSLSocket.read

    def sends_late(sock: ssl.SSLSocket, *given: Any) -> int:
        sending.set()
        assert may_send.wait(10)
        return send(sock, *given)

    def reads_noted(sock: ssl.SSLSocket, *given: Any) -> Any:
        if sock is client:
            reads.append(may_send.is_set())
        return read(sock, *given)

    monkeypatch.setattr(ssl.SSLSocket, "send", sends_late)
    monkeypatch.setattr(ssl.SSLSocket, "read", reads_noted)
    assert eventually(lambda: unread(client) > 0)  # its tickets, which are received first
    wall = start(engine)
    client.sendall(b"hello")
    in_the_background(wall.stop)
    assert sending.wait(10)
    _, answer = in_the_background(lambda: client.recv(100))
    until_all_wait()
    may_send.set()
    assert answer.get(timeout=10) == b"hello"
    assert all(reads)


def test_it_is_over_with_its_window(client: socket.socket, movable: MovableClock) -> None:
    with engine_by(movable) as engine:
        wall = start(engine, between="0s..50s")
        client.sendall(b"hello")
        _, answer = in_the_background(lambda: client.recv(100))
        until_all_wait()
        assert answer.empty()
        movable.advance(50)
        assert answer.get(timeout=10) == b"hello"
        client.sendall(b"again")
        assert client.recv(100) == b"again"
        assert not wall.ended
        assert wall.hits


def test_what_is_said_afterwards_comes_after_it(
    client: socket.socket, listener: Listener, engine: Engine
) -> None:
    wall = start(engine)
    client.sendall(b"first, ")
    wall.stop()
    client.sendall(b"second")
    assert listener.through(b"second") == b"first, second"


def test_an_answer_under_way_is_held_up(
    client: socket.socket, listener: Listener, engine: Engine
) -> None:
    listener.may_answer.clear()
    client.sendall(b"before")
    listener.next()
    wall = start(engine)
    listener.may_answer.set()
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(100)
    wall.stop()
    client.settimeout(10)
    assert client.recv(100) == b"before"


def test_it_gets_through_as_it_is_while_other_experiments_go_on(
    client: socket.socket, listener: Listener, engine: Engine
) -> None:
    far = engine.start(ChaosExperiment("far", "network_latency", delay=0.001), seed=1)
    wall = start(engine)
    client.sendall(b"first, ")
    wall.stop()
    client.sendall(b"second")
    assert listener.through(b"second") == b"first, second"
    far.stop()


@contextlib.contextmanager
def just_before_it_gets_through(
    client: socket.socket, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Lets what `client` has sent, "first, ", through; what it is given is done right before.

    The partition has ended by then, and an experiment is left that is about somebody else.
    """
    flush_all = PartitionedSends.flush_all

    def let_through(action: Callable[[], None]) -> None:
        def act_and_flush(partitions: PartitionedSends) -> None:
            monkeypatch.undo()
            action()
            flush_all(partitions)

        monkeypatch.setattr(PartitionedSends, "flush_all", act_and_flush)
        wall.stop()

    wall = start(engine)
    client.sendall(b"first, ")
    other = ChaosExperiment("other", "network_latency", delay=0.001, target="somebody.else")
    ending = engine.start(other, seed=1)
    yield let_through
    ending.stop()


def test_what_is_sent_as_it_ends_comes_after_it(
    client: socket.socket, listener: Listener, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with just_before_it_gets_through(client, engine, monkeypatch) as let_through:
        let_through(lambda: client.sendall(b"second"))
    assert listener.through(b"second") == b"first, second"


def test_who_receives_as_it_ends_has_sent_it(
    client: socket.socket, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = list[bytes]()
    with just_before_it_gets_through(client, engine, monkeypatch) as let_through:
        let_through(lambda: answers.append(client.recv(100)))
    assert answers == [b"first, "]


def test_every_way_of_sending_is_held_back(
    listener: Listener, engine: Engine, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"..file")
    with serve(listener) as port, socket.create_connection((HOST, port), timeout=10) as client:
        wall = start(engine)
        assert client.send(b"send ") == 5
        client.sendall(memoryview(b"sendall "))
        assert client.sendmsg([b"send", b"msg "]) == 8
        with file.open("rb") as opened:
            assert client.sendfile(opened, 2, 4) == 4
        wall.stop()
        client.sendall(b".")
        assert listener.through(b".") == b"send sendall sendmsg file."


def test_connecting_goes_on_when_it_is_over(listener: Listener, engine: Engine) -> None:
    with serve(listener) as port:
        wall = start(engine)
        with pytest.raises(TimeoutError):
            socket.create_connection((HOST, port), timeout=0.05)
        waiting, connected = in_the_background(lambda: socket.create_connection((HOST, port)))
        while wall.matched < 2:
            pass
        wall.stop()
        waiting.join(10)
        connected.get(timeout=10).close()


def test_the_rest_of_the_world_is_reached(
    listener: Listener, inject: Inject, events: list[FaultInjected]
) -> None:
    with (
        serve(listener) as port,
        serve(Listener()) as other,
        inject("network_failure", target=f"{HOST}:{port}", **PARTITION),
        socket.create_connection((HOST, other), timeout=10) as client,
    ):
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        with pytest.raises(requests.ConnectTimeout):
            requests.get(f"http://{HOST}:{port}/", timeout=0.05)
    assert [event.fault for event in events] == ["partition"]


def test_a_share_of_what_is_sent_is_late_and_in_order(listener: Listener, engine: Engine) -> None:
    with serve(listener) as port, socket.create_connection((HOST, port), timeout=10) as client:
        wall = start(engine, nth=2)
        for word in (b"one ", b"two ", b"three "):
            client.sendall(word)
        assert listener.next() == b"one "
        wall.stop()
        client.sendall(b"four")
        assert listener.through(b"four") == b"two three four"


def test_what_was_not_sent_is_not_answered(listener: Listener, engine: Engine) -> None:
    with serve(listener) as port, socket.create_connection((HOST, port), timeout=10) as client:
        wall = start(engine, nth=1)
        client.sendall(b"hello")
        waiting, answer = in_the_background(lambda: client.recv(100))
        while wall.matched != 2:
            pass
        assert answer.empty()
        wall.stop()
        waiting.join(10)
        assert answer.get(timeout=10) == b"hello"


def run(story: Any) -> Any:
    return asyncio.run(asyncio.wait_for(story, 30))


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # counts have no event to wait for
        await asyncio.sleep(0)


def test_asyncio_is_answered_when_it_is_over(
    listener: Listener, over: str, trust: Trust, engine: Engine
) -> None:
    async def story(port: int) -> bytes:
        reader, writer = await asyncio.open_connection(
            HOST, port, ssl=trust.client if over == "tls" else None
        )
        wall = start(engine)
        writer.write(b"hello")
        answer = asyncio.create_task(reader.read(100))
        await until(lambda: wall.hits)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(answer), 0.05)
        assert listener.received.empty()
        wall.stop()
        heard = await answer
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return heard

    with serve(listener if over == "plain" else trust.over_tls(listener)) as port:
        assert run(story(port)) == b"hello"


def test_asyncio_is_answered_when_its_window_is_over(
    listener: Listener, over: str, trust: Trust, movable: MovableClock
) -> None:
    async def story(port: int, engine: Engine) -> None:
        reader, writer = await asyncio.open_connection(
            HOST, port, ssl=trust.client if over == "tls" else None
        )
        wall = start(engine, between="0s..50s")
        writer.write(b"hello")
        answer = asyncio.create_task(reader.read(100))
        await until(lambda: wall.hits)
        assert listener.received.empty()
        movable.advance(50)
        assert await answer == b"hello"
        writer.write(b"again")
        assert await reader.read(100) == b"again"
        assert not wall.ended
        writer.transport.abort()

    with (
        serve(listener if over == "plain" else trust.over_tls(listener)) as port,
        engine_by(movable) as engine,
    ):
        run(story(port, engine))


def test_an_answer_under_way_to_asyncio_is_held_up(listener: Listener, engine: Engine) -> None:
    async def story(port: int) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, port)
        listener.may_answer.clear()
        writer.write(b"before")
        await until(lambda: not listener.received.empty())
        wall = start(engine)
        listener.may_answer.set()
        answer = asyncio.create_task(reader.read(100))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(answer), 0.05)
        wall.stop()
        heard = await answer
        writer.close()
        await writer.wait_closed()
        return heard

    with serve(listener) as port:
        assert run(story(port)) == b"before"


@pytest.mark.parametrize("from_nth", [1, 2], ids=["connecting", "asking"])
def test_a_client_of_asyncio_times_out(from_nth: int, listener: Listener, inject: Inject) -> None:
    async def story(port: int) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=timeout) as client:
            await client.get(f"http://{HOST}:{port}/")

    expected = httpx.ConnectTimeout if from_nth == 1 else httpx.ReadTimeout
    struck = "connect" if from_nth == 1 else "read"
    timeout = httpx.Timeout(10, **{struck: 0.1})
    with serve(listener) as port:
        with inject("network_failure", from_nth=from_nth, **PARTITION) as wall:
            with pytest.raises(expected):
                run(story(port))
            assert listener.received.empty()
        if from_nth == 2:  # who asked has gone, and what was asked arrives all the same
            assert listener.next().startswith(b"GET / ")
    assert wall.hits >= 1


def receives(sock: socket.socket) -> None:
    sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        sock.recv(1)


def selects(sock: socket.socket) -> None:
    assert select.select([sock], [], [], 0.05)[0] == []


def selects_and_receives(sock: socket.socket) -> None:
    selects(sock)
    receives(sock)


def selects_without_blocking(sock: socket.socket) -> None:
    selects(sock)
    with pytest.raises(BlockingIOError):
        sock.recv(1)


@pytest.mark.parametrize(
    "wait", [receives, selects, selects_and_receives, selects_without_blocking]
)
def test_a_request_and_its_response_are_hit_however_that_is_waited_for(
    wait: Callable[[socket.socket], None], listener: Listener, inject: Inject
) -> None:
    with (
        serve(listener) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_failure", **PARTITION) as wall,
    ):
        sock.setblocking(wait is not selects_without_blocking)
        sock.sendall(b"hello")
        wait(sock)
        assert (wall.matched, wall.hits) == (2, 2)


class Everything:
    """A server that reads to the end, and tells what there was."""

    def __init__(self) -> None:
        self.content: queue.Queue[bytes] = queue.Queue()

    def __call__(self, connection: socket.socket) -> None:
        content = bytearray()
        while data := connection.recv(1 << 20):
            content += data
        self.content.put(bytes(content))


def test_what_was_closed_meanwhile_arrives_and_then_its_end(engine: Engine) -> None:
    server = Everything()
    with serve(server) as port, contextlib.ExitStack() as stack:
        closed, shut = (
            stack.enter_context(socket.create_connection((HOST, port), timeout=10))
            for _ in range(2)
        )
        wall = start(engine)
        for each in (closed, shut):
            each.sendall(b"last words")
        closed.close()
        shut.shutdown(socket.SHUT_WR)
        with pytest.raises(queue.Empty):
            server.content.get(timeout=0.05)
        wall.stop()
        assert [server.content.get(timeout=10) for _ in range(2)] == [b"last words"] * 2


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_who_has_shut_it_down_sends_no_more(
    how: int, client: socket.socket, engine: Engine
) -> None:
    start(engine)
    client.sendall(b"last words")
    client.shutdown(how)
    with pytest.raises(BrokenPipeError):
        client.sendall(b"and another thing")


def test_it_is_over_for_those_who_do_nothing_more(engine: Engine) -> None:
    server = Everything()
    with serve(server) as port:
        start(engine, duration="50ms", from_nth=2)
        with socket.create_connection((HOST, port), timeout=10) as plain:
            plain.sendall(b"fire and forget")
            plain.shutdown(socket.SHUT_WR)
            assert server.content.get(timeout=10) == b"fire and forget"


def test_no_more_is_taken_than_a_kernel_has_room_for(engine: Engine) -> None:
    server = Everything()
    content = bytes(range(256)) * (1 << 14)
    with serve(server) as port, socket.create_connection((HOST, port), timeout=0.1) as plain:
        wall = start(engine)
        sent = plain.send(content)
        assert 0 < sent < len(content)
        with pytest.raises(TimeoutError, match="timed out"):
            plain.sendall(content)
        plain.setblocking(False)
        with pytest.raises(BlockingIOError):
            plain.send(b"x")
        plain.settimeout(10)
        sending, _ = in_the_background(lambda: plain.sendall(content[sent:]))
        wall.stop()
        sending.join(10)
        plain.shutdown(socket.SHUT_WR)
        is_whole = server.content.get(timeout=10) == content  # to show how they differ takes hours
        assert is_whole


def test_who_sends_while_what_was_kept_is_sent_on_comes_after_it(engine: Engine) -> None:
    """Though nothing is intercepted any more by then."""
    kept, later = b"kept" * 50_000, b"later" * 50_000
    received, reads = Everything(), threading.Event()

    def read_when_told(connection: socket.socket) -> None:
        reads.wait(10)
        received(connection)

    with (
        serve(read_when_told) as port,
        socket.create_connection((HOST, port), timeout=10) as plain,
    ):
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        wall = start(engine)
        plain.sendall(kept)
        stopping, _ = in_the_background(wall.stop)
        until_all_wait()  # for room
        sending, _ = in_the_background(lambda: plain.sendall(later))
        until_all_wait()
        reads.set()
        for each in (stopping, sending):
            each.join(10)
        plain.shutdown(socket.SHUT_WR)
        is_in_order = received.content.get(timeout=10) == kept + later
        assert is_in_order


def kept_by_who_does_not_wait(port: int, engine: Engine, stop: Stop) -> None:
    with socket.create_connection((HOST, port)) as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        wall = start(engine)
        rest = KEPT
        while rest:
            assert select.select([], [client], [], 10)[1] == [client]
            rest = rest[client.send(rest) :]
        stop(wall)
        rest = LATER
        while rest:
            assert select.select([], [client], [], 10)[1] == [client]
            rest = rest[client.send(rest) :]


def kept_by_who_waits_a_little(port: int, engine: Engine, stop: Stop) -> None:
    with socket.create_connection((HOST, port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.settimeout(0.01)
        wall = start(engine)
        client.sendall(KEPT)
        stop(wall)
        client.settimeout(10)
        client.sendall(LATER)


def kept_by_a_task(port: int, engine: Engine, stop: Stop) -> None:
    async def story() -> None:
        _, writer = await asyncio.open_connection(HOST, port)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        wall = start(engine)
        writer.write(KEPT)
        assert not writer.transport.get_write_buffer_size()
        stop(wall)
        writer.write(LATER)
        writer.close()
        await writer.wait_closed()

    run(story())


@pytest.mark.parametrize(
    "send", [kept_by_who_does_not_wait, kept_by_who_waits_a_little, kept_by_a_task]
)
def test_what_was_taken_arrives_though_there_is_no_room_when_it_is_over(
    send: Callable[[int, Engine, Stop], None], engine: Engine
) -> None:
    """As what a kernel has taken does: in order, whatever its client does then."""
    received, reads = Everything(), threading.Event()

    def read_when_told(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        assert reads.wait(10)
        received(connection)

    def stop(wall: ActiveExperiment) -> None:
        wall.stop()
        reads.set()

    with serve(read_when_told) as port:
        send(port, engine, stop)
        is_whole = received.content.get(timeout=10) == KEPT + LATER
        assert is_whole


def test_what_was_closed_arrives_though_there_is_no_room_when_it_is_over(engine: Engine) -> None:
    received, reads = Everything(), threading.Event()

    def read_when_told(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        assert reads.wait(10)
        received(connection)

    with serve(read_when_told) as port:
        with socket.create_connection((HOST, port)) as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            wall = start(engine)
            assert client.send(KEPT) == len(KEPT)
        wall.stop()
        reads.set()
        is_whole = received.content.get(timeout=10) == KEPT
        assert is_whole


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_nothing_is_taken_where_its_kernel_has_no_room_already(
    timeout: float, engine: Engine
) -> None:
    content, reads = Everything(), threading.Event()

    def read_when_told(connection: socket.socket) -> None:
        assert reads.wait(10)
        content(connection)

    with serve(read_when_told) as port, socket.create_connection((HOST, port)) as client:
        client.setblocking(False)
        taken = 0
        # Nor will it have any soon: there is no room for one byte, and the peer has no more either.
        while select.select([], [client], [], 0)[1] or unacknowledged(client):
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken += client.send(KEPT)
        client.settimeout(timeout)
        wall = start(engine)
        with pytest.raises(TimeoutError if timeout else BlockingIOError):
            client.send(b"x")
        wall.stop()
        reads.set()
        client.shutdown(socket.SHUT_WR)
        assert len(content.content.get(timeout=10)) == taken


def test_a_stream_of_asyncio_is_held_up_and_keeps_its_order(engine: Engine) -> None:
    server = Everything()
    content = bytes(range(256)) * (1 << 14)

    async def story(port: int) -> None:
        _, writer = await asyncio.open_connection(HOST, port)
        wall = start(engine)
        writer.write(content)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.1)
        wall.stop()
        writer.write(b"the end")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    with serve(server) as port:
        run(story(port))
        assert server.content.get(timeout=10) == content + b"the end"


def test_nobody_waits_any_more_when_it_is_over(engine: Engine, listener: Listener) -> None:
    with serve(listener) as port, socket.create_connection((HOST, port), timeout=10) as plain:
        wall = start(engine)
        plain.sendall(b"x")
        assert any("partition" in each.name for each in threading.enumerate())
        wall.stop()
        assert not any("partition" in each.name for each in threading.enumerate())
        assert plain.recv(10) == b"x"


def test_what_has_come_is_discarded_and_nothing_is_awaited() -> None:
    """Also where the client has set a timeout, which would be over before it is known."""
    sock, peer = socket.socketpair()
    with sock, peer:
        sock.settimeout(3600)
        peer.sendall(b"tea")
        effects.discard(sock)
        peer.sendall(b"hot")
        assert sock.recv(3) == b"hot"


class Hooked(socket.socket):
    """A socket with something that happens as soon as its client is looked at in sending."""

    hook: Callable[[], None] | None = None

    def gettimeout(self) -> float | None:
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return super().gettimeout()


def test_what_is_being_sent_as_all_is_removed_arrives(inject: Inject, listener: Listener) -> None:
    """Though another partition begins before it is sent, when its connection is known anew."""
    with serve(listener) as port, Hooked() as client, contextlib.ExitStack() as stack:
        client.settimeout(10)
        client.connect((HOST, port))

        def change() -> None:
            first.stop()
            stack.enter_context(inject("network_failure", rate=1, **PARTITION))

        first = stack.enter_context(inject("network_latency", delay=0.001))
        client.hook = change
        client.sendall(b"tea")
        assert client.hook is None
        stack.close()
        assert client.recv(8) == b"tea"

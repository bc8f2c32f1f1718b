"""An outage strikes who waits, though nothing comes from the peer and nothing ever may."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import itertools
import os
import queue
import select
import selectors
import socket
import ssl
import struct
import threading

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import aiohttp
import httpx
import pytest
import trio

from pytest_resilience import FaultInjected
from pytest_resilience import ManualClock
from pytest_resilience.chaos import waiting_clients
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.descriptors import unread
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.waiting_clients import Wait
from pytest_resilience.chaos.waiting_clients import loops_at_work
from pytest_resilience.interceptors.sockets import outages
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from pytest_resilience.socket_filters import drop_incoming
from tests.clocks import MovableClock
from tests.forks import in_fork
from tests.injecting import Inject
from tests.injecting import injecting
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import full_backlog
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.interceptors.sockets.polls import POLLS
from tests.interceptors.sockets.polls import Poll
from tests.interceptors.sockets.test_receive_in_reader_threads import Conversation
from tests.resets import reset_when_closed
from tests.waiting import PATIENCE
from tests.waiting import InAThread
from tests.waiting import asleep
from tests.waiting import eventually
from tests.waiting import side_by_side
from tests.waiting import until_all_wait


UPLOAD = bytes(1 << 24)
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"

Ask = Callable[[int, "ssl.SSLContext | None"], Coroutine[Any, Any, object]]


def closing(connection: socket.socket) -> None:
    """Read a request, then close in good order."""
    request = more = b"-"
    while more and not request.endswith(b"tea"):
        more = connection.recv(65536)
        request += more


def resetting(connection: socket.socket) -> None:
    closing(connection)
    reset_when_closed(connection)


def busy(connection: socket.socket) -> None:
    closing(connection)
    connection.sendall(BUSY)


async def with_streams(port: int, tls: ssl.SSLContext | None) -> object:
    reader, writer = await asyncio.open_connection(HOST, port, ssl=tls)
    with contextlib.closing(writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\ntea")
        return (await reader.read()).split(b"\r\n")[0]


async def with_sock_recv(port: int, _tls: None) -> object:
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (HOST, port))
        await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\ntea")
        return (await loop.sock_recv(sock, 32)).split(b"\r\n")[0]


async def with_httpx(port: int, tls: ssl.SSLContext | None) -> object:
    url = f"http{'s' if tls else ''}://{HOST}:{port}/"
    async with httpx.AsyncClient(trust_env=False, verify=tls or False) as client:
        return (await client.post(url, content=b"tea")).status_code


async def with_aiohttp(port: int, tls: ssl.SSLContext | None) -> object:
    url = f"http{'s' if tls else ''}://{HOST}:{port}/"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=b"tea", ssl=tls or False) as response,
    ):
        return response.status


async def with_trio(port: int, tls: ssl.SSLContext | None) -> object:
    stream: Any = await trio.open_tcp_stream(HOST, port)
    if tls:
        stream = trio.SSLStream(stream, tls, server_hostname=HOST)
    async with stream:
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\ntea")
        return (await stream.receive_some(32)).split(b"\r\n")[0]


def met(ask: Ask, port: int, tls: ssl.SSLContext | None = None) -> str:
    """What a client returns, or which exception it raises, with its errno."""

    async def in_time(story: Awaitable[object]) -> object:
        return await asyncio.wait_for(story, PATIENCE)

    async def in_trio() -> object:
        with trio.fail_after(PATIENCE):
            return await ask(port, tls)

    try:
        if ask is with_trio:
            return repr(trio.run(in_trio))
        return repr(asyncio.run(in_time(ask(port, tls))))
    except Exception as error:
        return f"{type(error).__qualname__} {getattr(error, 'errno', None)}"


REAL: dict[str, Handler] = {"reset": resetting, "close": closing, "status": busy}


@pytest.mark.parametrize("mode", REAL)
@pytest.mark.parametrize(
    "ask",
    [with_streams, with_sock_recv, with_httpx, with_aiohttp, with_trio],
    ids=lambda ask: ask.__name__,
)
def test_it_needs_no_response(
    ask: Ask, mode: str, inject: Inject, events: list[FaultInjected]
) -> None:
    with serve(REAL[mode]) as port:
        real = met(ask, port)
    with serve(silent) as port, inject("network_failure", mode=mode, rate=1) as outage:
        injected = met(ask, port)
    assert injected == real
    assert outage.matched == outage.hits > 0
    assert all(event.place.endswith(f" in {ask.__name__}") for event in events)


@pytest.mark.parametrize(
    "ask", [with_streams, with_httpx, with_aiohttp], ids=lambda ask: ask.__name__
)
@pytest.mark.parametrize("mode", ["reset", "close"])
def test_it_needs_no_response_over_tls(ask: Ask, mode: str, trust: Trust, inject: Inject) -> None:
    with serve(trust.over_tls(REAL[mode])) as port:
        real = met(ask, port, trust.client)
    with (
        serve(trust.over_tls(silent)) as port,
        inject("network_failure", mode=mode, from_nth=2) as outage,
    ):
        injected = met(ask, port, trust.client)
    assert (injected, outage.hits > 0) == (real, True)


@pytest.mark.parametrize("ask", [with_streams, with_httpx, with_aiohttp])
def test_nor_does_a_handshake(ask: Ask, trust: Trust, inject: Inject) -> None:
    with serve(reset) as port:
        real = met(ask, port, trust.client)
    with serve(silent) as port, inject("network_failure", mode="reset", rate=1) as outage:
        injected = met(ask, port, trust.client)
    assert (injected, outage.hits > 0) == (real, True)


@pytest.mark.parametrize("ask", [with_streams, with_sock_recv, with_trio])
def test_silence_that_nothing_breaks_ends_with_its_experiment(
    ask: Ask, inject_briefly: Inject
) -> None:
    silence = {"mode": "timeout", "rate": 1, "from_nth": 2}
    with serve(silent) as port, inject_briefly("network_failure", **silence) as outage:
        injected = met(ask, port)
    assert injected in {"TimeoutError 110", "BrokenResourceError None"}
    assert outage.hits == 1


@pytest.mark.parametrize(("nth", "struck"), [(1, "first"), (2, "second"), (3, "neither")])
def test_parts_of_one_request_are_one(nth: int, struck: str, inject: Inject) -> None:
    """However late the second comes, which has to wait for something else."""

    async def story(port: int) -> str:
        reader, writer = await asyncio.open_connection(HOST, port)
        for request in ("first", "second"):
            try:
                writer.write(b"he")
                await asyncio.to_thread(read.get, timeout=PATIENCE)
                writer.write(b"ad")
                await reader.readexactly(4)
            except OSError:
                return request
        writer.close()
        return "neither"

    read = queue.Queue[bytes]()

    def answer(connection: socket.socket) -> None:
        while part := connection.recv(2, socket.MSG_WAITALL):
            read.put(part)
            connection.recv(2, socket.MSG_WAITALL)
            connection.sendall(b"done")

    with serve(answer) as port, inject("network_failure", mode="reset", nth=nth) as outage:
        assert asyncio.run(story(port)) == struck
    assert outage.matched == min(nth, 2)


def test_a_slow_request_is_not_struck_while_it_is_sent(inject: Inject) -> None:
    async def story(port: int) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, port)
        with contextlib.closing(writer):
            writer.write(bytes(1 << 24))
            assert writer.transport.get_write_buffer_size()
            begun.set()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            return b"struck"

    read, begun = 0, threading.Event()

    def read_all(connection: socket.socket) -> None:
        nonlocal read
        assert begun.wait(PATIENCE)
        while read < 1 << 24:
            read += len(connection.recv(1 << 20))
        silent(connection)

    with serve(read_all) as port, inject("network_failure", mode="reset", rate=1):
        assert asyncio.run(asyncio.wait_for(story(port), PATIENCE)) == b"struck"
    assert read == 1 << 24


# Who waits already when an outage begins, and how.


def in_recv(sock: socket.socket) -> bytes:
    return sock.recv(32)


def in_recv_with_a_timeout(sock: socket.socket) -> bytes:
    sock.settimeout(2 * PATIENCE)
    return sock.recv(32)


def in_select(sock: socket.socket) -> bytes:
    select.select([sock], [], [])
    return sock.recv(32)


def in_poll(sock: socket.socket) -> bytes:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.poll()
    return sock.recv(32)


def in_a_selector(sock: socket.socket) -> bytes:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        selector.select()
    return sock.recv(32)


def in_a_file(sock: socket.socket) -> bytes:
    return sock.makefile("rb").readline()


def in_a_stream(sock: socket.socket) -> bytes:
    async def story() -> bytes:
        reader, writer = await asyncio.open_connection(sock=sock)
        with contextlib.closing(writer):
            return await reader.read(32)

    return asyncio.run(story())


def in_sock_recv(sock: socket.socket) -> bytes:
    async def story() -> bytes:
        sock.setblocking(False)
        return await asyncio.get_running_loop().sock_recv(sock, 32)

    return asyncio.run(story())


def in_trio(sock: socket.socket) -> bytes:
    async def story() -> bytes:
        return bytes(await trio.socket.from_stdlib_socket(sock).recv(32))

    sock.setblocking(False)
    return trio.run(story)


WAITS = [
    in_recv, in_recv_with_a_timeout, in_select, in_poll, in_a_selector, in_a_file, in_a_stream,
    in_sock_recv, in_trio,
]  # fmt: skip


@contextlib.contextmanager
def waiting(wait: Callable[[socket.socket], object], port: int) -> Iterator[Callable[[], str]]:
    """A thread that waits on a connection, with what it meets in the end."""
    with socket.create_connection((HOST, port)) as sock:
        waits = InAThread(lambda: outcome(lambda: wait(sock)))
        thread = waits.thread
        asleep_for = 0
        while asleep_for < 20:  # it takes some starts until a loop has nothing to do but wait
            asleep_for = asleep_for + 1 if asleep(thread) else 0

        yield waits.result


def answering(asked: threading.Event, connection: socket.socket) -> None:
    """When it is asked for, as a server that then waits for more."""
    asked.wait(PATIENCE)
    connection.sendall(b"tea")
    silent(connection)


def hanging_up(told: threading.Event, mode: str, connection: socket.socket) -> None:
    """A peer that ends its connection once it is `told`."""
    told.wait(PATIENCE)
    if mode == "reset":
        reset_when_closed(connection)


@pytest.mark.parametrize("mode", ["reset", "close", "down"])
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_who_waited_before_is_struck(
    wait: Callable[[socket.socket], object], mode: str, inject: Inject
) -> None:
    """As by a peer that really does it, and though nobody saw the wait begin."""
    told = threading.Event()
    hang_up = functools.partial(hanging_up, told, mode)

    with serve(hang_up) as port, waiting(wait, port) as meet:
        told.set()
        real = meet()
    with (
        serve(silent) as port,
        waiting(wait, port) as meet,
        inject("network_failure", mode=mode, rate=1, target=f"{HOST}:{port}") as outage,
    ):
        assert meet() == real
    assert (outage.matched, outage.hits) == (1, 1)


@pytest.mark.parametrize("mode", ["reset", "close", "down"])
@pytest.mark.parametrize(
    "wait",
    [in_recv, in_recv_with_a_timeout, in_select, in_poll, in_a_selector],
    ids=lambda wait: wait.__name__,
)
def test_who_waited_before_goes_on_as_after_the_real_event(
    wait: Callable[[socket.socket], object], mode: str, inject: Inject
) -> None:
    """What is sent to who has closed goes out, and is answered with RST: the next does not."""
    told = threading.Event()
    hang_up = functools.partial(hanging_up, told, mode)

    def story(port: int, trouble: AbstractContextManager[object]) -> list[str]:
        with socket.create_connection((HOST, port)) as sock:
            thread = threading.Thread(target=lambda: outcome(lambda: wait(sock)), name="waits")
            thread.start()
            until_all_wait()
            with trouble:
                thread.join(PATIENCE)
                met = [outcome(lambda: sock.recv(8)), outcome(lambda: sock.send(b"?"))]
                answered = select.poll()
                answered.register(sock, 0)  # what is told all the same: an error, and the end
                assert answered.poll(PATIENCE * 1000)
                return [*met, outcome(lambda: sock.recv(8)), outcome(lambda: sock.send(b"?"))]

    with serve(hang_up) as port:
        real = story(port, _telling(told))
    with serve(silent) as port:
        target = f"{HOST}:{port}"
        outage = inject("network_failure", mode=mode, rate=1, target=target)
        assert story(port, outage) == real


@contextlib.contextmanager
def _telling(told: threading.Event) -> Iterator[None]:
    told.set()
    yield


def in_poll_only(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll())


@pytest.mark.parametrize("mode", ["reset", "close", "down"])
@pytest.mark.parametrize("wait", [in_recv, in_poll_only], ids=lambda wait: wait.__name__)
def test_who_has_got_its_number_meanwhile_is_not(
    wait: Callable[[socket.socket], object], mode: str, inject: Inject, engine: Engine
) -> None:
    """A client closes its descriptor whenever it likes, and another thread opens something."""
    with (
        serve(silent) as port,
        serve(echo) as elsewhere,
        socket.create_connection((HOST, elsewhere)) as other,
        socket.create_connection((HOST, port)) as sock,
    ):
        thread = threading.Thread(target=lambda: outcome(lambda: wait(sock)), name="waits")
        thread.start()
        until_all_wait()
        engine.listeners.add(lambda _: os.dup2(other.fileno(), sock.fileno()))
        with inject("network_failure", mode=mode, rate=1, target=f"{HOST}:{port}") as outage:
            assert outage.hits == 1
            assert os.path.sameopenfile(sock.fileno(), other.fileno())
            other.sendall(b"tea")
            assert other.recv(8) == b"tea"
        other.sendall(b"tea")
        os.setresuid(-1, -1, -1)  # interrupts the poll, which then finds what is there now
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("mode", ["close", "down"])
def test_who_polled_before_finds_the_end_and_no_reset(mode: str, inject: Inject) -> None:
    """Though the real server, which is still there, says something to the end of the connection."""
    said = threading.Event()

    def says_goodbye(connection: socket.socket) -> None:
        silent(connection)
        connection.sendall(b"goodbye")
        said.set()

    with serve(says_goodbye) as port, socket.create_connection((HOST, port)) as sock:
        thread = threading.Thread(target=in_poll_only, args=[sock], name="waits")
        thread.start()
        until_all_wait()
        with inject("network_failure", mode=mode, rate=1, target=f"{HOST}:{port}"):
            thread.join(PATIENCE)
            assert said.wait(PATIENCE)
        assert [sock.recv(8), sock.recv(8)] == [b"", b""]


@pytest.mark.parametrize("mode", ["close", "down"])
def test_who_goes_on_as_it_begins_finds_the_end_and_no_reset(
    mode: str, inject: Inject, engine: Engine
) -> None:
    """Who has polled, and is slow to come back, while its peer says something to the end."""
    said = threading.Event()

    def says_goodbye(connection: socket.socket) -> None:
        silent(connection)
        connection.sendall(b"goodbye")
        said.set()

    def go_on(_: FaultInjected) -> None:
        told.sendall(b".")
        thread.join(PATIENCE)

    hears, told = socket.socketpair()
    with (
        hears,
        told,
        serve(says_goodbye) as port,
        socket.create_connection((HOST, port)) as sock,
    ):
        thread = threading.Thread(target=select.select, args=([sock, hears], [], []))
        thread.start()
        until_all_wait()
        engine.listeners.add(go_on)
        with inject("network_failure", mode=mode, rate=1, target=f"{HOST}:{port}"):
            assert said.wait(PATIENCE)
        assert [sock.recv(8), sock.recv(8)] == [b"", b""]


@pytest.mark.parametrize(
    ("mode", "meets"),
    [("reset", "ConnectionResetError 104"), ("close", "b''"), ("down", "b''")],
)
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_who_waits_for_what_is_late_is_struck(
    wait: Callable[[socket.socket], object], mode: str, meets: str, inject: Inject
) -> None:
    """The response has come, but not to the client: it does not any more."""

    def ask(sock: socket.socket) -> object:
        sock.sendall(b"tea")
        return wait(sock)

    late = {"delay": 2 * PATIENCE, "nth": 2}  # the first is the connect
    with (
        serve(echo) as port,
        inject("network_latency", **late) as latency,
        waiting(ask, port) as meet,
    ):
        assert eventually(lambda: latency.hits == 1)
        with inject("network_failure", mode=mode, rate=1) as outage:
            assert meet() == meets
    assert (outage.matched, outage.hits) == (1, 1)


@pytest.mark.parametrize("moment", ["decided", "counted"])
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_one_that_begins_just_as_a_response_gets_late_strikes(
    wait: Callable[[socket.socket], object],
    moment: str,
    inject: Inject,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between what is decided about the response, and the wait for it."""
    began, outages = list[bool](), list[ActiveExperiment]()

    def ask(sock: socket.socket) -> object:
        sock.sendall(b"tea")
        return wait(sock)

    with contextlib.ExitStack() as stack, serve(echo) as port:

        def begin(*_: object) -> None:
            if not began:
                began.append(True)
                outage = inject("network_failure", mode="reset", rate=1)
                outages.append(stack.enter_context(outage))

        def decide(operation: Operation, **given: Any) -> Any:
            decided = Engine.decide(engine, operation, **given)
            if operation.kind == RECEIVE:
                begin()
            return decided

        if moment == "decided":
            monkeypatch.setattr(engine, "decide", decide)
        else:
            engine.listeners.add(begin)
        stack.enter_context(inject("network_latency", delay=2 * PATIENCE, nth=2))
        with waiting(ask, port) as meet:
            assert meet() == "ConnectionResetError 104"
        assert [(each.matched, each.hits) for each in outages] == [(1, 1)]


@pytest.mark.parametrize("wait", [in_recv, in_sock_recv, in_a_stream])
def test_what_is_late_comes_after_a_partition(
    wait: Callable[[socket.socket], object], inject: Inject
) -> None:
    def ask(sock: socket.socket) -> object:
        sock.sendall(b"tea")
        return wait(sock)

    with (
        serve(echo) as port,
        inject("network_latency", delay=2 * PATIENCE, nth=2) as latency,
        waiting(ask, port) as meet,
    ):
        assert eventually(lambda: latency.hits == 1)
        until_all_wait()  # it is counted before it is waited for
        with inject("network_failure", mode="partition", rate=1) as partition:
            latency.stop()
            assert eventually(lambda: partition.hits == 1)
        assert meet() == "b'tea'"


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("network_failure", {"mode": "partition", "stream": "downstream"}),
        ("network_latency", {"delay": 2 * PATIENCE}),
    ],
    ids=["a partition", "a delay"],
)
@pytest.mark.parametrize("wait", [in_recv, in_a_stream])
def test_one_that_begins_as_another_ends_lets_through_what_that_has_held_back(
    wait: Callable[[socket.socket], object], kind: str, first: dict[str, Any], inject: Inject
) -> None:
    """Each of a series of partitions does, or nobody would receive anything before the last."""

    def ask(sock: socket.socket) -> object:
        sock.sendall(b"tea")
        return wait(sock)

    with (
        inject("network_latency", delay=1, target="elsewhere.example"),  # what is known is kept
        serve(echo) as port,
        inject(kind, nth=2, **first) as one,
        waiting(ask, port) as meet,
    ):
        assert eventually(lambda: one.hits == 1)
        until_all_wait()
        one.stop()
        with inject("network_failure", mode="partition", rate=1):
            assert meet() == "b'tea'"


def test_who_comes_just_as_one_begins_receives_what_had_come(
    inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of that it was told already, and to the outage all that comes from now on is a response."""
    met, refresh = list[str](), ConnectionTable.refresh

    def refresh_and_receive(table: ConnectionTable) -> None:
        assert select.select([sock], [], [], PATIENCE)[0] == [sock]
        refresh(table)
        met.append(outcome(lambda: sock.recv(8)))

    with (
        inject("network_latency", delay=1, target="elsewhere.example"),  # what is known is kept
        serve(echo) as port,
        inject("network_latency", delay=2 * PATIENCE, nth=2) as late,
        socket.create_connection((HOST, port)) as sock,
    ):
        sock.setblocking(False)
        sock.sendall(b"tea")
        assert eventually(lambda: unread(sock) == 3)
        with pytest.raises(BlockingIOError):
            sock.recv(8)
        late.stop()
        monkeypatch.setattr(ConnectionTable, "refresh", refresh_and_receive)
        with inject("network_failure", mode="partition", rate=1):
            monkeypatch.undo()
    assert met == ["b'tea'"]


@pytest.mark.parametrize("wait", [in_recv, in_poll, in_sock_recv, in_a_stream, in_trio])
def test_what_a_partition_holds_back_comes_though_the_kernel_would_give_up_later(
    wait: Callable[[socket.socket], object], inject: Inject
) -> None:
    """By the keepalive that a client has asked for, which had not found anything out yet."""

    def ask(sock: socket.socket) -> object:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PATIENCE)
        for option in (socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)
        sock.sendall(b"tea")
        return wait(sock)

    partition = {"mode": "partition", "stream": "downstream", "nth": 2}
    with (
        serve(echo) as port,
        inject("network_failure", **partition) as active,
        waiting(ask, port) as meet,
    ):
        assert eventually(lambda: active.hits == 1)
        until_all_wait()
        active.stop()
        assert meet() == "b'tea'"


@pytest.mark.parametrize("wait", [in_recv, in_select, in_a_stream])
def test_who_waits_elsewhere_is_not(
    wait: Callable[[socket.socket], object], inject: Inject
) -> None:
    sent = threading.Event()

    with serve(functools.partial(answering, sent)) as port, waiting(wait, port) as meet:
        with inject("network_failure", mode="reset", rate=1, target="127.0.0.9") as outage:
            pass
        with inject("network_failure", mode="reset", nth=2) as other:
            assert eventually(lambda: other.matched > 0)
        sent.set()
        assert meet() == "b'tea'"
    assert (outage.matched, other.matched, other.hits) == (0, 1, 0)


def test_a_task_that_comes_to_wait_before_it_is_looked_for_is_struck_once(
    inject: Inject, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = threading.Event()

    def looked_for_late() -> list[Any]:
        loops = list(loops_at_work())
        for loop in loops:
            loop.call_soon_threadsafe(int)
        assert eventually(lambda: all(each.matched for each in engine.active))
        return loops

    monkeypatch.setattr(outages, "loops_at_work", looked_for_late)
    with serve(functools.partial(answering, sent)) as port, waiting(in_a_stream, port) as meet:
        with inject("network_failure", mode="reset", nth=2) as outage:
            until_all_wait()
        sent.set()
        assert meet() == "b'tea'"
    assert outage.matched == 1


def test_a_thread_that_comes_back_as_it_begins_is_asked_once(
    inject: Inject, events: list[FaultInjected], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen to wait, in a call from before, and then it calls what is looked at."""
    hears, told = socket.socketpair()

    def polls_and_receives() -> None:
        select.select([sock, hears], [], [])
        met.append(outcome(lambda: sock.recv(8)))

    def waits(*args: Any, **options: Any) -> list[Wait]:
        found = list(real(*args, **options))
        told.sendall(b".")
        assert eventually(lambda: bool(events))
        return found

    real, met = waiting_clients.waits, list[str]()
    monkeypatch.setattr(waiting_clients, "waits", waits)
    with (
        hears,
        told,
        serve(silent) as port,
        socket.create_connection((HOST, port)) as sock,
    ):
        thread = threading.Thread(target=polls_and_receives)
        thread.start()
        until_all_wait()
        target = f"{HOST}:{port}"
        with inject("network_failure", mode="timeout", rate=1, target=target) as outage:
            assert (outage.matched, outage.hits) == (1, 1)
        thread.join(PATIENCE)
        assert met == ["TimeoutError 110"]


def test_who_has_got_the_number_of_what_a_thread_waited_for_is_not(
    inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen to wait, and then went on and closed it; nobody waits for what is there now."""
    hears, told = socket.socketpair()
    others: list[socket.socket] = []

    def polls_and_closes() -> None:
        select.select([sock, hears], [], [])
        with socket.create_connection((HOST, port)) as other:
            os.dup2(other.fileno(), sock.fileno())  # which closes what it was
        others.append(socket.socket(fileno=sock.detach()))

    def waits(*args: Any, **options: Any) -> list[Wait]:
        found = list(real(*args, **options))
        told.sendall(b".")
        thread.join(PATIENCE)
        return found

    real = waiting_clients.waits
    with hears, told, serve(echo) as port:
        sock = socket.create_connection((HOST, port))
        thread = threading.Thread(target=polls_and_closes)
        thread.start()
        until_all_wait()
        monkeypatch.setattr(waiting_clients, "waits", waits)
        with inject("network_failure", mode="reset", rate=1, target=f"{HOST}:{port}") as outage:
            assert (len(others), outage.matched) == (1, 0)
        with others[0]:
            others[0].sendall(b"tea")
            assert others[0].recv(3) == b"tea"


def test_one_that_begins_elsewhere_takes_no_response_from_others(
    echo_port: int, inject: Inject
) -> None:
    """Who waits when it begins is still struck by what is aimed at the next response."""
    target = f"{HOST}:{echo_port}"
    with (
        socket.create_connection((HOST, echo_port)) as sock,
        inject("network_failure", mode="lose_answer", nth=2, target=target) as lost,
    ):
        conversation = Conversation(sock)
        assert conversation.ask(b"one") == b"one"
        conversation.until_it_waits()
        with inject("network_failure", mode="reset", rate=1, target="127.0.0.9"):
            assert isinstance(conversation.ask(b"two"), ConnectionResetError)
    assert (lost.matched, lost.hits) == (2, 1)


def test_a_server_of_this_process_that_waits_is_not(inject: Inject) -> None:
    with serve(echo) as port, socket.create_connection((HOST, port)) as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        with inject("network_failure", mode="reset", rate=1) as outage:
            assert outage.matched == 0
        client.sendall(b"two")
        assert client.recv(3) == b"two"


def test_a_connection_that_is_kept_and_nobody_waits_for_is_not(inject: Inject) -> None:
    async def story(port: int) -> int:
        url = f"http://{HOST}:{port}/"
        async with httpx.AsyncClient(trust_env=False) as client, aiohttp.ClientSession() as other:
            matched = 0
            for _ in range(2):
                assert (await client.get(url)).status_code == 200
                async with other.get(url) as response:
                    assert await response.read() == b"tea"
                with inject("network_failure", mode="reset", rate=1) as outage:
                    for _ in range(10):  # it would be struck in the first of these turns
                        await asyncio.sleep(0)
                matched += outage.matched
            return matched

    def answer(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntea")

    with serve(answer) as port:
        assert asyncio.run(story(port)) == 0


def test_tasks_are_struck_by_what_begins_in_their_loop(inject: Inject) -> None:
    """With threads and sockets that wait as well, and the loop is not blocked meanwhile."""

    async def story(port: int, polled: socket.socket, blocking: socket.socket) -> list[str]:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(HOST, port)
        with contextlib.closing(writer):
            polled.setblocking(False)
            waits = [
                asyncio.ensure_future(reader.read()),
                asyncio.ensure_future(loop.sock_recv(polled, 1)),
                loop.run_in_executor(None, blocking.recv, 1),
            ]
            await asyncio.to_thread(until_all_wait)
            with inject("network_failure", mode="reset", rate=1) as outage:
                met = await asyncio.gather(*waits, return_exceptions=True)
        assert (outage.matched, outage.hits) == (3, 3)
        return [type(each).__name__ for each in met]

    with (
        serve(silent) as port,
        socket.create_connection((HOST, port)) as polled,
        socket.create_connection((HOST, port)) as blocking,
    ):
        met = asyncio.run(asyncio.wait_for(story(port, polled, blocking), PATIENCE))
    assert met == ["ConnectionResetError"] * 3


SHORT = 0.05  # seconds, in which an answer on loopback has come


def once(connection: socket.socket) -> None:
    """Answer, and close."""
    connection.sendall(connection.recv(100))


@pytest.mark.parametrize("answers", [echo, once])
@pytest.mark.parametrize("mode", ["timeout", "partition"])
@pytest.mark.parametrize("polls", POLLS, ids=lambda polls: polls.__name__)
def test_who_polls_a_blocking_socket_is_not_told_of_what_is_lost(
    polls: Poll, mode: str, answers: Handler, inject: Inject
) -> None:
    """Neither of an answer nor of the end of the connection, as if the peer were silent."""
    with serve(silent) as port, socket.create_connection((HOST, port)) as sock:
        sock.sendall(b"tea")
        real = polls(sock, SHORT)
    with (
        serve(answers) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_failure", mode=mode, rate=1) as outage,
    ):
        sock.sendall(b"tea")
        assert [polls(sock, SHORT) for _ in range(2)] == [real, real] == [False, False]
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert not polls(sock, SHORT)
        assert outage.hits > 0


@pytest.mark.parametrize("mode", ["timeout", "partition"])
@pytest.mark.parametrize("polls", POLLS, ids=lambda polls: polls.__name__)
def test_who_polls_a_blocking_socket_with_tls_is_not_told_of_what_is_lost(
    polls: Poll, mode: str, trust: Trust, inject: Inject
) -> None:
    with (
        serve(trust.over_tls(echo)) as port,
        socket.create_connection((HOST, port)) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as sock,
    ):
        sock.sendall(b"one")
        assert sock.recv(3) == b"one"  # after its tickets, which a poll would tell of
        with inject("network_failure", mode=mode, rate=1) as outage:
            sock.sendall(b"two")
            assert not polls(sock, SHORT)
            sock.settimeout(0.01)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            assert outage.hits > 0


@pytest.mark.parametrize("mode", ["reset", "close"])
@pytest.mark.parametrize("is_first", [True, False], ids=["after tickets", "later"])
@pytest.mark.parametrize("polls", POLLS, ids=lambda polls: polls.__name__)
def test_who_polls_a_blocking_socket_with_tls_is_told_of_the_end(
    polls: Poll,
    mode: str,
    trust: Trust,
    inject: Inject,
    *,
    is_first: bool,
) -> None:
    def met(then: Handler, trouble: AbstractContextManager[Any]) -> list[str]:
        def handle(connection: socket.socket) -> None:
            if not is_first:
                connection.sendall(connection.recv(3))
            then(connection)

        with (
            serve(trust.over_tls(handle)) as port,
            socket.create_connection((HOST, port)) as plain,
            trust.client.wrap_socket(plain, server_hostname=HOST) as sock,
        ):
            if not is_first:
                sock.sendall(b"one")
                assert sock.recv(3) == b"one"
            with trouble:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\ntea")
                assert any(polls(sock, SHORT) for _ in range(200))
                return [outcome(lambda: sock.recv(3)) for _ in range(2)]

    real = met(REAL[mode], contextlib.nullcontext())
    assert met(echo, inject("network_failure", mode=mode, rate=1)) == real


@pytest.mark.parametrize("polls", POLLS, ids=lambda polls: polls.__name__)
def test_who_polls_what_is_not_hit_is_told(polls: Poll, echo_port: int, inject: Inject) -> None:
    with socket.create_connection((HOST, echo_port)) as sock:
        with inject("network_failure", mode="timeout", nth=2) as silence:
            for part in (b"te", b"a"):  # of one request
                sock.sendall(part)
            assert eventually(lambda: polls(sock, SHORT))
            assert sock.recv(3, socket.MSG_WAITALL) == b"tea"
            sock.sendall(b"two")
            assert not polls(sock, SHORT)
            assert (silence.matched, silence.hits) == (2, 1)
        sock.settimeout(PATIENCE)
        assert sock.recv(3) == b"two"  # sent again by the peer's kernel


def test_who_waited_before_silence_began_hears_nothing(inject: Inject) -> None:
    sent = threading.Event()

    with serve(functools.partial(answering, sent)) as port, waiting(in_recv, port) as meet:
        with inject("network_failure", mode="timeout", rate=1) as silence:
            sent.set()
            threading.Event().wait(SHORT)
            assert silence.hits == 1
            assert [each for each in threading.enumerate() if each.name == "waits"]
        assert meet() == "b'tea'"


@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_a_timeout_counts_from_the_receive_on_that_silence_finds_waiting(
    mode: str, movable: MovableClock, inject_by: Inject
) -> None:
    """It ends before one that is 0.7 seconds longer, and hears as little from its peer.

    It begins when one that is 0.3 seconds shorter has ended.
    """
    ended: list[str] = []

    def wait(name: str, sock: socket.socket, seconds: float) -> None:
        sock.settimeout(seconds)
        ended.append(f"{name}: {outcome(lambda: sock.recv(3))}")

    with (
        serve(echo) as port,
        socket.create_connection((HOST, port)) as struck,
        socket.create_connection((HOST, port)) as spared,
        socket.create_connection((HOST, port)) as first,
        inject_by(
            "network_failure", mode=mode, target=f"{HOST}:{port}#1", between="30s..60s"
        ) as outage,
    ):
        for sock in (struck, spared, first):
            sock.sendall(b"tea")
            assert sock.recv(3) == b"tea"  # and maybe more is to come
        threads = [
            threading.Thread(target=wait, args=given)
            for given in (("first", first, 0.7), ("struck", struck, 1.0), ("not", spared, 1.7))
        ]
        for thread in threads:
            thread.start()
        threads[0].join(PATIENCE)
        movable.advance(30)
        for thread in threads:
            thread.join(PATIENCE)
    assert outage.hits == 1
    assert ended == [f"{name}: TimeoutError None" for name in ("first", "struck", "not")]


@pytest.mark.parametrize(
    ("begins", "lasts"),
    [
        (0, {"between": "0s..100s"}),
        (50, {"between": "50s..100s"}),
        (0, {"duration": 100}),
    ],
)
def test_who_waited_before_a_partition_hears_when_it_ends_by_itself(
    begins: float, lasts: dict[str, Any], movable: MovableClock, inject_by: Inject
) -> None:
    sent = threading.Event()

    with (
        serve(functools.partial(answering, sent)) as port,
        waiting(in_recv, port) as meet,
        inject_by(
            "network_failure", mode="partition", rate=1, **{"duration": 200} | lasts
        ) as partition,
    ):
        movable.advance(begins)
        assert eventually(lambda: partition.hits > 0)
        sent.set()
        movable.advance(100 - begins)
        assert meet() == "b'tea'"
        assert not partition.stopped


def test_a_connect_that_blocks_nobody_stays_pending(inject: Inject) -> None:
    """So that the client's own timeout for it fires, and not one of what comes after it."""

    def pending(port: int, sock: socket.socket) -> tuple[int, bool, str, str]:
        sock.setblocking(False)
        begun = sock.connect_ex((HOST, port))
        is_silent = not select.select([], [sock], [], SHORT)[1]
        return begun, is_silent, outcome(lambda: sock.send(b"x")), outcome(lambda: sock.recv(1))

    with full_backlog() as port, socket.socket() as sock:
        real = pending(port, sock)

    def story(mode: str) -> None:
        with serve(echo) as port, socket.socket() as sock:
            target = f"{HOST}:{port}"
            with inject("network_failure", mode=mode, rate=1, target=target) as outage:
                assert pending(port, sock) == real
                assert real[:2] == (errno.EINPROGRESS, True)
                assert (outage.matched, outage.hits) == (1, 1)
                assert sock.connect_ex((HOST, port)) == errno.EALREADY
            # The kernel tries again when it is over.
            assert select.select([], [sock], [], PATIENCE)[1]
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            sock.settimeout(PATIENCE)
            sock.sendall(b"tea")
            assert sock.recv(3) == b"tea"

    side_by_side(functools.partial(story, mode) for mode in ("timeout", "partition"))


def polled(sock: socket.socket) -> bool:
    return select.select([sock], [sock], [], SHORT)[:2] == ([], [])


@pytest.mark.parametrize(
    "then",
    [
        lambda sock: sock.send(b"x"),
        lambda sock: sock.recv(1),
        lambda sock: sock.getpeername(),
        lambda sock: sock.shutdown(socket.SHUT_WR),
        lambda sock: sock.connect_ex((HOST, 9)),
        polled,
    ],
    ids=["send", "recv", "peer", "shutdown", "connect", "poll"],
)
@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_a_connect_that_is_waited_for_no_longer_stays_pending_as_well(
    mode: str, then: Callable[[socket.socket], object], echo_port: int, inject: Inject
) -> None:
    def twice(port: int) -> list[str]:
        with socket.socket() as sock:
            sock.settimeout(SHORT)
            first = outcome(lambda: sock.connect((HOST, port)))
            return [first, *(outcome(lambda: then(sock)) for _ in range(2))]

    with full_backlog() as port:
        real = twice(port)
    with inject("network_failure", mode=mode, rate=1) as outage:
        assert twice(echo_port) == real
        assert (outage.matched, outage.hits) == (1, 1)


def streaming(connection: socket.socket) -> None:
    """Send for ever, until the client is gone."""
    connection.recv(100)
    while True:
        connection.sendall(b"x")
        threading.Event().wait(0.005)


def read_on(sock: socket.socket) -> bytes:
    """Until it fails, or ends."""
    sock.sendall(b"tea")
    while sock.recv(100):
        pass
    return b"ended"


def read_on_in_asyncio(sock: socket.socket) -> bytes:
    patience = sock.gettimeout()  # which the loop takes from it

    async def story() -> bytes:
        reader, writer = await asyncio.open_connection(sock=sock)
        with contextlib.closing(writer):
            writer.write(b"tea")
            while await asyncio.wait_for(reader.read(100), patience):
                pass
        return b"ended"

    return asyncio.run(story())


@pytest.mark.parametrize("read", [read_on, read_on_in_asyncio])
@pytest.mark.parametrize(
    ("mode", "meets"),
    [
        ("reset", "ConnectionResetError 104"),
        ("close", "b'ended'"),
        ("partition", "TimeoutError None"),
    ],
)
def test_one_that_begins_while_a_response_streams_breaks_it(
    mode: str, meets: str, read: Callable[[socket.socket], bytes], inject: Inject
) -> None:
    with (
        serve(streaming) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_failure", mode=mode, between="100ms..60s") as outage,
    ):
        sock.settimeout(1 if mode == "partition" else PATIENCE)
        assert outcome(lambda: read(sock)) == meets
        assert outage.hits > 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the server has threads
@pytest.mark.parametrize("read", [read_on, read_on_in_asyncio])
def test_so_does_one_that_begins_after_a_fork_in_the_child(
    read: Callable[[socket.socket], bytes], inject: Inject
) -> None:
    def story() -> int:
        sock.settimeout(PATIENCE)
        return outcome(lambda: read(sock)) != "ConnectionResetError 104"

    with (
        serve(streaming) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_failure", mode="reset", between="500ms..60s") as outage,
    ):
        assert in_fork(story) == 0
        assert outage.hits == 1


def ends_receiving(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 200_000))


def ends_unacknowledged(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)


def ends_probing(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def asks(sock: socket.socket, sends: bytes) -> bytes:
    if sends:
        sock.sendall(sends)
    return sock.recv(1)


def asks_and_selects(sock: socket.socket, sends: bytes) -> bytes:
    if sends:
        sock.sendall(sends)
    assert select.select([sock], [], [], PATIENCE)[0] == [sock]
    return sock.recv(1)


def asks_and_polls(sock: socket.socket, sends: bytes) -> bytes:
    sock.setblocking(False)
    return asks_and_selects(sock, sends)


def asks_in_a_task(sock: socket.socket, sends: bytes) -> bytes:
    async def story() -> bytes:
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            writer.write(sends)
            return await asyncio.wait_for(reader.read(1), PATIENCE)
        finally:
            writer.transport.abort()

    return asyncio.run(story())


def lasting(port: int) -> dict[str, Any]:
    """An experiment for longer than any of these waits, which are side by side."""
    return {"rate": 1, "duration": 2 * PATIENCE, "target": f"{HOST}:{port}"}


# How a client bounds its own waits, what it sends, and how it waits.
KERNEL_WAITS: list[tuple[Callable[[socket.socket], None], bytes, Callable[..., bytes]]] = [
    (ends_receiving, b"tea", asks),
    (ends_receiving, b"", asks),
    (ends_unacknowledged, b"tea", asks),
    (ends_unacknowledged, b"tea", asks_and_selects),
    (ends_unacknowledged, b"tea", asks_and_polls),
    (ends_unacknowledged, b"tea", asks_in_a_task),
    (ends_probing, b"", asks),
]


def test_silence_obeys_what_the_client_has_set_in_the_kernel(inject: Inject) -> None:
    """As real silence does: packets that the kernel drops."""

    def real(ends: Callable[[socket.socket], None], sends: bytes, ask: Callable[..., bytes]) -> str:
        with serve(silent) as port, socket.create_connection((HOST, port)) as sock:
            ends(sock)
            drop_incoming(sock)
            return outcome(lambda: ask(sock, sends))

    def injected(
        ends: Callable[[socket.socket], None], sends: bytes, ask: Callable[..., bytes]
    ) -> str:
        with (
            serve(echo) as port,
            socket.create_connection((HOST, port)) as sock,
            inject("network_failure", mode="timeout", **lasting(port)) as silence,
        ):
            ends(sock)
            met = outcome(lambda: ask(sock, sends))
            assert silence.hits == 1
            return met

    expected = side_by_side(functools.partial(real, *each) for each in KERNEL_WAITS)
    assert side_by_side(functools.partial(injected, *each) for each in KERNEL_WAITS) == expected


def uploads(sock: socket.socket) -> None:
    sock.sendall(UPLOAD)


def uploads_and_selects(sock: socket.socket) -> None:
    sock.setblocking(False)
    while select.select([], [sock], [], PATIENCE)[1]:
        sock.send(UPLOAD)
    raise AssertionError("it was told of nothing")


def uploads_and_polls(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while poll.poll(PATIENCE * 1000):
        sock.send(UPLOAD)
    raise AssertionError("it was told of nothing")


def uploads_in_drops(sock: socket.socket) -> None:
    """Of which there is always room for one more."""
    sock.setblocking(False)
    while True:
        sock.send(b"x")


def uploads_in_a_task(sock: socket.socket) -> None:
    async def story() -> None:
        _, writer = await asyncio.open_connection(sock=sock)
        try:
            writer.write(UPLOAD)
            await asyncio.wait_for(writer.drain(), PATIENCE)
        finally:
            writer.transport.abort()

    asyncio.run(story())


UPLOADS = [uploads, uploads_and_selects, uploads_and_polls, uploads_in_drops, uploads_in_a_task]


def test_what_is_sent_obeys_what_the_client_has_set_in_the_kernel(inject: Inject) -> None:
    """As real silence does: packets that the kernel drops."""

    def real(upload: Callable[[socket.socket], None]) -> str:
        with serve(silent) as port, socket.create_connection((HOST, port)) as sock:
            ends_unacknowledged(sock)
            drop_incoming(sock)
            return outcome(lambda: upload(sock))

    def injected(upload: Callable[[socket.socket], None], given: dict[str, Any]) -> str:
        with (
            serve(silent) as port,
            socket.create_connection((HOST, port)) as sock,
            inject("network_failure", **given, **lasting(port)) as silence,
        ):
            ends_unacknowledged(sock)
            met = outcome(lambda: upload(sock))
            assert silence.hits
            return met

    expected = side_by_side(functools.partial(real, each) for each in UPLOADS)
    for given in ({"mode": "partition"}, {"mode": "timeout", "stream": "upstream"}):
        met = side_by_side(functools.partial(injected, each, given) for each in UPLOADS)
        assert met == expected == [f"TimeoutError {errno.ETIMEDOUT}"] * len(UPLOADS)


def polled_events(sock: socket.socket) -> list[int]:
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    return [events for _, events in poll.poll(0)]


SENDS_ON = [lambda sock: sock.send(b"x"), lambda sock: sock.recv(1), socket.socket.getpeername]
READS_ON = [lambda sock: sock.recv(1), lambda sock: sock.sendall(b"x"), lambda sock: sock.recv(1)]
POLLS_ON = [
    polled_events,
    lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
    *SENDS_ON,
]
# What the kernel gives up by, what is done until then and afterwards, and the faults.
SILENT, APART = {"mode": "timeout"}, {"mode": "partition"}
GIVEN_UP: list[tuple[Any, Callable[[socket.socket], object], list[Any], dict[str, str]]] = [
    (ends_unacknowledged, lambda sock: asks(sock, b"tea"), SENDS_ON, APART),
    (ends_unacknowledged, lambda sock: asks(sock, b"tea"), READS_ON, APART),
    (ends_unacknowledged, lambda sock: asks(sock, b"tea"), POLLS_ON, APART),
    (ends_unacknowledged, uploads, SENDS_ON, APART),
    (ends_unacknowledged, uploads_in_drops, READS_ON, APART),
    (ends_probing, lambda sock: asks(sock, b""), READS_ON, APART),
    (ends_unacknowledged, lambda sock: asks(sock, b"tea"), SENDS_ON, SILENT),
    (ends_unacknowledged, lambda sock: asks_and_selects(sock, b"tea"), POLLS_ON, SILENT),
    (ends_unacknowledged, lambda sock: asks_and_polls(sock, b"tea"), READS_ON, SILENT),
    (ends_unacknowledged, uploads, READS_ON, {"mode": "timeout", "stream": "both"}),
    (ends_unacknowledged, lambda sock: asks_and_selects(sock, b"tea"), POLLS_ON, APART),
    (ends_unacknowledged, lambda sock: asks_and_polls(sock, b"tea"), READS_ON, APART),
]


def test_a_connection_that_the_kernel_has_given_up_is_over(inject: Inject) -> None:
    """It tells why once; then there is the end, and EPIPE."""

    def real(ends: Any, ask: Any, then: list[Any], _given: dict[str, str]) -> list[str]:
        with serve(silent) as port, socket.create_connection((HOST, port)) as sock:
            ends(sock)
            drop_incoming(sock)
            return [outcome(functools.partial(each, sock)) for each in (ask, *then)]

    def injected(ends: Any, ask: Any, then: list[Any], given: dict[str, str]) -> list[str]:
        with (
            serve(silent) as port,
            socket.create_connection((HOST, port)) as sock,
            inject("network_failure", **given, **lasting(port)),
        ):
            ends(sock)
            return [outcome(functools.partial(each, sock)) for each in (ask, *then)]

    expected = side_by_side(functools.partial(real, *each) for each in GIVEN_UP)
    assert side_by_side(functools.partial(injected, *each) for each in GIVEN_UP) == expected


def test_so_it_does_where_a_task_reads(inject: Inject) -> None:
    def met(mode: str, ends: Callable[[socket.socket], None]) -> str:
        with (
            serve(echo) as port,
            socket.create_connection((HOST, port)) as sock,
            inject("network_failure", mode=mode, **lasting(port)),
        ):
            ends(sock)
            return outcome(lambda: asks_in_a_task(sock, b"tea"))

    ways = itertools.product(["timeout", "partition"], [ends_unacknowledged, ends_probing])
    found = side_by_side(functools.partial(met, *way) for way in ways)
    assert found == [f"TimeoutError {errno.ETIMEDOUT}"] * 4


@pytest.mark.parametrize("kept_alive", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [([b"tea" * 5_000_000], []), ([b"tea" * 1000] * 5_000, []), ([b"tea"], [b"tea" * 5_000_000])],
)
def test_a_peer_that_keeps_silent_reads_all_that_is_sent(
    before: list[bytes], after: list[bytes], kept_alive: bool, inject: Inject
) -> None:
    """It is the client's receive that meets the silence, and no send."""
    arrived = queue.SimpleQueue[int]()

    def read(connection: socket.socket) -> None:
        came = 0
        with contextlib.suppress(OSError):
            while data := connection.recv(1 << 20):
                came += len(data)
                if came == sum(map(len, before)):
                    connection.sendall(b"a cup")
        arrived.put(came)

    with (
        serve(read) as port,
        inject("network_failure", mode="timeout", target=HOST, nth=2) as silence,
        socket.create_connection((HOST, port), timeout=PATIENCE) as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, kept_alive)
        for data in before:
            sock.sendall(data)
        sock.settimeout(0.2)
        assert outcome(lambda: sock.recv(1)) == "TimeoutError None"
        sock.settimeout(PATIENCE)
        for data in [*after, b"quit"]:
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert arrived.get(timeout=PATIENCE) == sum(map(len, [*before, *after, b"quit"]))
    assert silence.hits == 1


def ends_sending(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 200_000))


@pytest.mark.parametrize("ends", [ends_sending, ends_unacknowledged])
def test_a_silent_connect_obeys_what_the_client_has_set_in_the_kernel(
    ends: Callable[[socket.socket], None], echo_port: int, inject: Inject
) -> None:
    def met(port: int) -> str:
        with socket.socket() as sock:
            ends(sock)
            return outcome(lambda: sock.connect((HOST, port)))

    with full_backlog() as port:
        real = met(port)
    parameters: dict[str, Any] = {"mode": "timeout", "rate": 1, "duration": 2 * PATIENCE}
    with inject("network_failure", **parameters) as silence:
        assert met(echo_port) == real
    assert silence.hits == 1


@pytest.mark.parametrize(("retries", "seconds"), [(1, 3), (4, 31)])
def test_a_silent_connect_is_tried_as_often_as_the_client_has_set(
    retries: int, seconds: int, echo_port: int
) -> None:
    """The kernel's own waits for 1, 2, 4 … seconds; here they are over at once."""
    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, retries)
        with injecting(engine.start)("network_failure", mode="timeout", rate=1):
            began = clock.monotonic()
            met = outcome(lambda: sock.connect((HOST, echo_port)))
            assert clock.monotonic() - began == pytest.approx(seconds)
    assert met == f"TimeoutError {errno.ETIMEDOUT}"


def test_a_delay_obeys_the_timeout_that_the_kernel_has(echo_port: int, inject: Inject) -> None:
    with socket.create_connection((HOST, echo_port)) as sock:
        ends_receiving(sock)
        with inject("network_latency", delay=PATIENCE):
            sock.sendall(b"tea")
            assert outcome(lambda: sock.recv(1)) == f"BlockingIOError {errno.EAGAIN}"
        with inject("network_latency", delay=0.001, target="127.0.0.1"):
            assert sock.recv(3) == b"tea"
            assert outcome(lambda: sock.recv(1)) == f"BlockingIOError {errno.EAGAIN}"

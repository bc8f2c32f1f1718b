"""What happens to what a client sends is what really happens when the peer does it."""

from __future__ import annotations

import asyncio
import contextlib
import logging.handlers
import select
import selectors
import socket
import ssl
import struct
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest
import requests
import trio

from pytest_resilience import ChaosExperiment
from pytest_resilience import ManualClock
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import met
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.resets import reset_when_closed
from tests.waiting import eventually


UPLOAD = bytes(20 << 20)
LIMIT = 1 << 20
UPSTREAM: dict[str, Any] = {"stream": "upstream", "rate": 1}


class Sink:
    """A server that counts what reaches it, and never answers."""

    def __init__(self, limit: int = 1 << 40, *, end: Callable[[socket.socket], object] = bool):
        self.received = 0
        self.over = threading.Event()
        self._limit = limit
        self._end = end

    def __call__(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while self.received < self._limit and (data := connection.recv(65536)):
                self.received += len(data)
        self._end(connection)
        self.over.set()


def reset(connection: socket.socket) -> None:
    reset_when_closed(connection)


# Each uploads over a connection that is open, and tells what it met.


def with_sendall(port: int) -> str:
    with socket.create_connection((HOST, port), timeout=10) as client:
        return outcome(lambda: client.sendall(UPLOAD))


def with_send(port: int) -> str:
    with socket.create_connection((HOST, port), timeout=10) as client:

        def upload() -> None:
            sent = 0
            while sent < len(UPLOAD):
                sent += client.send(UPLOAD[sent:])

        return outcome(upload)


def with_sendmsg(port: int) -> str:
    with socket.create_connection((HOST, port), timeout=10) as client:

        def upload() -> None:
            sent = 0
            while sent < len(UPLOAD):
                sent += client.sendmsg([UPLOAD[sent : sent + 100], UPLOAD[sent + 100 :]])

        return outcome(upload)


PIECES = [UPLOAD[at : at + 65536] for at in range(0, len(UPLOAD), 65536)]


def send_each(client: socket.socket, pieces: list[bytes]) -> None:
    for piece in pieces:
        client.sendall(piece)


def in_pieces(port: int) -> str:
    """As ftplib sends files: each call is of its own."""
    with socket.create_connection((HOST, port), timeout=10) as client:
        return outcome(lambda: send_each(client, PIECES))


def with_a_selector(port: int) -> str:
    with (
        socket.create_connection((HOST, port), timeout=10) as client,
        selectors.DefaultSelector() as selector,
    ):
        client.setblocking(False)
        selector.register(client, selectors.EVENT_WRITE)

        def upload() -> None:
            sent = 0
            while sent < len(UPLOAD):
                assert selector.select(10)
                with contextlib.suppress(BlockingIOError):
                    sent += client.send(UPLOAD[sent:])

        return outcome(upload)


def with_sendto(port: int) -> str:
    with socket.create_connection((HOST, port), timeout=10) as client:
        peer = client.getpeername()

        def upload() -> None:
            sent = 0
            while sent < len(UPLOAD):
                sent += client.sendto(UPLOAD[sent : sent + LIMIT], peer)
                sent += client.sendto(UPLOAD[sent:], 0, peer)

        return outcome(upload)


def with_streams(port: int) -> str:
    async def upload() -> str:
        _, writer = await asyncio.open_connection(HOST, port)
        with contextlib.closing(writer):
            try:
                writer.write(UPLOAD)
                await asyncio.wait_for(writer.drain(), 10)
                for _ in range(100):  # it may be told with the next
                    writer.write(b"more")
                    await asyncio.wait_for(writer.drain(), 10)
                    await asyncio.sleep(0.001)
            except OSError as error:
                return f"{type(error).__name__} {error.errno}"
        return "sent"

    return asyncio.run(upload())


def with_streams_in_pieces(port: int) -> str:
    async def upload() -> str:
        _, writer = await asyncio.open_connection(HOST, port)
        with contextlib.closing(writer):
            try:
                for piece in PIECES:
                    writer.write(piece)
                    await asyncio.wait_for(writer.drain(), 10)
                    await asyncio.sleep(0)
            except OSError as error:
                return type(error).__name__
        return "sent"

    return asyncio.run(upload())


def with_trio(port: int) -> str:
    async def upload() -> str:
        with trio.fail_after(10):
            async with await trio.open_tcp_stream(HOST, port) as stream:
                try:
                    await stream.send_all(UPLOAD)
                except trio.BrokenResourceError as error:
                    cause = error.__cause__
                    return f"{type(cause).__name__} {getattr(cause, 'errno', None)}"
        return "sent"

    return trio.run(upload)


async def anyio_upload(port: int) -> str:
    with anyio.fail_after(10):
        async with await anyio.connect_tcp(HOST, port) as stream:
            try:
                await stream.send(UPLOAD)
            except anyio.BrokenResourceError as error:
                cause = error.__cause__
                return f"{type(cause).__name__} {getattr(cause, 'errno', None)}"
    return "sent"


def with_anyio(port: int) -> str:
    return anyio.run(anyio_upload, port)


def with_anyio_on_trio(port: int) -> str:
    return anyio.run(anyio_upload, port, backend="trio")


Upload = Callable[[int], str]
EVERY: list[Upload] = [
    with_sendall, with_send, with_sendmsg, with_sendto, with_a_selector, with_streams, with_trio,
    with_anyio, with_anyio_on_trio,
]  # fmt: skip
every_way = pytest.mark.parametrize("upload", EVERY, ids=lambda each: each.__name__)


@every_way
def test_a_reset_in_the_middle_of_an_upload(upload: Upload, inject: Inject) -> None:
    with serve(Sink(LIMIT, end=reset)) as port:
        real = upload(port)
    sink = Sink()
    with (
        serve(sink) as port,
        inject("network_failure", after_bytes=LIMIT, end="reset", **UPSTREAM) as cut,
    ):
        injected = upload(port)
        assert sink.over.wait(10)
    assert injected == real == "ConnectionResetError 104"
    assert sink.received == LIMIT
    assert (cut.matched, cut.hits) == (1, 1)


class Talker(Sink):
    """A server that reads slowly, and says something whenever it has."""

    def __call__(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with contextlib.suppress(OSError):
            while data := connection.recv(4096):
                self.received += len(data)
                with contextlib.suppress(OSError):  # reset, and there is more to read
                    connection.send(b".")
        self.over.set()


@every_way
@pytest.mark.parametrize("end", ["reset", "eof"])
def test_what_was_sent_before_the_cut_arrives_at_who_is_slow(
    upload: Upload, end: str, inject: Inject
) -> None:
    """Though it speaks meanwhile, to which a client that has gone answers with RST."""
    sink = Talker()
    with serve(sink) as port:
        with inject("network_failure", after_bytes=LIMIT, end=end, **UPSTREAM) as cut:
            assert upload(port) != "sent"
        assert sink.over.wait(10)
    assert sink.received == LIMIT
    assert cut.hits == 1


@contextlib.contextmanager
def taking_nothing(sink: Sink) -> Iterator[tuple[socket.socket, threading.Event]]:
    """A client of a server that begins to read when the event is set."""
    read_on = threading.Event()

    def answer(connection: socket.socket) -> None:
        read_on.wait(10)
        sink(connection)

    with serve(answer) as port, socket.create_connection((HOST, port), timeout=10) as client:
        yield client, read_on


@pytest.mark.parametrize("timeout", ["Python's", "the kernel's"])
def test_who_waits_for_the_cut_waits_no_longer_than_its_timeout(
    timeout: str, inject: Inject
) -> None:
    """A peer that takes nothing more never comes to end the connection."""
    sink = Sink()
    with (
        taking_nothing(sink) as (client, read_on),
        inject("network_failure", after_bytes=LIMIT, end="reset", **UPSTREAM) as cut,
    ):
        client.settimeout(0.05 if timeout == "Python's" else None)
        if timeout == "the kernel's":
            patience = struct.pack("@ll", 0, 50_000)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        met = outcome(lambda: client.sendall(UPLOAD))
        read_on.set()
        client.settimeout(10)
        assert outcome(lambda: client.sendall(b"more")) == "ConnectionResetError 104"
        assert sink.over.wait(10)
    assert met == ("TimeoutError None" if timeout == "Python's" else "BlockingIOError 11")
    assert sink.received == LIMIT
    assert cut.hits == 1


def test_who_polls_is_not_told_in_vain_before_the_cut(inject: Inject) -> None:
    sink = Sink()
    with (
        taking_nothing(sink) as (client, read_on),
        selectors.DefaultSelector() as selector,
        inject("network_failure", after_bytes=LIMIT, end="reset", **UPSTREAM),
    ):
        client.setblocking(False)
        selector.register(client, selectors.EVENT_WRITE)
        assert client.send(UPLOAD) == LIMIT
        assert outcome(lambda: client.send(UPLOAD)) == "BlockingIOError 11"
        assert not selector.select(0.05)
        read_on.set()
        while (met := outcome(lambda: client.send(UPLOAD))) == "BlockingIOError 11":
            assert selector.select(10)
        assert met == "ConnectionResetError 104"
        assert sink.over.wait(10)
    assert sink.received == LIMIT


@every_way
def test_an_upload_that_is_reset_at_once_lets_nothing_arrive(
    upload: Upload, inject: Inject
) -> None:
    sink = Sink()
    with serve(sink) as port, inject("network_failure", mode="reset", **UPSTREAM) as lost:
        assert upload(port) == "ConnectionResetError 104"
        assert sink.over.wait(10)
    assert sink.received == 0
    assert lost.hits >= 1


@pytest.mark.parametrize("upload", [in_pieces, with_streams_in_pieces])
@pytest.mark.parametrize("end", ["reset", "eof"])
def test_an_upload_in_many_calls_is_cut_off_after_all_of_them(
    upload: Upload, end: str, inject: Inject
) -> None:
    sink = Sink()
    with (
        serve(sink) as port,
        inject("network_failure", after_bytes=LIMIT, end=end, **UPSTREAM) as cut,
    ):
        met = upload(port)
        assert sink.over.wait(10)
    ends = {"reset": "ConnectionResetError", "eof": "BrokenPipeError"}
    # A stream whose transport is gone says so by itself: that its connection is lost.
    assert met.split()[0] in {ends[end], *(["ConnectionResetError"] if upload != in_pieces else [])}
    assert sink.received == LIMIT
    assert (cut.matched, cut.hits) == (1, 1)


def test_what_is_sent_after_an_answer_is_another_upload(echo_port: int, inject: Inject) -> None:
    with (
        socket.create_connection((HOST, echo_port), timeout=10) as client,
        inject("network_failure", after_bytes=5, end="reset", **UPSTREAM) as cut,
    ):
        for _ in range(3):
            client.sendall(b"tea")
            assert client.recv(10) == b"tea"
        assert (cut.matched, cut.hits) == (3, 0)
        client.sendall(b"tea")
        client.sendall(b"tea")  # which the kernel takes
        assert outcome(lambda: client.sendall(b"tea")) == "ConnectionResetError 104"
    assert (cut.matched, cut.hits) == (4, 1)


@pytest.mark.parametrize(
    ("mode", "met"), [("reset", "ConnectionResetError 104"), ("close", "BrokenPipeError 32")]
)
def test_an_outage_that_begins_in_the_middle_of_a_request_ends_its_upload(
    mode: str, met: str
) -> None:
    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    parameters = {"mode": mode, "between": "5s..60s", **UPSTREAM}
    outage = engine.start(ChaosExperiment("outage", "network_failure", **parameters), seed=1)
    with (
        contextlib.ExitStack() as stack,
        serve(Sink()) as port,
        socket.create_connection((HOST, port), timeout=10) as client,
    ):
        stack.callback(outage.stop)
        send_each(client, [b"POST / HTTP/1.1\r\nContent-Length: 9999\r\n\r\n", b"tea"])
        assert (outage.matched, outage.hits) == (1, 0)  # before its time
        clock.advance(6)
        assert outcome(lambda: send_each(client, [b"tea"] * 3)) == met
    assert (outage.matched, outage.hits) == (2, 1)


@pytest.mark.parametrize(
    ("mode", "met"), [("reset", "ConnectionResetError 104"), ("close", "None")]
)
def test_what_is_sent_on_a_connection_that_has_ended_is_no_hit(
    mode: str, met: str, inject: Inject
) -> None:
    with (
        serve(Sink()) as port,
        socket.create_connection((HOST, port), timeout=10) as client,
        inject("network_failure", mode=mode, **UPSTREAM) as lost,
    ):
        found = [outcome(lambda: client.sendall(b"tea")) for _ in range(4)]
    assert found == [met, *["BrokenPipeError 32"] * 3]
    assert (lost.matched, lost.hits) == (1, 1)


def half_an_answer(connection: socket.socket) -> None:
    """And the end, in good order."""
    assert connection.recv(65536)
    connection.sendall(b"te")


def whole_answers(connection: socket.socket) -> None:
    while connection.recv(65536):
        connection.sendall(b"teas")


@pytest.mark.parametrize("timeout", [10, 0], ids=["blocking", "not blocking"])
@pytest.mark.parametrize("reads_end", [True, False])
def test_what_is_sent_after_a_response_was_cut_off_is_lost_and_then_fails(
    reads_end: bool, timeout: float, inject: Inject
) -> None:
    def story(port: int) -> list[str]:
        with socket.create_connection((HOST, port), timeout=timeout or 10) as client:
            client.settimeout(timeout)
            client.sendall(b"tea")
            _until(client, select.POLLIN)
            found = [outcome(lambda: client.recv(10))]
            _until(client, select.POLLIN)  # its end
            found += [outcome(lambda: client.recv(1))] * reads_end
            found.append(outcome(lambda: client.send(b"more")))
            _until(client, 0)  # the peer has said that it takes no more
            found.append(outcome(lambda: client.recv(1)))
            return [*found, outcome(lambda: client.send(b"more"))]

    with serve(half_an_answer) as port:
        real = story(port)
    with serve(whole_answers) as port:
        target = f"{HOST}:{port}"
        with inject("network_failure", mode="truncate", target=target) as cut_off:
            assert story(port) == real
    assert (cut_off.matched, cut_off.hits) == (1, 1)


def _until(sock: socket.socket, event: int) -> None:
    """Wait for that, or for an end of both directions."""
    poll = select.poll()
    poll.register(sock, event)
    assert poll.poll(10_000)


def over_tls(trust: Trust, port: int, action: Callable[[socket.socket], str]) -> str:
    with (
        socket.create_connection((HOST, port), timeout=10) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as client,
    ):
        return action(client)


@pytest.mark.parametrize("mode", ["reset", "truncate"])
@pytest.mark.parametrize("parts", [[UPLOAD], PIECES], ids=["at once", "in pieces"])
def test_an_upload_over_tls(parts: list[bytes], mode: str, trust: Trust, inject: Inject) -> None:
    def upload(client: socket.socket) -> str:
        return outcome(lambda: send_each(client, parts))

    limit = LIMIT if mode == "truncate" else 0
    given = {"after_bytes": limit, "end": "reset"} if limit else {}
    with serve(trust.over_tls(Sink(LIMIT, end=reset))) as port:
        real = over_tls(trust, port, upload)
    sink = Sink()
    with (
        serve(trust.over_tls(sink)) as port,
        inject("network_failure", mode=mode, **given, **UPSTREAM) as cut,
    ):
        assert over_tls(trust, port, upload) == real
        assert sink.over.wait(10)
    assert sink.received == limit
    assert cut.hits == 1


# Each sends pieces in a loop, with TLS made above the socket, until it is told.


async def over_streams(port: int, trust: Trust, pieces: list[bytes]) -> None:
    _, writer = await asyncio.open_connection(HOST, port, ssl=trust.client)
    try:
        for piece in [*pieces, *[b"more"] * 100]:  # it is told with the next
            writer.write(piece)
            await asyncio.wait_for(writer.drain(), 10)
            await asyncio.sleep(0.001)
    except ConnectionError:
        is_told = True  # by which one depends on what the loop has come to first
    else:
        is_told = False
    finally:
        writer.transport.abort()
    if is_told:
        raise ConnectionError


async def over_anyio(port: int, trust: Trust, pieces: list[bytes]) -> None:
    with anyio.fail_after(10):
        stream = await anyio.connect_tcp(HOST, port, ssl_context=trust.client, tls_hostname=HOST)
        try:
            for piece in [*pieces, *[b"more"] * 100]:
                await stream.send(piece)
                await anyio.sleep(0.001)
        finally:
            await anyio.aclose_forcefully(stream)


async def over_trio(port: int, trust: Trust, pieces: list[bytes]) -> None:
    with trio.fail_after(10):
        plain = await trio.open_tcp_stream(HOST, port)
        stream = trio.SSLStream(plain, trust.client, server_hostname=HOST)
        try:
            for piece in [*pieces, *[b"more"] * 100]:
                await stream.send_all(piece)
                await trio.sleep(0.001)
        finally:
            await trio.aclose_forcefully(stream)


def over_a_socket(port: int, trust: Trust, pieces: list[bytes]) -> None:
    """Records are sent in other pieces than they are made."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trust.client.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with socket.create_connection((HOST, port), timeout=10) as client:
        while tls.version() is None:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            client.sendall(outgoing.read())
            if tls.version() is None:
                incoming.write(client.recv(65536))
        for piece in [*pieces, *[b"more"] * 100]:
            tls.write(piece)
            while outgoing.pending:
                client.sendall(outgoing.read(1001))
            time.sleep(0.001)


def here(upload: Any, *given: Any) -> None:
    upload(*given)


def in_asyncio(upload: Any, *given: Any) -> None:
    asyncio.run(upload(*given))


def in_trio(upload: Any, *given: Any) -> None:
    trio.run(upload, *given)


SEALED = [(over_streams, in_asyncio), (over_anyio, in_asyncio), (over_anyio, in_trio),
          (over_trio, in_trio), (over_a_socket, here)]  # fmt: skip


def shut(connection: socket.socket) -> None:
    """Close in good order, though there is more to read."""
    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of TCP, below TLS


@pytest.mark.parametrize(
    "ending",
    [
        ({"mode": "reset"}, 0, reset),
        ({"mode": "close"}, 0, shut),
        ({"after_bytes": LIMIT, "end": "reset"}, LIMIT, reset),
        ({"after_bytes": LIMIT, "end": "eof"}, LIMIT, shut),
    ],
    ids=["reset", "closed", "reset in the middle", "cut in the middle"],
)
@pytest.mark.parametrize("parts", [[UPLOAD], PIECES], ids=["at once", "in pieces"])
@pytest.mark.parametrize("way", SEALED, ids=lambda way: ", ".join(each.__name__ for each in way))
def test_an_upload_whose_tls_is_above_the_socket(
    way: Any, parts: list[bytes], ending: Any, trust: Trust, inject: Inject
) -> None:
    """So much arrives, and who sends more is told so as by a server that really does it."""
    upload, run = way
    given, limit, end = ending

    def refuse(connection: socket.socket) -> None:
        Sink(max(1, limit), end=end)(connection)

    with serve(trust.over_tls(refuse)) as port:
        real = met(lambda: run(upload, port, trust, parts))
    sink = Sink()
    with (
        serve(trust.over_tls(sink)) as port,
        inject("network_failure", **given, **UPSTREAM) as cut,
    ):
        assert met(lambda: run(upload, port, trust, parts)) == real
        assert sink.over.wait(10)
    assert sink.received == limit
    assert (cut.matched, cut.hits) == (1, 1)


@pytest.mark.filterwarnings("ignore:.*Async generator.*")  # httpx's own, on trio
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("end", ["reset", "eof"])
@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_an_upload_of_httpx_in_a_loop(
    run: Any, end: str, sealed: bool, trust: Trust, inject: Inject
) -> None:
    """TLS is made above the socket there. The head is not counted."""

    async def post(port: int) -> str:
        url = f"{'https' if sealed else 'http'}://{HOST}:{port}/"
        async with httpx.AsyncClient(verify=trust.client, timeout=10) as client:
            try:
                return str(await client.post(url, content=UPLOAD))
            except httpx.TransportError as error:
                return type(error).__name__

    sink = Sink()
    with (
        serve(trust.over_tls(sink) if sealed else sink) as port,
        inject("network_failure", after_bytes=LIMIT, end=end, **UPSTREAM) as cut,
    ):
        met = run(post, port) if run is trio.run else run(post(port))
        assert sink.over.wait(10)
    assert met in {"WriteError", "ReadError", "RemoteProtocolError"}
    assert LIMIT <= sink.received < LIMIT + 1000
    assert (cut.matched, cut.hits) == (1, 1)


def test_an_upload_of_requests_is_one_message_and_its_body_is_damaged(inject: Inject) -> None:
    bodies: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        data = b""
        while len(data.partition(b"\r\n\r\n")[2]) < 30:
            data += connection.recv(65536)
        bodies.append(data.partition(b"\r\n\r\n")[2])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with (
        serve(answer) as port,
        inject("network_failure", mode="corrupt", share=1, **UPSTREAM) as damage,
    ):
        requests.post(f"http://{HOST}:{port}/", data=b"x" * 30, timeout=10)
    assert len(bodies[0]) == 30
    assert b"x" not in bodies[0]
    assert (damage.matched, damage.hits) == (1, 1)


@pytest.mark.parametrize("mode", ["reset", "close"])
def test_who_only_sends_meets_it(mode: str, inject: Inject) -> None:
    """As a handler of logs does: the third record is the first that does not arrive."""
    sink = Sink()
    with serve(sink) as port:
        handler = logging.handlers.SocketHandler(HOST, port)
        record = logging.makeLogRecord({"msg": "tea"})
        with (
            contextlib.closing(handler),
            inject("network_failure", mode=mode, stream="upstream", nth=3) as failure,
        ):
            for _ in range(3):
                handler.emit(record)
            assert sink.over.wait(10)
            arrived = sink.received
            if mode == "close":  # what the kernel took, and then nobody was there
                assert handler.sock is not None
                handler.emit(record)
            assert handler.sock is None  # so it connects again
    assert arrived == 2 * len(handler.makePickle(record))
    assert failure.hits == 1


def test_a_kept_connection_is_closed_as_it_is_used(inject: Inject) -> None:
    asked: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            asked.append(data)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def answer_once(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        closing.wait(10)

    closing = threading.Event()

    def met(client: socket.socket) -> list[str]:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.recv(100)
        closing.set()
        return [
            outcome(lambda: client.sendall(b"POST / HTTP/1.1\r\n\r\n")),
            outcome(lambda: client.recv(100)),
            outcome(lambda: client.sendall(b"more")),
        ]

    with serve(answer_once) as port, socket.create_connection((HOST, port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.recv(100)
        closing.set()
        assert eventually(lambda: select_readable(client))
        real = [
            outcome(lambda: client.sendall(b"POST / HTTP/1.1\r\n\r\n")),
            outcome(lambda: client.recv(100)),
            outcome(lambda: client.sendall(b"more")),
        ]
    with (
        serve(answer) as port,
        socket.create_connection((HOST, port), timeout=10) as client,
        inject("network_failure", mode="close", stream="upstream", nth=2) as closed,
    ):
        assert met(client) == real
    assert len(asked) == 1
    assert closed.hits == 1


def select_readable(client: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ)
        return bool(selector.select(10))


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "TLS"])
def test_a_slow_upload_takes_its_time_and_meets_the_timeout(
    sealed: bool, trust: Trust, inject: Inject
) -> None:
    def timed(client: socket.socket) -> str:
        started = time.monotonic()
        client.sendall(bytes(5000))
        took = time.monotonic() - started
        client.settimeout(0.02)
        return f"{took >= 0.05} {outcome(lambda: client.sendall(bytes(5000)))}"

    sink = Sink()
    with (
        serve(trust.over_tls(sink) if sealed else sink) as port,
        inject("network_latency", bandwidth="100kB", stream="upstream") as thin,
    ):
        if sealed:
            met = over_tls(trust, port, timed)
        else:
            with socket.create_connection((HOST, port), timeout=10) as client:
                met = timed(client)
    assert met == "True TimeoutError None"
    assert thin.hits == 2
    assert thin.delay >= 0.06


@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_a_slow_upload_stops_no_loop(run: Any, inject: Inject) -> None:
    async def by_asyncio(port: int) -> tuple[float, int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        _, writer = await asyncio.open_connection(HOST, port)
        writer.transport.set_write_buffer_limits(0)
        counting = asyncio.ensure_future(count())
        started = time.monotonic()
        writer.write(bytes(5000))
        await asyncio.wait_for(writer.drain(), 10)
        took = time.monotonic() - started
        counting.cancel()
        writer.close()
        return took, turns

    async def by_trio(port: int) -> tuple[float, int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        stream = await trio.open_tcp_stream(HOST, port)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(count)
            started = time.monotonic()
            await stream.send_all(bytes(5000))
            took = time.monotonic() - started
            nursery.cancel_scope.cancel()
        return took, turns

    with (
        serve(Sink()) as port,
        inject("network_latency", bandwidth="20kB", stream="upstream") as thin,
    ):
        took, turns = run(by_trio, port) if run is trio.run else run(by_asyncio(port))
    assert took >= 0.25  # of which a process that waits for a processor cannot miss all
    assert turns > 10
    assert thin.hits == 1


def test_a_stalled_upload_meets_the_timeout_once_the_kernel_takes_no_more(inject: Inject) -> None:
    sink = Sink()
    with serve(sink) as port, inject("network_failure", mode="timeout", **UPSTREAM) as silence:
        with socket.create_connection((HOST, port), timeout=0.05) as client:
            client.sendall(b"hello")
            assert outcome(lambda: client.recv(1)) == "TimeoutError None"
            assert outcome(lambda: client.sendall(UPLOAD)) == "TimeoutError None"
            assert sink.received == 0
        assert silence.hits == 1


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("at_once", [True, False])
def test_an_upload_that_stalls_in_the_middle_meets_the_timeout(
    sealed: bool, trust: Trust, inject: Inject, *, at_once: bool
) -> None:
    """No kernel takes so much of what nobody acknowledges; nor is there room for more later."""

    def stalled(client: socket.socket) -> str:
        client.settimeout(0.05)
        met = [outcome(lambda: send_each(client, [UPLOAD] if at_once else PIECES))]
        met.append(outcome(lambda: client.send(b"x")))
        over.set()
        return " ".join(met)

    over = threading.Event()
    sink = Sink(end=lambda _: over.wait(10))
    with (
        serve(trust.over_tls(sink) if sealed else sink) as port,
        inject("network_failure", mode="timeout", after_bytes=LIMIT, **UPSTREAM) as silence,
    ):
        if sealed:
            met = over_tls(trust, port, stalled)
        else:
            with socket.create_connection((HOST, port), timeout=10) as client:
                met = stalled(client)
        assert sink.over.wait(10)
    assert met == "TimeoutError None TimeoutError None"
    assert sink.received == LIMIT
    assert silence.hits == 1


@pytest.mark.parametrize(
    "way", SEALED[1:4], ids=lambda way: ", ".join(each.__name__ for each in way)
)
def test_an_upload_that_stalls_in_the_middle_is_never_sent_above_tls(
    way: Any, trust: Trust, inject: Inject
) -> None:
    """A stream of asyncio takes all there is."""
    upload, run = way

    async def wait(port: int) -> None:
        sent = anyio.Event()

        async def send() -> None:
            await upload(port, trust, [UPLOAD])
            sent.set()

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            while sink.received < LIMIT:  # noqa: ASYNC110  # of a thread
                await anyio.sleep(0.001)
            with anyio.move_on_after(0.05):
                await sent.wait()
            group.cancel_scope.cancel()
        assert not sent.is_set()

    sink = Sink()
    with (
        serve(trust.over_tls(sink)) as port,
        inject("network_failure", mode="timeout", after_bytes=LIMIT, **UPSTREAM) as silence,
    ):
        run(wait, port)
        assert sink.over.wait(10)
    assert sink.received == LIMIT
    assert silence.hits == 1


@pytest.mark.parametrize(
    ("mode", "stream"), [("timeout", UPSTREAM), ("partition", {"from_nth": 2})]
)
@pytest.mark.parametrize("at_once", [False, True], ids=["SO_SNDTIMEO", "MSG_DONTWAIT"])
@pytest.mark.parametrize("upload", ["sendall", "send", "sendmsg"])
def test_a_stalled_upload_waits_no_longer_than_the_kernel_is_told(
    upload: str, mode: str, stream: dict[str, Any], inject: Inject, *, at_once: bool
) -> None:
    """Beside a peer that really does not read: what was taken counts as sent."""

    def met(port: int) -> str:
        with socket.create_connection((HOST, port)) as client:
            limit = struct.pack("@ll", *((0, 0) if at_once else (0, 100_000)))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            send, flags = getattr(client, upload), [socket.MSG_DONTWAIT] if at_once else []
            given = [[UPLOAD], []] if upload == "sendmsg" else [UPLOAD]
            told = "0"
            while told.isdigit():  # what was taken: the kernel may take a little more after that
                told = outcome(lambda: send(*given, *flags))
            return told

    over = threading.Event()

    def stall(_: socket.socket) -> None:
        over.wait(10)

    with serve(stall) as port:
        real = met(port)
        over.set()
    sink = Sink()
    with serve(sink) as port, inject("network_failure", mode=mode, **stream) as silence:
        injected = met(port)
        assert sink.received == 0
    assert injected == real
    assert real == "BlockingIOError 11"
    assert silence.hits >= 1


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "TLS"])
def test_a_request_that_is_late_is_answered_late(
    sealed: bool, echo_port: int, tls_echo_port: int, trust: Trust, inject: Inject
) -> None:
    def timed(client: socket.socket) -> str:
        started = time.monotonic()
        client.sendall(b"hello")
        sent = time.monotonic() - started
        assert client.recv(100) == b"hello"
        took = time.monotonic() - started
        client.settimeout(0.02)
        client.sendall(b"hello")
        return f"{sent < took} {took >= 0.05} {outcome(lambda: client.recv(100))}"

    with inject("network_latency", delay=0.05, stream="upstream") as late:
        if sealed:
            met = over_tls(trust, tls_echo_port, timed)
        else:
            with socket.create_connection((HOST, echo_port), timeout=10) as client:
                met = timed(client)
    assert met == "True True TimeoutError None"
    assert late.matched == 2


def test_both_directions_are_late_together(echo_port: int, inject: Inject) -> None:
    with (
        socket.create_connection((HOST, echo_port), timeout=10) as client,
        inject("network_latency", delay=0.03, stream="both") as late,
    ):
        started = time.monotonic()
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        assert time.monotonic() - started >= 0.06
    assert (late.matched, late.hits) == (2, 2)


def test_who_only_sends_notices_no_latency_and_it_is_no_hit(engine: Engine) -> None:
    with serve(Sink()) as port, socket.create_connection((HOST, port), timeout=10) as client:
        late = engine.start(
            ChaosExperiment("late", "network_latency", delay=0.05, stream="upstream"), seed=1
        )
        client.sendall(b"tea:1|c")
        late.stop()
    assert (late.matched, late.hits, late.proves_nothing) == (1, 0, True)


@pytest.fixture
def tls_echo_port(trust: Trust) -> Iterator[int]:
    with serve(trust.over_tls(echo)) as port:
        yield port


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)

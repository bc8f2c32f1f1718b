"""Clients of UDP, each with a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import selectors
import socket
import threading
import time

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aioquic.h3.connection
import aioquic.h3.events
import aioquic.quic.events
import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.message
import dns.query
import dns.rrset
import pytest
import statsd
import trio
import trustme

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from tests.fidelity_page import Section
from tests.fidelity_page import assert_complete
from tests.injecting import Inject


HOST = "127.0.0.1"
PATIENCE = 20.0  # seconds
SHORT = 0.05  # seconds, where nothing comes
LONGER = 0.5  # seconds, in which a query is sent, though its answer is not received


class Server:
    """Receives datagrams, and answers what `answer` makes of each.

    Attributes:
        port: its port.
        received: what has come, in order.
    """

    def __init__(self, sock: socket.socket, answer: Callable[[bytes], bytes | None]) -> None:
        self.port: int = sock.getsockname()[1]
        self.received: list[bytes] = []
        self._sock = sock
        self._answer = answer
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def target(self) -> str:
        return f"{HOST}:{self.port}"

    def wait_for(self, count: int) -> list[bytes]:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.received) >= count, PATIENCE)
            return list(self.received)

    def _run(self) -> None:
        while True:
            data, client = self._sock.recvfrom(65535)
            if data == b"end":
                return
            with self._arrived:
                self.received.append(data)
                self._arrived.notify_all()
            answer = self._answer(data)
            if answer is not None:
                self._sock.sendto(answer, client)

    def end(self) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", (HOST, self.port))
        self._thread.join(PATIENCE)


@contextlib.contextmanager
def serving(answer: Callable[[bytes], bytes | None]) -> Iterator[Server]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        server = Server(sock, answer)
        yield server
        server.end()


# --- names, by dnspython ---


def resolved(wire: bytes) -> bytes:
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "10.0.0.7"))
    return response.to_wire()


@pytest.fixture
def name_server() -> Iterator[Server]:
    with serving(resolved) as server:
        yield server


def query() -> dns.message.Message:
    return dns.message.make_query("shop.test", "A")


def ask(port: int, timeout: float) -> dns.message.Message:
    return dns.query.udp(query(), HOST, timeout, port)


def ask_in_asyncio(port: int, timeout: float) -> dns.message.Message:
    return asyncio.run(dns.asyncquery.udp(query(), HOST, timeout, port))


def ask_in_trio(port: int, timeout: float) -> dns.message.Message:
    async def story() -> dns.message.Message:
        backend = dns.asyncbackend.get_backend("trio")
        return await dns.asyncquery.udp(query(), HOST, timeout, port, backend=backend)

    return trio.run(story)


@pytest.fixture(params=[ask, ask_in_asyncio, ask_in_trio], ids=["blocking", "asyncio", "trio"])
def resolve(request: pytest.FixtureRequest, name_server: Server) -> Callable[[float], str]:
    def resolve(timeout: float = PATIENCE) -> str:
        return str(request.param(name_server.port, timeout).answer[0][0])

    return resolve


@pytest.mark.parametrize("number", [1, 2], ids=["query", "answer"])
def test_dnspython_loses_one(
    inject: Inject, name_server: Server, resolve: Callable[..., str], number: int
) -> None:
    given = {"mode": "drop", "nth": number, "target": name_server.target}
    with inject("network_failure", **given) as loss:
        with pytest.raises(dns.exception.Timeout):
            resolve(LONGER)
        assert resolve() == "10.0.0.7"
    assert loss.hits == 1
    assert len(name_server.received) == number


def test_dnspython_waits(inject: Inject, name_server: Server, resolve: Callable[..., str]) -> None:
    with (
        inject("network_latency", delay="1h", target=name_server.target) as latency,
        pytest.raises(dns.exception.Timeout),
    ):
        resolve(LONGER)
    assert latency.hits == 1
    with inject("network_latency", delay="50ms", target=name_server.target) as latency:
        assert resolve() == "10.0.0.7"
    assert latency.hits == 1
    assert latency.delay >= 0.04


def test_dnspython_gets_it_twice(
    inject: Inject, name_server: Server, resolve: Callable[..., str]
) -> None:
    given = {"mode": "duplicate", "rate": 1, "target": name_server.target}
    with inject("network_failure", **given):
        assert resolve() == "10.0.0.7"
    assert len(name_server.wait_for(2)) == 2


# --- statsd ---


@pytest.fixture
def statsd_server() -> Iterator[Server]:
    with serving(lambda _: None) as server:
        yield server


def count_to(number: int, port: int) -> None:
    client = statsd.StatsClient(HOST, port)
    for each in range(1, number + 1):
        client.gauge("stock", each)
    client.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode": "drop", "every": 2}, "135"),
        ({"mode": "duplicate", "nth": 2}, "122345"),
        ({"mode": "reorder", "first": 1}, "21345"),
        ({"mode": "reorder", "rate": 1}, "21435"),
        ({"mode": "refuse", "from_nth": 4}, "123"),
    ],
)
def test_statsd(inject: Inject, statsd_server: Server, given: Any, expected: str) -> None:
    with inject("network_failure", target=statsd_server.target, **given):
        count_to(5, statsd_server.port)
    received = statsd_server.wait_for(len(expected))
    assert [each.decode() for each in received] == [f"stock:{each}|g" for each in expected]


# --- HTTP/3, by aioquic ---


class Answering(QuicConnectionProtocol):
    """A server of HTTP/3."""

    def quic_event_received(self, event: aioquic.quic.events.QuicEvent) -> None:
        http = self.__dict__.setdefault("http", None)
        if http is None:
            http = self.__dict__["http"] = aioquic.h3.connection.H3Connection(self._quic)
        for each in http.handle_event(event):
            if isinstance(each, aioquic.h3.events.HeadersReceived):
                http.send_headers(each.stream_id, [(b":status", b"200")])
                http.send_data(each.stream_id, bytes(30000), end_stream=True)
                self.transmit()


class Asking(QuicConnectionProtocol):
    """A client of HTTP/3, for one request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http = aioquic.h3.connection.H3Connection(self._quic)
        self.size = 0
        self.done: asyncio.Future[int] = self._loop.create_future()

    def get(self) -> asyncio.Future[int]:
        stream = self._quic.get_next_available_stream_id()
        head = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")]
        self.http.send_headers(stream, [*head, (b":authority", b"shop")], end_stream=True)
        self.transmit()
        return self.done

    def quic_event_received(self, event: aioquic.quic.events.QuicEvent) -> None:
        for each in self.http.handle_event(event):
            if isinstance(each, aioquic.h3.events.DataReceived):
                self.size += len(each.data)
                if each.stream_ended and not self.done.done():
                    self.done.set_result(self.size)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("quic")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", HOST)
    files = folder / "chain.pem", folder / "key.pem", folder / "authority.pem"
    files[0].write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(files[1]))
    authority.cert_pem.write_to_path(str(files[2]))
    return files


@dataclass(frozen=True)
class Settings:
    """Those of a server and of a client of it. They are read from files, outside of any loop."""

    server: QuicConfiguration
    client: QuicConfiguration


@pytest.fixture
def settings(certificate: tuple[Path, Path, Path]) -> Settings:
    server = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    server.load_cert_chain(certificate[0], certificate[1])
    client = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name="localhost")
    client.load_verify_locations(str(certificate[2]))
    return Settings(server, client)


@contextlib.asynccontextmanager
async def http3(settings: Settings) -> AsyncIterator[int]:
    """A server in this loop; its port."""
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    server = await serve(HOST, port, configuration=settings.server, create_protocol=Answering)
    try:
        yield port
    finally:
        server.close()


async def get(port: int, settings: Settings) -> int:
    async with connect(HOST, port, configuration=settings.client, create_protocol=Asking) as client:
        assert isinstance(client, Asking)
        return await asyncio.wait_for(client.get(), PATIENCE)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("network_failure", {"mode": "drop", "rate": 0.1}),
        ("network_failure", {"mode": "duplicate", "rate": 0.5}),
        ("network_failure", {"mode": "reorder", "rate": 0.3}),
        ("network_latency", {"delay": "20ms", "jitter": "15ms"}),
    ],
)
def test_aioquic_survives(
    inject: Inject, settings: Settings, kind: str, given: dict[str, Any]
) -> None:
    async def story() -> int:
        async with http3(settings) as port:
            with inject(kind, target=f"{HOST}:{port}", **given) as experiment:
                size = await get(port, settings)
            assert experiment.hits
            return size

    assert asyncio.run(story()) == 30000


def test_aioquic_meets_silence(inject: Inject, settings: Settings) -> None:
    settings.client.idle_timeout = 0.3

    async def story() -> None:
        async with http3(settings) as port:
            with (
                inject("network_failure", mode="timeout", rate=1, target=f"{HOST}:{port}"),
                pytest.raises(ConnectionError),
            ):
                await get(port, settings)

    asyncio.run(story())


# --- beside the real event ---


class Hostile:
    """Answers the first datagrams as its mood has it; the rest as they are.

    Attributes:
        goes_on: set when what is late may come.
    """

    def __init__(self, mood: str) -> None:
        self._mood = mood
        self.goes_on = threading.Event()
        self._kept: list[tuple[bytes, Any]] = []

    def run(self, sock: socket.socket) -> None:
        count = 0
        while True:
            data, client = sock.recvfrom(65535)
            if data == b"end":
                return
            count += 1
            if count == 1 and self._mood.endswith("lost"):
                continue
            if count == 1 and self._mood == "late":
                self.goes_on.wait(PATIENCE)
            if count == 1 and self._mood == "doubled":
                sock.sendto(data, client)
            if count == 1 and self._mood == "out of order":
                self._kept.append((data, client))
                continue
            sock.sendto(data, client)
            while self._kept:
                sock.sendto(*self._kept.pop())


@contextlib.contextmanager
def hostile(mood: str) -> Iterator[tuple[int, threading.Event]]:
    """Its port, where nobody listens if it is to refuse; and what lets come what is late."""
    server = Hostile(mood)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        port = sock.getsockname()[1]
        if mood == "refused":
            sock.close()
            yield port, server.goes_on
            return
        thread = threading.Thread(target=server.run, args=[sock], daemon=True)
        thread.start()
        yield port, server.goes_on
        with socket.socket(type=socket.SOCK_DGRAM) as last:
            last.sendto(b"end", (HOST, port))
        thread.join(PATIENCE)


LATE = 0.4  # seconds
EVENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "refused": ("network_failure", {"mode": "refuse", "rate": 1}),
    "query lost": ("network_failure", {"mode": "drop", "nth": 1}),
    "answer lost": ("network_failure", {"mode": "drop", "nth": 2}),
    "late": ("network_latency", {"delay": LATE, "first": 1}),
    "doubled": ("network_failure", {"mode": "duplicate", "nth": 2}),
    "out of order": ("network_failure", {"mode": "reorder", "nth": 3}),
}


class Connected:
    """A blocking socket that is connected."""

    title = "connected"

    def __init__(self, port: int) -> None:
        self.sock = socket.socket(type=socket.SOCK_DGRAM)
        self.sock.connect((HOST, port))

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    def receive(self, timeout: float) -> bytes:
        self.sock.settimeout(timeout)
        return self.sock.recv(100)

    def close(self) -> None:
        self.sock.close()


class Unconnected(Connected):
    """A blocking socket that is not."""

    title = "not connected"

    def __init__(self, port: int) -> None:
        self.sock = socket.socket(type=socket.SOCK_DGRAM)
        self.where = (HOST, port)

    def send(self, data: bytes) -> None:
        self.sock.sendto(data, self.where)


class Polled(Connected):
    """A connected socket that the program polls."""

    title = "polled"

    def receive(self, timeout: float) -> bytes:
        self.sock.setblocking(False)
        due = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, selectors.EVENT_READ)
            while selector.select(due - time.monotonic()):
                with contextlib.suppress(BlockingIOError):
                    return self.sock.recv(100)
        raise TimeoutError


class Transport(asyncio.DatagramProtocol):
    """A connected transport of asyncio."""

    title = "asyncio"

    def __init__(self, port: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.told: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        opening = self.loop.create_datagram_endpoint(lambda: self, remote_addr=(HOST, port))
        self.transport, _ = self.loop.run_until_complete(opening)

    def datagram_received(self, data: bytes, _addr: Any) -> None:
        self.told.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.told.put_nowait(exc)

    def send(self, data: bytes) -> None:
        self.transport.sendto(data)

    def receive(self, timeout: float) -> bytes:
        told = self.loop.run_until_complete(asyncio.wait_for(self.told.get(), timeout))
        if isinstance(told, Exception):
            raise told
        return told

    def close(self) -> None:
        self.transport.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


WAYS = (Connected, Unconnected, Polled, Transport)
SECTION = Section(
    title="UDP",
    events=tuple(f"{event}, {way.title}" for event in EVENTS for way in WAYS),
    about="What each call does, one after the other; a client gives up where nothing comes.",
)


def met(way: Connected | Transport, event: str, goes_on: threading.Event) -> str:
    """What a client meets, step by step. What is late may come when it has given up once."""
    told: list[str] = []

    def step(name: str, action: Callable[..., Any], *args: Any) -> None:
        try:
            result = action(*args)
        except (OSError, TimeoutError) as error:
            code = errno.errorcode.get(getattr(error, "errno", None) or 0, "")
            told.append(f"{name}: {type(error).__name__} {code}".rstrip())
        else:
            told.append(name if result is None else f"{name} {result.decode()}")

    step("sent", way.send, b"one")
    if event == "out of order":
        step("sent", way.send, b"two")
    hears = event != "refused" or not isinstance(way, Unconnected)
    comes = hears and event in {"refused", "doubled", "out of order"}
    step("received", way.receive, PATIENCE if comes else SHORT)
    goes_on.set()
    if event == "refused":
        step("sent", way.send, b"two")
        if not isinstance(way, Transport):  # which hears of it in its loop only
            step("sent", way.send, b"three")
            hears = False
    comes = hears and not event.endswith("lost")
    step("received", way.receive, PATIENCE if comes else SHORT)
    return ", ".join(told)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_as_it_really_happens(inject: Inject, way: type[Connected | Transport], event: str) -> None:
    with hostile(event) as (port, goes_on), contextlib.closing(way(port)) as client:
        real = met(client, event, goes_on)
    kind, given = EVENTS[event]
    with (
        hostile("") as (port, goes_on),
        inject(kind, target=f"{HOST}:{port}", **given) as experiment,
        contextlib.closing(way(port)) as client,
    ):
        injected = met(client, event, goes_on)
    assert experiment.hits
    SECTION.note(f"{event}, {way.title}", injected, real)


def test_the_page_has_every_row() -> None:
    assert_complete(SECTION)

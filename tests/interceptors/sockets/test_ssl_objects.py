"""TLS that is made above sockets: a response fails as for real, whenever it was opened."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import httpx
import pytest
import trio

from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import serve
from tests.resets import reset_when_closed


Begin = Callable[[], object]
# Connects, begins the experiment, sends a request and returns all that it hears, and how it ends.
Client = Callable[[int, Trust, Begin], tuple[bytes, str]]

REQUEST, RESPONSE = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nabcdefgh",
)


def gone_after(size: int, end: Callable[[socket.socket], object]) -> Handler:
    """A server that sends so much of its response, and then is gone without a goodbye of TLS."""

    def handle(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(65536)
        connection.sendall(RESPONSE[:size])
        end(connection)

    return handle


def answer(connection: socket.socket) -> None:
    while connection.recv(65536):
        connection.sendall(RESPONSE)


async def collect(receive: Callable[[], Awaitable[bytes | bytearray]]) -> tuple[bytes, str]:
    heard = b""
    try:
        while more := await receive():
            heard += more
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, trio.BrokenResourceError) as end:
        return heard, type(end).__name__
    return heard, "EOF"


def with_streams(port: int, trust: Trust, begin: Begin) -> tuple[bytes, str]:
    async def ask() -> tuple[bytes, str]:
        reader, writer = await asyncio.open_connection(HOST, port, ssl=trust.client)
        begin()
        writer.write(REQUEST)
        try:
            return await collect(lambda: reader.read(100))
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            await asyncio.sleep(0)  # what was lost already is closed in the next turn

    return asyncio.run(ask())


def with_anyio(port: int, trust: Trust, begin: Begin) -> tuple[bytes, str]:
    async def ask() -> tuple[bytes, str]:
        stream = await anyio.connect_tcp(HOST, port, tls=True, ssl_context=trust.client)
        begin()
        await stream.send(REQUEST)
        try:
            return await collect(lambda: stream.receive(100))
        finally:
            await anyio.aclose_forcefully(stream)

    return anyio.run(ask)


def with_trio(port: int, trust: Trust, begin: Begin) -> tuple[bytes, str]:
    async def ask() -> tuple[bytes, str]:
        plain = await trio.open_tcp_stream(HOST, port)
        stream = trio.SSLStream(plain, trust.client, server_hostname=HOST)
        await stream.do_handshake()
        begin()
        await stream.send_all(REQUEST)
        try:
            return await collect(lambda: stream.receive_some(100))
        finally:
            await trio.aclose_forcefully(stream)

    return trio.run(ask)


def over_a_socket(port: int, trust: Trust, begin: Begin) -> tuple[bytes, str]:
    """As urllib3 does in TLS within TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trust.client.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with socket.create_connection((HOST, port), timeout=10) as plain:

        def do(act: Callable[[], Any]) -> Any:
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    return act()
                if outgoing.pending:
                    plain.sendall(outgoing.read())
                more = plain.recv(65536)
                incoming.write(more) if more else incoming.write_eof()

        async def receive() -> bytes:
            return do(lambda: tls.read(100))  # type: ignore[no-any-return]

        do(tls.do_handshake)
        plain.sendall(outgoing.read())
        begin()
        tls.write(REQUEST)
        plain.sendall(outgoing.read())
        with pytest.raises(StopIteration) as done:
            collect(receive).send(None)  # it waits in no loop
        return done.value.value  # type: ignore[no-any-return]


CLIENTS: list[Client] = [with_streams, with_anyio, with_trio, over_a_socket]
HALF = len(RESPONSE) - 4
EVENTS: dict[str, tuple[dict[str, Any], Handler]] = {
    "cut off": ({"mode": "truncate"}, gone_after(HALF, socket.socket.close)),
    "reset": ({"mode": "truncate", "end": "reset"}, gone_after(HALF, reset_when_closed)),
}


@pytest.fixture(params=["before", "during"])
def opened(request: pytest.FixtureRequest) -> str:
    """Whether the connection is opened before the experiment begins, or during it."""
    return str(request.param)


@pytest.fixture
def heard(opened: str, trust: Trust, inject: Inject) -> Iterator[Callable[..., tuple[bytes, str]]]:
    """What a client hears of `handler` under an experiment of these `parameters`."""
    with ExitStack() as stack:

        def ask(client: Client, handler: Handler, **parameters: Any) -> tuple[bytes, str]:
            def begin() -> None:
                stack.enter_context(inject("network_failure", rate=1, **parameters))

            port = stack.enter_context(serve(trust.over_tls(handler)))
            if opened == "during":
                begin()
            return client(port, trust, begin if opened == "before" else lambda: None)

        yield ask


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_what_came_before_arrives_and_then_the_end(
    client: Client, event: str, trust: Trust, heard: Callable[..., tuple[bytes, str]]
) -> None:
    parameters, happening = EVENTS[event]
    with serve(trust.over_tls(happening)) as port:
        real = client(port, trust, lambda: None)
    assert real[0] == RESPONSE[:HALF]
    assert heard(client, answer, **parameters) == real


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_what_comes_late_ends_there_too(
    client: Client, heard: Callable[..., tuple[bytes, str]], trust: Trust, inject: Inject
) -> None:
    """All has come, in one piece after the other, when some of it is delivered."""

    def answer_in_pieces(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.settimeout(0.002)
        for at in range(0, len(RESPONSE), 2):
            connection.sendall(RESPONSE[at : at + 2])
            with contextlib.suppress(TimeoutError):
                connection.recv(1)
        connection.settimeout(10)
        connection.recv(1)

    parameters, happening = EVENTS["cut off"]
    with serve(trust.over_tls(happening)) as port:
        real = client(port, trust, lambda: None)
    with inject("network_latency", delay=0.3):
        assert heard(client, answer_in_pieces, **parameters) == real


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_response_is_lost_once_it_is_given(
    client: Client, heard: Callable[..., tuple[bytes, str]]
) -> None:
    """What TLS 1.3 says for itself after the handshake is no response."""
    given = threading.Event()
    seen_given: list[bool] = []

    def answer_later(connection: socket.socket) -> None:
        connection.recv(65536)
        with contextlib.suppress(TimeoutError):  # a client that is struck goes
            connection.settimeout(0.2)
            seen_given.append(bool(connection.recv(1)))
        given.set()
        connection.sendall(RESPONSE)
        connection.settimeout(10)
        connection.recv(1)

    lost = heard(client, answer_later, mode="lose_answer")
    assert given.is_set()
    assert not seen_given
    assert lost[0] == b""
    assert lost[1] != "EOF"


def test_requests_are_told_apart_on_connections_of_before(trust: Trust, inject: Inject) -> None:
    """Several are used at once, and what each says is as long."""

    async def ask(url: str) -> None:
        async with httpx.AsyncClient(verify=trust.client, trust_env=False) as client:

            async def status(path: str) -> int:
                return (await client.get(url + path)).status_code

            await asyncio.gather(*(status("/a") for _ in range(6)))
            for _ in range(2):  # the second has another look at those connections
                with inject("network_failure", mode="status", rate=1, path="/b") as failure:
                    found = await asyncio.gather(*(status(f"/{path}") for path in "ababab"))
                assert found == [200, 503] * 3
                assert failure.hits == 3

    with serve(trust.over_tls(answer)) as port:
        asyncio.run(ask(f"https://{HOST}:{port}"))


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_what_is_no_http_gets_no_status(
    client: Client, heard: Callable[..., tuple[bytes, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.interceptors.sockets.test_ssl_objects.REQUEST", b"GET key\r\n")
    assert heard(client, gone_after(HALF, socket.socket.close), mode="status")[0] == RESPONSE[:HALF]


def test_what_was_no_target_for_long_is_found_when_it_is_one(trust: Trust, inject: Inject) -> None:
    often = 150

    def answer_then(connection: socket.socket) -> None:
        heard = 0
        while heard < often:
            heard += len(connection.recv(65536))
        answer(connection)

    async def ask(port: int) -> tuple[bytes, str]:
        reader, writer = await asyncio.open_connection(HOST, port, ssl=trust.client)
        try:
            with inject("network_failure", mode="reset", rate=1, target="elsewhere.example"):
                for _ in range(often):
                    writer.write(b"x")
                    await writer.drain()
                with inject("network_failure", mode="truncate", rate=1) as cut:
                    writer.write(REQUEST)
                    heard = await collect(lambda: reader.read(100))
            assert cut.hits == 1
            return heard
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    with serve(trust.over_tls(answer_then)) as port:
        assert asyncio.run(ask(port)) == (RESPONSE[:HALF], "EOF")

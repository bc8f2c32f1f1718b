"""How clients of asyncio hear answers that come slowly, damaged, cut off, or made up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import socket
import ssl
import time
import weakref

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.diagnosis import never_fired
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.interceptors.sockets.test_receive import ANSWER
from tests.interceptors.sockets.test_receive import BODY
from tests.interceptors.sockets.test_receive import answer


def run(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(story, 30))


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """What a client has not closed is complained about where it was left."""
    yield
    gc.collect()


@pytest.fixture(params=["plain", "tls"])
def over(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tls(over: str, trust: Trust) -> ssl.SSLContext | None:
    return trust.client if over == "tls" else None


@pytest.fixture
def port(over: str, trust: Trust) -> Iterator[int]:
    with serve(trust.over_tls(answer) if over == "tls" else answer) as port:
        yield port


async def with_httpx(port: int, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
    async with httpx.AsyncClient(trust_env=False, timeout=5, verify=tls or False) as client:
        reply = await client.get(f"{'https' if tls else 'http'}://{HOST}:{port}/")
        return reply.status_code, reply.content


async def with_aiohttp(port: int, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
    url = f"{'https' if tls else 'http'}://{HOST}:{port}/"
    try:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=tls or False) as reply:
            return reply.status, await reply.read()
    finally:
        await everything_closed()


async def everything_closed() -> None:
    """aiohttp closes TLS in the background, and does not say when that is done."""
    transports = asyncio.get_running_loop()._transports  # type: ignore[attr-defined]
    while any(each._sock is not None for each in list(transports.values())):  # noqa: ASYNC110
        await asyncio.sleep(0)


Client = Callable[[int, ssl.SSLContext | None], Awaitable[tuple[int, bytes]]]
every_client = pytest.mark.parametrize(
    "client", [with_httpx, with_aiohttp], ids=lambda client: client.__name__
)


def outcome_of(client: Client, port: int, tls: ssl.SSLContext | None) -> Any:
    async def story() -> tuple[int, bytes]:
        return await client(port, tls)

    return run(story())


@every_client
@pytest.mark.parametrize(
    "given",
    [{"bandwidth": "4kB"}, {"piece": 7, "delay": "100us"}, {"piece": 1, "delay": 0}],
    ids=["bandwidth", "dribble", "byte by byte"],
)
def test_an_answer_in_pieces_arrives_whole(
    client: Client, given: Any, port: int, tls: ssl.SSLContext | None, inject: Inject
) -> None:
    with inject("network_latency", **given) as slow:
        assert outcome_of(client, port, tls) == (200, BODY)
    assert slow.hits == 1


@pytest.mark.parametrize(
    ("given", "least"),
    [({"bandwidth": 1000}, 0.1), ({"piece": 25, "delay": 0.02}, 0.08)],
    ids=["bandwidth", "dribble"],
)
def test_the_pieces_take_their_time_and_nobody_elses(
    given: Any, least: float, inject: Inject
) -> None:
    """100 bytes: over a line of 1000 bytes a second, or in four pieces."""
    turns = 0
    pieces: list[int] = []

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def story(port: int) -> float:
        reader, writer = await asyncio.open_connection(HOST, port)
        beside = asyncio.create_task(count())
        started = time.monotonic()
        writer.write(b"x" * 100)
        while sum(pieces) < 100:
            pieces.append(len(await reader.read(100)))
        seconds = time.monotonic() - started
        beside.cancel()
        writer.close()
        await writer.wait_closed()
        return seconds

    with serve(echo) as port, inject("network_latency", **given) as slow:
        assert run(story(port)) >= least
    assert max(pieces) <= 25
    assert len(pieces) >= 4
    assert turns > len(pieces)
    assert slow.delay > 0


@every_client
def test_half_a_body(client: Client, port: int, tls: ssl.SSLContext | None, inject: Inject) -> None:
    with (
        inject("network_failure", mode="truncate", rate=1) as cut,
        pytest.raises((httpx.RemoteProtocolError, aiohttp.ClientPayloadError)),
    ):
        outcome_of(client, port, tls)
    assert cut.hits == 1


@every_client
def test_a_damaged_body_has_its_length(
    client: Client, port: int, tls: ssl.SSLContext | None, inject: Inject
) -> None:
    with inject("network_failure", mode="corrupt", rate=1, share=0.2) as damage:
        status, body = outcome_of(client, port, tls)
    assert (status, len(body), damage.hits) == (200, len(BODY), 1)
    assert body != BODY


@every_client
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"status": 429, "body": "no"}, (429, b"no")),
        ({"mode": "malformed_json"}, (200, b'{"status": "ok", "items": [')),
    ],
    ids=["status", "json"],
)
def test_what_is_made_up(  # noqa: PLR0917  # all by name
    client: Client,
    given: Any,
    expected: Any,
    port: int,
    tls: ssl.SSLContext | None,
    inject: Inject,
) -> None:
    with inject("network_failure", rate=1, **given):
        assert outcome_of(client, port, tls) == expected


@every_client
def test_everything_at_once_over_tls(client: Client, trust: Trust, inject: Inject) -> None:
    with (
        serve(trust.over_tls(answer)) as port,
        inject("network_latency", name="far", delay=0.02) as far,
        inject("network_latency", name="thin", bandwidth="10kB") as thin,
        inject("network_failure", mode="truncate", rate=1) as cut,
        pytest.raises((httpx.RemoteProtocolError, aiohttp.ClientPayloadError)),
    ):
        outcome_of(client, port, trust.client)
    assert (far.hits, thin.hits, cut.hits) == (3, 1, 1)


def test_nothing_can_be_made_up_in_http_2_that_was_sealed_before(
    trust: Trust, inject: Inject
) -> None:
    """What its headers mean depends on all that were sent before."""
    ours, theirs = (
        ssl.create_default_context(cafile=trust.file),
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
    )
    theirs.load_cert_chain(trust.server_file)
    for each in (ours, theirs):
        each.set_alpn_protocols(["h2"])

    def handle(connection: socket.socket) -> None:
        with theirs.wrap_socket(connection, server_side=True) as wrapped:
            echo(wrapped)

    async def ask(port: int) -> ActiveExperiment:
        reader, writer = await asyncio.open_connection(HOST, port, ssl=ours)
        try:
            with inject("network_failure", rate=1, mode="malformed_json") as malformed:
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                return malformed
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            await asyncio.sleep(0)  # what was lost already is closed in the next turn

    with serve(handle) as port:
        malformed = run(ask(port))
    assert malformed.matched == 0
    error = str(never_fired(malformed))
    assert f"network.receive {HOST}:{port} (encrypted above the socket)" in error
    assert "in a loop where the connection was open before the experiment and not" in error


@every_client
def test_the_server_did_it_and_the_client_does_not_know(
    client: Client, over: str, trust: Trust, tls: ssl.SSLContext | None, inject: Inject
) -> None:
    done: queue.Queue[bytes] = queue.Queue()

    def note(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            done.put(data)
            connection.sendall(ANSWER)

    with (
        serve(trust.over_tls(note) if over == "tls" else note) as port,
        inject("network_failure", mode="lose_answer", rate=1) as lost,
        pytest.raises((httpx.TransportError, aiohttp.ClientError)),
    ):
        outcome_of(client, port, tls)
    assert lost.hits >= 1
    assert done.get(timeout=5).startswith(b"GET /")


@pytest.mark.parametrize("delay", [0.05, 0.2])
def test_the_end_comes_late(delay: float, inject: Inject) -> None:
    def answer_and_leave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"bye")

    async def story(port: int) -> tuple[bytes, bytes, float]:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"hello")
        said = await reader.readexactly(3)
        started = time.monotonic()
        end = await reader.read()
        seconds = time.monotonic() - started
        writer.close()
        await writer.wait_closed()
        return said, end, seconds

    with (
        serve(answer_and_leave) as port,
        inject("network_latency", mode="slow_close", delay=delay) as slow,
    ):
        said, end, seconds = run(story(port))
    assert (said, end, slow.hits) == (b"bye", b"", 1)
    assert seconds >= delay * 0.9


def test_a_name_is_found_late_while_the_loop_goes_on(inject: Inject) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def story(port: int) -> None:
        beside = asyncio.create_task(count())
        _, writer = await asyncio.open_connection("localhost", port)
        beside.cancel()
        writer.close()
        await writer.wait_closed()

    with serve(echo) as port, inject("network_latency", mode="slow_dns", delay=0.05) as slow:
        run(story(port))
    assert slow.hits == 1
    assert slow.delay >= 0.05
    assert turns > 10


class Knowing(asyncio.Protocol):
    """Knows its transport, as protocols do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_who_has_just_asked_is_let_go_with_a_loop_that_is_closed(inject: Inject) -> None:
    """So that its connection is closed, which nobody else does."""
    with serve(silent) as port, contextlib.ExitStack() as stack:

        async def ask() -> weakref.ref[Any]:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(Knowing, HOST, port)
            silence = stack.enter_context(inject("network_failure", mode="timeout", rate=1))
            transport.write(b"?")
            while not silence.hits:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.001)
            transport.write(b"are you there?")
            return weakref.ref(transport)

        asked = asyncio.run(ask())
    gc.collect()
    assert asked() is None

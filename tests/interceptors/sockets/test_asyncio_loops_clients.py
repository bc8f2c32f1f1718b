"""Clients of asyncio meet delays and silence, and their loop goes on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import socket
import ssl
import time

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from typing import Any
from typing import TypeAlias
from unittest import mock

import aiohttp
import httpx
import pytest
import redis.asyncio
import redis.backoff

from pytest_resilience import ChaosExperiment
from pytest_resilience import FaultInjected
from pytest_resilience import ManualClock
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import all_names_are_ours
from tests.interceptors.conftest import serve


Inject: TypeAlias = Callable[..., contextlib.AbstractContextManager[ActiveExperiment]]
Ask: TypeAlias = Callable[[], Awaitable[object]]
Client: TypeAlias = Callable[
    [int, ssl.SSLContext | None, "Limits"], contextlib.AbstractAsyncContextManager[Ask]
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The seconds that a client waits: for a connection, with its handshake, and for an answer."""

    connect: float | None = 30
    answer: float | None = 30


PATIENT = Limits()
DELAY = 0.05
PATIENCE = 30  # seconds


def run(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(story, PATIENCE))


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # counts have no event to wait for
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def with_httpx(port: int, tls: ssl.SSLContext | None, limits: Limits) -> AsyncIterator[Ask]:
    url = f"{'https' if tls else 'http'}://{HOST}:{port}/"
    verify = tls or False
    timeout = httpx.Timeout(limits.answer, connect=limits.connect)
    async with httpx.AsyncClient(trust_env=False, timeout=timeout, verify=verify) as client:

        async def ask() -> str:
            return (await client.get(url)).text

        yield ask


@contextlib.asynccontextmanager
async def with_aiohttp(port: int, tls: ssl.SSLContext | None, limits: Limits) -> AsyncIterator[Ask]:
    url = f"{'https' if tls else 'http'}://{HOST}:{port}/"
    timeout = aiohttp.ClientTimeout(sock_connect=limits.connect, sock_read=limits.answer)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def ask() -> str:
            async with session.get(url, ssl=tls or False) as response:
                return await response.text()

        yield ask


@contextlib.asynccontextmanager
async def with_redis(port: int, tls: ssl.SSLContext | None, limits: Limits) -> AsyncIterator[Ask]:
    client = redis.asyncio.Redis(
        host=HOST,
        port=port,
        ssl=tls is not None,
        ssl_ca_certs=None,
        protocol=2,
        socket_timeout=limits.answer,
        socket_connect_timeout=limits.connect,
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
        # Or it introduces itself, in round trips of their own.
        driver_info=None,
    )
    if tls is not None:
        client.connection_pool.connection_kwargs["ssl_check_hostname"] = False
        client.connection_pool.connection_kwargs["ssl_cert_reqs"] = "none"

    def trusting() -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    # It reads this machine's authorities while its time to connect runs, and needs none of them.
    with mock.patch.object(ssl, "create_default_context", trusting):
        async with client:

            async def ask() -> bool:
                return bool(await client.set("key", "value"))

            yield ask


@contextlib.asynccontextmanager
async def with_streams(port: int, tls: ssl.SSLContext | None, limits: Limits) -> AsyncIterator[Ask]:
    writer = reader = None

    async def ask() -> str:
        nonlocal reader, writer
        if reader is None or writer is None:
            async with asyncio.timeout(limits.connect):
                reader, writer = await asyncio.open_connection(HOST, port, ssl=tls)
        async with asyncio.timeout(limits.answer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            return (await reader.readuntil(b"ok")).decode()[-2:]

    yield ask
    if writer is not None:
        writer.transport.abort()  # for goodbyes a far peer takes its time
        with contextlib.suppress(OSError):
            await writer.wait_closed()


CLIENTS: list[Client] = [with_httpx, with_aiohttp, with_redis, with_streams]


def answer(connection: socket.socket) -> None:
    """HTTP or Redis, as asked, on a connection that is kept."""
    while data := connection.recv(65536):
        if data.startswith(b"*"):
            connection.sendall(b"+OK\r\n" * data.count(b"*"))
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture(params=["plain", "tls"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


places = pytest.mark.parametrize(
    ("transport", "place"),
    [
        ("plain", "connect"), ("plain", "receive"),
        ("tls", "connect"), ("tls", "handshake"), ("tls", "receive"),
    ],
)  # fmt: skip


@pytest.fixture
def tls(transport: str, trust: Trust) -> ssl.SSLContext | None:
    return trust.client if transport == "tls" else None


@pytest.fixture
def port(transport: str, trust: Trust) -> Iterator[int]:
    with serve(trust.over_tls(answer) if transport == "tls" else answer) as port:
        yield port


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """What a client has not closed is complained about where it was left."""
    yield
    gc.collect()


def kinds(events: list[FaultInjected]) -> list[str]:
    return [event.kind.removeprefix("network.") for event in events]


def expected(tls: ssl.SSLContext | None, requests: int) -> list[str]:
    return ["connect", *(["handshake"] if tls else []), *["receive"] * requests]


@pytest.mark.parametrize("client", CLIENTS)
def test_latency_is_paid_by_connect_handshake_and_each_answer(
    client: Client,
    port: int,
    tls: ssl.SSLContext | None,
    inject: Inject,
    events: list[FaultInjected],
) -> None:
    seconds = []

    async def story() -> None:
        async with client(port, tls, PATIENT) as ask:
            for _ in range(3):
                started = time.monotonic()
                await ask()
                seconds.append(time.monotonic() - started)

    with inject("network_latency", delay=DELAY) as latency:
        run(story())
    round_trips = expected(tls, 3)
    assert kinds(events) == round_trips
    assert latency.matched == latency.hits == len(round_trips)
    assert seconds[0] >= DELAY * (len(round_trips) - 2)
    assert min(seconds) >= DELAY
    # Measured from the last send, so what the client did meanwhile is taken off the wait.
    assert latency.delay >= DELAY * len(round_trips) * 0.5


# By the operation whose answer does not come: what the client makes of its own timeout.
TIMEOUTS: dict[Client, dict[str, type[Exception]]] = {
    with_httpx: {
        "connect": httpx.ConnectTimeout,
        "handshake": httpx.ConnectTimeout,
        "receive": httpx.ReadTimeout,
    },
    with_aiohttp: {
        "connect": aiohttp.ConnectionTimeoutError,
        "handshake": aiohttp.ConnectionTimeoutError,
        "receive": aiohttp.SocketTimeoutError,
    },
    with_redis: dict.fromkeys(("connect", "handshake", "receive"), redis.TimeoutError),
    with_streams: dict.fromkeys(("connect", "handshake", "receive"), TimeoutError),
}
# Whatever keeps the answer away.
FAR: list[tuple[str, dict[str, Any]]] = [
    ("network_latency", {"delay": 60}),
    ("network_failure", {"mode": "timeout", "rate": 1}),
]


# Closing TLS waits for a goodbye, and as with a peer that is really silent the loop ends first.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@places
@pytest.mark.parametrize("client", CLIENTS)
def test_the_clients_own_timeout_fires_at_its_time(  # noqa: PLR0917  # all by name
    client: Client,
    place: str,
    transport: str,
    trust: Trust,
    tls: ssl.SSLContext | None,
    inject: Inject,
    events: list[FaultInjected],
) -> None:
    """Each kind at a peer of its own, and side by side: what takes time is the timeout."""
    trips = expected(tls, 1)
    timeout = 1.0 if place == "handshake" else 0.2  # in which it has to connect, too
    limits = Limits(answer=timeout) if place == "receive" else Limits(connect=timeout)
    seconds = []

    async def story(port: int) -> None:
        async with client(port, tls, limits) as ask:
            started = time.monotonic()
            with pytest.raises(TIMEOUTS[client][place]):
                await ask()
            seconds.append(time.monotonic() - started)

    async def stories(ports: list[int]) -> None:
        await asyncio.gather(*map(story, ports))

    with contextlib.ExitStack() as stack:
        # `with_redis` replaces it, and two of those do not put it back in turn.
        usual = ssl.create_default_context
        stack.enter_context(mock.patch.object(ssl, "create_default_context", usual))
        served = trust.over_tls(answer) if tls else answer
        ports = [stack.enter_context(serve(served)) for _ in FAR]
        far = [
            stack.enter_context(
                inject(kind, target=f"{HOST}:{port}", from_nth=trips.index(place) + 1, **parameters)
            )
            for port, (kind, parameters) in zip(ports, FAR, strict=True)
        ]
        run(stories(ports))
        assert len(seconds) == len(FAR)
        assert timeout * 0.99 <= min(seconds) <= max(seconds) < PATIENCE
    assert kinds(events) == [place] * len(FAR)
    assert all(each.hits == 1 and 0 < each.delay < PATIENCE for each in far)


@places
def test_without_a_timeout_silence_lasts_as_long_as_the_experiment(
    place: str, port: int, tls: ssl.SSLContext | None, inject_briefly: Inject
) -> None:
    trips = expected(tls, 1)

    async def story() -> None:
        started = time.monotonic()
        async with with_streams(port, tls, Limits(connect=None, answer=None)) as ask:
            with pytest.raises(TimeoutError) as caught:
                await ask()
        assert time.monotonic() - started >= 0.1
        assert caught.value.errno == errno.ETIMEDOUT

    silence = {"mode": "timeout", "rate": 1, "from_nth": trips.index(place) + 1}
    with inject_briefly("network_failure", **silence) as failure:
        run(story())
    assert failure.hits == 1


@places
@pytest.mark.parametrize("client", CLIENTS)
def test_the_loop_goes_on(
    client: Client, place: str, port: int, tls: ssl.SSLContext | None, inject: Inject
) -> None:
    """What ends the waiting is something else in the loop, which would wait with it."""
    trips = expected(tls, 1)

    async def story() -> None:
        async def end() -> None:
            await until(lambda: latency.hits)
            ending.close()

        with contextlib.ExitStack() as ending:
            late = inject("network_latency", delay=60, from_nth=trips.index(place) + 1)
            latency = ending.enter_context(late)
            other = asyncio.create_task(end())
            async with client(port, tls, PATIENT) as ask:
                await ask()
            assert other.done()

    run(story())


def test_requests_wait_side_by_side(port: int, tls: ssl.SSLContext | None, inject: Inject) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            asks = [
                await stack.enter_async_context(with_streams(port, tls, PATIENT)) for _ in "12345"
            ]
            with contextlib.ExitStack() as ending:
                latency = ending.enter_context(inject("network_latency", delay=60))
                answers = asyncio.gather(*(ask() for ask in asks))
                await until(lambda: latency.hits == len(asks))  # all while they connect
                ending.close()
                assert await answers == ["ok"] * len(asks)

    run(story())


@pytest.mark.parametrize("client", CLIENTS)
def test_connections_opened_before_are_hit(
    client: Client,
    port: int,
    tls: ssl.SSLContext | None,
    inject: Inject,
    events: list[FaultInjected],
) -> None:
    async def story() -> None:
        async with client(port, tls, PATIENT) as ask:
            await ask()
            with inject("network_latency", delay=DELAY):
                started = time.monotonic()
                await ask()
                assert time.monotonic() - started >= DELAY
            await ask()

    run(story())
    assert kinds(events) == ["receive"]


@pytest.mark.parametrize(("trigger", "hit"), [({"nth": 2}, 2), ({"first": 1}, 1)])
def test_triggers_count_round_trips(  # noqa: PLR0917  # all by name
    trigger: dict[str, int],
    hit: int,
    port: int,
    tls: ssl.SSLContext | None,
    inject: Inject,
    events: list[FaultInjected],
) -> None:
    async def story() -> None:
        async with with_httpx(port, tls, PATIENT) as ask:
            await ask()
            await ask()

    with inject("network_latency", delay=0.001, **trigger) as latency:
        run(story())
    assert [event.number for event in events] == [hit]
    assert kinds(events) == [expected(tls, 2)[hit - 1]]
    assert latency.matched == len(expected(tls, 2))


@pytest.mark.parametrize("place", ["connect", "receive"])
def test_what_is_held_back_comes_when_the_experiment_ends(
    place: str, port: int, tls: ssl.SSLContext | None, inject: Inject
) -> None:
    async def story() -> str:
        async with with_streams(port, tls, PATIENT) as ask:
            if place == "receive":
                await ask()
            with inject("network_latency", delay=3600) as latency:
                task = asyncio.ensure_future(ask())
                await until(lambda: latency.matched)
            return str(await task)

    assert run(story()) == "ok"


@places
def test_whoever_waits_can_be_cancelled(
    place: str, port: int, tls: ssl.SSLContext | None, inject: Inject
) -> None:
    trips = expected(tls, 1)
    number = trips.index(place) + 1

    async def story() -> None:
        async with with_streams(port, tls, PATIENT) as ask:
            with inject("network_latency", delay=3600, from_nth=number) as latency:
                task = asyncio.ensure_future(ask())
                await until(lambda: latency.hits)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert latency.matched == number

    run(story())


def test_a_server_in_the_same_loop_is_left_alone(
    inject: Inject, events: list[FaultInjected]
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def story() -> None:
        async with await asyncio.start_server(echo, HOST, 0) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(HOST, port)
            for _ in range(2):
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
            writer.close()
            await writer.wait_closed()

    with inject("network_latency", delay=0.001) as latency:
        run(story())
    assert kinds(events) == ["connect", "receive", "receive"]
    assert latency.matched == 3


def test_a_dead_peers_answer_is_late_too(inject: Inject) -> None:
    """A reset has the same way to go as data."""
    from tests.interceptors.conftest import reset

    async def story(port: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        with inject("network_latency", delay=0.1) as latency:
            started = time.monotonic()
            writer.write(b"hello")
            with pytest.raises(ConnectionResetError):
                await reader.read(100)
            assert time.monotonic() - started >= 0.1
        assert latency.matched == 1
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    with serve(reset) as port:
        run(story(port))


def test_a_far_peer_that_resets(echo_port: int, inject: Inject, engine: Engine) -> None:
    """Two experiments on one answer: late, and then none."""

    async def story() -> None:
        reader, writer = await asyncio.open_connection(HOST, echo_port)
        with (
            inject("network_latency", delay=0.1) as latency,
            inject("network_failure", mode="reset", rate=1) as failure,
        ):
            started = time.monotonic()
            writer.write(b"hello")
            with pytest.raises(ConnectionResetError):
                await reader.read(100)
            assert time.monotonic() - started >= 0.1
            assert (latency.matched, failure.matched) == (1, 1)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(story())


def test_tls_begun_on_an_open_connection(
    trust: Trust, inject: Inject, events: list[FaultInjected]
) -> None:
    def upgrade(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"S")
        trust.over_tls(answer)(connection)

    async def story(port: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"TLS, please")
        assert await reader.readexactly(1) == b"S"
        await writer.start_tls(trust.client, server_hostname=HOST)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"ok")
        writer.close()
        await writer.wait_closed()

    with serve(upgrade) as port, inject("network_latency", delay=0.001) as latency:
        run(story(port))
    assert kinds(events) == ["connect", "receive", "handshake", "receive"]
    assert latency.matched == 4


def test_goodbyes_are_no_answers(trust: Trust, inject: Inject) -> None:
    """Closing TLS says something, to which the peer says something."""

    async def story(port: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port, ssl=trust.client)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"ok")
        writer.close()
        await writer.wait_closed()

    with serve(trust.over_tls(answer)) as port, inject("network_latency", delay=0.001) as latency:
        run(story(port))
    assert latency.matched == len(expected(trust.client, 1))


@pytest.mark.parametrize(
    ("given", "matched"), [({"stream": "upstream"}, 1), ({}, 3)], ids=["upload", "response"]
)
def test_tickets_in_the_middle_of_an_upload_are_no_response_to_it(
    given: dict[str, Any], matched: int, trust: Trust, inject: Inject
) -> None:
    """A server of TLS 1.3 sends them when it likes, and nobody sees them before they are read."""

    def thank(connection: socket.socket) -> None:
        received = more = b"-"
        while more and not received.endswith(b"milk and tea"):
            more = connection.recv(65536)
            received += more
        connection.sendall(b"HTTP/1.1 204 Thanks\r\n\r\n")
        connection.recv(100)

    async def story(port: int) -> float:
        reader, writer = await asyncio.open_connection(HOST, port, ssl=trust.client)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\n")
        tls = writer.get_extra_info("ssl_object")
        await until(lambda: tls.session is not None and tls.session.has_ticket)
        sent_at = 0.0
        for piece in (b"milk ", b"and ", b"tea"):
            await asyncio.sleep(0)
            sent_at = time.monotonic()
            writer.write(piece)
        await reader.readuntil(b"\r\n\r\n")
        took = time.monotonic() - sent_at
        writer.close()
        await writer.wait_closed()
        return took

    with (
        serve(trust.over_tls(thank)) as port,
        inject("network_latency", delay=DELAY, **given) as latency,
    ):
        assert run(story(port)) >= DELAY  # after the last part of it
    assert (latency.matched, latency.hits) == (matched, matched)


def test_a_peer_that_speaks_first(inject: Inject, events: list[FaultInjected]) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        connection.recv(100)

    async def story(port: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        started = time.monotonic()
        assert await reader.readline() == b"220 ready\r\n"
        assert time.monotonic() - started >= DELAY * 0.9
        writer.close()
        await writer.wait_closed()

    with serve(greet) as port, inject("network_latency", delay=DELAY):
        run(story(port))
    assert kinds(events) == ["connect", "receive"]


def test_on_a_clock_that_stands_still(echo_port: int) -> None:
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=ManualClock())
    active_experiment = engine.start(ChaosExperiment("far", "network_latency", delay=0.02), seed=1)

    async def story() -> None:
        reader, writer = await asyncio.open_connection(HOST, echo_port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()

    try:
        run(story())
    finally:
        active_experiment.stop()
    assert active_experiment.matched == 2


def test_a_name_is_not_taken_for_another_one_of_the_same_address(
    inject: Inject, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_names_are_ours(monkeypatch)

    async def connect(name: str) -> str:
        try:
            _, writer = await asyncio.open_connection(name, echo_port)
        except ConnectionRefusedError:
            return "refused"
        writer.close()
        await writer.wait_closed()
        return "open"

    async def story() -> list[str]:
        return [await connect(f"{name}.internal") for name in "aba"]

    with inject("network_failure", rate=1, target="a.internal:*"):
        assert asyncio.run(story()) == ["refused", "open", "refused"]


def test_aiohttp_has_asked_for_its_own_names(
    inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it has it done by another task, and remembers the answer."""
    all_names_are_ours(monkeypatch)

    async def ask(session: aiohttp.ClientSession, name: str, port: int) -> str:
        try:
            async with session.get(f"http://{name}.internal:{port}/") as reply:
                return await reply.text()
        except aiohttp.ClientConnectorError:
            return "refused"

    async def story(port: int) -> list[str]:
        unshared = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=unshared) as session:
            one_by_one = [await ask(session, name, port) for name in "aba"]
            at_once = await asyncio.gather(*(ask(session, name, port) for name in "bab"))
            return [*one_by_one, *at_once]

    with (
        serve(answer) as port,
        inject("network_failure", mode="refuse", rate=1, target="a.internal:*"),
    ):
        assert asyncio.run(story(port)) == ["refused", "ok", "refused", "ok", "refused", "ok"]

"""One small adapter for each client: how it is opened, and how it makes one request.

Each keeps what it would keep in production, a pool or a connection, from one request to the
next. Those of asyncio bring a loop of their own, which runs while a request is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tests.interceptors.conftest import Trust
from tests.waiting import eventually


Ask = Callable[[], str]
AsyncAsk = Callable[[], Awaitable[str]]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Whom a client talks to.

    Attributes:
        timeout: seconds that the client is ready to wait for an answer.
        connect_timeout: the same for the connection.
        user: its name there, where one is needed.
    """

    host: str = "127.0.0.1"
    port: int
    timeout: float = 10
    connect_timeout: float = 10
    tls: Trust | None = None
    user: str = "postgres"

    @property
    def only_timeout(self) -> float:
        """For clients that have one for all."""
        return min(self.timeout, self.connect_timeout)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}/"


@dataclass(frozen=True, kw_only=True)
class Client:
    """A library that makes requests.

    Attributes:
        name: what it is called where clients are listed.
        libraries: what it is made of, by the names of their distributions.
        opened: to make requests with, each of which says what it was answered.
        in_loop: the same for those of asyncio, in a loop that runs already.
        speaks: its protocol.
        warns: of what, by itself, as filters of warnings.
    """

    name: str
    libraries: tuple[str, ...]
    opened: Callable[[Peer], AbstractContextManager[Ask]]
    speaks: str = "http"
    in_loop: Callable[[Peer], AbstractAsyncContextManager[AsyncAsk]] | None = None
    warns: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def of_asyncio(
    name: str,
    libraries: tuple[str, ...],
    in_loop: Callable[[Peer], AbstractAsyncContextManager[AsyncAsk]],
    speaks: str = "http",
) -> Client:
    @contextlib.contextmanager
    def opened(peer: Peer) -> Iterator[Ask]:
        async def leave() -> None:
            await client.__aexit__(None, None, None)
            await everything_closed()

        async def request() -> str:
            return await ask()

        with asyncio.Runner() as runner:
            client = in_loop(peer)
            ask = runner.run(_entered(client))
            try:
                yield lambda: runner.run(request())
            finally:
                runner.run(leave())

    return Client(name=name, libraries=libraries, opened=opened, speaks=speaks, in_loop=in_loop)


async def _entered(client: AbstractAsyncContextManager[AsyncAsk]) -> AsyncAsk:
    return await client.__aenter__()


async def everything_closed() -> None:
    """Some close in the background, and do not say when that is done."""
    transports = getattr(asyncio.get_running_loop(), "_transports", {})

    def left() -> list[Any]:
        return [each for each in list(transports.values()) if each._sock is not None]

    for patience in (1, 5):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while left():  # noqa: ASYNC110
                    await asyncio.sleep(0)
        for each in left():  # TLS would wait for an answer for long
            each.abort()


def told(status: int, retry_after: str | None) -> str:
    """What a client that raises for no status was answered."""
    if status == 200:
        return "ok"
    return f"{status}, Retry-After {retry_after}"


# --- HTTP, blocking ---


@contextlib.contextmanager
def with_requests(peer: Peer) -> Iterator[Ask]:
    import requests

    with requests.Session() as session:
        verify = peer.tls.file if peer.tls else True

        def ask() -> str:
            reply = session.get(
                peer.url, timeout=(peer.connect_timeout, peer.timeout), verify=verify
            )
            reply.raise_for_status()
            reply.json()
            return "ok"

        yield ask


@contextlib.contextmanager
def with_urllib3(peer: Peer) -> Iterator[Ask]:
    import urllib3

    timeout = urllib3.Timeout(connect=peer.connect_timeout, read=peer.timeout)
    with urllib3.PoolManager(ssl_context=peer.tls.client if peer.tls else None) as pool:

        def ask() -> str:
            reply = pool.request("GET", peer.url, timeout=timeout, retries=False)
            if reply.status == 200:
                reply.json()
            return told(reply.status, reply.headers.get("Retry-After"))

        yield ask


def _of_httpx(peer: Peer) -> Any:
    import httpx

    return httpx.Timeout(peer.timeout, connect=peer.connect_timeout)


@contextlib.contextmanager
def with_httpx(peer: Peer) -> Iterator[Ask]:
    import httpx

    verify = peer.tls.client if peer.tls else False
    with httpx.Client(timeout=_of_httpx(peer), verify=verify) as client:

        def ask() -> str:
            client.get(peer.url).raise_for_status().json()
            return "ok"

        yield ask


@contextlib.contextmanager
def with_http_client(peer: Peer) -> Iterator[Ask]:
    import http.client
    import json

    client: http.client.HTTPConnection
    if peer.tls:
        client = http.client.HTTPSConnection(
            peer.host, peer.port, timeout=peer.only_timeout, context=peer.tls.client
        )
    else:
        client = http.client.HTTPConnection(peer.host, peer.port, timeout=peer.only_timeout)

    def ask() -> str:
        client.request("GET", "/")
        reply = client.getresponse()
        body = reply.read()
        if reply.status == 200:
            json.loads(body)
        return told(reply.status, reply.headers["Retry-After"])

    with contextlib.closing(client):
        yield ask


@contextlib.contextmanager
def with_urllib(peer: Peer) -> Iterator[Ask]:
    import json
    import urllib.request

    def ask() -> str:
        context = peer.tls.client if peer.tls else None
        with urllib.request.urlopen(peer.url, timeout=peer.only_timeout, context=context) as reply:
            json.loads(reply.read())
        return "ok"

    yield ask


@contextlib.contextmanager
def with_boto3(peer: Peer) -> Iterator[Ask]:
    with dynamodb(peer, {"total_max_attempts": 1}) as client:

        def ask() -> str:
            return "ok" if "TableNames" in client.list_tables() else "an empty answer"

        yield ask


@functools.cache
def _session_of_boto3() -> Any:
    """One, for it reads megabytes about the hosts of the world before its first client."""
    import boto3

    return boto3.session.Session(
        aws_access_key_id="nobody", aws_secret_access_key="nothing", region_name="us-east-1"
    )


@contextlib.contextmanager
def dynamodb(peer: Peer, retries: Any) -> Iterator[Any]:
    """A client of boto3 that looks at no file, no variable, and no other host."""
    import botocore.config

    settings = botocore.config.Config(
        connect_timeout=peer.connect_timeout, read_timeout=peer.timeout, retries=retries
    )
    client = _session_of_boto3().client(
        "dynamodb",
        endpoint_url=peer.url,
        config=settings,
        verify=peer.tls.file if peer.tls else None,
    )
    try:
        yield client
    finally:
        client.close()


# --- HTTP, asyncio ---


@contextlib.asynccontextmanager
async def with_aiohttp(peer: Peer) -> AsyncIterator[AsyncAsk]:
    import aiohttp

    limits = aiohttp.ClientTimeout(
        total=None, sock_connect=peer.connect_timeout, sock_read=peer.timeout
    )
    async with aiohttp.ClientSession(timeout=limits) as session:

        async def ask() -> str:
            tls = peer.tls.client if peer.tls else False
            async with session.get(peer.url, ssl=tls, raise_for_status=True) as reply:
                await reply.json()
            return "ok"

        yield ask


@contextlib.asynccontextmanager
async def with_httpx_async(peer: Peer) -> AsyncIterator[AsyncAsk]:
    import httpx

    verify = peer.tls.client if peer.tls else False
    async with httpx.AsyncClient(timeout=_of_httpx(peer), verify=verify) as client:

        async def ask() -> str:
            (await client.get(peer.url)).raise_for_status().json()
            return "ok"

        yield ask


# --- HTTP, trio ---


@contextlib.contextmanager
def with_httpx_on_trio(peer: Peer) -> Iterator[Ask]:
    import httpx

    from anyio.from_thread import start_blocking_portal

    verify = peer.tls.client if peer.tls else False
    with start_blocking_portal("trio") as portal:
        client = httpx.AsyncClient(timeout=_of_httpx(peer), verify=verify)

        async def get() -> str:
            (await client.get(peer.url)).raise_for_status().json()
            return "ok"

        with portal.wrap_async_context_manager(client):
            yield lambda: portal.call(get)


# --- Redis ---


@contextlib.contextmanager
def with_redis(peer: Peer) -> Iterator[Ask]:
    import redis
    import redis.backoff
    import redis.retry

    with redis.Redis(
        peer.host,
        peer.port,
        socket_timeout=peer.timeout,
        socket_connect_timeout=peer.connect_timeout,
        ssl=peer.tls is not None,
        ssl_ca_certs=peer.tls.file if peer.tls else None,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
    ) as client:

        def ask() -> str:
            assert client.echo("tea") == b"tea"
            return "ok"

        yield ask


@contextlib.asynccontextmanager
async def with_redis_async(peer: Peer) -> AsyncIterator[AsyncAsk]:
    import redis.asyncio
    import redis.backoff

    async with redis.asyncio.Redis(
        host=peer.host,
        port=peer.port,
        socket_timeout=peer.timeout,
        socket_connect_timeout=peer.connect_timeout,
        ssl=peer.tls is not None,
        ssl_ca_certs=peer.tls.file if peer.tls else None,
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
    ) as client:

        async def ask() -> str:
            assert await client.echo("tea") == b"tea"
            return "ok"

        yield ask


# --- PostgreSQL and MySQL ---


@contextlib.asynccontextmanager
async def with_asyncpg(peer: Peer) -> AsyncIterator[AsyncAsk]:
    import asyncpg

    connection = None

    async def ask() -> str:
        nonlocal connection
        patience = peer.timeout
        if connection is None:
            patience = peer.connect_timeout  # with the first it has more to do
            connection = await asyncpg.connect(
                host=peer.host,
                port=peer.port,
                user=peer.user,
                database="postgres",
                ssl=peer.tls.client if peer.tls else False,
                timeout=peer.connect_timeout,
                command_timeout=peer.timeout,
            )
        assert await connection.fetchval("SELECT 'tea'", timeout=patience) == "tea"
        return "ok"

    yield ask
    if connection is not None:
        connection.terminate()


@contextlib.contextmanager
def with_libpq(driver: str, peer: Peer) -> Iterator[Ask]:
    connection: Any = None

    def ask() -> str:
        nonlocal connection
        if connection is None:
            connection = __import__(driver).connect(
                host=peer.host,
                port=peer.port,
                user=peer.user,
                dbname="postgres",
                sslmode="disable",
                gssencmode="disable",
                connect_timeout=max(2, int(peer.connect_timeout)),  # libpq has no shorter one
            )
            connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT 'tea'")
        assert cursor.fetchall() == [("tea",)]
        return "ok"

    try:
        yield ask
    finally:
        if connection is not None:
            connection.close()


@contextlib.contextmanager
def with_psycopg(peer: Peer) -> Iterator[Ask]:
    with with_libpq("psycopg", peer) as ask:
        yield ask


@contextlib.contextmanager
def with_psycopg2(peer: Peer) -> Iterator[Ask]:
    with with_libpq("psycopg2", peer) as ask:
        yield ask


@contextlib.asynccontextmanager
async def with_psycopg_async(peer: Peer) -> AsyncIterator[AsyncAsk]:
    import psycopg

    connection: Any = None

    async def ask() -> str:
        nonlocal connection
        if connection is None:
            connection = await psycopg.AsyncConnection.connect(
                host=peer.host,
                port=peer.port,
                user=peer.user,
                dbname="postgres",
                sslmode="disable",
                gssencmode="disable",
                autocommit=True,
            )
        cursor = await connection.execute("SELECT 'tea'")
        assert await cursor.fetchall() == [("tea",)]
        return "ok"

    yield ask
    if connection is not None:
        await connection.close()


@contextlib.contextmanager
def with_pymysql(peer: Peer) -> Iterator[Ask]:
    import pymysql

    def ask() -> str:
        pymysql.connect(
            host=peer.host,
            port=peer.port,
            user="somebody",
            password="something",
            connect_timeout=peer.connect_timeout,
            read_timeout=peer.timeout,
        )._force_close()
        return "ok"

    yield ask


# --- WebSocket ---


@contextlib.contextmanager
def with_websockets(peer: Peer) -> Iterator[Ask]:
    from websockets.sync.client import connect

    connection: Any = None
    with contextlib.ExitStack() as stack:

        def ask() -> str:
            nonlocal connection
            if connection is None:
                opened = connect(
                    peer.url.replace("http", "ws"),
                    ssl=peer.tls.client_without_tickets if peer.tls else None,
                    open_timeout=peer.connect_timeout,
                    close_timeout=0.2,
                )
                connection = stack.enter_context(opened)
            connection.send("tea")
            assert connection.recv(timeout=peer.timeout) == "tea"
            return "ok"

        yield ask


@contextlib.asynccontextmanager
async def with_websockets_async(peer: Peer) -> AsyncIterator[AsyncAsk]:
    from websockets.asyncio.client import connect

    connection: Any = None

    async def ask() -> str:
        nonlocal connection
        if connection is None:
            connection = await connect(
                peer.url.replace("http", "ws"),
                ssl=peer.tls.client if peer.tls else None,
                open_timeout=peer.connect_timeout,
                close_timeout=0.2,
            )
        await connection.send("tea")
        async with asyncio.timeout(peer.timeout):
            assert await connection.recv() == "tea"
        return "ok"

    yield ask
    if connection is not None:
        await connection.close()


# --- gRPC ---


@contextlib.contextmanager
def with_grpc(peer: Peer) -> Iterator[Ask]:
    import grpc

    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # For how long it connects, at least.
        ("grpc.min_reconnect_backoff_ms", 100 if peer.connect_timeout < 1 else 10_000),
        ("grpc.max_reconnect_backoff_ms", 100),
    ]
    failed = False
    with grpc.insecure_channel(f"{peer.host}:{peer.port}", options) as channel:
        call = channel.unary_unary("/shop.Prices/Price")

        def wait_until_ready() -> None:
            """It would fail again until it tries again, and until it knows that it has to."""
            has_noticed = threading.Event()

            def note(state: object) -> None:
                if state is not grpc.ChannelConnectivity.READY:
                    has_noticed.set()

            channel.subscribe(note)
            has_noticed.wait(1)  # in vain if it is connected anew already
            channel.unsubscribe(note)
            grpc.channel_ready_future(channel).result(10)

        def ask() -> str:
            nonlocal failed
            if failed:
                wait_until_ready()
            failed = True
            assert call(b"tea", timeout=peer.only_timeout) == b"4"
            failed = False
            return "ok"

        yield ask
        # Its thread that watches the connection fails if the channel is closed below it.
        eventually(lambda: not channel._connectivity_state.polling)


HTTP = (
    Client(name="requests", libraries=("requests", "urllib3"), opened=with_requests),
    Client(name="urllib3", libraries=("urllib3",), opened=with_urllib3),
    Client(name="httpx", libraries=("httpx", "httpcore"), opened=with_httpx),
    Client(
        name="http.client",
        libraries=(),
        opened=with_http_client,
        warns=("ignore:unclosed:ResourceWarning",),  # a response that has never begun
    ),
    Client(name="urllib.request", libraries=(), opened=with_urllib),
    Client(name="boto3", libraries=("boto3", "botocore", "urllib3"), opened=with_boto3),
    of_asyncio("httpx, async", ("httpx", "httpcore", "anyio"), with_httpx_async),
    of_asyncio("aiohttp", ("aiohttp",), with_aiohttp),
    Client(
        name="httpx, async on trio",
        libraries=("httpx", "httpcore", "trio"),
        opened=with_httpx_on_trio,
    ),
)
OTHERS = (
    Client(name="redis", libraries=("redis",), opened=with_redis, speaks="redis"),
    of_asyncio("redis.asyncio", ("redis",), with_redis_async, "redis"),
    of_asyncio("asyncpg", ("asyncpg",), with_asyncpg, "postgres"),
    Client(name="pymysql", libraries=("pymysql",), opened=with_pymysql, speaks="mysql"),
    Client(
        name="websockets.sync",
        libraries=("websockets",),
        opened=with_websockets,
        speaks="websocket",
    ),
    of_asyncio("websockets.asyncio", ("websockets",), with_websockets_async, "websocket"),
)
# Written in C: reached through a proxy only.
BEHIND_PROXY = (
    Client(name="psycopg", libraries=("psycopg",), opened=with_psycopg, speaks="postgres"),
    of_asyncio("psycopg, async", ("psycopg",), with_psycopg_async, "postgres"),
    Client(
        name="psycopg2", libraries=("psycopg2-binary",), opened=with_psycopg2, speaks="postgres"
    ),
    Client(name="grpc", libraries=("grpcio",), opened=with_grpc, speaks="grpc"),
)
EVERY = HTTP + OTHERS + BEHIND_PROXY

# What can happen to an upload, and whose is tried (see `test_sending`).
UPLOADS = (
    "upload reset", "upload reset in the middle", "upload closed", "upload cut in the middle",
    "upload stalled",
)  # fmt: skip
UPLOADING = {
    # Without what a loop may be told of by reading or by writing, as chance has it.
    "aiohttp": tuple(each for each in UPLOADS if each != "upload cut in the middle"),
    **dict.fromkeys(("requests", "urllib3", "httpx", "http.client"), UPLOADS),
    "socket": (*UPLOADS, *(f"{each}, TLS" for each in UPLOADS)),
}

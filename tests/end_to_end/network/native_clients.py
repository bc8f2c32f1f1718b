"""Clients written in C, C++ and Rust, which connect below Python's sockets."""

from __future__ import annotations

import asyncio
import contextlib
import io

from collections.abc import AsyncIterator
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.end_to_end.network.clients import BEHIND_PROXY
from tests.end_to_end.network.clients import Ask
from tests.end_to_end.network.clients import AsyncAsk
from tests.end_to_end.network.clients import Client
from tests.end_to_end.network.clients import Peer


@contextlib.contextmanager
def with_pycurl(peer: Peer) -> Iterator[Ask]:
    import pycurl

    with contextlib.closing(pycurl.Curl()) as curl:

        def ask() -> str:
            body = io.BytesIO()
            curl.setopt(curl.URL, peer.url)
            curl.setopt(curl.WRITEDATA, body)
            curl.setopt(curl.CONNECTTIMEOUT_MS, int(peer.connect_timeout * 1000))
            curl.setopt(curl.TIMEOUT_MS, int(peer.only_timeout * 1000))
            if peer.tls is not None:
                curl.setopt(curl.CAINFO, peer.tls.file)
            curl.perform()
            status = curl.getinfo(curl.RESPONSE_CODE)
            return "ok" if status == 200 else str(status)

        yield ask


@contextlib.contextmanager
def with_curl_cffi(peer: Peer) -> Iterator[Ask]:
    from curl_cffi import requests

    verify: Any = peer.tls.file if peer.tls else True

    with requests.Session(verify=verify) as session:

        def ask() -> str:
            # Of two it would make their sum.
            response = session.get(peer.url, timeout=peer.only_timeout)
            return "ok" if response.status_code == 200 else str(response.status_code)

        yield ask


@contextlib.asynccontextmanager
async def _streams(peer: Peer) -> AsyncIterator[AsyncAsk]:
    """HTTP by hand: what is uvloop's is seen best without a library above it."""
    made: list[asyncio.StreamWriter] = []

    async def ask() -> str:
        async with asyncio.timeout(peer.connect_timeout):
            reader, writer = await asyncio.open_connection(peer.host, peer.port)
        made.append(writer)
        async with asyncio.timeout(peer.timeout):
            writer.write(f"GET / HTTP/1.1\r\nHost: {peer.host}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            sized = head.lower().partition(b"content-length: ")[2]
            await (reader.readexactly(int(sized.split()[0])) if sized else reader.read())
        status = head.split()[1].decode()
        return "ok" if status == "200" else status

    yield ask
    for writer in made:
        writer.close()


@contextlib.contextmanager
def with_uvloop(peer: Peer) -> Iterator[Ask]:
    import uvloop

    async def enter() -> AsyncAsk:
        return await client.__aenter__()

    async def leave() -> None:
        await client.__aexit__(None, None, None)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        client = _streams(peer)
        ask = runner.run(enter())

        async def request() -> str:
            return await ask()

        yield lambda: runner.run(request())
        runner.run(leave())


@contextlib.contextmanager
def with_mysqlclient(peer: Peer) -> Iterator[Ask]:
    import MySQLdb

    def ask() -> str:
        MySQLdb.connect(
            host=peer.host,
            port=peer.port,
            user="somebody",
            password="something",
            connect_timeout=max(1, int(peer.connect_timeout)),
            read_timeout=max(1, int(peer.timeout)),
            ssl_mode="DISABLED",
        ).close()
        return "ok"

    yield ask


@contextlib.contextmanager
def with_pymssql(peer: Peer) -> Iterator[Ask]:
    import pymssql

    made: list[Any] = []

    def ask() -> str:
        if not made:
            connection = pymssql.connect(
                server=peer.host,
                port=str(peer.port),
                user="somebody",
                password="something",
                autocommit=True,
                encryption="off",
                login_timeout=max(1, int(peer.connect_timeout)),
                timeout=max(1, int(peer.timeout)),
            )
            made.append(connection)
        try:
            made[-1].cursor().execute("DELETE FROM tea")
        except pymssql.Error:
            made.pop().close()
            raise
        return "ok"

    yield ask
    for connection in made:
        connection.close()


@contextlib.contextmanager
def with_confluent_kafka(peer: Peer) -> Iterator[Ask]:
    """librdkafka connects again and again, in threads of its own, and keeps messages meanwhile.

    So what became of a message is the answer; or that the connection is refused, until something
    was wrong: it may have been kept from then. That is told in words only.
    """
    import confluent_kafka

    refusals: list[str] = []
    producer: Any = None
    well = True

    def note(error: Any) -> None:
        if "Connection refused" in error.str():
            refusals.append(error.name())

    def opened() -> Any:
        settings = {
            "bootstrap.servers": f"{peer.host}:{peer.port}",
            "log_level": 0,
            "retries": 0,
            "reconnect.backoff.ms": 1,
            "reconnect.backoff.max.ms": 1,
            "socket.connection.setup.timeout.ms": max(1000, int(peer.connect_timeout * 1000)),
            "socket.timeout.ms": int(peer.timeout * 1000),
            "request.timeout.ms": int(peer.timeout * 1000),
            "error_cb": note,
        }
        if peer.connect_timeout < 1:  # of which librdkafka has none: it takes that to try again
            settings["message.timeout.ms"] = 3000
        return confluent_kafka.Producer(settings)

    def ask() -> str:
        nonlocal producer, well
        if producer is None:  # it connects at once
            producer = opened()
        told: list[str] = []

        def delivered(error: Any, _message: Any) -> None:
            told.append(error.name() if error else "ok")

        producer.produce("tea", b"a cup", on_delivery=delivered)
        while not told:
            producer.poll(0.01)
            if well:
                told += refusals[:1]
        well = told[0] == "ok"
        return told[0]

    yield ask
    producer.purge()
    producer.flush()


@contextlib.contextmanager
def with_grpc_aio(peer: Peer) -> Iterator[Ask]:
    import grpc.aio

    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100 if peer.connect_timeout < 1 else 10_000),
        ("grpc.max_reconnect_backoff_ms", 100),
    ]
    with asyncio.Runner() as runner:

        async def opened() -> Any:
            return grpc.aio.insecure_channel(f"{peer.host}:{peer.port}", options=options)

        channel = runner.run(opened())
        failed = False

        async def wait_until_ready() -> None:
            """It would fail again until it tries again, and until it knows that it has to."""
            ready = grpc.ChannelConnectivity.READY
            if channel.get_state() is ready:
                with contextlib.suppress(TimeoutError):  # it is connected anew already
                    async with asyncio.timeout(1):
                        await channel.wait_for_state_change(ready)
            async with asyncio.timeout(10):
                await channel.channel_ready()

        async def request() -> str:
            nonlocal failed
            if failed:
                await wait_until_ready()
            failed = True
            assert (
                await channel.unary_unary("/shop.Prices/Price")(b"tea", timeout=peer.only_timeout)
                == b"4"
            )
            failed = False
            return "ok"

        yield lambda: runner.run(request())
        runner.run(channel.close())


def _in_process(client: Client) -> Client:
    return replace(client, name=f"{client.name}, in this process")


NATIVE_HTTP = (
    Client(name="pycurl", libraries=("pycurl",), opened=with_pycurl),
    Client(name="curl_cffi", libraries=("curl_cffi",), opened=with_curl_cffi),
    Client(name="uvloop", libraries=("uvloop",), opened=with_uvloop),
)
NATIVE_OTHERS = (
    *map(_in_process, BEHIND_PROXY),
    Client(name="grpc.aio", libraries=("grpcio",), opened=with_grpc_aio, speaks="grpc"),
)
MYSQLCLIENT = Client(
    name="mysqlclient", libraries=("mysqlclient",), opened=with_mysqlclient, speaks="mysql"
)
PYMSSQL = Client(name="pymssql", libraries=("pymssql",), opened=with_pymssql, speaks="tds")
CONFLUENT = Client(
    name="confluent-kafka", libraries=("confluent-kafka",), opened=with_confluent_kafka,
    speaks="kafka", warns=("ignore:(open|read)_text is deprecated:DeprecationWarning",),
)  # fmt: skip
NATIVE = (*NATIVE_HTTP, *NATIVE_OTHERS, MYSQLCLIENT, PYMSSQL, CONFLUENT)

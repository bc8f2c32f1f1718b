"""WebSockets on which both sides speak in turns: what counts messages counts all of the server's.

A server that really does so is the measure.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
import urllib.parse

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import aiohttp
import grpclib.client
import grpclib.const
import grpclib.server
import nats
import pytest
import redis
import trio
import websocket
import websockets.asyncio.client
import websockets.sync.client
import websockets.sync.server
import wsproto
import wsproto.events

from pytest_resilience.diagnosis import never_fired
from pytest_resilience.proxy import ChaosProxy
from tests.end_to_end.network.clients import everything_closed
from tests.http2_server import RawCodec
from tests.injecting import Inject
from tests.interceptors.conftest import Trust
from tests.resets import reset_when_closed
from tests.waiting import PATIENCE


TIMEOUT = 0.2  # seconds, of who is to meet silence
# Of several lengths: where they are compressed, each is with all that came before.
MESSAGES = [f"{'never ' * number}said {number} times" for number in range(4)]
Heard = list[str]  # what was heard in each turn, or the error
Patience = Callable[[str], float]  # seconds, by what was said


class Parrot:
    """Says what it was told; what it says after `until` messages is lost, as `mishap` says.

    Every message comes in two frames, and with a ping after it.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.mishap, self.until = "", -1
        self.is_encrypted = context is not None
        self._server = websockets.sync.server.serve(
            self._talk, "127.0.0.1", 0, ssl=context, close_timeout=TIMEOUT
        )
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE)

    def url(self, port: int | None = None) -> str:
        return f"ws{'s' if self.is_encrypted else ''}://127.0.0.1:{port or self.port}/talk"

    def _talk(self, connection: Any) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            for number, said in enumerate(connection):
                is_silent = self.mishap == "timeout" and number >= self.until
                if not is_silent and not (self.mishap == "drop_message" and number == self.until):
                    connection.send([said[:1], said[1:]])
                connection.ping()
                if self.mishap in {"close", "reset"} and number == self.until - 1:
                    self._end(connection.socket)

    def _end(self, client: socket.socket) -> None:
        if self.mishap == "reset":
            threading.Event().wait(0.05)  # so that what was sent is read before
            reset_when_closed(client)
            client.close()
            return
        client.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module", params=["plain", "tls"])
def parrot(request: pytest.FixtureRequest, trust: Trust) -> Iterator[Parrot]:
    running = Parrot(trust.server if request.param == "tls" else None)
    yield running
    running.close()


Turn = Callable[[str], str]


def turns(turn: Turn, mishaps: tuple[type[Exception], ...]) -> Heard:
    heard: Heard = []
    for number in range(len(MESSAGES)):
        try:
            heard.append(turn(MESSAGES[number]))
        except TimeoutError:
            heard.append("nothing")
        except mishaps:
            return [*heard, "ended"]
    return heard


async def async_turns(
    turn: Callable[[str], Awaitable[str]], mishaps: tuple[type[Exception], ...]
) -> Heard:
    heard: Heard = []
    for number in range(len(MESSAGES)):
        try:
            heard.append(await turn(MESSAGES[number]))
        except (TimeoutError, trio.TooSlowError):
            heard.append("nothing")
        except mishaps:
            return [*heard, "ended"]
    return heard


def with_websockets(url: str, trust: Trust, patience: Patience) -> Heard:
    context = trust.client_without_tickets if url.startswith("wss") else None
    with websockets.sync.client.connect(url, ssl=context, close_timeout=TIMEOUT) as connection:

        def turn(said: str) -> str:
            connection.send(said)
            return str(connection.recv(timeout=patience(said)))

        return turns(turn, (websockets.ConnectionClosed,))


def with_websockets_in_asyncio(url: str, trust: Trust, patience: Patience) -> Heard:
    context = trust.client if url.startswith("wss") else None

    async def story() -> Heard:
        async with websockets.asyncio.client.connect(
            url, ssl=context, close_timeout=TIMEOUT
        ) as connection:

            async def turn(said: str) -> str:
                await connection.send(said)
                return str(await asyncio.wait_for(connection.recv(), patience(said)))

            return await async_turns(turn, (websockets.ConnectionClosed,))

    return asyncio.run(story())


def with_websocket_client(url: str, trust: Trust, patience: Patience) -> Heard:
    connection: Any = websocket.create_connection(url, sslopt={"ca_certs": trust.file})

    def turn(said: str) -> str:
        connection.settimeout(patience(said))
        connection.send(said)
        try:
            return str(connection.recv())
        except websocket.WebSocketTimeoutException as error:
            raise TimeoutError from error

    try:
        return turns(turn, (websocket.WebSocketException, OSError))
    finally:
        connection.shutdown()


def with_aiohttp(url: str, trust: Trust, patience: Patience) -> Heard:
    async def story() -> Heard:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(url, ssl=trust.client) as connection,
            ):

                async def turn(said: str) -> str:
                    await connection.send_str(said)
                    return await connection.receive_str(timeout=patience(said))

                return await async_turns(turn, (aiohttp.ClientError, TypeError, OSError))
        finally:
            await everything_closed()

    return asyncio.run(story())


def with_trio(url: str, trust: Trust, patience: Patience) -> Heard:
    port = urllib.parse.urlsplit(url).port
    protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)

    async def story() -> Heard:
        stream: Any = await trio.open_tcp_stream("127.0.0.1", port or 0)
        if url.startswith("wss"):
            stream = trio.SSLStream(stream, trust.client, server_hostname="127.0.0.1")

        async def next_event() -> Any:
            while (event := next(protocol.events(), None)) is None:
                data = await stream.receive_some()
                protocol.receive_data(data or None)
            return event

        async def turn(said: str) -> str:
            await stream.send_all(protocol.send(wsproto.events.TextMessage(said)))
            heard = ""
            with trio.fail_after(patience(said)):
                while True:
                    match await next_event():
                        case wsproto.events.Ping() as ping:
                            await stream.send_all(protocol.send(ping.response()))
                        case wsproto.events.TextMessage() as message:
                            heard += message.data
                            if message.message_finished:
                                return heard
                        case end:
                            raise EOFError(end)

        async with stream:
            await stream.send_all(protocol.send(wsproto.events.Request("127.0.0.1", "/talk")))
            assert isinstance(await next_event(), wsproto.events.AcceptConnection)
            return await async_turns(turn, (EOFError, trio.BrokenResourceError))

    return trio.run(story)


Talk = Callable[[str, Trust, Patience], Heard]
every_client = pytest.mark.parametrize(
    "talk",
    [
        with_websockets, with_websockets_in_asyncio, with_websocket_client, with_aiohttp, with_trio,
    ],
)  # fmt: skip
# What these have read may be lost when the end comes with it, before anybody has asked for it.
IN_THE_BACKGROUND = {with_websockets}
every_mishap = pytest.mark.parametrize("mishap", ["drop_message", "close", "reset", "timeout"])


def really(parrot: Parrot, mishap: str, until: int, talk: Callable[[], Heard]) -> Heard:
    parrot.mishap, parrot.until = mishap, until
    try:
        return talk()
    finally:
        parrot.mishap, parrot.until = "", -1


def patience_for(mishap: str) -> Patience:
    silent = {"drop_message": MESSAGES[2:3], "timeout": MESSAGES[2:]}.get(mishap, [])
    return lambda said: TIMEOUT if said in silent else PATIENCE


@every_client
@every_mishap
def test_the_servers_messages_are_counted_whatever_the_client_says_in_between(
    talk: Talk, mishap: str, parrot: Parrot, trust: Trust, inject: Inject
) -> None:
    converse = functools.partial(talk, parrot.url(), trust, patience_for(mishap))
    expected = really(parrot, mishap, 2, converse)
    assert MESSAGES[0] in expected
    assert MESSAGES[2] not in expected
    target = f"*:{parrot.port}"
    with inject("network_failure", mode=mishap, after_items=2, target=target) as fault:
        met = converse()
    if mishap in {"close", "reset"} and talk in IN_THE_BACKGROUND:
        expected, met = (
            [each for each in heard if each != MESSAGES[1]] for heard in (expected, met)
        )
    assert met == expected
    assert (fault.matched, fault.hits) == (1, 1)


@pytest.mark.parametrize("talk", [with_websockets_in_asyncio, with_websocket_client])
@every_mishap
def test_a_proxy_counts_them_too(talk: Talk, mishap: str, trust: Trust) -> None:
    given: dict[str, Any] = {"mode": mishap, "after_items": 2, "rate": 1}
    with contextlib.closing(Parrot(None)) as parrot:
        address = ("127.0.0.1", parrot.port)

        def converse(proxy: ChaosProxy) -> Heard:
            return talk(parrot.url(proxy.address[1]), trust, patience_for(mishap))

        with ChaosProxy(address) as proxy:
            expected = really(parrot, mishap, 2, lambda: converse(proxy))
        with ChaosProxy(address) as proxy, proxy.inject("network_failure", **given) as fault:
            met = converse(proxy)
    assert met == expected
    assert (fault.matched, fault.hits) == (1, 1)


def test_what_never_fires_tells_how_many_messages_there_were(
    parrot: Parrot, trust: Trust, inject: Inject
) -> None:
    target = f"127.0.0.1:{parrot.port}"
    with inject("network_failure", mode="reset", after_items=9, target=target) as fault:
        heard = with_websockets(parrot.url(), trust, patience_for(""))
    assert heard == MESSAGES
    message = str(never_fired(fault))
    assert f"\n    1 network.receive {target} GET /talk\n" in message
    assert "The longest response had 4 items: give a smaller after_items. An item is" in message


def test_who_is_subscribed_to_redis_may_speak_between_messages(
    redis_port: int, inject: Inject
) -> None:
    heard = []
    given = {"mode": "drop_message", "after_items": 5, "target": f"*:{redis_port}#1"}
    with (
        inject("network_failure", **given) as lost,
        redis.Redis(port=redis_port, socket_timeout=PATIENCE) as client,
        client.pubsub(ignore_subscribe_messages=True) as subscriber,
        redis.Redis(port=redis_port) as publisher,
    ):
        subscriber.subscribe("teas")
        subscriber.get_message(timeout=PATIENCE)  # the first item
        for number in range(4):
            publisher.publish("teas", str(number))
            message = subscriber.get_message(timeout=TIMEOUT if number == 2 else PATIENCE)
            heard.append(message and message["data"])
            subscriber.ping()
            pong = subscriber.get_message(timeout=PATIENCE)
            assert pong is not None
            assert pong["type"] == "pong"
    assert heard == [b"0", b"1", None, b"3"]
    assert lost.hits == 1


def test_who_is_connected_to_nats_may_speak_between_messages(
    nats_port: int, inject: Inject
) -> None:
    async def story() -> Heard:
        client = await nats.connect(f"nats://127.0.0.1:{nats_port}")
        subscription = await client.subscribe("teas")
        heard = []
        for number in range(4):
            await client.publish("teas", str(number).encode())
            await client.flush()  # a PING, and its PONG
            patience = TIMEOUT if number == 2 else PATIENCE
            try:
                heard.append((await subscription.next_msg(patience)).data.decode())
            except TimeoutError:
                heard.append("nothing")
        await client.close()
        return heard

    target = f"*:{nats_port}"
    with inject("network_failure", mode="drop_message", after_items=2, target=target) as lost:
        assert asyncio.run(story()) == ["0", "1", "nothing", "3"]
    assert lost.hits == 1


class Talker:
    """Says what it is told, in one call of gRPC in which both sides stream."""

    async def talk(self, stream: Any) -> None:
        async for message in stream:
            await stream.send_message(message)

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        both = grpclib.const.Cardinality.STREAM_STREAM
        return {"/shop.Teas/Talk": grpclib.const.Handler(self.talk, both, bytes, bytes)}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("drop_message", ["0", "1", "nothing", "3"]), ("timeout", ["0", "1", "nothing", "nothing"])],
)
def test_one_call_of_grpc_is_one_stream(mode: str, expected: Heard, inject: Inject) -> None:
    codec: Any = RawCodec()

    async def talk(port: int) -> Heard:
        channel = grpclib.client.Channel("127.0.0.1", port, codec=codec)
        method: Any = grpclib.client.StreamStreamMethod(channel, "/shop.Teas/Talk", bytes, bytes)
        heard = []
        async with method.open() as stream:
            for number in range(4):
                await stream.send_message(str(number).encode())
                patience = TIMEOUT if expected[number] == "nothing" else PATIENCE
                try:
                    message = await asyncio.wait_for(stream.recv_message(), patience)
                    heard.append(message.decode())
                except TimeoutError:
                    heard.append("nothing")
            await stream.cancel()
        channel.close()
        return heard

    async def story() -> Heard:
        server = grpclib.server.Server([Talker()], codec=codec)
        await server.start("127.0.0.1", 0)
        port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        try:
            return await talk(port)
        finally:
            server.close()
            await server.wait_closed()

    given = {"mode": mode, "after_items": 2, "rpc": "shop.Teas/*"}
    with inject("network_failure", **given) as fault:
        assert asyncio.run(story()) == expected
    assert (fault.matched, fault.hits) == (1, 1)

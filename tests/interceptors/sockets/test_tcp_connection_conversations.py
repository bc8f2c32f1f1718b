"""WebSockets on which both sides speak in turns: to what counts in it, all that comes is one."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl

from collections.abc import Collection
from typing import Any

import pytest

from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import serve
from tests.waiting import PATIENCE


SHORT = 0.15  # seconds, of who meets silence
TURNS = 4
UPGRADE = b"GET /talk HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
FRAME, PING, PONG = b"\x81\x01", b"\x89\x00", b"\x8a\x80pong"
NOTHING, END = b"nothing", b"end"
ALL = [b"0", b"1", b"2", b"3"]


def parrot(connection: socket.socket) -> None:
    """Says what it is told."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1000)
    connection.sendall(UPGRADED)
    while len(data := connection.recv(7)) == 7:
        connection.sendall(FRAME + data[-1:])


def wary_parrot(connection: socket.socket) -> None:
    """Says it only if it hears before that somebody is there."""
    connection.recv(1000)
    connection.sendall(UPGRADED)
    while len(data := connection.recv(7)) == 7:
        connection.sendall(PING)
        assert connection.recv(1000) == PONG
        connection.sendall(FRAME + data[-1:])


class How:
    """Whether both sides speak TLS."""

    def __init__(self, trust: Trust | None = None) -> None:
        self.context = None if trust is None else trust.client
        self._over = (lambda handler: handler) if trust is None else trust.over_tls

    def serve(self, handler: Handler) -> contextlib.AbstractContextManager[int]:
        return serve(self._over(handler))


class Blocking:
    def __init__(self, port: int, how: How) -> None:
        self.patience: float = PATIENCE
        self.sock = socket.create_connection((HOST, port), timeout=PATIENCE)
        if how.context is not None:
            self.sock = how.context.wrap_socket(self.sock, server_hostname=HOST)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, size: int) -> bytes:
        self.sock.settimeout(self.patience)
        return self.sock.recv(size)

    def close(self) -> None:
        self.sock.close()


class PolledAndBlocking(Blocking):
    def receive(self, size: int) -> bytes:
        there = getattr(self.sock, "pending", int)()
        if not there and not select.select([self.sock], [], [], self.patience)[0]:
            raise TimeoutError
        return super().receive(size)


class Polling(Blocking):
    def __init__(self, port: int, how: How) -> None:
        super().__init__(port, how)
        self.sock.setblocking(False)

    def receive(self, size: int) -> bytes:
        while True:
            try:
                return self.sock.recv(size)
            except (BlockingIOError, ssl.SSLWantReadError):
                if not select.select([self.sock], [], [], self.patience)[0]:
                    raise TimeoutError from None


class Asyncio:
    def __init__(self, port: int, how: How) -> None:
        self.patience: float = PATIENCE
        self._loop = asyncio.new_event_loop()
        opened = asyncio.open_connection(HOST, port, ssl=how.context)
        self._reader, self._writer = self._loop.run_until_complete(opened)

    def send(self, data: bytes) -> None:
        async def send() -> None:
            self._writer.write(data)
            await self._writer.drain()

        self._loop.run_until_complete(send())

    def receive(self, size: int) -> bytes:
        received = asyncio.wait_for(self._reader.read(size), self.patience)
        return self._loop.run_until_complete(received)

    def close(self) -> None:
        self._writer.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


def whole(client: Blocking | Asyncio, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += client.receive(size - len(received)) or END
    return received


def turn(client: Blocking | Asyncio, number: int, *, silent: bool = False) -> bytes:
    """What is heard when something is said; `silent`: nothing, which need not be waited for."""
    client.patience = SHORT if silent else PATIENCE
    try:
        client.send(b"\x81\x81\0\0\0\0%d" % number)  # masked, with a mask of nothing
        heard = whole(client, 3)
    except TimeoutError:
        return NOTHING
    except OSError:
        return END
    return END if END in heard else heard.removeprefix(FRAME)


def conversation(client: Blocking | Asyncio, silent: Collection[int] = ()) -> list[bytes]:
    """What is heard in each turn, and in those of `silent` nothing."""
    client.send(UPGRADE)
    assert whole(client, len(UPGRADED)) == UPGRADED
    return [turn(client, number, silent=number in silent) for number in range(TURNS)]


every_client = pytest.mark.parametrize("kind", [Blocking, PolledAndBlocking, Polling, Asyncio])


@pytest.fixture(params=["plain", "tls"])
def how(request: pytest.FixtureRequest, trust: Trust) -> How:
    return How(trust) if request.param == "tls" else How()


@pytest.mark.parametrize(
    ("given", "heard"),
    [
        ({"mode": "drop_message"}, [NOTHING, *ALL[1:]]),
        ({"mode": "drop_message", "after_items": 2}, [*ALL[:2], NOTHING, b"3"]),
        ({"mode": "close", "after_items": 2}, [*ALL[:2], END, END]),
        ({"mode": "reset", "after_items": 2}, [*ALL[:2], END, END]),
        ({"mode": "timeout", "after_items": 2}, [*ALL[:2], NOTHING, NOTHING]),
        ({"mode": "truncate", "after_bytes": 7}, [*ALL[:2], END, END]),
        ({"mode": "timeout", "after_bytes": 6}, [*ALL[:2], NOTHING, NOTHING]),
    ],
    ids=str,
)  # fmt: skip
@every_client
def test_all_that_comes_after_an_upgrade_is_one_response_to_what_counts_in_it(
    kind: Any, given: dict[str, Any], heard: list[bytes], how: How, inject: Inject
) -> None:
    with (
        how.serve(parrot) as port,
        inject("network_failure", rate=1, **given) as fault,
        contextlib.closing(kind(port, how)) as client,
    ):
        silent = [number for number, each in enumerate(heard) if each == NOTHING]
        assert conversation(client, silent) == heard
    assert (fault.matched, fault.hits) == (1, 1)


@every_client
def test_what_is_damaged_from_a_message_on_is_so_in_all_that_come(
    kind: Any, how: How, inject: Inject
) -> None:
    with (
        how.serve(parrot) as port,
        inject("network_failure", mode="corrupt", share=1, after_items=2, rate=1) as fault,
        contextlib.closing(kind(port, how)) as client,
    ):
        first, second, third, fourth = conversation(client)
    assert [first, second] == ALL[:2]
    assert len(third) == len(fourth) == 3
    assert not set(third) & set(FRAME + b"2")
    assert not set(fourth) & set(FRAME + b"3")
    assert (fault.matched, fault.hits) == (1, 1)


@every_client
def test_the_pause_comes_once_where_it_was_asked_for(kind: Any, how: How, inject: Inject) -> None:
    if how.context and kind is Asyncio:
        pytest.skip("nobody sees how far the response is")
    pause = 0.5  # seconds: two of them are more than one and what a busy machine adds
    with (
        how.serve(parrot) as port,
        inject("network_latency", delay=pause, after_items=2, rate=1) as late,
        contextlib.closing(kind(port, how)) as client,
    ):
        assert conversation(client) == ALL
    assert (late.matched, late.hits, round(late.delay / pause)) == (1, 1, 1)


@every_client
def test_another_experiment_is_asked_about_each_turn(kind: Any, how: How, inject: Inject) -> None:
    with (
        how.serve(parrot) as port,
        inject("network_latency", delay="1ms", rate=1, name="late") as late,
        inject("network_failure", mode="drop_message", after_items=2, rate=1) as lost,
        contextlib.closing(kind(port, how)) as client,
    ):
        late_before = late.matched  # it has connected
        assert conversation(client, silent=[2]) == [*ALL[:2], NOTHING, b"3"]
    assert (lost.matched, lost.hits) == (1, 1)
    assert late.matched - late_before == 1 + TURNS
    assert late.matched - late.hits <= 1  # nothing came that could be late


@every_client
def test_an_experiment_that_ends_it_comes_first(kind: Any, how: How, inject: Inject) -> None:
    with (
        how.serve(parrot) as port,
        inject("network_failure", mode="corrupt", share=1, after_items=1, rate=1) as damage,
        inject("network_failure", mode="reset", path="/talk", nth=4, name="reset") as reset,
        contextlib.closing(kind(port, how)) as client,
    ):
        first, second, *rest = conversation(client)
    assert first == b"0"
    assert second != b"1"
    assert rest == [END, END]
    assert (damage.hits, reset.hits) == (1, 1)


@every_client
def test_to_an_experiment_that_begins_within_it_all_from_then_on_is_one(
    kind: Any, how: How, inject: Inject
) -> None:
    with how.serve(parrot) as port, contextlib.closing(kind(port, how)) as client:
        client.send(UPGRADE)
        assert whole(client, len(UPGRADED)) == UPGRADED
        assert turn(client, 0) == b"0"
        with inject("network_failure", mode="drop_message", after_items=1, rate=1) as lost:
            said = [turn(client, each, silent=each == 2) for each in (1, 2, 3)]
            assert said == [b"1", NOTHING, b"3"]
    assert (lost.matched, lost.hits) == (1, 1)


@every_client
def test_of_what_the_client_says_one_message_is_lost(kind: Any, how: How, inject: Inject) -> None:
    given = {"mode": "drop_message", "after_items": 2, "stream": "upstream", "rate": 1}
    with (
        how.serve(parrot) as port,
        inject("network_failure", **given) as lost,
        contextlib.closing(kind(port, how)) as client,
    ):
        assert conversation(client, silent=[2]) == [*ALL[:2], NOTHING, b"3"]
    assert lost.hits == 1


@every_client
def test_no_response_of_http_takes_the_place_of_a_message(
    kind: Any, how: How, inject: Inject
) -> None:
    with (
        how.serve(parrot) as port,
        inject("network_failure", mode="status", from_nth=2) as status,
        contextlib.closing(kind(port, how)) as client,
    ):
        assert conversation(client) == ALL
    assert (status.matched, status.hits) == (1, 0)


def test_who_is_refused_an_upgrade_asks_again_in_http(inject: Inject) -> None:
    events = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 0\n\ndata: 1\n\n"

    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
        connection.recv(1000)
        connection.sendall(events)

    with (
        serve(refuse) as port,
        inject("network_failure", mode="drop_message", after_items=1, nth=2) as lost,
    ):
        client = Blocking(port, How())
        client.send(UPGRADE)
        assert client.receive(1000).endswith(b"\r\n\r\nno")
        client.send(b"GET /events HTTP/1.1\r\nHost: here\r\n\r\n")
        assert whole(client, len(events)).removesuffix(3 * END) == events[: -len(b"data: 1\n\n")]
        client.close()
    assert (lost.matched, lost.hits) == (2, 1)


@every_client
@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_what_controls_the_connection_is_no_message_and_arrives(
    stream: str, kind: Any, how: How, inject: Inject
) -> None:
    given = {"mode": "drop_message", "after_items": 2, "stream": stream, "rate": 1}
    heard = []
    with how.serve(wary_parrot) as port, inject("network_failure", **given) as lost:
        client = kind(port, how)
        try:
            client.send(UPGRADE)
            assert whole(client, len(UPGRADED)) == UPGRADED
            for number in range(TURNS):
                client.send(b"\x81\x81\0\0\0\0%d" % number)
                client.patience = SHORT if (number, stream) == (2, "upstream") else PATIENCE
                try:
                    assert whole(client, len(PING)) == PING
                    client.send(PONG)
                    client.patience = SHORT if number == 2 else PATIENCE
                    heard.append(whole(client, 3).removeprefix(FRAME))
                except TimeoutError:
                    heard.append(NOTHING)
        finally:
            client.close()
    assert heard == [*ALL[:2], NOTHING, b"3"]
    assert lost.hits == 1

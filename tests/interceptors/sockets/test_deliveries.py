"""What was received before an outage begins is delivered, as where a real peer stops or goes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from pytest_resilience.chaos.descriptors import unread
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.interceptors.sockets.polls import POLLS
from tests.interceptors.sockets.polls import Poll
from tests.interceptors.sockets.polls import by_poll
from tests.resets import reset_when_closed
from tests.waiting import eventually


PATIENCE = 10  # seconds
LIMIT = 0.05  # seconds that a client waits for what does not come
OUTAGES = ["timeout", "partition", "reset", "close", "down"]

Receive = Callable[[socket.socket, int], bytes]


def plainly(sock: socket.socket, size: int) -> bytes:
    return sock.recv(size)


def into_a_buffer(sock: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: sock.recv_into(buffer)])


def as_a_message(sock: socket.socket, size: int) -> bytes:
    return sock.recvmsg(size)[0]


WAYS: list[Receive] = [plainly, into_a_buffer, as_a_message]


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and the server's end."""
    with socket.create_server((HOST, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        with client, peer:
            yield client, peer


@contextlib.contextmanager
def really(mode: str, peer: socket.socket) -> Iterator[None]:
    """The same done by the server, as far as it can."""
    if mode in {"reset", "close", "down"}:
        if mode == "reset":
            reset_when_closed(peer)
        peer.close()
    yield


def answer(peer: socket.socket) -> None:
    assert peer.recv(3) == b"ask"
    peer.sendall(b"tea")


@contextlib.contextmanager
def answered() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of whom one has asked, and has the response, of which it has received nothing."""
    with connected() as (client, peer):
        client.sendall(b"ask")
        answer(peer)
        assert eventually(lambda: unread(client) == 3)
        yield client, peer


Trouble = Callable[[socket.socket], AbstractContextManager[Any]]


@pytest.mark.parametrize("receive", WAYS, ids=lambda receive: receive.__name__)
@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize("limit", [0, LIMIT])
@pytest.mark.parametrize("mode", OUTAGES)
def test_it_is_delivered(
    mode: str, limit: float, size: int, receive: Receive, inject: Inject
) -> None:
    def met(trouble: Trouble) -> list[str]:
        with answered() as (client, peer), trouble(peer):
            assert by_poll(client, PATIENCE)
            client.settimeout(limit)
            calls = -(-3 // size) + bool(limit)  # and one more, which meets the outage
            return [outcome(lambda: receive(client, size)) for _ in range(calls)]

    real = met(lambda peer: really(mode, peer))
    assert real[0] in {"b'te'", "b'tea'"}
    assert met(lambda _: inject("network_failure", mode=mode)) == real


@pytest.mark.parametrize("mode", OUTAGES)
@pytest.mark.parametrize("polls", POLLS, ids=lambda polls: polls.__name__)
def test_who_polls_a_blocking_socket_does_not_hang_in_receiving(
    polls: Poll, mode: str, inject: Inject
) -> None:
    with answered() as (client, _), inject("network_failure", mode=mode) as outage:
        assert polls(client, PATIENCE)
        assert client.recv(100) == b"tea"
        assert outage.hits == 0


@pytest.mark.parametrize("limit", [0, LIMIT, PATIENCE])
@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_who_asks_for_more_first_receives_it(mode: str, limit: float, inject: Inject) -> None:
    with answered() as (client, _), inject("network_failure", mode=mode):
        client.settimeout(limit)
        client.sendall(b"ask")
        for polls in POLLS:
            assert polls(client, PATIENCE)
        assert client.recv(2) == b"te"
        assert client.recv(2) == b"a"
        client.settimeout(LIMIT)
        with pytest.raises(TimeoutError):
            client.recv(2)


@pytest.mark.parametrize("mode", OUTAGES)
def test_it_stays_where_it_is_for_who_peeks(mode: str, inject: Inject) -> None:
    def met(trouble: Trouble) -> list[str]:
        with answered() as (client, peer), trouble(peer):
            client.settimeout(LIMIT)
            looks = (socket.MSG_PEEK, socket.MSG_PEEK, 0, 0)
            return [outcome(lambda flags=flags: client.recv(100, flags)) for flags in looks]  # type: ignore[misc]

    real = met(lambda peer: really(mode, peer))
    assert met(lambda _: inject("network_failure", mode=mode)) == real


@pytest.mark.parametrize("mode", OUTAGES)
def test_an_end_that_has_come_is_delivered(mode: str, inject: Inject) -> None:
    with connected() as (client, peer):
        peer.sendall(b"tea")
        peer.shutdown(socket.SHUT_WR)
        assert eventually(lambda: unread(client) == 3)
        with inject("network_failure", mode=mode) as outage:
            client.settimeout(PATIENCE)
            assert [client.recv(100) for _ in range(2)] == [b"tea", b""]
            assert outage.hits == 0


@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_who_waits_for_more_than_there_is_meets_the_outage(mode: str, inject: Inject) -> None:
    with answered() as (client, _), inject("network_failure", mode=mode) as outage:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
        assert outcome(lambda: client.recv(4, socket.MSG_WAITALL)) == "BlockingIOError 11"
        assert outage.hits == 1


@pytest.mark.parametrize("taken", [0, 1])
@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_it_is_delivered_over_tls(mode: str, taken: int, trust: Trust, inject: Inject) -> None:
    """Of a record that was begun, the rest is in the hands of TLS."""

    def answer_twice(connection: socket.socket) -> None:
        while connection.recv(3):
            connection.sendall(b"tea")

    with (
        serve(trust.over_tls(answer_twice)) as port,
        socket.create_connection((HOST, port)) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as sock,
    ):
        sock.sendall(b"one")
        assert sock.recv(3) == b"tea"  # after its tickets
        sock.sendall(b"two")
        assert eventually(lambda: unread(sock) > 3)
        assert len(sock.recv(taken)) == taken
        with inject("network_failure", mode=mode) as outage:
            sock.settimeout(PATIENCE)
            assert sock.recv(100) == b"tea"[taken:]
            assert outage.hits == 0
            sock.settimeout(LIMIT)
            with pytest.raises(TimeoutError):
                sock.recv(100)
            assert outage.hits == 1


def test_tickets_of_tls_are_no_response(trust: Trust, inject: Inject) -> None:
    def say_nothing(connection: socket.socket) -> None:
        while connection.recv(3):
            pass

    with (
        serve(trust.over_tls(say_nothing)) as port,
        socket.create_connection((HOST, port)) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as sock,
    ):
        assert eventually(lambda: unread(sock) > 0)
        with inject("network_failure", mode="timeout") as outage:
            sock.settimeout(LIMIT)
            with pytest.raises(TimeoutError):
                sock.recv(100)
            assert (sock.gettimeout(), outage.hits) == (LIMIT, 1)


@pytest.mark.parametrize("size", [100, 2])
@pytest.mark.parametrize("receive", [plainly, into_a_buffer])
@pytest.mark.parametrize("timeout", [None, PATIENCE, 0])
@pytest.mark.parametrize("mode", ["reset", "close"])
def test_what_comes_after_tickets_of_tls_is_a_response(  # noqa: PLR0917  # all by name
    mode: str, timeout: float | None, receive: Receive, size: int, trust: Trust, inject: Inject
) -> None:
    """One call receives both, where nobody has received the tickets before.

    `size`: of what is received, which may be less than there is in a record.
    """
    answered = threading.Event()

    def answer_once(connection: socket.socket) -> None:
        connection.recv(3)
        with contextlib.suppress(OSError):
            connection.sendall(b"tea")
        answered.set()

    with (
        serve(trust.over_tls(answer_once)) as port,
        socket.create_connection((HOST, port)) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as sock,
    ):
        assert eventually(lambda: unread(sock) > 0)
        with inject("network_failure", mode=mode) as outage:
            sock.settimeout(timeout)
            sock.sendall(b"ask")
            assert answered.wait(PATIENCE)
            heard = {outcome(lambda: receive(sock, size)) for _ in range(2)}
    assert heard <= {"b''", "ConnectionResetError 104"}  # OpenSSL does not always say which
    assert outage.hits == 1


@pytest.mark.parametrize("mode", OUTAGES)
def test_it_is_delivered_to_a_task_that_waits(mode: str, inject: Inject) -> None:
    limit = LIMIT if mode in {"timeout", "partition"} else PATIENCE

    async def told(client: socket.socket, peer: socket.socket, trouble: Trouble) -> list[str]:
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(b"ask")
        task = asyncio.ensure_future(reader.read(100))
        await asyncio.sleep(0)
        assert by_poll(client, PATIENCE)  # so that its loop can do nothing meanwhile
        with trouble(peer), contextlib.closing(writer):
            heard = [repr(await asyncio.wait_for(task, PATIENCE))]
            try:
                heard.append(repr(await asyncio.wait_for(reader.read(100), limit)))
            except OSError as error:
                heard.append(type(error).__name__)
            return heard

    def met(trouble: Trouble) -> list[str]:
        with connected() as (client, peer):
            thread = threading.Thread(target=answer, args=[peer])
            thread.start()
            heard = asyncio.run(told(client, peer, trouble))
            thread.join()
            return heard

    real = met(lambda peer: really(mode, peer))
    assert real[0] == "b'tea'"
    assert met(lambda _: inject("network_failure", mode=mode)) == real


def test_what_is_late_was_not_received(echo_port: int, inject: Inject) -> None:
    with (
        socket.create_connection((HOST, echo_port)) as client,
        inject("network_latency", delay=PATIENCE),
    ):
        client.sendall(b"tea")
        assert eventually(lambda: unread(client) == 3)
        client.settimeout(LIMIT)
        with inject("network_failure", mode="partition") as outage, pytest.raises(TimeoutError):
            client.recv(100)
        assert outage.hits == 1


def test_it_is_forgotten_when_the_outage_has_ended(inject: Inject) -> None:
    with answered() as (client, peer):
        with inject("network_failure", mode="partition"):
            pass
        client.sendall(b"ask")
        answer(peer)
        assert client.recv(3) == b"tea"
        client.settimeout(LIMIT)
        with inject("network_latency", delay=PATIENCE), pytest.raises(TimeoutError):
            client.recv(100)


@contextlib.contextmanager
def asked_over_udp(*, connects: bool) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client that has three answers, of which it has received none; and its server."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        server.bind((HOST, 0))
        if connects:
            client.connect(server.getsockname())
            client.send(b"ask")
        else:
            client.sendto(b"ask", server.getsockname())
        where = server.recvfrom(3)[1]
        for each in (b"one", b"", b"three"):
            server.sendto(each, where)
        server.settimeout(0)
        client.settimeout(LIMIT)
        yield client, server


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("connects", [True, False])
@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_datagrams_that_had_come_are_delivered(
    mode: str, inject: Inject, *, connects: bool, seen: bool
) -> None:
    """`seen`: as by another experiment, which happens to nothing of it."""
    with contextlib.ExitStack() as stack:
        if seen or not connects:  # else nobody knows who the peer is
            stack.enter_context(inject("network_failure", target="192.0.2.1:1"))
        client, server = stack.enter_context(asked_over_udp(connects=connects))
        with inject("network_failure", mode=mode, target=f"{HOST}:{server.getsockname()[1]}") as of:
            KernelSocket.sendto(server, b"late", client.getsockname())  # as another process does
            received = [outcome(lambda: client.recv(10)) for _ in range(4)]
        assert received == ["b'one'", "b''", "b'three'", "TimeoutError None"]
        assert of.hits == 1

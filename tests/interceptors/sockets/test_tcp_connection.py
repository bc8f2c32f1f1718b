"""One connection, whoever looks at it: what was looked at is not lost, and its end is the end."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.descriptors import unacknowledged
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.tcp_connection import Peer
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.waiting import PATIENCE
from tests.waiting import eventually
from tests.waiting import until_all_wait


BRIEF = 0.05  # seconds


def whole(sock: socket.socket) -> bytes:
    return sock.recv(100)


def in_parts(sock: socket.socket) -> bytes:
    return sock.recv(2) + sock.recv(100)


def into_a_buffer(sock: socket.socket) -> bytes:
    buffer = bytearray(10)
    return bytes(buffer[: sock.recv_into(buffer)])


def from_a_file(sock: socket.socket) -> bytes:
    return sock.makefile("rb").read(3)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("receive", [whole, in_parts, into_a_buffer, from_a_file])
def test_a_late_answer_comes_when_the_latency_has_ended(
    receive: Callable[[socket.socket], bytes], elsewhere: bool, trust: Trust, inject: Inject
) -> None:
    """Whether anything is intercepted then or not."""
    with serve(trust.over_tls(echo)) as port, contextlib.ExitStack() as stack:
        if elsewhere:
            stack.enter_context(inject("network_latency", delay=1, target="elsewhere:80"))
        sock = stack.enter_context(socket.create_connection((HOST, port), PATIENCE))
        client = stack.enter_context(trust.client.wrap_socket(sock, server_hostname=HOST))
        with inject("network_latency", delay=2 * PATIENCE, target=f"{HOST}:{port}"):
            client.sendall(b"tea")
            client.settimeout(BRIEF)
            assert outcome(lambda: client.recv(100)) == "TimeoutError None"
            until_all_wait()
            assert outcome(lambda: client.recv(100)) == "TimeoutError None"
        client.settimeout(PATIENCE)
        assert receive(client) == b"tea"
        assert client.pending() == 0
        client.sendall(b"milk")
        assert client.recv(100) == b"milk"


@pytest.mark.parametrize("timeout", [0, BRIEF])
def test_an_answer_behind_a_ticket_comes_after_a_silence(
    timeout: float, trust: Trust, inject: Inject
) -> None:
    """The ticket was there when that began, and OpenSSL reads on after it."""
    arrived = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(connection.recv(100))
        if eventually(lambda: unacknowledged(connection) == 0):
            arrived.set()
        silent(connection)

    with (
        serve(trust.over_tls(answer)) as port,
        socket.create_connection((HOST, port), PATIENCE) as sock,
        trust.client.wrap_socket(sock, server_hostname=HOST) as client,
    ):
        select.select([client], [], [])
        with inject("network_failure", mode="timeout", target=f"{HOST}:{port}"):
            client.sendall(b"tea")
            assert arrived.wait(PATIENCE)
            client.settimeout(timeout)
            assert outcome(lambda: client.recv(100)) != "b'tea'"
        client.settimeout(PATIENCE)
        assert client.recv(100) == b"tea"


def test_nothing_happens_to_a_connection_that_another_thread_has_found_to_be_over(
    engine: Engine, inject: Inject
) -> None:
    """As one that sends, while this one has begun to receive."""
    connection = TcpConnection(None, Peer(("here:80",)), number=1)
    with inject("network_failure", mode="reset") as reset:
        connection.is_over()
        assert connection.begin_response(engine) is None
    assert reset.matched == 0


def test_of_two_who_come_for_a_response_the_first_asks(inject: Inject, engine: Engine) -> None:
    """As a thread, and who begins an outage just then: what one decides the other finds."""
    connection = TcpConnection(None, Peer(("peer.example:1",)), number=1)

    def begin() -> None:
        connection.begin_response(engine)

    def come_as_well(_: object) -> None:
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join(PATIENCE)

    engine.listeners.add(come_as_well)
    with inject("network_failure", mode="timeout", rate=1) as outage:
        begin()
        assert (outage.matched, outage.hits) == (1, 1)
        stream = connection.inbound.stream
        assert stream is not None
        assert stream.effect.delay == math.inf
        connection.begin_response(engine)
        assert (outage.matched, outage.hits) == (1, 1)
        connection.turn.sent(b"tea", 0.0)
        connection.begin_response(engine)
        assert (outage.matched, outage.hits) == (2, 2)


def test_one_that_begins_as_a_response_does_is_asked_once(inject: Inject, engine: Engine) -> None:
    """By the thread that begins the response, or by who begins the outage."""
    connection = TcpConnection(None, Peer(("peer.example:1",)), number=1)
    begun: list[ActiveExperiment] = []
    with contextlib.ExitStack() as stack:

        class Changing:
            """The engine, in which one begins as soon as somebody looks at those there are."""

            @property
            def active(self) -> tuple[ActiveExperiment, ...]:
                before = engine.active
                if not begun:
                    failure = inject("network_failure", mode="reset", rate=1)
                    begun.append(stack.enter_context(failure))
                return before

            def __getattr__(self, name: str) -> Any:
                return getattr(engine, name)

        connection.begin_response(Changing())  # type: ignore[arg-type]
        among = connection.inbound.threads.claim(begun)
        if among:
            connection.begin_response(engine, among=among)
        assert [(each.matched, each.hits) for each in begun] == [(1, 1)]

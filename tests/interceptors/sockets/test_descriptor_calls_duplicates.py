"""One connection that has several descriptors (`dup`) is one connection."""

from __future__ import annotations

import os
import select
import socket

from collections.abc import Callable

import pytest

from pytest_resilience import socket_filters
from pytest_resilience.socket_filters import drops_incoming
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.interceptors.sockets.polls import by_poll
from tests.resets import reset_when_closed


DELAY = 0.01  # seconds
PATIENCE = 10  # seconds
REQUEST = b"POST / HTTP/1.1\r\nHost: tea\r\nContent-Length: 0\r\n\r\n"

Copy = Callable[[socket.socket], socket.socket]


def by_the_system(sock: socket.socket) -> socket.socket:
    return socket.socket(fileno=os.dup(sock.fileno()))


COPIES: list[Copy] = [socket.socket.dup, by_the_system]
every_copy = pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.__name__)


@every_copy
@pytest.mark.parametrize("method", [None, "POST"])
def test_a_request_by_one_is_answered_to_the_other(
    copy: Copy, method: str | None, echo_port: int, inject: Inject
) -> None:
    meant = {} if method is None else {"method": method}
    with (
        socket.create_connection((HOST, echo_port), timeout=PATIENCE) as sock,
        copy(sock) as twin,
        inject("network_latency", delay=DELAY, **meant) as latency,
    ):
        for _ in range(3):
            sock.sendall(REQUEST)
            assert twin.recv(100) == REQUEST
    assert (latency.matched, latency.hits) == (3, 3)


@every_copy
def test_a_reset_is_told_to_who_receives(copy: Copy, inject: Inject) -> None:
    def met(sock: socket.socket, twin: socket.socket) -> list[str]:
        sock.sendall(b"ask")
        return [outcome(lambda: twin.recv(1)), outcome(lambda: sock.send(b"ask"))]

    with serve(reset) as port, socket.create_connection((HOST, port)) as sock, copy(sock) as twin:
        real = met(sock, twin)
    with (
        serve(silent) as port,
        socket.create_connection((HOST, port)) as sock,
        copy(sock) as twin,
        inject("network_failure", mode="reset") as outage,
    ):
        assert met(sock, twin) == real
    assert real == ["ConnectionResetError 104", "BrokenPipeError 32"]
    assert outage.hits == 1


def close(connection: socket.socket) -> None:
    connection.recv(100)


ENDS = {"reset": reset, "close": close}


@every_copy
@pytest.mark.parametrize("asks", [0, 1])
@pytest.mark.parametrize("mode", ENDS)
def test_one_connection_ends_once(copy: Copy, asks: int, mode: str, inject: Inject) -> None:
    def met(sock: socket.socket, twin: socket.socket) -> list[str]:
        order = (sock, twin)[:: 1 - 2 * asks]
        order[0].sendall(b"ask")
        met = [outcome(lambda each=each: each.recv(1)) for each in (*order, *order)]  # type: ignore[misc]
        return met + [outcome(lambda each=each: each.send(b"a")) for each in order]  # type: ignore[misc]

    with (
        serve(ENDS[mode]) as port,
        socket.create_connection((HOST, port)) as sock,
        copy(sock) as twin,
    ):
        real = met(sock, twin)
    with (
        serve(silent) as port,
        socket.create_connection((HOST, port)) as sock,
        copy(sock) as twin,
        inject("network_failure", mode=mode) as outage,
    ):
        assert met(sock, twin) == real
    assert outage.hits == 1


def reset_at_once(connection: socket.socket) -> None:
    reset_when_closed(connection)


def close_at_once(_: socket.socket) -> None:
    pass


AT_ONCE = {"reset": reset_at_once, "close": close_at_once}


@every_copy
@pytest.mark.parametrize("mode", AT_ONCE)
def test_one_connection_ends_once_for_who_sends(copy: Copy, mode: str, inject: Inject) -> None:
    def met(sock: socket.socket, twin: socket.socket) -> list[str]:
        met = [outcome(lambda: twin.send(b"ask")), outcome(lambda: sock.recv(1))]
        return [*met, outcome(lambda: twin.recv(1)), outcome(lambda: sock.send(b"ask"))]

    with (
        serve(AT_ONCE[mode]) as port,
        socket.create_connection((HOST, port)) as sock,
        copy(sock) as twin,
    ):
        assert by_poll(sock, PATIENCE)
        real = met(sock, twin)
    with (
        serve(silent) as port,
        socket.create_connection((HOST, port)) as sock,
        copy(sock) as twin,
        inject("network_failure", mode=mode, stream="upstream") as outage,
    ):
        assert met(sock, twin) == real
    assert outage.hits == 1


@every_copy
@pytest.mark.parametrize("closes", [0, 1])
def test_when_one_is_closed_the_other_goes_on(
    copy: Copy, closes: int, echo_port: int, inject: Inject
) -> None:
    with (
        socket.create_connection((HOST, echo_port), timeout=PATIENCE) as sock,
        copy(sock) as twin,
        inject("network_latency", delay=DELAY) as latency,
    ):
        twin.settimeout(PATIENCE)
        for each in (sock, twin):
            each.sendall(b"ask")
            assert each.recv(3) == b"ask"
        (sock, twin)[closes].close()
        (twin, sock)[closes].sendall(b"ask")
        assert (twin, sock)[closes].recv(3) == b"ask"
    assert (latency.matched, latency.hits) == (3, 3)


def test_nothing_is_left_of_the_filter_of_a_socket_that_is_closed(inject: Inject) -> None:
    """As long as one of its descriptors is open, the filter stays."""
    with (
        serve(silent) as port,
        socket.create_connection((HOST, port)) as client,
        inject("network_failure", mode="timeout", rate=1),
    ):
        client.sendall(b"hello")
        assert not select.select([client], [], [], 0.01)[0]
        number = os.fstat(client.fileno()).st_ino
        copy = client.dup()
        copy.sendall(b"hello")
        client.close()
        assert drops_incoming(copy)
        copy.close()
        assert number not in socket_filters._filtered

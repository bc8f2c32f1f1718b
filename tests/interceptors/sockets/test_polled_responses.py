"""Who polls a blocking socket is told of a response when it is due, and of an end at once."""

from __future__ import annotations

import contextlib
import select
import socket
import time

from contextlib import AbstractContextManager
from typing import Any

import pytest

from pytest_resilience import FaultInjected
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.interceptors.sockets.polls import POLLS
from tests.interceptors.sockets.polls import Poll
from tests.interceptors.sockets.polls import by_poll
from tests.interceptors.sockets.polls import by_select
from tests.interceptors.sockets.test_outages import REAL


DELAY = 0.05  # seconds
PATIENCE = 10  # seconds


def by_looking_again_and_again(sock: socket.socket, _: float) -> bool:
    while not select.select([sock], [], [], 0)[0]:
        time.sleep(0.001)
    return True


every_poll = pytest.mark.parametrize("polls", POLLS, ids=lambda polls: polls.__name__)


@pytest.mark.parametrize(
    "polls", [*POLLS, by_looking_again_and_again], ids=lambda polls: polls.__name__
)
def test_it_is_told_of_what_is_late_when_that_is_due(
    polls: Poll, echo_port: int, inject: Inject, events: list[FaultInjected]
) -> None:
    with (
        socket.create_connection((HOST, echo_port)) as sock,
        inject("network_latency", delay=DELAY, nth=2) as latency,
    ):
        for number in range(1, 4):
            asked_at = time.monotonic()
            sock.sendall(b"tea")
            assert polls(sock, PATIENCE)
            assert number != 2 or time.monotonic() - asked_at >= DELAY
            assert sock.recv(3) == b"tea"
    assert (latency.matched, latency.hits) == (3, 1)
    assert latency.delay == pytest.approx(DELAY)
    assert [each.place.rpartition(" in ")[2] for each in events] in (
        ["test_it_is_told_of_what_is_late_when_that_is_due"], [polls.__name__]
    )  # fmt: skip


@every_poll
def test_it_is_told_of_what_is_late_over_tls(polls: Poll, trust: Trust, inject: Inject) -> None:
    with (
        serve(trust.over_tls(echo)) as port,
        socket.create_connection((HOST, port)) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as sock,
    ):
        sock.sendall(b"one")
        assert sock.recv(3) == b"one"  # after its tickets, which a poll would tell of
        with inject("network_latency", delay=DELAY) as latency:
            asked_at = time.monotonic()
            sock.sendall(b"two")
            assert polls(sock, PATIENCE)
            assert time.monotonic() - asked_at >= DELAY
            assert sock.recv(3) == b"two"
    assert (latency.matched, latency.hits) == (1, 1)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("mode", ["reset", "close"])
@every_poll
def test_it_is_told_of_an_end_though_the_peer_is_silent(
    polls: Poll, mode: str, inject: Inject, *, late: bool
) -> None:
    def met(handle: Handler, trouble: AbstractContextManager[Any]) -> list[str]:
        with serve(handle) as port, socket.create_connection((HOST, port)) as sock, trouble:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\ntea")
            assert polls(sock, PATIENCE)
            return [outcome(lambda: sock.recv(3)) for _ in range(2)]

    real = met(REAL[mode], contextlib.nullcontext())
    with inject("network_latency", delay=DELAY) if late else contextlib.nullcontext():
        assert met(silent, inject("network_failure", mode=mode, rate=1)) == real


def test_it_is_told_when_the_experiment_ends(echo_port: int, inject: Inject) -> None:
    with socket.create_connection((HOST, echo_port)) as sock:
        with inject("network_latency", delay=600) as latency:
            sock.sendall(b"tea")
            assert not select.select([sock], [], [], DELAY)[0]
            assert latency.hits == 1
        assert by_select(sock, PATIENCE)
        assert sock.recv(3) == b"tea"


def test_its_own_timeout_loses_nothing(echo_port: int, inject: Inject) -> None:
    """One response is one operation, however often it is polled for, and by whatever."""
    with (
        socket.create_connection((HOST, echo_port)) as sock,
        inject("network_latency", delay=DELAY) as latency,
    ):
        for _ in range(2):
            asked_at = time.monotonic()
            sock.sendall(b"tea")
            sock.settimeout(DELAY / 10)
            with contextlib.suppress(TimeoutError):
                sock.recv(3)
            sock.settimeout(PATIENCE)
            received = b""
            while len(received) < 3:
                assert by_select(sock, PATIENCE)
                received += sock.recv(3)
            assert time.monotonic() - asked_at >= DELAY
    assert (latency.matched, latency.hits) == (2, 2)


def test_a_request_in_pieces_is_one(inject: Inject) -> None:
    def answer_to_two(connection: socket.socket) -> None:
        while connection.recv(6, socket.MSG_WAITALL):
            connection.sendall(b"tea")

    with (
        serve(answer_to_two) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_latency", delay=DELAY) as latency,
    ):
        for _ in range(2):
            sock.sendall(b"one")
            assert not select.select([sock], [], [], 0.02)[0]
            asked_at = time.monotonic()
            sock.sendall(b"two")
            assert by_poll(sock, PATIENCE)
            assert time.monotonic() - asked_at >= DELAY
            assert sock.recv(3) == b"tea"
    assert (latency.matched, latency.hits) == (2, 2)


def test_who_only_sends_and_never_polls_meets_nothing(inject: Inject) -> None:
    with (
        serve(silent) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_failure", mode="reset", rate=1) as reset,
    ):
        for _ in range(3):
            sock.sendall(b"tea")
            time.sleep(0.02)
    assert (reset.matched, reset.hits) == (0, 0)


def test_the_mark_is_put_back(echo_port: int, inject: Inject) -> None:
    def mark(sock: socket.socket) -> int:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    with socket.create_connection((HOST, echo_port)) as sock:
        before = mark(sock)
        with inject("network_latency", delay=DELAY):
            sock.sendall(b"tea")
            assert mark(sock) > before
            assert sock.recv(3) == b"tea"
            assert mark(sock) == before
            sock.sendall(b"tea")
        assert mark(sock) == before

"""Receives with flags: who looks ahead takes nothing, and sees what a receive would be given."""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import struct

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience.chaos.descriptors import unread
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.waiting import eventually


PEEK, WAITALL, DONTWAIT = socket.MSG_PEEK, socket.MSG_WAITALL, socket.MSG_DONTWAIT
PATIENCE = 10  # seconds
SHORT = 0.05  # seconds, after which who hears nothing gives up
LONG = 60


def with_a_timeout(sock: socket.socket, timeout: float) -> None:
    sock.settimeout(timeout)


def with_one_of_the_kernel(sock: socket.socket, timeout: float) -> None:
    sock.settimeout(None)
    whole, part = divmod(timeout, 1)
    limit = struct.pack("@ll", int(whole), int(part * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def polled(sock: socket.socket, timeout: float) -> None:
    sock.setblocking(False)


Way = Callable[[socket.socket, float], None]
every_way = pytest.mark.parametrize(
    "way", [with_a_timeout, with_one_of_the_kernel, polled], ids=lambda way: way.__name__
)


def receive(sock: socket.socket, size: int, flags: int, timeout: float) -> bytes:
    """As a program does that polls its socket, if it does not block."""
    while sock.gettimeout() == 0 and select.select([sock], [], [], timeout)[0]:
        with contextlib.suppress(BlockingIOError):
            return sock.recv(size, flags)
    return sock.recv(size, flags)


def close(connection: socket.socket) -> None:
    connection.recv(100)


def half(connection: socket.socket) -> None:
    data = connection.recv(100)
    connection.sendall(data[: len(data) // 2])


REAL: dict[str, tuple[Handler, str]] = {
    "reset": (reset, "reset"),
    "closed": (close, "close"),
    "silent": (silent, "timeout"),
    "partitioned": (silent, "partition"),
    "cut off": (half, "truncate"),
}
CALLS = {
    "looking ahead": [(100, PEEK), (1, PEEK), (100, 0), (100, PEEK), (100, 0)],
    "looking for all": [(4, PEEK | WAITALL), (100, PEEK), (3, 0), (100, PEEK), (100, 0)],
    "all": [(4, WAITALL), (1, PEEK), (100, 0)],
}


@every_way
@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("event", REAL)
def test_it_is_what_really_happens(event: str, calls: str, way: Way, inject: Inject) -> None:
    handler, mode = REAL[event]
    # A cut in the middle of what is there depends on how much is asked for.
    sizes = [(100 if event == "cut off" else size, flags) for size, flags in CALLS[calls]]

    def met(sock: socket.socket) -> list[str]:
        sock.sendall(b"abcdefgh")
        return [outcome(functools.partial(hear, sock, *call)) for call in sizes]

    def hear(sock: socket.socket, size: int, flags: int) -> bytes:
        timeout = SHORT if mode in {"timeout", "partition"} else PATIENCE
        way(sock, timeout)
        return receive(sock, size, flags, timeout)

    with serve(handler) as port, socket.create_connection((HOST, port)) as sock:
        real = met(sock)
    with (
        serve(echo) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_failure", mode=mode, rate=1) as failure,
    ):
        assert met(sock) == real
    assert failure.hits > 0


LINES = b"one\ntwo\nthree\n"
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "late": ("network_latency", {"delay": 0.01}),
    "in pieces": ("network_latency", {"piece": 5, "delay": 0.001}),
    "damaged": ("network_failure", {"mode": "corrupt", "share": 1.0}),
    "cut off": ("network_failure", {"mode": "truncate"}),
    "cut off by a reset": ("network_failure", {"mode": "truncate", "end": "reset"}),
    "without a line": ("network_failure", {"mode": "drop_message", "after_items": 1}),
    "replaced": ("network_failure", {"mode": "status", "status": 503}),
}


@every_way
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_looked_at_is_what_is_received_then(fault: str, way: Way, inject: Inject) -> None:
    asked = b"GET / HTTP/1.1\r\n\r\n" if fault == "replaced" else LINES
    kind, given = FAULTS[fault]
    with (
        serve(echo) as port,
        socket.create_connection((HOST, port)) as sock,
        inject(kind, rate=1, **given) as active_experiment,
    ):
        way(sock, PATIENCE)
        sock.sendall(asked)
        seen = [receive(sock, size, PEEK, PATIENCE) for size in (100, 3, 100)]
        assert seen[0] == seen[2]
        assert seen[0][:3] == seen[1]
        assert receive(sock, 100, 0, PATIENCE) == seen[0]
        assert (seen[0] != asked) == (fault != "late")
    assert active_experiment.hits == 1


@every_way
@pytest.mark.parametrize("size", [1, 5, 6, 9])
def test_so_it_is_in_parts_around_what_is_lost(size: int, way: Way, inject: Inject) -> None:
    """Nothing stands for it, neither a part that is shorter nor a receive that finds nothing."""
    lost = {"mode": "drop_message", "after_items": 1}
    with (
        serve(echo) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_failure", rate=1, **lost) as active_experiment,
    ):
        way(sock, PATIENCE)
        sock.sendall(LINES)
        assert eventually(lambda: unread(sock) == len(LINES))
        left = LINES.replace(b"two\n", b"")
        while left:
            seen = [receive(sock, size, flags, PATIENCE) for flags in (PEEK, 0)]
            assert seen == [left[:size]] * 2
            left = left[size:]
    assert active_experiment.hits == 1


@every_way
def test_urgent_data_is_beside_what_is_late(way: Way, inject: Inject) -> None:
    """As in the kernel, which tells of it in another way, and has it at once for who asks."""

    def shouts(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"tea")
        connection.send(b"!", socket.MSG_OOB)
        silent(connection)

    def story(sock: socket.socket) -> list[str]:
        sock.sendall(b"?")
        assert select.select([], [], [sock], PATIENCE)[2] == [sock]
        way(sock, PATIENCE)
        return [outcome(lambda: sock.recv(1, socket.MSG_OOB)) for _ in range(2)]

    with serve(shouts) as port, socket.create_connection((HOST, port)) as sock:
        real = story(sock)
    with (
        serve(shouts) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_latency", delay=LONG),
    ):
        assert story(sock) == real
    assert real[0] == "b'!'"


@pytest.mark.parametrize("flags", [PEEK, DONTWAIT, PEEK | DONTWAIT])
def test_what_is_late_is_not_there_for_who_looks(flags: int, inject: Inject) -> None:
    with serve(echo) as port, socket.create_connection((HOST, port)) as sock:
        with inject("network_latency", delay=LONG) as latency:
            sock.settimeout(None if flags & DONTWAIT else 0)
            sock.sendall(b"tea")
            assert eventually(lambda: unread(sock) > 0)
            for _ in range(2):
                with pytest.raises(BlockingIOError):
                    sock.recv(100, flags)
            assert latency.hits == 1
        sock.settimeout(PATIENCE)
        assert sock.recv(100, PEEK) == sock.recv(100) == b"tea"


@every_way
def test_who_waits_for_more_bytes_gets_as_many_of_it_in_pieces(way: Way, inject: Inject) -> None:
    with (
        serve(echo) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_latency", piece=1, delay=0.001) as slow,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 3)
        way(sock, PATIENCE)
        sock.sendall(b"abcdefghi")
        assert eventually(lambda: unread(sock) == len(b"abcdefghi"))
        assert [receive(sock, 100, 0, PATIENCE) for _ in range(3)] == [b"abc", b"def", b"ghi"]
    assert slow.hits == 1


def test_who_wants_all_gets_all_of_it_in_pieces(inject: Inject) -> None:
    """But for who has set a timeout: the kernel knows of none, and does not wait."""
    with (
        serve(echo) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_latency", piece=3, delay=0.001),
    ):
        for timeout, heard in ((None, b"abcdefgh"), (PATIENCE, b"abc")):
            sock.settimeout(timeout)
            sock.sendall(b"abcdefgh")
            assert sock.recv(8, WAITALL) == heard

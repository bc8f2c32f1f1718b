"""Who is held up goes on as the kernel lets it, when another thread ends its connection.

Which end was shut down matters, by which descriptor, and whether it speaks TLS. Beside each stands
a server that really does not read, does not answer, or lets nobody in.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import full_backlog
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.waiting import PATIENCE
from tests.waiting import asleep
from tests.waiting import eventually


UPLOAD = bytes(20 << 20)
WAYS = {"sending": socket.SHUT_WR, "receiving": socket.SHUT_RD, "both ways": socket.SHUT_RDWR}

Call = Callable[[socket.socket], object]


def by_a_copy(sock: socket.socket) -> None:
    with socket.socket(fileno=os.dup(sock.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


ENDINGS: dict[str, Call] = {
    "sending": lambda sock: sock.shutdown(socket.SHUT_WR),
    "both ways": lambda sock: sock.shutdown(socket.SHUT_RDWR),
    "by a copy": by_a_copy,
}


def said(call: Callable[[], object]) -> str:
    """What a call returns or raises, with its text."""
    try:
        return repr(call())
    except OSError as error:
        return f"{type(error).__name__} {error}"


def begin(call: Call, sock: socket.socket) -> tuple[threading.Thread, list[str]]:
    """A thread that is in `call`, and what that comes to."""
    met: list[str] = []
    thread = threading.Thread(target=lambda: met.append(said(lambda: call(sock))), daemon=True)
    thread.start()
    return thread, met


def stays_asleep(thread: threading.Thread) -> bool:
    """Whether it waits, and not just for another thread."""
    return all(asleep(thread) for _ in range(20))


def what_ends(sock: socket.socket, call: Call, end: Call, held: Callable[[], bool]) -> str:
    """What a thread meets in `call` when this one does `end`."""
    thread, met = begin(call, sock)
    assert eventually(lambda: held() and stays_asleep(thread))
    end(sock)
    thread.join(PATIENCE)
    assert met, "it still waits"
    return met[0]


def reads_nothing_until(over: threading.Event) -> Handler:
    """A server that reads nothing."""

    def wait(connection: socket.socket) -> None:
        over.wait(PATIENCE)

    return wait


@pytest.fixture
def connect(trust: Trust) -> Iterator[Callable[..., socket.socket]]:
    """Connects to a server with that handler; in TLS where `tls`."""
    with contextlib.ExitStack() as stack:

        def connect(handler: Handler, *, tls: bool) -> socket.socket:
            port = stack.enter_context(serve(trust.over_tls(handler) if tls else handler))
            sock = stack.enter_context(socket.create_connection((HOST, port)))
            if tls:
                sock = stack.enter_context(trust.client.wrap_socket(sock, server_hostname=HOST))
            return sock

        yield connect


def ends_of_upload(
    upload: Callable[[socket.socket], None],
    ending: str,
    connect: Callable[[Handler], socket.socket],
    inject: Inject,
) -> tuple[object, object]:
    """What ends it that a peer really does not take, and one that is stalled."""
    over = threading.Event()
    real = what_ends(connect(reads_nothing_until(over)), upload, ENDINGS[ending], lambda: True)
    over.set()
    sock = connect(silent)
    with inject("network_failure", mode="timeout", stream="upstream", rate=1) as stall:
        return real, what_ends(sock, upload, ENDINGS[ending], lambda: stall.hits > 0)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_who_sends_goes_on_when_its_end_is_shut_down(
    ending: str, tls: bool, connect: Callable[..., socket.socket], inject: Inject
) -> None:
    def upload(sock: socket.socket) -> None:
        sock.sendall(UPLOAD)

    real, injected = ends_of_upload(upload, ending, functools.partial(connect, tls=tls), inject)
    assert injected == real


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_polls_for_room_to_send_goes_on(
    ending: str, connect: Callable[..., socket.socket], inject: Inject
) -> None:
    def upload(sock: socket.socket) -> None:
        while select.select([], [sock], [])[1]:
            sock.send(bytes(1 << 16))

    real, injected = ends_of_upload(upload, ending, functools.partial(connect, tls=False), inject)
    assert injected == real


def test_who_sends_stays_when_the_other_end_is_shut_down(
    connect: Callable[..., socket.socket], inject: Inject
) -> None:
    sock = connect(silent, tls=False)
    with inject("network_failure", mode="timeout", stream="upstream", rate=1) as stall:
        thread, met = begin(lambda sock: sock.sendall(bytes(9)), sock)
        assert eventually(lambda: stall.hits > 0 and stays_asleep(thread))
        sock.shutdown(socket.SHUT_RD)
    thread.join(PATIENCE)
    assert met == ["None"]  # it has waited until the stall was over, and then sent


def test_nothing_is_sent_during_a_partition_after_what_was_shut_down(
    connect: Callable[..., socket.socket], inject: Inject
) -> None:
    sock = connect(silent, tls=False)
    with inject("network_failure", mode="partition", rate=1):
        sock.sendall(b"tea")
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            sock.sendall(b"more")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("ending", ["both ways", "by a copy"])
@pytest.mark.parametrize("mode", ["timeout", "partition", "latency"])
def test_who_receives_is_told_of_the_end_and_not_of_what_comes_then(
    mode: str, ending: str, tls: bool, connect: Callable[..., socket.socket], inject: Inject
) -> None:
    """The peer learns of it, and says goodbye: whoever was woken by the kernel is gone by then."""

    def receive(sock: socket.socket) -> bytes:
        return sock.recv(100)

    def answer(connection: socket.socket) -> None:
        while connection.recv(100):
            connection.sendall(b"tea")
        connection.sendall(b"goodbye")

    over = threading.Event()  # until then nobody answers to the end: that may come first
    real_sock, sock = connect(reads_nothing_until(over), tls=tls), connect(answer, tls=tls)
    real_sock.sendall(b"tea")
    real = what_ends(real_sock, receive, ENDINGS[ending], lambda: True)
    over.set()
    type_, given = ("network_failure", {"mode": mode, "rate": 1})
    if mode == "latency":
        type_, given = "network_latency", {"delay": 2 * PATIENCE}
    with inject(type_, **given) as fault:
        sock.sendall(b"tea")
        injected = what_ends(sock, receive, ENDINGS[ending], lambda: fault.hits > 0)
    assert injected == real == "b''"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_a_connect_is_ended_and_the_call_that_does_it_raises_nothing(
    mode: str, way: str, echo_port: int, inject: Inject
) -> None:
    def what_both_meet(port: int, held: Callable[[], bool]) -> tuple[str, str]:
        told: list[str] = []

        def end(sock: socket.socket) -> None:
            told.append(said(lambda: sock.shutdown(WAYS[way])))

        with socket.socket() as sock:
            met = what_ends(sock, lambda sock: sock.connect((HOST, port)), end, held)
        return met, told[0]

    with full_backlog() as port:
        real = what_both_meet(port, lambda: True)
    with inject("network_failure", mode=mode, rate=1) as silence:
        injected = what_both_meet(echo_port, lambda: silence.hits > 0)
    assert injected == real == ("ConnectionResetError [Errno 104] Connection reset by peer", "None")


@pytest.mark.parametrize("way", ["receiving", "both ways"])
def test_a_handshake_that_is_ended_says_what_openssl_says(
    way: str, trust: Trust, inject: Inject, connect: Callable[..., socket.socket]
) -> None:
    def end(sock: socket.socket) -> None:
        sock.shutdown(WAYS[way])

    def shake_hands(sock: Any) -> None:
        sock.do_handshake()

    def wrapped(sock: socket.socket) -> socket.socket:
        return trust.client.wrap_socket(sock, server_hostname=HOST, do_handshake_on_connect=False)

    over = threading.Event()
    with wrapped(connect(reads_nothing_until(over), tls=False)) as sock:
        real = what_ends(sock, shake_hands, end, lambda: True)
    over.set()
    with (
        wrapped(connect(silent, tls=False)) as sock,
        inject("network_failure", mode="timeout", rate=1) as silence,
    ):
        injected = what_ends(sock, shake_hands, end, lambda: silence.hits > 0)
    assert injected == real

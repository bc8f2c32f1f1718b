"""A thread that does nothing but receive hears answers as they are, whoever has asked.

And it is woken as the kernel wakes it, when another thread ends the connection.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import select
import socket
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience import FaultInjected
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import full_backlog
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent


DELAY = 0.05  # seconds
PATIENCE = 10


def asleep(thread: threading.Thread) -> bool:
    """Whether it waits for something just now."""
    threading.Event().wait(0.001)  # it may need what this thread holds
    with open(f"/proc/self/task/{thread.native_id}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"


def eventually(happens: Callable[[], bool]) -> bool:
    """Whether it does, within the patience of these tests."""
    ends = time.monotonic() + PATIENCE
    while not happens():
        if time.monotonic() > ends:
            return False
        threading.Event().wait(0.001)
    return True


class Conversation:
    """A connection with a thread that is always in `recv`.

    Attributes:
        heard: what that has returned or raised.
        sock: the connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.heard: queue.Queue[bytes | OSError] = queue.Queue()
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def ask(self, text: bytes) -> bytes | OSError:
        self.until_it_waits()
        self.sock.sendall(text)
        return self.heard.get(timeout=PATIENCE)

    def until_it_waits(self) -> None:
        """Or it might only begin to receive after this has sent, which is what others test."""
        assert eventually(lambda: asleep(self.thread) and asleep(self.thread))

    def _listen(self) -> None:
        while True:
            try:
                data = self.sock.recv(100)
            except OSError as error:
                self.heard.put(error)
                return
            self.heard.put(data)
            if not data:
                return


@pytest.fixture(params=["plain", "tls"])
def talk(request: pytest.FixtureRequest, trust: Trust) -> Iterator[Callable[[], Conversation]]:
    handler = echo if request.param == "plain" else trust.over_tls(echo)
    with serve(handler) as port, contextlib.ExitStack() as stack:

        def open_one() -> Conversation:
            sock = stack.enter_context(socket.create_connection((HOST, port)))
            if request.param == "tls":
                sock = stack.enter_context(trust.client.wrap_socket(sock, server_hostname=HOST))
            talk = Conversation(sock)

            def hang_up() -> None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                talk.thread.join(PATIENCE)

            stack.callback(hang_up)
            return talk

        yield open_one


Talk = Callable[[], Conversation]


def test_each_answer_is_late(talk: Talk, inject: Inject, events: list[FaultInjected]) -> None:
    with inject("network_latency", delay=DELAY):
        conversation = talk()
        for text in (b"one", b"two", b"three"):
            started = time.monotonic()
            assert conversation.ask(text) == text
            assert time.monotonic() - started >= DELAY * 0.99
    assert [event.kind for event in events].count("network.receive") == 3


def test_each_answer_has_its_number(talk: Talk, inject: Inject) -> None:
    with inject("network_failure", mode="lose_answer", rate=1, nth=3) as lost:
        conversation = talk()
        assert [conversation.ask(text) for text in (b"one", b"two")] == [b"one", b"two"]
        error = conversation.ask(b"three")
    # What becomes of a reset on TLS differs from one Python to the next.
    assert isinstance(error, OSError) or error == b""
    assert (lost.matched, lost.hits) == (3, 1)


def test_the_second_is_cut_off(talk: Talk, inject: Inject) -> None:
    with inject("network_failure", mode="truncate", rate=1, nth=2) as cut:
        conversation = talk()
        assert conversation.ask(b"abcdefgh") == b"abcdefgh"
        assert conversation.ask(b"abcdefgh") == b"abcd"
        assert conversation.heard.get(timeout=PATIENCE) == b""
    assert cut.hits == 1


def test_the_second_is_never_heard(talk: Talk, inject: Inject) -> None:
    with inject("network_latency", delay=1e-9):
        conversation = talk()
        assert conversation.ask(b"one") == b"one"
        conversation.until_it_waits()
        with inject("network_failure", mode="timeout", rate=1) as silence:
            conversation.sock.sendall(b"two")
            conversation.until_it_waits()
            assert conversation.heard.empty()
        assert silence.hits == 1
    assert isinstance(conversation.heard.get(timeout=PATIENCE), TimeoutError)


def test_an_answer_in_pieces(talk: Talk, inject: Inject) -> None:
    with inject("network_latency", piece=2, delay=0.001) as dribble:
        conversation = talk()
        for _ in range(2):
            heard = conversation.ask(b"abcdefgh")
            while isinstance(heard, bytes) and len(heard) < 8:
                more = conversation.heard.get(timeout=PATIENCE)
                assert isinstance(more, bytes)
                heard += more
            assert heard == b"abcdefgh"
    assert dribble.hits == 2


def shut_and_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()


# How another thread can end a connection on which this one waits.
ENDINGS: dict[str, Callable[[socket.socket], object]] = {
    "both ways": lambda sock: sock.shutdown(socket.SHUT_RDWR),
    "receiving": lambda sock: sock.shutdown(socket.SHUT_RD),
    "and closed": shut_and_close,
}
# What can keep a thread waiting: what it calls, and what has to be injected.
WAITS: dict[str, tuple[Callable[[socket.socket], object], dict[str, Any]]] = {
    "recv": (lambda sock: sock.recv(100), {"mode": "timeout"}),
    "recv_into": (lambda sock: sock.recv_into(bytearray(9)), {"mode": "timeout"}),
    "a line": (lambda sock: sock.makefile("rb").readline(), {"mode": "timeout"}),
    "a partition": (lambda sock: sock.recv(100), {"mode": "partition"}),
    "handshake": (lambda sock: sock.do_handshake(), {"mode": "timeout"}),  # type: ignore[attr-defined]
}


def what_ends(
    sock: socket.socket,
    waits: Callable[[socket.socket], object],
    end: Callable[[socket.socket], object],
    held: Callable[[], bool],
) -> str:
    """What a thread meets that `waits` on `sock` when this one ends that."""
    met: list[str] = []
    thread = threading.Thread(target=lambda: met.append(outcome(lambda: waits(sock))), daemon=True)
    thread.start()
    assert eventually(lambda: thread.is_alive() and asleep(thread) and held())
    end(sock)
    thread.join(PATIENCE)
    assert met, "it still waits"
    return met[0]


@pytest.mark.parametrize("timeout", [None, 2 * PATIENCE])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("wait", WAITS)
def test_who_waits_is_woken_when_another_thread_ends_it(
    wait: str, ending: str, timeout: float | None, trust: Trust, inject: Inject
) -> None:
    waits, parameters = WAITS[wait]

    def connected(port: int) -> socket.socket:
        sock = stack.enter_context(socket.create_connection((HOST, port)))
        sock.settimeout(timeout)
        if wait != "handshake":
            sock.sendall(b"tea")
            return sock
        return stack.enter_context(
            trust.client.wrap_socket(sock, server_hostname=HOST, do_handshake_on_connect=False)
        )

    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serve(silent))
        real = what_ends(connected(port), waits, ENDINGS[ending], lambda: True)
        sock = connected(stack.enter_context(serve(echo)))
        with inject("network_failure", rate=1, **parameters) as outage:
            injected = what_ends(sock, waits, ENDINGS[ending], lambda: outage.hits > 0)
    if ending == "and closed" and real != injected:  # which thread is first is chance
        real = injected = "OSError 9" if "OSError 9" in (real, injected) else "b''"
    assert injected == real


def test_who_waits_is_woken_when_another_thread_closes_it(echo_port: int, inject: Inject) -> None:
    sock = socket.create_connection((HOST, echo_port))
    with inject("network_failure", mode="timeout", rate=1) as silence:
        sock.sendall(b"tea")
        met = what_ends(
            sock, lambda sock: sock.recv(1), lambda sock: sock.close(), lambda: silence.hits > 0
        )
    assert met == f"OSError {errno.EBADF}"


def test_who_sends_is_woken_when_another_thread_ends_it(silent_port: int, inject: Inject) -> None:
    with socket.create_connection((HOST, silent_port)) as sock:
        with inject("network_failure", mode="partition", rate=1) as cut:
            met = what_ends(
                sock,
                lambda sock: sock.sendall(bytes(1 << 24)),
                ENDINGS["both ways"],
                lambda: cut.hits > 0,
            )
        assert met == f"BrokenPipeError {errno.EPIPE}"


def test_who_connects_is_woken_when_another_thread_ends_it(echo_port: int, inject: Inject) -> None:
    def shut_down(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    with full_backlog() as port, socket.socket() as sock:
        real = what_ends(sock, lambda sock: sock.connect((HOST, port)), shut_down, lambda: True)
    with inject("network_failure", mode="timeout", rate=1) as silence, socket.socket() as sock:
        injected = what_ends(
            sock, lambda sock: sock.connect((HOST, echo_port)), shut_down, lambda: silence.hits > 0
        )
    assert injected == real == f"ConnectionResetError {errno.ECONNRESET}"


def test_who_polls_is_told_when_it_is_ended(echo_port: int, inject: Inject) -> None:
    with (
        socket.create_connection((HOST, echo_port)) as sock,
        inject("network_failure", mode="timeout", rate=1) as silence,
    ):
        sock.setblocking(False)
        sock.sendall(b"tea")
        assert select.select([sock], [], [], PATIENCE)[0] == [sock]
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        assert silence.hits == 1
        assert select.select([sock], [], [], 0)[0] == []
        sock.shutdown(socket.SHUT_RDWR)
        assert select.select([sock], [], [], 0)[0] == [sock]
        assert sock.recv(1) == b""

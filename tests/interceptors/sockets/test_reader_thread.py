"""A thread that does nothing but receive hears answers as they are, whoever has asked."""

from __future__ import annotations

import contextlib
import queue
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
from tests.interceptors.conftest import serve


DELAY = 0.05  # seconds
PATIENCE = 10


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
        path = f"/proc/self/task/{self.thread.native_id}/stat"
        asleep = 0
        while asleep < 2:
            threading.Event().wait(0.001)  # it may need what this thread holds
            with open(path, encoding="ascii") as stat:
                asleep = asleep + 1 if stat.read().rpartition(")")[2].split()[0] == "S" else 0

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
    silence: dict[str, Any] = {"mode": "timeout", "rate": 1}
    with inject("network_latency", delay=1e-9):
        conversation = talk()
        assert conversation.ask(b"one") == b"one"
        conversation.until_it_waits()
        with inject("network_failure", **silence) as silent:
            conversation.sock.sendall(b"two")
            ends = time.monotonic() + PATIENCE
            while not silent.hits and time.monotonic() < ends:
                threading.Event().wait(0.001)
            assert conversation.heard.empty()
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

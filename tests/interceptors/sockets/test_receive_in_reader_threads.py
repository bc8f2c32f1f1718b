"""A thread that does nothing but receive hears answers as they are, whoever has asked.

And it is woken as the kernel wakes it, when another thread ends the connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
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
from pytest_resilience.chaos.descriptors import unread
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import full_backlog
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.resets import reset_when_closed
from tests.waiting import PATIENCE
from tests.waiting import asleep
from tests.waiting import eventually


DELAY = 0.05  # seconds


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


def test_the_first_is_cut_off(talk: Talk, inject: Inject) -> None:
    with inject("network_failure", mode="truncate", rate=1, first=1) as cut:
        conversation = talk()
        assert conversation.ask(b"abcdefgh") == b"abcd"
        assert conversation.heard.get(timeout=PATIENCE) == b""
    assert cut.hits == 1


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_the_request_that_is_meant_is_late(talk: Talk, inject: Inject, method: str) -> None:
    requests = {
        each: f"{each} / HTTP/1.1\r\nHost: teas\r\n\r\n".encode() for each in ("GET", "PUT")
    }
    with inject("network_latency", delay=DELAY, method=method) as latency:
        conversation = talk()
        for each, request in requests.items():
            before = latency.hits
            assert conversation.ask(request) == request
            assert latency.hits == before + (each == method)


def test_the_second_is_never_heard(talk: Talk, inject: Inject) -> None:
    """Silence is there from the start: who waits when it begins would be hit by that, too."""
    with inject("network_failure", mode="timeout", from_nth=4) as silence:
        conversation = talk()
        conversation.until_it_waits()
        assert eventually(lambda: silence.matched == 2)  # connect, and handshake or wait
        assert conversation.ask(b"one") == b"one"
        conversation.until_it_waits()
        conversation.sock.sendall(b"two")
        conversation.until_it_waits()
        assert conversation.heard.empty()
        assert (silence.matched, silence.hits) == (4, 1)
    assert isinstance(conversation.heard.get(timeout=PATIENCE), TimeoutError)


def test_each_request_is_one_however_long_somebody_has_waited(talk: Talk, inject: Inject) -> None:
    """Silence is decided about when a request is sent, by the thread that sends it."""
    with inject("network_failure", mode="timeout", from_nth=100) as silence:
        conversation = talk()
        assert eventually(lambda: silence.matched == 2)  # connect, and handshake or wait
        before = silence.matched
        for number, text in enumerate((b"one", b"two", b"three"), 1):
            assert conversation.ask(text) == text
            assert silence.matched == before + number


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


# More than any kernel takes while nobody reads.
UPLOAD = b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (1 << 24) + bytes(1 << 24)
REQUESTS = b"GET /1 HTTP/1.1\r\n\r\n", b"GET /2 HTTP/1.1\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"
# What a peer does with a request that it refuses, by the mode that injects it.
REFUSING: dict[str, Callable[[socket.socket], object]] = {
    "reset": reset_when_closed,
    "close": lambda connection: None,
    "status": lambda connection: connection.sendall(BUSY),
}


@pytest.fixture(params=["plain", "tls"])
def connect(request: pytest.FixtureRequest, trust: Trust) -> Iterator[Callable[[Handler], Any]]:
    """`sock = connect(handler)`."""
    with contextlib.ExitStack() as stack:

        def connected(handler: Handler) -> socket.socket:
            is_tls = request.param == "tls"
            port = stack.enter_context(serve(trust.over_tls(handler) if is_tls else handler))
            sock = stack.enter_context(socket.create_connection((HOST, port)))
            if not is_tls:
                return sock
            return stack.enter_context(trust.client.wrap_socket(sock, server_hostname=HOST))

        yield connected


@pytest.mark.parametrize("mode", REFUSING)
def test_a_request_is_sent_before_it_is_refused_though_somebody_waits(
    mode: str, connect: Callable[[Handler], socket.socket], inject: Inject
) -> None:
    """Who comes to receive while another thread is still sending is not told of it before."""
    reads, read = threading.Event(), queue.Queue[int]()

    def count(connection: socket.socket) -> None:
        reads.wait(PATIENCE)
        size = 0
        while size < len(UPLOAD) and (data := connection.recv(1 << 20)):
            size += len(data)
        read.put(size)
        silent(connection)

    sock, sent = connect(count), queue.Queue[str]()
    with inject("network_failure", mode=mode, rate=1) as refused:
        sends = threading.Thread(
            target=lambda: sent.put(outcome(lambda: sock.sendall(UPLOAD))), daemon=True
        )
        sends.start()
        assert eventually(lambda: asleep(sends) and asleep(sends))
        conversation = Conversation(sock)
        conversation.until_it_waits()
        reads.set()
        assert sent.get(timeout=PATIENCE) == "None"
        heard = conversation.heard.get(timeout=PATIENCE)
    assert read.get(timeout=PATIENCE) == len(UPLOAD)
    assert heard == b"" or isinstance(heard, OSError) or heard.startswith(BUSY[:12])
    assert (refused.matched, refused.hits) == (1, 1)


@pytest.mark.parametrize("mode", REFUSING)
def test_who_waits_is_struck_by_the_request_of_another_thread(
    mode: str, connect: Callable[[Handler], socket.socket], inject: Inject
) -> None:
    """As by a peer that really refuses it, and though this one keeps silent."""

    def answering(then: Callable[[socket.socket], object]) -> Handler:
        def answer(connection: socket.socket) -> None:
            connection.sendall(connection.recv(100))
            if connection.recv(100):
                then(connection)

        return answer

    def met(sock: socket.socket) -> bytes | str:
        conversation = Conversation(sock)
        assert conversation.ask(REQUESTS[0]) == REQUESTS[0]
        heard = conversation.ask(REQUESTS[1])
        return heard if isinstance(heard, bytes) else repr(heard)

    real = met(connect(answering(REFUSING[mode])))
    sock = connect(answering(silent))
    with inject("network_failure", mode=mode, nth=2) as refused:
        injected = met(sock)
    assert injected == real or injected[:12] == real[:12] == BUSY[:12]
    assert (refused.matched, refused.hits) == (2, 1)


@pytest.mark.parametrize("parts", [None, (b"GET / HTTP/1.1\r\nHost: te", b"a\r\n\r\n")])
def test_what_is_sent_in_part_is_not_refused_yet(
    parts: tuple[bytes, ...] | None, inject: Inject
) -> None:
    """What the kernel has not taken all of, or the head of a request without its end."""
    reads = threading.Event()

    def read(connection: socket.socket) -> None:
        reads.wait(PATIENCE)
        silent(connection)

    with (
        serve(read) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_failure", mode="reset", rate=1) as refused,
    ):
        sock.setblocking(False)
        first, rest = parts or (UPLOAD, b"")
        rest = first[sock.send(first) :] + rest
        assert rest
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        reads.set()
        while rest:
            assert select.select([], [sock], [], PATIENCE)[1]
            rest = rest[sock.send(rest) :]
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert (refused.matched, refused.hits) == (1, 1)


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


def echo_after(begun: threading.Event, connection: socket.socket) -> None:
    """Answer nothing before an outage has: what has come by then is delivered."""
    assert begun.wait(PATIENCE)
    echo(connection)


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
        begun = threading.Event()
        sock = connected(stack.enter_context(serve(functools.partial(echo_after, begun))))
        with inject("network_failure", rate=1, **parameters) as outage:
            begun.set()
            # The kernel resets a connection to which bytes come when it is shut down already.
            injected = what_ends(
                sock,
                waits,
                ENDINGS[ending],
                lambda: outage.hits > 0 and (wait == "handshake" or unread(sock) > 0),
            )
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
        assert select.select([sock], [], [], 0.05)[0] == []
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        assert silence.hits == 1
        assert select.select([sock], [], [], 0)[0] == []
        sock.shutdown(socket.SHUT_RDWR)
        assert select.select([sock], [], [], 0)[0] == [sock]
        assert sock.recv(1) == b""


def test_a_sender_stays_known_when_another_has_been_and_gone(inject: Inject) -> None:
    """The peer has all of a request before it resets, whoever else has tried to send."""
    read_on = threading.Event()

    def answer(connection: socket.socket) -> None:
        read_on.wait(PATIENCE)
        silent(connection)

    def full() -> bool:
        """Whether the kernel takes no more, as a send finds that is over at once."""
        return outcome(lambda: client.send(b".", socket.MSG_DONTWAIT)) == "BlockingIOError 11"

    def run(action: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=lambda: met.append(outcome(action)), daemon=True)
        thread.start()
        return thread

    met: list[str] = []
    with (
        serve(answer) as port,
        socket.create_connection((HOST, port)) as client,
        inject("network_failure", mode="reset", rate=1),
    ):
        threads = [run(lambda: client.sendall(bytes(20 << 20)))]
        assert eventually(full)
        threads.append(run(lambda: client.recv(1)))
        assert eventually(lambda: asleep(threads[-1]))
        read_on.set()
        for each in threads:
            each.join(PATIENCE)
    assert met == ["None", "ConnectionResetError 104"]

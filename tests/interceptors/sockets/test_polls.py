"""What polls tell under a fault is what they tell of a socket to which it really happens."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import pickle
import select
import selectors
import socket
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any

import pytest

from pytest_resilience import FaultInjected
from pytest_resilience import ManualClock
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from pytest_resilience.interceptors.sockets.polls import Polls
from pytest_resilience.interceptors.sockets.receive_nonblocking import NonblockingReceiver
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from tests.injecting import Inject
from tests.injecting import injecting
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
from tests.waiting import eventually


DELAY = 0.05  # seconds
SHORT = 0.02
PATIENCE = 10
MANY = b"x" * 1000

every_poll = pytest.mark.parametrize("polls", POLLS, ids=lambda polls: polls.__name__)
every_timeout = pytest.mark.parametrize("timeout", [0, PATIENCE], ids=["at once", "blocking"])


@contextlib.contextmanager
def asking(
    port: int, timeout: float, trouble: AbstractContextManager[Any]
) -> Iterator[socket.socket]:
    """A client that has sent a request, in `trouble`."""
    with socket.create_connection((HOST, port)) as sock, trouble:
        sock.settimeout(timeout)
        sock.sendall(b"GET / HTTP/1.1\r\n\r\ntea")
        yield sock


@every_poll
@every_timeout
def test_it_is_told_of_what_is_late_once_and_when_that_is_due(
    polls: Poll, timeout: float, echo_port: int, inject: Inject
) -> None:
    latency = inject("network_latency", delay=DELAY)
    with asking(echo_port, timeout, latency) as sock:
        began = time.monotonic()
        assert polls(sock, PATIENCE)
        assert sock.recv(100).endswith(b"tea")
        assert time.monotonic() - began >= DELAY * 0.9  # it was asked for before


@every_poll
@every_timeout
def test_nor_is_it_told_of_the_end_that_comes_with_it(
    polls: Poll, timeout: float, inject: Inject
) -> None:
    """The kernel tells of an end whatever it is made to keep quiet of."""
    latency = inject("network_latency", delay=DELAY)
    with serve(REAL["status"]) as port, asking(port, timeout, latency) as sock:
        began = time.monotonic()
        assert polls(sock, PATIENCE)
        assert sock.recv(3) == b"HTT"
        assert time.monotonic() - began >= DELAY * 0.9


@every_poll
@every_timeout
@pytest.mark.parametrize("seconds", [0, SHORT])
@pytest.mark.parametrize("mode", ["timeout", "partition"])
def test_it_is_told_of_nothing_in_silence(
    polls: Poll, timeout: float, seconds: float, mode: str, inject: Inject
) -> None:
    def told(handle: Handler, trouble: AbstractContextManager[Any]) -> list[bool]:
        with serve(handle) as port, asking(port, timeout, trouble) as sock:
            return [polls(sock, seconds) for _ in range(3)]

    real = told(silent, contextlib.nullcontext())
    assert told(echo, inject("network_failure", mode=mode, rate=1)) == real == [False] * 3


@every_poll
@pytest.mark.parametrize(
    ("parameters", "told_of_more"),
    [
        ({"mode": "timeout", "after": 1}, False),
        ({"mode": "drop_message", "after_items": 1}, True),
        ({"mode": "close", "after": 1}, True),
    ],
)
@pytest.mark.parametrize("how", ["plain", "TLS 1.2", "TLS 1.3"])
def test_it_is_told_of_nothing_that_is_lost_on_the_way(
    how: str, polls: Poll, parameters: dict[str, Any], told_of_more: bool, trust: Trust
) -> None:
    """Whoever is told of it would wait in vain, in a receive that may have no timeout."""
    says = threading.Semaphore(0)

    def lines(connection: socket.socket) -> None:
        connection.recv(100)
        for line in (b"tea\n", b"cup\n", b"pot\n"):
            assert says.acquire(timeout=PATIENCE)
            connection.sendall(line)

    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    trouble = injecting(engine.start, rate=1)("network_failure", target=HOST, **parameters)
    handler = lines if how == "plain" else trust.over_tls(lines)
    with serve(handler) as port, trouble, contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection((HOST, port), timeout=PATIENCE))
        if how != "plain":
            context = trust.client if how == "TLS 1.3" else trust.client_without_tickets
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=HOST))
        sock.sendall(b"?")
        says.release()
        assert polls(sock, PATIENCE)
        assert sock.recv(100) == b"tea\n"
        clock.advance(2)
        says.release()
        if parameters["mode"] != "close":
            assert not polls(sock, SHORT)
        says.release()
        assert polls(sock, PATIENCE if told_of_more else SHORT) is told_of_more
        if told_of_more:
            assert sock.recv(100) == (b"" if parameters["mode"] == "close" else b"pot\n")


@every_poll
@every_timeout
@pytest.mark.parametrize("mode", ["reset", "close"])
@pytest.mark.parametrize("seconds", [0, PATIENCE])
def test_it_is_told_of_an_end_by_looking(
    polls: Poll, timeout: float, seconds: float, mode: str, inject: Inject
) -> None:
    """Also who never waits, and only looks again and again."""

    def met(handle: Handler, trouble: AbstractContextManager[Any]) -> list[str]:
        with serve(handle) as port, asking(port, timeout, trouble) as sock:
            ends = time.monotonic() + PATIENCE
            while not polls(sock, seconds):
                assert time.monotonic() < ends
            return [outcome(lambda: sock.recv(3)) for _ in range(2)]

    real = met(REAL[mode], contextlib.nullcontext())
    assert met(silent, inject("network_failure", mode=mode, rate=1)) == real


@every_poll
@every_timeout
@pytest.mark.parametrize(
    "pace",
    [{"mode": "dribble", "piece": 250, "delay": 0.01}, {"mode": "bandwidth", "bandwidth": "25kB"}],
    ids=lambda pace: pace["mode"],
)
def test_it_is_told_of_each_piece_when_that_has_come(
    polls: Poll, timeout: float, pace: dict[str, Any], inject: Inject
) -> None:
    """So nobody who has been told has to wait, and a timeout too short for it is never met."""

    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(MANY)

    with serve(answer) as port, asking(port, timeout, inject("network_latency", **pace)) as sock:
        began, received = time.monotonic(), b""
        while len(received) < len(MANY):
            assert polls(sock, PATIENCE)
            sock.settimeout(timeout and 0.005)
            received += sock.recv(100)
        assert time.monotonic() - began >= 0.03


@every_poll
def test_it_is_told_of_what_was_received_to_know_what_it_is(
    polls: Poll, trust: Trust, inject: Inject
) -> None:
    """As the first response in TLS 1.3, which looks like the tickets that come before it."""

    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(MANY)
        connection.recv(1)  # or the kernel would tell of the end

    with (
        serve(trust.over_tls(answer)) as port,
        inject("network_latency", mode="dribble", piece=250, delay=0.01),
        socket.create_connection((HOST, port)) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as sock,
    ):
        sock.sendall(b"?")
        received = sock.recv(65536)
        assert len(received) < len(MANY)
        while len(received) < len(MANY):
            assert polls(sock, PATIENCE)
            received += sock.recv(65536)
    assert received == MANY


def test_the_end_of_an_experiment_is_told(inject: Inject) -> None:
    """Also where the kernel would tell of an end before, and is not asked."""
    told = []
    with serve(REAL["status"]) as port, contextlib.ExitStack() as until_ended:
        latency = until_ended.enter_context(inject("network_latency", delay=600, from_nth=2))
        with asking(port, 0, contextlib.nullcontext()) as sock:
            thread = threading.Thread(target=lambda: told.append(by_select(sock, PATIENCE)))
            thread.start()
            assert eventually(lambda: latency.hits == 1)
            until_ended.close()
            thread.join(PATIENCE)
    assert told == [True]


def by_looking_again_and_again(sock: socket.socket, seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not select.select([sock], [], [], 0)[0]:
        assert time.monotonic() < ends
        time.sleep(0.001)
    return True


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


@every_poll
def test_it_is_told_of_nothing_over_tls_that_comes_too_late(polls: Poll, trust: Trust) -> None:
    """Though nobody can look into it without a receive."""
    says = threading.Semaphore(0)

    def lines(connection: socket.socket) -> None:
        connection.recv(100)
        for line in (b"tea\n", b"cup\n"):
            assert says.acquire(timeout=PATIENCE)
            connection.sendall(line)
        connection.recv(100)

    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    inject = injecting(engine.start, target=HOST)
    with (
        serve(trust.over_tls(lines)) as port,
        socket.create_connection((HOST, port)) as plain,
        trust.client_without_tickets.wrap_socket(plain, server_hostname=HOST) as sock,
        inject("network_failure", mode="timeout", after=1) as silence,
    ):
        sock.sendall(b"?")
        says.release()
        assert polls(sock, PATIENCE)
        assert sock.recv(100) == b"tea\n"
        clock.advance(2)
        says.release()
        assert not any(polls(sock, SHORT) for _ in range(3))
        assert sock.pending() == 0
    assert (silence.matched, silence.hits) == (1, 1)


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
        with inject("network_latency", delay=600):
            sock.sendall(b"tea")
            assert eventually(lambda: not by_poll(sock, 0) and mark(sock) > before)
        assert mark(sock) == before
        assert by_poll(sock, PATIENCE)


@every_poll
def test_what_only_who_receives_can_meet_is_met_there(
    polls: Poll, echo_port: int, inject: Inject
) -> None:
    with asking(echo_port, PATIENCE, inject("memory_failure", at="receive")) as sock:
        assert polls(sock, PATIENCE)
        with pytest.raises(MemoryError):
            sock.recv(3)


# Writing.


def until_full(sock: socket.socket) -> str:
    """Send until there is no room; what is met then."""
    for _ in range(1000):
        if (met := outcome(lambda: sock.send(bytes(1 << 16)))) != str(1 << 16) and "E" in met:
            return met
    return "there is always room"


@contextlib.contextmanager
def taking_nothing(go_on: threading.Event) -> Iterator[int]:
    """A server that reads when it may go on."""

    def take(connection: socket.socket) -> None:
        go_on.wait(PATIENCE)
        while connection.recv(1 << 20):
            pass

    with serve(take) as port:
        yield port


@every_poll
@pytest.mark.parametrize("seconds", [0, SHORT])
def test_who_writes_is_told_of_no_room_while_an_upload_is_stalled(
    polls: Poll, seconds: float, inject: Inject
) -> None:
    go_on = threading.Event()

    def met(sock: socket.socket, goes_on: Callable[[], object]) -> list[object]:
        sock.setblocking(False)
        found: list[object] = [polls(sock, PATIENCE, writes=True), until_full(sock)]
        found += [polls(sock, seconds, writes=True) for _ in range(2)]
        goes_on()
        return [*found, polls(sock, PATIENCE, writes=True), outcome(lambda: sock.send(b"tea"))]

    with taking_nothing(go_on) as port, socket.create_connection((HOST, port)) as sock:
        real = met(sock, go_on.set)
    assert real == [True, "BlockingIOError 11", False, False, True, "3"]
    with (
        taking_nothing(go_on) as port,
        socket.create_connection((HOST, port)) as sock,
        contextlib.ExitStack() as until_ended,
    ):
        stalled = inject("network_failure", mode="timeout", stream="upstream", rate=1)
        stall = until_ended.enter_context(stalled)
        assert met(sock, until_ended.close) == real
    assert stall.hits == 1


@every_poll
def test_who_writes_is_told_of_room_when_some_has_gone_out(polls: Poll, inject: Inject) -> None:
    go_on = threading.Event()
    go_on.set()
    with (
        taking_nothing(go_on) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_latency", bandwidth="100kB", stream="upstream") as thin,
    ):
        sock.setblocking(False)
        began, sent = time.monotonic(), 0
        while sent < 5000:
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(bytes(5000 - sent))
            if sent < 5000:
                assert polls(sock, PATIENCE, writes=True)
        assert time.monotonic() - began >= DELAY
    assert thin.hits == 1


def test_what_else_is_polled_is_told_meanwhile(echo_port: int, inject: Inject) -> None:
    go_on = threading.Event()
    with (
        taking_nothing(go_on) as port,
        socket.create_connection((HOST, port)) as stalled,
        socket.create_connection((HOST, echo_port)) as other,
        selectors.DefaultSelector() as selector,
    ):
        target = f"{HOST}:{port}"
        with inject("network_failure", mode="timeout", stream="upstream", target=target):
            stalled.setblocking(False)
            until_full(stalled)
            selector.register(stalled, selectors.EVENT_READ | selectors.EVENT_WRITE)
            selector.register(other, selectors.EVENT_READ)
            other.sendall(b"tea")
            assert [key.fileobj for key, _ in selector.select(PATIENCE)] == [other]
            go_on.set()


@pytest.mark.parametrize("polls", POLLS, ids=lambda polls: polls.__name__)
def test_who_polls_while_another_thread_still_sends_is_told_when_it_is_due(
    polls: Poll, inject: Inject
) -> None:
    gone = threading.Event()

    def refuse(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"no")
        gone.wait(PATIENCE)

    def upload() -> None:
        with contextlib.suppress(OSError):
            sock.sendall(bytes(30_000_000))

    with (
        serve(refuse) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_latency", delay=DELAY) as latency,
    ):
        sending = threading.Thread(target=upload)
        sending.start()
        try:
            assert polls(sock, PATIENCE)
            assert sock.recv(2) == b"no"
            assert sending.is_alive()
            assert latency.hits == 1
        finally:
            gone.set()
            sending.join(PATIENCE)


@pytest.mark.parametrize(
    ("fault", "is_looked_at"),
    [
        (("network_latency", {"delay": SHORT}), False),
        (("network_failure", {"mode": "timeout", "stream": "upstream"}), True),
    ],
    ids=["late", "stalled"],
)
def test_a_loop_whose_transports_read_all_is_told_what_the_kernel_tells(
    monkeypatch: pytest.MonkeyPatch,
    inject: Inject,
    *,
    fault: tuple[str, dict[str, Any]],
    is_looked_at: bool,
) -> None:
    looked: list[Any] = []
    poll, released = Polls.poll, threading.Event()

    def look(polls: Polls, *call: Any) -> Any:
        looked.append(call)
        return poll(polls, *call)

    monkeypatch.setattr(Polls, "poll", look)

    async def story(port: int) -> None:
        _, writer = await asyncio.open_connection(HOST, port)
        looked.clear()
        for _ in range(3):
            writer.write(MANY)
            await asyncio.sleep(SHORT)
        assert bool(looked) is is_looked_at
        writer.transport.abort()

    kind, parameters = fault
    with taking_nothing(released) as port:
        with inject(kind, target=f"{HOST}:{port}", **parameters):
            asyncio.run(story(port))
        released.set()


@pytest.mark.parametrize("name", ["poll", "epoll"])
def test_what_is_made_does_all_that_it_stands_for(name: str, inject: Inject) -> None:
    names = {each for each in dir(getattr(select, name)()) if not each.startswith("_")}
    with inject("network_latency", delay=DELAY):
        assert names <= set(dir(getattr(select, name)()))


def test_an_epoll_object_is_used_as_any(echo_port: int, inject: Inject) -> None:
    latency = inject("network_latency", delay=DELAY)
    with asking(echo_port, PATIENCE, latency) as sock, select.epoll() as poll:
        poll.register(sock, 0)
        assert poll.fileno() >= 0
        poll.modify(sock, select.EPOLLOUT)
        assert poll.poll(PATIENCE) == [(sock.fileno(), select.EPOLLOUT)]
        poll.unregister(sock)
        assert poll.poll(0) == []
        poll.close()
        assert poll.closed
        sock.recv(100)


@pytest.mark.parametrize("name", ["SelectSelector", "PollSelector", "EpollSelector"])
def test_a_selector_that_was_there_before_is_told(
    name: str, echo_port: int, inject: Inject
) -> None:
    with (
        socket.create_connection((HOST, echo_port), timeout=PATIENCE) as sock,
        getattr(selectors, name)() as selector,
    ):
        selector.register(sock, selectors.EVENT_READ)
        with inject("network_latency", delay=DELAY):
            began = time.monotonic()
            sock.sendall(b"GET / HTTP/1.1\r\n\r\ntea")
            assert selector.select(PATIENCE)
            assert time.monotonic() - began >= DELAY * 0.9
            assert sock.recv(100).endswith(b"tea")


def answer(action: Callable[[], object]) -> str:
    """What it returns, or all that it says of why it does not."""
    try:
        return repr(action())
    except (TypeError, ValueError, OverflowError) as error:
        return repr(error)


@pytest.mark.parametrize("name", ["poll", "epoll"])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_there_are_no_copies_of_it(
    name: str, copied: Callable[[object], object], inject: Inject
) -> None:
    real = answer(lambda: copied(getattr(select, name)()))
    with inject("network_latency", delay=DELAY):
        assert answer(lambda: copied(getattr(select, name)())) == real


def polled(how: str, sock: socket.socket, timeout: Any) -> str:
    """What comes of it, with something to receive."""
    if how == "select":
        return answer(lambda: len(select.select([sock], [], [], timeout)[0]))
    if how.endswith("Selector"):
        with getattr(selectors, how)() as selector:
            selector.register(sock, selectors.EVENT_READ)
            return answer(lambda: len(selector.select(timeout)))
    poll = getattr(select, how)()
    poll.register(sock, select.POLLIN)
    return answer(lambda: len(poll.poll(timeout)))


class One:
    def __index__(self) -> int:
        return 1


TIMEOUTS: list[Any] = [
    math.nan, math.inf, -math.inf, -1, -0.5, 1e9, 1e10, 1e300, 10**400, -(10**400), 2147483,
    2147484, True, None, "1", [], 1j, Decimal(1), One(),
]  # fmt: skip


@pytest.mark.parametrize(
    "how", ["select", "poll", "epoll", "SelectSelector", "PollSelector", "EpollSelector"]
)
@pytest.mark.parametrize("timeout", TIMEOUTS, ids=lambda timeout: f"{timeout!s:.12}")
def test_a_timeout_is_taken_or_refused_as_without_faults(
    how: str, timeout: Any, echo_port: int, inject: Inject
) -> None:
    with socket.create_connection((HOST, echo_port), timeout=PATIENCE) as sock:
        sock.sendall(b"tea")
        assert select.select([sock], [], [], PATIENCE)[0]
        real = polled(how, sock, timeout)
        with inject("network_latency", delay=600, from_nth=2):
            assert polled(how, sock, timeout) == real


@pytest.mark.parametrize("name", ["PollSelector", "EpollSelector"])
def test_a_delay_may_be_longer_than_a_poll_can_count(
    name: str, echo_port: int, inject: Inject
) -> None:
    at_once, peer = socket.socketpair()
    with (
        at_once,
        peer,
        getattr(selectors, name)() as selector,
        socket.create_connection((HOST, echo_port)) as late,
        inject("network_latency", delay=1e7, duration=1e7) as latency,
    ):
        late.setblocking(False)
        late.sendall(b"tea")
        selector.register(late, selectors.EVENT_READ)
        assert eventually(lambda: not selector.select(0) and latency.hits == 1)
        peer.send(b".")
        selector.register(at_once, selectors.EVENT_READ)
        assert [key.fileobj for key, _ in selector.select()] == [at_once]


def test_a_receive_that_begins_during_a_poll_is_known_to_go_on(
    monkeypatch: pytest.MonkeyPatch, inject: Inject
) -> None:
    met: list[tuple[threading.Thread, TcpConnection]] = []

    def meanwhile(_: NonblockingReceiver, sock: socket.socket, connection: TcpConnection) -> float:
        thread = threading.Thread(target=sock.recv, args=[1])
        thread.start()
        assert eventually(lambda: connection.inbound.threads == {thread.ident})
        met.append((thread, connection))
        return 0.0

    with (
        serve(silent) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_latency", delay=DELAY),
    ):
        monkeypatch.setattr(NonblockingReceiver, "held_for", meanwhile)
        assert not by_select(sock, 0)
        ((thread, connection),) = met
        assert connection.inbound.threads == {thread.ident}
        sock.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


@pytest.mark.parametrize("is_late", [False, True])
def test_an_edge_tells_of_room_when_some_has_gone_out(inject: Inject, *, is_late: bool) -> None:
    """Also who comes when it is there already."""
    go_on = threading.Event()
    go_on.set()
    with (
        taking_nothing(go_on) as port,
        socket.create_connection((HOST, port)) as sock,
        inject("network_latency", bandwidth="100kB", stream="upstream"),
        select.epoll() as poll,
    ):
        sock.setblocking(False)
        poll.register(sock, select.EPOLLOUT | select.EPOLLET)
        sent = 0
        while sent < 5000:
            assert poll.poll(PATIENCE) == [(sock.fileno(), select.EPOLLOUT)]
            with contextlib.suppress(BlockingIOError):
                while sent < 5000:
                    sent += sock.send(bytes(5000 - sent))
            if is_late:
                time.sleep(SHORT)


def test_an_edge_tells_of_what_is_late_when_that_is_due(echo_port: int, inject: Inject) -> None:
    latency = inject("network_latency", delay=DELAY)
    with asking(echo_port, 0, latency) as sock, select.epoll() as poll:
        poll.register(sock, select.EPOLLIN | select.EPOLLET)
        assert not poll.poll(0)
        assert poll.poll(PATIENCE) == [(sock.fileno(), select.EPOLLIN)]
        assert sock.recv(100).endswith(b"tea")

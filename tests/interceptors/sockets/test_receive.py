"""How blocking clients receive responses that come slowly, damaged, cut off, or injected."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import queue
import select
import selectors
import socket
import ssl
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import urllib3

from pytest_resilience import ChaosExperiment
from pytest_resilience import ManualClock
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.sockets import receive
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from tests.another_fault import Shout
from tests.injecting import Inject
from tests.injecting import injecting
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve
from tests.waiting import PATIENCE


BODY = b'{"name": "anything at all", "amount": 12345}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


def answer(connection: socket.socket) -> None:
    while connection.recv(65536):
        connection.sendall(ANSWER)


def answer_once(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + BODY)
    connection.shutdown(socket.SHUT_WR)
    connection.recv(65536)


@pytest.fixture(params=["plain", "tls"])
def over(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(over: str, trust: Trust) -> Iterator[str]:
    handler = answer if over == "plain" else trust.over_tls(answer)
    with serve(handler) as port:
        yield f"{'http' if over == 'plain' else 'https'}://{HOST}:{port}/"


def with_requests(url: str, trust: Trust) -> tuple[int, bytes]:
    reply = requests.get(url, timeout=5, verify=trust.file)
    return reply.status_code, reply.content


def with_urllib3(url: str, trust: Trust) -> tuple[int, bytes]:
    with urllib3.PoolManager(ca_certs=trust.file) as pool:
        reply = pool.request("GET", url, timeout=5, retries=False)
        return reply.status, reply.data


def with_httpx(url: str, trust: Trust) -> tuple[int, bytes]:
    with httpx.Client(trust_env=False, timeout=5, verify=trust.client) as client:
        reply = client.get(url)
        return reply.status_code, reply.content


def with_http_client(url: str, trust: Trust) -> tuple[int, bytes]:
    parts = urllib3.util.parse_url(url)
    assert parts.host is not None
    client: http.client.HTTPConnection
    if parts.scheme == "https":
        client = http.client.HTTPSConnection(
            parts.host, parts.port, timeout=5, context=trust.client
        )
    else:
        client = http.client.HTTPConnection(parts.host, parts.port, timeout=5)
    with contextlib.closing(client):
        client.request("GET", "/")
        reply = client.getresponse()
        return reply.status, reply.read()


Client = Callable[[str, Trust], tuple[int, bytes]]
every_client = pytest.mark.parametrize(
    "client",
    [with_requests, with_urllib3, with_httpx, with_http_client],
    ids=lambda client: client.__name__,
)


@pytest.mark.parametrize(
    ("kind", "given", "met"),
    [
        ("network_failure", {"mode": "lose_answer"}, ""),
        ("network_failure", {"mode": "truncate"}, "b'he'"),
        ("network_failure", {"mode": "truncate", "after_bytes": 2, "end": "reset"}, "b'he'"),
        ("network_failure", {"mode": "corrupt", "share": 1}, "b'"),
        ("network_latency", {"mode": "dribble", "piece": 2, "delay": 0.001}, "b'he'"),
        ("network_latency", {"delay": 0.001}, "b'hello'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "TLS"])
def test_what_happens_to_an_answer_has_not_happened_before_it_came(  # noqa: PLR0917  # by name
    kind: str, given: dict[str, Any], met: str, sealed: bool, trust: Trust, inject: Inject
) -> None:
    """The client gave up, and comes for it later."""
    answer = threading.Event()

    def answers_late(connection: socket.socket) -> None:
        connection.recv(100)
        answer.wait(10)
        connection.sendall(b"hello")
        connection.recv(100)

    with (
        serve(trust.over_tls(answers_late) if sealed else answers_late) as port,
        socket.create_connection((HOST, port), timeout=10) as plain,
        contextlib.ExitStack() as stack,
    ):
        client = plain
        if sealed:
            wrapped = trust.client.wrap_socket(plain, server_hostname=HOST)
            client = stack.enter_context(wrapped)
        with inject(kind, rate=1, **given) as failure:
            client.sendall(b"order")
            client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                client.recv(100)
            assert (failure.matched, failure.hits, failure.proves_nothing) == (1, 0, True)
            answer.set()
            client.settimeout(10)
            assert outcome(lambda: client.recv(100)).startswith(met)
            assert (failure.matched, failure.hits) == (1, 1)


def test_an_answer_of_any_protocol_that_is_shorter_is_not_cut_off(
    echo_port: int, inject: Inject
) -> None:
    with (
        socket.create_connection((HOST, echo_port), timeout=10) as client,
        inject("network_failure", after_bytes=6, rate=1) as cut,
    ):
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        assert cut.hits == 0
        client.sendall(b"hello again")
        assert client.recv(100) == b"hello "
        assert client.recv(100) == b""
        assert cut.hits == 1


@every_client
def test_half_a_body_is_what_the_client_says_it_is(
    client: Client, url: str, trust: Trust, inject: Inject
) -> None:
    with (
        inject("network_failure", mode="truncate", rate=1) as cut,
        pytest.raises(Exception, match=r"IncompleteRead\(22|incomplete|received 22 bytes"),
    ):
        client(url, trust)
    assert cut.hits >= 1


@every_client
def test_a_damaged_body_has_its_length(
    client: Client, url: str, trust: Trust, inject: Inject
) -> None:
    with inject("network_failure", mode="corrupt", rate=1, share=0.2) as damage:
        status, body = client(url, trust)
    assert (status, len(body), damage.hits) == (200, len(BODY), 1)
    assert body != BODY
    with inject("network_failure", mode="corrupt", rate=1, share=0.2):
        assert client(url, trust) == (200, body)


@every_client
def test_an_answer_over_a_thin_line_arrives_whole(
    client: Client, url: str, trust: Trust, inject: Inject
) -> None:
    with inject("network_latency", bandwidth="4kB") as thin:
        assert client(url, trust) == (200, BODY)
    assert thin.hits == 1


def test_the_rest_of_one_that_has_come_is_no_longer_awaited_where_another_begins(
    trust: Trust, inject: Inject
) -> None:
    """Of TLS it was received already, with the tickets, and the kernel has nothing more."""
    with (
        serve(trust.over_tls(echo)) as port,
        inject("network_latency", piece=1, delay="100us") as first,
        socket.create_connection((HOST, port), timeout=PATIENCE) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as sock,
    ):
        sock.sendall(b"tea")
        assert sock.recv(8) == b"t"
        with inject("network_latency", piece=1, delay="100us") as second:
            assert [sock.recv(8), sock.recv(8)] == [b"e", b"a"]
        assert (first.hits > 0, second.hits) == (True, 1)


def test_nothing_is_lost_of_one_of_which_some_is_received_as_another_begins(
    trust: Trust, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = receive._fetch
    slow = {"piece": 1, "delay": "100us"}
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serve(trust.over_tls(echo)))
        stack.enter_context(inject("network_latency", **slow))
        plain = stack.enter_context(socket.create_connection((HOST, port), timeout=PATIENCE))
        sock = stack.enter_context(trust.client.wrap_socket(plain, server_hostname=HOST))
        sock.sendall(b"tea")

        def fetch_and_begin(*given: Any) -> bytes | None:
            monkeypatch.undo()
            fetched = fetch(*given)
            stack.enter_context(inject("network_latency", **slow))
            return fetched

        assert sock.recv(8) == b"t"
        monkeypatch.setattr(receive, "_fetch", fetch_and_begin)
        assert [sock.recv(8), sock.recv(8)] == [b"e", b"a"]


def test_nothing_is_lost_of_one_of_which_some_is_received_as_the_last_ends(
    trust: Trust, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = receive._fetch
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serve(trust.over_tls(echo)))
        slow = contextlib.ExitStack()
        slow.enter_context(inject("network_latency", piece=1, delay="100us"))
        plain = stack.enter_context(socket.create_connection((HOST, port), timeout=PATIENCE))
        sock = stack.enter_context(trust.client.wrap_socket(plain, server_hostname=HOST))
        sock.sendall(b"tea")

        def fetch_as_it_ends(*given: Any) -> bytes | None:
            monkeypatch.undo()
            slow.close()
            return fetch(*given)

        monkeypatch.setattr(receive, "_fetch", fetch_as_it_ends)
        assert [sock.recv(8), sock.recv(8)] == [b"t", b"ea"]


@every_client
def test_an_answer_that_dribbles_arrives_whole(
    client: Client, url: str, trust: Trust, inject: Inject
) -> None:
    with inject("network_latency", piece=7, delay="100us") as dribble:
        assert client(url, trust) == (200, BODY)
    assert dribble.hits == 1


@every_client
def test_what_should_be_json_is_not(client: Client, url: str, trust: Trust, inject: Inject) -> None:
    with inject("network_failure", mode="malformed_json", rate=1) as malformed:
        status, body = client(url, trust)
    assert (status, malformed.hits) == (200, 1)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(body)


@every_client
def test_a_failure_has_the_body_it_was_given(
    client: Client, url: str, trust: Trust, inject: Inject
) -> None:
    with inject("network_failure", status=429, body='{"error": "slow down"}', rate=1):
        assert client(url, trust) == (429, b'{"error": "slow down"}')


@every_client
def test_the_server_did_it_and_the_client_does_not_know(
    client: Client, over: str, trust: Trust, inject: Inject
) -> None:
    done: queue.Queue[bytes] = queue.Queue()

    def note(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            done.put(data)
            connection.sendall(ANSWER)

    handler = note if over == "plain" else trust.over_tls(note)
    with serve(handler) as port, inject("network_failure", mode="lose_answer", rate=1) as lost:
        url = f"{'http' if over == 'plain' else 'https'}://{HOST}:{port}/"
        with pytest.raises((OSError, httpx.TransportError, urllib3.exceptions.HTTPError)):
            client(url, trust)
    assert lost.hits == 1
    assert done.get(timeout=5).startswith(b"GET /")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def inject_by_hand(clock: ManualClock) -> Inject:
    """As `inject`, and waits are over at once: their lengths are read off the clock."""
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    return injecting(engine.start)


@contextlib.contextmanager
def connected(port: int, timeout: float | None = 5) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, port), timeout=timeout) as client:
        yield client


def test_each_piece_takes_the_time_of_its_bytes(
    echo_port: int, clock: ManualClock, inject_by_hand: Inject
) -> None:
    with inject_by_hand("network_latency", bandwidth=1000) as thin, connected(echo_port) as client:
        client.sendall(b"x" * 50)
        started = clock.monotonic()
        sizes: list[int] = []
        while sum(sizes) < 50:
            sizes.append(len(client.recv(4096)))
            assert clock.monotonic() - started == pytest.approx(sum(sizes) / 1000)
        assert max(sizes) == 20
    assert thin.delay == pytest.approx(0.05)


@pytest.mark.parametrize(
    "how",
    ["recv", "recv_into", "recv_into_part", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into"],
)
def test_pieces_are_heard_by_every_way_of_receiving(
    how: str, echo_port: int, inject_by_hand: Inject
) -> None:
    buffer = bytearray(8)

    def receive(client: socket.socket) -> bytes:
        if how == "recv_into":
            return bytes(buffer[: client.recv_into(buffer)])
        if how == "recv_into_part":
            return bytes(buffer[: client.recv_into(buffer, 2)])
        if how == "recv":
            return client.recv(8)
        if how == "recvfrom_into":
            return bytes(buffer[: client.recvfrom_into(buffer)[0]])
        if how == "recvmsg_into":
            parts = [memoryview(buffer)[:2], memoryview(buffer)[2:]]
            return bytes(buffer[: client.recvmsg_into(parts)[0]])
        return bytes(getattr(client, how)(8)[0])

    with inject_by_hand("network_latency", piece=3, delay=1), connected(echo_port) as client:
        client.sendall(b"abcdefgh")
        heard: list[bytes] = []
        while sum(map(len, heard)) < 8:
            heard.append(receive(client))
    assert b"".join(heard) == b"abcdefgh"
    assert max(map(len, heard)) == (2 if how == "recv_into_part" else 3)


@pytest.mark.parametrize(
    "receive",
    [
        lambda client: client.recv(0),
        lambda client: client.recv_into(bytearray()),
    ],
    ids=["recv", "recv_into"],
)
@pytest.mark.parametrize("mode", ["timeout", "reset", "truncate"])
def test_who_asks_for_nothing_gets_it_at_once(
    mode: str, receive: Callable[[socket.socket], Any], echo_port: int, inject: Inject
) -> None:
    with connected(echo_port, 5) as client, inject("network_failure", mode=mode, rate=1) as failure:
        client.sendall(b"tea")
        before = failure.hits  # of who polls, silence begins with what is sent
        assert not receive(client)
        assert failure.hits == before


def test_a_pause_too_long_for_the_client_loses_nothing(
    echo_port: int, clock: ManualClock, inject_by_hand: Inject
) -> None:
    with inject_by_hand("network_latency", piece=4, delay=2), connected(echo_port, 1.5) as client:
        client.sendall(b"abcdefgh")
        with pytest.raises(TimeoutError, match="timed out"):
            client.recv(100)
        assert client.recv(2) == b"ab"
        assert client.recv(2) == b"cd"
        with pytest.raises(TimeoutError):
            client.recv(100)
        clock.advance(2)
        assert client.recv(100) == b"efgh"


def test_looking_ahead_takes_nothing(echo_port: int, inject_by_hand: Inject) -> None:
    with inject_by_hand("network_latency", piece=4, delay=1), connected(echo_port) as client:
        client.sendall(b"abcdefgh")
        assert client.recv(1, socket.MSG_PEEK) == b"a"
        assert client.recv(100) == b"abcd"


def test_a_slow_consumer_finds_what_came_meanwhile(
    echo_port: int, clock: ManualClock, inject_by_hand: Inject
) -> None:
    with inject_by_hand("network_latency", bandwidth=1000), connected(echo_port) as client:
        client.sendall(b"x" * 40)
        client.recv(20)
        clock.advance(1)
        before = clock.monotonic()
        client.recv(20)
        assert clock.monotonic() == before


def test_what_is_cut_off_ends_in_good_order(echo_port: int, inject: Inject) -> None:
    with inject("network_failure", mode="truncate", rate=1), connected(echo_port) as client:
        client.sendall(b"abcdefgh")
        assert client.recv(100) == b"abcd"
        assert client.recv(100) == b""
        assert outcome(lambda: client.sendall(b"more")) == "None"  # it learns of it by that
        assert client.recv(100) == b""
        assert outcome(lambda: client.sendall(b"more")) == "BrokenPipeError 32"


def test_the_end_comes_late(clock: ManualClock, inject_by_hand: Inject) -> None:
    with (
        serve(answer_once) as port,
        inject_by_hand("network_latency", mode="slow_close", delay=3) as slow,
        connected(port, None) as client,
    ):
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        started, heard = clock.monotonic(), b""
        while len(heard) < 19 + len(BODY):
            heard += client.recv(4096)
        assert clock.monotonic() == started
        assert client.recv(4096) == b""
        assert clock.monotonic() == pytest.approx(started + 3)
        assert client.recv(4096) == b""
    assert (slow.matched, slow.hits) == (1, 1)
    assert slow.delay == pytest.approx(3)


def test_the_end_can_come_too_late(clock: ManualClock, inject_by_hand: Inject) -> None:
    with (
        serve(lambda connection: None) as port,
        inject_by_hand("network_latency", mode="slow_close", delay=3),
        connected(port, 2) as client,
    ):
        with pytest.raises(TimeoutError):
            client.recv(100)
        assert client.recv(100) == b""


def test_both_at_once_happen_one_after_the_other(
    echo_port: int, clock: ManualClock, inject_by_hand: Inject
) -> None:
    with (
        inject_by_hand("network_latency", name="far", delay=1),
        inject_by_hand("network_latency", name="thin", bandwidth=1000),
        inject_by_hand("network_failure", name="cut", mode="truncate", rate=1),
        connected(echo_port) as client,
    ):
        started = clock.monotonic()
        client.sendall(b"x" * 20)
        assert client.recv(100) == b"x" * 10
        assert clock.monotonic() - started == pytest.approx(1.02)


def test_an_answer_goes_on_as_it_is_when_the_experiment_ends(
    echo_port: int, engine: Engine
) -> None:
    with connected(echo_port) as client:
        active_experiment = engine.start(
            ChaosExperiment("dribble", "network_latency", piece=2, delay=0.001), seed=1
        )
        client.sendall(b"abcdefgh")
        assert client.recv(100) == b"ab"
        active_experiment.stop()
        assert client.recv(100) == b"cdefgh"


def test_no_name_is_found(inject: Inject) -> None:
    with (
        inject("network_failure", mode="dns_not_found", rate=1),
        pytest.raises(socket.gaierror) as caught,
    ):
        socket.create_connection(("localhost", 9))
    assert caught.value.args == (socket.EAI_NONAME, "Name or service not known")


def test_a_name_is_found_late(echo_port: int, clock: ManualClock, inject_by_hand: Inject) -> None:
    with inject_by_hand("network_latency", mode="slow_dns", delay=2) as slow:
        started = clock.monotonic()
        with socket.create_connection(("localhost", echo_port)):
            assert clock.monotonic() == pytest.approx(started + 2)
    assert slow.matched == 1
    assert slow.delay == pytest.approx(2)


def test_tls_itself_is_asked_for_no_more_than_a_piece(trust: Trust, inject: Inject) -> None:
    with (
        serve(trust.over_tls(echo)) as port,
        socket.create_connection((HOST, port), timeout=5) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as client,
        inject("network_latency", piece=3, delay=0.0001),
    ):
        assert isinstance(client, ssl.SSLSocket)
        client.sendall(b"abcdefgh")
        buffer = bytearray(8)
        assert client.recv(8) == b"abc"
        assert client.read(8, buffer)
        assert buffer[:3] == b"def"
        assert client.recv_into(buffer) == 2
        assert buffer[:2] == b"gh"


def test_what_was_late_when_the_experiment_ended_is_there_afterwards(
    echo_port: int, inject_by_hand: Inject
) -> None:
    with connected(echo_port, 1.5) as client:
        with inject_by_hand("network_latency", piece=4, delay=2):
            client.sendall(b"abcdefgh")
            with pytest.raises(TimeoutError):
                client.recv(100)
        client.settimeout(10)
        assert client.recv(8, socket.MSG_WAITALL) == b"abcdefgh"


def test_what_is_late_can_be_waited_for_in_other_ways(
    echo_port: int, inject_by_hand: Inject
) -> None:
    with inject_by_hand("network_latency", piece=4, delay=2), connected(echo_port, 1.5) as client:
        client.sendall(b"abcdefgh")
        with pytest.raises(TimeoutError):
            client.recv(100)
        assert select.select([client], [], [], 10)[0] == [client]
        assert client.recv(1, socket.MSG_PEEK) == b"a"
        assert client.recv(0) == b""
        client.settimeout(None)
        assert client.recv(8, socket.MSG_WAITALL) == b"abcdefgh"


def test_who_looks_without_waiting_is_not_made_to_wait(
    silent_port: int, inject_by_hand: Inject
) -> None:
    with inject_by_hand("network_latency", delay=1), connected(silent_port, None) as client:
        for flags in (socket.MSG_DONTWAIT, socket.MSG_DONTWAIT | socket.MSG_PEEK):
            with pytest.raises(BlockingIOError):
                client.recv(1, flags)


@pytest.mark.parametrize("mode", ["reset", "timeout", "truncate"])
def test_one_that_begins_in_the_middle_of_an_answer_hits_the_rest_of_it(
    mode: str, inject: Inject
) -> None:
    """Also where another one had begun before, and was done with that answer."""
    go_on: queue.Queue[bytes] = queue.Queue()

    def in_two(connection: socket.socket) -> None:
        connection.recv(100)
        for _ in range(2):
            connection.sendall(go_on.get(timeout=10))

    with (
        serve(in_two) as port,
        inject("network_latency", delay="1ms", name="before"),
        connected(port, 0.5) as client,
    ):
        client.sendall(b"go")
        go_on.put(b"one")
        assert client.recv(100) == b"one"
        with inject("network_failure", mode=mode, rate=1) as failure:
            go_on.put(b"two")
            assert outcome(lambda: client.recv(100)) != repr(b"two")
        assert failure.hits == 1


@pytest.mark.parametrize("mode", ["status", "malformed_json"])
def test_no_answer_is_made_up_in_the_middle_of_one(mode: str, inject: Inject) -> None:
    go_on = threading.Event()

    def in_two(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"one")
        go_on.wait(10)
        connection.sendall(b"two")

    with (
        serve(in_two) as port,
        inject("network_latency", delay="1ms", name="before"),
        connected(port, 5) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100) == b"one"
        with inject("network_failure", mode=mode, rate=1) as failure:
            go_on.set()
            assert client.recv(100) == b"two"
        assert failure.matched == 0
    assert f"{port} (more of a response)" in str(never_fired(failure))


def blocking(sock: socket.socket) -> bytes:
    sock.sendall(b"hello")
    found = b""
    while len(found) < 5:
        found += sock.recv(100)
    return found


def polling(sock: socket.socket) -> bytes:
    sock.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        sock.send(b"hello")
        found = b""
        while len(found) < 5:
            selector.select()
            with contextlib.suppress(BlockingIOError):
                found += sock.recv(100)
        return found


def in_asyncio(sock: socket.socket) -> bytes:
    async def story() -> bytes:
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"hello")
        found = await reader.readexactly(5)
        writer.close()
        return found

    return asyncio.run(story())


@pytest.mark.parametrize("client", [blocking, polling, in_asyncio])
def test_no_way_to_receive_has_to_know_of_another_kind_of_fault(
    client: Callable[[socket.socket], bytes], echo_port: int
) -> None:
    engine = Engine(lambda engine: [SocketInterceptor(engine)])
    experiment = ChaosExperiment("loud", "network_latency", delay=1)
    vars(experiment)["faults"] = (Shout(),)  # nobody can ask for it by a name
    running = engine.start(experiment, seed=1)
    try:
        with socket.create_connection((HOST, echo_port)) as sock:
            assert client(sock) == b"HELLO"
    finally:
        running.stop()


class BusyClock:
    """Of a machine that is busy: time passes whatever is done, between any two looks at it."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.time, self.sleep, self.asleep = clock.time, clock.sleep, clock.asleep
        self._clock = clock

    def monotonic(self) -> float:
        self._clock.advance(0.004)
        return self._clock.monotonic()


@pytest.mark.parametrize("where", [{}, {"after_bytes": 2}], ids=["before it", "in the middle"])
@pytest.mark.parametrize("client", [blocking, polling, in_asyncio])
def test_all_of_a_delay_is_booked_on_a_busy_machine(
    client: Callable[[socket.socket], bytes], where: dict[str, int]
) -> None:
    go_on = threading.Event()

    def late(connection: socket.socket) -> None:
        message = connection.recv(100)
        go_on.wait(0.02 if client is blocking else 0)  # who blocks is late from its arrival on
        connection.sendall(message)

    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=BusyClock())
    with (
        injecting(engine.start)("network_latency", delay=0.05, **where) as latency,
        serve(late) as port,
        socket.create_connection((HOST, port)) as sock,
    ):
        before = latency.delay  # of the connect
        assert client(sock) == b"hello"
        assert latency.delay - before >= 0.05 - 1e-9

"""Each fault of the network, in each direction that it can have."""

from __future__ import annotations

import contextlib
import errno
import json
import queue
import socket
import ssl
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import trustme

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import FaultInjected
from pytest_resilience import NeverFiredError
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.proxy import ChaosProxy
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import hears_nothing
from tests.proxy.conftest import read_all
from tests.proxy.conftest import receive
from tests.proxy.conftest import until


Connect = Callable[[], socket.socket]


class Recorder:
    """A server that notes when what reaches it; it answers with `answer`, or the same."""

    def __init__(self, answer: bytes = b"") -> None:
        self.received: queue.Queue[tuple[float, bytes]] = queue.Queue()
        self.answer = answer

    def __call__(self, connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                self.received.put((time.monotonic(), data))
                connection.sendall(self.answer or data)
        self.received.put((time.monotonic(), b""))

    def next(self) -> bytes:
        return self.next_timed()[1]

    def next_timed(self) -> tuple[float, bytes]:
        return self.received.get(timeout=10)

    def rest(self) -> bytes:
        """All up to the end."""
        return b"".join(iter(self.next, b""))


BODY = b'{"name": "tea", "price": 4}'
HTTP = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def proxy(serve: Serve, recorder: Recorder) -> Iterator[ChaosProxy]:
    with ChaosProxy(("127.0.0.1", serve(recorder)), seed=1) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: ChaosProxy) -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(proxy.address, timeout=10))


@pytest.fixture
def client(connect: Connect, recorder: Recorder) -> socket.socket:
    """A connection that has been used already."""
    client = connect()
    assert ask(client, b"hello") == b"hello"
    assert recorder.next() == b"hello"
    return client


# --- late ---


def test_requests_are_late(proxy: ChaosProxy, client: socket.socket, recorder: Recorder) -> None:
    with proxy.inject("network_latency", delay="30ms", stream="upstream") as latency:
        started = time.monotonic()
        client.sendall(b"ping")
        arrived, data = recorder.next_timed()
        assert (data, arrived - started >= 0.03) == (b"ping", True)
        assert receive(client, 4) == b"ping"
    assert (latency.matched, latency.hits) == (1, 1)
    assert latency.delay >= 0.03


def test_answers_are_late_and_requests_are_not(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder
) -> None:
    with proxy.inject("network_latency", delay="500ms", stream="downstream") as latency:
        client.sendall(b"ping")
        assert recorder.next() == b"ping"
        assert not latency.delay
        assert receive(client, 4) == b"ping"
    assert latency.delay >= 0.5


def test_both_are_late_each_on_its_own(proxy: ChaosProxy, client: socket.socket) -> None:
    events: list[Event] = []
    proxy.engine.listeners.add(events.append)
    with proxy.inject("network_latency", delay="20ms", stream="both", name="far") as latency:
        started = time.monotonic()
        assert ask(client) == b"ping"
        assert time.monotonic() - started >= 0.04
    assert (latency.matched, latency.hits) == (2, 2)
    kinds = [each.kind for each in events if isinstance(each, FaultInjected)]
    assert kinds == ["network.send", "network.receive"]


def test_a_request_in_pieces_is_one_request(proxy: ChaosProxy, client: socket.socket) -> None:
    with proxy.inject("network_latency", delay="300ms", stream="upstream") as latency:
        for _ in range(3):
            client.sendall(b"ping")
        assert receive(client, 12) == b"ping" * 3
    assert latency.matched == 1


@pytest.mark.parametrize("stream", ["downstream", "upstream"])
def test_what_needs_no_answer_does_not_hide_what_comes_after(serve: Serve, stream: Any) -> None:
    """Such as the acknowledgements of HTTP/2: each experiment finds what is sent in its time."""

    def answer(connection: socket.socket) -> None:
        while data := connection.recv(100):
            if data.endswith(b"?"):
                connection.sendall(b"!")

    with (
        ChaosProxy(("127.0.0.1", serve(answer))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        client.sendall(b"noted")
        for _ in range(2):
            with proxy.inject("network_latency", delay="20ms", stream=stream) as latency:
                started = time.monotonic()
                client.sendall(b"well?")
                assert receive(client, 1) == b"!"
                assert time.monotonic() - started >= 0.02
                client.sendall(b"noted")
            assert latency.hits >= 1


def test_more_of_a_late_message_is_late_too(serve: Serve) -> None:
    both = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"a")
        both.wait(10)
        connection.sendall(b"b")

    with (
        ChaosProxy(("127.0.0.1", serve(answer))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject("network_latency", delay="30ms") as latency,
    ):
        client.sendall(b"x")
        assert client.recv(1) == b"a"
        started = time.monotonic()
        both.set()
        assert client.recv(1) == b"b"
        assert time.monotonic() - started >= 0.03
    assert latency.hits == 1


@pytest.mark.parametrize("stream", ["downstream", "upstream"])
def test_delays_differ_as_they_are_told(
    proxy: ChaosProxy, client: socket.socket, stream: Any
) -> None:
    delays: list[float] = []
    proxy.engine.listeners.add(
        lambda event: delays.append(event.delay) if isinstance(event, FaultInjected) else None
    )
    with proxy.inject(
        "network_latency", delay="3ms", jitter="2ms", distribution="uniform", stream=stream
    ):
        for _ in range(12):
            assert ask(client) == b"ping"
    assert len(set(delays)) == 12
    assert all(0.001 <= each <= 0.005 for each in delays)


@pytest.mark.parametrize("stream", ["downstream", "upstream"])
def test_the_end_comes_late(
    proxy: ChaosProxy, recorder: Recorder, connect: Connect, stream: Any
) -> None:
    client = connect()
    assert ask(client) == b"ping"
    recorder.next()
    with proxy.inject("network_latency", mode="slow_close", delay="40ms", stream=stream) as slow:
        started = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        arrived, data = recorder.next_timed()
        assert data == b""
        assert read_all(client) == b""
        heard = time.monotonic()
    late = arrived if stream == "upstream" else heard
    assert late - started >= 0.04
    assert (slow.matched, slow.hits) == (1, 1)


# --- thin ---


@pytest.mark.parametrize("stream", ["downstream", "upstream"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"mode": "bandwidth", "bandwidth": "50kB"},
        {"mode": "dribble", "piece": 100, "delay": "2ms"},
    ],
    ids=["bandwidth", "dribble"],
)
def test_a_thin_line(
    proxy: ChaosProxy, client: socket.socket, stream: Any, parameters: dict[str, Any]
) -> None:
    message = bytes(range(250)) * 10
    with proxy.inject("network_latency", stream=stream, **parameters) as thin:
        started = time.monotonic()
        assert ask(client, message) == message
        assert time.monotonic() - started >= 0.049
    assert (thin.matched, thin.hits) == (1, 1)
    assert thin.delay >= 0.03


def test_what_is_left_of_a_thin_line_comes_at_once_when_it_is_over(
    proxy: ChaosProxy, client: socket.socket
) -> None:
    with proxy.inject("network_latency", mode="dribble", delay="60s"):
        hears_nothing(client)
    assert receive(client, 4) == b"ping"
    assert ask(client) == b"ping"


# --- cut off, damaged ---


def test_half_of_an_answer(serve: Serve) -> None:
    with ChaosProxy(("127.0.0.1", serve(Recorder(HTTP)))) as proxy:
        with (
            socket.create_connection(proxy.address, timeout=10) as client,
            proxy.inject("network_failure", mode="truncate", rate=1) as cut,
        ):
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert read_all(client) == HTTP[: -len(BODY)] + BODY[: len(BODY) // 2]
        assert (cut.matched, cut.hits) == (1, 1)
        with (
            proxy.inject("network_failure", mode="truncate", rate=1),
            pytest.raises(requests.exceptions.ChunkedEncodingError),
        ):
            requests.get(f"http://{proxy.listen}/", timeout=10)
        assert requests.get(f"http://{proxy.listen}/", timeout=10).content == BODY


def test_a_reset_after_so_many_bytes_of_an_answer_that_comes_in_pieces(serve: Serve) -> None:
    def pieces(connection: socket.socket) -> None:
        connection.recv(100)
        for _ in range(10):
            connection.sendall(bytes(100))
        connection.recv(100)

    with (
        ChaosProxy(("127.0.0.1", serve(pieces))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject("network_failure", after_bytes=250, end="reset", rate=1) as cut,
    ):
        client.sendall(b"ping")
        assert len(receive(client, 250)) == 250
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert cut.hits == 1


@pytest.mark.parametrize("stream", ["downstream", "upstream"])
def test_who_is_slow_receives_all_that_comes_before_a_reset(serve: Serve, stream: Any) -> None:
    """What the kernel has of it when its connection is reset would be lost."""
    sent, size, limit = threading.Event(), 3 << 20, 1 << 20
    received: list[int | str] = []

    def give(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(bytes(size))
        sent.set()

    def take(connection: socket.socket) -> None:
        assert sent.wait(10)
        data = 0
        try:
            while piece := connection.recv(65536):
                data += len(piece)
        except OSError as error:
            received.extend([data, type(error).__name__])

    def answer(connection: socket.socket) -> None:
        if stream == "upstream":
            take(connection)
        else:
            connection.recv(100)
            give(connection)
        done.set()

    done = threading.Event()
    with (
        ChaosProxy(("127.0.0.1", serve(answer))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject(
            "network_failure", after_bytes=limit, end="reset", rate=1, stream=stream
        ) as cut,
    ):
        if stream == "upstream":
            give(client)
        else:
            client.sendall(b"ping")
            until(lambda: cut.hits == 1)
            sent.set()
            take(client)
        assert done.wait(10)
    assert received == [limit, "ConnectionResetError"]


def test_half_of_a_request(proxy: ChaosProxy, client: socket.socket, recorder: Recorder) -> None:
    with proxy.inject("network_failure", mode="truncate", rate=1, stream="upstream") as cut:
        client.sendall(b"ping")
        assert recorder.rest() == b"pi"
        assert read_all(client) in (b"", b"pi")  # what the server still says is lost or not
    assert (cut.matched, cut.hits) == (1, 1)


@pytest.mark.parametrize(("stream", "at_the_server"), [("downstream", True), ("upstream", False)])
def test_damaged_bytes(
    proxy: ChaosProxy,
    client: socket.socket,
    recorder: Recorder,
    stream: Any,
    at_the_server: bool,
) -> None:
    message = bytes(1000)
    with proxy.inject(
        "network_failure", mode="corrupt", share=0.05, rate=1, stream=stream
    ) as damage:
        answer = ask(client, message)
    got = recorder.next()
    assert (got == message) is at_the_server
    assert len(answer) == len(message)
    assert 1 <= sum(byte != 0 for byte in answer) <= 200
    assert (damage.matched, damage.hits) == (1, 1)
    assert ask(client, message) == message


def test_the_head_of_an_answer_is_not_damaged(serve: Serve) -> None:
    with (
        ChaosProxy(("127.0.0.1", serve(Recorder(HTTP)))) as proxy,
        proxy.inject("network_failure", mode="corrupt", share=1, rate=1),
    ):
        answer = requests.get(f"http://{proxy.listen}/", timeout=10)
    assert answer.status_code == 200
    assert len(answer.content) == len(BODY)
    assert not set(zip(answer.content, BODY, strict=True)) & set(zip(BODY, BODY, strict=True))


# --- lost ---


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("network_failure", {"mode": "lose_answer"}),
        ("network_failure", {"mode": "truncate"}),
        ("network_failure", {"mode": "corrupt"}),
        ("network_latency", {"mode": "dribble"}),
    ],
    ids=str,
)
def test_what_happens_to_answers_has_not_happened_where_none_came(
    serve: Serve, kind: Any, given: dict[str, Any]
) -> None:
    def keeps_silent(connection: socket.socket) -> None:
        while connection.recv(100):
            pass

    with (
        ChaosProxy(("127.0.0.1", serve(keeps_silent))) as proxy,
        socket.create_connection(proxy.address, timeout=0.05) as client,
        contextlib.ExitStack() as stack,
    ):
        failure = stack.enter_context(proxy.inject(kind, rate=1, **given))
        client.sendall(b"order")
        with pytest.raises(TimeoutError):
            client.recv(1)
        until(lambda: failure.matched == 1)
        with pytest.raises(NeverFiredError, match="Nothing came before the client gave up"):
            stack.close()
    assert failure.hits == 0


def test_an_answer_is_lost_after_the_server_has_given_it(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder
) -> None:
    with proxy.inject("network_failure", mode="lose_answer", rate=1) as lost:
        client.sendall(b"order")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert recorder.rest() == b"order"
    assert (lost.matched, lost.hits) == (1, 1)


def test_nothing_is_left_of_a_client_that_had_sent_its_end(serve: Serve) -> None:
    received = b""

    def answers_at_the_end(connection: socket.socket) -> None:
        nonlocal received
        while data := connection.recv(100):
            received += data
        with contextlib.suppress(ConnectionError):
            connection.sendall(received)

    with (
        ChaosProxy(("127.0.0.1", serve(answers_at_the_end))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject("network_failure", mode="lose_answer", rate=1, nth=1),
    ):
        client.sendall(b"order")
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert received == b"order"
        until(lambda: proxy.connections == 0)


def test_a_request_that_is_reset_never_arrives(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder
) -> None:
    with proxy.inject("network_failure", mode="reset", rate=1, stream="upstream") as lost:
        client.sendall(b"order")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert recorder.rest() == b""
    assert (lost.matched, lost.hits) == (1, 1)
    until(lambda: proxy.connections == 0)


def test_a_peer_that_closes_has_got_the_request(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder
) -> None:
    with proxy.inject("network_failure", mode="close", rate=1) as closed:
        client.sendall(b"order")
        assert client.recv(1) == b""
    assert recorder.rest() == b"order"
    assert closed.hits == 1


def test_a_connection_that_is_closed_as_it_is_used_lets_no_request_through(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder
) -> None:
    assert ask(client) == b"ping"
    assert recorder.next() == b"ping"
    with proxy.inject("network_failure", mode="close", stream="upstream", rate=1) as closed:
        client.sendall(b"order")
        assert client.recv(1) == b""
    assert recorder.rest() == b""
    assert closed.hits == 1


def test_a_service_that_is_down_closes_what_was_kept_and_refuses(
    proxy: ChaosProxy, client: socket.socket
) -> None:
    assert ask(client) == b"ping"
    with proxy.inject("network_failure", mode="down") as down:
        assert client.recv(1) == b""  # at once, though nobody asks for anything
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(proxy.address)
    assert down.hits == 2
    with socket.create_connection(proxy.address, timeout=10) as back:
        assert ask(back) == b"ping"


def test_a_request_that_meets_silence_is_not_there_until_it_is_over(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder
) -> None:
    with proxy.inject("network_failure", mode="timeout", rate=1, stream="upstream") as silence:
        client.sendall(b"order")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert recorder.received.empty()
    client.settimeout(10)
    assert receive(client, 5) == b"order"
    assert (silence.matched, silence.hits) == (1, 1)


# --- in the server's place ---


def test_a_status_in_the_servers_place(serve: Serve) -> None:
    recorder = Recorder(HTTP)
    with ChaosProxy(("127.0.0.1", serve(recorder))) as proxy, requests.Session() as session:
        assert session.get(f"http://{proxy.listen}/", timeout=10).content == BODY
        with proxy.inject(
            "network_failure", mode="status", status=429, retry_after=2, body="busy", rate=1
        ) as busy:
            answer = session.post(f"http://{proxy.listen}/", data=bytes(2**20), timeout=10)
        assert (answer.status_code, answer.text) == (429, "busy")
        assert answer.headers["Retry-After"] == "2"
        assert (busy.matched, busy.hits) == (1, 1)
        assert session.get(f"http://{proxy.listen}/", timeout=10).content == BODY
        until(lambda: proxy.connections == 1)


def test_no_json_in_the_servers_place(serve: Serve) -> None:
    with (
        ChaosProxy(("127.0.0.1", serve(Recorder(HTTP)))) as proxy,
        proxy.inject("network_failure", mode="malformed_json", rate=1),
    ):
        answer = requests.get(f"http://{proxy.listen}/", timeout=10)
        assert answer.ok
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.text)


def test_the_server_hears_the_request_all_the_same(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder
) -> None:
    with proxy.inject("network_failure", mode="status", rate=1):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 503 ")
        client.sendall(b"more")
        client.close()
        assert recorder.rest() == b"GET / HTTP/1.1\r\n\r\nmore"
    until(lambda: proxy.connections == 0)


def test_a_status_instead_of_the_word_to_go_on_is_the_only_one(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder
) -> None:
    with proxy.inject("network_failure", mode="status", rate=1) as status:
        client.sendall(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n")
        client.sendall(b"body")  # of a client that does not wait for it
        assert read_all(client).startswith(b"HTTP/1.1 503 ")
        client.close()
        assert recorder.rest().endswith(b"body")
    assert (status.matched, status.hits) == (1, 1)


def test_nobody_answers_for_another_over_tls(serve: Serve) -> None:
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("tea.example").configure_cert(theirs)
    authority.configure_trust(ours)

    def handle(connection: socket.socket) -> None:
        with theirs.wrap_socket(connection, server_side=True) as wrapped:
            Recorder()(wrapped)

    with (
        ChaosProxy(("127.0.0.1", serve(handle))) as proxy,
        socket.create_connection(proxy.address, timeout=10) as plain,
        pytest.raises(NeverFiredError) as caught,
        proxy.inject("network_failure", mode="status", rate=1),
        ours.wrap_socket(plain, server_hostname="tea.example") as client,
    ):
        assert ask(client) == b"ping"
    assert str(caught.value).endswith(
        f"network.receive {proxy.upstream} (encrypted above the socket)\n  Responses over TLS are "
        "encrypted: to a proxy always, in a loop where the connection was open before the "
        "experiment and not recognized by what it sent: open it within that."
    )


def test_the_word_to_go_on_is_no_answer_yet(serve: Serve) -> None:
    """Lost with it, a request would never have arrived."""
    done: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        done.append(connection.recv(4))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with (
        ChaosProxy(("127.0.0.1", serve(handle))) as proxy,
        proxy.inject("network_failure", mode="lose_answer", nth=1) as lost,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        client.sendall(b"PUT / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        assert (done, lost.matched) == ([b"body"], 1)


class Publisher:
    """Sends what nobody asks for, once it has been asked."""

    def __init__(self) -> None:
        self.more = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(connection.recv(9))
        assert self.more.wait(10)
        connection.sendall(b"news")
        read_all(connection)

    def publish(self, client: socket.socket) -> bytes:
        """What a client hears of it."""
        self.more.set()
        return receive(client, 4)


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


@pytest.fixture
def subscriber(serve: Serve, publisher: Publisher) -> Iterator[tuple[ChaosProxy, socket.socket]]:
    with (
        ChaosProxy(("127.0.0.1", serve(publisher)), seed=1) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        assert ask(client) == b"ping"
        yield proxy, client
        publisher.more.set()


@pytest.mark.parametrize(
    ("given", "heard"),
    [
        ({"mode": "reset"}, errno.ECONNRESET),
        ({"mode": "lose_answer"}, errno.ECONNRESET),
        ({"mode": "truncate"}, b"ne"),
        ({"mode": "timeout"}, None),
    ],
    ids=lambda each: str(each.get("mode")) if isinstance(each, dict) else "",
)
def test_what_begins_in_the_middle_of_an_answer_hits_the_rest_of_it(
    subscriber: tuple[ChaosProxy, socket.socket],
    publisher: Publisher,
    given: dict[str, Any],
    heard: bytes | int | None,
) -> None:
    proxy, client = subscriber
    with proxy.inject("network_failure", rate=1, **given) as fault:
        publisher.more.set()
        until(lambda: fault.hits == 1)
        if isinstance(heard, bytes):
            assert read_all(client) == heard
        elif heard is None:
            client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                client.recv(1)
        else:
            with pytest.raises(OSError, match="reset") as caught:
                client.recv(1)
            assert caught.value.errno == heard


def test_no_status_in_the_middle_of_an_answer(
    subscriber: tuple[ChaosProxy, socket.socket], publisher: Publisher
) -> None:
    proxy, client = subscriber
    with (
        pytest.raises(NeverFiredError) as caught,
        proxy.inject("network_failure", mode="status", rate=1),
    ):
        assert publisher.publish(client) == b"news"
    assert f"network.receive {proxy.upstream} (more of a response)\n" in str(caught.value)


def test_an_experiment_about_others_has_nobody_asked_again(
    serve: Serve, publisher: Publisher
) -> None:
    with (
        ChaosProxy(("127.0.0.1", serve(publisher))) as proxy,
        proxy.inject("network_latency", delay="1ms", rate=1) as latency,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        assert ask(client) == b"ping"
        before = latency.matched
        with proxy.inject("network_failure", mode="reset", target="x:1", must_fire=False):
            assert publisher.publish(client) == b"news"
        assert latency.matched == before


def test_nobody_answers_who_has_not_been_asked(serve: Serve) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 tea.example")
        read_all(connection)

    with (
        ChaosProxy(("127.0.0.1", serve(greet))) as proxy,
        pytest.raises(NeverFiredError) as caught,
        proxy.inject("network_failure", mode="status", rate=1),
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        assert client.recv(100) == b"220 tea.example"
    assert f"network.receive {proxy.upstream} (before any request)\n" in str(caught.value)


# --- partition ---


def test_a_partition_is_both_ways_and_heals_in_order(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder, connect: Connect
) -> None:
    with proxy.inject("network_failure", mode="partition") as partition:
        for part in (b"one,", b"two,", b"three"):
            client.sendall(part)
        new = connect()
        new.sendall(b"new")
        for each in (client, new):
            each.settimeout(0.05)
            with pytest.raises(TimeoutError):
                each.recv(1)
            each.settimeout(10)
        assert recorder.received.empty()
    assert receive(client, 13) == b"one,two,three"
    assert receive(new, 3) == b"new"
    assert partition.hits == partition.matched >= 2


def push(serve: Serve) -> tuple[int, queue.Queue[socket.socket]]:
    """A server that speaks when it likes: its port, and its connections."""
    there: queue.Queue[socket.socket] = queue.Queue()

    def handle(connection: socket.socket) -> None:
        there.put(connection)
        while connection.recv(100):
            pass

    return serve(handle), there


def test_a_partition_holds_back_what_is_no_answer_and_the_end_of_it(serve: Serve) -> None:
    port, there = push(serve)
    with (
        ChaosProxy(("127.0.0.1", port)) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        server = there.get(timeout=10)
        server.sendall(b"news")
        assert receive(client, 4) == b"news"
        with proxy.inject("network_failure", mode="partition") as partition:
            server.sendall(b"more")
            until(lambda: bool(partition.hits))
            server.sendall(b" news")
            server.shutdown(socket.SHUT_WR)
            client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                client.recv(1)
        client.settimeout(10)
        assert read_all(client) == b"more news"
    assert partition.hits == 1


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_a_partition_of_one_direction(
    proxy: ChaosProxy, client: socket.socket, recorder: Recorder, stream: Any
) -> None:
    with proxy.inject("network_failure", mode="partition", stream=stream) as partition:
        client.sendall(b"order")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        if stream == "downstream":
            assert recorder.next() == b"order"
        assert recorder.received.empty()
    client.settimeout(10)
    assert receive(client, 5) == b"order"
    assert partition.hits == 1


# --- together, and in text ---


def test_latency_and_a_thin_line_and_damage_add_up(
    proxy: ChaosProxy, client: socket.socket
) -> None:
    message = bytes(1000)
    with (
        proxy.inject("network_latency", delay="20ms") as latency,
        proxy.inject("network_latency", mode="bandwidth", bandwidth="50kB", name="thin") as thin,
        proxy.inject("network_failure", mode="corrupt", share=1, rate=1) as damage,
    ):
        started = time.monotonic()
        answer = ask(client, message)
        assert time.monotonic() - started >= 0.04
    assert 0 not in answer
    assert (latency.hits, thin.hits, damage.hits) == (1, 1, 1)


def test_an_experiment_in_one_line(proxy: ChaosProxy, client: socket.socket) -> None:
    with proxy.inject("network_latency:delay=1ms,stream=both") as latency:
        assert ask(client) == b"ping"
    assert latency.hits == 2
    experiment = ChaosExperiment("far", "network_latency", delay="1ms")
    with proxy.inject(experiment, stream="upstream") as latency:
        assert ask(client) == b"ping"
    assert latency.hits == 1
    assert latency.experiment == experiment


def test_a_service_where_it_is_reached(serve: Serve) -> None:
    """What its callables would raise is not the wire's business."""
    port = serve(Recorder(HTTP))
    services = Services([Service.at("tea", [f"127.0.0.1:{port}", "shop:tea"])])
    engine = Engine(lambda _: (), services=services)
    with ChaosProxy(("127.0.0.1", port), engine=engine) as proxy:
        with (
            proxy.inject("service_failure", target_services=["tea"], rate=1) as refusal,
            pytest.raises(requests.ConnectionError),
        ):
            requests.get(f"http://{proxy.listen}/", timeout=10)
        with proxy.inject("service_failure", target_services="tea", status=500, rate=1):
            assert requests.get(f"http://{proxy.listen}/", timeout=10).status_code == 500
    assert refusal.hits == 1


def test_one_that_hits_no_request_is_told_what_there_was(
    proxy: ChaosProxy, client: socket.socket
) -> None:
    with (
        pytest.raises(NeverFiredError) as caught,
        proxy.inject("network_latency", delay=1, target="elsewhere:1", stream="upstream"),
    ):
        assert ask(client) == b"ping"
    assert f"network.send {proxy.upstream}" in caught.value.seen


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"mode": "refuse", "stream": "upstream"},
            (
                "experiment 'network_failure': refusal happens to connecting; leave out "
                "stream='upstream'"
            ),
        ),
        (
            {"mode": "lose_answer", "stream": "both"},
            (
                "experiment 'network_failure': lost response happens to responses; leave out "
                "stream='both'"
            ),
        ),
        (
            {"mode": "status", "stream": "upstream"},
            (
                "experiment 'network_failure': status 503 happens to responses; leave out "
                "stream='upstream'"
            ),
        ),
        (
            {"mode": "reset", "stream": "upsteam"},
            "stream='upsteam' (did you mean 'upstream'?): give one of ",
        ),
    ],
)
def test_what_has_no_such_direction(proxy: ChaosProxy, given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        proxy.inject("network_failure", **given)
    assert str(caught.value).startswith(text)

"""Encrypted connections: the same faults, one floor higher."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import socket
import ssl
import sys
import threading
import time
import types

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
import redis.backoff
import redis.retry
import requests
import urllib3

from pytest_resilience import FaultInjected
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.clock import ManualClock
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import met
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent


Client = Callable[[int, Trust, float], None]

PATIENCE = 10.0


def answer(connection: socket.socket) -> None:
    """An HTTP server that keeps connections."""
    while connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def tls_port(trust: Trust) -> Iterator[int]:
    with serve(trust.over_tls(answer)) as port:
        yield port


def with_requests(port: int, trust: Trust, timeout: float) -> None:
    requests.get(f"https://{HOST}:{port}/", timeout=timeout, verify=trust.file)


def with_urllib3(port: int, trust: Trust, timeout: float) -> None:
    with urllib3.PoolManager(ssl_context=trust.client) as pool:
        pool.request("GET", f"https://{HOST}:{port}/", timeout=timeout, retries=False)


def with_httpx(port: int, trust: Trust, timeout: float) -> None:
    with httpx.Client(trust_env=False, timeout=timeout, verify=trust.client) as client:
        client.get(f"https://{HOST}:{port}/")


def with_http_client(port: int, trust: Trust, timeout: float) -> None:
    connection = http.client.HTTPSConnection(HOST, port, timeout=timeout, context=trust.client)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        connection.getresponse().read()


def with_redis(port: int, trust: Trust, timeout: float) -> None:
    with redis.Redis(
        HOST,
        port,
        ssl=True,
        ssl_ca_certs=trust.file,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
    ) as client:
        client.ping()


def with_a_socket(port: int, trust: Trust, timeout: float) -> None:
    with connected(port, trust, timeout) as client:
        client.sendall(b"hello")
        if not client.recv(100):
            # What a reset looks like on Python 3.11.7 (gh-115627), so here too.
            raise EOFError


@contextlib.contextmanager
def connected(port: int, trust: Trust, timeout: float = 5) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((HOST, port), timeout=timeout) as plain,
        trust.client.wrap_socket(plain, server_hostname=HOST) as client,
    ):
        yield client


# Operations, in order: connect, handshake, answer. A connect cannot be reset. The last is the
# timeout: of who hears nothing, and longer if hands have been shaken before.
EVENTS: dict[str, tuple[bool, Handler, dict[str, Any], float]] = {
    "reset while shaking hands": (False, reset, {"mode": "reset"}, PATIENCE),
    "silence while shaking hands": (False, silent, {"mode": "timeout", "from_nth": 2}, 0.05),
    "reset while reading": (True, reset, {"mode": "reset", "from_nth": 2}, PATIENCE),
    "silence while reading": (True, silent, {"mode": "timeout", "from_nth": 3}, 0.2),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    "client",
    [with_requests, with_urllib3, with_httpx, with_http_client, with_redis, with_a_socket],
    ids=lambda client: client.__name__,
)
def test_the_same_exceptions_with_the_same_errno(
    client: Client, event: str, trust: Trust, inject: Inject
) -> None:
    encrypted, happening, parameters, timeout = EVENTS[event]
    with serve(trust.over_tls(happening) if encrypted else happening) as port:
        real = met(lambda: client(port, trust, timeout))
    with (
        serve(trust.over_tls(silent)) as port,
        inject("network_failure", rate=1, **parameters) as active_experiment,
    ):
        injected = met(lambda: client(port, trust, timeout))
    assert injected == real
    assert active_experiment.hits == 1


def state_after_reset(client: ssl.SSLSocket) -> list[str]:
    client.sendall(b"hello")
    return [
        *(outcome(lambda: client.recv(100)) for _ in range(2)),
        outcome(lambda: client.send(b"x")),
        outcome(lambda: client.recv(100)),
        outcome(client.getpeername),
    ]


def test_a_reset_leaves_the_connection_in_the_same_state(
    trust: Trust, tls_port: int, inject: Inject
) -> None:
    with serve(trust.over_tls(reset)) as port, connected(port, trust) as client:
        real = state_after_reset(client)
    with connected(tls_port, trust) as client, inject("network_failure", mode="reset", rate=1):
        assert state_after_reset(client) == real


def test_connect_handshake_and_each_answer_are_delayed(
    trust: Trust, tls_port: int, events: list[FaultInjected], inject: Inject
) -> None:
    with inject("network_latency", delay=0.001), connected(tls_port, trust) as client:
        for _ in range(2):
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            assert client.recv(100)  # the rest of the same answer
    assert [event.kind.removeprefix("network.") for event in events] == [
        "connect",
        "handshake",
        "receive",
        "receive",
    ]


def test_the_delay_is_as_long_as_asked(trust: Trust, tls_port: int) -> None:
    clock = ManualClock()
    engine = Engine(lambda engine: [SocketInterceptor(engine)], clock=clock)
    active_experiment = engine.start(ChaosExperiment("x", "network_latency", delay=0.04), seed=1)
    with connected(tls_port, trust):
        assert clock.sleeps == [0.04, 0.04]  # connecting and shaking hands
    active_experiment.stop()


def test_what_a_test_does_to_the_import_of_ssl_stays_its_own(
    trust: Trust, tls_port: int, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may see how its code is without it; who had it before has it still."""
    with inject("network_latency", delay=0.001) as latency, connected(tls_port, trust):
        hits = latency.hits
    for module in (None, types.ModuleType("ssl")):  # not to be loaded; and a stub
        monkeypatch.setitem(sys.modules, "ssl", module)
        with inject("network_latency", delay=0.001) as latency, connected(tls_port, trust):
            assert latency.hits == hits
        assert sys.modules["ssl"] is module
    monkeypatch.delitem(sys.modules, "ssl")
    with inject("network_latency", delay=0.001):
        assert "ssl" not in sys.modules


def test_an_answer_held_back_is_not_there_yet_where_ssl_cannot_be_loaded(
    trust: Trust, tls_port: int, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(tls_port, trust) as client, inject("network_latency", delay=30):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.setblocking(False)
        monkeypatch.setitem(sys.modules, "ssl", None)
        with pytest.raises(ssl.SSLWantReadError):
            client.recv(100)


def test_an_ssl_that_a_test_loads_for_itself_is_met_too(
    trust: Trust, tls_port: int, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ssl")
    another: Any = importlib.import_module("ssl")
    assert another is not ssl
    context = another.create_default_context(cafile=trust.file)
    with inject("network_latency", delay=0.001) as latency:
        with socket.create_connection((HOST, tls_port), timeout=5) as plain:
            connecting = latency.hits
            context.wrap_socket(plain, server_hostname=HOST).close()
        assert latency.hits == connecting + 1  # the handshake


def test_a_python_without_ssl_has_its_faults_all_the_same(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys

        assert "ssl" not in sys.modules
        sys.modules["ssl"] = sys.modules["_ssl"] = None
        """
    )
    pytester.makepyfile(
        """
        import socket

        import pytest

        @pytest.mark.chaos("network_failure", mode="refuse", rate=1)
        def test_refused():
            with socket.socket() as client, pytest.raises(ConnectionRefusedError):
                client.connect(("127.0.0.1", 9))
            assert __import__("sys").modules["ssl"] is None
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)


def test_a_handshake_that_takes_too_long_times_out(
    trust: Trust, tls_port: int, inject: Inject
) -> None:
    with (
        socket.create_connection((HOST, tls_port), timeout=0.05) as plain,
        inject("network_latency", delay=30) as latency,
        pytest.raises(TimeoutError, match="The handshake operation timed out"),
    ):
        trust.client.wrap_socket(plain, server_hostname=HOST)
    assert latency.delay < 1


def test_a_handshake_leaves_the_timeout_as_it_was(
    trust: Trust, tls_port: int, inject: Inject
) -> None:
    with inject("network_latency", delay=0.001), connected(tls_port, trust) as client:
        assert client.gettimeout() == 5


def test_an_answer_that_takes_too_long_times_out(
    trust: Trust, tls_port: int, inject: Inject
) -> None:
    with connected(tls_port, trust) as client, inject("network_latency", delay=30):
        client.settimeout(0.05)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(TimeoutError, match=r"^The read operation timed out$"):
            client.recv(100)


def test_the_pool_of_a_client_recovers(trust: Trust, tls_port: int, inject: Inject) -> None:
    with httpx.Client(
        verify=trust.client, base_url=f"https://{HOST}:{tls_port}", trust_env=False
    ) as client:
        assert client.get("/").text == "ok"
        with (
            inject("network_failure", mode="reset", rate=1, first=1),
            pytest.raises(httpx.TransportError),
        ):
            client.get("/")
        assert client.get("/").text == "ok"


def test_the_mark_of_a_connection_follows_its_descriptor(
    trust: Trust, tls_port: int, inject: Inject
) -> None:
    """`wrap_socket` moves it to another object; what it was opened by stays known."""
    with inject("network_failure", mode="reset", rate=1, target="localhost") as failure:
        plain = socket.create_connection(("localhost", tls_port), timeout=5)
        with plain, pytest.raises(ConnectionResetError):
            trust.client.wrap_socket(plain, server_hostname="localhost")
    assert failure.hits == 1


def test_servers_in_the_same_process_are_left_alone(
    trust: Trust, tls_port: int, events: list[FaultInjected], inject: Inject
) -> None:
    with inject("network_latency", delay=0.001) as latency:
        threads = [
            threading.Thread(target=with_http_client, args=(tls_port, trust, PATIENCE))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert latency.matched == 4 * 3
    assert {event.target for event in events} == {f"{HOST}:{tls_port}"}


@contextlib.contextmanager
def answered_late(trust: Trust, go_on: threading.Event) -> Iterator[ssl.SSLSocket]:
    """A client that has shaken hands with a server that answers when it is told to."""

    def answer(connection: socket.socket) -> None:
        while message := connection.recv(100):
            go_on.wait(10)
            connection.sendall(message)

    with (
        serve(trust.over_tls(answer)) as port,
        socket.create_connection((HOST, port), 10) as sock,
        trust.client.wrap_socket(sock, server_hostname=HOST) as client,
    ):
        yield client


def test_tickets_are_no_answer(trust: Trust, inject: Inject) -> None:
    """In TLS 1.3 a server gives them before its first answer, which the delay comes on top of."""
    go_on = threading.Event()

    def answer_takes_longer(client: ssl.SSLSocket) -> bool:
        came = 0.0

        def later() -> None:
            nonlocal came
            came = time.monotonic()
            go_on.set()

        go_on.clear()
        client.sendall(b"hello")
        timer = threading.Timer(0.15, later)
        timer.start()
        assert client.recv(100) == b"hello"
        timer.join()
        return time.monotonic() - came >= 0.1

    with answered_late(trust, go_on) as client, inject("network_latency", delay=0.1) as latency:
        assert answer_takes_longer(client)
    assert latency.hits == 1
    with inject("network_latency", delay=0.1) as latency, answered_late(trust, go_on) as client:
        assert answer_takes_longer(client)
    assert latency.hits == 3


def test_what_was_received_to_know_it_is_not_lost(trust: Trust, inject: Inject) -> None:
    """The socket's timeout is over before it may be heard."""
    go_on = threading.Event()
    go_on.set()
    with answered_late(trust, go_on) as client:
        client.settimeout(0.1)
        with inject("network_latency", delay=2 * PATIENCE):
            client.sendall(b"hello")
            with pytest.raises(TimeoutError, match="The read operation timed out"):
                client.recv(100)
            with pytest.raises(TimeoutError):
                client.recv(100)
        client.settimeout(PATIENCE)
        assert client.recv(2) == b"he"
        assert client.recv(100) == b"llo"


@pytest.mark.parametrize(
    ("mode", "heard"),
    [
        ("truncate", "b'abcd'"),
        ("lose_answer", ""),
        ("reset", ""),
        ("close", ""),
        ("status", "b'HTTP/1.1 503"),
    ],
)
def test_the_first_answer_above_tickets_fails_as_the_others(
    trust: Trust, inject: Inject, mode: str, heard: str
) -> None:
    go_on = threading.Event()
    go_on.set()

    def found(client: ssl.SSLSocket) -> str:
        with inject("network_failure", mode=mode, rate=1):
            client.sendall(b"GET / HTTP/1.1\r\n\r\n" if mode == "status" else b"abcdefgh")
            return outcome(lambda: client.recv(100))

    with answered_late(trust, go_on) as client:
        first = found(client)
    with answered_late(trust, go_on) as client:
        client.sendall(b"calm")
        assert client.recv(100) == b"calm"
        assert first == found(client)
    assert first.startswith(heard)

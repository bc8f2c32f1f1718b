"""A proxy of UDP, between a client and a server that are sockets of their own."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.proxy import ChaosProxy


HOST = "127.0.0.1"
PATIENCE = 20.0  # seconds
SHORT = 0.05  # seconds, where nothing comes


class Echo:
    """A server that answers each datagram with the same, and notes it."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.bind((HOST if family == socket.AF_INET else "::1", 0))
        self.address: tuple[str, int] = self.sock.getsockname()[:2]
        self.received: list[bytes] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            data, client = self.sock.recvfrom(65535)
            if data == b"end":
                return
            self.received.append(data)
            self.sock.sendto(data, client)

    def close(self) -> None:
        with socket.socket(self.sock.family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", self.address)
        self.thread.join(PATIENCE)
        self.sock.close()


@pytest.fixture
def server() -> Iterator[Echo]:
    with closing(Echo()) as server:
        yield server


@pytest.fixture
def proxy(server: Echo) -> Iterator[ChaosProxy]:
    with ChaosProxy(server.address, protocol="udp", seed=1) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: ChaosProxy) -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(proxy.address)
        sock.settimeout(PATIENCE)
        yield sock


def until(condition: Callable[[], object]) -> None:
    """Give the proxy's thread its turns until this is so."""
    while not condition():
        time.sleep(0)


def received(client: socket.socket, count: int) -> list[bytes]:
    """So many datagrams, and no more."""
    client.settimeout(PATIENCE)
    found = [client.recv(65535) for _ in range(count)]
    client.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        client.recv(1)
    return found


def test_it_leads_to_the_server(proxy: ChaosProxy, client: socket.socket, server: Echo) -> None:
    big = bytes(range(256)) * 200
    client.send(big)
    assert received(client, 1) == [big]
    assert (proxy.accepted, proxy.connections) == (1, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.settimeout(PATIENCE)
        other.sendto(b"other", proxy.address)
        assert other.recvfrom(10) == (b"other", proxy.address)
    assert proxy.accepted == 2
    assert server.received == [big, b"other"]


def test_ipv6() -> None:
    with (
        closing(Echo(socket.AF_INET6)) as server,
        ChaosProxy(server.address, ("::1", 0), protocol="udp") as proxy,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client,
    ):
        client.connect(proxy.address)
        client.send(b"one")
        assert received(client, 1) == [b"one"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode": "drop", "nth": 1}, "23 23"),
        ({"mode": "drop", "stream": "upstream", "nth": 1}, "23 23"),
        ({"mode": "drop", "stream": "downstream", "nth": 1}, "123 23"),
        ({"mode": "duplicate", "stream": "upstream", "nth": 2}, "1223 1223"),
        ({"mode": "duplicate", "stream": "downstream", "nth": 2}, "123 1223"),
        ({"mode": "reorder", "stream": "upstream", "nth": 1}, "213 213"),
        ({"mode": "reorder", "stream": "downstream", "nth": 2}, "123 132"),
    ],
)
def test_faults(
    proxy: ChaosProxy, client: socket.socket, server: Echo, given: dict[str, Any], expected: str
) -> None:
    """`expected`: what arrives at the server, and at the client."""
    arrived, answers = expected.split()
    with proxy.inject("network_failure", **given) as failure:
        for each in (b"1", b"2", b"3"):
            client.send(each)
        assert b"".join(received(client, len(answers))).decode() == answers
    assert failure.hits == 1
    assert b"".join(server.received).decode() == arrived


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_late(proxy: ChaosProxy, client: socket.socket, stream: Any) -> None:
    with proxy.inject("network_latency", delay="150ms", stream=stream) as latency:
        client.send(b"one")
        client.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            client.recv(10)
        assert received(client, 1) == [b"one"]
    assert latency.hits == 1
    assert latency.delay == pytest.approx(0.15)


def test_what_is_late_arrives_when_it_is_over(proxy: ChaosProxy, client: socket.socket) -> None:
    with proxy.inject("network_latency", delay="1h", duration="2h", stream="upstream") as latency:
        client.send(b"one")
        until(lambda: latency.hits)
    assert received(client, 1) == [b"one"]


def test_silence_and_partition(proxy: ChaosProxy, client: socket.socket, server: Echo) -> None:
    mode: Any
    for mode in ("timeout", "partition"):
        with proxy.inject("network_failure", mode=mode) as failure:
            client.send(mode.encode())
            until(lambda failure=failure: failure.hits)  # type: ignore[misc]
            assert received(client, 0) == []
        assert server.received == [b"timeout"]
    client.send(b"after")
    assert received(client, 1) == [b"after"]


def test_all_are_refused_for_real(proxy: ChaosProxy, client: socket.socket) -> None:
    client.send(b"before")
    assert received(client, 1) == [b"before"]
    client.settimeout(PATIENCE)
    with proxy.inject("network_failure", mode="refuse") as refusal:
        client.send(b"one")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.connect(proxy.address)
            other.send(b"one")
            with pytest.raises(ConnectionRefusedError):
                other.recv(10)
    assert refusal.hits == 1
    client.send(b"after")
    assert received(client, 1) == [b"after"]


def test_some_are_refused_in_silence(proxy: ChaosProxy, client: socket.socket) -> None:
    with proxy.inject("network_failure", mode="refuse", nth=1):
        client.send(b"one")
        client.send(b"two")
        assert received(client, 1) == [b"two"]


def test_it_is_disabled_and_moved(proxy: ChaosProxy, client: socket.socket) -> None:
    with proxy.down():
        client.send(b"one")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
    with closing(Echo()) as other:
        proxy.move(upstream=other.address)
        client.send(b"two")
        assert received(client, 1) == [b"two"]
        assert other.received == [b"two"]


def test_a_server_that_is_not_there_yet(proxy: ChaosProxy) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        gone = sock.getsockname()
    with (
        ChaosProxy(gone, protocol="udp") as early,
        socket.socket(type=socket.SOCK_DGRAM) as client,
        socket.socket(type=socket.SOCK_DGRAM) as server,
    ):
        client.connect(early.address)
        client.send(b"one")
        until(lambda: early.unreachable)
        assert isinstance(early.unreachable, ConnectionRefusedError)
        server.bind(gone)
        server.settimeout(PATIENCE)
        client.send(b"two")
        assert server.recv(10) == b"two"


def test_another_process(proxy: ChaosProxy) -> None:
    ask = (
        "import socket, sys\n"
        "sock = socket.socket(type=socket.SOCK_DGRAM)\n"
        "sock.connect(('127.0.0.1', int(sys.argv[1])))\n"
        "sock.settimeout(0.05)\n"
        "sock.send(b'one')\n"
        "try: print(sock.recv(10))\n"
        "except TimeoutError: sock.settimeout(20); sock.send(b'two'); print(sock.recv(10))\n"
    )
    with proxy.inject("network_failure", mode="drop", nth=1):
        done = subprocess.run(
            [sys.executable, "-c", ask, str(proxy.port)],
            capture_output=True,
            check=True,
            timeout=60,
        )
    assert done.stdout == b"b'two'\n"


def test_pycares(server: Echo, proxy: ChaosProxy) -> None:
    import pycares

    errors: list[int | None] = []
    with (
        closing(
            pycares.Channel(servers=[proxy.host], udp_port=proxy.port, timeout=0.1, tries=1)
        ) as channel,
        proxy.inject("network_failure", mode="timeout") as failure,
    ):
        channel.query(
            "a.test", pycares.QUERY_TYPE_A, callback=lambda _, error: errors.append(error)
        )
        channel.wait()
    assert errors == [pycares.errno.ARES_ETIMEOUT]
    assert failure.hits == 1
    assert len(server.received) == 1


def test_target_and_trigger(proxy: ChaosProxy, client: socket.socket) -> None:
    def ask(**given: Any) -> None:
        with proxy.inject(**given):
            client.send(b"one")
            assert received(client, 1) == [b"one"]

    with pytest.raises(NeverFiredError, match=r"1 network\.receive_datagram"):
        ask(experiment="network_latency", nth=9)
    with pytest.raises(NeverFiredError, match=r"(?s)network\.send_datagram.*Correct the target"):
        ask(experiment="network_failure", mode="drop", target="elsewhere:1")


def injected(server: Echo, protocol: str, **given: Any) -> None:
    with ChaosProxy(server.address, protocol=protocol) as proxy:
        proxy.inject("network_failure", **given)


def with_toxic(server: Echo) -> None:
    with ChaosProxy(server.address, protocol="udp") as proxy:
        proxy.add("latency", latency=100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda server: ChaosProxy(server.address, protocol="sctp"),
            "protocol='sctp': give 'tcp' or 'udp'",
        ),
        (
            lambda server: ChaosProxy(server.address, protocol=["udp"]),  # type: ignore[arg-type]
            r"protocol=\['udp'\]: give 'tcp' or 'udp'",
        ),
        (
            lambda server: injected(server, "udp", mode="reset"),
            "reset cannot happen over UDP, which this proxy speaks; make it with protocol='tcp'",
        ),
        (
            lambda server: injected(server, "tcp", mode="drop"),
            "loss cannot happen over TCP, which this proxy speaks; make it with protocol='udp'",
        ),
        (
            with_toxic,
            "toxic 'latency_downstream' is for the bytes of connections, which UDP has none of",
        ),
    ],
)
def test_what_makes_no_sense(server: Echo, make: Callable[[Echo], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(server)


def test_a_port_that_is_taken(server: Echo) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot listen on {HOST}:{server.address[1]}"):
        ChaosProxy("127.0.0.1:9", server.address, protocol="udp")

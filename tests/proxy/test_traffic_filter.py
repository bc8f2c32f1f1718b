"""Faults of some requests of HTTP, of a client behind a proxy."""

from __future__ import annotations

import http.client
import socket

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience import NeverFiredError
from pytest_resilience.proxy import ChaosProxy
from tests.proxy.conftest import Serve
from tests.proxy.conftest import receive


def answering(connection: socket.socket) -> None:
    """Answer each request of HTTP, on a connection that is kept."""
    with connection.makefile("rb") as requests:
        while line := requests.readline():
            length = 0
            while (header := requests.readline()) != b"\r\n":
                if header.lower().startswith(b"content-length:"):
                    length = int(header.partition(b":")[2])
            requests.read(length)
            answer = line.split()[1]
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
            connection.sendall(head + answer)


@pytest.fixture
def proxy(serve: Serve) -> Iterator[ChaosProxy]:
    with ChaosProxy(("127.0.0.1", serve(answering))) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: ChaosProxy) -> Iterator[http.client.HTTPConnection]:
    host, port = proxy.address
    connection = http.client.HTTPConnection(host, port, timeout=10)
    yield connection
    connection.close()


def ask(client: http.client.HTTPConnection, method: str, path: str, **headers: str) -> Any:
    """The status, or the name of what is raised."""
    try:
        client.request(method, path, b"x" if method == "POST" else None, headers)
        response = client.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        client.close()
        return type(error).__name__
    assert response.status != 200 or body.decode() == path
    return response.status


@pytest.mark.parametrize(
    ("chosen", "hit"),
    [({"method": "POST"}, {1}), ({"path": "/v1/*"}, {0, 1}), ({"header": "x-tenant: a*"}, {2})],
)
@pytest.mark.parametrize(
    "fault",
    [
        ({"status": 503}, 503),
        ({"mode": "reset"}, "ConnectionResetError"),
        ({"mode": "lose_answer"}, "ConnectionResetError"),
        ({"mode": "truncate"}, "IncompleteRead"),
    ],
    ids=["status", "reset", "lose_answer", "truncate"],
)
def test_only_the_requests_that_are_meant(
    proxy: ChaosProxy,
    client: http.client.HTTPConnection,
    chosen: dict[str, Any],
    hit: set[int],
    fault: tuple[dict[str, Any], object],
) -> None:
    given, met = fault
    with proxy.inject("network_failure", **given, **chosen) as failure:
        found = [
            ask(client, "GET", "/v1/payments"),
            ask(client, "POST", "/v1/payments"),
            ask(client, "GET", "/health", **{"X-Tenant": "acme"}),
        ]
    assert found == [met if at in hit else 200 for at in range(3)]
    assert failure.hits == len(hit)


def test_only_the_requests_that_are_meant_are_late(
    proxy: ChaosProxy, client: http.client.HTTPConnection
) -> None:
    with proxy.inject("network_latency", delay="20ms", path="/v1/*") as latency:
        assert ask(client, "GET", "/health") == 200
        assert (latency.matched, latency.delay) == (0, 0)
        assert ask(client, "GET", "/v1/payments") == 200
    assert latency.hits == 1
    assert latency.delay >= 0.02


def test_requests_are_damaged_on_their_way(
    proxy: ChaosProxy, client: http.client.HTTPConnection
) -> None:
    with proxy.inject(
        "network_failure", mode="reset", method="POST", path="/v1/*", stream="upstream"
    ) as failure:
        assert ask(client, "POST", "/health") == 200
        assert isinstance(ask(client, "POST", "/v1/payments"), str)
    assert failure.hits == 1


def test_a_head_that_comes_in_pieces_is_one_request(proxy: ChaosProxy) -> None:
    with (
        proxy.inject("network_failure", status=503, path="/v1/*") as failure,
        socket.create_connection(proxy.address, timeout=10) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (b"GET /v1", b"/payments HTTP/1.1\r\nHost: api\r\n", b"\r\n"):
            sock.sendall(piece)
        assert receive(sock, 12) == b"HTTP/1.1 503"
    assert failure.hits == 1


def test_what_was_asked_instead_is_told(
    proxy: ChaosProxy, client: http.client.HTTPConnection
) -> None:
    with (
        pytest.raises(NeverFiredError) as caught,
        proxy.inject("network_failure", mode="reset", method="DELETE"),
    ):
        ask(client, "GET", "/health")
    assert caught.value.seen[-1].endswith(" GET /health (not method DELETE)")


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"PING\r\n", "no request of HTTP that is seen"),
        (b"\x16\x03\x01\x00\x05hello", "encrypted above the socket"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
    ],
)
def test_what_cannot_be_seen_is_told(serve: Serve, sent: bytes, why: str) -> None:
    def echo(connection: socket.socket) -> None:
        while data := connection.recv(100):
            connection.sendall(data)

    def exchange(proxy: ChaosProxy) -> None:
        with (
            proxy.inject("network_failure", mode="reset", method="GET"),
            socket.create_connection(proxy.address, timeout=10) as sock,
        ):
            sock.sendall(sent)
            assert receive(sock, len(sent)) == sent

    with (
        ChaosProxy(("127.0.0.1", serve(echo))) as proxy,
        pytest.raises(NeverFiredError) as caught,
    ):
        exchange(proxy)
    assert caught.value.seen[-1].endswith(f"({why})")

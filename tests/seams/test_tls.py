"""Encrypted connections: the same faults, one floor higher."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

from collections.abc import Callable
from collections.abc import Iterator

import httpx
import pytest
import trustme

from pytest_resilience.chaos.activation import Activation
from tests.seams.conftest import serve


Inject = Callable[..., contextlib.AbstractContextManager[Activation]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_port(authority: trustme.CA) -> Iterator[int]:
    """Answers every request with two bytes, over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            while wrapped.recv(65536):
                wrapped.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with serve(answer) as port:
        yield port


@pytest.fixture
def client(authority: trustme.CA, tls_port: int) -> Iterator[httpx.Client]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    url = f"https://localhost:{tls_port}"
    with httpx.Client(verify=context, base_url=url, trust_env=False) as client:
        assert client.get("/").text == "ok"
        yield client


def test_each_answer_is_delayed_once(client: httpx.Client, inject: Inject) -> None:
    with inject("network_latency", delay=0.03) as latency:
        started = time.monotonic()
        assert client.get("/").text == "ok"
        assert time.monotonic() - started >= 0.03
    assert latency.matched == 1


def test_the_clients_timeout_fires(client: httpx.Client, inject: Inject) -> None:
    with inject("network_latency", delay=30), pytest.raises(httpx.ReadTimeout):
        client.get("/", timeout=0.05)


def test_the_connection_is_reset(client: httpx.Client, inject: Inject) -> None:
    with (
        inject("network_failure", mode="reset", rate=1),
        pytest.raises(httpx.ReadError, match="Connection reset by peer"),
    ):
        client.get("/")
    assert client.get("/").text == "ok"  # over a new one


def test_the_mark_of_a_connection_follows_its_descriptor(
    authority: trustme.CA, tls_port: int, inject: Inject
) -> None:
    """`wrap_socket` moves it to another object; what it was opened by stays known."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with inject("network_failure", mode="reset", rate=1, target="localhost") as failure:
        plain = socket.create_connection(("localhost", tls_port), timeout=5)
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                client.recv(100)
    assert failure.hits == 1

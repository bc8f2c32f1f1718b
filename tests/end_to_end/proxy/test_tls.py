"""TLS passes through: the proxy delays, damages and cuts off what it cannot read."""

from __future__ import annotations

import socket
import ssl
import time

from collections.abc import Iterator

import pytest
import trustme

from pytest_resilience.proxy import ChaosProxy
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(serve: Serve, authority: trustme.CA) -> Iterator[ChaosProxy]:
    """To a server that echoes over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("echo.example").configure_cert(context)

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            echo(wrapped)

    with ChaosProxy(("127.0.0.1", serve(handle)), seed=1) as proxy:
        yield proxy


def connect(proxy: ChaosProxy, authority: trustme.CA) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    plain = socket.create_connection(proxy.address, timeout=10)
    return context.wrap_socket(plain, server_hostname="echo.example")


def test_a_handshake_is_a_round_trip_of_its_own(secure: ChaosProxy, authority: trustme.CA) -> None:
    with secure.inject("network_latency", delay="20ms") as latency:
        started = time.monotonic()
        with connect(secure, authority) as client:
            assert ask(client) == b"ping"
        assert time.monotonic() - started >= 0.06
    assert latency.hits >= 3


def test_corrupted_bytes_are_found_out(secure: ChaosProxy, authority: trustme.CA) -> None:
    with connect(secure, authority) as client:
        assert ask(client) == b"ping"
        with secure.having("corrupt", share=1), pytest.raises(ssl.SSLError):
            ask(client)


def test_half_a_record_cannot_be_read_at_all(secure: ChaosProxy, authority: trustme.CA) -> None:
    with connect(secure, authority) as client:
        assert ask(client) == b"ping"
        with secure.having("truncate"):
            assert ask(client) == b""

"""Servers on loopback, a proxy to each, and clients that keep still until they are asked."""

from __future__ import annotations

import contextlib
import socket
import threading

from collections.abc import Callable
from collections.abc import Iterator

import pytest

from pytest_resilience.proxy import ChaosProxy
from pytest_resilience.proxy import ControlServer
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import serve as serving


Serve = Callable[[Handler], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give each connection to a handler, in a thread of its own; gives the port."""
    with contextlib.ExitStack() as servers:
        yield lambda handler: servers.enter_context(serving(handler))


def whole_response(control: ControlServer, request: bytes) -> bytes:
    """The whole response to a request, after which nothing more is sent."""
    with socket.create_connection(control.address, timeout=30) as client:
        with contextlib.suppress(OSError):  # it may be answered before it is all sent
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        response = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                response += piece
        return response


def echo(connection: socket.socket) -> None:
    """Answer with what was received."""
    while data := connection.recv(65536):
        connection.sendall(data)


@pytest.fixture
def proxy(serve: Serve) -> Iterator[ChaosProxy]:
    """To a server that echoes."""
    with ChaosProxy(("127.0.0.1", serve(echo)), seed=1) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: ChaosProxy) -> Iterator[Callable[[], socket.socket]]:
    """Connects to `proxy`."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(proxy.address, timeout=10))


def ask(client: socket.socket, request: bytes = b"ping") -> bytes:
    """Send a request and receive as many bytes."""
    client.sendall(request)
    return receive(client, len(request))


def hears_nothing(client: socket.socket) -> None:
    """Send a request, to which no response comes for now."""
    client.sendall(b"ping")
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)


def receive(client: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer at the end."""
    data = bytearray()
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return bytes(data)


def read_all(client: socket.socket) -> bytes:
    """Everything up to the end."""
    return receive(client, 2**30)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for what another thread is about to bring about."""
    ticks = threading.Event()
    for _ in range(int(seconds * 1000)):
        if condition():
            return
        ticks.wait(0.001)
    pytest.fail("it did not come about")

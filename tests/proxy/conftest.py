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


Handler = Callable[[socket.socket], None]
Serve = Callable[[Handler], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give each connection to a handler, in a thread of its own; gives the port."""
    listeners: list[socket.socket] = []
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def handle(handler: Handler, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            handler(connection)

    def accept(listener: socket.socket, handler: Handler) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_sockets.append(connection)
                start(lambda each=connection: handle(handler, each))  # type: ignore[misc]

    def start(target: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=target, daemon=True))
        threads[-1].start()

    def begin(handler: Handler) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        start(lambda: accept(listener, handler))
        return int(listener.getsockname()[1])

    yield begin
    for each in (*listeners, *open_sockets):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
        each.close()
    for thread in threads:
        thread.join(10)


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

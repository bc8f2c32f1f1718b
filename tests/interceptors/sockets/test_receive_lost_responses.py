"""Something is lost of a response only where there was one: a server that ends the connection
without any is the real event, and no fault.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl

from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve


# What it does with a port, with TLS or without.
Client = Callable[[int, ssl.SSLContext | None], Any]


def connected(port: int, tls: ssl.SSLContext | None) -> socket.socket:
    sock = socket.create_connection((HOST, port), timeout=10)
    return sock if tls is None else tls.wrap_socket(sock, server_hostname=HOST)


def blocking(port: int, tls: ssl.SSLContext | None) -> bytes:
    with connected(port, tls) as sock:
        sock.sendall(b"order")
        return sock.recv(100)


def polling(port: int, tls: ssl.SSLContext | None) -> bytes:
    with connected(port, tls) as sock:
        sock.sendall(b"order")
        sock.setblocking(False)
        while True:
            try:
                return sock.recv(100)
            except (BlockingIOError, ssl.SSLWantReadError):
                assert select.select([sock], [], [], 10)[0]


def in_asyncio(port: int, tls: ssl.SSLContext | None) -> bytes:
    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(HOST, port, ssl=tls)
        writer.write(b"order")
        try:
            return await asyncio.wait_for(reader.read(100), 10)
        finally:
            writer.transport.abort()

    return asyncio.run(ask())


def in_trio(port: int, tls: ssl.SSLContext | None) -> bytes:
    async def ask() -> bytes:
        opened: trio.abc.Stream = await trio.open_tcp_stream(HOST, port)
        if tls is not None:
            opened = trio.SSLStream(opened, tls, server_hostname=HOST)
        with trio.fail_after(10):
            async with opened as stream:
                await stream.send_all(b"order")
                return bytes(await stream.receive_some(100))

    try:
        return trio.run(ask)
    except trio.BrokenResourceError as error:
        raise error.__cause__ or error from None


def closes(connection: socket.socket) -> None:
    connection.recv(100)


def says_goodbye(connection: socket.socket) -> None:
    connection.recv(100)
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()


def responds(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"done")


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    """Of its own: clients and servers of HTTP/2 leave in a context that it is spoken."""
    return Trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture(params=[blocking, polling, in_asyncio, in_trio])
def client(request: pytest.FixtureRequest) -> Client:
    found: Client = request.param
    return found


@pytest.fixture(params=["plain", "TLS 1.2", "TLS 1.3"])
def tls(request: pytest.FixtureRequest, trust: Trust) -> ssl.SSLContext | None:
    if request.param == "plain":
        return None
    return trust.client_without_tickets if request.param == "TLS 1.2" else trust.client


@pytest.fixture
def over(tls: ssl.SSLContext | None, trust: Trust) -> Callable[[Handler], Handler]:
    return (lambda handler: handler) if tls is None else trust.over_tls


@pytest.mark.parametrize("handler", [closes, says_goodbye, reset])
def test_where_no_response_came_nothing_of_it_is_lost(
    client: Client,
    tls: ssl.SSLContext | None,
    over: Callable[[Handler], Handler],
    handler: Handler,
    inject: Inject,
) -> None:
    with serve(over(handler)) as port:
        real = outcome(lambda: client(port, tls))
        for mode in ("lose_answer", "truncate", "corrupt", "drop_message"):
            with inject("network_failure", mode=mode, rate=1) as failure:
                assert outcome(lambda: client(port, tls)) == real
                assert (failure.hits, failure.proves_nothing) == (0, True)


def test_one_that_came_is_lost_as_by_a_reset(
    client: Client,
    tls: ssl.SSLContext | None,
    over: Callable[[Handler], Handler],
    inject: Inject,
) -> None:
    with serve(over(reset)) as port:
        real = outcome(lambda: client(port, tls))  # which is the end, with TLS in a socket
    with serve(over(responds)) as port:
        assert client(port, tls) == b"done"
        with inject("network_failure", mode="lose_answer", rate=1) as failure:
            assert outcome(lambda: client(port, tls)) == real
            assert failure.hits == 1

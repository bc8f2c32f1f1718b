"""What is asked decides what of the peer's words is an answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from pathlib import Path
from typing import Any

import pytest
import requests

from pytest_resilience.chaos.operation import BODILESS
from pytest_resilience.chaos.operation import EXPECTANT
from pytest_resilience.chaos.operation import FRAMED
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.sockets.wire_format import kind_of
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import serve


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PUT = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"HEAD / HTTP/1.1\r\n\r\n", BODILESS),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FRAMED),
        (PUT, EXPECTANT),
        (PUT + b"body", ""),
        (b"GET / HTTP/1.1\r\n\r\n", ""),
        (b"", ""),
    ],
)
def test_kinds(message: bytes, kind: str) -> None:
    assert kind_of(message) == kind


def test_an_answer_is_lost_once_it_is_there_and_not_before(inject: Inject) -> None:
    """The server says that the client may go on; that is not the answer to what it does."""
    done = threading.Event()

    def store(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.recv(100) == b"body"
        done.set()
        connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        connection.recv(100)

    with (
        serve(store) as port,
        inject("network_failure", mode="lose_answer", rate=1, first=1) as lost,
        socket.create_connection((HOST, port), timeout=10) as client,
    ):
        client.sendall(PUT)
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        with pytest.raises(ConnectionResetError):
            client.recv(1000)
    assert done.is_set()
    assert (lost.matched, lost.hits) == (1, 1)


@pytest.mark.parametrize("mode", ["truncate", "corrupt"])
def test_what_has_no_body_is_no_hit(mode: str, inject: Inject) -> None:
    """A redirect, an answer to HEAD, and one with a body: that is the first that can be hit."""

    def answer(connection: socket.socket) -> None:
        while request := connection.recv(1000):
            moved = b"/moved" in request
            head = b"HTTP/1.1 302 Found\r\nLocation: /\r\n" if moved else b"HTTP/1.1 200 OK\r\n"
            body = b"" if moved else b"content"
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
            if not request.startswith(b"HEAD"):
                connection.sendall(body)

    def content(session: requests.Session, port: int) -> Any:
        assert session.head(f"http://{HOST}:{port}/", timeout=10).ok
        try:
            return session.get(f"http://{HOST}:{port}/moved", timeout=10).content
        except requests.RequestException as error:
            return type(error)

    with (
        serve(answer) as port,
        requests.Session() as session,
        inject("network_failure", mode=mode, rate=1, first=1) as failure,
    ):
        assert content(session, port) != b"content"
        assert (failure.matched, failure.hits) == (1, 1)
        assert content(session, port) == b"content"


@pytest.mark.parametrize("way", ["blocking", "asyncio"])
def test_in_http_2_no_answer_is_taken_for_another(way: str, tmp_path: Path, inject: Inject) -> None:
    """What comes first is about the connection, and no answer to anything."""
    trust = Trust(tmp_path)
    for context in (trust.server, trust.client):
        context.set_alpn_protocols(["h2"])

    def settings(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(SETTINGS)
        connection.recv(1000)

    async def awaited(port: int) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, port, ssl=trust.client)
        writer.write(PREFACE)
        data = await reader.readexactly(len(SETTINGS))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return data

    def blocking(port: int) -> bytes:
        with (
            socket.create_connection((HOST, port), timeout=10) as plain,
            trust.client.wrap_socket(plain, server_hostname=HOST) as client,
        ):
            client.sendall(PREFACE)
            return client.recv(1000)

    with (
        serve(trust.over_tls(settings)) as port,
        inject("network_failure", mode="lose_answer", rate=1) as lost,
    ):
        heard = blocking(port) if way == "blocking" else asyncio.run(awaited(port))
    assert (heard, lost.matched) == (SETTINGS, 0)
    assert "Responses in HTTP/2 are told apart only by the library h2" in str(never_fired(lost))

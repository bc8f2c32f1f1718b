"""What clients send, as real TLS makes it, and which words of the peer's are an answer to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading

from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.chaos.operation import BODILESS
from pytest_resilience.chaos.operation import EXPECTANT
from pytest_resilience.chaos.operation import FRAMED
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.interceptors.sockets.wire_format import asks_something
from pytest_resilience.interceptors.sockets.wire_format import beginning
from pytest_resilience.interceptors.sockets.wire_format import client_random
from pytest_resilience.interceptors.sockets.wire_format import is_hello
from pytest_resilience.interceptors.sockets.wire_format import is_sealed
from pytest_resilience.interceptors.sockets.wire_format import kind_of
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import serve


class Talk:
    """A client and a server of TLS, without a network."""

    def __init__(self, version: ssl.TLSVersion, *, certified: bool = False) -> None:
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("server.example").configure_cert(server)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.minimum_version = context.maximum_version = version
        if certified:
            server.verify_mode = ssl.CERT_REQUIRED
            authority.configure_trust(server)
            authority.issue_cert("client.example").configure_cert(context)
        self._to_client, self._to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(
            self._to_client, self._to_server, server_hostname="server.example"
        )
        self.server = server.wrap_bio(self._to_server, self._to_client, server_side=True)

    def flights(self) -> list[bytes]:
        """What the client sends to shake hands."""
        flights = []
        for _ in range(3):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                flights.append(self._sent())
            else:
                flights.append(self._sent())
                return [flight for flight in flights if flight]
            with contextlib.suppress(ssl.SSLWantReadError):
                self.server.do_handshake()
        raise AssertionError("they never get to know each other")

    def _sent(self) -> bytes:
        self._sent_last = self._to_server.read()
        self._to_server.write(self._sent_last)
        return self._sent_last

    def says(self, text: bytes) -> bytes:
        self.client.write(text)
        return self._to_server.read()

    def goodbye(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.client.unwrap()
        return self._to_server.read()


@pytest.mark.parametrize("certified", [False, True], ids=["", "with a certificate"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_shaking_hands_asks_nothing_after_the_hello(
    version: ssl.TLSVersion, certified: bool
) -> None:
    talk = Talk(version, certified=certified)
    hello, *others = talk.flights()
    assert is_hello(hello)
    assert others
    assert not any(is_hello(flight) or asks_something(flight) for flight in others)
    request = talk.says(b"GET / HTTP/1.1\r\n\r\n")
    assert asks_something(request)
    assert not is_hello(request)
    assert is_sealed(talk.says(b"GET / HTTP/1.1\r\n\r\n"))
    assert client_random(hello) in hello
    assert len(client_random(hello)) == 32
    assert client_random(hello) != client_random(Talk(version).flights()[0])
    assert asks_something(others[-1] + request)  # as one who does not wait sends it


def test_goodbyes_of_tls_1_2_ask_nothing() -> None:
    talk = Talk(ssl.TLSVersion.TLSv1_2)
    talk.flights()
    assert not asks_something(talk.goodbye())


@given(st.binary())
def test_whatever_is_sent_is_looked_at(data: bytes) -> None:
    assert is_hello(data) in {True, False}
    assert asks_something(data) in {True, False}
    assert asks_something(b"\x17" + data)


def test_other_protocols_are_no_hello() -> None:
    for data in (b"", b"\x16", b"GET / HTTP/1.1", b"*1\r\n", b"\x16\x03\x01\x00\x05\x02"):
        assert not is_hello(data)
        assert not is_sealed(data)


def test_the_beginning_of_all_that_can_be_sent(tmp_path: Path) -> None:
    for message in (b"hello", bytearray(b"hello"), memoryview(b"hello"), [b"hel", b"lo"]):
        assert beginning(message) == b"hello"
    assert beginning(memoryview(b"hello!!!").cast("H")) == b"hello!!!"
    assert len(beginning(bytes(1 << 20))) == 1 << 14
    with (tmp_path / "file").open("wb") as file:
        assert beginning(file) == b""


def test_a_buffer_that_was_sent_can_grow() -> None:
    """As a transport's own does."""
    buffer = bytearray(b"hello")
    beginning(buffer)
    buffer.extend(b"more")


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

"""What clients send, as real TLS makes it."""

from __future__ import annotations

import contextlib
import ssl

from pathlib import Path

import pytest
import trustme

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.interceptors.sockets.wire_format import asks_something
from pytest_resilience.interceptors.sockets.wire_format import beginning
from pytest_resilience.interceptors.sockets.wire_format import client_random
from pytest_resilience.interceptors.sockets.wire_format import is_hello
from pytest_resilience.interceptors.sockets.wire_format import is_sealed


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

"""Whom a client asks a forward proxy for, by what it sends first."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.interceptors.sockets.peer_names import ForwardProxies
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from tests.injecting import Inject
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve
from tests.interceptors.sockets.polls import POLLS
from tests.interceptors.sockets.polls import Poll


PROXY = ("proxy.internal:3128",)
SOCKS5 = b"\x05\x01\x00"  # both the greeting, with one way to sign in, and the beginning of more
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9]{1,9}){0,3}", fullmatch=True)
PORTS = st.integers(1, 65535)


class Connection:
    """One that may be to a proxy."""


def heard(*messages: bytes) -> list[tuple[str, ...] | None]:
    """By which names the peer is known when each is sent; what follows the last passes."""
    proxies, connection = ForwardProxies[Connection](HostNames()), Connection()
    proxies.begin(connection, PROXY)
    found = []
    for message in messages:
        assert connection in proxies
        found.append(proxies.hear(connection, message))
    found.append(("more",) if connection in proxies else ("no more",))
    return found


@given(NAMES, PORTS)
def test_connect(host: str, port: int) -> None:
    request = f"CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert heard(request, b"hello") == [None, (f"{host}:{port}", *PROXY), ("no more",)]


@given(NAMES, PORTS)
def test_socks5_by_name(host: str, port: int) -> None:
    request = SOCKS5 + b"\x03" + bytes([len(host)]) + host.encode() + port.to_bytes(2)
    assert heard(SOCKS5, request, b"x") == [None, None, (f"{host}:{port}", *PROXY), ("no more",)]


@given(st.ip_addresses(), PORTS)
def test_socks5_by_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    kind = b"\x01" if address.version == 4 else b"\x04"
    request = SOCKS5 + kind + address.packed + port.to_bytes(2)
    *_, names, rest = heard(b"\x05\x02\x00\x02", b"\x01\x01u\x01p", request, b"x")
    assert names is not None
    assert names[0] in {f"{address}:{port}", f"[{address}]:{port}"}
    assert names[-1:] == PROXY
    assert rest == ("no more",)


@given(st.ip_addresses(v=4), PORTS, st.binary(max_size=9))
def test_socks4(address: ipaddress.IPv4Address, port: int, user: bytes) -> None:
    user = user.replace(b"\0", b"")
    begin = b"\x04\x01" + port.to_bytes(2)
    by_address = heard(begin + address.packed + user + b"\0", b"x")
    by_name = heard(begin + b"\0\0\0\1" + user + b"\0shop.internal\0", b"x")
    assert by_address[1] is not None
    if not address.packed.startswith(b"\0\0\0"):
        assert by_address[1][0] == f"{address}:{port}"
    assert by_name == [None, (f"shop.internal:{port}", *PROXY), ("no more",)]


@pytest.mark.parametrize(
    ("url", "peer"),
    [
        ("http://shop.internal/orders", "shop.internal:80"),
        ("http://shop.internal:8080", "shop.internal:8080"),
        ("HTTP://me:secret@shop.internal:8080/?x=http://y:1/", "shop.internal:8080"),
        ("https://shop.internal/", "shop.internal:443"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("ws://shop.internal", "shop.internal:80"),
    ],
)
def test_requests_with_a_whole_url(url: str, peer: str) -> None:
    request, other = f"GET {url} HTTP/1.1\r\n\r\n".encode(), b"PUT http://b/ HTTP/1.1\r\n\r\n"
    first, body, second, rest = heard(request, SOCKS5, other)
    assert first is not None
    assert first[0] == peer
    assert body is None
    assert second == ("b:80", *PROXY)
    assert rest == ("more",)


def test_a_tunnel_is_asked_for_again_after_signing_in() -> None:
    ask = b"CONNECT shop:443 HTTP/1.1\r\n\r\n"
    assert heard(ask, ask, b"x") == [None, None, ("shop:443", *PROXY), ("no more",)]


@pytest.mark.parametrize(
    "message",
    [
        b"", b"GET /orders HTTP/1.1\r\n\r\n", b"GET /?to=http://a/ HTTP/1.1\r\n\r\n",
        b"EHLO me\r\n", b"CONNECT nobody HTTP/1.1\r\n\r\n", b"\x05", b"\x05\x03\x00", b"\x04\x01",
        b"\x04\x01\0\x50\x0a\0\0\1", b"\x04\x02\0\0", b"GET http:// HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
    ],
)  # fmt: skip
def test_what_is_said_to_no_proxy(message: bytes) -> None:
    assert heard(message) == [None, ("no more",)]


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_whatever_is_sent(messages: list[bytes]) -> None:
    proxies, connection = ForwardProxies[Connection](HostNames()), Connection()
    proxies.begin(connection, PROXY)
    for message in messages:
        if connection in proxies:
            proxies.hear(connection, message)


def test_who_speaks_first_is_none() -> None:
    proxies, connection = ForwardProxies[Connection](HostNames()), Connection()
    proxies.begin(connection, PROXY)
    proxies.receive(connection)
    assert connection not in proxies


def tunnel(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    echo(connection)


@pytest.mark.parametrize("polls", POLLS, ids=lambda polls: polls.__name__)
def test_who_polls_before_it_asks_the_proxy(polls: Poll, inject: Inject) -> None:
    with (
        serve(tunnel) as port,
        inject("network_failure", mode="reset", target="shop.internal:443") as fault,
        socket.create_connection((HOST, port)) as client,
    ):
        assert not polls(client, 0)  # whether it was closed meanwhile
        client.sendall(b"CONNECT shop.internal:443 HTTP/1.1\r\n\r\n")
        assert polls(client, 10)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert fault.hits == 1


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """The port of somebody who has the certificate of `shop.internal`, and who trusts it."""
    trust = Trust(tmp_path, "shop.internal")
    with serve(trust.over_tls(echo)) as port:
        yield port, trust.client


def test_a_kept_tunnel_is_known_by_whose_certificate_was_asked_for(
    shop: tuple[int, ssl.SSLContext], inject: Inject
) -> None:
    port, trusting = shop
    with (
        socket.create_connection((HOST, port)) as to_proxy,
        trusting.wrap_socket(to_proxy, server_hostname="shop.internal") as client,
        inject("network_failure", mode="close", target="shop.internal:443") as fault,
    ):
        client.sendall(b"hello")
        assert client.recv(100) == b""
        assert fault.hits == 1


def test_a_kept_tunnel_of_a_loop_is_known_so_too(
    shop: tuple[int, ssl.SSLContext], inject: Inject
) -> None:
    port, trusting = shop

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(
            HOST, port, ssl=trusting, server_hostname="shop.internal"
        )
        writer.write(b"one")
        assert await reader.read(100) == b"one"
        with (
            inject("network_failure", mode="close", target="other.internal:443") as other,
            inject("network_failure", mode="close", target="shop.internal:443") as fault,
        ):
            writer.write(b"two")
            received = await reader.read(100)
            writer.close()
            await writer.wait_closed()
        assert (fault.hits, other.matched) == (1, 0)
        return received

    assert asyncio.run(ask()) == b""

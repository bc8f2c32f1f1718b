"""Clients that go through a forward proxy: targets name the peer that they ask the proxy for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import urllib.error
import urllib.request

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import aiohttp_socks
import httpx
import pytest
import requests

from tests.end_to_end.network import tls_front
from tests.end_to_end.network.conftest import answer
from tests.injecting import Inject
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import serve


# A process of its own, which nothing is injected in. It prints its port.
PROXY = """
import asyncio, pproxy, pproxy.proto

async def main():
    rules = {"rserver": [], "verbose": lambda text: None}
    server = await pproxy.Server("http+socks4+socks5://127.0.0.1:0").start_server(rules)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
ROOT = Path(__file__).parents[3]
Get = Callable[[str, str, Trust], int]
Go = Callable[[str], int]


def by_requests(url: str, proxy: str, trust: Trust) -> int:
    with requests.Session() as session:
        session.trust_env = False
        way = {"http": proxy, "https": proxy}
        return session.get(url, proxies=way, verify=trust.file, timeout=5).status_code


def by_httpx(url: str, proxy: str, trust: Trust) -> int:
    way = httpx.Proxy(proxy, ssl_context=trust.client if proxy.startswith("https") else None)
    with httpx.Client(proxy=way, verify=trust.client, trust_env=False) as client:
        return client.get(url).status_code


def by_httpx_awaited(url: str, proxy: str, trust: Trust) -> int:
    async def get() -> int:
        way = httpx.Proxy(proxy, ssl_context=trust.client if proxy.startswith("https") else None)
        client = httpx.AsyncClient(proxy=way, verify=trust.client, trust_env=False)
        async with client:
            return (await client.get(url)).status_code

    return asyncio.run(get())


def by_aiohttp(url: str, proxy: str, trust: Trust) -> int:
    async def get() -> int:
        in_socks = proxy.startswith("socks")
        connector = aiohttp_socks.ProxyConnector.from_url(proxy) if in_socks else None
        way = None if in_socks else proxy
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(url, proxy=way, ssl=trust.client) as response,
        ):
            return response.status

    async def get_and_close() -> int:
        try:
            return await get()
        finally:  # TLS is closed in good order, for which nobody waits
            open_still = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
            while len(open_still) > 1:  # noqa: ASYNC110  # one wakes the loop; nobody tells of these
                await asyncio.sleep(0)

    return asyncio.run(get_and_close())


def by_urllib(url: str, proxy: str, trust: Trust) -> int:
    way = urllib.request.ProxyHandler({"http": proxy, "https": proxy})
    opener = urllib.request.build_opener(way, urllib.request.HTTPSHandler(context=trust.client))
    try:
        with opener.open(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


CLIENTS: dict[str, Get] = {
    "requests": by_requests,
    "httpx": by_httpx,
    "httpx awaited": by_httpx_awaited,
    "aiohttp": by_aiohttp,
    "urllib": by_urllib,
}
SOCKS = {
    "requests": ["socks4", "socks5", "socks5h"],
    "httpx": ["socks5"],
    "httpx awaited": ["socks5"],
    "aiohttp": ["socks4", "socks5"],
}
OVER_TLS = ["httpx", "httpx awaited", "aiohttp"]
WAYS = [(client, way) for client in CLIENTS for way in ("http", *SOCKS.get(client, ()))]
WAYS += [(client, "https") for client in OVER_TLS]


@contextlib.contextmanager
def running(*program: str) -> Iterator[str]:
    """Where a proxy listens."""
    with subprocess.Popen(
        [sys.executable, *program], stdout=subprocess.PIPE, text=True, env={}, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    with running("-c", PROXY) as address:
        yield address


@pytest.fixture(scope="module")
def sealed_proxy(proxy: str, trust: Trust) -> Iterator[str]:
    with running("-m", tls_front.__name__, proxy, trust.server_file) as address:
        yield address


closed: list[bytes] = []  # the requests that a server has not answered


def handle(connection: socket.socket) -> None:
    """A server of HTTP that closes without an answer to /closed."""
    while (head := connection.recv(65536)) and b"/closed " not in head:
        connection.sendall(answer(b"{}"))
    if head:
        closed.append(head)


@pytest.fixture(scope="module", params=["http", "https"])
def url(request: pytest.FixtureRequest, trust: Trust) -> Iterator[str]:
    handler = trust.over_tls(handle) if request.param == "https" else handle
    with serve(handler) as port:
        yield f"{request.param}://localhost:{port}"


@pytest.fixture(params=WAYS, ids=" by ".join)
def go(request: pytest.FixtureRequest, proxy: str, sealed_proxy: str, trust: Trust) -> Go:
    """Have a client ask for a URL by way of the proxy; returns the status."""
    client, way = request.param
    address = sealed_proxy if way == "https" else proxy
    return lambda url: CLIENTS[client](url, f"{way}://{address}", trust)


def met(go: Go, url: str) -> tuple[object, ...]:
    """The status, or every error from the outermost on."""
    try:
        return (go(url),)
    except Exception as error:
        found: list[object] = []
        at: BaseException | None = error
        while at is not None:
            found.append(type(at))
            at = at.__cause__ or at.__context__
        return tuple(found)


def test_one_request_to_the_peer_behind_it(go: Go, url: str, inject: Inject) -> None:
    closed.clear()
    real = met(go, f"{url}/closed")
    peer = url.partition("://")[2]
    with inject("network_failure", mode="close", target=peer, path="/meant") as fault:
        assert go(f"{url}/") == 200
        assert fault.hits == 0
        injected = met(go, f"{url}/meant")
    assert injected == real
    assert fault.hits == len(closed)  # some clients ask once more


def test_a_status(go: Go, url: str, inject: Inject) -> None:
    peer = url.partition("://")[2]
    with inject("network_failure", mode="status", status=503, target=peer) as fault:
        assert go(f"{url}/") == 503
    assert fault.hits == 1


def test_each_round_trip_to_the_peer_is_late(go: Go, url: str, inject: Inject) -> None:
    scheme, _, peer = url.partition("://")
    with inject("network_latency", delay=0.001, target=peer) as fault:
        assert go(f"{url}/") == 200
    assert fault.hits == {"http": 1, "https": 2}[scheme]  # the proxy connects: that is not seen


def test_who_is_meant_is_not_behind_it(go: Go, url: str, inject: Inject) -> None:
    with inject("network_failure", mode="reset", target="localhost:9") as fault:
        assert go(f"{url}/") == 200
    assert fault.matched == 0


def test_a_kept_connection_to_the_proxy_serves_two_peers(proxy: str, inject: Inject) -> None:
    with serve(handle) as port, serve(handle) as other, requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http": f"http://{proxy}"}
        meant = {"mode": "status", "status": 503, "target": f"localhost:{port}"}
        with inject("network_failure", **meant) as fault:
            found = [
                session.get(f"http://localhost:{each}/", timeout=5).status_code
                for each in (other, port, other, port)
            ]
        assert found == [200, 503, 200, 503]
        assert fault.hits == 2


def test_the_proxy_itself(proxy: str, url: str, trust: Trust, inject: Inject) -> None:
    with (
        inject("network_failure", mode="refuse", target=proxy) as fault,
        pytest.raises(httpx.ConnectError),
    ):
        by_httpx(f"{url}/", f"http://{proxy}", trust)
    assert fault.hits == 1


def test_a_peer_that_the_proxy_cannot_reach(proxy: str, trust: Trust, inject: Inject) -> None:
    status = {"mode": "status", "status": 502, "target": proxy, "method": "CONNECT"}
    with (
        inject("network_failure", **status) as fault,
        pytest.raises(httpx.ProxyError, match="502"),
    ):
        by_httpx("https://api.internal/", f"http://{proxy}", trust)
    assert fault.hits == 1

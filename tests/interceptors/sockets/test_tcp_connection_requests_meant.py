"""Faults of some requests, on connections that carry others."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from typing import Any
from typing import Protocol

import aiohttp
import httpx
import pytest
import requests
import trio

from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.diagnosis import never_fired
from tests.injecting import Inject
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve


Status = int | str  # or the name of an exception


class Handler(BaseHTTPRequestHandler):
    """Answers 200 to all, on connections that it keeps."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_PATCH = do_GET  # noqa: N815  # as they are looked for

    def log_message(self, *_: Any) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients that are gone are no news."""


@contextlib.contextmanager
def http_server(context: ssl.SSLContext | None) -> Iterator[str]:
    with QuietServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        scheme = "http" if context is None else "https"
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def servers(trust: Trust) -> Iterator[dict[bool, str]]:
    with http_server(None) as plain, http_server(trust.server) as safe:
        yield {False: plain, True: safe}


@pytest.fixture
def place(servers: dict[bool, str]) -> str:
    return servers[False].partition("://")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a client is to ask for."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Client(Protocol):
    def __call__(self, url: str, asks: list[Ask], trust: Trust) -> list[Status]:
        """What comes of each, one after the other, by one client."""


def met(error: Exception) -> str:
    return type(error).__name__


def with_requests(url: str, asks: list[Ask], trust: Trust) -> list[Status]:
    found: list[Status] = []
    with requests.Session() as session:
        session.trust_env = False
        for ask in asks:
            try:
                response = session.request(
                    ask.method, url + ask.path, headers=ask.headers, data=ask.body,
                    timeout=5, verify=trust.file,
                )  # fmt: skip
                found.append(response.status_code)
            except requests.RequestException as error:
                found.append(met(error))
    return found


def with_http_client(url: str, asks: list[Ask], trust: Trust) -> list[Status]:
    place = url.partition("://")[2]
    connection = (
        http.client.HTTPSConnection(place, context=trust.client, timeout=5)
        if url.startswith("https")
        else http.client.HTTPConnection(place, timeout=5)
    )
    found: list[Status] = []
    with contextlib.closing(connection):
        for ask in asks:
            try:
                connection.request(ask.method, ask.path, ask.body, ask.headers)
                response = connection.getresponse()
                response.read()
                found.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                found.append(met(error))
    return found


def with_httpx(url: str, asks: list[Ask], trust: Trust) -> list[Status]:
    found: list[Status] = []
    with httpx.Client(verify=trust.client, trust_env=False, timeout=5) as client:
        for ask in asks:
            try:
                response = client.request(
                    ask.method, url + ask.path, headers=ask.headers, content=ask.body
                )
                found.append(response.status_code)
            except httpx.HTTPError as error:
                found.append(met(error))
    return found


async def _with_httpx_async(url: str, asks: list[Ask], trust: Trust) -> list[Status]:
    found: list[Status] = []
    async with httpx.AsyncClient(verify=trust.client, trust_env=False, timeout=5) as client:
        for ask in asks:
            try:
                response = await client.request(
                    ask.method, url + ask.path, headers=ask.headers, content=ask.body
                )
                found.append(response.status_code)
            except httpx.HTTPError as error:
                found.append(met(error))
    return found


def with_httpx_async(url: str, asks: list[Ask], trust: Trust) -> list[Status]:
    return asyncio.run(_with_httpx_async(url, asks, trust))


def with_httpx_trio(url: str, asks: list[Ask], trust: Trust) -> list[Status]:
    return trio.run(_with_httpx_async, url, asks, trust)


def with_aiohttp(url: str, asks: list[Ask], trust: Trust) -> list[Status]:
    @contextlib.asynccontextmanager
    async def session() -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(ssl=trust.client)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield session

    async def run() -> list[Status]:
        found: list[Status] = []
        async with session() as client:
            for ask in asks:
                try:
                    async with client.request(
                        ask.method, url + ask.path, headers=ask.headers, data=ask.body
                    ) as response:
                        await response.read()
                        found.append(response.status)
                except aiohttp.ClientError as error:
                    found.append(met(error))
        return found

    return asyncio.run(run())


CLIENTS: dict[str, Client] = {
    "requests": with_requests,
    "http.client": with_http_client,
    "httpx": with_httpx,
    "httpx async": with_httpx_async,
    "httpx trio": with_httpx_trio,
    "aiohttp": with_aiohttp,
}
Statuses = Callable[[list[Ask]], list[Status]]


@pytest.fixture
def statuses(client: Client, tls: bool, servers: dict[bool, str], trust: Trust) -> Statuses:
    """What comes of requests by a client to a server."""
    return lambda asks: client(servers[tls], asks, trust)


every_client = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
in_plain_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])

ASKS = [
    Ask(method="GET", path="/v1/payments", headers={}, body=b""),
    Ask(method="POST", path="/v1/payments/7?full=1", headers={"X-Tenant": "acme"}, body=b"{}"),
    Ask(method="PATCH", path="/v1/orders", headers={}, body=b"x" * 20_000),
    Ask(method="POST", path="/v1/payments", headers={"X-Tenant": "other"}, body=b"{}"),
]


@every_client
@in_plain_and_tls
@pytest.mark.parametrize(
    ("chosen", "hit"),
    [
        ({"method": "POST"}, [1, 3]),
        ({"path": "/v1/orders"}, [2]),
        ({"method": "POST", "header": "x-tenant: acme"}, [1]),
        ({"method": "POST", "path": "/v1/payments*", "nth": 2}, [3]),
    ],
    ids=["method", "path", "header", "nth"],
)
def test_only_the_requests_that_are_meant_are_answered_with_a_status(
    chosen: dict[str, Any], hit: list[int], statuses: Statuses, inject: Inject
) -> None:
    with inject("network_failure", status=503, **chosen) as fault:
        found = statuses(ASKS)
    assert found == [503 if at in hit else 200 for at in range(len(ASKS))]
    assert fault.hits == len(hit)


@every_client
@in_plain_and_tls
def test_only_the_requests_that_are_meant_are_late(
    statuses: Statuses, inject: Inject, events: list[FaultInjected]
) -> None:
    with inject("network_latency", delay="20ms", method="POST") as latency:
        assert statuses(ASKS) == [200] * 4
    assert [each.kind for each in events] == ["network.receive"] * 2
    assert latency.delay > 0.02  # of both


@every_client
@in_plain_and_tls
@pytest.mark.parametrize("mode", ["reset", "lose_answer", "truncate"])
def test_only_the_request_that_is_meant_fails(
    mode: str, statuses: Statuses, inject: Inject
) -> None:
    with inject("network_failure", mode=mode, path="/v1/orders") as fault:
        found = statuses([ASKS[0], ASKS[2], ASKS[3]])
    assert [found[0], found[2]] == [200, 200]
    assert isinstance(found[1], str)
    assert fault.hits == 1


@pytest.mark.filterwarnings("ignore:.*Async generator.*")  # httpx's own, on trio
@every_client
@in_plain_and_tls
def test_only_the_request_that_is_meant_fails_while_it_is_sent(
    statuses: Statuses, inject: Inject
) -> None:
    aim = {"method": "PATCH", "path": "/v1/*", "stream": "upstream"}
    with inject("network_failure", mode="reset", rate=1, **aim) as fault:
        found = statuses([ASKS[0], ASKS[2], ASKS[3]])
    assert [found[0], found[2]] == [200, 200]
    assert isinstance(found[1], str)
    assert fault.hits == 1


def test_what_was_asked_instead_is_told(place: str, trust: Trust, inject: Inject) -> None:
    with inject("network_failure", mode="reset", method="DELETE", target=place) as fault:
        with_requests(f"http://{place}", ASKS[:2], trust)
    error = never_fired(fault)
    assert error.seen == (
        f"network.connect {place}",
        f"network.receive {place} GET /v1/payments (not method DELETE)",
        f"network.receive {place} POST /v1/payments/7 (not method DELETE)",
    )
    assert f"target {place}, method DELETE" in str(error)


def test_a_connection_is_made_before_its_request_is_known(
    place: str, trust: Trust, inject: Inject
) -> None:
    with inject("network_failure", mode="refuse", method="GET", target=place) as fault:
        assert with_requests(f"http://{place}", ASKS[:1], trust) == [200]
    error = never_fired(fault)
    assert f"network.connect {place} (before any request is known)" in error.seen
    assert "a connection made before anybody knows what for" in str(error)


@pytest.mark.parametrize(
    "sent", [b"PING\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f", b"*1\r\n$4\r\nPING\r\n"]
)
@pytest.mark.parametrize("mode", ["status", "malformed_json"])
def test_what_is_no_http_is_not_answered_in_http(inject: Inject, sent: bytes, mode: str) -> None:
    with (
        serve(echo) as port,
        inject("network_failure", mode=mode, first=1) as fault,
        socket.create_connection(("127.0.0.1", port)) as sock,
    ):
        sock.sendall(sent)
        assert sock.recv(100) == sent
    assert (fault.matched, fault.hits) == (0, 0)
    error = never_fired(fault)
    assert f"network.receive 127.0.0.1:{port} (no HTTP)" in error.seen
    assert "it happens to requests of HTTP only" in str(error)


def test_what_is_no_http_is_not_answered_in_http_by_asyncio_either(inject: Inject) -> None:
    async def ping(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PING\r\n")
        received = await reader.read(100)
        writer.close()
        await writer.wait_closed()
        return received

    with serve(echo) as port, inject("network_failure", status=503, first=1) as fault:
        assert asyncio.run(ping(port)) == b"PING\r\n"
    assert fault.matched == 0


def test_what_is_no_http_has_no_request(inject: Inject) -> None:
    with (
        serve(echo) as port,
        inject("network_failure", mode="reset", path="/v1/*") as fault,
        socket.create_connection(("127.0.0.1", port)) as sock,
    ):
        sock.sendall(b"PING\r\n")
        assert sock.recv(100) == b"PING\r\n"
    error = never_fired(fault)
    assert f"network.receive 127.0.0.1:{port} (no request of HTTP that is seen)" in error.seen
    assert "Only requests of HTTP can be told apart by method, path and header" in str(error)


def test_a_head_that_is_sent_in_pieces_is_one_request(inject: Inject) -> None:
    with (
        serve(echo) as port,
        inject("network_failure", status=503, method="POST", path="/v1/*") as fault,
        socket.create_connection(("127.0.0.1", port)) as sock,
    ):
        for piece in (b"POST /v", b"1/payments HTTP/1.1\r\nHo", b"st: api\r\n", b"\r\n", b"body"):
            sock.sendall(piece)
        assert sock.recv(100).startswith(b"HTTP/1.1 503 ")
    assert fault.hits == 1


@pytest.mark.parametrize("together", [True, False])
def test_requests_that_do_not_wait_for_a_response_are_one(together: bool, inject: Inject) -> None:
    requests_sent = [b"GET /%s HTTP/1.1\r\nHost: api\r\n\r\n" % name for name in (b"a", b"b")]
    with (
        serve(echo) as port,
        inject("network_failure", mode="reset", nth=2) as second,
        inject("network_failure", mode="reset", path="/b") as other,
        inject("network_latency", delay="1ms", path="/a") as first,
        socket.create_connection(("127.0.0.1", port)) as sock,
    ):
        for message in [b"".join(requests_sent)] if together else requests_sent:
            sock.sendall(message)
        assert sock.recv(100)
    assert (first.hits, second.matched, other.matched) == (1, 1, 0)
    told = f"127.0.0.1:{port} GET /a and others before its response"
    assert f"network.receive {told} (not path /b)" in never_fired(other).seen
    target = told.replace(f":{port}", f":{port}#1")
    assert never_fired(second).seen == (f"1 network.receive {target}",)

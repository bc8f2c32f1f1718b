"""Services that answer that they cannot serve, in the bytes that a client receives."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import urllib3

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.types.service import Service
from tests.injecting import Inject
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Trust
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import serve


HOST = "127.0.0.1"
MESSAGE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Retry-After: 7\r\nContent-Length: 19\r\nConnection: close\r\n\r\nService Unavailable"
)


def answer(connection: socket.socket) -> None:
    while connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def port() -> Iterator[int]:
    with serve(answer) as port:
        yield port


@pytest.fixture
def outage(engine: Engine) -> Iterator[ActiveExperiment]:
    """The first answer is that there is none."""
    engine.services.add(Service.at("web", [HOST]))
    experiment = ChaosExperiment(
        "outage", "service_failure", target_services=["web"], retry_after=7, first=1, intensity=1
    )
    active_experiment = engine.start(experiment, seed=1)
    yield active_experiment
    active_experiment.stop()


def with_requests(url: str, verify: str | None) -> tuple[int, str | None]:
    response = requests.get(url, timeout=5, verify=verify)
    return response.status_code, response.headers.get("Retry-After")


def with_urllib3(url: str, verify: str | None) -> tuple[int, str | None]:
    with urllib3.PoolManager(ca_certs=verify) as pool:
        response = pool.request("GET", url, timeout=5, retries=False)
    return response.status, response.headers.get("Retry-After")


def with_httpx(url: str, verify: str | None) -> tuple[int, str | None]:
    context = ssl.create_default_context(cafile=verify)
    with httpx.Client(trust_env=False, verify=context) as client:
        response = client.get(url)
    return response.status_code, response.headers.get("Retry-After")


def with_http_client(url: str, verify: str | None) -> tuple[int, str | None]:
    parts = urllib3.util.parse_url(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=verify)
        connection = http.client.HTTPSConnection(HOST, parts.port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection(HOST, parts.port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        return response.status, response.headers.get("Retry-After")


CLIENTS = [with_requests, with_urllib3, with_httpx, with_http_client]
Client = Callable[[str, str | None], tuple[int, str | None]]


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_are_answered(client: Client, port: int, outage: ActiveExperiment) -> None:
    url = f"http://{HOST}:{port}/"
    assert client(url, None) == (503, "7")
    assert client(url, None) == (200, None)
    assert (outage.matched, outage.hits) == (2, 1)


@pytest.mark.parametrize("client", CLIENTS)
def test_over_tls_too(client: Client, trust: Trust, outage: ActiveExperiment) -> None:
    with serve(trust.over_tls(answer)) as port:
        url = f"https://{HOST}:{port}/"
        assert client(url, trust.file) == (503, "7")
        assert client(url, trust.file) == (200, None)
    assert (outage.matched, outage.hits) == (2, 1)


def test_a_pool_takes_a_new_connection(port: int, outage: ActiveExperiment) -> None:
    with requests.Session() as session:
        url = f"http://{HOST}:{port}/"
        assert [session.get(url, timeout=5).status_code for _ in range(3)] == [503, 200, 200]
    assert outage.hits == 1


def test_asyncio(port: int, outage: ActiveExperiment) -> None:
    async def main() -> list[int]:
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://{HOST}:{port}/"
            return [(await client.get(url)).status_code for _ in range(2)]

    assert asyncio.run(main()) == [503, 200]
    assert outage.hits == 1


def test_asyncio_over_tls(trust: Trust, outage: ActiveExperiment) -> None:
    async def main(port: int) -> list[int]:
        async with httpx.AsyncClient(trust_env=False, verify=trust.client) as client:
            url = f"https://{HOST}:{port}/"
            return [(await client.get(url)).status_code for _ in range(2)]

    with serve(trust.over_tls(answer)) as port:
        assert asyncio.run(main(port)) == [503, 200]
    assert outage.hits == 1


def test_a_connection_in_tls_of_a_loop_that_another_experiment_has_left_alone(
    trust: Trust, inject: Inject
) -> None:
    async def story(port: int) -> bytes:
        with inject("network_latency", delay=0.001, target="other.internal:443"):
            reader, writer = await asyncio.open_connection(HOST, port, ssl=trust.client)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            with inject("network_failure", mode="status", status=503, target=HOST) as fault:
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                answered = await reader.readline()
                assert fault.hits == 1
        writer.close()
        await writer.wait_closed()
        return answered

    with serve(trust.over_tls(answer)) as port:
        assert asyncio.run(story(port)) == b"HTTP/1.1 503 Service Unavailable\r\n"


def unavailable(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(MESSAGE)


def keeps_open(connection: socket.socket) -> None:
    """Not even who says goodbye is answered."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    kept = connection.detach()
    with socket.socket(fileno=kept) as below:
        while below.recv(65536):
            pass


def cut_off(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize(
    ("real", "given"),
    [
        (unavailable, {"mode": "status", "status": 503, "headers": {"Retry-After": "7"}}),
        (cut_off, {"mode": "truncate", "after_bytes": 1}),
    ],
    ids=["status", "cut off"],
)
def test_a_loop_is_told_of_the_close_over_tls(
    real: Handler, given: dict[str, Any], trust: Trust, inject: Inject, *, slowly: bool
) -> None:
    """The peer ends the connection, whoever else would have to say goodbye first."""

    async def get(port: int) -> list[object]:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(HOST, port, ssl=trust.client)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            received = await reader.read(10)
            while slowly and not writer.transport.is_closing():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
            while data := await reader.read(10):
                received += data
            await writer.wait_closed()
            return [received, writer.transport.is_closing()]

    with serve(trust.over_tls(real)) as port:
        expected = asyncio.run(get(port))
    with serve(trust.over_tls(keeps_open)) as port, inject("network_failure", **given) as fault:
        assert asyncio.run(get(port)) == expected
    assert fault.hits == 1


Receive = Callable[[socket.socket, int], bytes]


def by_recv(client: socket.socket, size: int) -> bytes:
    return client.recv(size)


def by_recv_into(client: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: client.recv_into(buffer)])


def by_recv_into_with_a_size(client: socket.socket, size: int) -> bytes:
    buffer = bytearray(1000)
    return bytes(buffer[: client.recv_into(buffer, size)])


@pytest.mark.parametrize("receive", [by_recv, by_recv_into, by_recv_into_with_a_size])
def test_bit_by_bit_and_then_the_end(receive: Receive, port: int, outage: ActiveExperiment) -> None:
    with socket.create_connection((HOST, port), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        pieces = list(iter(lambda: receive(client, 30), b""))
        assert {len(piece) for piece in pieces[:-1]} == {30}
        assert b"".join(pieces) == MESSAGE
        assert receive(client, 30) == b""
        # It said that it would close: whoever sends on all the same learns of it by that.
        assert outcome(lambda: client.sendall(b"again")) == "None"
        assert receive(client, 30) == b""
        assert outcome(lambda: client.sendall(b"again")) == "BrokenPipeError 32"
    assert outage.hits == 1


def test_a_receive_into_several_buffers(port: int, outage: ActiveExperiment) -> None:
    buffers = [bytearray(3), bytearray(1000)]
    with socket.create_connection((HOST, port), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        size, *more = client.recvmsg_into(buffers)
    assert b"".join(buffers)[:size] == MESSAGE
    assert more == [[], 0, None]
    assert outage.hits == 1


def blocking_read(sock: socket.socket, size: int) -> bytes:
    with sock.makefile("rb") as file:
        return file.read(size)


def read_in_a_loop(sock: socket.socket, size: int) -> bytes:
    async def read() -> bytes:
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            return await reader.readexactly(size)
        finally:
            writer.close()
            await writer.wait_closed()

    return asyncio.run(read())


@pytest.mark.parametrize("read", [blocking_read, read_in_a_loop])
@pytest.mark.parametrize("opened", ["before", "during"])
def test_who_was_seen_to_ask_for_nothing_gets_none(
    opened: str, read: Callable[[socket.socket, int], bytes], inject: Inject
) -> None:
    """A greeting is no response, nor is the rest of a body."""
    said = b"220 mail.internal ready\r\n"

    def greet(connection: socket.socket) -> None:
        connection.sendall(said)
        connection.recv(1)

    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serve(greet))
        before = [socket.create_connection((HOST, port))] if opened == "before" else []
        status = stack.enter_context(inject("network_failure", mode="status", rate=1))
        [sock] = before or [socket.create_connection((HOST, port))]
        stack.enter_context(sock)
        assert read(sock, len(said)) == said
        assert (status.matched, status.hits) == (0, 0)

"""What clients meet when a fault is injected is what they meet when it happens for real."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import selectors
import socket

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
import redis
import redis.backoff
import redis.retry
import requests
import urllib3

from requests.adapters import HTTPAdapter

from pytest_resilience.interceptors.sockets import abandoned
from pytest_resilience.interceptors.sockets import effects
from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Timeouts
from tests.interceptors.conftest import closed_port
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import full_backlog
from tests.interceptors.conftest import met
from tests.interceptors.conftest import outcome
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.resets import reset_when_closed
from tests.waiting import PATIENCE


Inject = Callable[..., AbstractContextManager[Any]]

Client = Callable[[str, int, Timeouts], None]


def with_requests(host: str, port: int, timeouts: Timeouts) -> None:
    requests.get(f"http://{host}:{port}/", timeout=timeouts)


def with_urllib3(host: str, port: int, timeouts: Timeouts) -> None:
    timeout = urllib3.Timeout(connect=timeouts.connect, read=timeouts.read)
    with urllib3.PoolManager() as pool:
        pool.request("GET", f"http://{host}:{port}/", timeout=timeout, retries=False)


def with_httpx(host: str, port: int, timeouts: Timeouts) -> None:
    timeout = httpx.Timeout(PATIENCE, connect=timeouts.connect, read=timeouts.read)
    with httpx.Client(trust_env=False, timeout=timeout) as client:
        client.get(f"http://{host}:{port}/")


def with_http_client(host: str, port: int, timeouts: Timeouts) -> None:
    client = http.client.HTTPConnection(host, port, timeout=timeouts.connect)
    with contextlib.closing(client):
        client.connect()
        client.sock.settimeout(timeouts.read)
        client.request("GET", "/")
        client.getresponse().read()


def with_redis(host: str, port: int, timeouts: Timeouts) -> None:
    with redis.Redis(
        host,
        port,
        socket_timeout=timeouts.read,
        socket_connect_timeout=timeouts.connect,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
    ) as client:
        client.ping()


def with_a_socket(host: str, port: int, timeouts: Timeouts) -> None:
    with socket.create_connection((host, port), timeout=timeouts.connect) as client:
        client.settimeout(timeouts.read)
        client.sendall(b"hello")
        if not client.recv(100):
            raise EOFError


def close(connection: socket.socket) -> None:
    """Read a request, and leave."""
    connection.recv(65536)


CLIENTS = [with_requests, with_urllib3, with_httpx, with_http_client, with_redis, with_a_socket]


REAL: dict[str, tuple[str, Callable[[], AbstractContextManager[int]]]] = {
    "refuse": ("127.0.0.1", closed_port),
    "reset": ("127.0.0.1", lambda: serve(reset)),
    "close": ("127.0.0.1", lambda: serve(close)),
    "timeout while connecting": ("127.0.0.1", full_backlog),
    "timeout while reading": ("127.0.0.1", lambda: serve(silent)),
    "dns": ("nobody.invalid", closed_port),
}

INJECTED: dict[str, dict[str, Any]] = {
    "refuse": {"mode": "refuse"},
    "reset": {"mode": "reset"},
    "close": {"mode": "close"},
    "timeout while connecting": {"mode": "timeout"},
    "timeout while reading": {"mode": "timeout", "from_nth": 2},
    "dns": {"mode": "dns"},
}


@pytest.mark.parametrize("event", REAL)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_the_same_exceptions_with_the_same_errno(
    client: Client, event: str, silent_port: int, inject: Inject
) -> None:
    host, make = REAL[event]
    timeouts = Timeouts.of(event)
    with make() as port:
        real = met(lambda: client(host, port, timeouts))
    with inject("network_failure", rate=1, **INJECTED[event]) as active_experiment:
        injected = met(
            lambda: client("localhost" if event == "dns" else host, silent_port, timeouts)
        )
    assert active_experiment.hits >= 1
    if event == "dns":
        # Which of its codes a resolver gives depends on how it is set up.
        assert [kind for kind, _ in injected] == [kind for kind, _ in real]
    else:
        assert injected == real


def connected_at_once(port: int) -> socket.socket:
    """A connection that no experiment has held up."""
    client = socket.SocketType()
    client.connect(("127.0.0.1", port))
    found = socket.socket(fileno=client.detach())
    found.settimeout(0.1)
    return found


def state_after_waiting(client: socket.socket) -> list[str]:
    client.sendall(b"hello")
    return [
        outcome(lambda: client.recv(100)),
        outcome(lambda: client.recv(100)),
        outcome(lambda: client.send(b"x")),
        outcome(lambda: client.recv(100)),
        outcome(lambda: client.getpeername() and "a peer"),
    ]


@pytest.mark.parametrize(
    ("event", "server"),
    [
        ("reset", silent),
        ("reset", echo),  # whose answer arrives and must not be seen
        ("close", silent),
        ("close", echo),
        ("timeout while reading", silent),
    ],
)
def test_the_connection_is_left_in_the_same_state(
    event: str, server: Handler, inject: Inject
) -> None:
    with REAL[event][1]() as port, connected_at_once(port) as client:
        real = state_after_waiting(client)
    with (
        serve(server) as port,
        inject("network_failure", rate=1, mode=INJECTED[event]["mode"]),
        connected_at_once(port) as client,
    ):
        injected = state_after_waiting(client)
    assert injected == real


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_a_refused_socket_is_left_in_the_same_state(
    family: socket.AddressFamily, inject: Inject
) -> None:
    loopback = "127.0.0.1" if family == socket.AF_INET else "::1"

    def state(address: Any) -> list[str]:
        with socket.socket(family) as client:
            client.settimeout(0.1)
            return [
                outcome(lambda: client.connect(address)),
                outcome(lambda: client.recv(100)),
                outcome(lambda: client.send(b"x")),
                outcome(client.getpeername),
            ]

    with socket.create_server((loopback, 0), family=family) as server:
        address = server.getsockname()
    real = state(address)
    with (
        socket.create_server((loopback, 0), family=family) as server,
        inject("network_failure", mode="refuse", rate=1),
    ):
        assert state(server.getsockname()) == real


def test_a_socket_bound_to_where_loopback_cannot_be_reached_is_refused_too(inject: Inject) -> None:
    """There the refusal is raised without being met, and the socket stays unconnected."""
    with (
        socket.socket(socket.AF_INET6) as client,
        inject("network_failure", mode="refuse", rate=1),
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setitem(effects._LOOPBACK, socket.AF_INET6, "2001:db8::1")  # not this machine's
        with pytest.raises(ConnectionRefusedError, match="Connection refused") as caught:
            client.connect(("::1", 9))
    assert caught.value.errno == errno.ECONNREFUSED


def test_a_connection_is_reset_though_no_descriptor_is_left(
    silent_port: int, inject: Inject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(**_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(abandoned, "_abandoned", none_left)
    with (
        inject("network_failure", mode="reset", rate=1),
        socket.create_connection(("127.0.0.1", silent_port)) as client,
    ):
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError, match="Connection reset by peer"):
            client.recv(100)


def in_pieces(then: Callable[[socket.socket], object]) -> Handler:
    """Answers with a thousand bytes, a hundred at a time; then something happens."""

    def handle(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(100)
        for _ in range(10):
            connection.sendall(bytes(100))
        then(connection)

    return handle


def goes_on(connection: socket.socket) -> None:
    """Until the client leaves."""
    while connection.recv(100):
        pass


def break_off(connection: socket.socket) -> None:
    reset_when_closed(connection)


async def all_of(port: int) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello")
    heard = 0
    with contextlib.closing(writer):
        while True:
            data = await asyncio.wait_for(reader.read(64), 10)
            if not data:
                return heard, "EOF"
            heard += len(data)


def of_a_loop(port: int) -> tuple[int, str]:
    return asyncio.run(all_of(port))


def of_a_socket(port: int) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"hello")
        return rest(lambda: client.recv(64))


def of_a_selector(port: int) -> tuple[int, str]:
    with (
        socket.create_connection(("127.0.0.1", port)) as client,
        selectors.DefaultSelector() as selector,
    ):
        client.sendall(b"hello")
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)

        def receive() -> bytes:
            while True:
                assert selector.select(10)
                with contextlib.suppress(BlockingIOError):
                    return client.recv(64)

        return rest(receive)


def rest(receive: Callable[[], bytes]) -> tuple[int, str]:
    heard = 0
    try:
        while data := receive():
            heard += len(data)
    except ConnectionResetError as error:
        return heard, repr(error)
    return heard, "EOF"


@pytest.mark.parametrize("heard", [of_a_socket, of_a_selector, of_a_loop])
@pytest.mark.parametrize("end", ["eof", "reset"])
def test_an_answer_of_any_protocol_is_cut_off_after_so_many_bytes_of_all_its_pieces(
    end: str, heard: Callable[[int], tuple[int, str]], inject: Inject
) -> None:
    """StreamReader tells of a reset at once: how much is read before is left to the race."""
    goodbye = break_off if end == "reset" else bool
    try:
        with serve(in_pieces(goodbye)) as port:
            real = heard(port)
    except ConnectionResetError as error:
        real = (1000, repr(error))
    assert real[0] == 1000
    with (
        serve(in_pieces(goes_on)) as port,
        inject("network_failure", after_bytes=250, end=end, rate=1) as cut,
    ):
        try:
            injected = heard(port)
        except ConnectionResetError as error:
            injected = (250, repr(error))
    assert injected == (250, real[1])
    assert cut.hits == 1


@pytest.mark.parametrize("event", ["refuse", "reset", "close"])
def test_asyncio_meets_the_same(event: str, inject: Inject) -> None:
    """What does not wait reaches non-blocking sockets too, and the loop notices."""

    async def talk(port: int) -> list[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        done = []
        for step in (lambda: reader.read(100), lambda: reader.read(100), writer.wait_closed):
            try:
                done.append(repr(await asyncio.wait_for(step(), 5)))
            except ConnectionError as error:
                done.append(f"{error!r}")
            writer.close()
        return done

    def outcome_at(port: int) -> str:
        try:
            return str(asyncio.run(talk(port)))
        except OSError as error:
            return repr(error).replace(str(port), "PORT")

    with REAL[event][1]() as port:
        real = outcome_at(port)
    with serve(echo) as port, inject("network_failure", mode=event, rate=1) as failure:
        assert outcome_at(port) == real
    assert failure.hits == 1


@pytest.mark.parametrize("mode", ["refuse", "reset"])
def test_the_clients_own_retries_run(mode: str, inject: Inject) -> None:
    """urllib3 sees the fault below itself, retries as often as it was told, and gets through."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    with serve(answer) as port, requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=urllib3.Retry(3, backoff_factor=0)))
        with inject("network_failure", mode=mode, rate=1, first=3) as active_experiment:
            assert session.get(f"http://127.0.0.1:{port}/", timeout=5).text == "ok"
        assert (active_experiment.matched, active_experiment.hits) == (4, 3)
        with inject("network_failure", mode=mode, rate=1) as active_experiment:
            with pytest.raises(requests.ConnectionError, match="Max retries exceeded"):
                session.get(f"http://127.0.0.1:{port}/", timeout=5)
            assert active_experiment.hits == 4


def test_connect_ex_returns_what_it_returns(silent_port: int, inject: Inject) -> None:
    def result(port: int) -> int:
        with socket.socket() as client:
            client.settimeout(0.05)
            return client.connect_ex(("127.0.0.1", port))

    with closed_port() as port:
        refused = result(port)
    with full_backlog() as port:
        timed_out = result(port)
    with inject("network_failure", mode="refuse", rate=1):
        assert result(silent_port) == refused
    with inject("network_failure", mode="timeout", rate=1):
        assert result(silent_port) == timed_out

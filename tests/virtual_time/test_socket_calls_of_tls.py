from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import requests

from pytest_resilience.virtual_time.clock import VirtualClock
from tests.interceptors.conftest import HOST
from tests.interceptors.conftest import Trust
from tests.virtual_time.test_socket_calls import Handler
from tests.virtual_time.test_socket_calls import Server
from tests.virtual_time.test_socket_calls import running
from tests.virtual_time.test_socket_calls import talk_over_streams


pytestmark = pytest.mark.may_block(reason="sockets that wait are what is tested")


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def url(clock: VirtualClock, trust: Trust) -> Iterator[str]:
    """Of a server of the scheduler, whose threads shake hands themselves."""
    server = Server((HOST, 0), Handler)
    server.socket = trust.server.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    with running(server) as port:
        yield f"https://{HOST}:{port}"


@contextmanager
def connection(
    trust: Trust, serve: Callable[[ssl.SSLSocket], object], timeout: float | None
) -> Iterator[ssl.SSLSocket]:
    """A client's end; `serve` does with the other one what it likes, before it shakes hands."""

    def accept() -> None:
        plain, _ = listener.accept()
        with trust.server.wrap_socket(
            plain, server_side=True, do_handshake_on_connect=False
        ) as theirs:
            serve(theirs)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        plain = socket.create_connection(listener.getsockname(), timeout=timeout)
        with trust.client.wrap_socket(
            plain, server_hostname=HOST, do_handshake_on_connect=False
        ) as s:
            yield s
        thread.join()


@pytest.mark.parametrize("timeout", [60, None])
def test_a_response_that_is_slow(clock: VirtualClock, trust: Trust, timeout: float | None) -> None:
    def serve(theirs: ssl.SSLSocket) -> None:
        theirs.do_handshake()
        assert theirs.recv(100) == b"ask"
        time.sleep(30)
        theirs.sendall(b"x" * 1_000_000)
        time.sleep(10)
        theirs.sendall(b"y")
        theirs.unwrap()

    with connection(trust, serve, timeout) as ours:
        ours.do_handshake()
        ours.sendall(b"ask")
        received = len(ours.recv(65536))
        while received < 1_000_000:
            received += ours.recv_into(bytearray(65536))
        assert clock.elapsed == 30
        assert ours.read(1) == b"y"
        assert clock.elapsed == 40
        assert ours.gettimeout() == timeout
        ours.unwrap()


def test_the_timeouts_of_each_call(clock: VirtualClock, trust: Trust) -> None:
    go = [threading.Event() for _ in range(3)]

    def serve(theirs: ssl.SSLSocket) -> None:
        go[0].wait()
        theirs.do_handshake()
        go[1].wait()
        received = 0
        while received < 20_000_000:
            received += len(theirs.recv(1 << 20))
        go[2].wait()

    with connection(trust, serve, 5) as ours:
        with pytest.raises(TimeoutError, match="The handshake operation timed out"):
            ours.do_handshake()
        assert clock.elapsed == 5
        go[0].set()
        ours.do_handshake()
        with pytest.raises(TimeoutError, match="The read operation timed out"):
            ours.recv(1)
        assert clock.elapsed == 10
        with pytest.raises(TimeoutError, match="The write operation timed out"):
            ours.sendall(b"x" * 20_000_000)
        assert clock.elapsed == 15
        go[1].set()
        ours.sendall(b"x" * 20_000_000)
        with pytest.raises(TimeoutError):
            ours.unwrap()
        assert clock.elapsed == 20
        go[2].set()


def test_who_does_not_wait(clock: VirtualClock, trust: Trust) -> None:
    def serve(theirs: ssl.SSLSocket) -> None:
        theirs.do_handshake()
        theirs.recv(1)

    with connection(trust, serve, 5) as ours:
        ours.do_handshake()
        ours.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            ours.recv(1)
        ours.send(b"x")
    assert clock.elapsed == 0


def test_requests(clock: VirtualClock, url: str, trust: Trust) -> None:
    assert requests.get(f"{url}/2", timeout=5, verify=trust.file).status_code == 200
    assert clock.elapsed == 2
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.get(f"{url}/60", timeout=5, verify=trust.file)
    assert clock.elapsed == 7


def test_httpx(clock: VirtualClock, url: str, trust: Trust) -> None:
    assert httpx.get(f"{url}/2", timeout=5, verify=trust.client).status_code == 200
    assert clock.elapsed == 2
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{url}/60", timeout=5, verify=trust.client)
    assert clock.elapsed == 7


def test_asyncio(clock: VirtualClock, trust: Trust) -> None:
    talk_over_streams(clock, client=trust.client, server=trust.server)


def test_a_server_that_is_older_than_the_clock(trust: Trust) -> None:
    """Its time is real, and so is the wait for it."""
    with Server((HOST, 0), Handler) as server:
        server.socket = trust.server.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with VirtualClock() as clock:
            sleeper = threading.Thread(target=time.sleep, args=(3600,))
            sleeper.start()
            url = f"https://{HOST}:{server.server_address[1]}/0.05"
            assert requests.get(url, timeout=60, verify=trust.file).status_code == 200
            assert 0.05 <= clock.elapsed < 60
            sleeper.join()
        server.shutdown()
        thread.join()


def test_everything_is_put_back() -> None:
    before = dict(vars(ssl.SSLSocket))
    with VirtualClock():
        assert vars(ssl.SSLSocket)["read"] is not before["read"]
    assert dict(vars(ssl.SSLSocket)) == before


def test_what_the_test_itself_imports() -> None:
    code = """
import sys
from pytest_resilience.virtual_time.clock import VirtualClock
assert "ssl" not in sys.modules
with VirtualClock():
    import ssl
    print(ssl.SSLSocket.read.__module__, hasattr(ssl.SSLSocket.read, "__wrapped__"))
print(hasattr(ssl.SSLSocket.read, "__wrapped__"))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["ssl", "True", "False"]

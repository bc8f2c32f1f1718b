from __future__ import annotations

import asyncio
import copy
import http.server
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import requests
import requests.adapters
import urllib3.util

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.virtual_time.clock import VirtualClock
from tests.virtual_time.starting import after
from tests.virtual_time.starting import start


pytestmark = pytest.mark.may_block(reason="sockets that wait are what is tested")


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


class Handler(http.server.BaseHTTPRequestHandler):
    """Waits for the seconds that the path says; `/503` fails as long as the server says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # its name
        assert isinstance(self.server, Server)
        failed = self.path == "/503" and self.server.failures > 0
        self.server.failures -= failed
        if not failed and self.path != "/503":
            time.sleep(float(self.path[1:]))
        self.send_response(503 if failed else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        try:
            self.wfile.write(b"ok")
        except OSError:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    failures = 4


@contextmanager
def running(server: Server) -> Iterator[int]:
    """A server of the scheduler, in a thread of its own; its port."""
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture
def url(clock: VirtualClock) -> Iterator[str]:
    with running(Server(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def connection(*, timeout: float) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of one; `timeout`: of the first."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=timeout) as ours,
        listener.accept()[0] as theirs,
    ):
        yield ours, theirs


def test_a_slow_response(clock: VirtualClock, url: str) -> None:
    assert requests.get(f"{url}/2", timeout=5).status_code == 200
    assert clock.elapsed == 2


@pytest.mark.parametrize("get", [requests.get, httpx.get])
def test_the_timeout_of_a_client(clock: VirtualClock, url: str, get: Callable[..., object]) -> None:
    with pytest.raises((requests.exceptions.ReadTimeout, httpx.ReadTimeout)):
        get(f"{url}/60", timeout=5)
    assert clock.elapsed == 5


def test_retries_of_urllib3(clock: VirtualClock, url: str) -> None:
    retries = urllib3.util.Retry(total=5, backoff_factor=1, status_forcelist=[503])
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
        assert session.get(f"{url}/503", timeout=5).status_code == 200
    assert clock.elapsed == 0 + 2 + 4 + 8


def test_parallel_clients(clock: VirtualClock, url: str) -> None:
    done: list[tuple[int, float]] = []

    def ask(seconds: int) -> None:
        requests.get(f"{url}/{seconds}", timeout=30)
        done.append((seconds, clock.elapsed))

    threads = [threading.Thread(target=ask, args=(seconds,)) for seconds in (9, 3, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [(3, 3), (6, 6), (9, 9)]


@pytest.mark.parametrize(
    "receive",
    [
        lambda sock: sock.recv(1),
        lambda sock: sock.recv_into(bytearray(1)),
        lambda sock: sock.recvfrom(1),
        lambda sock: sock.recvfrom_into(bytearray(1)),
        lambda sock: sock.recvmsg(1),
        lambda sock: sock.recvmsg_into([bytearray(1)]),
    ],
)
def test_the_timeout_of_a_receive(
    clock: VirtualClock, receive: Callable[[socket.socket], object]
) -> None:
    with connection(timeout=60) as (ours, theirs):
        with pytest.raises(TimeoutError, match="timed out"):
            receive(ours)
        assert clock.elapsed == 60
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            receive(ours)
        ours.settimeout(None)
        timer = threading.Timer(30, theirs.send, [b"x"])
        timer.start()
        receive(ours)
        assert clock.elapsed == 90
        timer.join()


def test_the_timeout_of_an_accept(clock: VirtualClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        with pytest.raises(TimeoutError):
            listener.accept()
        assert clock.elapsed == 60


def test_who_does_not_read_holds_up_who_sends(clock: VirtualClock) -> None:
    size = 20_000_000
    with connection(timeout=60) as (ours, theirs):
        sender = threading.Thread(target=theirs.sendall, args=(b"x" * size,))
        sender.start()
        time.sleep(30)
        received = 0
        while received < size:
            received += len(ours.recv(1 << 20))
        sender.join()
        assert clock.elapsed == 30
        theirs.settimeout(5)
        with pytest.raises(TimeoutError):
            theirs.sendall(b"x" * size)
        assert clock.elapsed == 35


def test_small_parts_that_wait_for_each_other(clock: VirtualClock) -> None:
    """Nagle's algorithm keeps the second part until the first has been acknowledged."""
    with connection(timeout=1) as (ours, theirs):
        for _ in range(20):
            theirs.send(b"x")
            theirs.send(b"y")
            received = ours.recv(2)
            while len(received) < 2:
                received += ours.recv(2)
        assert clock.elapsed == 0


def test_polls(clock: VirtualClock) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert select.select([ours], [], [], 5) == ([], [], [])
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        assert poll.poll(5000) == []
        assert clock.elapsed == 10
        threading.Timer(30, theirs.send, [b"x"]).start()
        assert select.select([ours], [], []) == ([ours], [], [])
        assert poll.poll() == [(ours.fileno(), select.POLLIN)]
        assert clock.elapsed == 40
        assert select.select([], [ours], [], 5) == ([], [ours], [])


@pytest.mark.parametrize("name", ["poll", "epoll"])
def test_polls_are_copied_no_more_than_in_real_time(name: str) -> None:
    def said() -> str:
        with pytest.raises(TypeError) as raised:
            copy.copy(getattr(select, name)())
        return str(raised.value)

    real = said()
    with VirtualClock():
        assert said() == real


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is none here")
def test_epolls(clock: VirtualClock, pipe: tuple[int, int]) -> None:
    with select.epoll() as made, select.epoll.fromfd(os.dup(made.fileno())) as same:
        assert isinstance(made, select.epoll)
        made.register(pipe[0], select.EPOLLIN)
        for epoll in (made, same):
            assert epoll.poll(5) == []
            start(after(30, lambda: os.write(pipe[1], b"x")))
            assert epoll.poll() == [(pipe[0], select.EPOLLIN)]
            assert os.read(pipe[0], 1) == b"x"
        assert clock.elapsed == 70
    assert made.closed
    with pytest.raises(ValueError, match="closed"):
        made.poll(1)


def read_when_ready(fd: int) -> bytes:
    select.select([fd], [], [])
    return os.read(fd, 1)


@pytest.mark.parametrize("read", [lambda fd: os.read(fd, 1), read_when_ready])
def test_a_pipe_between_threads(
    clock: VirtualClock, pipe: tuple[int, int], read: Callable[[int], bytes]
) -> None:
    start(after(60, lambda: os.write(pipe[1], b"x")))
    assert read(pipe[0]) == b"x"
    assert clock.elapsed == 60
    assert select.select(pipe[:1], [], [], 60) == ([], [], [])
    assert clock.elapsed == 120


def test_a_pipe_that_nobody_writes_to(clock: VirtualClock, pipe: tuple[int, int]) -> None:
    with pytest.raises(ClockStalledError, match=r"waits in read for ever, at .*nobody_writes"):
        os.read(pipe[0], 1)


def test_a_pipe_that_is_read_without_waiting(clock: VirtualClock, pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)
    os.write(pipe[1], b"xyz")
    assert os.read(pipe[0], 2) == b"xy"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(-1, 1)


def test_a_pipe_that_a_child_has_too_is_awaited_in_real_time(
    clock: VirtualClock, pipe: tuple[int, int]
) -> None:
    ours, theirs = pipe
    writes = f"import os, time; time.sleep(0.1); os.write({theirs}, b'x')"
    child = subprocess.Popen([sys.executable, "-S", "-c", writes], pass_fds=[theirs])
    ready = select.select([ours], [], [], 3600)[0]
    assert (ready, clock.jumps) == ([ours], 0)
    assert child.wait() == 0


def talk_over_streams(
    clock: VirtualClock,
    *,
    client: ssl.SSLContext | None = None,
    server: ssl.SSLContext | None = None,
) -> None:
    """Two clients of asyncio, of which one waits too short for what a server does in a while."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(float(await reader.readline()))
            writer.write(b"ok")
        finally:
            writer.close()

    async def ask(port: int, seconds: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            writer.write(b"%d\n" % seconds)
            async with asyncio.timeout(60):
                return await reader.read()
        finally:
            writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server) as listening:
            port = listening.sockets[0].getsockname()[1]
            assert await ask(port, 50) == b"ok"
            assert clock.elapsed == 50
            with pytest.raises(TimeoutError):
                await ask(port, 70)
            assert clock.elapsed == 110

    asyncio.run(main())


def test_streams_of_asyncio(clock: VirtualClock) -> None:
    talk_over_streams(clock)


def test_a_client_for_whom_a_listener_has_no_room_yet(clock: VirtualClock) -> None:
    got: list[bytes] = []

    def connect() -> None:
        with socket.create_connection(listener.getsockname()) as client:
            got.append(client.recv(1))

    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        listener.settimeout(60)
        with socket.create_connection(listener.getsockname()):  # there is no room for more
            [thread] = start(after(1, connect))
            time.sleep(2)
            for _ in range(2):
                with listener.accept()[0] as peer:
                    peer.send(b"x")
            thread.join()
    assert got == [b"x"]


def test_a_unix_server_of_asyncio(clock: VirtualClock, tmp_path: Path) -> None:
    path = tmp_path / "server"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(8)
        writer.write(await reader.readexactly(1))
        writer.close()

    async def ask() -> bytes:
        async with await asyncio.start_unix_server(answer, path):
            reader, writer = await asyncio.open_unix_connection(path)
            await asyncio.sleep(30)
            writer.write(b"x")
            answered = await reader.read()
            writer.close()
            return answered

    assert asyncio.run(ask()) == b"x"
    assert clock.elapsed == 30


def test_a_unix_server_in_a_thread(clock: VirtualClock, tmp_path: Path) -> None:
    def serve() -> None:
        with listener.accept()[0] as peer:
            peer.send(peer.recv(1))

    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "server"))
        listener.listen()
        start(serve)
        client.connect(str(tmp_path / "server"))
        time.sleep(30)
        client.send(b"x")
        assert client.recv(1) == b"x"
    assert clock.elapsed == 30


def test_a_server_that_is_older_than_the_clock() -> None:
    """Its time is real, and so is the wait for it."""
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with VirtualClock() as clock:
            sleeper = threading.Thread(target=time.sleep, args=(3600,))
            sleeper.start()
            url = f"http://127.0.0.1:{server.server_address[1]}/0.05"
            assert requests.get(url, timeout=60).status_code == 200
            assert 0.05 <= clock.elapsed < 60
            sleeper.join()
        server.shutdown()
        thread.join()


def test_everything_is_put_back() -> None:
    before = dict(vars(socket.socket))
    polls = select.select, select.poll
    with VirtualClock():
        assert vars(socket.socket)["recv"] is not before.get("recv")
    assert dict(vars(socket.socket)) == before
    assert (select.select, select.poll) == polls

"""What a proxy has to bear: many clients, much data, servers and owners that go away."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import subprocess
import sys
import threading
import time

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience import ManualClock
from pytest_resilience import ShutdownError
from pytest_resilience.proxy import ChaosProxy
from tests.proxy.conftest import Serve
from tests.proxy.conftest import ask
from tests.proxy.conftest import echo
from tests.proxy.conftest import read_all
from tests.proxy.conftest import receive
from tests.proxy.conftest import until


Connect = Callable[[], socket.socket]


def test_many_connections_are_held_and_go_on(proxy: ChaosProxy, connect: Connect) -> None:
    clients = [connect() for _ in range(150)]
    with proxy.inject("network_failure", mode="partition") as partition:
        for client in clients:
            client.sendall(b"ping")
        until(lambda: partition.hits >= len(clients))
    assert [receive(client, 4) for client in clients] == [b"ping"] * len(clients)
    assert proxy.connections == len(clients)


@pytest.mark.parametrize(
    "given",
    [
        {"experiment": "network_latency", "delay": "10ms"},
        {"experiment": "network_latency", "mode": "bandwidth", "bandwidth": "100MB"},
        {"experiment": "network_latency", "mode": "dribble", "piece": 10_000, "delay": "10us"},
    ],
    ids=["latency", "bandwidth", "dribble"],
)
def test_much_data_comes_through_whole_and_in_order(
    proxy: ChaosProxy, connect: Connect, given: dict[str, Any]
) -> None:
    data = random.Random(1).randbytes(8_000_000)
    with (
        proxy.having("slicer", average_size=30_000, size_variation=10_000),
        proxy.having("latency", latency=5, jitter=5, stream="upstream"),
        proxy.inject(stream="both", **given),
    ):
        client = connect()
        sending = threading.Thread(target=client.sendall, args=(data,))
        sending.start()
        assert receive(client, len(data)) == data
        sending.join()


def test_little_pieces_without_a_pause_stop_nobody(proxy: ChaosProxy, connect: Connect) -> None:
    message = bytes(50_000)
    with proxy.inject("network_latency", mode="dribble", delay=0):
        assert ask(connect(), message) == message


@pytest.mark.parametrize("stream", ["upstream", "downstream", "both"])
def test_a_client_that_has_said_everything_gets_its_answer(serve: Serve, stream: Any) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"got " + read_all(connection))

    with (
        ChaosProxy(("127.0.0.1", serve(answer))) as proxy,
        proxy.inject("network_latency", delay="5ms", stream=stream),
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        client.sendall(b"all")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"got all"
        until(lambda: not proxy.connections)


def test_clients_that_leave_while_they_are_held(proxy: ChaosProxy, connect: Connect) -> None:
    with proxy.inject("network_failure", mode="partition") as partition:
        for _ in range(20):
            client = connect()
            client.sendall(b"ping")
            client.close()
        until(lambda: partition.hits >= 20)
    until(lambda: not proxy.connections)


def test_it_is_closed_while_experiments_run(proxy: ChaosProxy, connect: Connect) -> None:
    client = connect()
    assert ask(client) == b"ping"
    with (
        proxy.inject("network_failure", mode="partition", name="partition", must_fire=False),
        proxy.inject("network_failure", mode="refuse", rate=1, name="refusal"),
        proxy.inject("network_latency", mode="bandwidth", bandwidth=1, must_fire=False),
    ):
        client.sendall(b"ping")
        proxy.close()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    with pytest.raises(ShutdownError), proxy.inject("network_latency"):
        pass


def test_a_server_that_comes_back(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with ChaosProxy(("127.0.0.1", port)) as proxy:
        with (
            pytest.raises(ConnectionResetError),  # while connecting, if that takes longer
            socket.create_connection(proxy.address, timeout=10) as client,
        ):
            client.recv(1)
        until(lambda: isinstance(proxy.unreachable, OSError))
        with socket.create_server(("127.0.0.1", port)) as listener:

            def answer() -> None:
                with listener.accept()[0] as connection:
                    echo(connection)

            thread = threading.Thread(target=answer)
            thread.start()
            with socket.create_connection(proxy.address, timeout=10) as client:
                assert ask(client) == b"ping"
            assert proxy.unreachable is None
        thread.join(10)


WITHOUT_DESCRIPTORS = """
import os, resource, socket
from pytest_resilience.proxy import ChaosProxy

with socket.create_server(("127.0.0.1", 0)) as server, ChaosProxy(server.getsockname()) as proxy:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.settimeout(10)
        # For the client's end in the proxy; none to go on with, nor any that is free below.
        while (last := os.dup(client.fileno())) < client.fileno():
            pass
        os.close(last)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, hard))
        try:
            client.connect(proxy.address)  # which is told of it, if it takes longer
            client.recv(1)
        except ConnectionResetError:
            print(proxy.unreachable.strerror)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with socket.create_connection(proxy.address, timeout=10) as client:
        server.accept()[0].sendall(b"x")
        print(client.recv(1))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not limit them")
def test_a_client_for_whom_no_descriptor_is_left_is_not_the_last() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["Too many open files", "b'x'"], done.stderr


def test_one_that_nobody_closes_says_so_and_ends(proxy: ChaosProxy) -> None:
    threads = threading.active_count()
    forgotten: list[ChaosProxy] = [ChaosProxy(proxy.upstream)]
    address = forgotten[0].address

    def forget() -> None:
        forgotten.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match=r"unclosed <ChaosProxy "):
        forget()
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)


def test_time_goes_by_the_clock_that_it_is_given(serve: Serve) -> None:
    """A wait of a minute, without waiting for it."""
    clock = ManualClock()
    with (
        ChaosProxy(("127.0.0.1", serve(echo)), clock=clock) as proxy,
        socket.create_connection(proxy.address, timeout=10) as client,
        proxy.inject("network_latency", delay="60s", duration="1h", stream="upstream") as latency,
    ):
        started = time.monotonic()
        client.sendall(b"ping")
        until(lambda: bool(latency.hits))
        clock.advance(61)
        assert receive(client, 4) == b"ping"
        assert time.monotonic() - started < 30
    assert latency.delay >= 60

"""Stories about what is ours, told while an experiment limits the process that runs this file.

Usage: within_limits.py PORT LIMIT, with the port of a server that says what it is told. Each story
begins without the limit, goes on with it, and may end without it. What a story itself has opened
before stays open as long as the limit is on: descriptors that it gives back while ours are at work
are taken for ours.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
import traceback

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.runtime import Runtime


Story = Callable[[], Iterator[None]]

PORT = int(sys.argv[1])
LARGE = 2**26  # bytes
runtime = Runtime()
stories: dict[str, tuple[Story, int]] = {}


def story(leave: int = 0) -> Callable[[Story], Story]:
    """One that opens so many files itself; none is left to us."""

    def add(told: Story) -> Story:
        stories[told.__name__] = told, leave
        return told

    return add


@contextlib.contextmanager
def start(kind: str, **parameters: Any) -> Iterator[ActiveExperiment]:
    running = runtime.start(ChaosExperiment(kind, kind, **parameters), seed=1)
    try:
        yield running
    finally:
        running.stop()


def raises(call: Callable[..., object], *given: object) -> str:
    try:
        call(*given)
    except BaseException as error:
        return type(error).__name__
    return "nothing"


def made() -> socket.socket:
    sock = socket.socket()
    sock.settimeout(10)
    return sock


def connected() -> socket.socket:
    sock = made()
    sock.connect(("127.0.0.1", PORT))
    return sock


def greet(sock: socket.socket) -> None:
    sock.sendall(b"hello")
    assert sock.recv(5) == b"hello"


GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@story()
def a_connection_that_is_reset() -> Iterator[None]:
    with connected() as client:
        greet(client)
        yield
        with start("network_failure", mode="reset", rate=1):
            client.sendall(b"x")
            assert raises(client.recv, 1) == "ConnectionResetError"
        yield


@story()
def a_response_that_is_truncated() -> Iterator[None]:
    with connected() as client:
        yield
        with start("network_failure", mode="truncate", rate=1):
            client.sendall(GET)
            answer = b""
            while more := client.recv(4096):
                answer += more
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert not answer.endswith(b"true"), answer
        yield


@story()
def a_status() -> Iterator[None]:
    with connected() as client:
        yield
        with start("network_failure", mode="status", status=503, rate=1):
            client.sendall(GET)
            assert client.recv(4096).startswith(b"HTTP/1.1 503")
        yield


@story(leave=1)
def a_connect_that_is_refused() -> Iterator[None]:
    yield
    with socket.socket() as sock, start("network_failure", mode="refuse", rate=1):
        assert raises(sock.connect, ("127.0.0.1", PORT)) == "ConnectionRefusedError"


@story()
def a_name_that_is_not_found() -> Iterator[None]:
    yield
    with start("network_failure", mode="dns", rate=1):
        assert raises(socket.getaddrinfo, "shop.internal", 80) == "gaierror"


@story()
def a_partition_that_outlives_the_connection() -> Iterator[None]:
    client = connected()
    greet(client)
    yield
    with start("network_failure", mode="partition"):
        client.sendall(b"x")
        client.close()
    for each in threading.enumerate():
        if "partition" in each.name:  # ours: what is opened meanwhile is taken for its own
            each.join()
    with open(os.devnull, "rb"):  # in its place
        yield


@story()
def a_socket_that_is_polled() -> Iterator[None]:
    with connected() as client:
        client.setblocking(False)
        yield
        with start("network_latency", delay="20ms") as trouble:
            client.sendall(b"x")
            poller = select.poll()
            poller.register(client, select.POLLIN)
            while (told := raises(client.recv, 1)) == "BlockingIOError":
                assert poller.poll(20_000)
            assert told == "nothing", told
        assert trouble.delay > 0.01
        yield


@story()
def an_asyncio_client() -> Iterator[None]:
    import asyncio

    async def ask() -> None:
        with start("network_latency", delay="1ms") as trouble:
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
        assert trouble.hits
        writers.append(writer)

    client = connected()
    writers: list[asyncio.StreamWriter] = []
    with asyncio.Runner() as runner:
        runner.get_loop()
        yield
        runner.run(ask())
        yield
        writers.pop().close()


@story()
def a_database() -> Iterator[None]:
    import sqlite3

    yield
    with (
        start("database_failure", mode="locked", rate=1),
        contextlib.closing(sqlite3.connect(":memory:")) as connection,
    ):
        assert raises(connection.execute, "SELECT 1") == "OperationalError"


@story()
def a_sqlite_file_that_another_one_locks() -> Iterator[None]:
    import sqlite3

    from pytest_resilience.plugin.fixtures.databases import SqliteChaos

    with contextlib.closing(sqlite3.connect("shop.db", timeout=0)) as client:
        client.execute("CREATE TABLE orders (id)")
        yield
        with SqliteChaos() as chaos, chaos.locked("shop.db"):
            assert raises(client.execute, "SELECT * FROM orders") == "OperationalError"
        yield


@story(leave=1)  # the kernel takes a number before it looks at rights
def a_file() -> Iterator[None]:
    yield
    with start("disk_failure", mode="permission_denied", path="**/shop.db", rate=1):
        assert raises(open, "shop.db") == "PermissionError"


@story()
def a_service() -> Iterator[None]:
    import textwrap

    from pytest_resilience.chaos.types.service import Service

    runtime.engine.services.add(Service.at("words", ["textwrap:dedent"]))
    yield
    with start("service_failure", target_services=["words"], rate=1):
        assert raises(textwrap.dedent, "x") == "ServiceFailureError"


@story()
def a_monkey_and_its_steady_state() -> Iterator[None]:
    from pytest_resilience import ChaosMonkey
    from pytest_resilience import Event
    from pytest_resilience import Probe
    from pytest_resilience import Verdict
    from pytest_resilience import Within

    async def one() -> int:
        return 1

    yield
    steady = [Probe("one", one, Within(0, 2))]
    calm = ChaosMonkey(runtime.start, seed=1, interval="1h", steady_state=steady)
    calm.register_experiment(ChaosExperiment("slow", "network_latency", 1.0))
    started = threading.Event()

    def listener(event: Event) -> None:
        if "Started" in type(event).__name__:
            started.set()

    calm.listeners.add(listener)
    with calm:
        assert started.wait(30)
    assert calm.verdict is Verdict.PASSED, calm.events


@story()
def a_worker_whose_time_is_over() -> Iterator[None]:
    yield
    with start("cpu_stress", cores=1, load=0.1, gil=True, duration="50ms") as trouble:
        until = time.monotonic() + 30
        while trouble.pressure is None:
            assert time.monotonic() < until
            time.sleep(0.01)


@story(leave=3)
def a_proxy() -> Iterator[None]:
    from pytest_resilience.proxy import ChaosProxy

    with made() as client:
        yield
        with ChaosProxy(("127.0.0.1", PORT)) as proxy:
            client.connect(("127.0.0.1", proxy.port))
            greet(client)
            with proxy.inject("network_failure", mode="reset", rate=1):
                client.sendall(b"x")
                assert raises(client.recv, 1) == "ConnectionResetError"
        yield


@story()
def a_proxy_that_was_there() -> Iterator[None]:
    from pytest_resilience.proxy import ChaosProxy

    with made() as client, ChaosProxy(("127.0.0.1", PORT)) as proxy:
        yield
        client.connect(("127.0.0.1", proxy.port))
        greet(client)
        proxy.close()
        yield


@story(leave=3)
def a_control_of_proxies() -> Iterator[None]:
    from pytest_resilience.proxy.toxiproxy_api.server import ControlServer

    with made() as client:
        yield
        with ControlServer(listen=("127.0.0.1", 0)) as control:
            client.connect(control.address)
            client.sendall(GET.replace(b"/ ", b"/version ", 1))
            assert client.recv(4096).startswith(b"HTTP/1.")
        yield


def opened(most: int) -> int:
    """How many files can be opened."""
    with contextlib.ExitStack() as files:
        for count in range(most):
            try:
                files.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            except OSError:
                return count
    return most


def free(limit: str, leave: int) -> bool:
    match limit:
        case "fd_exhaustion":
            return opened(leave + 1) != leave
        case "thread_exhaustion":
            return raises(threading.Thread(target=int).start) == "nothing"
        case _:
            return raises(bytearray, LARGE) == "nothing"


def tell(told: Story, limit: str, leave: int) -> None:
    parameters: dict[str, dict[str, Any]] = {
        "fd_exhaustion": {"leave": leave},
        "memory_stress": {"mode": "fail", "headroom": "8MiB"},
    }
    going = told()
    next(going)
    with start(limit, **parameters.get(limit, {})):
        assert not free(limit, leave)
        next(going, None)
        assert not free(limit, leave), "there is no limit any more"
    assert free(limit, leave), "there is a limit still"
    next(going, None)


failed = False
for name, (each, leave) in stories.items():
    try:
        tell(each, sys.argv[2], leave)
    except BaseException as error:
        failed = True
        error.add_note(f"in {name}")
        traceback.print_exc()
sys.exit(failed)

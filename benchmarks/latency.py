"""Whether a fault takes as long as asked, and what chaos costs beside it.

`python benchmarks/latency.py`, with the `test` extra installed; takes two minutes. Each
figure stands beside its counterpart from the same run, in turns on one core.

A client that has waited 50 ms finds the caches cold and is slower from then on, whoever made
it wait: up to 1 ms in requests. So what an asked delay is held against is a server that
really takes that long; a bare socket, which has next to nothing to do, is held against the
number itself.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import httpx
import redis
import requests

from figures import Figure
from figures import pin
from figures import show

from pytest_resilience import ChaosExperiment
from pytest_resilience import Event
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.seams.sockets import SocketSeam


DELAY = 0.05  # seconds
REQUESTS = 200
BLOCKS = 4
TESTS = 400  # of each kind
CALLS = 2_000

# In a process of its own, so that it does not compete with the client for the interpreter.
# One answer to each request, in one piece: no delayed acknowledgement can meddle.
SERVER = r"""
import socket, sys, threading, time

DELAY = float(sys.argv[1])

HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(65536):
        if b"slow" in data:
            time.sleep(DELAY)
        redis = data.startswith(b"*")
        connection.sendall(b"+OK\r\n" * data.count(b"*") if redis else HTTP)

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
"""

SUITE = """
import pytest

@pytest.mark.parametrize("number", range({tests}))
class TestCost:
    def test_unmarked(self, number):
        pass

    @pytest.mark.chaos("network_latency", must_fire=False)
    def test_marked(self, number):
        pass
"""

TIMING = """
import json, pathlib, time
import pytest

seconds = {"test_unmarked": [], "test_marked": []}

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    began = time.perf_counter()
    result = yield
    seconds[item.originalname].append(time.perf_counter() - began)
    return result

def pytest_collection_modifyitems(items):
    # In turns, whatever order the class and its parameters would give.
    items.sort(key=lambda item: item.callspec.params["number"])

def pytest_unconfigure():
    pathlib.Path("seconds.json").write_text(json.dumps(seconds))
"""


@contextlib.contextmanager
def server() -> Iterator[int]:
    command = [sys.executable, "-c", SERVER, str(DELAY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def clients(port: int) -> Iterator[dict[str, Callable[[str], object]]]:
    """By name, what makes a request for a path on a connection that stays open."""
    url = f"http://127.0.0.1:{port}/"
    with (
        socket.create_connection(("127.0.0.1", port)) as sock,
        requests.Session() as session,
        httpx.Client() as client,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection,
        redis.Redis(port=port, protocol=2) as cache,
    ):

        def bare(path: str) -> bytes:
            sock.sendall(path.encode())
            return sock.recv(1024)

        def plain(path: str) -> bytes:
            connection.request("GET", f"/{path}")
            return connection.getresponse().read()

        yield {
            "socket": bare,
            "http.client": plain,
            "requests": lambda path: session.get(url + path).content,
            "httpx": lambda path: client.get(url + path).content,
            "redis-py": lambda path: cache.execute_command("PING", path),
        }


def milliseconds(call: Callable[[str], object], path: str) -> list[float]:
    """Of each of a block of requests."""
    found = []
    for _ in range(REQUESTS // BLOCKS):
        began = time.perf_counter()
        call(path)
        found.append((time.perf_counter() - began) * 1e3)
    return found


def delay_figures() -> Iterator[Figure]:
    engine = Engine(lambda engine: [SocketSeam(engine)])
    last = deque[Event](maxlen=1)
    engine.listeners.add(last.append)  # somebody listens in a test too, so events are made
    experiment = ChaosExperiment("lag", "network_latency", probability=1, delay=DELAY)
    with server() as port, clients(port) as calls:
        for name, call in calls.items():
            call("quick")  # connects
            calm, really, asked = [], [], []
            for _ in range(BLOCKS):
                calm += milliseconds(call, "quick")
                really += milliseconds(call, "slow")
                activation = engine.start(experiment, seed=1)
                asked += milliseconds(call, "quick")
                engine.stop(activation)
            yield from compared(name, *map(statistics.median, (calm, really, asked)))


def compared(name: str, calm: float, really: float, asked: float) -> Iterator[Figure]:
    delay = DELAY * 1e3
    target = round((delay if name == "socket" else really) + 1, 2)
    slow = f"{name}: a server that really takes {delay:g} ms"
    yield Figure(what=f"{name}: a request", value=calm, target=None, unit="ms")
    yield Figure(what=slow, value=really, target=None, unit="ms")
    yield Figure(what=f"{name}: asked {delay:g} ms", value=asked, target=target, unit="ms")


def test_figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "conftest.py").write_text(TIMING)
        (path / "test_cost.py").write_text(SUITE.format(tests=TESTS))
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "resilience"],
            cwd=path,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            check=True,
            capture_output=True,
        )
        seconds = json.loads((path / "seconds.json").read_text())
    unmarked = statistics.median(seconds["test_unmarked"]) * 1e3
    marked = statistics.median(seconds["test_marked"]) * 1e3
    yield Figure(what="a test, unmarked", value=unmarked, target=None, unit="ms")
    yield Figure(
        what="a test marked with chaos, without operation: more",
        value=marked - unmarked,
        target=0.5,
        unit="ms",
    )


def seam_figures() -> Iterator[Figure]:
    """Calls of zero bytes go the whole way through Python, and the network stays out of it."""
    engine = Engine(lambda engine: [SocketSeam(engine)])
    aimed_elsewhere = ChaosExperiment("lag", "network_latency", target="elsewhere.example")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted = listener.accept()[0]
        with client, accepted:
            for name, argument in (("send", b""), ("recv", 0)):
                plain = seam = float("inf")
                for _ in range(100):
                    plain = min(plain, microseconds_a_call(getattr(client, name), argument))
                    activation = engine.start(aimed_elsewhere, seed=1, must_fire=False)
                    seam = min(seam, microseconds_a_call(getattr(client, name), argument))
                    engine.stop(activation)
                yield Figure(what=f"socket.{name}, plain", value=plain, target=None, unit="us")
                yield Figure(
                    what=f"socket.{name}, while chaos is aimed elsewhere: more",
                    value=seam - plain,
                    target=0.3,
                    unit="us",
                )


def microseconds_a_call(call: Callable[[object], object], argument: object) -> float:
    call(argument)  # decides whom the connection belongs to, once
    began = time.perf_counter()
    for _ in range(CALLS):
        call(argument)
    return (time.perf_counter() - began) / CALLS * 1e6


def main() -> int:
    pin()
    return show([*seam_figures(), *test_figures(), *delay_figures()])


if __name__ == "__main__":
    sys.exit(main())

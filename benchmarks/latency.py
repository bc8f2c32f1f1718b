"""Whether a fault takes as long as asked, by clients that have work of their own to do.

`python benchmarks/latency.py`, with the `test` extra installed; takes a minute. What it costs a
test to which it does nothing is in `unmatched`, and a call in `network_datagrams`. Each
figure stands beside its counterpart from the same run, in turns on one core.

A client that has waited 50 ms finds the caches cold and is slower from then on, whoever made
it wait: up to 1 ms in requests. So what an asked delay is held against is a server that
really takes that long; a bare socket, which has next to nothing to do, is held against the
number itself.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import statistics
import sys
import time

from collections import deque
from collections.abc import Callable
from collections.abc import Iterator

import httpx
import redis
import requests

from figures import Figure
from figures import pin
from figures import show
from servers import serving

from pytest_resilience import ChaosExperiment
from pytest_resilience import Event
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor


DELAY = 0.05  # seconds
REQUESTS = 200
BLOCKS = 4

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


def server() -> contextlib.AbstractContextManager[int]:
    return serving(SERVER, str(DELAY))


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
    engine = Engine(lambda engine: [SocketInterceptor(engine)])
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
                active_experiment = engine.start(experiment, seed=1)
                asked += milliseconds(call, "quick")
                active_experiment.stop()
            yield from compared(name, *map(statistics.median, (calm, really, asked)))


def compared(name: str, calm: float, really: float, asked: float) -> Iterator[Figure]:
    delay = DELAY * 1e3
    target = round((delay if name == "socket" else really) + 1, 2)
    slow = f"{name}: a server that really takes {delay:g} ms"
    yield Figure(what=f"{name}: a request", value=calm, target=None, unit="ms")
    yield Figure(what=slow, value=really, target=None, unit="ms")
    yield Figure(what=f"{name}: asked {delay:g} ms", value=asked, target=target, unit="ms")


def main() -> int:
    pin()
    return show([*delay_figures()])


if __name__ == "__main__":
    sys.exit(main())

"""What the proxy costs, and whether what it delays takes as long as asked.

`python benchmarks/proxy.py`; takes half a minute. The server and the proxy run in processes
of their own, as production and `python -m pytest_resilience.proxy` do; "in this process" is the
proxy as the fixture has it, beside the client in one interpreter. Direct and through the
proxy take turns, on one core: there, each byte costs what it costs, whoever else is there.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import time

from collections.abc import Callable
from collections.abc import Iterator

from figures import Figure
from figures import pin
from figures import show

from pytest_resilience.proxy import ChaosProxy


ASKED = (1, 5, 20, 50, 200)  # ms
ROUND_TRIPS = 2_000
BLOCKS = 5
BULK = 64 * 2**20  # bytes
PIECE = 2**16

SERVER = r"""
import socket, threading

PIECE = bytes(2**18)

def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(65536):
        if data.startswith(b"GET"):
            left = int(data[3:])
            while left > 0:
                left -= connection.send(PIECE[:left])
        else:
            connection.sendall(data)

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
"""


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[str]:
    """The first line that a Python process prints; it is ended afterwards."""
    running = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield running.stdout.readline()
    finally:
        running.terminate()
        running.communicate()


def connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def round_trip(client: socket.socket) -> float:
    """Seconds."""
    started = time.perf_counter()
    client.sendall(b"ping")
    client.recv(100)
    return time.perf_counter() - started


def bulk(client: socket.socket) -> float:
    """Bytes a second, downstream."""
    buffer, left = bytearray(PIECE), BULK
    started = time.perf_counter()
    client.sendall(b"GET%d" % BULK)
    while left:
        left -= client.recv_into(buffer)
    return BULK / (time.perf_counter() - started)


def in_turns(measure: Callable[[socket.socket], float], *clients: socket.socket) -> list[float]:
    """The median of each."""
    found: list[list[float]] = [[] for _ in clients]
    for _ in range(BLOCKS * 2 + 1):
        for client, values in zip(clients, found, strict=True):
            values.append(measure(client))
    return [statistics.median(values) for values in found]


def idle(client: socket.socket) -> float:
    return statistics.median(round_trip(client) for _ in range(ROUND_TRIPS // BLOCKS))


def costs(server: int, proxy: int, where: str) -> list[Figure]:
    with connect(server) as direct, connect(proxy) as through:
        straight, long = in_turns(idle, direct, through)
        fast, slow = in_turns(bulk, direct, through)
    print(f"  {where}: {slow / 2**20:.0f} MiB/s, direct {fast / 2**20:.0f} MiB/s")
    return [
        Figure(what=f"round trip, idle proxy {where}", value=long * 1e3, target=0.4, unit="ms"),
        Figure(what="  direct", value=straight * 1e3, target=None, unit="ms"),
        Figure(what=f"direct / throughput {where}", value=fast / slow, target=4.0, unit="x"),
    ]


def delays(proxy: ChaosProxy) -> list[Figure]:
    figures = []
    with connect(proxy.port) as client:
        for asked in ASKED:
            for what in ("toxic", "experiment"):
                with (
                    proxy.having("latency", latency=asked)
                    if what == "toxic"
                    else proxy.inject("network_latency", delay=asked / 1e3)
                ):
                    times = [round_trip(client) * 1e3 for _ in range(max(10, 400 // asked))]
                figures += [
                    Figure(
                        what=f"asked {asked} ms by {what}, median later by",
                        value=statistics.median(times) - asked,
                        target=1.2,
                        unit="ms",
                    ),
                    Figure(
                        what="  earliest before its time",
                        value=max(0.0, asked - min(times)),
                        target=0.0,
                        unit="ms",
                    ),
                ]
    return figures


def measure() -> list[Figure]:
    with process("-c", SERVER) as line:
        server = int(line)
        alone = ["-m", "pytest_resilience.proxy", "127.0.0.1:0", f"127.0.0.1:{server}"]
        with process(*alone) as told:
            port = int(told.split()[0].rpartition(":")[2])
            figures = costs(server, port, "in a process of its own")
        with ChaosProxy(("127.0.0.1", server)) as proxy:
            figures += costs(server, proxy.port, "in this process")
            figures += delays(proxy)
    return figures


def main() -> int:
    pin()
    return show(measure())


if __name__ == "__main__":
    sys.exit(main())

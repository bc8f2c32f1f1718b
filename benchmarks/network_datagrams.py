"""Whether datagrams are as late as asked, and what each costs that no experiment is aimed at.

`python benchmarks/network_datagrams.py`, with the `test` extra installed; takes two minutes. The
server is a process of its own and shares the core.

A call to the kernel takes longer than what is measured here, and differs from one to the next. So
blocks of calls, with and without chaos, take turns; compared is the time of the CPU that this
thread has used, and what a wrapper takes that does nothing but call stands beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
import socket
import statistics
import sys
import time

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import network_async

from figures import Figure
from figures import lateness
from figures import pin
from figures import show
from servers import serving

from pytest_resilience import ChaosExperiment
from pytest_resilience import Event


__all__ = ["call_figures", "measure"]

CALLS, PAIRS = 2_000, 60

SERVER = r"""
import socket, time

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    while True:
        data, client = server.recvfrom(100)
        if data[:5] == b"SLEEP":
            time.sleep(float(data[5:]))
        server.sendto(b"ok", client)
"""


def server() -> contextlib.AbstractContextManager[int]:
    return serving(SERVER)


Ask = Callable[[bytes], object]


@contextlib.contextmanager
def blocking(port: int) -> Iterator[Ask]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:

        def ask(request: bytes) -> None:
            client.sendto(request, (network_async.HOST, port))
            client.recvfrom(100)

        yield ask


@contextlib.contextmanager
def polled(port: int) -> Iterator[Ask]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        selectors.DefaultSelector() as selector,
    ):
        client.connect((network_async.HOST, port))
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)

        def ask(request: bytes) -> None:
            client.send(request)
            while True:
                selector.select()
                with contextlib.suppress(BlockingIOError):
                    client.recv(100)
                    return

        yield ask


class Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, _: object) -> None:
        self.came.put_nowait(data)


@contextlib.contextmanager
def in_asyncio(port: int) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        transport, answers = runner.run(_opened(port))

        async def talk(request: bytes) -> None:
            transport.sendto(request)
            await answers.came.get()

        yield lambda request: runner.run(talk(request))
        transport.close()


async def _opened(port: int) -> Any:
    loop = asyncio.get_running_loop()
    where = (network_async.HOST, port)
    return await loop.create_datagram_endpoint(Answers, remote_addr=where)


def milliseconds(ask: Ask, request: bytes) -> float:
    began = time.perf_counter()
    ask(request)
    return (time.perf_counter() - began) * 1e3


def late_figures(port: int) -> Iterator[Figure]:
    ways = {"blocking": blocking, "polled": polled, "asyncio": in_asyncio}
    for name, way in ways.items():
        with way(port) as ask:
            ask(b"quick")
            for asked, times in network_async.ASKED.items():
                took: list[float] = []
                real: list[float] = []
                for _ in range(4):
                    slow = f"SLEEP{asked / 1e3}".encode()
                    real += [milliseconds(ask, slow) for _ in range(times // 4)]
                    with network_async.latency(asked / 1e3):
                        took += [milliseconds(ask, b"quick") for _ in range(times // 4)]
                yield from lateness(f"datagrams, {name}", asked, took, real, target=0.5)


def call_figures() -> Iterator[Figure]:
    """Of `send` and `recv` of a connection, with nothing to carry, and of a datagram and back."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((network_async.HOST, 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        stack.enter_context(listener.accept()[0])
        one, other = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)
        )
        for each in (one, other):
            each.bind((network_async.HOST, 0))
        kept = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        kept.bind((network_async.HOST, 0))
        kept.connect(kept.getsockname())  # to itself

        address = other.getsockname()

        def there_and_back() -> None:
            one.sendto(b"tea", address)
            other.recvfrom(9)

        def to_itself() -> None:
            kept.send(b"tea")
            kept.recv(9)

        yield from more("send", functools.partial(client_send, client), ("send",))
        yield from more("recv", functools.partial(client_recv, client), ("recv",))
        yield from more("sendto and recvfrom", there_and_back, ("sendto", "recvfrom"))
        yield from more("send and recv of a datagram", to_itself, ("send", "recv"))


def client_send(client: socket.socket) -> None:
    client.send(b"")


def client_recv(client: socket.socket) -> None:
    client.recv(0)


def more(what: str, call: Callable[[], None], names: tuple[str, ...]) -> Iterator[Figure]:
    """How much a call takes more while chaos is aimed elsewhere, and within a bare wrapper."""
    elsewhere = ChaosExperiment("lag", "network_latency", target="elsewhere.example")
    plain, wrapped, aimed = [], [], []
    for _ in range(PAIRS):
        plain.append(microseconds(call))
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(bare_wrapper(name))
            wrapped.append(microseconds(call) - plain[-1])
        active_experiment = network_async.engine.start(elsewhere, seed=1, must_fire=False)
        aimed.append(microseconds(call) - plain[-1])
        active_experiment.stop()
    target = 0.3 * len(names)
    usual, bare, cost = map(statistics.median, (plain, wrapped, aimed))
    yield Figure(what=f"{what}, plain", value=usual, target=None, unit="us")
    yield Figure(what="  in a wrapper that only calls it: more", value=bare, target=None, unit="us")
    yield Figure(
        what="  while chaos is aimed elsewhere: more", value=cost, target=target, unit="us"
    )


@contextlib.contextmanager
def bare_wrapper(name: str) -> Iterator[None]:
    original = getattr(socket.socket, name)

    def call(sock: socket.socket, *args: Any) -> Any:
        return original(sock, *args)

    setattr(socket.socket, name, call)
    try:
        yield
    finally:
        delattr(socket.socket, name)  # which the class has from below


def microseconds(call: Callable[[], None]) -> float:
    """Of the CPU, for one call of many."""
    for _ in range(3):
        call()  # decides whom it belongs to, once
    began = time.thread_time_ns()
    for _ in range(CALLS):
        call()
    return (time.thread_time_ns() - began) / CALLS / 1e3


def measure() -> list[Figure]:
    with server() as port:
        return [*late_figures(port), *call_figures()]


def main() -> int:
    pin()
    heard: list[Event] = []
    network_async.engine.listeners.add(heard.append)  # as in a test, so events are made
    return show(measure())


if __name__ == "__main__":
    sys.exit(main())

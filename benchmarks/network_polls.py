"""What a poll costs more while chaos is aimed elsewhere.

`python benchmarks/network_polls.py`, with the `test` extra installed; takes a few seconds. Blocks
of polls, with and without chaos, take turns, each with a poll object of its own: what is made
before an experiment begins is not always reached.
"""

from __future__ import annotations

import contextlib
import functools
import select
import selectors
import socket
import statistics
import sys

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import network_async

from figures import Figure
from figures import pin
from figures import show
from network_datagrams import PAIRS
from network_datagrams import microseconds

from pytest_resilience import ChaosExperiment


__all__ = ["measure"]

TARGET = 0.3  # us


def by_select(sock: socket.socket) -> Callable[[], object]:
    return lambda: select.select([sock], [], [], 0)


def by_poll(sock: socket.socket) -> Callable[[], object]:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return functools.partial(poll.poll, 0)


def by_epoll(sock: socket.socket) -> Callable[[], object]:
    poll = select.epoll()
    poll.register(sock, select.EPOLLIN)
    return functools.partial(poll.poll, 0)


def by_a_selector(file: Any) -> Callable[[], object]:
    selector = selectors.DefaultSelector()
    selector.register(file, selectors.EVENT_READ)
    return functools.partial(selector.select, 0)


def by_a_selector_of_numbers(sock: socket.socket) -> Callable[[], object]:
    return by_a_selector(sock.fileno())


def measure() -> Iterator[Figure]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((network_async.HOST, 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        stack.enter_context(listener.accept()[0]).sendall(b"tea")
        for way in (by_select, by_poll, by_epoll, by_a_selector, by_a_selector_of_numbers):
            yield from more(way, client)


def more(way: Callable[[socket.socket], Callable[[], object]], sock: socket.socket) -> list[Figure]:
    elsewhere = ChaosExperiment("lag", "network_latency", target="elsewhere.example")
    plain, aimed = [], []
    for _ in range(PAIRS):
        plain.append(microseconds(way(sock)))
        active_experiment = network_async.engine.start(elsewhere, seed=1, must_fire=False)
        aimed.append(microseconds(way(sock)) - plain[-1])
        active_experiment.stop()
    usual, cost = map(statistics.median, (plain, aimed))
    what = "  while chaos is aimed elsewhere: more"
    return [
        Figure(
            what=f"a poll {way.__name__.replace('_', ' ')}", value=usual, target=None, unit="us"
        ),
        Figure(what=what, value=cost, target=TARGET, unit="us"),
    ]


def main() -> int:
    pin()
    return show([*measure()])


if __name__ == "__main__":
    sys.exit(main())

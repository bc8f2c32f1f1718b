"""Whether network chaos takes as long as asked, and what it costs whom it is not aimed at.

`python benchmarks/network.py`, with the `test` extra installed; takes six minutes. All that is
promised of the network in one place: blocking clients here, those of asyncio from
`network_async`, datagrams and single calls that no experiment is aimed at from
`network_datagrams`, and polls from `network_polls`, the proxy from `proxy`, tests that none is
aimed at from `unmatched`.
"""

from __future__ import annotations

import socket
import sys
import time

import network_async
import network_datagrams
import network_polls
import proxy
import unmatched

from figures import Figure
from figures import lateness
from figures import pin
from figures import show

from pytest_resilience import Event


def blocking_figures(port: int, **more: str) -> list[Figure]:
    """Of a bare socket, which has next to nothing to do itself. `more`: whose requests are late."""
    figures, who = list[Figure](), " ".join(["socket", *more.values()])
    with socket.create_connection((network_async.HOST, port)) as client:

        def milliseconds(request: bytes) -> float:
            began = time.perf_counter()
            client.sendall(request)
            client.recv(1000)
            return (time.perf_counter() - began) * 1e3

        quick = b"GET / HTTP/1.1\r\n\r\n"
        milliseconds(quick)
        for asked, times in network_async.ASKED.items():
            slow = f"SLEEP{asked / 1e3}".encode()
            took, real = list[float](), list[float]()
            for _ in range(4):
                real += [milliseconds(slow) for _ in range(times // 4)]
                with network_async.latency(asked / 1e3, **more):
                    took += [milliseconds(quick) for _ in range(times // 4)]
            figures += lateness(who, asked, took, real, target=0.5)
    return figures


def main() -> int:
    pin()
    heard: list[Event] = []
    network_async.engine.listeners.add(heard.append)  # as in a test, so events are made
    figures = list[Figure]()
    with network_async.server() as port:
        figures += blocking_figures(port)
        figures += blocking_figures(port, stream="upstream")
    rest = (network_async, network_datagrams, network_polls, proxy, unmatched)
    return show([*figures, *(figure for each in rest for figure in each.measure())])


if __name__ == "__main__":
    sys.exit(main())

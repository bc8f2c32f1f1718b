"""Whether network chaos takes as long as asked, and what it costs whom it is not aimed at.

`python benchmarks/network.py`, with the `test` extra installed; takes four minutes. All that is
promised of the network in one place: blocking clients here, those of asyncio from
`network_async`, the proxy from `proxy`, what no experiment is aimed at from `latency` and
`unmatched`.
"""

from __future__ import annotations

import socket
import sys
import time

import latency
import network_async
import proxy
import unmatched

from figures import Figure
from figures import lateness
from figures import pin
from figures import show

from pytest_resilience import Event


def blocking_figures(port: int) -> list[Figure]:
    """Of a bare socket, which has next to nothing to do itself."""
    figures = []
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
            took: list[float] = []
            real: list[float] = []
            for _ in range(4):
                real += [milliseconds(slow) for _ in range(times // 4)]
                with network_async.latency(asked / 1e3):
                    took += [milliseconds(quick) for _ in range(times // 4)]
            figures += lateness("socket", asked, took, real, target=0.5)
    return figures


def main() -> int:
    pin()
    heard: list[Event] = []
    network_async.engine.listeners.add(heard.append)  # as in a test, so events are made
    figures = [*latency.seam_figures()]
    with network_async.server() as port:
        figures += blocking_figures(port)
    rest = (network_async, proxy, unmatched)
    return show([*figures, *(figure for each in rest for figure in each.measure())])


if __name__ == "__main__":
    sys.exit(main())

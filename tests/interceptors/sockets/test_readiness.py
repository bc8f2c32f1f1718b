"""A socket is kept from being ready by one hold after another, and is then as it was."""

from __future__ import annotations

import contextlib
import socket

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.sockets.readiness import Held
from pytest_resilience.interceptors.sockets.readiness import Readiness
from pytest_resilience.interceptors.sockets.tcp_connection import Peer
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from tests.injecting import injecting


HOUR = 3600.0


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
    ):
        yield sock


def mark(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@pytest.mark.skipif(not hasattr(socket, "SO_RCVLOWAT"), reason="there is no such mark")
@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("second", ["silence", "hold"])
def test_a_hold_that_follows_one_whose_end_nobody_has_seen_leaves_nothing(
    second: str, sock: socket.socket, *, blocking: bool
) -> None:
    """Its experiment has stopped, and the next begins, before anybody is told of either."""
    engine, readiness = Engine(lambda engine: []), Readiness(MACHINE_CLOCK)
    sock.setblocking(blocking)
    before = mark(sock)
    with contextlib.ExitStack() as stack:
        connection = TcpConnection(sock, Peer(("peer.example:1",)), number=1)

        def begun(kind: str, **parameters: Any) -> tuple[ActiveExperiment, ResponseStream]:
            active = stack.enter_context(injecting(engine.start)(kind, rate=1, **parameters))
            effect = engine.decide(connection.operation(RECEIVE))
            assert effect is not None
            return active, ResponseStream(effect)

        first, silence = begun("network_failure", mode="partition")
        readiness.silence(sock, connection, silence)
        assert mark(sock) > before
        first.stop()
        if second == "silence":
            last, silence = begun("network_failure", mode="partition")
            readiness.silence(sock, connection, silence)
        else:
            last, late = begun("network_latency", delay=HOUR)
            now = MACHINE_CLOCK.monotonic()
            with contextlib.suppress(BlockingIOError):
                held = Held(sock, late, now + HOUR, 0, polls=True)
                readiness.hold(sock, connection, held, now)
        last.stop()
        readiness.refresh()
        assert mark(sock) == before

"""What happens to what clients send."""

from __future__ import annotations

import socket

from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Reset
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.asyncio_loops import Loops
from pytest_resilience.interceptors.sockets.connections import Link
from pytest_resilience.interceptors.sockets.partition import Walls
from pytest_resilience.interceptors.sockets.response_stream import Call
from pytest_resilience.interceptors.sockets.ssl_objects import TlsObjects
from pytest_resilience.interceptors.sockets.wire_format import beginning


__all__ = ["Sending"]


class Sending:
    """Lets clients send what is not in their way."""

    def __init__(self, engine: Engine, walls: Walls, loops: Loops, tls_objects: TlsObjects) -> None:
        self._tls_objects = tls_objects
        self._engine = engine
        self._walls = walls
        self._loops = loops

    def send(self, sock: socket.socket, link: Link, call: Call) -> Any:
        """`call`, one of the socket's sending methods with what it was given."""
        __tracebackhide__ = True
        if link.script is not None and not link.ended:  # it said that it would close
            link.script = None
            effects.fail(sock, Reset())
        message = beginning(call.args[1] if len(call.args) > 1 else b"")
        at_once = sock.gettimeout() == 0
        before = link.receiving
        if not at_once:  # another thread may hear the answer before this one is back
            link.spoke(message, self._engine.clock.monotonic())
        try:
            result = self._say(sock, link, call)
        except OSError:
            link.receiving = before  # there is nothing new to be answered
            raise
        link.sent_at = self._engine.clock.monotonic()
        if at_once:
            link.spoke(message, link.sent_at)
            self._loops.spoke(link.sent_at)
            link.task = self._loops.task() or link.task
        if link.shaking and not link.unsealed:
            self._tls_objects.said_hello(link, message)
        return result

    def _say(self, sock: socket.socket, link: Link, call: Call) -> Any:
        __tracebackhide__ = True
        if self._walls.is_before(sock, link):
            return self._walls.keep(sock, link, call)
        link.backlog.flush(sock)
        return call()

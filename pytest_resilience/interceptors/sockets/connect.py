"""Connects that an event loop awaits, and those that the kernel goes on with.

A connect in a loop is held up first, and what happens to it is decided before it begins.
"""

from __future__ import annotations

import contextlib
import errno
import socket

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.peer_names import is_literal
from pytest_resilience.interceptors.sockets.readiness import Readiness
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.waiting import pause


__all__ = ["LoopConnects", "try_on"]


class LoopConnects:
    """Connects that event loops begin and await.

    Attributes:
        decided: by the `id` of the socket, as long as they are tried.
    """

    def __init__(self, engine: Engine, connections: ConnectionTable) -> None:
        self.decided: dict[int, Effect | None] = {}
        self._engine = engine
        self._connections = connections
        self._installed = False

    def install(self) -> None:
        self._installed = True

    def remove(self) -> None:
        self._installed = False

    async def connect(
        self,
        sock: socket.socket,
        address: Any,
        *,
        proceed: Callable[[], Awaitable[None]],
        failed: str,
    ) -> None:
        """`proceed` to connect to `address`, when its delay is over.

        Past the end of a silence raises TimeoutError with the text `failed`.
        """
        __tracebackhide__ = True
        connection = or_none(self._connections.opened, sock, address) if self._installed else None
        if connection is None or connection.untargeted:
            await proceed()
            return
        effect = self._engine.decide(connection.operation(CONNECT))
        if effect is not None and effect.delay:
            await pause(effect)
            if effect.delay == float("inf") and not effect.transient:
                raise TimeoutError(errno.ETIMEDOUT, failed)
        self.decided[id(sock)] = effect
        try:
            await proceed()
        finally:
            self.decided.pop(id(sock), None)


def try_on(
    readiness: Readiness,
    sock: socket.socket,
    connection: TcpConnection,
    effect: Effect,
    address: Any,
) -> None:
    """Let the kernel go on with a connect to `address`, for which the client waits no longer.

    It ends its wait by a timeout of Python (no errno), or of the kernel (EINPROGRESS).
    """
    if not is_literal(address[0]):
        return  # to find out whose name it is may take any time
    readiness.keep_pending(sock, connection, effect)
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        with contextlib.suppress(OSError):  # it is pending
            KernelSocket.connect(kernel_socket(sock), address)
    finally:
        sock.settimeout(timeout)

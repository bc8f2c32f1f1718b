"""Connecting to the server, without blocking."""

from __future__ import annotations

import errno
import os
import selectors
import socket

from collections.abc import Callable

from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.proxy.addresses import Server
from pytest_resilience.proxy.event_loop import EventLoop


__all__ = ["Connect"]


class Connect:
    """A connect that is under way: to one address of the server after the other."""

    def __init__(
        self,
        server: Server,
        loop: EventLoop,
        *,
        connected: Callable[[socket.SocketType], None],
        failed: Callable[[OSError], None],
    ) -> None:
        """Exactly one of `connected` and `failed` is called, later, unless it is cancelled."""
        self._addresses = list(server.addresses)
        self._loop = loop
        self._connected = connected
        self._failed = failed
        self._sock: socket.SocketType | None = None

    def start(self) -> None:
        """Try the next address."""
        address = self._addresses.pop(0)
        try:
            # Below `socket.socket`: what other tools and we patch is not for this traffic.
            with limits_lifted():
                sock = socket.SocketType(address.family, socket.SOCK_STREAM)
        except OSError as error:  # no descriptor is left; the next client may find one
            self._failed(error)
            return
        sock.setblocking(False)
        code = sock.connect_ex(address.sockaddr)
        self._sock = sock
        if code in (0, errno.EINPROGRESS):
            self._loop.watch(sock, selectors.EVENT_WRITE, self._ready)
        else:
            self._over(code)

    def cancel(self) -> None:
        """Give it up; harmless when it is over."""
        if self._sock is not None:
            self._loop.watch(self._sock, 0, self._ready)
            with limits_lifted():
                self._sock.close()
            self._sock = None

    def _ready(self, _events: int) -> None:
        if self._sock is not None:
            self._over(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _over(self, code: int) -> None:
        sock = self._sock
        if sock is None:
            return
        if not code:
            self._loop.watch(sock, 0, self._ready)
            self._sock = None
            self._connected(sock)
            return
        self.cancel()
        if self._addresses:
            self.start()
        else:
            self._failed(OSError(code, os.strerror(code)))

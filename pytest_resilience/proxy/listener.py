"""The port that clients connect to: open, or shut so that the kernel refuses."""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket

from collections.abc import Callable

from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.addresses import Address
from pytest_resilience.proxy.addresses import SocketAddress
from pytest_resilience.proxy.event_loop import EventLoop


__all__ = ["Listener", "unavailable"]

_logger = logging.getLogger("pytest_resilience.proxy")
_BACKLOG = 1024  # connections that wait to be accepted: a refusal must be meant
_PAUSE = 0.05  # seconds until another accept where there was no descriptor left
_AT_ONCE = 64  # accepts in a row, so that nobody else has to wait for long


class Listener:
    """A port on loopback. Shut, it stays bound: connecting gives ECONNREFUSED, and nobody
    else is given it who asks for any port.

    Attributes:
        address: where it is, with the real port.
    """

    def __init__(
        self, listen: SocketAddress, loop: EventLoop, accepted: Callable[[socket.SocketType], None]
    ) -> None:
        """Shut at first. Raises ConfigurationError if the port cannot be had."""
        self._family = listen.family
        self._loop = loop
        self._accepted = accepted
        self._open = False
        host, port = listen.sockaddr
        if port:
            self._check_free(host, port)
        self._sock = self._bound(host, port)
        host, port = self._sock.getsockname()[:2]
        self.address = Address(host, port)

    def _check_free(self, host: str, port: int) -> None:
        with self._bound(host, port) as sock:
            try:
                sock.listen(_BACKLOG)  # only this fails where somebody else listens already
            except OSError as error:
                raise unavailable(Address(host, port), error) from error

    def _bound(self, host: str, port: int) -> socket.socket:
        with limits_lifted():
            sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            # The connections of one that was shut are still around; they do not block it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            raise unavailable(Address(host, port), error) from error
        return sock

    def open(self) -> None:
        """Let clients in; harmless when it is open."""
        if not self._open:
            try:
                self._sock.listen(_BACKLOG)
            except OSError as error:
                raise unavailable(self.address, error) from error
            self._open = True
            self._watch()

    def shut(self) -> None:
        """Refuse clients; harmless when it is shut."""
        if self._open:
            self.close()
            self._sock = self._bound(self.address.host, self.address.port)

    def close(self) -> None:
        """Give the port back; harmless when that was done."""
        if self._sock.fileno() < 0:
            return
        self._loop.watch(self._sock, 0, self._ready)
        if self._open:
            with contextlib.suppress(OSError):  # some systems do not know it of a listener
                self._sock.shutdown(socket.SHUT_RDWR)  # of a forked process's copy as well
        self._open = False
        with limits_lifted():
            self._sock.close()

    def close_in_child(self) -> None:
        """In a forked process: close its copy of the port."""
        self._open = False
        self._sock.close()

    def accept_waiting(self) -> None:
        """Accept everybody who has connected already."""
        if self._open:
            self._ready(selectors.EVENT_READ)

    def _watch(self) -> None:
        if self._open:
            self._loop.watch(self._sock, selectors.EVENT_READ, self._ready)

    def _ready(self, _events: int) -> None:
        for _ in range(_AT_ONCE):
            if not self._open:
                return
            try:
                with limits_lifted():
                    client, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # that client has left again
                    _logger.warning("%s cannot accept a client: %s", self.address, error)
                    self._loop.watch(self._sock, 0, self._ready)
                    self._loop.call_at(self._loop.clock.monotonic() + _PAUSE, self._watch)
                return
            # Below `socket.socket`: what other tools and we patch is not for this traffic.
            self._accepted(socket.SocketType(fileno=client.detach()))


def unavailable(address: Address, error: OSError) -> ConfigurationError:
    """For a port that cannot be had."""
    return ConfigurationError(
        f"cannot listen on {address}: {error.strerror or error}; give another port, or port 0 "
        "for any that is free"
    )

"""What the system knows of sockets."""

from __future__ import annotations

import contextlib
import os
import socket

from collections.abc import Iterator
from typing import Any

from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.interceptors.patching import KernelSocket


__all__ = ["borrowed", "ends_of", "is_tcp", "is_udp", "listening_ports"]


def is_tcp(sock: KernelSocket) -> bool:
    """Whether it is one of TCP, connected or not."""
    return _is(sock, socket.SOCK_STREAM)


def is_udp(sock: KernelSocket) -> bool:
    """Whether it is one of UDP."""
    return _is(sock, socket.SOCK_DGRAM)


def _is(sock: KernelSocket, kind: int) -> bool:
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    except OSError:  # closed
        return False
    return found == kind and sock.family in (socket.AF_INET, socket.AF_INET6)


def ends_of(sock: KernelSocket) -> tuple[Any, Any] | None:
    """Its own address and its peer's; None if it has none."""
    try:
        return sock.getsockname(), sock.getpeername()
    except OSError:  # closed, or not connected yet
        return None


def listening_ports() -> frozenset[int]:
    """Where this process listens.

    Asked of the descriptors themselves, and of nobody who would have to be imported: an
    event loop may be waiting.
    """
    ports = set()
    for descriptor in open_descriptors():
        with contextlib.suppress(OSError), borrowed(descriptor) as sock:  # OSError: no socket
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and is_tcp(sock):
                ports.add(sock.getsockname()[1])
    return frozenset(ports)


@contextlib.contextmanager
def borrowed(descriptor: int) -> Iterator[KernelSocket]:
    """A socket object for a while. Raises OSError if it is no socket."""
    timeouts = socket.getdefaulttimeout() is not None  # with which it would not block any more
    blocking = timeouts and os.get_blocking(descriptor)
    sock = KernelSocket(fileno=descriptor)
    try:
        if timeouts:
            os.set_blocking(descriptor, blocking)
        yield sock
    finally:
        sock.detach()

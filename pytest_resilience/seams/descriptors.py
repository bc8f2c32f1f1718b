"""What the system knows of sockets."""

from __future__ import annotations

import contextlib
import os
import select
import socket

from collections.abc import Iterable
from collections.abc import Iterator
from types import BuiltinFunctionType
from typing import Any

from pytest_resilience.seams.patching import KernelSocket


__all__ = ["borrowed", "ends_of", "is_tcp", "is_udp", "listening_ports"]


_AT_ONCE = 256  # descriptors that are asked for
_MOST_FREE = 512  # of them in a row: the system gives the lowest that is free, so above is none


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
    for descriptor in _open_descriptors():
        with contextlib.suppress(OSError), borrowed(descriptor) as sock:  # OSError: no socket
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and is_tcp(sock):
                ports.add(sock.getsockname()[1])
    return frozenset(ports)


def _open_descriptors() -> Iterable[int]:
    """All that are open, by asking for each: to list a folder of the system would block a loop."""
    if isinstance(getattr(select, "poll", None), BuiltinFunctionType):  # and no tool's own
        with contextlib.suppress(OSError):  # more than this process may have
            return list(_polled())
    return map(int, os.listdir("/dev/fd"))


def _polled() -> Iterator[int]:
    start = free = 0
    while free < _MOST_FREE:
        numbers = range(start, start + _AT_ONCE)
        poll = select.poll()
        for number in numbers:
            poll.register(number, 0)
        invalid = {number for number, events in poll.poll(0) if events & select.POLLNVAL}
        yield from (number for number in numbers if number not in invalid)
        free = free + _AT_ONCE if len(invalid) == _AT_ONCE else 0
        start += _AT_ONCE


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

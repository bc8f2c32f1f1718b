"""The file descriptors that this process has open, and what the system says of them."""

from __future__ import annotations

import _socket
import contextlib
import math
import os
import select
import socket
import struct
import sys
import weakref

from collections.abc import Iterable
from collections.abc import Iterator
from types import BuiltinFunctionType
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.locks import living


if sys.platform != "win32":
    import fcntl
    import termios


__all__ = [
    "available", "below", "borrowed", "given", "keep_private", "open_descriptors",
    "private_descriptors", "readable", "readable_descriptors", "taken", "timeout_of",
    "transports_of", "unacknowledged", "unread",
]  # fmt: skip

_NO_TRANSPORTS = weakref.WeakValueDictionary[int, Any]()
_AT_ONCE = 256  # descriptors that are asked for
_MOST_FREE = 512  # of them in a row: the system gives the lowest that is free, so above is none
_CLOSED = 7  # TCP_CLOSE: the first byte of what TCP_INFO gives
_TIMEVAL = struct.Struct("@ll")
_ACKNOWLEDGED = struct.Struct("120xQ")  # `tcpi_bytes_acked` in it, since Linux 4.1
_RECEIVED = struct.Struct("128xQ")  # `tcpi_bytes_received` in it, since Linux 4.1


class _Owner(Protocol):
    def descriptors(self) -> Iterable[int]:
        """Those that are its own."""


_owners: weakref.WeakKeyDictionary[_Owner, None] = weakref.WeakKeyDictionary()


def keep_private(owner: _Owner) -> None:
    """Let nothing happen to the descriptors of an `owner`, as long as it is there.

    For the traffic of the package itself, such as that of its proxies.
    """
    _owners[owner] = None


def private_descriptors() -> frozenset[int]:
    """Those of all such owners."""
    return frozenset(each for owner in living(_owners) for each in owner.descriptors())


def below(function: Any) -> Any:
    """What was there before a fault was told of by `function`, in whose place that stands."""
    return getattr(function, "__wrapped__", function)


def _polls_by_system() -> bool:
    """Whether there is a poll, and it is no tool's own."""
    return isinstance(below(getattr(select, "poll", None)), BuiltinFunctionType)


def open_descriptors() -> frozenset[int]:
    """All descriptors that are open.

    Each is asked for by poll: to list a folder of the system would block an event loop.
    """
    with limits_lifted():  # poll takes as many at once as there may be
        if _polls_by_system():
            with contextlib.suppress(OSError):  # more than this process may have
                return frozenset(number for number, _ in _polled(0))
        return frozenset(_listed())


def readable_descriptors() -> dict[int, int]:
    """Those with something to receive, or an end of it, and what poll says of each (`POLLIN`, …).

    None where it cannot be asked.
    """
    with limits_lifted():
        if _polls_by_system():
            with contextlib.suppress(OSError):
                asked = select.POLLIN | getattr(select, "POLLRDHUP", 0)
                return {number: events for number, events in _polled(asked) if events}
    return {}


def _polled(asked: int) -> Iterator[tuple[int, int]]:
    """Each that is open, with what has happened to it of what is `asked`."""
    start = free = 0
    while free < _MOST_FREE:
        numbers = range(start, start + _AT_ONCE)
        poll = below(select.poll)()
        for number in numbers:
            poll.register(number, asked)
        found = dict(poll.poll(0))
        invalid = {number for number, events in found.items() if events & select.POLLNVAL}
        yield from ((number, found.get(number, 0)) for number in numbers if number not in invalid)
        free = free + _AT_ONCE if len(invalid) == _AT_ONCE else 0
        start += _AT_ONCE


def _listed() -> Iterable[int]:
    for number in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # the one of the list itself
            os.fstat(number)
            yield number


@contextlib.contextmanager
def borrowed(descriptor: int) -> Iterator[socket.SocketType]:
    """A socket object for a while. Raises OSError if it is no socket."""
    timeouts = socket.getdefaulttimeout() is not None  # with which it would not block any more
    blocking = timeouts and os.get_blocking(descriptor)
    sock = _socket.socket(fileno=descriptor)  # below what gevent puts in its place
    try:
        if timeouts:
            os.set_blocking(descriptor, blocking)
        yield sock
    finally:
        sock.detach()


def unread(sock: socket.SocketType) -> int:
    """Bytes that have come and were not received."""
    return _asked(sock, "FIONREAD")


def readable(sock: Any, timeout: float | None) -> bool:
    """Whether there is something to receive, or comes within `timeout` seconds."""
    pending = getattr(sock, "pending", None)  # TLS: decrypted already, invisible to the kernel
    if pending is not None and pending():
        return True
    if not hasattr(select, "poll"):
        return bool(below(select.select)([sock], [], [], timeout)[0])
    poll = below(select.poll)()  # needs no descriptor, of which there may be none left
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(None if timeout is None else math.ceil(timeout * 1000)))


def transports_of(loop: object) -> weakref.WeakValueDictionary[int, Any]:
    """The transports of asyncio that a loop has, by descriptor, closing ones as well."""
    # asyncio's own note; loops in C have none.
    noted: Any = getattr(loop, "_transports", None)
    return noted if type(noted) is weakref.WeakValueDictionary else _NO_TRANSPORTS


def available(sock: Any) -> int:
    """How many bytes there are for a receive, decrypted or else as the kernel has them."""
    pending = getattr(sock, "pending", None)
    if pending is not None and (decrypted := pending()):
        return int(decrypted)
    return unread(sock)


def timeout_of(sock: Any, option: int, *, of_kernel: bool = False) -> float | None:
    """Seconds that a receive (SO_RCVTIMEO) or a send (SO_SNDTIMEO) waits; None for no limit.

    By Python, or where that sets no timeout by the kernel: by that alone, if it is `of_kernel`.
    """
    timeout: float | None = None if of_kernel else sock.gettimeout()
    if timeout is not None:
        return timeout
    with contextlib.suppress(OSError, AttributeError):  # closed, or no socket of the kernel
        given = sock.getsockopt(socket.SOL_SOCKET, option, _TIMEVAL.size)
        seconds, micro = _TIMEVAL.unpack(given)
        return seconds + micro / 1e6 or None
    return None


def taken(sock: socket.SocketType) -> int:
    """How far its owner has received from a TCP `sock`, in bytes; what counts is the difference.

    An end of the stream may count as one byte. Where the system does not count what has come, two
    of these differ by what was received, less what has come meanwhile.
    """
    while True:
        come = _come(sock)
        position = come - unread(sock)
        if come == _come(sock):  # nothing came between the two questions
            return position


def given(sock: socket.SocketType) -> int:
    """How far its owner has sent on a TCP `sock`, in bytes; what counts is the difference.

    The beginning of the stream, and its end, count as one byte each. 0 where that is not told.
    """
    acknowledged = _told(sock, _ACKNOWLEDGED)
    return acknowledged + unacknowledged(sock) if acknowledged else 0


def _come(sock: socket.SocketType) -> int:
    return _told(sock, _RECEIVED)


def _told(sock: socket.SocketType, where: struct.Struct) -> int:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, struct.error):  # closed; or of a version before
            found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, where.size)
            return int(where.unpack(found)[0])
    return 0


def unacknowledged(sock: socket.SocketType) -> int:
    """Bytes that were sent on a TCP `sock`, and that its peer's system does not have yet.

    They are lost with a connection that is reset. 0 where that cannot be known, or is so already.
    """
    if sys.platform != "linux":
        return 0
    with contextlib.suppress(OSError):  # closed
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _CLOSED:
            return _asked(sock, "TIOCOUTQ")  # of sockets it is SIOCOUTQ
    return 0


def _asked(sock: socket.SocketType, what: str) -> int:
    found = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), getattr(termios, what), found)
    except (OSError, ValueError):  # closed
        return 0
    return int.from_bytes(found, sys.byteorder)

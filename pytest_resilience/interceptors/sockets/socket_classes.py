"""What sockets are, and by which classes and modules they are made, also where gevent has."""

from __future__ import annotations

import _socket
import contextlib
import errno
import functools
import math
import os
import select
import selectors
import socket
import sys

from collections.abc import Callable
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pytest_resilience.chaos.descriptors import below
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.interceptors.foreign_objects import is_a


__all__ = [
    "KernelSocket", "SocketsByNumber", "accepting_classes", "another", "ends_of", "given_up",
    "green_module", "has_room", "held", "is_address", "is_tcp", "is_tried", "is_udp",
    "kernel_socket", "leave_no_room", "listening_ports", "lower_mark", "mark_of",
    "python_socket_class", "raise_mark", "selector_classes", "send_patience", "socket_classes",
    "tls_modules", "with_room",
]  # fmt: skip

# What is below `socket.socket`: never replaced, neither by us nor by other tools.
KernelSocket = _socket.socket

_HIGH = 1 << 20  # bytes: more than comes while nobody reads
_HUGE = 1 << 30  # bytes
_SYN_SENT, _CLOSED = 2, 7  # states of a connection: TCP_SYN_SENT, TCP_CLOSE
_SO_BUF_LOCK = 72  # of Linux: whether its user has set the size of a buffer

_tls_modules: list[ModuleType] = []


def python_socket_class() -> Any:
    """The standard library's own class, even where a tool has put another in its place."""
    return next(cls for cls in KernelSocket.__subclasses__() if cls.__module__ == "socket")


def socket_classes() -> list[Any]:
    """Every class whose methods clients call, without TLS."""
    green = getattr(green_module("gevent._socket3"), "socket", None)
    return [python_socket_class(), *([] if green is None else [green])]


def tls_modules() -> list[ModuleType]:
    """Python's `ssl`, loaded if it never was: it may not come after us unseen.

    A test can have taken it out, or let nobody load it, to see how it is without: then it is
    what was there before. And it can have loaded another for itself. A Python that was built
    without has none.
    """
    here = sys.modules.get("ssl")
    if here is None and not _tls_modules:
        try:
            import ssl as here
        except ImportError:
            return []
    here = here if hasattr(here, "SSLSocket") else None
    if here is not None and not _tls_modules:
        _tls_modules.append(here)
    return [*_tls_modules, *([] if here is None or here in _tls_modules else [here])]


def selector_classes() -> list[Any]:
    """Every class of selectors: where gevent has put its own in their place, that too."""
    names = "SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector"
    green = getattr(green_module("gevent.selectors"), "GeventSelector", None)
    found = [*(getattr(selectors, name, None) for name in names), green]
    return [each for each in found if each is not None]


def green_module(name: str) -> Any:
    """A module of gevent, where gevent has put all that waits in the place of Python's; or None.

    Elsewhere nobody can be held up in a greenlet without stopping all of them, so that
    what gevent does there passes untouched.
    """
    is_patched = getattr(sys.modules.get("gevent.monkey"), "is_module_patched", None)
    if is_patched is None or not all(map(is_patched, ("socket", "select", "time"))):
        return None
    return sys.modules.get(name)


def accepting_classes() -> list[Any]:
    """Every class by which servers accept: those of gevent do by what is below its sockets."""
    below = getattr(sys.modules.get("gevent._socket3"), "_wrefsocket", None)
    return [python_socket_class(), *([] if below is None else [below])]


def another(sock: Any, descriptor: int) -> KernelSocket:
    """A socket of the same making, to which the same methods can be applied."""
    made = KernelSocket if isinstance(sock, KernelSocket) else type(sock)
    return made(fileno=descriptor)


def kernel_socket(sock: Any) -> KernelSocket:
    """What is below `sock`, which is that itself unless a tool has made it anew (gevent).

    Raises OSError where it is closed, so that nothing is below it.
    """
    below = sock if isinstance(sock, KernelSocket) else sock._sock  # noqa: SLF001  # gevent's word
    if not isinstance(below, KernelSocket):
        raise os_error(errno.EBADF)
    return below


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
    """Its own address and its peer's; None if it has none.

    As the kernel has them: one of a client of SOCKS tells of whom it has asked its proxy for.
    """
    try:
        below = kernel_socket(sock)
        return KernelSocket.getsockname(below), KernelSocket.getpeername(below)
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
def held(descriptor: int, ends: object) -> Iterator[KernelSocket]:
    """The connection with these `ends`, by a descriptor of our own.

    For what is done from outside: as soon as the number is looked at, its owner may close it,
    and the system give it to what is opened next. Raises OSError if it is not that connection.
    """
    ours = os.dup(descriptor)
    try:
        with borrowed(ours) as sock:
            if ends_of(sock) != ends:
                raise os_error(errno.EBADF)
            yield sock
    finally:
        os.close(ours)


def is_address(address: Any) -> bool:
    """Whether it is a host and a port, as far as that is seen without touching them."""
    if type(address) is tuple and len(address) > 1:
        host, port = address[:2]
        if type(host) is str and type(port) is int:  # as nearly always: this is fast
            return True
    return (
        is_a(address, tuple)
        and tuple.__len__(address) > 1
        and is_a(address[0], str, bytes)
        and is_a(address[1], int)
    )


def leave_no_room(sock: KernelSocket) -> None:
    """Let the kernel say that it takes no more, until the peer has nearly all that was sent.

    Only for a connection that is to be ended then: it would be slow.
    """
    with contextlib.suppress(OSError):  # closed
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # made the least that there is


@contextlib.contextmanager
def with_room(sock: Any, size: int) -> Iterator[None]:
    """Let the kernel take `size` bytes though it has no room left for more, as far as it may.

    What it has taken then, it delivers, in order and before all that is sent later.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # closed; or no descriptor to be had
            stack.callback(_make_room(kernel_socket(sock), size))
        yield


def _make_room(sock: KernelSocket, size: int) -> Callable[[], None]:
    """Do so; returns what puts it back."""
    before, lock = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), None
    if sys.platform != "linux" or before >= _most_room():
        return lambda: None
    with contextlib.suppress(OSError):  # an older system
        lock = sock.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before + size)  # or less, if it may not

    def put_back() -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            # It doubles what it is told, for what it notes about them.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before // 2)
            if lock is not None:
                sock.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, lock)

    return put_back


@functools.cache
def _most_room() -> int:
    """Bytes of the largest buffer that a user may have for what is sent."""
    with contextlib.closing(KernelSocket(socket.AF_INET, socket.SOCK_STREAM)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _HUGE)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def has_room(sock: KernelSocket) -> bool:
    """Whether the kernel says that it takes more."""
    if not hasattr(select, "poll"):
        return bool(below(select.select)([], [sock], [], 0)[1])
    poll = below(select.poll)()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(0))


def raise_mark(sock: KernelSocket) -> int | None:
    """Let the kernel tell of nothing that comes for `sock`, but its end; returns the mark before.

    None where there is no such mark, or somebody else has raised it.
    """
    with contextlib.suppress(OSError, AttributeError):  # closed
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        if before >= _HIGH:
            return None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _HIGH)
        return before
    return None


def lower_mark(sock: KernelSocket, before: int) -> None:
    """Put it back, unless its user has set another meanwhile."""
    with contextlib.suppress(OSError):  # closed
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) >= _HIGH:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, before)


def mark_of(sock: KernelSocket) -> int:
    """How many bytes its user waits for at least (SO_RCVLOWAT)."""
    with contextlib.suppress(OSError, AttributeError):  # closed, or there is none
        mark = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        return mark if mark < _HIGH else 1
    return 1


def send_patience(sock: Any) -> float:
    """Seconds until the kernel gives up on a peer that does not say that it has what was sent."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # as above
            milliseconds: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            return milliseconds / 1e3 or math.inf
    return math.inf


def given_up(sock: KernelSocket) -> bool:
    """Whether the kernel has given up on the peer of a connection that is silent."""
    return _state(sock) == _CLOSED


def is_tried(sock: KernelSocket) -> bool:
    """Whether the kernel tries to connect, whoever waits for it."""
    return _state(sock) == _SYN_SENT


def _state(sock: KernelSocket) -> int | None:
    """Of its connection; None where it is not told."""
    with contextlib.suppress(OSError, AttributeError):  # closed; or another system
        return int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    return None


class SocketsByNumber:
    """Objects for sockets that are used by the number of their descriptor alone, as `os.read` does.

    Of these no object is seen: it was let go of (`detach`), or was not used since anybody looks.

    Attributes:
        passing: the numbers of what no experiment has for a target, be it a socket or a file. One
            leaves when a connection with that number is a target, until the active experiments
            change.
    """

    def __init__(self) -> None:
        self.passing: set[int] = set()
        # Nobody else keeps them. What a connection is used by afterwards may be another object.
        self._made: dict[int, _SocketByNumber] = {}

    def make(self, descriptor: int) -> KernelSocket:
        """One for what has that number now. Raises OSError if it is no socket."""
        made = self._made[descriptor] = _SocketByNumber(descriptor)
        return made

    def is_gone(self, sock: KernelSocket, ends: object) -> bool:
        """Whether `sock` is one of these, and its number is not that of this connection any more.

        Nobody tells of a close by number.
        """
        return type(sock) is _SocketByNumber and ends_of(sock) != ends

    def moved(self, sock: KernelSocket, ends: object) -> object:
        """The `ends` of a connection after a call: a fault may have put another in its place."""
        return ends_of(sock) or ends if type(sock) is _SocketByNumber else ends

    def forget(self) -> None:
        """Nothing is intercepted any more."""
        self.passing.clear()
        self._made.clear()


class _SocketByNumber(KernelSocket):
    """Does not close its descriptor, which is somebody else's, nor change whether that blocks."""

    def __init__(self, descriptor: int) -> None:
        blocking = os.get_blocking(descriptor)
        super().__init__(fileno=descriptor)
        self.settimeout(None)  # where there is a default for new ones
        os.set_blocking(descriptor, blocking)

    def __del__(self) -> None:
        self.detach()

    def gettimeout(self) -> float | None:
        """As whoever has the number meets it."""
        return None if os.get_blocking(self.fileno()) else 0.0

"""Waits for data as parks, and what they mean for time.

A selector with nothing to report parks, and so do the event loops of asyncio; a blocking receive or
accept does too. `Scheduler` asks `Sockets.outlook` whenever nobody runs, before it polls, with all
descriptors that members wait for.

Both ends of a connection may be sockets of members. Then nothing has to be awaited but the bytes
that one end has taken and the other has not yet got. Any other peer lives outside.
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import struct
import sys
import weakref

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pytest_resilience.proc import is_pipe_of_this_process
from pytest_resilience.socket_filters import drops_incoming
from pytest_resilience.socket_filters import sees_acks
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import Outlook
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.tasks import aside
from pytest_resilience.virtual_time.waiting import Outcome
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import nanoseconds
from pytest_resilience.virtual_time.waiting import poll


__all__ = ["Sockets", "install_selectors", "wait_readable"]

_Select = Callable[..., list[tuple[selectors.SelectorKey, int]]]

_COUNTS = sys.platform == "linux"
"""Whether the kernel tells how many bytes each end of a connection has sent and received."""
_INFO = struct.Struct("B127xQ8xI52xQQ")  # of TCP_INFO, since Linux 4.19
_CREDENTIALS = struct.Struct("3i")  # of SO_PEERCRED: the process, and its user and group
_UNREAD = 0x541B  # FIONREAD
_SYN_SENT = 2
_OPEN = {1, 4, 5}  # states in which the other end may still send: ESTABLISHED, FIN_WAIT1 and 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """A TCP socket that is connected.

    Attributes:
        peer: whose other end has `local` and `peer` the other way round.
        is_open: whether more may come.
        received: bytes so far.
        sent: bytes so far, with those that are still to be.
    """

    sock: socket.socket
    peer: object
    is_open: bool
    received: int
    sent: int

    @classmethod
    def of(cls, sock: socket.socket, peer: object) -> _End | None:
        """None where the kernel does not count. Raises OSError."""
        raw = _info(sock)
        if len(raw) < _INFO.size:
            return None
        state, received, unsent, sent, again = _INFO.unpack(raw)
        return cls(
            sock=sock,
            peer=peer,
            is_open=state in _OPEN,
            received=received,
            sent=sent - again + unsent,
        )


def _info(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)


@dataclass(frozen=True, slots=True)
class _Reached:
    """That a socket of a member is connected to this address, of AF_UNIX: it has none itself."""

    address: tuple[object, ...]


class Sockets:
    """The sockets of members, and what is on its way between them.

    Attributes:
        patience: as in `Network`. The kernel may need a moment for what has been sent.
    """

    def __init__(self) -> None:
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.patience = 0

    def add(self, sock: socket.socket) -> None:
        """A member has made `sock`. Needs the mutex of the scheduler, as all here."""
        self._made.add(sock)

    def outlook(self, watched: Iterable[int]) -> Outlook:
        """OUTSIDE if one has a peer that may live elsewhere, FLYING if bytes have not come yet."""
        self.patience = 0
        names, ends, others = self._look()
        made = {sock.fileno(): sock for sock in self._made}
        connected = False
        for fd in watched:
            is_ours = _has_peer_in(names, fd, made.get(fd))
            if is_ours is False:
                return Outlook.OUTSIDE
            connected |= is_ours is True
        if not connected:
            return Outlook.QUIET
        found = [_arrives(end, ends.get((end.peer, local))) for (local, _), end in ends.items()]
        self.patience = 1 if others or None in found else 0
        return Outlook.FLYING if True in found else Outlook.QUIET

    def is_ours(self, sock: socket.socket, address: object) -> bool:
        """Whether a member listens at `address`."""
        name = os.fspath(address) if isinstance(address, os.PathLike) else address
        return _is_among(self._look()[0], (sock.family, sock.type, name), None)

    def _look(self) -> tuple[set[object], dict[tuple[object, object], _End], bool]:
        """Where there are sockets of members, and the ends of connections by both addresses.

        And whether there are other ends, which count no bytes.
        """
        names: set[object] = set()
        ends: dict[tuple[object, object], _End] = {}
        others = False
        for sock in self._made if _COUNTS else ():
            try:
                local = _address(sock, sock.getsockname())
                names.add(local)
                peer = _address(sock, sock.getpeername())
                if sock.family == socket.AF_UNIX:
                    names.add(_Reached(peer))
                end = _End.of(sock, peer) if _is_tcp(sock) else None
            except OSError:
                continue  # closed, or not connected
            if end is not None:
                ends[local, peer] = end
            others |= end is None and sock.family != socket.AF_UNIX  # where nothing is on its way
        return names, ends, others


def _is_tcp(sock: socket.socket) -> bool:
    return sock.family in {socket.AF_INET, socket.AF_INET6} and sock.type == socket.SOCK_STREAM


def _address(sock: socket.socket, name: Any) -> tuple[object, ...]:
    # Of IPv6 the rest says by which interface.
    return (sock.family, sock.type, name[:2] if isinstance(name, tuple) else name)


def _is_among(names: set[object], peer: tuple[object, ...], local: object) -> bool:
    """Whether `peer` is one of `names`, or is reached by one that listens at every address."""
    family, kind, name = peer
    if isinstance(name, tuple):
        peer = family, kind, name[:2]
        every = "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104  # not bound here
        near = {"127.0.0.1", "::1", "localhost"}
        if isinstance(local, tuple):
            near.add(local[0])
        if name[0] in near and (family, kind, (every, name[1])) in names:
            return True
        if name[0] == "localhost":
            peer = family, kind, ("::1" if family == socket.AF_INET6 else "127.0.0.1", name[1])
    return bool(name) and peer in names


def _has_peer_in(names: set[object], fd: int, made: socket.socket | None) -> bool | None:
    """Whether a descriptor's other end is one of `names`; None if it has none to wait for.

    As a listener, or one of a pair. Who is yet to connect does so at once, unless that is far.
    `made`: the socket, if a member has made it.
    """
    if made is not None:
        return _is_connected_to(names, made)
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return None if is_pipe_of_this_process(fd) else False
    try:
        return _is_connected_to(names, sock)
    finally:
        sock.detach()


def _is_connected_to(names: set[object], sock: socket.socket) -> bool | None:
    try:
        peer, local = sock.getpeername(), sock.getsockname()
    except OSError:
        return None if not _is_tcp(sock) or _info(sock)[:1] != bytes([_SYN_SENT]) else False
    # Event loops wake themselves by a pair, whose ends have no names.
    if sock.family == socket.AF_UNIX and not peer and not local:
        return None
    if sock.family == socket.AF_UNIX and not peer:
        return _is_of_this_process(sock) and _Reached(_address(sock, local)) in names
    return _is_among(names, (sock.family, sock.type, peer), local)


def _is_of_this_process(sock: socket.socket) -> bool:
    peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(peer)[0] == os.getpid())


def _arrives(end: _End, other: _End | None) -> bool | None:
    """Whether bytes are on their way to `end`; None if that is not known, as `other` is closed.

    Those that have no room there, for what came before was not read, are held up by a member. What
    a fault keeps from `end` does not come; nor does more from an `other` that sees no receipt.
    """
    if other is None:
        return None if end.is_open else False
    if other.sent <= end.received:
        return False
    try:
        return sees_acks(other.sock) and not (drops_incoming(end.sock) or _unread(end.sock))
    except (OSError, ValueError):
        return False  # closed meanwhile


def _unread(sock: socket.socket) -> int:
    import fcntl

    (answer,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), _UNREAD, bytes(4)))
    return int(answer)


def wait_readable(waits_in: str, fd: int, timeout: int | None, mask: int = select.POLLIN) -> bool:
    """Park this thread until `fd` has data, or another event of `mask`; False if time was up.

    `timeout`: in nanoseconds. Of a thread that waits for real it returns True at once.
    """
    scheduler = current()
    if scheduler is None:
        return True
    waiter = Waiter(waits_in, ((fd, mask),))
    if poll([waiter], 0):
        return True
    return scheduler.wait(waiter, timeout) is not Outcome.TIMED_OUT


def install_selectors(patches: Patches) -> None:
    """Let members that wait in a selector park."""
    for name in ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector"):
        shape: Any = getattr(selectors, name, None)
        if shape is not None:
            patches.set(shape, "select", _select(shape.select))


def _select(real: _Select) -> _Select:
    def select_(self: Any, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        scheduler = current()
        if scheduler is None or (timeout is not None and timeout <= 0):
            return real(self, timeout)
        ready = real(self, 0)
        if ready:
            return ready
        watched = tuple(self.get_map() or ())
        if hasattr(self, "fileno"):
            polled: tuple[tuple[int, int], ...] = ((self.fileno(), select.POLLIN),)
        else:
            polled = tuple((key.fd, _mask(key.events)) for key in self.get_map().values())
        waiter = Waiter("select", polled, watched)
        held = aside(self)
        if held is not None:
            if scheduler.wait(waiter, 0, last=True) is Outcome.TIMED_OUT:
                held.let_go()
        else:
            scheduler.wait(waiter, None if timeout is None else nanoseconds(timeout))
        return real(self, 0)

    select_.__name__ = "select"
    return select_


def _mask(events: int) -> int:
    readable = select.POLLIN if events & selectors.EVENT_READ else 0
    return readable | (select.POLLOUT if events & selectors.EVENT_WRITE else 0)

"""Waits for data as parks, and what they mean for time.

A selector with nothing to report parks, and so do the event loops of asyncio; a blocking receive or
accept does too. `Scheduler` asks `Sockets.outlook` whenever nobody runs, before it polls, with all
descriptors that members wait for.

Both ends of a connection may be sockets of members. Then nothing has to be awaited but the bytes
that one end has taken and the other has not yet got. Any other peer lives outside.
"""

from __future__ import annotations

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

_UNSENT = 0x894B if sys.platform == "linux" else None
"""SIOCOUTQNSD. The bytes that nobody has acknowledged yet would be others: those may have come."""
_UNREAD = 0x541B  # FIONREAD


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """A socket that is connected.

    Attributes:
        local: its own address, as `_address` gives it.
        peer: of the other end.
    """

    sock: socket.socket
    local: object
    peer: object


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
        names, ends = self._look()
        connected = False
        for fd in watched:
            is_ours = _has_peer_in(names, fd)
            if is_ours is False:
                return Outlook.OUTSIDE
            connected |= is_ours is True
        if not connected:
            return Outlook.QUIET
        self.patience = 1
        return Outlook.FLYING if any(_flies(end, ends) for end in ends.values()) else Outlook.QUIET

    def is_ours(self, sock: socket.socket, address: object) -> bool:
        """Whether a member listens at `address`."""
        return _is_among(self._look()[0], (sock.family, sock.type, address), None)

    def _look(self) -> tuple[set[object], dict[object, _End]]:
        """Where there are sockets of members, and the ends of connections by both addresses."""
        names: set[object] = set()
        ends: dict[object, _End] = {}
        for sock in self._made if _UNSENT is not None else ():
            try:
                local = _address(sock, sock.getsockname())
                names.add(local)
                peer = _address(sock, sock.getpeername())
            except OSError:
                continue  # closed, or not connected
            ends[local, peer] = _End(sock=sock, local=local, peer=peer)
        return names, ends


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


def _has_peer_in(names: set[object], fd: int) -> bool | None:
    """Whether a descriptor's other end is one of `names`; None if it has none to wait for.

    As a listener, or one of a pair.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False  # a pipe
    try:
        peer, local = sock.getpeername(), sock.getsockname()
    except OSError:
        return None  # nobody is connected yet
    else:
        # Event loops wake themselves by a pair, whose ends have no names.
        if sock.family == socket.AF_UNIX and not peer and not local:
            return None
        return _is_among(names, (sock.family, sock.type, peer), local)
    finally:
        sock.detach()


def _flies(end: _End, ends: dict[object, _End]) -> bool:
    """Whether bytes that were sent at `end` are yet to come to the other one.

    Those that have no room there, for what came before was not read, are held up by a member.
    """
    other = ends.get((end.peer, end.local))
    if other is None or end.sock.type != socket.SOCK_STREAM or end.sock.family == socket.AF_UNIX:
        return False
    try:
        return bool(_asked(end.sock, _UNSENT)) and not _asked(other.sock, _UNREAD)
    except (OSError, ValueError):
        return False  # closed meanwhile


def _asked(sock: socket.socket, request: int | None) -> int:
    """What the system says of `sock`; on Linux."""
    import fcntl

    assert request is not None
    (answer,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), request, bytes(4)))
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

"""Connections of which a client has made both ends, such as a pipe that wakes its own loop.

It listens on loopback, connects, accepts and closes the listener: where there is no socketpair.
That is no network to anybody. The listener of a test's own server stays, or is another thread's.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import weakref

from collections.abc import Callable
from collections.abc import Container
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING
from typing import Any
from typing import Generic
from typing import Protocol
from typing import TypeVar

from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import borrowed
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import is_tcp


if TYPE_CHECKING:
    from dis import Instruction

__all__ = ["EmulatedSocketPairs", "is_made_here"]

_LOOPBACK = ("127.", "::1", "localhost")
_TALKING = frozenset({
    "makefile", "recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendmsg", "sendto",
})  # fmt: skip
_WITH_ENDS = "with ends"
_TELLING = _TALKING | {"accept", "close", _WITH_ENDS}
_PAIR_IS_MADE = (["accept", "close"], ["accept", _WITH_ENDS])


class _Connection(Protocol):
    owner: Callable[[], socket.socket | None]
    ends: tuple[Any, Any] | None
    turn: Any


_C = TypeVar("_C", bound=_Connection)


class EmulatedSocketPairs(Generic[_C]):
    """Sees by what is done with a listener that both ends are the same client's.

    Attributes:
        found: own and peer's address of both ends of those that were there before.
    """

    def __init__(self) -> None:
        self.found: frozenset[tuple[Any, Any]] = frozenset()
        # By which thread; and with which listener by its id. Only as long as they are known at all.
        self._connected: weakref.WeakKeyDictionary[_C, int] = weakref.WeakKeyDictionary()
        self._accepted: weakref.WeakKeyDictionary[_C, tuple[int, int]]
        self._accepted = weakref.WeakKeyDictionary()

    def find(self, listening: Container[int]) -> None:
        """Look for those that there are: both ends are here, and nobody is `listening` there."""
        there = set()
        for descriptor in open_descriptors():
            with contextlib.suppress(OSError), borrowed(descriptor) as sock:  # OSError: no socket
                ends = ends_of(sock) if is_tcp(sock) else None
                if ends is not None and not any(end[1] in listening for end in ends):
                    there.add(ends)
        self.found = frozenset(ends for ends in there if ends[::-1] in there)

    def connected(self, connection: _C) -> None:
        """This thread has connected."""
        self._connected[connection] = threading.get_ident()

    def accepted(self, listener: KernelSocket, ends: tuple[Any, Any] | None) -> None:
        """This thread has accepted a connection, whose own end is the first of `ends`."""
        me = threading.get_ident()
        for connection, thread in list(self._connected.copy().items()):
            if thread == me and ends is not None and _ends(connection) == ends[::-1]:
                self._accepted[connection] = me, id(listener)

    def closed(self, listener: KernelSocket) -> list[_C]:
        """This thread closes a socket: the connections that this shows to be such pairs."""
        me = threading.get_ident(), id(listener)
        accepted = list(self._accepted.copy().items())
        return [each for each, by in accepted if by == me and not _is_used(each)]


def _ends(connection: _Connection) -> tuple[Any, Any] | None:
    sock = connection.owner()  # connected without blocking, it may have got them since
    return None if sock is None else connection.ends or ends_of(sock)


def _is_used(connection: _Connection) -> bool:
    turn = connection.turn
    return turn.asked or turn.receiving or bool(turn.request)


def is_made_here(address: tuple[Any, ...]) -> bool:
    """Whether the function that connects to `address` makes both ends, and closes the listener.

    For a connect there is nothing else to see it by: the listener is closed after it.
    """
    if not str(address[0]).startswith(_LOOPBACK):
        return False
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # it is documented
    while frame is not None and _is_passed_by(frame):
        frame = frame.f_back
    if frame is None or not _accepts_and_closes(frame):
        return False
    # Last of all: to ask a frame for its locals keeps them, with all that they refer to.
    variables = [*frame.f_locals.values()]
    attributes = [*(or_none(vars, variables[0]) or {}).values()] if variables else []
    return any(_listens(each, address) for each in (*variables, *attributes))


def _accepts_and_closes(frame: FrameType) -> bool:
    """Whether it is what the function does next, and sends or receives nothing before."""
    if "accept" not in frame.f_code.co_names:
        return False
    import dis

    instructions = dis.get_instructions(frame.f_code)
    left = [each for each in instructions if each.offset > frame.f_lasti]
    names = [_WITH_ENDS if _ends_with(left, at) else each.argval for at, each in enumerate(left)]
    calls = [name for name in names if isinstance(name, str) and name in _TELLING]
    while calls[:1] == [_WITH_ENDS]:  # of another than what it listens with
        del calls[0]
    # More than one accept is there where it connects in one way or another.
    return [name for name, _ in itertools.groupby(calls)][:2] in _PAIR_IS_MADE


def _ends_with(instructions: Sequence[Instruction], at: int) -> bool:
    """Whether a `with` ends here in good order: what it calls is given None three times."""
    three = instructions[at : at + 3]
    return [(each.opname, each.argval) for each in three] == [("LOAD_CONST", None)] * 3


def _is_passed_by(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__"))
    ours = module.partition(".")[0] == "pytest_resilience"
    return ours or frame.f_code is socket.create_connection.__code__


def _listens(thing: object, address: tuple[Any, ...]) -> bool:
    if not is_a(thing, KernelSocket):
        return False
    with contextlib.suppress(OSError):  # closed
        sock: Any = thing
        listening = KernelSocket.getsockopt(sock, socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(listening) and KernelSocket.getsockname(sock)[1] == address[1]
    return False

"""Connections of which a client has made both ends, such as a pipe that wakes its own loop.

It listens on loopback, connects, accepts and closes the listener: where there is no socketpair.
That is no network to anybody. The listener of a test's own server stays, or is another thread's.
"""

from __future__ import annotations

import contextlib
import enum
import inspect
import itertools
import socket
import sys
import threading
import weakref

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from types import CodeType
from types import FrameType
from typing import TYPE_CHECKING
from typing import Any
from typing import Generic
from typing import Protocol
from typing import TypeGuard
from typing import TypeVar

from pytest_resilience.chaos.call_site import LOOP
from pytest_resilience.chaos.call_site import control_role
from pytest_resilience.chaos.call_site import current_task
from pytest_resilience.chaos.call_site import tasks_behind
from pytest_resilience.chaos.call_site import user_frames
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import is_tcp
from pytest_resilience.interceptors.sockets.socket_classes import listening_ports
from pytest_resilience.locks import entries


if TYPE_CHECKING:
    from dis import Instruction

__all__ = ["EmulatedSocketPairs", "Origin", "is_made_here"]

_LOOPBACK = ("127.", "::1", "localhost")
_TALKING = frozenset({
    "makefile", "recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendmsg", "sendto",
})  # fmt: skip
_ACCEPTING = {"accept", "sock_accept"}
_LOOPS = ("asyncio", "trio", "anyio")
# Of these, what connects for a stream: nobody makes both ends of one.
_FOR_STREAMS = {"_connect_sock", "attempt_connect"}
_WITH_ENDS = "with ends"
_TELLING = _TALKING | {"accept", "close", _WITH_ENDS}
_PAIR_IS_MADE = (["accept", "close"], ["accept", _WITH_ENDS])
_LISTENER_GOES = (["close"], [_WITH_ENDS])


class Origin(enum.Enum):
    """Who opened a connection: this side, the other one, or a client for itself, at both ends."""

    OPENED = enum.auto()
    ACCEPTED = enum.auto()
    PAIR = enum.auto()


class _Connection(Protocol):
    owner: Callable[[], socket.socket | None]
    ends: tuple[Any, Any] | None
    turn: Any

    @property
    def client(self) -> bool:
        """Whether something can happen to it."""


_C = TypeVar("_C", bound=_Connection)


class EmulatedSocketPairs(Generic[_C]):
    """Sees by what is done with a listener that both ends are the same client's."""

    def __init__(self) -> None:
        # Connections accepted from now on are seen: only those of listeners that are there
        # already have to be known by their port.
        self._listening: frozenset[int] | None = None
        # Own and peer's address of both ends of the pairs: a descriptor that one has in the end may
        # be another than it was made with.
        self._found: set[tuple[Any, Any]] = set()
        # By which thread; and with which listener by its id. Only as long as they are known at all.
        self._connected: weakref.WeakKeyDictionary[_C, int] = weakref.WeakKeyDictionary()
        self._accepted: weakref.WeakKeyDictionary[_C, tuple[int, int]]
        self._accepted = weakref.WeakKeyDictionary()
        # With what each accepted one was.
        self._listeners: weakref.WeakKeyDictionary[_C, weakref.ref[KernelSocket]]
        self._listeners = weakref.WeakKeyDictionary()

    def origin(self, ends: tuple[Any, Any]) -> Origin:
        """Who opened a connection that was there before anybody looked."""
        if ends[0][1] in self._find():
            return Origin.ACCEPTED
        return Origin.PAIR if ends in self._found else Origin.OPENED

    def _find(self) -> frozenset[int]:
        """Look for the pairs that there are: nobody listens where both ends are; who does?"""
        if self._listening is not None:
            return self._listening
        listening = listening_ports()
        there = set()
        for descriptor in open_descriptors():
            with contextlib.suppress(OSError), borrowed(descriptor) as sock:  # OSError: no socket
                ends = ends_of(sock) if is_tcp(sock) else None
                if ends is not None and not any(end[1] in listening for end in ends):
                    there.add(ends)
        self._found |= {ends for ends in there if ends[::-1] in there}
        self._listening = listening  # last: another thread may ask meanwhile
        return listening

    def connected(self, connection: _C) -> None:
        """This thread has connected."""
        self._connected[connection] = threading.get_ident()
        if connection.ends is not None:
            self._note(connection.ends, is_pair=not connection.client)

    def accepted(self, listener: KernelSocket, ends: tuple[Any, Any] | None) -> _C | None:
        """This thread has accepted a connection, whose own end is the first of `ends`.

        Returns that which it has connected itself, if it has made both ends.
        """
        if ends is None:
            return None
        me = threading.get_ident()
        for connection, thread in entries(self._connected):
            if thread == me and _ends(connection) == ends[::-1]:
                self._accepted[connection] = me, id(listener)
                self._note(ends, is_pair=not connection.client)
                return connection
        self._note(ends, is_pair=False)
        return None

    def _note(self, ends: tuple[Any, Any], *, is_pair: bool) -> None:
        """These are used now, by a pair or by somebody else."""
        both = {ends, ends[::-1]}
        if is_pair:
            self._found |= both
        elif self._found:
            self._found -= both

    def serves(self, listener: KernelSocket, accepted: _C) -> None:
        """Keep with which `listener` this was accepted."""
        self._listeners[accepted] = weakref.ref(listener)

    def is_of_server(self, accepted: _C, known: Iterable[_C]) -> bool:
        """Whether a server of this process has accepted it from a client that is `known` here.

        One that a client accepts, as in active FTP, is known by its listener, which does not stay.
        """
        told = self._listeners.get(accepted)
        listener = None if told is None else told()
        stays = told is None or (listener is not None and listener.fileno() >= 0)
        return stays and any(_of_other_end(each, accepted) for each in known)

    def closed(self, listener: KernelSocket) -> list[_C]:
        """This thread closes a socket: the connections that this shows to be such pairs."""
        if _listens(listener):  # and may have accepted before anybody looked
            self._find()
        me = threading.get_ident(), id(listener)
        pairs = [each for each, by in entries(self._accepted) if by == me and not _is_used(each)]
        for ends in filter(None, map(_ends, pairs)):
            self._note(ends, is_pair=True)
        return pairs


def _ends(connection: _Connection) -> tuple[Any, Any] | None:
    sock = connection.owner()  # connected without blocking, it may have got them since
    return connection.ends or (None if sock is None else ends_of(sock))


def _of_other_end(connection: _Connection, accepted: _Connection) -> bool:
    return accepted.ends is not None and _ends(connection) == accepted.ends[::-1]


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
    passed = set()
    while frame is not None and _is_passed_by(frame):
        passed.add(frame.f_code.co_name)
        frame = frame.f_back
    if frame is not None and control_role(frame.f_code) == LOOP and not passed & _FOR_STREAMS:
        frame = _closes_when_tasks_have_connected()
    elif frame is not None and not _accepts_and_closes(frame):
        frame = None
    if frame is None:
        return False
    # Last of all: to ask a frame for its locals keeps them, with all that they refer to.
    variables = [getattr(each, "_sock", each) for each in frame.f_locals.values()]  # as trio's
    attributes = [*(or_none(vars, variables[0]) or {}).values()] if variables else []
    listeners = (each for each in (*variables, *attributes) if _listens(each))
    return any(KernelSocket.getsockname(each)[1] == address[1] for each in listeners)


def _closes_when_tasks_have_connected() -> FrameType | None:
    """Where a task waits for this one, which only connects, and for one that only accepts.

    As in a nursery or a `gather`. None where it does not close the listener next.
    """
    tasks = tasks_behind(current_task())
    frame = next((frames[-1] for frames in map(user_frames, tasks) if frames), None)
    if frame is None:
        return None
    inner = [each for each in frame.f_code.co_consts if isinstance(each, CodeType)]
    accepting = [each for each in (frame.f_code, *inner) if _ACCEPTING & {*each.co_names}]
    if not accepting or any(_is_talking(each) for each in accepting if each in inner):
        return None
    return frame if _calls_left(frame)[:1] in _LISTENER_GOES else None


def _is_talking(code: CodeType) -> bool:
    return any(name.removeprefix("sock_") in _TALKING for name in code.co_names)


def _accepts_and_closes(frame: FrameType) -> bool:
    """Whether it is what the function does next, and sends or receives nothing before."""
    if not _ACCEPTING & {*frame.f_code.co_names}:
        return False
    calls = _calls_left(frame)
    while calls[:1] == [_WITH_ENDS]:  # of another than what it listens with
        del calls[0]
    # More than one accept is there where it connects in one way or another.
    return [name for name, _ in itertools.groupby(calls)][:2] in _PAIR_IS_MADE


def _calls_left(frame: FrameType) -> list[str]:
    """Those that tell, of what the function does next."""
    import dis

    instructions = dis.get_instructions(frame.f_code)
    left = [each for each in instructions if each.offset > frame.f_lasti]
    names = [_WITH_ENDS if _ends_with(left, at) else each.argval for at, each in enumerate(left)]
    texts = (name.removeprefix("sock_") for name in names if isinstance(name, str))
    return [name for name in texts if name in _TELLING]


def _ends_with(instructions: Sequence[Instruction], at: int) -> bool:
    """Whether a `with` ends here in good order: what it calls is given None three times."""
    three = instructions[at : at + 3]
    return [(each.opname, each.argval) for each in three] == [("LOAD_CONST", None)] * 3


def _is_passed_by(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    awaits = package in _LOOPS and frame.f_code.co_flags & inspect.CO_COROUTINE
    return (
        package == "pytest_resilience"
        or bool(awaits)
        or frame.f_code is socket.create_connection.__code__
    )


def _listens(thing: Any) -> TypeGuard[KernelSocket]:
    """Whether it is a socket that listens."""
    with contextlib.suppress(OSError):  # closed
        if is_a(thing, KernelSocket):
            return bool(KernelSocket.getsockopt(thing, socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False

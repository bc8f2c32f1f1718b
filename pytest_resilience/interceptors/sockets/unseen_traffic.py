"""Tells experiments that hit nothing what went past the methods of sockets, as the kernel counts.

Whoever has the number of a descriptor can receive and send by it: a library in C, `os.splice`, a
file that was opened by it, io_uring. Nothing of that can be hit, and nobody would know of it.
"""

from __future__ import annotations

import socket
import weakref

from collections.abc import Iterable

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.descriptors import given
from pytest_resilience.chaos.descriptors import taken
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.seen_operations import UNSEEN
from pytest_resilience.chaos.seen_operations import URGENT
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_calls import is_urgent
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection


__all__ = ["begin", "begin_all", "note_urgent", "tell", "tell_of_all"]

_ENDS = 1  # bytes, as which the kernel counts that a stream begins or ends
# How far each was received from and sent to when somebody last looked, in bytes.
_positions = weakref.WeakKeyDictionary[TcpConnection, tuple[int, int]]()


def note_urgent(engine: Engine, connection: TcpConnection, call: SocketCall) -> None:
    """If `call` asks for urgent data, that is not received: it comes beside the response."""
    if is_urgent(call):
        about = connection.operation(RECEIVE)
        engine.note_unmatched(about._replace(remark=URGENT))


def begin(connection: TcpConnection, sock: socket.socket) -> None:
    """What is received and sent from now on is to be seen."""
    connection.inbound.threads.seen = connection.send_queue.threads.seen = False
    _positions[connection] = taken(sock), given(sock)


def begin_all(connections: Iterable[TcpConnection]) -> None:
    """The same of those that are open."""
    for each in connections:
        if each.client and each.ends is not None and (sock := each.owner()) is not None:
            or_none(begin, each, sock)


def tell_of_all(
    connections: Iterable[TcpConnection], experiments: Iterable[ActiveExperiment]
) -> None:
    """Tell the `experiments`, which end now, of what was not seen on any of these."""
    missed = [each for each in experiments if not each.hits]
    for connection in connections if missed else ():
        if (sock := connection.owner()) is not None:
            tell(connection, sock, missed)


def tell(
    connection: TcpConnection,
    sock: socket.socket,
    experiments: Iterable[ActiveExperiment],
) -> None:
    """Tell those that hit nothing, and may have meant it, what was not seen of `connection`."""
    before = _positions.get(connection) if connection.client else None
    if before is None:
        return
    seen = connection.inbound.threads.seen, connection.send_queue.threads.seen
    now = taken(sock), given(sock)
    for kind, was_seen, began, ended in zip((RECEIVE, SEND), seen, before, now, strict=True):
        if was_seen or ended - began <= _ENDS:
            continue
        operation = connection.operation(kind)._replace(remark=UNSEEN)
        for each in experiments:
            if not each.hits and each.matches_target(operation, ahead=True):
                each.unmatched.note(operation)

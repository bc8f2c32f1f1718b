"""A connection whose peer is gone, in the place of another; pollers see that happen to it."""

from __future__ import annotations

import contextlib
import errno
import functools
import operator
import os
import select
import socket
import struct

from collections.abc import Callable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience import proc
from pytest_resilience.chaos.descriptors import below
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.chaos.descriptors import private_descriptors
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.waiting_clients import Wait
from pytest_resilience.chaos.waiting_clients import waits_still
from pytest_resilience.clock import running_loop
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import given_up
from pytest_resilience.socket_filters import forget


if TYPE_CHECKING:
    from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection

__all__ = [
    "end_given_up",
    "is_at",
    "is_being_made",
    "kept_while_replaced",
    "put_abandoned",
    "replace_under",
    "reset",
]

_HOST = "127.0.0.1"
_NOBODY = struct.pack("@H14x", socket.AF_UNSPEC)  # a struct sockaddr


_replaced: set[TcpConnection] = set()  # just now
_being_made: set[tuple[Any, Any]] = set()  # the ends of both sides


@contextlib.contextmanager
def kept_while_replaced(connection: TcpConnection, sock: socket.SocketType) -> Iterator[None]:
    """In the block `sock` becomes another one: the connection is still the same to all who look."""
    _replaced.add(connection)
    try:
        yield
        connection.ends = ends_of(sock)
    finally:
        _replaced.discard(connection)


def is_at(connection: TcpConnection, sock: socket.SocketType) -> bool:
    """Whether `sock` is of the connection, also while it is replaced.

    Asked twice: it may have been between the looks at the one and the other.
    """
    return any(connection in _replaced or connection.ends == ends_of(sock) for _ in range(2))


def is_being_made(ends: tuple[Any, Any], sock: socket.SocketType) -> bool:
    """Whether `sock`, which had these `ends` just now, is of one that we make: no client's.

    They are noted before it has them, until it is closed. So who has them still, after they were
    seen not to be, is another. Numbers would not tell: those of ours are soon used again.
    """
    return ends in _being_made or ends_of(sock) != ends


def put_abandoned(sock: socket.socket, *, accepted: bool) -> None:
    """Put a connection that its peer has reset, or closed if it was `accepted`, in its place.

    It is one connection, with one end, for all the descriptors that are copies of this one.
    Raises OSError if another thread has closed `sock` meanwhile, or no descriptor is left.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(limits_lifted())
        other = stack.enter_context(_abandoned(accepted=accepted))
        os.set_blocking(other.fileno(), os.get_blocking(sock.fileno()))
        inode = os.fstat(sock.fileno()).st_ino
        copies = _copies(sock.fileno(), inode)
        for number in (sock.fileno(), *copies):
            stack.enter_context(_registered_anew(number))
        forget(sock)
        _put(other, sock)
        for number in copies:
            with contextlib.suppress(OSError), borrowed(number) as copy:
                if os.fstat(number).st_ino == inode:  # still
                    _put(other, copy)


def end_given_up(sock: socket.socket, connection: TcpConnection, error: OSError) -> None:
    """The kernel has given up on the peer, if that is what `error` tells.

    It tells so once; then there is the end for who receives, and EPIPE for who sends.
    """
    if error.errno != errno.ETIMEDOUT:
        return
    with contextlib.suppress(OSError):  # closed meanwhile, or no descriptor to be had
        if not given_up(sock):  # else it really has
            with kept_while_replaced(connection, sock):
                put_abandoned(sock, accepted=False)
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    connection.send_queue.messages.clear()
    connection.send_queue.requests.begin(None)
    connection.is_over()


def _copies(descriptor: int, inode: int) -> list[int]:
    """The other descriptors of its user that are the same connection (`dup`), by its `inode`."""
    found = []
    for number in open_descriptors() - private_descriptors() - {descriptor}:
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.fstat(number).st_ino == inode:
                found.append(number)
    return found


def _put(other: KernelSocket, sock: socket.SocketType) -> None:
    """Let the descriptor of `sock` be one of `other`."""
    inheritable = os.get_inheritable(sock.fileno())
    if (duplicate := _duplicate()) is None:
        os.dup2(other.fileno(), sock.fileno(), inheritable=inheritable)
        return
    last = os.dup(sock.fileno())  # or the call would close it, which may take its time
    try:
        duplicate(other.fileno(), sock, 0 if inheritable else os.O_CLOEXEC)
    finally:
        os.close(last)


class _Descriptor:
    """What ctypes makes of an argument that is a socket: asked for in C, just before the call."""

    from_param = operator.methodcaller("fileno")


@functools.cache
def _duplicate() -> Callable[[int, socket.SocketType, int], int] | None:
    """`dup3` of the C library, with a socket as the target; None where there is none.

    `os.dup2` gives up the interpreter's lock, so that another thread may close the socket, whose
    number is then that of whatever is opened next. Here nobody can between look and act.
    """
    import ctypes  # not before a connection is replaced

    try:
        dup3 = ctypes.PyDLL(None, use_errno=True).dup3
    except (AttributeError, OSError, TypeError):
        return None
    dup3.argtypes = ctypes.c_int, _Descriptor, ctypes.c_int  # type: ignore[assignment]  # it will do

    def duplicate(source: int, target: socket.SocketType, flags: int) -> int:
        found: int = dup3(source, target, flags)
        if found < 0:
            raise OSError(code := ctypes.get_errno(), os.strerror(code))
        return found

    return duplicate


def replace_under(
    wait: Wait, sock: KernelSocket, connection: TcpConnection, *, accepted: bool
) -> bool:
    """Put a connection that its peer has ended in the place of `sock`, while a thread waits.

    `sock`: of `connection`, by a descriptor of our own. The thread's own number could be
    another's at any time: it goes on, and closes it, and somebody opens something. So it is kept
    where it is. What comes for `sock` is dropped, so that nothing wakes it any more, and then it is
    seen to sleep. Returns False, and has replaced nothing, where it had gone on before.
    """
    number = wait.descriptor
    with limits_lifted(), contextlib.ExitStack() as stack:
        other = stack.enter_context(_abandoned(accepted=accepted))
        os.set_blocking(other.fileno(), os.get_blocking(sock.fileno()))
        inode, inheritable = os.fstat(sock.fileno()).st_ino, os.get_inheritable(number)
        copy = stack.enter_context(borrowed(number))
        # In this order: what it sleeps for is what the number stood for, and does so still.
        if not waits_still(wait) or os.fstat(number).st_ino != inode:
            return False
        with kept_while_replaced(connection, other):
            if (duplicate := _duplicate()) is None:
                os.dup2(other.fileno(), number, inheritable=inheritable)
            else:  # as a poll may end by itself just now, whose thread then needs the interpreter
                duplicate(other.fileno(), copy, 0 if inheritable else os.O_CLOEXEC)
        return True


def reset(sock: KernelSocket) -> None:
    """Let who polls `sock` find that its peer has reset it: the next receive says so.

    Those after it find the end. Who is in a receive already would be told something else, by
    some kernels.
    """
    import ctypes  # not before somebody is struck

    # Neither call gives up the interpreter's lock, so nobody receives in between, who would be
    # told that it was never connected.
    ctypes.pythonapi.connect(sock.fileno(), _NOBODY, len(_NOBODY))
    ctypes.pythonapi.shutdown(sock.fileno(), socket.SHUT_RDWR)


@contextlib.contextmanager
def _registered_anew(descriptor: int) -> Iterator[None]:
    """Whoever polls a descriptor goes on polling it when it becomes another socket's.

    The kernel forgets it then in every epoll, which no peer could bring about.
    """
    loop = running_loop()
    if loop is None:
        with _registered_anew_in_epolls(descriptor):
            yield
        return
    selector: Any = getattr(loop, "_selector", None)  # of its own; loops in C have none
    key = None if selector is None else selector.get_map().get(descriptor)
    if key is not None:
        selector.unregister(descriptor)
    try:
        yield
    finally:
        if key is not None:
            selector.register(descriptor, key.events, key.data)


@contextlib.contextmanager
def _registered_anew_in_epolls(descriptor: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        found = []
        for number, events in _epolls_that_poll(descriptor):
            with contextlib.suppress(OSError):  # closed meanwhile
                epoll = stack.enter_context(select.epoll.fromfd(os.dup(number)))
                epoll.unregister(descriptor)
                found.append((epoll, events))
        yield
        for epoll, events in found:
            epoll.register(descriptor, events)


def _epolls_that_poll(descriptor: int) -> Iterator[tuple[int, int]]:
    """The descriptors of those, each with the events that it asks for."""
    if not hasattr(select, "epoll"):  # gevent removes it, and puts back what its own has lost
        return
    with contextlib.suppress(OSError):  # there is no such folder
        for epoll in map(int, os.listdir("/proc/self/fdinfo")):
            for polled, events in proc.polled_by(epoll):
                if polled == descriptor:
                    yield epoll, events


@contextlib.contextmanager
def _abandoned(*, accepted: bool) -> Iterator[KernelSocket]:
    """The client's end of a connection whose other end is gone: closed, or never `accepted`."""
    both: set[tuple[Any, Any]] = set()
    try:
        with contextlib.closing(KernelSocket(socket.AF_INET, socket.SOCK_STREAM)) as client:
            with contextlib.closing(KernelSocket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
                listener.bind((_HOST, 0))
                listener.listen(1)
                client.bind((_HOST, 0))  # or its ends would be known only once it has them
                ends = client.getsockname(), listener.getsockname()
                both |= {ends, ends[::-1]}
                _being_made.update(both)
                client.connect(listener.getsockname())
                if accepted:
                    # What `socket.socket` accepts by; this class has no other.
                    os.close(listener._accept()[0])  # type: ignore[attr-defined]  # noqa: SLF001
            # Closing a listener resets what it has not accepted.
            gone = below(select.poll)()
            gone.register(client.fileno(), select.POLLIN)
            gone.poll(1000)
            yield client
    finally:
        _being_made.difference_update(both)

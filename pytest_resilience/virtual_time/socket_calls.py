"""Blocking calls of sockets, of those of TLS, of `select`, and `os.read` of a pipe, as parks."""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import select
import socket

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience import proc
from pytest_resilience.poll_objects import EpollObject
from pytest_resilience.poll_objects import PollObject
from pytest_resilience.poll_objects import number_of
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.sockets import Sockets
from pytest_resilience.virtual_time.sockets import wait_readable
from pytest_resilience.virtual_time.threads import connecting
from pytest_resilience.virtual_time.threads import outside
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import nanoseconds


if TYPE_CHECKING:
    import ssl


__all__ = ["install_polls", "install_socket_calls", "install_tls"]

# Receiving methods, each with where its flags are.
_RECEIVING = {
    "recv": 1, "recv_into": 2, "recvfrom": 1, "recvfrom_into": 2, "recvmsg": 2, "recvmsg_into": 2,
}  # fmt: skip
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)
_OTHERWISE = _AT_ONCE | socket.MSG_OOB | getattr(socket, "MSG_ERRQUEUE", 0)
# Each with what Python calls it when its time is up. `recv` and `recv_into` read, `sendall` sends.
_CALLS = {
    "do_handshake": "handshake", "read": "read", "send": "write", "unwrap": "read",
    "write": "write",
}  # fmt: skip
# Nobody may take the timeout of a socket for its own while another thread tries something.
_trying = _thread.RLock()


def install_socket_calls(patches: Patches, sockets: Sockets) -> None:
    """Let members that receive, accept or send park, and know the sockets that they make."""
    owner = socket.socket
    for name, flags_at in _RECEIVING.items():
        if hasattr(owner, name):
            patches.set(owner, name, _receive(getattr(owner, name), flags_at))
    patches.set(owner, "_accept", _accept(owner._accept))  # type: ignore[attr-defined]  # noqa: SLF001
    patches.set(owner, "sendall", _sendall(owner.sendall, owner.send))
    patches.set(owner, "send", _send(owner.send))
    patches.set(owner, "connect", _connect(owner.connect, sockets))
    patches.set(owner, "__init__", _init(owner.__init__, sockets))


def _init(real: Callable[..., None], sockets: Sockets) -> Callable[..., None]:
    @functools.wraps(real)
    def __init__(self: socket.socket, *args: Any, **options: Any) -> None:  # noqa: N807
        real(self, *args, **options)
        scheduler = current()
        if scheduler is not None:
            with scheduler.mutex:
                sockets.add(self)

    return __init__


def _timeout(sock: socket.socket) -> int | None:
    seconds = sock.gettimeout()
    return None if seconds is None else nanoseconds(seconds)


def _await(waits_in: str, sock: socket.socket, timeout: int | None, mask: int) -> None:
    """Raises TimeoutError, as the socket does."""
    if sock.fileno() >= 0 and not wait_readable(waits_in, sock.fileno(), timeout, mask):
        raise TimeoutError("timed out")


def _receive(real: Callable[..., Any], flags_at: int) -> Callable[..., Any]:
    @functools.wraps(real)
    def receive(self: socket.socket, *args: Any, **options: Any) -> Any:
        if current() is not None and self.gettimeout() != 0:
            flags = options.get("flags", args[flags_at] if len(args) > flags_at else 0)
            if not (isinstance(flags, int) and flags & _OTHERWISE):
                _await("receive", self, _timeout(self), select.POLLIN)
        return real(self, *args, **options)

    return receive


def _accept(real: Callable[..., Any]) -> Callable[..., Any]:
    def _accept(self: socket.socket) -> Any:
        if current() is not None and self.gettimeout() != 0:
            _await("accept", self, _timeout(self), select.POLLIN)
        return real(self)

    return _accept


def _send(real: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(real)
    def send(self: socket.socket, data: Any, flags: int = 0, /) -> int:
        if current() is None or self.gettimeout() == 0 or flags & _AT_ONCE:
            return real(self, data, flags)
        _await("send", self, _timeout(self), select.POLLOUT)
        return real(self, data, flags)

    return send


def _sendall(real: Callable[..., None], send: Callable[..., int]) -> Callable[..., None]:
    @functools.wraps(real)
    def sendall(self: socket.socket, data: Any, flags: int = 0, /) -> None:
        scheduler = current()
        is_small = self.type != socket.SOCK_STREAM
        if scheduler is None or is_small or self.gettimeout() == 0 or flags & _AT_ONCE:
            real(self, data, flags)
            return
        timeout, began = _timeout(self), scheduler.elapsed.read()
        with memoryview(data) as view, view.cast("B") as rest:
            sent = 0
            while sent < len(rest):
                left = timeout
                if timeout is not None:
                    left = max(0, timeout - (scheduler.elapsed.read() - began))
                _await("send", self, left, select.POLLOUT)
                # A socket without a timeout would wait in C until all has been sent.
                sent += send(self, rest[sent:], flags | (_AT_ONCE if timeout is None else 0))

    return sendall


def _connect(real: Callable[..., None], sockets: Sockets) -> Callable[..., None]:
    @functools.wraps(real)
    def connect(self: socket.socket, address: Any, /) -> None:
        scheduler = current()
        if scheduler is None or self.gettimeout() == 0:
            real(self, address)
            return
        with scheduler.mutex:
            is_ours = sockets.is_ours(self, address)
        if self.type != socket.SOCK_STREAM:
            real(self, address)
            return
        with connecting() if is_ours else outside():
            real(self, address)

    return connect


def install_polls(patches: Patches) -> None:
    """Let members that wait by `os.read` and what `select` has park."""
    patches.set(os, "read", _read(os.read))
    patches.set(select, "select", _select(select.select))
    if hasattr(select, "poll"):
        patches.set(select, "poll", _poll(select.poll))
    if hasattr(select, "epoll"):
        patches.set(select, "epoll", _Epoll)


def _read(real: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    @functools.wraps(real)
    def read(fd: int, length: int, /) -> bytes:
        if current() is not None and os.get_blocking(fd):
            wait_readable("read", fd, None)
        return real(fd, length)

    return read


def _select(real: Callable[..., Any]) -> Callable[..., Any]:
    def select_(
        readers: Any, writers: Any, others: Any, timeout: float | None = None, /
    ) -> tuple[list[Any], list[Any], list[Any]]:
        scheduler = current()
        if scheduler is None or (timeout is not None and timeout <= 0):
            return real(readers, writers, others, timeout)  # type: ignore[no-any-return]
        files = [*readers], [*writers], [*others]
        ready = real(*files, 0)
        if not any(ready):
            masks = (select.POLLIN, select.POLLOUT, select.POLLPRI)
            pairs = zip(files, masks, strict=True)
            polled = tuple((number_of(file), mask) for group, mask in pairs for file in group)
            scheduler.wait(
                Waiter("select", polled), None if timeout is None else nanoseconds(timeout)
            )
            ready = real(*files, 0)
        return ready  # type: ignore[no-any-return]

    select_.__name__ = "select"
    return select_


def _poll(real: Callable[[], Any]) -> Callable[[], _Poll]:
    def poll() -> _Poll:
        return _Poll(real())

    return poll


class _Poll(PollObject):
    """What `select.poll()` makes."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """`timeout`: in milliseconds; None or less than 0 for ever."""
        scheduler = current()
        if scheduler is None or timeout == 0:
            return self._made.poll(timeout)  # type: ignore[no-any-return]
        ready = self._made.poll(0)
        if not ready:
            for_ever = timeout is None or timeout < 0
            limit = None if for_ever or timeout is None else nanoseconds(timeout / 1000)
            scheduler.wait(Waiter("poll", tuple(self.masks.items())), limit)
            ready = self._made.poll(0)
        return ready  # type: ignore[no-any-return]


class _Epoll(EpollObject):
    """What `select.epoll(…)` makes."""

    _make: Any = getattr(select, "epoll", None)  # as it is without virtual time

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """`timeout`: in seconds; None or less than 0 for ever."""
        scheduler = current()
        if scheduler is None or timeout == 0:
            return self._made.poll(timeout, maxevents)  # type: ignore[no-any-return]
        ready = self._made.poll(0, maxevents)
        if not ready:
            limit = None if timeout is None or timeout < 0 else nanoseconds(timeout)
            fd = self._made.fileno()
            watched = tuple(descriptor for descriptor, _ in proc.polled_by(fd))
            scheduler.wait(Waiter("poll", ((fd, select.POLLIN),), watched), limit)
            ready = self._made.poll(0, maxevents)
        return ready  # type: ignore[no-any-return]


def install_tls(patches: Patches) -> None:
    """Let members that wait for a TLS socket park.

    That bytes have come says little, for they may be a part of a record, or what TLS says by
    itself. So each call is tried without waiting until it has what it needs.
    """
    import ssl

    for name, called in _CALLS.items():
        patches.set(ssl.SSLSocket, name, _patient(getattr(ssl.SSLSocket, name), called))


def _patient(real: Callable[..., Any], called: str) -> Callable[..., Any]:
    import ssl

    @functools.wraps(real)
    def call(self: ssl.SSLSocket, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        scheduler = current()
        if scheduler is None or self._sslobj is None:  # type: ignore[attr-defined]
            return real(self, *args, **options)
        with _trying:
            seconds = self.gettimeout()
        if seconds == 0:
            return real(self, *args, **options)
        ends = None if seconds is None else scheduler.elapsed.read() + nanoseconds(seconds)
        while True:
            try:
                with _at_once(self, seconds):
                    return real(self, *args, **options)
            except ssl.SSLWantReadError:
                mask = select.POLLIN
            except ssl.SSLWantWriteError:
                mask = select.POLLOUT
            left = None if ends is None else max(0, ends - scheduler.elapsed.read())
            if not wait_readable(called, self.fileno(), left, mask):
                raise TimeoutError(f"The {called} operation timed out")

    return call


@contextmanager
def _at_once(sock: ssl.SSLSocket, seconds: float | None) -> Iterator[None]:
    """In the block `sock` does not wait."""
    with _trying:
        sock.settimeout(0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # closed meanwhile
                sock.settimeout(seconds)

"""What a client has sent and cannot get through yet."""

from __future__ import annotations

import functools
import socket
import threading

from collections import deque
from collections.abc import Callable
from typing import Any

from pytest_resilience.interceptors.patching import KernelSocket
from pytest_resilience.interceptors.patching import kernel_socket
from pytest_resilience.interceptors.sockets.response_stream import Call
from pytest_resilience.locks import fork_safe


__all__ = ["Backlog", "message_of"]

_MOST = 1 << 18  # bytes: what a kernel takes, more or less, of what nobody acknowledges


class Backlog:
    """The messages of one connection, in order. Any thread may send them on.

    Attributes:
        alone: held by who uses the socket for it, or must not be disturbed there.
        watched: whether a thread has to see when they can be: no loop does.
    """

    def __init__(self) -> None:
        self.watched = False
        self._messages: deque[tuple[Callable[..., int | None], bytes]] = deque()
        self._room = _MOST
        self.alone = fork_safe(self, "alone", threading.RLock)
        self._flushed_by: int | None = None

    def __bool__(self) -> bool:
        return bool(self._messages)

    def keep(self, send: Callable[..., int | None], data: bytes) -> int:
        """Keep as much of `data` as there is room for, to be sent by `send`; how many bytes."""
        kept = min(self._room, len(data))
        if kept or not data:
            self._messages.append((send, data[:kept]))
            self._room -= kept
        return kept

    def flush(self, sock: socket.SocketType) -> None:
        """Send all of it. What was not sent when sending raises is kept."""
        __tracebackhide__ = True
        me = threading.get_ident()
        if not self._messages or self._flushed_by == me:  # what sends may be made of other ways
            return
        with self.alone:
            self._flushed_by = me
            try:
                self._send_on(sock)
            finally:
                self._flushed_by = None

    def _send_on(self, sock: socket.SocketType) -> None:
        __tracebackhide__ = True
        while self._messages:
            send, data = self._messages[0]
            sent = send(sock, data)
            sent = len(data) if sent is None else sent
            self._room += sent
            if sent >= len(data):
                self._messages.popleft()
            else:
                self._messages[0] = (send, data[sent:])


def message_of(call: Call) -> tuple[Callable[..., int | None], bytes]:
    """What `call`, one of a socket's sending methods, would send, and how it can be sent."""
    _, given, *more = call.args
    name, send = call.name, call.func
    if name == "sendmsg":
        return functools.partial(_send_one, send), b"".join(map(bytes, given))
    if name == "sendfile":
        return _send_plain, _content(given, *more, **call.keywords)
    return send, bytes(given)


def _send_plain(sock: Any, data: bytes) -> int:
    return KernelSocket.send(kernel_socket(sock), data)


def _send_one(sendmsg: Callable[..., int], sock: socket.socket, data: bytes) -> int:
    return sendmsg(sock, [data])


def _content(file: Any, offset: int = 0, count: int | None = None) -> bytes:
    """What `socket.sendfile` would send."""
    file.seek(offset)
    return bytes(file.read() if count is None else file.read(count))

"""What a client has sent and cannot get through yet."""

from __future__ import annotations

import functools
import socket
import threading

from collections import deque
from collections.abc import Callable
from typing import Any


__all__ = ["Backlog"]


class Backlog:
    """The messages of one connection, in order. Any thread may send them on."""

    def __init__(self) -> None:
        self._messages: deque[tuple[Callable[..., int | None], bytes]] = deque()
        self._lock = threading.Lock()
        self._flushed_by: int | None = None

    def __bool__(self) -> bool:
        return bool(self._messages)

    def keep(self, call: functools.partial[Any]) -> int | None:
        """Keep what `call` would send; returns what its method returns."""
        _, given, *more = call.args
        name, send = call.func.__name__, call.func
        if name == "sendmsg":
            data = b"".join(map(bytes, given))
            send = functools.partial(_send_one, send)
        elif name == "sendfile":
            data = _content(given, *more, **call.keywords)
            send = socket.SocketType.send
        else:
            data = bytes(given)
        self._messages.append((send, data))
        return None if name == "sendall" else len(data)

    def flush(self, sock: socket.socket) -> None:
        """Send all of it. What was not sent when sending raises is kept."""
        __tracebackhide__ = True
        me = threading.get_ident()
        if not self._messages or self._flushed_by == me:  # what sends may be made of other ways
            return
        with self._lock:
            self._flushed_by = me
            try:
                self._send_on(sock)
            finally:
                self._flushed_by = None

    def _send_on(self, sock: socket.socket) -> None:
        __tracebackhide__ = True
        while self._messages:
            send, data = self._messages[0]
            sent = send(sock, data)
            if sent is None or sent >= len(data):
                self._messages.popleft()
            else:
                self._messages[0] = (send, data[sent:])


def _send_one(sendmsg: Callable[..., int], sock: socket.socket, data: bytes) -> int:
    return sendmsg(sock, [data])


def _content(file: Any, offset: int = 0, count: int | None = None) -> bytes:
    """What `socket.sendfile` would send."""
    file.seek(offset)
    return bytes(file.read() if count is None else file.read(count))

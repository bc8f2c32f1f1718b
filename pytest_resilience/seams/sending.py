"""What happens to what clients send."""

from __future__ import annotations

import contextlib
import functools
import socket

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults import Reset
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.seams import socket_effects
from pytest_resilience.seams.links import Link
from pytest_resilience.seams.loops import Loops


__all__ = ["Sending"]

_SOON = 0.01  # seconds until a full socket is tried again


class Sending:
    """Lets clients send, and keeps what cannot get through until it can."""

    def __init__(self, engine: Engine, loops: Loops) -> None:
        self._engine = engine
        self._loops = loops

    def send(self, sock: socket.socket, link: Link, call: functools.partial[Any]) -> Any:
        """`call`, one of the socket's sending methods with what it was given."""
        __tracebackhide__ = True
        if link.script is not None:  # it said that it would close
            link.script = None
            socket_effects.fail(sock, Reset())
        if self._is_cut(sock, link):
            result = _keep(link, call)
        else:
            self.catch_up(sock, link)
            result = call()
        link.spoke(call.args[1] if len(call.args) > 1 else b"", self._engine.clock.monotonic())
        return result

    def _is_cut(self, sock: socket.socket, link: Link) -> bool:
        if link.cut is not None and link.cut.left():
            return True
        if not self._engine.has(SEND):
            return False
        link.cut = self._engine.ask(link.operation(SEND))
        if link.cut is None:
            return False
        if sock.gettimeout() == 0:  # nobody blocks here who would notice when it is over
            self._loops.after(link.cut, lambda: self._catch_up_at_once(sock, link))
        return True

    def catch_up(self, sock: socket.socket, link: Link) -> None:
        """Send what could not get through. Raises what sending raises."""
        __tracebackhide__ = True
        link.cut = None
        while link.unsent:
            send, data = link.unsent[0]
            sent = send(sock, data)
            link.unsent.popleft()
            if sent is not None and sent < len(data):
                link.unsent.appendleft((send, data[sent:]))

    def _catch_up_at_once(self, sock: socket.socket, link: Link) -> None:
        try:
            with contextlib.suppress(OSError):  # gone; whoever uses it next is told
                try:
                    self.catch_up(sock, link)
                finally:
                    link.sent_at = self._engine.clock.monotonic()
        finally:
            if link.unsent and sock.fileno() >= 0:
                self._loops.later(_SOON, lambda: self._catch_up_at_once(sock, link))


def _keep(link: Link, call: functools.partial[Any]) -> int | None:
    """Keep what was to be sent; returns what its method returns."""
    name = call.func.__name__
    send, given = call.func, call.args[1]
    if name == "sendmsg":
        data = b"".join(map(bytes, given))
        send = _one_by_one(send)
    elif name == "sendfile":
        data = _content(*call.args[1:], **call.keywords)
        send = socket.SocketType.send
    else:
        data = bytes(given)
    link.unsent.append((send, data))
    return None if name == "sendall" else len(data)


def _one_by_one(sendmsg: Callable[..., int]) -> Callable[..., int]:
    return lambda sock, data: sendmsg(sock, [data])


def _content(file: Any, offset: int = 0, count: int | None = None) -> bytes:
    """What `socket.sendfile` would send."""
    file.seek(offset)
    return bytes(file.read() if count is None else file.read(count))

"""What happens to what clients send."""

from __future__ import annotations

import contextlib
import functools
import socket

from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults import Reset
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.seams import socket_effects
from pytest_resilience.seams.links import Link
from pytest_resilience.seams.links import Links
from pytest_resilience.seams.loops import Loops
from pytest_resilience.seams.tls_objects import TlsObjects
from pytest_resilience.seams.tls_records import beginning


__all__ = ["Sending"]

_SOON = 0.01  # seconds until a full socket is tried again


class Sending:
    """Lets clients send, and keeps what cannot get through until it can."""

    def __init__(self, engine: Engine, links: Links, loops: Loops, tls_objects: TlsObjects) -> None:
        self._tls_objects = tls_objects
        self._engine = engine
        self._links = links
        self._loops = loops

    def send(self, sock: socket.socket, link: Link, call: functools.partial[Any]) -> Any:
        """`call`, one of the socket's sending methods with what it was given."""
        __tracebackhide__ = True
        if link.script is not None and not link.ended:  # it said that it would close
            link.script = None
            socket_effects.fail(sock, Reset())
        message = beginning(call.args[1] if len(call.args) > 1 else b"")
        at_once = sock.gettimeout() == 0
        before = link.receiving
        if not at_once:  # another thread may hear the answer before this one is back
            link.spoke(message, self._engine.clock.monotonic())
        try:
            result = self._say(sock, link, call)
        except OSError:
            link.receiving = before  # there is nothing new to be answered
            raise
        link.sent_at = self._engine.clock.monotonic()
        if at_once:
            link.spoke(message, link.sent_at)
            self._loops.spoke(link.sent_at)
        if link.shaking and not link.unsealed:
            self._tls_objects.said_hello(link, message)
        return result

    def _say(self, sock: socket.socket, link: Link, call: functools.partial[Any]) -> Any:
        __tracebackhide__ = True
        if self._is_cut(sock, link):
            return link.backlog.keep(call)
        link.backlog.flush(sock)
        return call()

    def _is_cut(self, sock: socket.socket, link: Link) -> bool:
        """Whether nothing gets through; once that is so, it stays so for a while."""
        if link.cut is not None and link.cut.left():
            return True
        link.cut = self._engine.ask(link.operation(SEND)) if self._engine.has(SEND) else None
        if link.cut is None:
            return False
        if sock.gettimeout() == 0:  # nobody blocks here who would notice when it is over
            self._loops.after(link.cut, lambda: self._flush_soon(sock, link))
        return True

    def flush_all(self) -> None:
        """Send on, everywhere, what nothing keeps back any more."""
        for link in self._links.all():
            sock = link.owner()
            if sock is not None and link.backlog and not (link.cut and link.cut.left()):
                self._flush(sock, link)

    def _flush_soon(self, sock: socket.socket, link: Link) -> None:
        self._flush(sock, link)
        if link.backlog and sock.fileno() >= 0:
            self._loops.later(_SOON, lambda: self._flush_soon(sock, link))

    def _flush(self, sock: socket.socket, link: Link) -> None:
        with contextlib.suppress(OSError):  # full; or gone, and whoever uses it next is told
            link.backlog.flush(sock)
        link.sent_at = self._engine.clock.monotonic()

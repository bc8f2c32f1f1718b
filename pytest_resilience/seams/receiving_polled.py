"""What happens to what a program receives that polls its sockets by itself.

As one on `selectors` does, and trio, and `loop.sock_recv`. Nothing is taken from the kernel
before it may be heard: until then there is nothing yet.
"""

from __future__ import annotations

import functools
import socket

from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.seams import hearing
from pytest_resilience.seams import socket_effects
from pytest_resilience.seams.courses import Course
from pytest_resilience.seams.courses import Ending
from pytest_resilience.seams.links import Link
from pytest_resilience.seams.readiness import Readiness
from pytest_resilience.seams.receipt import Receipt


__all__ = ["ReceivingPolled"]


class ReceivingPolled:
    """Lets clients that poll receive what, and when, the experiments leave them."""

    def __init__(self, engine: Engine, readiness: Readiness) -> None:
        self._engine = engine
        self._readiness = readiness

    def receive(self, sock: socket.socket, link: Link, call: functools.partial[Any]) -> Any:
        """`call`, one of the socket's receiving methods with what it was given."""
        __tracebackhide__ = True
        if link.ending is not None:
            return self._end(sock, link, link.ending, Receipt(call))
        if sock.fileno() < 0:
            return call()  # which says so
        if link.answer is None and not socket_effects.readable(sock, 0):
            raise socket_effects.nothing_yet(sock)
        silent = hasattr(sock, "pending") and not link.asked  # what comes in TLS is no answer
        if not link.receiving and not silent:
            hearing.turn(self._engine, link)
            if link.answer is not None:
                link.due = self._engine.clock.monotonic() + link.answer.delay
        if link.answer is not None and link.due is not None:
            answer, due = link.answer, link.due
            self._readiness.hold(sock, link, answer, due)
            link.answer = None
            hearing.begin(sock, link, answer, due)
            if link.script is not None:
                return hearing.recite(sock, link, link.script, call)
        if link.course is None and not self._engine.has(CLOSE):
            return call()
        return self._proceed(sock, link, link.course, Receipt(call))

    def _proceed(
        self, sock: socket.socket, link: Link, course: Course | None, receipt: Receipt
    ) -> Any:
        __tracebackhide__ = True
        if course is None:
            data = receipt.fetch()
        else:
            data = receipt.fetch(self._await_piece(sock, link, course, receipt.size))
            course.ready = max(0, course.ready - len(data))
            course.idle = not socket_effects.available(sock)
        if not data and receipt.size:
            return self._close(sock, link, receipt)
        return receipt.deliver(data if course is None else hearing.take(sock, link, course, data))

    def _await_piece(
        self, sock: socket.socket, link: Link, course: Course, most: int
    ) -> int | None:
        """How many bytes may be taken now; None for any number."""
        __tracebackhide__ = True
        piece = course.piece
        if piece is None:
            return None
        if not course.ready:
            size = min(piece, socket_effects.available(sock))
            if size:  # or it is the end
                due = course.expect(size, idle=course.idle)
                self._readiness.hold(sock, link, course.effect, due)
                course.ready = size
        return min(most, course.ready or 1)

    def _close(self, sock: socket.socket, link: Link, receipt: Receipt) -> Any:
        """The end of what the peer sends has been received."""
        __tracebackhide__ = True
        effect = None if link.ended else self._engine.ask(link.operation(CLOSE))
        link.ended = True
        if effect is None:
            return receipt.deliver(b"")
        link.ending = Ending(self._engine.clock.monotonic() + effect.delay, effect)
        return self._end(sock, link, link.ending, receipt)

    def _end(self, sock: socket.socket, link: Link, ending: Ending, receipt: Receipt) -> Any:
        """Tell of the end when it is there."""
        __tracebackhide__ = True
        self._readiness.hold(sock, link, ending.effect, ending.due)
        link.ending = None
        return receipt.deliver(b"")

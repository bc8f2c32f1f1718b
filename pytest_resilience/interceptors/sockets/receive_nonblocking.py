"""What happens to what a program receives that polls its sockets by itself.

As one on `selectors` does, and trio, and `loop.sock_recv`. Nothing is taken from the kernel
before it may be heard: until then there is nothing yet.
"""

from __future__ import annotations

import functools
import socket

from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets import response
from pytest_resilience.interceptors.sockets.connections import Link
from pytest_resilience.interceptors.sockets.readiness import Readiness
from pytest_resilience.interceptors.sockets.response_stream import Call
from pytest_resilience.interceptors.sockets.response_stream import Course
from pytest_resilience.interceptors.sockets.response_stream import Ending
from pytest_resilience.interceptors.sockets.response_stream import Receipt
from pytest_resilience.interceptors.sockets.wire_format import RECORD


__all__ = ["ReceivingPolled"]


class ReceivingPolled:
    """Lets clients that poll receive what, and when, the experiments leave them."""

    def __init__(self, engine: Engine, readiness: Readiness) -> None:
        self._engine = engine
        self._readiness = readiness

    def receive(self, sock: socket.socket, link: Link, call: Call) -> Any:
        """`call`, one of the socket's receiving methods with what it was given."""
        __tracebackhide__ = True
        if not effects.speaks_tls(sock):
            return self._receive(sock, link, call)
        with link.backlog.alone:  # TLS bears no two at once, and the backlog may be sent on
            return self._receive(sock, link, call)

    def _receive(self, sock: socket.socket, link: Link, call: Call) -> Any:
        __tracebackhide__ = True
        if sock.fileno() < 0:
            return call()  # which says so
        if not self._readiness.ask(sock, link):
            self._look(sock, link)
        if link.script is not None:
            return response.recite(sock, link, link.script, call)
        if link.ending is not None:
            link.ending = None
            return Receipt(call).deliver(b"")
        if link.before:
            return self._hear_before(sock, link, Receipt(call))
        if link.course is None and CLOSE not in self._engine.active_kinds:
            result = call()
        else:
            result = self._proceed(sock, link, Receipt(call))
        link.again = None
        return result

    def _look(self, sock: socket.socket, link: Link) -> None:
        """Nothing is held: what is there, and what happens to it?"""
        __tracebackhide__ = True
        if link.ending is not None:
            self._hold_the_end(sock, link, link.ending)
            return
        if link.before:
            return
        if not effects.readable(sock, 0):
            raise effects.nothing_yet(sock)
        since = link.sent_at if link.shaded else self._engine.clock.monotonic()
        # Unasked, what comes in TLS is no answer.
        if not link.receiving and (link.asked or not effects.speaks_tls(sock)):
            link.course = link.decrypted = None
            link.shaded = False
            response.turn(self._engine, link)
            if link.answer is not None:
                link.due = since + link.answer.delay
        elif link.again is not None:  # all that had come was TLS's own
            link.answer, link.due = link.again, since + link.again.delay
        answer, link.answer = link.answer, None
        if answer is not None and link.due is not None:
            size = 0 if effects.speaks_tls(sock) else effects.available(sock)
            then = functools.partial(self._begin, sock, link, answer, link.due, size)
            self._readiness.hold(sock, link, answer, link.due, then)

    @staticmethod
    def _begin(  # as `hearing.begin`, of so many bytes
        sock: socket.socket, link: Link, answer: Effect, began: float, size: int
    ) -> None:
        """An answer of which `size` bytes were there when it was held back may be heard."""
        __tracebackhide__ = True
        if not link.receiving and size:  # more was asked meanwhile, and may be answered
            link.before = size
            link.shaded = effects.available(sock) > size
        response.begin(sock, link, answer, began)
        if effects.speaks_tls(sock) and link.course is None and link.script is None:
            link.again = answer

    def _hear_before(self, sock: socket.socket, link: Link, receipt: Receipt) -> Any:
        """Receive what had come before more was asked, and nothing else."""
        __tracebackhide__ = True
        data = receipt.fetch(link.before)
        link.before = max(0, link.before - len(data)) if data else 0
        return receipt.deliver(response.take(sock, link, data))

    def _proceed(self, sock: socket.socket, link: Link, receipt: Receipt) -> Any:
        __tracebackhide__ = True
        course = link.course
        if course is None:
            data = receipt.fetch()
        elif effects.speaks_tls(sock):
            data = self._fetch_decrypted(sock, link, course, receipt)
        else:
            data = receipt.fetch(self._await_piece(sock, link, course, receipt.size))
            course.ready = max(0, course.ready - len(data))
            course.idle = not effects.available(sock)
        if not data and receipt.size:
            return self._close(sock, link, receipt)
        return receipt.deliver(response.take(sock, link, data))

    def _await_piece(
        self, sock: socket.socket, link: Link, course: Course, most: int
    ) -> int | None:
        """How many bytes may be taken now; None for any number."""
        __tracebackhide__ = True
        piece = course.piece
        if piece is None:
            return None
        if not course.ready:
            size = min(piece, effects.available(sock))
            if size:  # or it is the end
                due = course.expect(size, idle=course.idle)
                then = functools.partial(setattr, course, "ready", size)
                self._readiness.hold(sock, link, course.effect, due, then)
        return min(most, course.ready or 1)

    def _fetch_decrypted(self, sock: Any, link: Link, course: Course, receipt: Receipt) -> bytes:
        """TLS gives nothing of a record before the line has carried it all."""
        __tracebackhide__ = True
        there = 0 if sock.pending() else min(RECORD, effects.available(sock))
        if course.piece is not None and there > course.ready:
            due = course.expect_more(there - course.ready, idle=course.idle)
            then = functools.partial(setattr, course, "ready", there)
            self._readiness.hold(sock, link, course.effect, due, then)
        try:
            data = receipt.fetch()
        except OSError:  # what has come is nothing to be heard, or not all of a record
            course.carry()
            course.ready, course.idle = 0, True
            raise
        course.idle = not effects.available(sock)
        course.ready = 0 if course.idle else max(0, course.ready - len(data))
        return data

    def _close(self, sock: socket.socket, link: Link, receipt: Receipt) -> Any:
        """The end of what the peer sends has been received."""
        __tracebackhide__ = True
        effect = response.end(self._engine, link)
        if effect is not None:
            link.ending = Ending(self._engine.clock.monotonic() + effect.delay, effect)
            self._hold_the_end(sock, link, link.ending)
            link.ending = None
        return receipt.deliver(b"")

    def _hold_the_end(self, sock: socket.socket, link: Link, ending: Ending) -> None:
        __tracebackhide__ = True
        self._readiness.hold(sock, link, ending.effect, ending.due, lambda: None)

"""What happens to what clients receive."""

from __future__ import annotations

import contextlib
import socket

from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets import response
from pytest_resilience.interceptors.sockets.asyncio_loops import Loops
from pytest_resilience.interceptors.sockets.connections import Link
from pytest_resilience.interceptors.sockets.readiness import Readiness
from pytest_resilience.interceptors.sockets.receive_asyncio import ReceivingInLoops
from pytest_resilience.interceptors.sockets.receive_nonblocking import ReceivingPolled
from pytest_resilience.interceptors.sockets.response_stream import Call
from pytest_resilience.interceptors.sockets.response_stream import Course
from pytest_resilience.interceptors.sockets.response_stream import Ending
from pytest_resilience.interceptors.sockets.response_stream import Receipt
from pytest_resilience.interceptors.sockets.response_stream import flags_of


__all__ = ["Receiving"]

_NO_TIME = 0.0005  # seconds in which nobody waits
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)  # not on every system


class Receiving:
    """Lets clients receive what, and when, the experiments leave them."""

    def __init__(self, engine: Engine, loops: Loops, readiness: Readiness) -> None:
        self._engine = engine
        self._loops = loops
        self._in_loops = ReceivingInLoops(engine, loops)
        self._readiness = readiness
        self._polled = ReceivingPolled(engine, readiness)

    def receive(self, sock: socket.socket, link: Link, call: Call) -> Any:
        """`call`, one of the socket's receiving methods with what it was given."""
        __tracebackhide__ = True
        if link.script is not None:
            return response.recite(sock, link, link.script, call)
        if _is_at_once(sock, call):
            if flags_of(call) & socket.MSG_PEEK:  # who looks whether anybody is there still
                return call()
            way = self._in_loops if self._loops.reads(sock) else self._polled
            return way.receive(sock, link, call)
        self._readiness.release(link)
        if link.ending is not None:
            return self._end(sock, link, link.ending, Receipt(call))
        if link.receiving and link.answer is None and not link.unread:
            effects.await_more(sock)  # of this answer; or another thread asks meanwhile
        asked_at = self._engine.clock.monotonic()
        expected, asked = not link.receiving, link.asked
        if expected:
            response.turn(self._engine, link)
        elif link.answer is not None and not link.answer.left():
            link.answer = None  # held back by what has ended since
        answer = link.answer
        if answer is not None:
            if link.unsure and asked and answer.pace is None:
                self._make_sure(link, answer, Receipt(call))
            effects.await_answer(sock, link, answer, asked_at)
            link.answer = None
            response.begin(sock, link, answer, self._engine.clock.monotonic())
            if answer.failure is not None and not answer.failure.needs_body:
                link.unread = b""  # it is lost
        link.backlog.flush(sock)
        if link.unread:
            return self._hear_unread(sock, link, call)
        result = self._proceed(sock, link, call)
        if expected and not asked:  # whoever may have asked meanwhile: this is the answer
            link.receiving = True
        return result if expected or link.receiving else self._hear_late(sock, link, call, result)

    @staticmethod
    def _make_sure(link: Link, answer: Effect, receipt: Receipt) -> None:
        """Know when the answer has come: what TLS 1.3 has to say first looks the same.

        It can only be told apart by receiving. What has to wait for that is kept for then.
        """
        __tracebackhide__ = True
        failure = answer.failure
        if answer.delay == float("inf") or (failure is not None and not failure.answered):
            return  # nobody waits for what is lost
        began = answer.clock.monotonic()
        link.unread = receipt.fetch()
        link.unsure = False
        now = answer.clock.monotonic()
        link.due = (now if now - began > _NO_TIME else link.sent_at) + answer.delay

    def _hear_unread(self, sock: socket.socket, link: Link, call: Call) -> Any:
        __tracebackhide__ = True
        receipt = Receipt(call)
        if link.script is not None:
            return response.recite(sock, link, link.script, call)
        data, link.unread = link.unread[: receipt.size], link.unread[receipt.size :]
        return receipt.deliver(response.take(sock, link, data))

    def _hear_late(self, sock: socket.socket, link: Link, call: Call, result: Any) -> Any:
        """Another thread has asked while TLS waited for this within its own receive.

        It cannot be put back: so it is late even where the socket's timeout is shorter.
        """
        __tracebackhide__ = True
        arrived = self._engine.clock.monotonic()
        response.turn(self._engine, link)
        answer, link.answer = link.answer, None
        if answer is None or flags_of(call) & socket.MSG_PEEK:
            return result
        if answer.failure is None and (answer.delay < float("inf") or answer.transient):
            effects.hold_a_call(answer)
        else:
            effects.hold_until(sock, arrived + answer.delay, answer)
        response.begin(sock, link, answer, arrived + answer.delay)
        return response.instead(sock, link, answer, call, result)

    def _proceed(self, sock: socket.socket, link: Link, call: Call) -> Any:
        """Receive, on a blocking socket that nothing holds up."""
        __tracebackhide__ = True
        if link.course is None and link.script is None and CLOSE not in self._engine.active_kinds:
            return call()
        if link.script is not None:
            return response.recite(sock, link, link.script, call)
        receipt = Receipt(call)
        if receipt.peeks or not receipt.size:
            return call()
        data = self._next(sock, link, receipt)
        if not data and not (link.course is not None and link.course.ended):
            return self._close(sock, link, receipt)
        while receipt.wants_all and data and len(data) < receipt.size:
            with contextlib.suppress(TimeoutError):  # what is there is better than nothing
                more = self._next(sock, link, receipt, receipt.size - len(data))
                data += more
                if more:
                    continue
            break
        return receipt.deliver(data)

    def _next(
        self, sock: socket.socket, link: Link, receipt: Receipt, most: int | None = None
    ) -> bytes:
        """What comes next, when it is there: nothing is taken before, which might be lost."""
        __tracebackhide__ = True
        course = link.course
        if course is None:
            return receipt.fetch(most)
        if course.ended:
            return b""
        if course.piece is not None:
            if not course.ready:
                self._await_piece(sock, course, course.piece)
            most = min(receipt.size if most is None else most, course.ready or 1)
        data = receipt.fetch(most)
        course.ready = max(0, course.ready - len(data))
        return response.take(sock, link, data) if data else b""

    @staticmethod
    def _await_piece(sock: socket.socket, course: Course, piece: int) -> None:
        __tracebackhide__ = True
        idle = not effects.readable(sock, 0)
        effects.await_more(sock)
        size = min(piece, effects.available(sock))
        if size:  # or it is the end
            effects.hold_until(sock, course.expect(size, idle=idle), course.effect)
            course.ready = size

    def _close(self, sock: socket.socket, link: Link, receipt: Receipt) -> Any:
        """The end of what the peer sends has been received."""
        __tracebackhide__ = True
        effect = response.end(self._engine, link)
        if effect is None:
            return receipt.deliver(b"")
        due = self._engine.clock.monotonic() + effect.delay
        return self._end(sock, link, Ending(due, effect), receipt)

    def _end(self, sock: socket.socket, link: Link, ending: Ending, receipt: Receipt) -> Any:
        """Tell of the end when it is there."""
        __tracebackhide__ = True
        link.ending = ending
        effects.hold_until(sock, ending.due, ending.effect)
        link.ending = None
        return receipt.deliver(b"")


def _is_at_once(sock: socket.socket, call: Call) -> bool:
    """Whether `call` waits for nothing. Where there is a timeout, Python waits despite the flag."""
    timeout = sock.gettimeout()
    return timeout == 0 or (timeout is None and bool(flags_of(call) & _AT_ONCE))

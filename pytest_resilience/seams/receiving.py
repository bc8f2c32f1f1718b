"""What happens to what clients receive."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import socket

from typing import Any

from pytest_resilience.chaos.answers import Alteration
from pytest_resilience.chaos.answers import MadeUpAnswer
from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.seams import socket_effects
from pytest_resilience.seams.courses import Course
from pytest_resilience.seams.courses import Ending
from pytest_resilience.seams.decrypted import Decrypted
from pytest_resilience.seams.links import Link
from pytest_resilience.seams.loops import Loops
from pytest_resilience.seams.receipt import Receipt
from pytest_resilience.seams.receipt import flags_of


__all__ = ["Receiving"]

_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)  # not on every system


class Receiving:
    """Lets clients receive what, and when, the experiments leave them."""

    def __init__(self, engine: Engine, loops: Loops) -> None:
        self._engine = engine
        self._loops = loops

    def receive(self, sock: socket.socket, link: Link, call: functools.partial[Any]) -> Any:
        """`call`, one of the socket's receiving methods with what it was given."""
        __tracebackhide__ = True
        if link.ending is not None:
            return self._end(sock, link, link.ending, Receipt(call))
        if link.script is not None:
            return self._recite(sock, link, link.script, call)
        flags = flags_of(call)
        if sock.gettimeout() == 0 or flags & _AT_ONCE:
            peeks = flags & socket.MSG_PEEK  # who looks whether anybody is there still
            return call() if peeks else self._receive_at_once(sock, link, call)
        if link.receiving and link.answer is None:
            socket_effects.await_more(sock)  # of this answer; or another thread asks meanwhile
        asked_at = self._engine.clock.monotonic()
        expected, asked = not link.receiving, link.asked
        if expected:
            self._turn(link, blocking=True)
        elif link.answer is not None and not link.answer.left():
            link.answer = None  # held back by what has ended since
        answer = link.answer
        if answer is not None:
            socket_effects.await_answer(sock, link, answer, asked_at)
            link.answer = None
            self._begin(sock, link, answer, self._engine.clock.monotonic())
        link.backlog.flush(sock)
        result = self._proceed(sock, link, call)
        if expected and not asked:  # whoever may have asked meanwhile: this is the answer
            link.receiving = True
        return result if expected or link.receiving else self._hear_late(sock, link, call, result)

    def _hear_late(
        self, sock: socket.socket, link: Link, call: functools.partial[Any], result: Any
    ) -> Any:
        """Another thread has asked while TLS waited for this within its own receive.

        It cannot be put back: so it is late even where the socket's timeout is shorter.
        """
        __tracebackhide__ = True
        arrived = self._engine.clock.monotonic()
        self._turn(link, blocking=True)
        answer, link.answer = link.answer, None
        if answer is None or flags_of(call) & socket.MSG_PEEK:
            return result
        if answer.failure is None and (answer.delay < float("inf") or answer.heals):
            socket_effects.hold_a_call(answer)
        else:
            socket_effects.hold_until(sock, arrived + answer.delay, answer)
        self._begin(sock, link, answer, arrived + answer.delay)
        if link.script is not None:
            return self._recite(sock, link, link.script, call)
        if link.course is not None:
            receipt = Receipt(call)
            return receipt.deliver(self._take(sock, link, link.course, receipt.content(result)))
        return result if answer.failure is None else call()

    @staticmethod
    def _recite(
        sock: socket.socket, link: Link, script: io.BytesIO, call: functools.partial[Any]
    ) -> Any:
        """Receive what is left of a script; after that, the end."""
        receipt = Receipt(call)
        data = script.read(receipt.size)
        if not data and receipt.size and not link.ended:
            link.ended = True
            if sock.gettimeout() != 0:  # asyncio closes it, and has it registered until then
                socket_effects.end(sock)
                while receipt.fetch():  # TLS may have more, and has to see the end as well
                    pass
        return receipt.deliver(data)

    def _turn(self, link: Link, *, blocking: bool) -> None:
        """The client turns from sending to receiving: the start of a round trip."""
        link.answer = self._engine.ask(link.operation(link.turn(), blocking=blocking))
        if link.backlog and (link.answer is None or link.answer.delay < float("inf")):
            link.answer = link.cut  # what nobody was told nobody answers

    def _begin(self, sock: socket.socket, link: Link, answer: Effect, began: float) -> None:
        """The wait for an answer is over: what is heard of it, whose first byte `began`?"""
        __tracebackhide__ = True
        fault = answer.failure
        above = isinstance(fault, (Alteration, MadeUpAnswer)) and link.unsealed
        if above:
            link.decrypted = Decrypted(answer)
        elif isinstance(fault, MadeUpAnswer):
            link.script = io.BytesIO(fault.message)
        elif fault is not None and not fault.bytewise:
            socket_effects.fail(sock, fault)
            return
        if answer.pace is not None or (isinstance(fault, Alteration) and not above):
            link.course = Course(answer, began, sealed=above)

    def _proceed(self, sock: socket.socket, link: Link, call: functools.partial[Any]) -> Any:
        """Receive, on a blocking socket that nothing holds up."""
        __tracebackhide__ = True
        if link.course is None and link.script is None and not self._engine.has(CLOSE):
            return call()
        if link.script is not None:
            return self._recite(sock, link, link.script, call)
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
        return self._take(sock, link, course, data) if data else b""

    @staticmethod
    def _await_piece(sock: socket.socket, course: Course, piece: int) -> None:
        __tracebackhide__ = True
        idle = not socket_effects.readable(sock, 0)
        socket_effects.await_more(sock)
        size = min(piece, socket_effects.available(sock))
        if size:  # or it is the end
            socket_effects.hold_until(sock, course.expect(size, idle=idle), course.effect)
            course.ready = size

    def _close(self, sock: socket.socket, link: Link, receipt: Receipt) -> Any:
        """The end of what the peer sends has been received."""
        __tracebackhide__ = True
        effect = None if link.ended else self._engine.ask(link.operation(CLOSE))
        link.ended = True
        if effect is None:
            return receipt.deliver(b"")
        due = self._engine.clock.monotonic() + effect.delay
        return self._end(sock, link, Ending(due, effect), receipt)

    def _end(self, sock: socket.socket, link: Link, ending: Ending, receipt: Receipt) -> Any:
        """Tell of the end when it is there."""
        __tracebackhide__ = True
        link.ending = ending
        if sock.gettimeout() == 0 and ending.due > self._engine.clock.monotonic():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        socket_effects.hold_until(sock, ending.due, ending.effect)
        link.ending = None
        return receipt.deliver(b"")

    def _receive_at_once(
        self, sock: socket.socket, link: Link, call: functools.partial[Any]
    ) -> Any:
        """A non-blocking receive: only one that finds something is an answer."""
        __tracebackhide__ = True
        arrived = self._loops.arrival(link.sent_at)
        early = self._engine.paced and not link.receiving and bool(socket_effects.available(sock))
        answer = self._hear(sock, link, arrived) if early else None
        if answer is not None and answer.pace is not None:
            self._begin(sock, link, answer, arrived + answer.delay)
            answer = None
        if link.script is not None:
            return self._recite(sock, link, link.script, call)
        if link.course is not None:
            return self._follow(sock, link, link.course, Receipt(call))
        try:
            result = call()
        except (BlockingIOError, InterruptedError):
            raise
        except OSError:  # bad news take as long as good ones
            self._hear(sock, link, arrived)
            raise
        if not early:
            answer = self._hear(sock, link, arrived)
        if self._engine.has(CLOSE):
            receipt = Receipt(call)
            self._hear_the_end(sock, link, receipt, receipt.content(result))
        if answer is None or answer.failure is None:
            return result
        self._begin(sock, link, answer, arrived)
        if link.script is not None:
            return self._recite(sock, link, link.script, call)
        if link.course is not None:
            receipt = Receipt(call)
            return receipt.deliver(self._take(sock, link, link.course, receipt.content(result)))
        return call() if link.decrypted is None else result

    def _hear(self, sock: socket.socket, link: Link, arrived: float) -> Effect | None:
        """Something has been received: what happens to it, which asyncio is told of later?"""
        detour = self._loops.detour(sock)
        leaving = detour is not None and detour.is_taking_leave
        if link.receiving or leaving:
            answer, held = None, link.again
            link.again = None
        else:
            fresh = link.fresh
            self._turn(link, blocking=detour is not None)
            answer = held = link.answer
            link.answer = None
            # In TLS 1.3 a server's tickets may come before its answer, and look the same.
            link.again = answer if fresh else None
        paced = held is not None and held.pace is not None
        if detour is not None and held is not None and held.delay and not paced:
            detour.hold(held, arrived)
        return answer

    def _follow(self, sock: socket.socket, link: Link, course: Course, receipt: Receipt) -> Any:
        """Receive more of an answer, at once or, from asyncio, when its time has come."""
        __tracebackhide__ = True
        piece = course.piece
        if piece is not None:
            size = min(piece, receipt.size, socket_effects.available(sock))
            if size:
                rest = course.expect(size, idle=course.idle) - self._engine.clock.monotonic()
                if rest > 0 and self._loops.pause_reading(sock, course.effect, rest):
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        data = receipt.fetch(piece)
        course.idle = not socket_effects.available(sock)
        self._hear_the_end(sock, link, receipt, data)
        return receipt.deliver(self._take(sock, link, course, data))

    @staticmethod
    def _take(sock: socket.socket, link: Link, course: Course, data: bytes) -> bytes:
        """What is heard of the next `data` of an answer."""
        heard = course.take(data)
        if course.ended:
            link.script = io.BytesIO()
            socket_effects.hear_no_more(sock)
        return heard

    def _hear_the_end(self, sock: socket.socket, link: Link, receipt: Receipt, data: bytes) -> None:
        """If it is the end that has been received: when is asyncio told of it?"""
        if data or link.ended or not receipt.size or not self._engine.has(CLOSE):
            return
        link.ended = True
        detour = self._loops.detour(sock)
        effect = self._engine.ask(link.operation(CLOSE, blocking=detour is not None))
        if detour is not None and effect is not None and effect.delay:
            detour.hold(effect, self._engine.clock.monotonic())

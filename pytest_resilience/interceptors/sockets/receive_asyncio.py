"""What happens to what a transport of asyncio receives."""

from __future__ import annotations

import errno
import os
import socket

from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets import response
from pytest_resilience.interceptors.sockets.asyncio_loops import Loops
from pytest_resilience.interceptors.sockets.connections import Link
from pytest_resilience.interceptors.sockets.response_stream import Call
from pytest_resilience.interceptors.sockets.response_stream import Course
from pytest_resilience.interceptors.sockets.response_stream import Receipt


__all__ = ["ReceivingInLoops"]


class ReceivingInLoops:
    """Lets transports receive what the experiments leave them, and tell of it when it is time."""

    def __init__(self, engine: Engine, loops: Loops) -> None:
        self._engine = engine
        self._loops = loops

    def receive(self, sock: socket.socket, link: Link, call: Call) -> Any:
        """`call`, one of the socket's receiving methods with what it was given.

        Only one that finds something is an answer.
        """
        __tracebackhide__ = True
        arrived = self._loops.arrival(link.sent_at)
        early = self._engine.is_pacing and not link.receiving and bool(effects.available(sock))
        answer = self._hear(sock, link, arrived) if early else None
        if answer is not None and answer.pace is not None:
            response.begin(sock, link, answer, arrived + answer.delay)
            answer = None
        if link.script is not None:
            return response.recite(sock, link, link.script, call)
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
        if CLOSE in self._engine.active_kinds:
            receipt = Receipt(call)
            self._hear_the_end(sock, link, receipt, receipt.content(result))
        if answer is None or answer.failure is None:
            return result
        response.begin(sock, link, answer, arrived)
        return response.instead(sock, link, answer, call, result)

    def _hear(self, sock: socket.socket, link: Link, arrived: float) -> Effect | None:
        """Something has been received: what happens to it, which asyncio is told of later?"""
        detour = self._loops.detour(sock)
        leaving = detour is not None and detour.is_taking_leave
        if link.receiving or leaving:
            answer, held = None, link.again
            link.again = None
        else:
            fresh = link.fresh
            through = None if detour is None else detour.protocol
            response.turn(self._engine, link, blocking=detour is not None, through=through)
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
            size = min(piece, receipt.size, effects.available(sock))
            if size:
                rest = course.expect(size, idle=course.idle) - self._engine.clock.monotonic()
                if rest > 0 and self._loops.pause_reading(sock, course.effect, rest):
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        data = receipt.fetch(piece)
        course.idle = not effects.available(sock)
        self._hear_the_end(sock, link, receipt, data)
        return receipt.deliver(response.take(sock, link, data))

    def _hear_the_end(self, sock: socket.socket, link: Link, receipt: Receipt, data: bytes) -> None:
        """If it is the end that has been received: when is asyncio told of it?"""
        if data or link.ended or not receipt.size or CLOSE not in self._engine.active_kinds:
            return
        detour = self._loops.detour(sock)
        through = None if detour is None else detour.protocol
        effect = response.end(self._engine, link, blocking=detour is not None, through=through)
        if detour is not None and effect is not None and effect.delay:
            detour.hold(effect, self._engine.clock.monotonic())

"""What a blocking client that is mocked takes for a socket.

It is given to the client's own code, which makes of its errors and its bytes what it makes
of those of a real one. Where nothing happens, it lets the call through to the mock.
"""

from __future__ import annotations

import contextlib
import errno
import io

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults.network import LostResponse
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import Reset
from pytest_resilience.chaos.faults.network import ResolutionFailure
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.interceptors.http_mocks.peer import GetThrough
from pytest_resilience.interceptors.http_mocks.peer import Peer
from pytest_resilience.interceptors.http_mocks.peer import Reply
from pytest_resilience.interceptors.http_mocks.peer import os_error
from pytest_resilience.interceptors.http_mocks.peer import wants_reply
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.response_stream import Course


__all__ = ["Wire"]


class Wire:
    """A connection to a mocked peer, for one request and its answer."""

    def __init__(
        self,
        peer: Peer,
        reply: Callable[[], Reply],
        waiting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """`reply` asks the mock; what it raises is the mock's own business. `waiting` is
        entered for the length of each wait.
        """
        self._peer = peer
        self._ask_mock = reply
        self._waiting = waiting
        self._timeout: float | None = None
        self._said: io.BytesIO | None = None
        self._course: Course | None = None

    def connect(self, timeout: float | None) -> None:
        """Resolve and connect. Raises what a socket raises."""
        __tracebackhide__ = True
        self._timeout = timeout
        effect = self._peer.ask(RESOLVE)
        if effect is not None:
            with self._waiting():
                effects.hold_a_call(effect)
            if isinstance(effect.failure, ResolutionFailure):
                raise effects.name_resolution_failure(effect.failure)
        effect = self._peer.ask(CONNECT)
        if effect is not None:
            self._hold(effect, effect.delay)
            if isinstance(effect.failure, Refusal):
                raise os_error(errno.ECONNREFUSED)
        if self._peer.tls:
            self.pending = int  # by which a socket is known to speak TLS

    def settimeout(self, timeout: float | None) -> None:
        """In seconds; None for no limit."""
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        """In seconds; None for no limit."""
        return self._timeout

    def sendall(self, data: Any) -> None:
        """Take what nobody reads: the mock is asked with the request itself."""

    def recv(self, size: int) -> bytes:
        """The next bytes of the answer. Raises GetThrough if it is for the mock to give."""
        __tracebackhide__ = True
        if self._said is None:
            self._said = io.BytesIO(self._hear())
        said = self._said.read(size)
        return said or self._receive(size)

    def makefile(self, *_args: Any, **_kwargs: Any) -> io.BufferedReader:
        """To read the answer from."""
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """Nothing is open."""

    def _hear(self) -> bytes:
        """The answer as far as it comes at once: all of one made up, the head of another."""
        __tracebackhide__ = True
        effect = self._peer.ask(RECEIVE)
        if effect is None:
            raise GetThrough
        self._hold(effect, effect.delay)
        fault = effect.failure
        if isinstance(fault, InjectedResponse):
            return fault.replacement
        if isinstance(fault, LostResponse):
            self._reply()
        if isinstance(fault, (Reset, LostResponse)):
            raise os_error(errno.ECONNRESET)
        if not wants_reply(effect):
            raise GetThrough
        reply = self._reply()
        self._body = io.BytesIO(reply.body)
        self._course = reply.heard_under(effect, self._peer.clock.monotonic())
        return self._course.take(reply.head)

    def _receive(self, size: int) -> bytes:
        """More of the body, when it is there."""
        __tracebackhide__ = True
        course = self._course
        if course is None or course.ended:
            return b""
        data = self._body.read(size if course.piece is None else min(size, course.piece))
        if not data:
            return b""
        due = course.expect(len(data), idle=False)
        self._hold_until(due, course.effect)
        return course.take(data)

    def _reply(self) -> Reply:
        try:
            return self._ask_mock()
        except Exception as error:
            raise GetThrough(error) from None

    def _hold(self, effect: Effect, delay: float) -> None:
        __tracebackhide__ = True
        if delay:
            self._hold_until(self._peer.clock.monotonic() + delay, effect)

    def _hold_until(self, due: float, effect: Effect) -> None:
        __tracebackhide__ = True
        with self._waiting():
            effects.hold_until(self, due, effect)


class _Reader(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        __tracebackhide__ = True
        data = self._wire.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

"""One stage on the way of the bytes: what is written to it goes on to the next when it is due.

Bytes and EOF that are held back wait in one queue, so that nothing ever overtakes. What happens to
them, and when, is told by `chaos.response_stream`; a stage drives it, with the loop's timers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.event_loop import Timer


__all__ = ["LinkContext", "Sink", "Stage"]

_AT_ONCE = 256  # pieces passed on in a row, so that other connections are served meanwhile


class Sink(Protocol):
    """Where bytes go: the next stage, or the endpoint."""

    def write(self, data: bytes) -> None:
        """More data, never empty."""

    def write_eof(self) -> None:
        """There will be no more."""


class LinkContext(Protocol):
    """The link that a stage is part of, as the stage sees it."""

    @property
    def loop(self) -> EventLoop:
        """Whose timers and clock to use."""

    def update_reading(self) -> None:
        """Bytes that were held have been passed on: there may be room to read more."""

    def close_after_eof(self) -> None:
        """Read no more; close both endpoints when the EOF arrives that is written next."""

    def replace_source(self) -> None:
        """Ignore what the source still sends: it has been answered for."""

    def fail(self) -> None:
        """The message that passes is lost, and the connection with it."""


@dataclass(slots=True)
class _Piece:
    """Bytes in the queue, or an EOF; neither where only the beginning of a message is awaited.

    Attributes:
        stream: what happens to the message that they belong to; None for nothing.
        arrived: monotonic seconds.
    """

    stream: ResponseStream | None
    data: memoryview
    arrived: float
    is_eof: bool = False


class Stage:
    """See the module. By itself it passes everything on.

    Attributes:
        following: where everything is passed on to.
        held: bytes in the queue.
        stopped: whether all that comes is lost.
    """

    def __init__(self, link: LinkContext, following: Sink) -> None:
        self.following = following
        self.held = 0
        self.stopped = False
        self._link = link
        self._queue: deque[_Piece] = deque()
        self._timer: Timer | None = None
        self._waiting_since: float | None = None

    def write(self, data: bytes) -> None:
        self._put(None, data)

    def write_eof(self) -> None:
        self._put_eof(None)

    def stop(self) -> None:
        """Lose what is held, and all that comes."""
        self.stopped = True
        self._cancel_timer()
        self._queue.clear()
        self.held = 0

    def _put(self, stream: ResponseStream | None, data: bytes = b"") -> None:
        """Queue bytes of a message; none: fail or wait as it does before anything has come."""
        self._append(_Piece(stream, memoryview(data), self._now()))

    def _put_eof(self, stream: ResponseStream | None) -> None:
        self._append(_Piece(stream, memoryview(b""), self._now(), is_eof=True))

    def _append(self, piece: _Piece) -> None:
        if self.stopped:
            return
        self._queue.append(piece)
        self.held += len(piece.data)
        if self._timer is None:
            self._pump()

    def _pump(self) -> None:
        """Pass on what is due, and come back for the rest."""
        self._cancel_timer()
        for _ in range(_AT_ONCE):
            if not self._queue:
                return
            piece = self._queue[0]
            due = self._advance(piece)
            if due is not None:
                self._wait(due)
                return
        self._wait(self._now())

    def _advance(self, piece: _Piece) -> float | None:
        """Do with the first piece what is to be done now; or tell when that is."""
        stream, size = piece.stream, len(piece.data)
        if stream is None:
            self._pass(piece, size)
            return None
        if stream.due is None:
            stream.arrive(piece.arrived)
        late = piece.arrived + stream.effect.delay  # for each piece, however many come at once
        now = self._now()
        step = stream.next(size, now, since=late)
        if isinstance(step, WaitUntil):
            if self._waiting_since is None:
                self._waiting_since = piece.arrived if stream.content is None else now
            return self._look_again(step.due)
        self._add_delay(stream.effect, now)
        match step:
            case ReadPeer(most):
                self._pass(piece, min(size, most))
            case ReadReplacement():
                self._replace(stream.replay())
            case ResetConnection():
                self.stop()
                self._link.fail()
        return None

    def _look_again(self, due: float) -> float:
        """When to look again at a piece that is due then."""
        return due

    def _add_delay(self, effect: Effect, now: float) -> None:
        if self._waiting_since is not None:
            effect.add_delay(now - self._waiting_since)
            self._waiting_since = None

    def _pass(self, piece: _Piece, size: int) -> None:
        """Pass on so many bytes of the first piece."""
        data, piece.data = bytes(piece.data[:size]), piece.data[size:]
        self.held -= size
        if not piece.data:
            self._queue.popleft()
        if piece.is_eof:
            self.following.write_eof()
        elif data:
            stream = piece.stream
            passed = data if stream is None else stream.take(data)
            if passed:
                self._write_on(passed)
            if stream is not None and stream.is_replaced:
                self._replace(b"")

    def _write_on(self, data: bytes) -> None:
        self.following.write(data)

    def _replace(self, data: bytes) -> None:
        """Pass on this and EOF, whatever else the source sends."""
        self.stop()
        if data:
            self._link.replace_source()
            self.following.write(data)
        else:
            self._link.close_after_eof()
        self.following.write_eof()

    def _wait(self, due: float) -> None:
        if due < float("inf"):
            self._timer = self._link.loop.call_at(due, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        self._pump()
        self._link.update_reading()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> float:
        return self._link.loop.clock.monotonic()

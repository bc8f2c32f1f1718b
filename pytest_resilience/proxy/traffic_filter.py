"""One filter on the way of the bytes: what is written to it goes on to the next when it is due.

Bytes and EOF that are held back wait in one queue, so that nothing ever overtakes. What happens to
them, and when, is decided by `chaos.response_stream`; a filter drives it with timers of the loop.
"""

from __future__ import annotations

import math

from collections import deque
from dataclasses import dataclass
from typing import ClassVar
from typing import Protocol

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.chaos.types.schema import DOWNSTREAM
from pytest_resilience.chaos.types.schema import UPSTREAM
from pytest_resilience.proxy.decisions import Decisions
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.event_loop import Timer


__all__ = ["ConnectionContext", "DirectionContext", "ExperimentFilter", "Sink", "TrafficFilter"]

# The operations of each direction: a message, and the end of all messages.
_OPERATIONS = {UPSTREAM: (SEND, END), DOWNSTREAM: (RECEIVE, CLOSE)}
_AT_ONCE = 256  # pieces passed on in a row, so that other connections are served meanwhile


class Sink(Protocol):
    """Where bytes go: the next filter, or the transport."""

    def write(self, data: bytes) -> None:
        """More data, never empty."""

    def write_eof(self) -> None:
        """There will be no more."""


_Experiments = tuple[ActiveExperiment, ...]


class ConnectionContext(Protocol):
    """A connection, as its directions and their filters see it."""

    number: int
    decisions: Decisions
    is_open: bool
    client_done: bool

    @property
    def loop(self) -> EventLoop:
        """Who serves it."""

    @property
    def seed(self) -> int:
        """Decides all chance in it."""

    def reset(self) -> None:
        """Close both transports with RST, whatever is still on its way."""

    def close(self) -> None:
        """Close both transports now."""

    def fail(self, stream: str) -> None:
        """A message of a direction is lost, and the connection with it."""

    def message_passed(self, stream: str) -> None:
        """Bytes of a message have passed the experiments."""


class DirectionContext(Protocol):
    """A direction, as its filters see it.

    Attributes:
        stream: its direction, "upstream" or "downstream".
    """

    connection: ConnectionContext
    stream: str

    def update_reading(self) -> None:
        """Bytes that were held have been passed on: there may be room to read more."""

    def close_after_eof(self) -> None:
        """Read no more; close both transports when the EOF arrives that is written next."""

    def reset_after_eof(self) -> None:
        """The same, and reset both: they get all that is before it, and then RST."""

    def replace_source(self) -> None:
        """Ignore what the source still sends: a response is injected in its place."""


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
    is_eof: bool


class TrafficFilter:
    """See the module. By itself it passes everything on.

    Attributes:
        look_every: seconds between looks at whether what holds bytes back has ended.
        following: where everything is passed on to.
        held: bytes in the queue.
        stopped: whether all that comes is lost.
    """

    look_every: ClassVar[float] = math.inf

    def __init__(self, direction: DirectionContext, following: Sink) -> None:
        self.following = following
        self.held = 0
        self.stopped = False
        self._direction = direction
        self._queue: deque[_Piece] = deque()
        self._timer: Timer | None = None
        self._waiting_since: float | None = None

    def write(self, data: bytes) -> None:
        self._put(None, data)

    def write_eof(self) -> None:
        self._put(None, is_eof=True)

    def stop(self) -> None:
        """Lose what is held, and all that comes."""
        self.stopped = True
        self._cancel_timer()
        self._queue.clear()
        self.held = 0

    def _put(
        self, stream: ResponseStream | None, data: bytes = b"", *, is_eof: bool = False
    ) -> None:
        """Queue bytes of a message, or EOF; or neither, to fail or wait before any have come."""
        if self.stopped:
            return
        self._queue.append(_Piece(stream, memoryview(data), self._now(), is_eof))
        self.held += len(data)
        if self._timer is None:
            self._pump()

    def _pump(self) -> None:
        """Pass on what is due, and come back for the rest."""
        self._cancel_timer()
        for _ in range(_AT_ONCE):
            if not self._queue:
                return
            piece = self._queue[0]
            if piece.stream is None:
                self._pass(piece, len(piece.data))
            else:
                due = self._advance(piece, piece.stream)
                if due is not None:
                    self._wait(due)
                    return
        self._wait(self._now())

    def _advance(self, piece: _Piece, stream: ResponseStream) -> float | None:
        """Do the next step of the first piece; or return when it is due, in monotonic seconds."""
        if stream.due is None:
            stream.arrive(piece.arrived)
        size, now = len(piece.data), self._now()
        # Each piece of a message is late by itself, as on a long line: a big message, that comes
        # in many of them, is no later than a small one.
        step = stream.next(size, now, since=piece.arrived + stream.effect.delay)
        if isinstance(step, WaitUntil):
            if self._waiting_since is None:
                self._waiting_since = piece.arrived if not stream.begun else now
            return step.due
        if self._waiting_since is not None:
            stream.effect.add_delay(now - self._waiting_since)
            self._waiting_since = None
        match step:
            case ReadPeer(most):
                if stream.effect.pace is not None and (most < size or len(self._queue) > 1):
                    self._waiting_since = now  # the next is on the line meanwhile
                self._pass(piece, min(size, most))
            case ReadReplacement():
                self._replace(stream.replay())
            case ResetConnection():
                self._fail()
            case CloseConnection():
                self._replace(b"")
        return None

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
            if stream is not None and stream.is_reset:
                self._break(stream)
            elif stream is not None and stream.is_replaced:
                self._replace(b"")
            elif stream is not None and stream.is_stalled and not self._queue:
                self._queue.append(_Piece(stream, memoryview(b""), self._now(), is_eof=False))

    def _write_on(self, data: bytes) -> None:
        self.following.write(data)

    def _replace(self, data: bytes) -> None:
        """Pass on this and EOF, and nothing more of what the source sends."""
        self.stop()
        if data:
            # The client may still be sending the request, which the server gets all the same:
            # closed now, the kernel would answer it with RST, before this is read.
            self._direction.replace_source()
            self.following.write(data)
        else:
            self._direction.close_after_eof()
        self.following.write_eof()

    def _fail(self) -> None:
        """Pass on nothing of the message, nor what was before it and is still on its way."""
        self.stop()
        self._direction.connection.fail(self._direction.stream)

    def _break(self, stream: ResponseStream) -> None:
        """Pass on nothing more of what the source sends, and RST after what was."""
        failure = stream.effect.failure
        if failure is not None and not failure.needs_body:  # all of the message is lost
            self._fail()
            return
        self.stop()
        self._direction.reset_after_eof()
        self.following.write_eof()

    def _wait(self, due: float) -> None:
        due = min(due, self._now() + self.look_every)
        if due < math.inf:
            self._timer = self._direction.connection.loop.call_at(due, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        self._pump()
        self._direction.update_reading()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> float:
        return self._direction.connection.loop.clock.monotonic()


class ExperimentFilter(TrafficFilter):
    """The first filter of a direction: what experiments do to the messages of one direction.

    While no experiment runs and nothing waits in it, bytes need not be shown to it.
    """

    look_every = 0.05  # experiments are ended by other threads, and nobody is notified here

    def __init__(self, direction: DirectionContext, following: Sink) -> None:
        super().__init__(direction, following)
        self._decisions = direction.connection.decisions
        self._kinds = _OPERATIONS[direction.stream]
        self._kinds_seen = frozenset(self._kinds[:1])
        # The turn, the experiments there were, and those whose window had begun.
        self._asked: tuple[int, _Experiments, _Experiments] = (0, (), ())
        self._message: ResponseStream | None = None
        self._partition: Effect | None = None

    @property
    def is_open(self) -> bool:
        """True if no experiment can have to do with what comes next, and nobody asks for it."""
        return (
            not (self._decisions.active or self._queue or self.stopped)
            and (self._message is None or not self._message.effect.left())
            and not self._decisions.is_recording(self._kinds_seen)
        )

    def begin(self) -> None:
        """A message comes, or more of one: ask about each once.

        Once more where an experiment has begun since that may be about it, or the window of an
        outage: not all that is sent is answered, and there are responses that go on for ever.
        """
        turn, active, opened = self._decisions.turn, self._decisions.active, self._decisions.opened
        asked_turn, known, opened_before = self._asked
        asked = (turn, active, opened)
        if not active and self._decisions.is_recording(self._kinds_seen):
            self._decisions.note(self._kinds[0])
        if not active or asked == self._asked or self._decisions.awaits_head:
            return
        self._asked = asked
        known = tuple(each for each in known if each in opened_before or each not in opened)
        if turn != asked_turn or self._decisions.is_newly_targeted(known):
            effect = self._decisions.decide(self._kinds[0])
            message = self._message
            goes_on = message is not None and message.effect.is_of_stream
            if message is not None and goes_on and self._decisions.in_conversation:
                self._message = message.going_on(effect)
            else:
                self._message = None if effect is None else ResponseStream(effect)
            if effect is not None and effect.transient and effect.delay == math.inf:
                self._partition = effect
            if self._message is not None and not self._message.needs_response:
                self._put(self._message)  # it happens though the server may never respond

    def write(self, data: bytes) -> None:
        self._look_for_partition()
        self._put(self._message, data)

    def write_eof(self) -> None:
        if self.stopped:
            return
        effect = self._decisions.decide(self._kinds[1])
        self._look_for_partition()
        self._put(None if effect is None else ResponseStream(effect), is_eof=True)

    def stop(self) -> None:
        super().stop()
        self._message = None

    def _look_for_partition(self) -> None:
        """Nothing gets through a partition: in the middle of a message, or without one, neither."""
        if self._partition is not None and self._partition.left():
            return
        self._partition = self._decisions.decide(self._kinds[0], mid_message=True)
        if self._partition is not None:
            self._put(ResponseStream(self._partition))

    def _write_on(self, data: bytes) -> None:
        super()._write_on(data)
        self._direction.connection.message_passed(self._direction.stream)

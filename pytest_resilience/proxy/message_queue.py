"""What experiments do to one direction of one connection, before any toxic does.

Messages, which are requests or answers, stand in a queue while one of them is held up, so
that nothing ever overtakes. With no experiment and an empty queue nobody comes here.
"""

from __future__ import annotations

import math

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.proxy.event_loop import Loop
from pytest_resilience.proxy.toxics.stages import Sink


__all__ = ["Lane", "Road", "Way"]


@dataclass(frozen=True, slots=True)
class Way:
    """What the operations of a direction are called.

    Attributes:
        message: of a message.
        end: of the end of all messages.
    """

    message: str
    end: str


class Road(Protocol):
    """What a lane is part of."""

    def ask(self, kind: str, *, mid_message: bool = False) -> Effect | None:
        """What happens to an operation on it."""

    def concerns(self, kind: str, *, mid_message: bool = False) -> bool:
        """Whether an active experiment has anything to do with operations of a kind."""

    def passed(self) -> None:
        """Bytes of a message have been passed on."""

    def flowed(self) -> None:
        """What was held has gone."""

    def cut(self) -> None:
        """Nothing more passes: end the connection when what has passed arrives."""

    def fail(self, fault: Fault) -> None:
        """A message fails."""


class _Message:
    """A message, to which something happens.

    Attributes:
        effect: what.
        since: monotonic seconds of its first byte; None before it has arrived.
        begun: whether the wait for it is over.
        altered: what becomes of its bytes, if they do not stay.
    """

    __slots__ = ("altered", "begun", "effect", "free", "since")

    def __init__(self, effect: Effect) -> None:
        self.effect = effect
        self.since: float | None = None
        self.begun = False
        self.altered: Altered | None = None
        self.free = -math.inf  # when the line has carried what it was given of it


@dataclass(slots=True)
class _Piece:
    """Bytes of a message in the queue; none of an end, and None of what only waits."""

    message: _Message | None
    data: bytes | memoryview | None
    arrived: float


class Lane:
    """See the module.

    Attributes:
        following: what everything is passed on to.
        held: bytes in the queue.
    """

    def __init__(self, way: Way, road: Road, loop: Loop) -> None:
        self.following: Sink | None = None
        self.held = 0
        self._way = way
        self._road = road
        self._loop = loop
        self._queue: deque[_Piece] = deque()
        self._message: _Message | None = None
        self._cut: Effect | None = None
        self._waiting = False
        self._stopped = False

    @property
    def idle(self) -> bool:
        """Whether bytes can pass without being shown to it, when no experiment is active."""
        return not self._queue and self.spared and not self._stopped

    @property
    def spared(self) -> bool:
        """Whether no experiment that runs has to do with the message that comes now."""
        return self._message is None or not self._message.effect.left()

    def begin(self) -> None:
        """What comes from now on is another message; it may fail before anything of it comes."""
        effect = self._ask(self._way.message)
        self._message = message = None if effect is None else _Message(effect)
        if effect is None or message is None:
            return
        if effect.delay == math.inf and effect.transient:
            self._cut = effect
        if effect.failure is not None and not effect.failure.answered:
            message.since = self._now()
            self._await(message)

    def take(self, data: bytes) -> None:
        """Bytes from the source; never none."""
        self._arrive(self._message, data)

    def finish(self) -> None:
        """The source sends no more."""
        effect = self._ask(self._way.end)
        self._arrive(None if effect is None else _Message(effect), b"")

    def stop(self) -> None:
        """Lose what is held, and all that comes."""
        self._stopped = True
        self._queue.clear()
        self._message = None
        self.held = 0

    def _ask(self, kind: str) -> Effect | None:
        return self._road.ask(kind) if self._road.concerns(kind) else None

    def _arrive(self, message: _Message | None, data: bytes) -> None:
        if self._stopped:
            return
        now = self._now()
        if message is not None and message.since is None:
            message.since = now
        self._look_whether_cut(now)
        self._queue.append(_Piece(message, data, now))
        self.held += len(data)
        self._pump()

    def _look_whether_cut(self, now: float) -> None:
        """Whether nothing gets through, in the middle of a message or without one."""
        if self._cut is not None and self._cut.left():
            return
        self._cut = None
        if self._road.concerns(self._way.message, mid_message=True):
            self._cut = self._road.ask(self._way.message, mid_message=True)
        if self._cut is not None:
            wall = _Message(self._cut)
            wall.since = now
            self._queue.append(_Piece(wall, None, now))

    def _pump(self) -> None:
        """Pass on what nothing holds up."""
        while self._queue and not self._waiting:
            piece = self._queue[0]
            if piece.message is None or not piece.message.effect.left():
                self._pass_all(piece)
            elif not piece.message.begun:
                self._await(piece.message)
            elif piece.arrived + piece.message.effect.delay > self._now():
                self._wait(piece.message.effect, piece.arrived + piece.message.effect.delay)
            elif piece.message.effect.pace is None or not piece.data:
                self._pass_all(piece)
            else:
                self._pass_some(piece, piece.message, piece.data)

    def _await(self, message: _Message) -> None:
        """Begin a message when it is due; that wait is what its experiments have caused."""
        since = self._now() if message.since is None else message.since

        def over() -> None:
            message.effect.add_delay(self._now() - since)
            self._begin(message)

        due = since + message.effect.delay
        if due > self._now():
            self._wait(message.effect, due, over)
        else:
            self._begin(message)

    def _begin(self, message: _Message) -> None:
        """The wait for a message is over."""
        message.begun = True
        message.free = self._now()
        fault = message.effect.failure
        if fault is None or not message.effect.left():
            return
        if isinstance(fault, Alteration):
            message.altered = fault.altered()
        else:
            self._road.fail(fault)

    def _pass_some(self, piece: _Piece, message: _Message, data: bytes | memoryview) -> None:
        """The next little piece, if it is there yet."""
        pace = message.effect.pace
        assert pace is not None
        size = min(pace.piece, len(data))
        due = max(message.free, piece.arrived + message.effect.delay) + pace.seconds(size)
        now = self._now()
        if due > now:
            waited = message.effect.add_delay
            self._wait(message.effect, due, lambda: waited(self._now() - now))
            return
        message.free = due
        rest = memoryview(data)
        piece.data = rest[size:]
        if not piece.data:
            self._queue.popleft()
        self._pass(message, bytes(rest[:size]))

    def _pass_all(self, piece: _Piece) -> None:
        self._queue.popleft()
        if piece.data is not None:
            self._pass(piece.message, bytes(piece.data))

    def _pass(self, message: _Message | None, data: bytes) -> None:
        self.held -= len(data)
        if self.following is None:
            return
        if not data:
            self.following.finish()
            return
        change = None if message is None or not message.effect.left() else message.altered
        heard = data if change is None else change.alter(data)
        if message is not None and change is not None and change.spared:
            message.altered = None
            message.effect.spare()
        if heard:
            self.following.take(heard)
            self._road.passed()
        if change is not None and change.ended:
            self.stop()
            self._road.cut()

    def _wait(self, effect: Effect, due: float, then: Callable[[], None] = lambda: None) -> None:
        """Do `then`, and go on, at `due` or as soon as the experiments behind it have ended."""
        self._waiting = True

        def over() -> None:
            self._waiting = False
            if not self._stopped:
                then()
                self._pump()
                self._road.flowed()

        self._loop.hold(due, effect.left, over)

    def _now(self) -> float:
        return self._loop.clock.monotonic()

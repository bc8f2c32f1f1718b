"""One response on its way to the client: what is delivered of it, and when. Sans-IO.

Here, and nowhere else, a fault of a response becomes what a client sees. A `ResponseStream`
touches no socket and no loop, and reads no clock: its driver says what has come and what time it
is, does the step that it is told, and asks again. There are five steps, whatever the fault is:

    arrive(at)
        |             before `due`: WaitUntil                     delay, silence
    [ held ]
        |             at `due`: begin
        +----------->  ResetConnection, CloseConnection           reset; closure
        +----------->  ReadReplacement, until EOF                 injected response
        |                     ^
    [ passing ] --------------+  nothing more: EOF                truncation
        +----------->  ResetConnection                            lost response, truncation by reset
        +----------->  WaitUntil the end, ResetConnection         truncation by silence
                      between pieces: WaitUntil                   throttle, dribble
                      ReadPeer, and `take` what was read          corruption, truncation

A driver that receives for a client that calls `recv(size)`:

    stream = ResponseStream(effect)
    stream.arrive(clock.monotonic())  # its first byte is there, or it `needs_response` not
    while True:
        match stream.next(available(sock), clock.monotonic()):
            case WaitUntil(due):
                sleep_until(due, effect.left)
                stream.waited(due)
            case ReadPeer(most):
                return stream.take(sock.recv(min(size, most)))
            case ReadReplacement():
                return stream.replay(size)  # b"" is EOF
            case ResetConnection():
                raise ConnectionResetError
            case CloseConnection():
                return b""

What is not due is never asked for, so that a driver can leave it in the kernel. One that has
received already (a mock, a proxy, a transport of asyncio) keeps it and gives its length.
"""

from __future__ import annotations

import copy
import io
import math
import sys

from dataclasses import dataclass
from typing import Final
from typing import TypeAlias

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.faults.network import PACED
from pytest_resilience.chaos.faults.network import RECEIVED
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.payload import Head
from pytest_resilience.chaos.faults.response import Pace
from pytest_resilience.chaos.faults.response import Pause
from pytest_resilience.clock import Clock


__all__ = [
    "CloseConnection",
    "Content",
    "ReadPeer",
    "ReadReplacement",
    "ResetConnection",
    "ResponseStream",
    "Step",
    "WaitUntil",
]

_NO_LIMIT: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Deliver nothing before `due`, in monotonic seconds, or the end of the experiments.

    It may be infinite: then a connection is lost when they have ended, unless the effect is
    `transient`.
    """

    due: float


@dataclass(frozen=True, slots=True)
class ReadPeer:
    """Read `most` bytes at most of what the peer has sent, and deliver what `take` makes of them.

    Where nothing has come, this may be EOF, which is delivered like any other.
    """

    most: int = _NO_LIMIT


@dataclass(frozen=True, slots=True)
class ReadReplacement:
    """Deliver what `replay` gives, until EOF. The peer is not listened to any more."""


@dataclass(frozen=True, slots=True)
class ResetConnection:
    """Let the connection have been reset by the peer (ECONNRESET)."""


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Let the connection have been closed by the peer, in good order (FIN)."""


Step: TypeAlias = WaitUntil | ReadPeer | ReadReplacement | ResetConnection | CloseConnection


class _Changes:
    """What one fault makes of the bytes of one response.

    Attributes:
        fault: which.
        altered: the state of the response.
    """

    __slots__ = ("_clock", "_from", "altered", "fault")

    def __init__(self, fault: Fault, altered: Altered, clock: Clock) -> None:
        self.fault = fault
        self.altered = altered
        self._clock = clock
        self._from = self._clock.monotonic() + fault.after if fault.after else -math.inf

    def has_begun(self) -> bool:
        """Whether it is time to change anything."""
        return self._from == -math.inf or self._clock.monotonic() >= self._from

    def alter(self, data: bytes) -> bytes:
        """As `Altered.alter`; of nothing nothing."""
        return self.altered.alter(data) if data else data


class Content:
    """The bytes of one response: changed, cut off, replaced, or lost by a reset.

    Apart from their time, because two drivers share a response where TLS is made above the socket:
    one sees only records, the other (of an `ssl.SSLObject`) what is in them, and no time.

    Attributes:
        resets: nothing more is delivered, for the connection is reset.
        closes: nothing more is delivered, for the peer has closed the connection.
        stalls: nothing more is delivered, and the connection stays.
    """

    __slots__ = (
        "_effect", "_encrypted", "_parts", "_replacement", "closes", "resets", "stalls",
    )  # fmt: skip

    def __init__(self, failure: Fault, effect: Effect, *, encrypted: bool = False) -> None:
        """`failure`: of `effect`. `encrypted`: as of `ResponseStream`."""
        self._encrypted = encrypted
        self.resets, self.closes, self.stalls = failure.resets, failure.closes, False
        self._effect = effect
        states = [(each, each.altered()) for each in failure.parts]
        self._parts = [_Changes(each, state, effect.clock) for each, state in states if state]
        replacement = failure.replacement
        self._replacement = None if replacement is None else io.BytesIO(replacement)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is delivered, for the peer has reset or closed the connection."""
        return self.resets or self.closes

    @property
    def is_altered(self) -> bool:
        """Whether what the peer sends may be changed or cut off, or is already."""
        return bool(self._parts)

    @property
    def is_replaced(self) -> bool:
        """Whether no more of what the peer sends is delivered, but `replay`."""
        return self._replacement is not None

    def take(self, data: bytes) -> bytes:
        """The bytes that are delivered for the next `data` from the peer."""
        effect = self._effect
        if not self._parts or not data or not effect.left():
            return data
        delivered, changing, end = data, list[_Changes](), None
        for part in [each for each in self._parts if each.has_begun()]:
            before, delivered = delivered, part.alter(delivered)
            if part.altered.ended:
                end = part  # and where an older one would have ended it, nothing comes any more
            elif delivered != before:
                changing.append(part)
        for part in changing if end is None else [*changing, end]:
            effect.happen(part.fault)
        if end is not None:
            self._end(end.fault)
        if effect.pending:
            for part in self._parts:
                effect.came(part.altered.passed, part.fault)
        for part in [each for each in self._parts if each.altered.spared]:
            self._parts.remove(part)
            effect.uncount(part.fault)
        return delivered

    def _end(self, fault: Fault) -> None:
        if fault.breaks:
            self.resets = True
        elif fault.stalls:
            self.stalls = True
        elif self._encrypted:  # without the goodbye of TLS
            self.closes = True
        else:
            self._replacement = io.BytesIO()

    def look(self, data: bytes) -> bytes:
        """What `take` would return for `data`, which stay where they are."""
        if self._effect.left():
            for part in self._parts:
                data = copy.deepcopy(part.altered).alter(data) if part.has_begun() else data
        return data

    def replay(self, size: int = -1, *, peeks: bool = False) -> bytes:
        """The next `size` bytes, or all, that are delivered in place of the peer's; b"" at EOF.

        `peeks`: they are given again the next time.
        """
        if self._replacement is None:
            return b""
        position = self._replacement.tell()
        data = self._replacement.read(size)
        if peeks:
            self._replacement.seek(position)
        return data


class _Line:
    """What carries a response to the client in pieces, one after the other, each in its time."""

    __slots__ = ("_free", "_new", "_pace", "_piece", "_ready")

    def __init__(self, pace: Pace, free: float) -> None:
        """`free`: when it can carry the first of them, in monotonic seconds."""
        self._pace = pace
        self._free = free
        self._piece: tuple[int, float] | None = None  # bytes under way, and when they are there
        self._ready = 0  # bytes that it has carried and nobody has read
        self._new = False  # what comes next is only now put on the line: all before was read

    def next(self, available: int, now: float, since: float, least: int, *, whole: bool) -> Step:
        """As `ResponseStream.next`."""
        if not (available or whole):
            self.drained()
        while True:
            if self._piece is None:
                wanted = min(max(self._pace.piece, least), available)
                wanted = available if whole else self._ready if self._ready >= least else wanted
                if wanted <= self._ready:
                    return ReadPeer() if whole else ReadPeer(self._ready or 1)
                began = max(self._free, since, now if self._new else since)
                self._piece = (wanted, began + self._pace.seconds(wanted - self._ready))
            size, due = self._piece
            if now < due:
                return WaitUntil(due)
            self._ready, self._free = size, due
            self._piece, self._new = None, False

    def took(self, data: bytes) -> None:
        """These were read."""
        self._ready = max(0, self._ready - len(data))

    def drained(self) -> None:
        """As `ResponseStream.drained`."""
        self._ready, self._new = 0, True


class _Interruption:
    """Lets a response through up to somewhere in it, and what comes then after a pause."""

    __slots__ = ("_due", "_effect", "_from", "_pause", "_position")

    def __init__(self, pause: Pause, effect: Effect, began: float) -> None:
        """`began`: when the response did, in monotonic seconds."""
        self._position = pause.begins.position(Head())  # None from when on it is reached
        self._from = began + pause.begins.seconds
        self._pause = pause.pause
        self._effect = effect
        self._due: float | None = None

    def next(self, available: int, now: float, _since: float, _least: int, *, whole: bool) -> Step:
        """As `ResponseStream.next`."""
        if self._position is not None and not whole:
            return ReadPeer(1)  # and none that comes after the place
        if self._position is not None or now < self._from:
            return ReadPeer()
        if self._due is None and available:
            self._due = now + self._pause
            self._effect.happen(PACED)
        return ReadPeer() if self._due is None or now >= self._due else WaitUntil(self._due)

    def took(self, data: bytes) -> None:
        """These were read."""
        if self._position is None:
            return
        if self._position.find(data) is not None:
            self._position = None
        else:
            self._effect.came(self._position.passed)

    def drained(self) -> None:
        """As `ResponseStream.drained`."""


class ResponseStream:
    """See the module. It serves for an EOF that comes late as well.

    Attributes:
        effect: what happens to the response.
        needs_response: the peer's has to be there first: a reset or a silence needs none.
        due: when it begins, in monotonic seconds; None until it has arrived.
        begun: the wait for it is over.
        content: its bytes, if something happens to them; None until it begins.
        is_replaced: the driver delivers no more of what the peer sends, but `replay`.
        is_unchanged: what the peer sends is delivered as it is and at once: no driver is needed.
    """

    __slots__ = (
        "_encrypted", "_line", "_now", "begun", "content", "due", "effect",
        "is_replaced", "is_unchanged", "needs_response",
    )  # fmt: skip

    def __init__(self, effect: Effect, *, encrypted: bool = False) -> None:
        """`encrypted`: the driver sees TLS records; another one reads `content` (see there)."""
        failure = effect.failure
        self.effect = effect
        self.needs_response = effect.delay < math.inf and (
            failure is None or failure.needs_response
        )
        self.due: float | None = None
        self.begun = False
        self.content: Content | None = None
        self.is_replaced = False
        self.is_unchanged = False
        self._encrypted = encrypted
        self._now = -math.inf  # the latest time that it was told
        self._line: _Line | _Interruption | None = None

    @property
    def is_reset(self) -> bool:
        """Whether the connection is reset, after what was delivered of it."""
        return self.content is not None and self.content.resets

    @property
    def is_stalled(self) -> bool:
        """Whether nothing more is delivered until the experiments end, and then it is reset.

        What comes of it does not matter any more, so no driver may wait for that.
        """
        return self.content is not None and self.content.stalls

    def going_on(self, effect: Effect | None) -> ResponseStream:
        """More of a conversation, to which `effect` happens, and what of this one goes on."""
        if not self.begun:
            self._prepare(self.effect.clock.monotonic())
        content = self.content
        if content is not None and (content.is_replaced or self._end(content) is not None):
            return self  # nothing comes any more
        following = ResponseStream(self.effect.followed_by(effect), encrypted=self._encrypted)
        if content is not None and following.effect.failure is self.effect.failure:
            following.content = content
        if isinstance(self._line, _Interruption):
            following._line = self._line
        return following

    def arrive(self, at: float) -> float:
        """Its first byte has come, `at` in monotonic seconds; returns when it is due."""
        self.due = at + self.effect.delay
        if self.effect.pending and self.effect.left():
            self.effect.happen(RECEIVED)
        return self.due

    def left(self) -> float:
        """Seconds until it is held up no more, whenever it is due: its experiments may end."""
        return 0.0 if self.due == -math.inf else self.effect.left()

    def overtake(self) -> None:
        """Something else happens to the connection before it comes: nobody awaits it any more."""
        self.due = -math.inf

    def waited(self, due: float) -> None:
        """A wait until `due` is over, maybe by another clock than the one `next` is told."""
        self._now = max(self._now, due)

    def next(
        self,
        available: int,
        now: float,
        *,
        since: float = -math.inf,
        whole: bool = False,
        least: int = 1,
    ) -> Step:
        """What the driver has to do next.

        `available`: bytes that have come from the peer and nobody has read; 0 at EOF.
        `now`, `since`: in monotonic seconds; since when they are on the line, where that is known.
        `whole`: none of them can be read before all are there, as those of a TLS record; `least`:
        so many are read at once, if there are as many.
        """
        first, self._now = self._now == -math.inf, max(self._now, now)
        now = self._now
        due = self.arrive(now) if self.due is None else self.due
        if not self.begun:
            if now < due and self.effect.left():
                return WaitUntil(due)
            self.begun = True
            if (self.effect.failure or self.effect.pace) and self.effect.left():
                # A client that comes later than `due` would find all of it carried, and it is the
                # line that it came to test: nothing is carried before the client asks.
                self._prepare(now if first else due)
                if isinstance(self._line, _Line):
                    self.effect.happen(PACED)
            if self.content is not None:
                self._update(self.content)
            else:
                self.is_unchanged = self._line is None
        if self.content is not None and (end := self._end(self.content)) is not None:
            return end
        if now < since and self.effect.left():
            return WaitUntil(since)
        if self._line is None or not self.effect.left():
            return ReadPeer()
        return self._line.next(available, now, since, least, whole=whole)

    def _end(self, content: Content) -> Step | None:
        """How it ends; None if more of it comes from the peer."""
        if content.resets:
            return ResetConnection()
        if content.closes:
            return CloseConnection()
        if content.stalls:
            # What the peer goes on to send was not taken, so the connection cannot go on with it.
            return WaitUntil(math.inf) if self.effect.left() else ResetConnection()
        return ReadReplacement() if self.is_replaced else None

    def _prepare(self, line_free: float) -> None:
        """Make what changes its bytes, and what carries them, unless they go on."""
        failure, pace = self.effect.failure, self.effect.pace
        if self.content is None and failure is not None:
            self.content = Content(failure, self.effect, encrypted=self._encrypted)
        if self._line is None and isinstance(pace, Pause):
            if not self._encrypted:  # where it is in records, nobody knows
                self._line = _Interruption(pace, self.effect, line_free)
        elif self._line is None and pace is not None:
            self._line = _Line(pace, line_free)

    def _update(self, content: Content) -> None:
        """`content` has begun, or some of it was taken."""
        self.is_replaced = content.is_replaced and not self._encrypted
        altered = (content.is_altered or content.is_replaced) and not self._encrypted
        ends = content.is_over or content.stalls
        self.is_unchanged = not (altered or ends or self._line is not None)

    def take(self, data: bytes) -> bytes:
        """The bytes that are delivered for the next `data` that was read from the peer.

        There may be none of them although it goes on: then the driver does the next step, for
        nothing would be EOF.
        """
        if self._line is not None:
            self._line.took(data)
        if self._encrypted or self.content is None:
            return data
        delivered = self.content.take(data)
        self._update(self.content)
        return delivered

    def look(self, data: bytes) -> bytes:
        """What `take` would return for `data`, which are left with the peer (MSG_PEEK)."""
        return data if self._encrypted or self.content is None else self.content.look(data)

    def replay(self, size: int = -1, *, peeks: bool = False) -> bytes:
        """As `Content.replay`."""
        return b"" if self.content is None else self.content.replay(size, peeks=peeks)

    def drained(self) -> None:
        """The client has read all that had come: what comes next is new on the line."""
        if self._line is not None:
            self._line.drained()

    def await_again(self) -> None:
        """What had come was none of it, but TLS's own, such as tickets: it is still awaited."""
        self.due, self.begun, self._now = None, False, -math.inf

"""What a client sends over one connection: what of it goes out, and when. Sans-IO.

The counterpart of `response_stream`, which does the work: here, and nowhere else, a fault of what
is sent becomes what the client sees. Its driver says which bytes the client gives it, does the
step that it is told, and asks again:

    requests.begin(effect)  # of a message that `begins`
    while sent < len(data):
        match requests.next(len(data) - sent, clock.monotonic()):
            case WaitUntil(due):
                sleep_until(due, effect.left)
                requests.waited(due)
            case ReadPeer(most):
                end = sent + most
                ready = requests.take(data[sent:end], data[end : end + AHEAD])
                sent += requests.passed(sock.send(ready))
            case ResetConnection() | CloseConnection():
                ...  # as if the peer had done so; what is sent then tells

Where TLS is made above the socket, two drivers share a message: one gives what the client sends,
and has encrypted what `seal` makes of it; the other sends the records of that, and is told by
`end_between` in which of them the message ends.

A message is what one call sends, and a request of HTTP/1 with its body. Where something happens
after so many bytes, so many items or so long, it is all that is sent until the peer answers. What
is only late need not be held up: its response is late instead, which is all that the client can
see of it.
"""

from __future__ import annotations

import math

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pytest_resilience.chaos.active_experiment import Hit
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.parsing.http_requests import REQUEST_LINE
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import Step


__all__ = ["AHEAD", "CAPACITY", "RequestStream", "after"]

# Bytes: what a kernel takes, more or less, of what nobody acknowledges.
CAPACITY: Final = 1 << 18
AHEAD: Final = 32  # bytes: so many of records are nobody else's


class RequestStream:
    """See the module.

    Attributes:
        cut: what keeps everything from getting through, since the last message; else None.
        late: what makes the response to the latest message late; None if nothing does.
        effect: what else happens to that message; None for nothing.
        rest: bytes of a message that are still to be given, after some were taken.
        is_answered: what the peer has encrypted since the message began was read.
    """

    __slots__ = (
        "_is_http", "_message", "_owed", "_ready", "_records", "cut", "effect", "is_answered",
        "late", "rest",
    )  # fmt: skip

    def __init__(self) -> None:
        self.cut: Effect | None = None
        self.late: Effect | None = None
        self.effect: Effect | None = None
        self.rest = 0
        self.is_answered = False
        self._message: ResponseStream | None = None
        self._records: _Records | None = None  # of it, where it is sealed
        self._is_http = False
        self._ready = b""  # taken, changed, and not sent yet
        self._owed = 0  # bytes of the client that these stand for

    def begins(self, message: bytes, *, answered: bool, in_conversation: bool = False) -> bool:
        """Whether what begins so is a new message; `answered`: the peer has spoken since.

        `in_conversation`: it does so at any time.
        """
        if self.rest:
            return False
        is_request = REQUEST_LINE.match(message) is not None
        is_more = self._is_http or self._awaits_its_place
        goes_on = in_conversation and self.effect is not None and self.effect.is_of_stream
        if not is_request and (goes_on or (is_more and not answered)):
            return False  # its body, or more of what is cut off somewhere
        self._is_http, self.is_answered = is_request, False
        return True

    def begin(self, effect: Effect | None, *, sealed: bool = False) -> None:
        """A message begins, to which this happens.

        `sealed`: its bytes are changed by `seal`, and what is sent are TLS records of them.
        """
        self.cut = self.late = self.effect = self._message = self._records = None
        self._ready, self._owed = b"", 0
        if effect is None:
            return
        if effect.delay == math.inf:
            self.cut = effect
            return
        if effect.delay:
            self.late = replace(effect, failure=None, pace=None)
        if effect.failure is not None or effect.pace is not None:
            self.effect = replace(effect, delay=0.0)
            self._records = _Records(self.effect) if sealed else None
            of_message = replace(self.effect, pace=None) if sealed else self.effect
            self._message = ResponseStream(of_message, encrypted=sealed)

    @property
    def is_cut(self) -> bool:
        """Whether nothing gets through; once that is so, it stays so until it is over."""
        return self.cut is not None and self.cut.left() > 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing happens to what is sent, nor did to the latest message."""
        return self._message is None and self.cut is None and self.late is None

    @property
    def _awaits_its_place(self) -> bool:
        """Whether something happens somewhere in what is sent, however many calls that takes."""
        effect = self.effect
        faults = [] if effect is None or not effect.left() else [effect.failure, effect.pace]
        return any(fault is not None and fault.has_place for fault in faults)

    @property
    def is_unchanged(self) -> bool:
        """Whether the message is passed on as it is, and at once."""
        return self._message is None

    def next(self, size: int, now: float) -> Step:
        """What the driver has to do next with `size` bytes that it was given, at `now`.

        With none: what is done to a connection after all that was sent.
        """
        message = self._message
        if message is None or self._ready:
            return ReadPeer()
        if self._records is not None and not self._records.is_over:
            return self._records.line.next(size, now)
        step = message.next(size, now)
        if self.has_ended and not message.is_reset:
            return CloseConnection()
        return step

    @property
    def is_ending(self) -> bool:
        """Whether an end is decided that those who send the records have not come to."""
        return self._records is not None and self._records.has_end

    @property
    def has_ended(self) -> bool:
        """Whether the rest of the message is lost, and the connection with it."""
        content = None if self._message is None else self._message.content
        return content is not None and (content.is_over or content.is_replaced)

    def waited(self, due: float) -> None:
        """A wait until `due` is over, maybe by another clock than the one `next` is told."""
        if self._message is not None:
            self._message.waited(due)
        if self._records is not None:
            self._records.line.waited(due)

    def seal(self, data: bytes, now: float) -> tuple[bytes, bytes]:
        """Of what the client sends next, the bytes that arrive, and those that are lost then.

        Both are encrypted: who sends the records is told that the connection has ended. So the
        driver says by `end_between` which ones they are.
        """
        message = self._message
        if message is None:
            return data, b""
        if not isinstance(message.next(len(data), now), ReadPeer):
            return b"", data
        changed = data if message.content is None else message.content.take(data)
        is_over = self.has_ended or message.is_stalled
        return changed, data[len(changed) :] if is_over else b""

    def end_between(self, arriving: bytes, lost: bytes) -> None:
        """These are the records of what `seal` gave: the message ends between them, if it does."""
        message = self._message
        if message is not None and (self.has_ended or message.is_stalled) and self._records:
            self._records.end_between(arriving, lost)

    def take(self, data: bytes, following: bytes = b"") -> bytes:
        """The bytes that are sent for the next `data` of the client, and for those before it.

        `following`: the first that come after them, `AHEAD` bytes if there are as many.
        """
        if self._message is None:
            return data
        if not self._ready:
            records = self._records
            ready = records.take(data, following) if records else self._message.take(data)
            self._ready, self._owed = ready, len(data)
            lost = len(data) - len(self._ready)
            is_over = self.has_ended or self._message.is_stalled
            if is_over and lost > CAPACITY:  # it is still being sent when the peer takes no more
                self._owed -= lost
        return self._ready

    def passed(self, sent: int) -> int:
        """So many bytes that it gave were sent; returns how many of the client's that are."""
        if self._message is None:
            return sent
        self._ready = self._ready[sent:]
        # What was kept before may be sent with it.
        passed = min(sent, max(0, self._owed - 1)) if self._ready else self._owed
        self._owed -= passed
        return passed


class _Records:
    """The TLS records of a message, which may wait anywhere between who encrypts and who sends.

    Attributes:
        line: what carries them.
    """

    __slots__ = ("_begun", "_is_before", "_left", "_mark", "line")

    def __init__(self, effect: Effect) -> None:
        self.line = ResponseStream(replace(effect, failure=None), encrypted=True)
        self._mark = b""  # what is at the end
        self._is_before = False  # it arrives itself
        self._begun = b""  # what has come last that may be the beginning of it
        self._left: int | None = None  # bytes before the end, once it is in sight

    @property
    def has_end(self) -> bool:
        """Whether it is known where they end."""
        return bool(self._mark)

    @property
    def is_over(self) -> bool:
        """Whether the end of those that arrive has been come to."""
        return self._left == 0

    def end_between(self, arriving: bytes, lost: bytes) -> None:
        """As of a `RequestStream`. What is told later comes after the end."""
        if not self._mark:
            self._mark = lost[:AHEAD] or arriving[-AHEAD:]
            self._is_before = not lost

    def take(self, data: bytes, following: bytes) -> bytes:
        """Those of the next `data` that arrive; `following`: what comes after.

        What may be the beginning of what is lost is kept: more comes, for that is encrypted.
        """
        if self._left is None and self._mark:
            data = self._look(data, following)
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return self.line.take(data)

    def _look(self, data: bytes, following: bytes) -> bytes:
        """Look for the end; returns what is to be sent, if that is before it."""
        begun, self._begun = self._begun, b""
        seen = begun + data + following
        at = seen.find(self._mark)
        data = data if self._is_before else begun + data
        if at >= 0:
            self._left = at + len(self._mark) - len(begun) if self._is_before else at
            return data
        sizes = range(min(len(self._mark) - 1, len(seen)), len(following), -1)
        size = next((each for each in sizes if seen.endswith(self._mark[:each])), len(following))
        self._begun = seen[len(seen) - size : len(seen) - len(following)]
        return data if self._is_before else data[: len(data) - len(self._begun)]


def after(late: Effect, response: Effect | None) -> Effect:
    """What happens to the response to a request that was late itself."""
    if response is None:
        return late
    of_response = response

    def tell(hits: Sequence[Hit]) -> None:
        known = [hit for hit in hits if hit in late.hits]
        if late.tell is not None:
            late.tell(known)
        if of_response.tell is not None:
            of_response.tell([hit for hit in hits if hit not in known])

    return replace(
        response,
        delay=late.delay + response.delay,
        hits=(*late.hits, *response.hits),
        pending=[*late.pending, *response.pending],
        tell=tell,
    )

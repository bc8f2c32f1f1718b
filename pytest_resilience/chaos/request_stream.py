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
                ready = requests.take(data[sent : sent + most])
                sent += requests.passed(sock.send(ready))
            case ResetConnection() | CloseConnection():
                ...  # as if the peer had done so; what is sent then tells

A message is what one call sends, and a request of HTTP/1 with its body. Where something happens
after so many bytes, so many items or so long, it is all that is sent until the peer answers. What
is only late need not be held up: its response is late instead, which is all that the client can
see of it.
"""

from __future__ import annotations

import math
import re

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pytest_resilience.chaos.active_experiment import Hit
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import Step
from pytest_resilience.chaos.response_stream import WaitUntil


__all__ = ["CAPACITY", "RequestStream", "after"]

# Bytes: what a kernel takes, more or less, of what nobody acknowledges.
CAPACITY: Final = 1 << 18
_REQUEST_LINE: Final = re.compile(rb"[A-Z][A-Z-]* \S+ HTTP/1\.[01]\r?\n")


class RequestStream:
    """See the module.

    Attributes:
        cut: what keeps everything from getting through, since the last message; else None.
        late: what makes the response to the latest message late; None if nothing does.
        effect: what else happens to that message; None for nothing.
        rest: bytes of a message that are still to be given, after some were taken.
        has_sealed: records of what `seal` gave are still to be sent.
    """

    __slots__ = (
        "_is_http", "_message", "_owed", "_ready", "cut", "effect", "has_sealed",
        "late", "rest",
    )  # fmt: skip

    def __init__(self) -> None:
        self.cut: Effect | None = None
        self.late: Effect | None = None
        self.effect: Effect | None = None
        self.rest = 0
        self.has_sealed = False
        self._message: ResponseStream | None = None
        self._is_http = False
        self._ready = b""  # taken, changed, and not sent yet
        self._owed = 0  # bytes of the client that these stand for

    def begins(self, message: bytes, *, answered: bool) -> bool:
        """Whether what begins so is a new message; `answered`: the peer has spoken since."""
        if self.rest:
            return False
        is_request = _REQUEST_LINE.match(message) is not None
        is_more = self._is_http or self._awaits_its_place
        if is_more and not is_request and not answered:
            return False  # its body, or more of what is cut off somewhere
        self._is_http = is_request
        return True

    def begin(self, effect: Effect | None, *, sealed: bool = False) -> None:
        """A message begins, to which this happens.

        `sealed`: its bytes are changed by `seal`, and what is sent are TLS records of them.
        """
        self.cut = self.late = self.effect = self._message = None
        self._ready, self._owed = b"", 0
        self.has_sealed = False
        if effect is None:
            return
        if effect.delay == math.inf:
            self.cut = effect
            return
        if effect.delay:
            self.late = replace(effect, failure=None, pace=None)
        if effect.failure is not None or effect.pace is not None:
            self.effect = replace(effect, delay=0.0)
            self._message = ResponseStream(self.effect, encrypted=sealed)

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
        if size and self.has_sealed and message.effect.pace is None:
            return ReadPeer()
        step = message.next(size, now)
        if self.has_ended and not message.is_reset:
            return CloseConnection()
        return step

    @property
    def has_ended(self) -> bool:
        """Whether the rest of the message is lost, and the connection with it."""
        content = None if self._message is None else self._message.content
        return content is not None and (content.resets or content.closes or content.is_replaced)

    def waited(self, due: float) -> None:
        """A wait until `due` is over, maybe by another clock than the one `next` is told."""
        if self._message is not None:
            self._message.waited(due)

    def seal(self, data: bytes, now: float) -> bytes:
        """The bytes that TLS encrypts for the next `data` of the client."""
        message = self._message
        if message is None:
            return data
        if not isinstance(message.next(len(data), now), (ReadPeer, WaitUntil)):
            return b""
        changed = data if message.content is None else message.content.take(data)
        self.has_sealed = self.has_sealed or bool(changed)
        return changed

    def take(self, data: bytes) -> bytes:
        """The bytes that are sent for the next `data` of the client, and for those before it."""
        if self._message is None:
            return data
        if not self._ready:
            self._ready, self._owed = self._message.take(data), len(data)
            lost = len(data) - len(self._ready)
            if self.has_ended and lost > CAPACITY:  # it is still being sent when the peer is gone
                self._owed -= lost
        return self._ready

    def passed(self, sent: int) -> int:
        """So many bytes that it gave were sent; returns how many of the client's that are."""
        if self._message is None:
            return sent
        self._ready = self._ready[sent:]
        passed = sent if self._ready else self._owed
        self._owed -= passed
        if not self._ready:
            self.has_sealed = False
        return passed


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

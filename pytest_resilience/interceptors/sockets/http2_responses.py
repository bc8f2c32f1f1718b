"""Responses that share a connection of HTTP/2, each in its own time.

They are events of the library h2. Those of one response wait here while the others pass, and what
needs no response, such as a reset, happens to one at its time, though nothing has come.
"""

from __future__ import annotations

import math
import os
import sys

from collections import deque
from typing import Any
from typing import Final

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import Step
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection


__all__ = ["NO_BYTES", "WAKE", "SharedConnection", "StreamResponse"]

_INTERNAL_ERROR = 2  # of RFC 9113, 7: what a server says whose handler has failed
_MARK = os.urandom(16)
# What is given to who waits for something to come when it is time for a response that has come
# before: a frame of a type that there is not. It is never sent, and h2 does not get to see it.
WAKE: Final = bytes((0, 0, len(_MARK), 0xFE, 0, 0, 0, 0, 0)) + _MARK

# Of a response; others are about what is sent on its stream, and about the connection.
_OF_RESPONSES = frozenset({
    "InformationalResponseReceived", "ResponseReceived", "DataReceived", "TrailersReceived",
    "StreamEnded", "StreamReset",
})  # fmt: skip
_LAST = frozenset({"StreamEnded", "StreamReset"})


class _NoBytes(bytes):
    """No records of TLS, and not their end: who has received this asks again what there is."""

    def __bool__(self) -> bool:
        return True


NO_BYTES: Final = _NoBytes()


class SharedConnection:
    """What happens to the responses on one connection of h2.

    Attributes:
        text: the client is told headers as texts, and not bytes.
        connection: over which it has sent; None before.
        asked: the requests that were encoded and not sent yet, by stream.
        ended: the streams on which no more of a request comes after what was not sent yet.
        responses: those that are awaited, by stream.
    """

    def __init__(self, *, text: bool) -> None:
        self.text = text
        self.connection: TcpConnection | None = None
        self.asked: dict[int, HttpRequest] = {}
        self.ended: set[int] = set()
        self.responses: dict[int, StreamResponse] = {}

    def rest(self, now: float) -> float:
        """Seconds until something of them is to be told, though nothing comes."""
        return min((each.rest(now) for each in [*self.responses.values()]), default=math.inf)

    def hear(self, event: Any) -> bool:
        """Keep one that h2 has made, if it is of a response to which something happens."""
        response = self.responses.get(getattr(event, "stream_id", 0) or 0)
        if response is None or type(event).__name__ not in _OF_RESPONSES:
            return False
        response.hear(event)
        return True

    def due(self, now: float) -> list[Any]:
        """The events that are told by now of those that were kept, or in their place."""
        told = []
        for number, response in [*self.responses.items()]:
            told += response.due(now, text=self.text)
            if response.is_done:
                self.responses.pop(number, None)
        return told

    def lost(self) -> list[tuple[int, int]]:
        """The streams of whose bytes some will never be told, and how many since the last time."""
        return [(number, each.forget_lost()) for number, each in [*self.responses.items()]]


class StreamResponse:
    """One response on its way: the events of h2 that tell of it, as its `ResponseStream` says.

    Attributes:
        is_done: nothing more comes of it from the server, and nothing waits.
        is_timed: who waits for its time books that too.
    """

    def __init__(self, number: int, stream: ResponseStream) -> None:
        """`number`: of the stream."""
        self.is_done = self.is_timed = False
        self._number = number
        self._stream = stream
        self._events: deque[Any] = deque()
        self._lost = 0  # bytes of the window of flow control that nobody will give back
        self._is_over = False
        self._waits_since, self._waits_until = -math.inf, math.inf

    @property
    def effect(self) -> Effect:
        """What happens to it."""
        return self._stream.effect

    def rest(self, now: float) -> float:
        """As of `SharedConnection`."""
        if self._is_over or not (self._events or self._waits_until < math.inf):
            return math.inf
        return min(self._waits_until - now, self.effect.left())

    def asked(self, now: float) -> None:
        """All of the request is sent: what needs no response happens, though none may come.

        But for silence, of which nothing is told.
        """
        if not self._stream.needs_response and self.effect.delay < math.inf:
            self._waits_since, self._waits_until = now, now + self.effect.delay

    def hear(self, event: Any) -> None:
        """The next event, for the client to be told when it is due."""
        self._events.append(event)

    def forget_lost(self) -> int:
        """How many bytes are lost, since the last time."""
        lost, self._lost = self._lost, 0
        return lost

    def due(self, now: float, *, text: bool) -> list[Any]:
        """The events that are told by now; `text` as of `SharedConnection`."""
        told: list[Any] = []
        if not (self._events or self._stream.begun) and now < self._waits_until:
            if not self.effect.left():
                self._waits_until = math.inf
            return told
        if self._stream.due is None and self._waits_until < math.inf:
            self._stream.arrive(self._waits_since)
        while not self._is_over:
            first = self._events[0] if self._events else None
            whole = type(first).__name__ != "DataReceived"  # the others cannot be told in pieces
            step = self._stream.next(len(_bytes_of(first)), now, whole=whole)
            if isinstance(step, WaitUntil):
                self._wait(step.due, now)
                break
            self._end_wait(now)
            if not isinstance(step, ReadPeer):
                told += self._end(step, text=text)
            elif self._events:
                told += self._pass(self._events.popleft(), step.most)
            else:
                break
        while self._is_over and self._events:
            self._lose(self._events.popleft())
        return told

    def _wait(self, due: float, now: float) -> None:
        self._is_over = due == math.inf and not self.effect.transient
        if due != self._waits_until or self._waits_since > now:
            self._waits_until, self._waits_since, self.is_timed = due, now, False

    def _end_wait(self, now: float) -> None:
        if self._waits_until < math.inf and not self.is_timed:
            self.effect.add_delay(max(0.0, now - self._waits_since))
        self._waits_until = math.inf

    def _pass(self, event: Any, most: int) -> list[Any]:
        """Tell of it, or of what is left of it: of `most` bytes of a body, at the most."""
        if type(event).__name__ == "DataReceived" and most < len(event.data):
            self._events.appendleft(event)
            rest, data = event.data[most:], event.data[:most]
            event.data = rest
            event.flow_controlled_length -= most
            event = self._made(
                "DataReceived", data=data, flow_controlled_length=most, stream_ended=None
            )
        self.is_done = self.is_done or type(event).__name__ in _LAST
        data = _bytes_of(event)
        if not data:
            return [event]
        taken = self._stream.take(data)
        if hasattr(event, "data"):
            event.data = taken
        if not taken:
            self._lose(event)
        return [event] if taken else []

    def _lose(self, event: Any) -> None:
        self.is_done = self.is_done or type(event).__name__ in _LAST
        self._lost += getattr(event, "flow_controlled_length", 0)

    def _end(self, step: Step, *, text: bool) -> list[Any]:
        """What is told in the place of all that is still to come."""
        self._is_over = True
        replay = self._stream.replay() if isinstance(step, ReadReplacement) else b""
        assert isinstance(step, (ReadReplacement, ResetConnection, CloseConnection))
        return self._injected(replay, text=text) if replay else [self._reset()]

    def _reset(self) -> Any:
        """The server ends the stream, and not the connection."""
        return self._made("StreamReset", error_code=_INTERNAL_ERROR, remote_reset=True)

    def _injected(self, replay: bytes, *, text: bool) -> list[Any]:
        """The events of a response that is given in HTTP/1."""
        head, _, body = replay.partition(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        given = [
            (name.lower(), value) for name, _, value in (each.partition(": ") for each in rest)
        ]
        pairs = [(":status", line.split(" ")[1]), *given]
        pairs = [each for each in pairs if each[0] != "connection"]
        headers = pairs if text else [tuple(map(str.encode, each)) for each in pairs]
        nothing = {"stream_ended": None}
        told = [self._made("ResponseReceived", headers=headers, priority_updated=None, **nothing)]
        if body:
            told += [self._made("DataReceived", data=body, flow_controlled_length=0, **nothing)]
        return [*told, self._made("StreamEnded")]

    def _made(self, kind: str, **attributes: Any) -> Any:
        """An event of the stream, in whichever way this version makes them."""
        cls = getattr(sys.modules["h2.events"], kind)
        made = cls.__new__(cls)
        vars(made).update(stream_id=self._number, **attributes)
        return made


def _bytes_of(event: Any) -> bytes:
    """What its event tells of a response: the head as it would be in HTTP/1, or of the body."""
    if type(event).__name__ == "DataReceived":
        return bytes(event.data)
    if type(event).__name__ != "ResponseReceived":
        return b""
    pairs = [(text_of(name), text_of(value)) for name, value in event.headers]
    lines = [f"{name}: {value}" for name, value in pairs if not name.startswith(":")]
    status = f"HTTP/1.1 {dict(pairs).get(':status', '200')} "
    return "\r\n".join([status, *lines, "", ""]).encode("latin-1", "replace")

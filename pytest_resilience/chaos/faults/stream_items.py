"""The items of a response that comes bit by bit, and what begins after so many of them.

An item is what an application waits for, whatever pieces it comes in:

- an event of server-sent events: lines up to an empty one, with more than comments in them;
- a message of a WebSocket, in one frame or in several; control frames are none (RFC 6455);
- a line, of HTTP with a content type that says so, and of protocols other than HTTP;
- else a chunk of a body in chunks (RFC 9112).

Everything here works on the bytes from the peer, in any pieces, and keeps what it has to know.
"""

from __future__ import annotations

import re

from collections.abc import Iterator
from typing import Protocol

from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.payload import Chunks
from pytest_resilience.chaos.faults.payload import Head
from pytest_resilience.chaos.faults.payload import ItemKind
from pytest_resilience.chaos.faults.payload import is_chunked


__all__ = [
    "After",
    "BytePosition",
    "Cut",
    "Dropped",
    "ItemPosition",
    "Items",
    "Position",
    "Then",
    "in_chunks",
]

_EVENTS = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream", re.IGNORECASE)
_TEXT = re.compile(rb"\r\ncontent-type:[ \t]*text/plain", re.IGNORECASE)
_RECORDS = re.compile(
    rb"\r\ncontent-type:[ \t]*application/(x-ndjson|jsonl|json-seq|json-lines|x-json)",
    re.IGNORECASE,
)
_SWITCHED = re.compile(rb"\r\nupgrade:[ \t]*websocket", re.IGNORECASE)
_WHOLE, _MASKED, _CONTROL = 0x80, 0x80, 0x08
# How a frame of a server begins, which no text does: text, binary or control, maybe compressed.
_FRAMES = frozenset({0x01, 0x02, 0x41, 0x42, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0xC2})


class _Lines:
    def ends(self, data: bytes) -> Iterator[int]:
        at = data.find(b"\n")
        while at >= 0:
            yield at + 1
            at = data.find(b"\n", at + 1)


class _Events:
    """Their lines end with LF or CRLF."""

    def __init__(self) -> None:
        self._line = b""
        self._any = False  # whether the event has a line that is no comment

    def ends(self, data: bytes) -> Iterator[int]:
        start = 0
        for end in _Lines().ends(data):
            line, start = (self._line + data[start:end]).rstrip(b"\r\n"), end
            self._line = b""
            if line:
                self._any = self._any or not line.startswith(b":")
            elif self._any:
                self._any = False
                yield end
        self._line += data[start:]


class _Messages:
    """Of a WebSocket."""

    def __init__(self) -> None:
        self._header = b""
        self._left: int | None = None  # bytes of the frame; None as long as its header is read
        self._ends_message = False

    def ends(self, data: bytes) -> Iterator[int]:
        at = 0
        while at < len(data):
            if self._left is None:
                self._header += data[at : at + 1]
                at += 1
                self._left = self._payload()
            else:
                passed = min(self._left, len(data) - at)
                at, self._left = at + passed, self._left - passed
            if self._left == 0:
                self._left, self._header = None, b""
                if self._ends_message:
                    yield at

    def _payload(self) -> int | None:
        """How many bytes follow the header; None if it is not complete."""
        header = self._header
        if len(header) < 2:
            return None
        short = header[1] & 0x7F
        extended = {126: 2, 127: 8}.get(short, 0)
        masked = 4 if header[1] & _MASKED else 0
        if len(header) < 2 + extended:
            return None
        self._ends_message = bool(header[0] & _WHOLE) and not header[0] & _CONTROL
        return masked + (int.from_bytes(header[2:], "big") if extended else short)


class Items:
    """Finds the items of one response.

    Attributes:
        none: whether there is no body that could have any.
        may_drop: whether HTTP's framing is right without what was between two ends, of which the
            latest was just found.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._kind: ItemKind | None = None
        self._in_body = False

    @property
    def none(self) -> bool:
        return self._head.bodiless

    @property
    def may_drop(self) -> bool:
        return self._head.length is None and getattr(self._kind, "at_end_of_chunk", True)

    def ends(self, data: bytes) -> Iterator[int]:
        """Where the next `data` has the ends of items, and first of all the end of the head."""
        start = self._head.within(data)
        if not self._head.over:
            return
        if not self._in_body:
            self._in_body = True
            yield start
        if start < len(data):
            self._kind = self._kind or self._recognized(data[start])
            for end in self._kind.ends(data[start:]):
                yield start + end

    def _recognized(self, first: int) -> ItemKind:
        head = self._head.text
        if not head:
            return _Messages() if first in _FRAMES else _Lines()
        if _SWITCHED.search(head):
            return _Messages()
        kind: ItemKind | None = None
        if _EVENTS.search(head):
            kind = _Events()
        elif _RECORDS.search(head) or _TEXT.search(head):
            kind = _Lines()
        return Chunks(kind) if is_chunked(head) else kind or _Lines()


def in_chunks(head: bytes, body: bytes) -> bytes | None:
    """The body as a server flushes it, one item to a chunk; None if that is no stream of items.

    Such a server does not know how long it will be.
    """
    if not (_EVENTS.search(head) or _RECORDS.search(head)):
        return None
    whole, start, chunks = head + body, len(head), []
    for end in (*Items(Head()).ends(whole), len(whole)):
        if end > start:
            chunks.append(b"%x\r\n%b\r\n" % (end - start, whole[start:end]))
            start = end
    return b"".join([*chunks, b"0\r\n\r\n"])


class Position(Protocol):
    """A place in a response.

    Attributes:
        missing: it has turned out that the response has no such place.
        passed: how many items or bytes of the body have come, until it is found.
    """

    @property
    def missing(self) -> bool:
        """See above."""

    @property
    def passed(self) -> int:
        """See above."""

    def find(self, data: bytes) -> int | None:
        """Where in the next `data` it is; None if it is not in there."""


class ItemPosition:
    """After so many items; after none is where the body begins."""

    def __init__(self, head: Head, count: int) -> None:
        self._items = Items(head)
        self._count = count
        self._left = count + 1  # the end of the head comes first

    @property
    def missing(self) -> bool:
        return self._items.none

    @property
    def passed(self) -> int:
        return max(0, self._count - self._left)

    def find(self, data: bytes) -> int | None:
        """As in `Position`."""
        for end in self._items.ends(data):
            self._left -= 1
            if not self._left:
                return end
        return None


class BytePosition:
    """After so many bytes of the body."""

    def __init__(self, head: Head, count: int) -> None:
        self._head = head
        self._count = self._left = count

    @property
    def missing(self) -> bool:
        length = self._head.length
        return self._head.bodiless or (length is not None and self._count >= length)

    @property
    def passed(self) -> int:
        length = self._head.length
        return self._count - self._left if length is None else length

    def find(self, data: bytes) -> int | None:
        """As in `Position`."""
        start = self._head.within(data)
        if not self._head.over:
            return None
        if len(data) - start >= self._left:
            return start + self._left
        self._left -= len(data) - start
        return None


class Then(Altered, Protocol):
    """Something that begins in the middle of a response."""

    def pass_by(self, data: bytes) -> None:
        """The next `data` of the response is delivered as it is."""


class After:
    """What `then` does to a response, from a position in it on."""

    def __init__(self, position: Position, then: Then) -> None:
        self._position = position
        self._then = then
        self._reached = False

    @property
    def ended(self) -> bool:
        return self._reached and self._then.ended

    @property
    def spared(self) -> bool:
        return self._position.missing

    @property
    def passed(self) -> int:
        return self._position.passed

    def alter(self, data: bytes) -> bytes:
        """The bytes that are delivered for the next `data` of the response."""
        if self._reached:
            return self._then.alter(data)
        at = self._position.find(data)
        self._then.pass_by(data[:at])
        if at is None:
            return data
        self._reached = True
        return data[:at] + (self._then.alter(data[at:]) if data[at:] else b"")


class Cut:
    """Nothing more is delivered."""

    ended = True
    spared = False
    passed = 0

    def alter(self, _data: bytes) -> bytes:
        """Nothing."""
        return b""

    def pass_by(self, _data: bytes) -> None:
        """It makes no difference."""


class Dropped:
    """A response of which one item is missing, that after the first `count`.

    It is kept until it is complete: if the lengths that HTTP has told would be wrong without it,
    it is delivered.
    """

    ended = False

    def __init__(self, head: Head, count: int) -> None:
        self._items = Items(head)
        self._before = count + 1  # the end of the head comes first
        self._kept = b""
        self._over = False
        self.spared = False
        self._found = -1  # items; the end of the head comes first

    @property
    def passed(self) -> int:
        return max(0, self._found)

    def alter(self, data: bytes) -> bytes:
        """The bytes that are delivered for the next `data` of the response."""
        if self._over:
            return data
        start = len(data) if self._before else 0
        for end in self._items.ends(data):
            self._found += 1
            if self._before > 1:
                self._before -= 1
            elif not self._items.may_drop:
                self._over = self.spared = True
                return self._kept + data
            elif self._before:
                self._before, start = 0, end
            else:
                self._over = True
                return data[:start] + data[end:]
        if self._items.none:
            self._over = self.spared = True
        self._kept += data[start:]
        return data[:start]

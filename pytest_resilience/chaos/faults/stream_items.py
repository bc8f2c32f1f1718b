"""The items of a response that comes bit by bit, and what begins after so many of them.

An item is what an application waits for, whatever pieces it comes in:

- an event of server-sent events: lines up to an empty one; comments are none of it;
- a message of a WebSocket, in one frame or in several; control frames are none (RFC 6455);
- a line, of HTTP with a content type that says so, and of protocols other than HTTP;
- of gRPC or NATS a message, and of Redis a reply, or what is published;
- else a chunk of a body in chunks (RFC 9112).

Everything here works on the bytes from the peer, in any pieces, and keeps what it has to know.
"""

from __future__ import annotations

import re

from collections.abc import Iterator
from typing import Protocol

from pytest_resilience.chaos.faults.chunks import CONTENT
from pytest_resilience.chaos.faults.chunks import END_OF_CHUNK
from pytest_resilience.chaos.faults.chunks import ChunkReader
from pytest_resilience.chaos.faults.chunks import chunk
from pytest_resilience.chaos.faults.item_kinds import Events
from pytest_resilience.chaos.faults.item_kinds import GrpcMessages
from pytest_resilience.chaos.faults.item_kinds import ItemKind
from pytest_resilience.chaos.faults.item_kinds import Lines
from pytest_resilience.chaos.faults.item_kinds import Messages
from pytest_resilience.chaos.faults.item_kinds import ToldByBeginning
from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.payload import Head
from pytest_resilience.chaos.faults.payload import is_chunked


__all__ = [
    "After",
    "BytePosition",
    "Cut",
    "ItemPosition",
    "Position",
    "Then",
    "in_chunks",
    "kind_of",
]

_EVENTS = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream", re.IGNORECASE)
_GRPC = re.compile(rb"\r\ncontent-type:[ \t]*application/grpc", re.IGNORECASE)
_TEXT = re.compile(rb"\r\ncontent-type:[ \t]*text/plain", re.IGNORECASE)
_RECORDS = re.compile(
    rb"\r\ncontent-type:[ \t]*application/(x-ndjson|jsonl|json-seq|json-lines|x-json)",
    re.IGNORECASE,
)
_SWITCHED = re.compile(rb"\r\nupgrade:[ \t]*websocket", re.IGNORECASE)


def kind_of(head: bytes) -> ItemKind | None:
    """What the items are after this head; None if they are the chunks of the body."""
    if not head:
        return ToldByBeginning()
    if _SWITCHED.search(head):
        return Messages()
    if _EVENTS.search(head):
        return Events()
    if _GRPC.search(head):
        return GrpcMessages()
    is_lines = _RECORDS.search(head) or _TEXT.search(head) or not is_chunked(head)
    return Lines() if is_lines else None


class _Items:
    """Finds the items of one response."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._kind: ItemKind | None = None
        self._chunks: ChunkReader | None = None
        self._in_body = False
        self._item_ended = False  # with its chunk, of which what follows the content belongs to it

    def ends(self, data: bytes) -> Iterator[int]:
        """Where the next `data` has the ends of items, and first of all the end of the head."""
        start = self._head.within(data)
        if not self._head.over:
            return
        if not self._in_body:
            self._in_body = True
            yield start
        if start == len(data):
            return
        if self._kind is None and self._chunks is None:
            self._kind = kind_of(self._head.text)
            self._chunks = ChunkReader() if is_chunked(self._head.text) else None
        body = data[start:]
        ends = _ends(self._kind, body) if self._chunks is None else self._in_chunks(body)
        for end in ends:
            yield start + end

    def _in_chunks(self, body: bytes) -> Iterator[int]:
        assert self._chunks is not None
        for part in self._chunks.parts(body):
            if part.what == CONTENT:
                for end in _ends(self._kind, body[part.start : part.end]):
                    self._item_ended = part.is_whole and part.start + end == part.end
                    if not self._item_ended:
                        yield part.start + end
                self._item_ended = self._item_ended or self._kind is None
            elif part.what == END_OF_CHUNK and part.is_whole and self._item_ended:
                self._item_ended = False
                yield part.end


def _ends(kind: ItemKind | None, data: bytes) -> Iterator[int]:
    for piece in () if kind is None else kind.pieces(data):
        if piece.ends_item:
            yield piece.end


def in_chunks(head: bytes, body: bytes) -> bytes | None:
    """The body as a server flushes it, one item to a chunk; None if that is no stream of items.

    Such a server does not know how long it will be.
    """
    if not (_EVENTS.search(head) or _RECORDS.search(head)):
        return None
    whole, start, chunks = head + body, len(head), []
    for end in (*_Items(Head()).ends(whole), len(whole)):
        if end > start:
            chunks.append(chunk(whole[start:end]))
            start = end
    return b"".join([*chunks, b"0\r\n\r\n"])


class Position(Protocol):
    """A place in a response.

    Attributes:
        spared: it has turned out that the response has no such place.
        passed: how many items or bytes of the body have come, until it is found.
    """

    @property
    def spared(self) -> bool:
        """See above."""

    @property
    def passed(self) -> int:
        """See above."""

    def find(self, data: bytes) -> int | None:
        """Where in the next `data` it is; None if it is not in there."""


class ItemPosition:
    """After so many items; after none is where the body begins."""

    def __init__(self, head: Head, count: int) -> None:
        self._head = head
        self._items = _Items(head)
        self._count = count
        self._left = count + 1  # the end of the head comes first

    @property
    def spared(self) -> bool:
        return self._head.has_nothing_after(0)

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
    def spared(self) -> bool:
        return self._head.has_nothing_after(self._count)

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
        return self._position.spared

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

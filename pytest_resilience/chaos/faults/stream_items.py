"""The items of a response that comes bit by bit: what begins after so many of them, and one lost.

An item is what an application waits for, whatever pieces it comes in:

- an event of server-sent events: lines up to an empty one; comments are none of it;
- a message of a WebSocket, in one frame or in several; control frames are none (RFC 6455);
- a line, of HTTP with a content type that says so, and of protocols other than HTTP;
- of gRPC or NATS a message, and of Redis a reply, or what is published;
- else a chunk of a body in chunks (RFC 9112).

Everything here works on the bytes from the peer, in any pieces, and keeps what it has to know.
Where an item is lost, what frames the others stays right: a chunk that has lost a part says how
long the rest is.
"""

from __future__ import annotations

import re

from collections.abc import Iterator
from typing import Protocol

from pytest_resilience.chaos.faults.item_kinds import Events
from pytest_resilience.chaos.faults.item_kinds import GrpcMessages
from pytest_resilience.chaos.faults.item_kinds import ItemKind
from pytest_resilience.chaos.faults.item_kinds import Lines
from pytest_resilience.chaos.faults.item_kinds import Messages
from pytest_resilience.chaos.faults.item_kinds import ToldByBeginning
from pytest_resilience.chaos.faults.item_kinds import WithoutMessage
from pytest_resilience.chaos.faults.item_kinds import is_frame
from pytest_resilience.chaos.faults.payload import CONTENT
from pytest_resilience.chaos.faults.payload import END_OF_CHUNK
from pytest_resilience.chaos.faults.payload import SIZE
from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.payload import ChunkReader
from pytest_resilience.chaos.faults.payload import Head
from pytest_resilience.chaos.faults.payload import Part
from pytest_resilience.chaos.faults.payload import chunk
from pytest_resilience.chaos.faults.payload import is_chunked


__all__ = [
    "After",
    "BytePosition",
    "Cut",
    "Dropped",
    "ItemPosition",
    "Position",
    "Then",
    "in_chunks",
]

_EVENTS = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream", re.IGNORECASE)
_GRPC = re.compile(rb"\r\ncontent-type:[ \t]*application/grpc", re.IGNORECASE)
_TEXT = re.compile(rb"\r\ncontent-type:[ \t]*text/plain", re.IGNORECASE)
_RECORDS = re.compile(
    rb"\r\ncontent-type:[ \t]*application/(x-ndjson|jsonl|json-seq|json-lines|x-json)",
    re.IGNORECASE,
)
_SWITCHED = re.compile(rb"\r\nupgrade:[ \t]*websocket", re.IGNORECASE)


def _kind_of(head: bytes) -> ItemKind | None:
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
            self._kind = _kind_of(self._head.text)
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


class _ItemRemover(Protocol):
    """Takes one item out of a body.

    Attributes:
        passed: how many items have come.
        spared: it has turned out that it cannot be lost.
    """

    @property
    def passed(self) -> int:
        """See above."""

    @property
    def spared(self) -> bool:
        """See above."""

    def alter(self, data: bytes) -> bytes:
        """The bytes that are delivered for the next ones."""


class Dropped:
    """A message of which one item is lost. It is lost byte by byte, so that nothing is held up.

    A message that has told its length could only be one that is cut off: it is spared.
    """

    ended = False

    def __init__(self, head: Head, count: int) -> None:
        """`count`: of the items that come before."""
        self.spared = False
        self._head = head
        self._count = count
        self._remover: _ItemRemover | None = None

    @property
    def passed(self) -> int:
        return 0 if self._remover is None else self._remover.passed

    def alter(self, data: bytes) -> bytes:
        """The bytes that are delivered for the next `data` of the message."""
        start = self._head.within(data)
        if self._head.over and (self._head.bodiless or self._head.length is not None):
            self.spared = True
        if self.spared or start == len(data):
            return data
        if self._remover is None:
            self._remover = _remover_for(self._head.text, data[start], self._count)
        kept = self._remover.alter(data[start:])
        self.spared = self._remover.spared
        return data[:start] + kept


def _remover_for(head: bytes, first: int, count: int) -> _ItemRemover:
    kind = _kind_of(head)
    if isinstance(kind, Messages) or (not head and is_frame(first)):
        return WithoutMessage(count)
    return _FromChunks(kind, count) if is_chunked(head) or kind is None else _FromItems(kind, count)


class _FromItems:
    """Items one after the other, in whatever pieces they come."""

    spared = False

    def __init__(self, kind: ItemKind, count: int) -> None:
        self.passed = 0
        self._kind = kind
        self._count = count

    def alter(self, data: bytes) -> bytes:
        """As of an `_ItemRemover`."""
        if self.passed > self._count:
            return data
        kept, start = [], 0
        for piece in self._kind.pieces(data):
            if not (piece.of_item and self.passed == self._count):
                kept.append(data[start : piece.end])
            start = piece.end
            self.passed += piece.ends_item
        return b"".join(kept)


class _FromChunks:
    """Items in chunks, or chunks that are the items. What comes whole stays as it is."""

    spared = False

    def __init__(self, kind: ItemKind | None, count: int) -> None:
        self._content = None if kind is None else _FromItems(kind, count)
        self._chunks = 0
        self._count = count
        self._reader = ChunkReader()
        self._size = b""  # the line, until it is known whether it is delivered
        self._is_framed = False  # as the server did it
        self._is_over = False

    @property
    def passed(self) -> int:
        return self._chunks if self._content is None else self._content.passed

    def alter(self, data: bytes) -> bytes:
        """As of an `_ItemRemover`."""
        delivered, at = [], 0
        for part in () if self._is_over else self._reader.parts(data):
            delivered.append(self._delivered(part, data[part.start : part.end]))
            at = part.end
            if part.what == END_OF_CHUNK and part.is_whole and self.passed > self._count:
                self._is_over = True
                break
        if self._reader.is_broken:
            delivered.append(self._size)
            self._size, self._is_over = b"", True
        return b"".join([*delivered, data[at:]])

    def _delivered(self, part: Part, data: bytes) -> bytes:
        if part.what == CONTENT:
            size, self._size = self._size, b""
            return self._of_content(part, size, data)
        if part.what == END_OF_CHUNK:
            return data if self._is_framed else b""
        if part.what != SIZE:
            return data
        self._size += data
        if not part.is_whole or self._reader.left:
            return b""
        line, self._size = self._size, b""
        return line

    def _of_content(self, part: Part, size: bytes, data: bytes) -> bytes:
        """`size`: the line before it, if it begins the chunk."""
        if self._content is None:
            self._is_framed = self._chunks != self._count
            self._chunks += part.is_whole
            return size + data if self._is_framed else b""
        kept = self._content.alter(data)
        self._is_framed = bool(size) and part.is_whole and kept == data
        if self._is_framed:
            return size + data
        return chunk(kept) if kept else b""

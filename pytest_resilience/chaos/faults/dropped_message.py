"""A message whose items arrive, but for one: an event, a message of a WebSocket, a line or a chunk.

What frames the others stays right: a chunk that has lost a part says how long the rest is.
"""

from __future__ import annotations

from typing import Protocol

from pytest_resilience.chaos.faults.chunks import CONTENT
from pytest_resilience.chaos.faults.chunks import END_OF_CHUNK
from pytest_resilience.chaos.faults.chunks import SIZE
from pytest_resilience.chaos.faults.chunks import ChunkReader
from pytest_resilience.chaos.faults.chunks import Part
from pytest_resilience.chaos.faults.chunks import chunk
from pytest_resilience.chaos.faults.item_kinds import ItemKind
from pytest_resilience.chaos.faults.item_kinds import Messages
from pytest_resilience.chaos.faults.item_kinds import is_frame
from pytest_resilience.chaos.faults.payload import Head
from pytest_resilience.chaos.faults.payload import is_chunked
from pytest_resilience.chaos.faults.stream_items import kind_of
from pytest_resilience.chaos.faults.websocket_frames import WithoutMessage


__all__ = ["Dropped"]


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
    kind = kind_of(head)
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

"""Follows the responses of HTTP/1 on one connection, to know whether the client waits for more."""

from __future__ import annotations

from collections.abc import Callable

from pytest_resilience.chaos.faults.chunks import ChunkReader
from pytest_resilience.chaos.faults.payload import Head
from pytest_resilience.chaos.faults.payload import is_chunked


__all__ = ["ResponseReader"]

_AT_ONCE = 4096  # bytes that are looked at for a head
_SWITCHED = b"101"  # to another protocol, which follows until the end


class ResponseReader:
    """See the module. What is no HTTP/1 is not followed.

    Attributes:
        is_unfinished: whether one has begun, and not ended. One whose end is that of the
            connection does not, nor what follows after an upgrade, as of a WebSocket.
    """

    def __init__(self) -> None:
        self.is_unfinished = False
        self._method = b""
        self._head = Head()
        self._chunks = ChunkReader()
        self._left = 0  # bytes of a body
        self._read: Callable[[memoryview], int] = self._read_head

    def note_request(self, request: memoryview) -> None:
        """The client sends this, or something that begins so: what comes next responds to it."""
        self._method = bytes(request[:8]).partition(b" ")[0]

    def feed_response(self, data: memoryview) -> None:
        """The server sends this."""
        while data:
            data = data[self._read(data) :]

    def _read_head(self, data: memoryview) -> int:
        size = self._head.within(bytes(data[:_AT_ONCE]))
        self.is_unfinished = True
        if self._head.over:
            self._begin_body(self._head)
        return size

    def _begin_body(self, head: Head) -> None:
        status = head.text[len(b"HTTP/1.1 ") :][:3]
        if not head.text or (self._method == b"CONNECT" and status.startswith(b"2")):
            self._ignore()
        elif status == _SWITCHED:
            self._read = len
        elif self._method == b"HEAD" or head.bodiless:
            self._end()
        elif is_chunked(head.text):
            self._chunks, self._read = ChunkReader(), self._read_chunks
        elif head.length is None:
            self._read = len
        else:
            self._left, self._read = head.length, self._skip

    def _skip(self, data: memoryview) -> int:
        size = min(self._left, len(data))
        self._left -= size
        if not self._left:
            self._end()
        return size

    def _read_chunks(self, data: memoryview) -> int:
        end = 0
        for part in self._chunks.parts(data):
            end = part.end
        if self._chunks.is_over:
            self._end()
        elif self._chunks.is_broken:
            self._ignore()
        return end

    def _end(self) -> None:
        self.is_unfinished = False
        self._head, self._read = Head(), self._read_head

    def _ignore(self) -> None:
        """It is no HTTP, nor what follows."""
        self.is_unfinished, self._read = False, len

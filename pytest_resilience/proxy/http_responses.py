"""Follows the responses of HTTP/1 on one connection, to know whether the client waits for more."""

from __future__ import annotations

from collections.abc import Callable

from pytest_resilience.chaos.faults.payload import Head
from pytest_resilience.chaos.faults.payload import is_chunked


__all__ = ["ResponseReader"]

_AT_ONCE = 4096  # bytes that are looked at for a head
_MOST_LINE = 16 << 10  # bytes; what goes on for longer is no line of a body in chunks
_LINE = 64  # bytes that are looked at for the end of one
_END_OF_CHUNK = 2  # bytes: CR LF
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
        self._line = b""
        self._left = 0  # bytes of a body, or of a chunk
        self._after: Callable[[], None] = self._end  # what comes after those
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
            self._line, self._read = b"", self._read_size
        elif head.length is None:
            self._read = len
        else:
            self._await(head.length, self._end)

    def _await(self, size: int, after: Callable[[], None]) -> None:
        self._left, self._after, self._read = size, after, self._skip

    def _skip(self, data: memoryview) -> int:
        size = min(self._left, len(data))
        self._left -= size
        if not self._left:
            self._after()
        return size

    def _end(self) -> None:
        self.is_unfinished = False
        self._head, self._read = Head(), self._read_head

    def _ignore(self) -> None:
        """It is no HTTP, nor what follows."""
        self.is_unfinished, self._read = False, len

    def _read_size(self, data: memoryview) -> int:
        """Of a chunk; what comes after it in the line may be anything."""
        size = self._read_line(data)
        if self._line.endswith(b"\n"):
            number, self._line = self._line.partition(b";")[0], b""
            try:
                length = int(number, 16)
            except ValueError:
                self._ignore()
                return size
            if length > 0:
                self._await(length + _END_OF_CHUNK, self._next_chunk)
            else:
                self._read = self._read_trailers
        return size

    def _next_chunk(self) -> None:
        self._read = self._read_size

    def _read_trailers(self, data: memoryview) -> int:
        size = self._read_line(data)
        if self._line.endswith(b"\n"):
            line, self._line = self._line.strip(), b""
            if not line:
                self._end()
        return size

    def _read_line(self, data: memoryview) -> int:
        """Take more of a line, up to its end; how many bytes."""
        piece = bytes(data[:_LINE])
        size = piece.find(b"\n") + 1 or len(piece)
        self._line += piece[:size]
        if len(self._line) > _MOST_LINE:
            self._line = b""
            self._ignore()
        return size

"""A body in chunks (RFC 9112), in any pieces: what of it is content, and what frames that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from typing import NamedTuple


__all__ = ["CONTENT", "END_OF_CHUNK", "SIZE", "ChunkReader", "Part", "chunk"]

SIZE: Final = "size"  # the line that says how long a chunk is; the last one says 0
CONTENT: Final = "content"
END_OF_CHUNK: Final = "end of chunk"  # CR LF
_TRAILERS: Final = "trailers"  # lines after the last chunk, to an empty one
_MOST_LINE = 16 << 10  # bytes; what goes on for longer is no line
_AT_ONCE = 64  # bytes that are looked at for the end of one


class Part(NamedTuple):
    """What follows the part before it, from `start` to before `end`, in bytes.

    Attributes:
        what: of the above.
        is_whole: what began there, or in an earlier piece, ends here.
    """

    what: str
    start: int
    end: int
    is_whole: bool


class ChunkReader:
    """Tells the parts of one body.

    Attributes:
        left: bytes of content that the chunk still has; of the last one 0, once its size is whole.
        is_over: all of it was read, with its trailers.
        is_broken: it is no body in chunks.
    """

    def __init__(self) -> None:
        self.left = 0
        self.is_over = False
        self.is_broken = False
        self._what = SIZE
        self._line = b""

    def parts(self, data: bytes | memoryview) -> Iterator[Part]:
        """Those in the next `data`, as far as it is of this body."""
        at = 0
        while at < len(data) and not (self.is_over or self.is_broken):
            what, start = self._what, at
            if what == CONTENT:
                at += min(self.left, len(data) - at)
                self.left -= at - start
                is_whole = not self.left
                self._what = END_OF_CHUNK if is_whole else CONTENT
            else:
                at, is_whole = self._read_line(data, at)
            if not self.is_broken:
                yield Part(what, start, at, is_whole)

    def _read_line(self, data: bytes | memoryview, at: int) -> tuple[int, bool]:
        """Take more of a line, or of what ends a chunk; where it ends, and whether it does."""
        wanted = 2 - len(self._line) if self._what == END_OF_CHUNK else _AT_ONCE
        piece = bytes(data[at : at + wanted])
        size = len(piece) if self._what == END_OF_CHUNK else piece.find(b"\n") + 1 or len(piece)
        self._line += piece[:size]
        is_whole = size == wanted if self._what == END_OF_CHUNK else self._line.endswith(b"\n")
        self.is_broken = len(self._line) > _MOST_LINE
        if is_whole:
            line, self._line = self._line, b""
            self._after(line)
        return at + size, is_whole

    def _after(self, line: bytes) -> None:
        """`line` was read, and something else comes."""
        if self._what == END_OF_CHUNK:
            self._what = SIZE
        elif self._what == _TRAILERS:
            self.is_over = not line.strip()
        else:
            try:
                self.left = int(line.partition(b";")[0], 16)
            except ValueError:
                self.left = -1
            self.is_broken = self.left < 0
            self._what = CONTENT if self.left else _TRAILERS


def chunk(content: bytes) -> bytes:
    """As one chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)

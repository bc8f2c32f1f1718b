"""Changing the bytes of one response, wherever they pass: truncation and corruption.

Of HTTP only the body is changed, and what its headers promise is believed: half of a body
is half of its `Content-Length`. Of any other protocol, and of HTTP that names no length,
the first piece that arrives has to stand for the whole, where a share of that is asked for.
A body in chunks (RFC 9112) is read in any pieces: what of it is content, and what frames that.
"""

from __future__ import annotations

import math
import random
import re

from collections.abc import Iterator
from typing import Final
from typing import NamedTuple
from typing import Protocol


__all__ = [
    "CONTENT",
    "END_OF_CHUNK",
    "SIZE",
    "Altered",
    "ChunkReader",
    "Corrupted",
    "Head",
    "Part",
    "Skipped",
    "Truncated",
    "chunk",
    "gap",
    "head_of",
    "is_chunked",
]

_NEVER = 2**62
_HTTP = b"HTTP/"
_END_OF_HEAD = b"\r\n\r\n"
_MOST_HEAD = 64 << 10  # bytes; what goes on for longer is not HTTP
_BODILESS = (b"204", b"304")
_SWITCHED = b"101"  # to another protocol, which follows at once
_REQUEST_LINE = re.compile(rb"[A-Z][A-Z-]* \S+ HTTP/1\.[01]\r\n")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_IN_CHUNKS = re.compile(rb"\r\ntransfer-encoding:[^\r]*\bchunked\b", re.IGNORECASE)
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)  # so that more follows than a body
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
SIZE: Final = "size"  # the line that says how long a chunk is; the last one says 0
CONTENT: Final = "content"
END_OF_CHUNK: Final = "end of chunk"  # CR LF
_TRAILERS: Final = "trailers"  # lines after the last chunk, to an empty one
_MOST_LINE = 16 << 10  # bytes; what goes on for longer is no line
_AT_ONCE = 64  # bytes that are looked at for the end of one


class Altered(Protocol):
    """One response while its bytes pass.

    Attributes:
        ended: no more of it is delivered, whatever the peer still sends: EOF.
        spared: it has turned out to have nothing where it is to be changed.
        passed: how much of it has come, in what says where it is changed: items, or bytes of the
            body, of which a length that is told counts as come.
    """

    @property
    def ended(self) -> bool:
        """See above."""

    @property
    def spared(self) -> bool:
        """See above."""

    @property
    def passed(self) -> int:
        """See above."""

    def alter(self, data: bytes) -> bytes:
        """The bytes that are delivered for the next `data` of the response."""


def gap(chance: random.Random, share: float) -> int:
    """How many bytes stay as they are before the next hit, if a `share` (0 to 1) of all is hit.

    Drawn from the geometric distribution, by inverting its cumulative distribution function.
    """
    if share in (0, 1):
        return 0 if share else _NEVER
    return int(min(_NEVER, math.log1p(-chance.random()) / math.log1p(-share)))


class Head:
    """Finds where the head of a response ends and its body begins.

    Attributes:
        length: of the body in bytes, once the head is known; None where it does not say.
        bodiless: whether no body follows it.
        over: whether the body has begun, or it is no HTTP.
        text: of the head, from the status line on; empty as long as it is not over, and if it is
            no HTTP.
    """

    def __init__(self) -> None:
        self.length: int | None = None
        self.bodiless = False
        self.over = False
        self.text = b""
        self._seen = b""

    def has_nothing_after(self, size: int) -> bool:
        """Whether it is known that the body has no more than so many bytes."""
        return self.bodiless or (self.length is not None and size >= self.length)

    def within(self, data: bytes) -> int:
        """How many of the next bytes still belong to it."""
        if self.over:
            return 0
        before = len(self._seen)
        self._seen += data
        if not self._may_be_one():
            self.over = True
            return 0
        end = self._seen.find(_END_OF_HEAD)
        if end < 0:
            self.over = len(self._seen) > _MOST_HEAD
            return len(data)
        size = end + len(_END_OF_HEAD) - before
        if self._is_interim(end):
            self._seen = b""
            return size + self.within(data[size:])
        self.over, self.text = True, self._seen[: end + len(_END_OF_HEAD)]
        found = _LENGTH.search(self._seen, 0, end)
        is_told = found is not None and self._status != _SWITCHED
        self.length = int(found[1]) if found is not None and is_told else None
        self.bodiless = self.length == 0 or self._has_no_body(end)
        return size

    def _may_be_one(self) -> bool:
        return self._seen.startswith(_HTTP) or _HTTP.startswith(self._seen)

    def _is_interim(self, end: int) -> bool:  # noqa: ARG002  # of the first line alone
        """Whether another head follows, with the final response."""
        return self._status.startswith(b"1") and self._status != _SWITCHED

    def _has_no_body(self, end: int) -> bool:  # noqa: ARG002
        return self._status in _BODILESS

    @property
    def _status(self) -> bytes:
        return self._seen.partition(b" ")[2][:3]


class _RequestHead(Head):
    """The same of a request."""

    def _may_be_one(self) -> bool:
        return _REQUEST_LINE.match(self._seen) is not None

    def _is_interim(self, end: int) -> bool:  # noqa: ARG002
        return False

    def _has_no_body(self, end: int) -> bool:
        follows = self.length is not None or any(
            header.search(self._seen, 0, end) for header in (_CHUNKED, _UPGRADE)
        )
        return not follows


def head_of(of_request: bool) -> Head:
    """What finds the head of a request, or of a response."""
    return _RequestHead() if of_request else Head()


def is_chunked(head: bytes) -> bool:
    """Whether the body after this head comes in chunks (RFC 9112)."""
    return _IN_CHUNKS.search(head) is not None


class Skipped:
    """Takes the place of a head where it is known how long that is."""

    length: int | None = None
    text = b""

    def __init__(self, size: int) -> None:
        self._left = size

    def has_nothing_after(self, size: int) -> bool:  # noqa: ARG002
        """As of a `Head`."""
        return False

    def within(self, data: bytes) -> int:
        """How many of the next bytes still belong to it."""
        skipped = min(self._left, len(data))
        self._left -= skipped
        return skipped


class Truncated:
    """A message of whose body a `share` (0 to 1) is delivered, or so many bytes, and then no more.

    Or a stream of whatever protocol.
    """

    ended = False

    def __init__(self, head: Head | Skipped, *, share: float, limit: int | None) -> None:
        """`limit`: in bytes, instead of a share."""
        self._share = share
        self._limit = limit
        self._head = head
        self._allowed: int | None = None  # bytes of the body that are still to be delivered
        self._passed = 0

    @property
    def spared(self) -> bool:
        return self._head.has_nothing_after(self._limit or 0)

    @property
    def passed(self) -> int:
        return self._passed if self._head.length is None else self._head.length

    def alter(self, data: bytes) -> bytes:
        if self.ended:
            return b""
        start = self._head.within(data)
        body = data[start:]
        self._passed += len(body)
        if self._allowed is None:
            whole = len(body) if self._head.length is None else self._head.length
            if self.spared or not whole:
                return data
            share = max(0, min(whole - 1, int(whole * self._share)))
            self._allowed = share if self._limit is None else self._limit
        kept = body[: self._allowed]
        self._allowed -= len(kept)
        self.ended = not self._allowed
        return data[:start] + kept


class Corrupted:
    """A response of whose body a `share` (0 to 1) of the bytes, and at least one, is wrong.

    What frames its chunks is none of it. Or a stream, of whose bytes so many are skipped, and of
    the rest any number is wrong.
    """

    ended = False
    passed = 0

    @property
    def spared(self) -> bool:
        return self._head.has_nothing_after(0)

    def __init__(
        self, head: Head | Skipped, share: float, seed: float, *, hits_for_certain: bool
    ) -> None:
        self._share = share
        self._chance = random.Random(seed)
        self._head = head
        self._hits_for_certain = hits_for_certain
        self._next: int | None = None  # bytes of the body until the one that is hit
        self._before = 0  # bytes of the body that were left alone
        self._chunks: ChunkReader | None = None

    def pass_by(self, data: bytes) -> None:
        """The next `data` of the response is delivered as it is."""
        self._before += sum(end - start for start, end in self._content(data))

    def alter(self, data: bytes) -> bytes:
        hit = bytearray(data)
        for start, end in self._content(data):
            self._damage(hit, start, end)
        return bytes(hit)

    def _content(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where in the next `data` there is content."""
        start = self._head.within(data)
        if start == len(data):
            return
        if self._chunks is None and is_chunked(self._head.text):
            self._chunks = ChunkReader()
        if self._chunks is None:
            yield start, len(data)
            return
        for part in self._chunks.parts(data[start:]):
            if part.what == CONTENT:
                yield start + part.start, start + part.end

    def _damage(self, hit: bytearray, start: int, end: int) -> None:
        size = end - start
        if self._next is None:
            self._next = gap(self._chance, self._share)
            if self._hits_for_certain:  # within the length that the head names
                left = (self._head.length or self._before + size) - self._before
                self._next = min(self._next, self._chance.randrange(max(1, left)))
        while self._next < size:
            hit[start + self._next] ^= self._chance.randrange(1, 256)
            self._next += 1 + gap(self._chance, self._share)
        self._next -= size


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

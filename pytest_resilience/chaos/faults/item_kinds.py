"""The kinds of item, each told apart in whatever pieces the bytes come (see `stream_items`).

Messages of a WebSocket are told by its frames (RFC 6455), and may be without one of them. They may
be compressed (RFC 7692), each with what came before for a dictionary. So what comes after one that
is lost is delivered as it is without compression, which a peer may always send.
"""

from __future__ import annotations

import operator
import re
import zlib

from collections.abc import Iterator
from typing import NamedTuple
from typing import Protocol


__all__ = [
    "Events",
    "GrpcMessages",
    "ItemKind",
    "Lines",
    "Messages",
    "Piece",
    "ToldByBeginning",
    "WithoutMessage",
    "is_frame",
]

# How a frame of a server begins, which no text does: text, binary or control, maybe compressed.
_FRAMES = frozenset({0x01, 0x02, 0x41, 0x42, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0xC2})
_BEGINNING = 3  # bytes of a line, which tell whether it is empty, or a comment
_PREFIX = 5  # bytes before a message of gRPC
_NATS = re.compile(rb"INFO \{|H?MSG \S+ \S+ ")
_REPLY = re.compile(rb"[*>$%~]-?\d+\r\n")
_WORDS = (b"INFO {", b"MSG ", b"HMSG ")
_BEGUN = re.compile(rb"H?MSG \S{0,200}(?: \S{0,200})?|[*>$%~]-?\d{0,20}\r?")
_AGGREGATES = {ord("*"): 1, ord(">"): 1, ord("~"): 1, ord("%"): 2, ord("|"): 2}  # parts each
_BULK = frozenset(b"$=!")
# Of frames of a WebSocket: bits of the first byte, and of the second.
_LAST, _COMPRESSED, _CONTROL = 0x80, 0x40, 0x08
_MASKED = 0x80
_EXTENDED = {126: 2, 127: 8}  # bytes of the length, after a short one that says so
_END_OF_BLOCK = b"\x00\x00\xff\xff"  # which every compressed message leaves out
_RAW = -zlib.MAX_WBITS


class Piece(NamedTuple):
    """What follows the piece before it, to before `end`, in bytes.

    Attributes:
        of_item: it belongs to an item, and is nothing between two, or in the middle of one.
        ends_item: the item ends with it.
    """

    end: int
    of_item: bool
    ends_item: bool


class ItemKind(Protocol):
    """One kind of item."""

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """All of the next `data`, in pieces."""


class Lines:
    """Those of a text."""

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """As of an `ItemKind`."""
        at = 0
        while at < len(data):
            end = data.find(b"\n", at) + 1
            at = end or len(data)
            yield Piece(at, of_item=True, ends_item=bool(end))


class Events:
    """Of a server, in lines that end with LF or CRLF. A comment is none of it."""

    def __init__(self) -> None:
        self._line = b""  # its beginning
        self._any = False  # whether the event has a line that is no comment

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """As of an `ItemKind`."""
        start = 0
        for end, _, is_whole in Lines().pieces(data):
            self._line += data[start : min(end, start + _BEGINNING)]
            start, is_comment = end, self._line.startswith(b":")
            is_empty = not self._line.rstrip(b"\r\n")
            self._any = self._any or not (is_comment or is_empty)
            ends = is_whole and is_empty and self._any
            yield Piece(end, of_item=self._any and not is_comment, ends_item=ends)
            self._any = self._any and not ends
            self._line = b"" if is_whole else self._line[:_BEGINNING]


class Messages:
    """Of a WebSocket."""

    def __init__(self) -> None:
        self._frames = _FrameReader()

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """As of an `ItemKind`."""
        for part in self._frames.parts(data):
            yield Piece(part.end, not part.is_control, part.ends_message)


class GrpcMessages:
    """Each with a byte that says whether it is compressed, by itself, and its length."""

    def __init__(self) -> None:
        self._prefix = b""
        self._left = 0  # bytes of the message

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """As of an `ItemKind`."""
        at = 0
        while at < len(data):
            wanted = _PREFIX - len(self._prefix)
            if wanted:
                self._prefix += data[at : at + wanted]
                at = min(len(data), at + wanted)
                self._left = int.from_bytes(self._prefix[1:], "big")
            passed = 0 if len(self._prefix) < _PREFIX else min(self._left, len(data) - at)
            at, self._left = at + passed, self._left - passed
            ends = len(self._prefix) == _PREFIX and not self._left
            yield Piece(at, of_item=True, ends_item=ends)
            self._prefix = b"" if ends else self._prefix


class _LinesWithBodies:
    """Lines, after some of which comes a body of a size that they name.

    Attributes:
        left: bytes of the body, with the CRLF after it; to be set when its line is whole.
    """

    def __init__(self) -> None:
        self.left = 0
        self._line = b""

    def parts(self, data: bytes) -> Iterator[tuple[int, bytes, bool]]:
        """The next `data`: the end of each part, the line as far as it goes, whether it is whole.

        The line of a part of a body is empty.
        """
        at = 0
        while at < len(data):
            if self.left:
                passed = min(self.left, len(data) - at)
                at, self.left = at + passed, self.left - passed
                yield at, b"", False
            else:
                end = data.find(b"\n", at) + 1
                line = self._line + data[at : end or len(data)]
                at, self._line = end or len(data), b"" if end else line
                yield at, line, bool(end)


class _NatsMessages:
    """Each a line that names its length, and a payload; what else is said is none."""

    def __init__(self) -> None:
        self._payload = _LinesWithBodies()

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """As of an `ItemKind`."""
        for end, line, is_whole in self._payload.parts(data):
            of_item = line.startswith((b"M", b"H"))
            if is_whole and of_item:
                self._payload.left = _last_number(line) + 2
            ends = not (line or self._payload.left)
            yield Piece(end, of_item=of_item or not line, ends_item=ends)


class _Replies:
    """Of Redis, or what it publishes: a value, or as many as are told."""

    def __init__(self) -> None:
        self._value = _LinesWithBodies()
        self._wanted = 1  # values that are still to come

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """As of an `ItemKind`."""
        for end, line, is_whole in self._value.parts(data):
            if is_whole:
                self._begin_value(line)
            is_begun = bool(self._value.left or (line and not is_whole))
            ends = not (is_begun or self._wanted)
            yield Piece(end, of_item=True, ends_item=ends)
            self._wanted = 1 if ends else self._wanted

    def _begin_value(self, line: bytes) -> None:
        number = max(0, _last_number(line))
        if line[0] in _AGGREGATES:
            self._wanted += number * _AGGREGATES[line[0]]
        elif line[0] in _BULK and not line.startswith(b"$-"):
            self._value.left = number + 2
        self._wanted -= line[0] != ord("|")  # which comes before the value that it is about


def _last_number(line: bytes) -> int:
    found = re.search(rb"(-?\d+)\s*$", line)
    return 0 if found is None else int(found[1])


class ToldByBeginning:
    """What is said in a protocol other than HTTP, which its first bytes tell."""

    def __init__(self) -> None:
        self._begins = b""
        self._kind: ItemKind | None = None

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """As of an `ItemKind`."""
        if self._kind is None:
            begins = self._begins + data
            self._kind = _told(begins)
            if self._kind is None:  # nothing has ended
                self._begins = begins
                yield Piece(len(data), of_item=True, ends_item=False)
                return
            for _ in self._kind.pieces(self._begins):
                pass
        yield from self._kind.pieces(data)


def is_frame(first: int) -> bool:
    """Whether a frame of a WebSocket begins with this byte, as no text does."""
    return first in _FRAMES


def _told(begins: bytes) -> ItemKind | None:
    """What follows; None while that may be one thing or the other."""
    if is_frame(begins[0]):
        return Messages()
    if _NATS.match(begins):
        return _NatsMessages()
    if _REPLY.match(begins):
        return _Replies()
    is_begun = any(word.startswith(begins) for word in _WORDS) or _BEGUN.fullmatch(begins)
    return None if is_begun else Lines()


class _FramePart(NamedTuple):
    """What follows the part before it, to before `end`, in bytes.

    Attributes:
        payload: where that begins in it.
        offset: how much of the payload came before, in bytes.
        first: the first byte of the frame, with its kind.
        is_whole: the frame ends here.
    """

    end: int
    payload: int
    offset: int
    first: int
    is_whole: bool

    @property
    def is_control(self) -> bool:
        """Whether it is none of a message, but may come in the middle of one."""
        return bool(self.first & _CONTROL)

    @property
    def ends_message(self) -> bool:
        """Whether a message ends here."""
        return self.is_whole and not self.is_control and bool(self.first & _LAST)


class _FrameReader:
    """Tells the parts of frames.

    Attributes:
        mask: what the payload of the frame is masked with, as a client does; else empty.
    """

    def __init__(self) -> None:
        self.mask = b""
        self._header = b""
        self._left: int | None = None  # bytes of the payload; None as long as the header is read
        self._offset = 0  # bytes of it that were read

    def parts(self, data: bytes) -> Iterator[_FramePart]:
        """Those in the next `data`."""
        at = 0
        while at < len(data):
            while self._left is None and at < len(data):
                self._header += data[at : at + 1]
                at += 1
                self._left = self._payload()
            payload, offset, first = at, self._offset, self._header[0]
            if self._left is not None:
                at += min(self._left, len(data) - at)
                self._left -= at - payload
                self._offset += at - payload
            is_whole = self._left == 0
            yield _FramePart(at, payload, offset, first, is_whole)
            if is_whole:
                self._left, self._offset, self._header = None, 0, b""

    def _payload(self) -> int | None:
        """How many bytes follow the header; None if it is not complete."""
        header = self._header
        if len(header) < 2:
            return None
        short = header[1] & 0x7F
        size = 2 + _EXTENDED.get(short, 0)
        masked = 4 if header[1] & _MASKED else 0
        if len(header) < size + masked:
            return None
        self.mask = header[size:]
        return int.from_bytes(header[2:size], "big") if size > 2 else short


class WithoutMessage:
    """The messages of one side, but for that after the first `count`.

    Attributes:
        passed: how many have come.
        spared: it is not lost, for nobody could read what comes after it.
    """

    def __init__(self, count: int) -> None:
        self.passed = 0
        self.spared = False
        self._count = count
        self._frames = _FrameReader()
        self._inflater = zlib.decompressobj(_RAW)
        self._in_message = False
        self._is_compressed = False  # that message
        self._text = b""  # of the frame, without compression
        self._lost = b""

    def alter(self, data: bytes) -> bytes:
        """The bytes that are delivered for the next ones."""
        delivered, start = [], 0
        for part in () if self.spared else self._frames.parts(data):
            delivered.append(self._delivered(part, data[start : part.payload], data))
            start = part.end
            if self.spared:
                break
        return b"".join([*delivered, data[start:]])

    def _delivered(self, part: _FramePart, header: bytes, data: bytes) -> bytes:
        payload = data[part.payload : part.end]
        frame = header + payload
        if part.is_control:
            return frame
        if not self._in_message:
            self._in_message, self._is_compressed = True, bool(part.first & _COMPRESSED)
        is_lost, is_after = self.passed == self._count, self.passed > self._count
        if self._is_compressed and not self._decompress(part, payload):
            self.spared = True
            return self._lost + frame
        text, self._text = (self._text, b"") if part.is_whole else (b"", self._text)
        if part.ends_message:
            self.passed, self._in_message = self.passed + 1, False
        if is_lost:
            self._lost = b"" if part.ends_message else self._lost + frame
            return b""
        if not (is_after and self._is_compressed):
            return frame
        return self._anew(part.first, text) if part.is_whole else b""

    def _decompress(self, part: _FramePart, payload: bytes) -> bool:
        """Read more of a message; whether that can be done."""
        mask = self._frames.mask
        if mask:
            shifted = mask[part.offset % 4 :] + mask * (len(payload) // 4 + 1)
            payload = bytes(map(operator.xor, payload, shifted))
        try:
            self._text += self._inflater.decompress(payload)
            if part.ends_message:
                self._text += self._inflater.decompress(_END_OF_BLOCK)
        except zlib.error:  # its dictionary is what came before anybody looked
            return False
        return True

    def _anew(self, first: int, text: bytes) -> bytes:
        """A frame without compression."""
        size, extended = len(text), b""
        if size > 0xFFFF:
            size, extended = 127, size.to_bytes(8, "big")
        elif size > 125:
            size, extended = 126, size.to_bytes(2, "big")
        mask = bytes(len(self._frames.mask))  # which changes nothing
        size |= _MASKED if mask else 0
        return bytes([first & ~_COMPRESSED, size]) + extended + mask + text

"""The kinds of item, each told apart in whatever pieces the bytes come (see `stream_items`)."""

from __future__ import annotations

import re

from collections.abc import Iterator
from typing import NamedTuple
from typing import Protocol

from pytest_resilience.chaos.faults.websocket_frames import FrameReader


__all__ = [
    "Events", "GrpcMessages", "ItemKind", "Lines", "Messages", "Piece", "ToldByBeginning",
    "is_frame",
]  # fmt: skip

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
        self._frames = FrameReader()

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

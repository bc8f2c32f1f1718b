"""The frames of a WebSocket (RFC 6455), in any pieces, and its messages without one of them.

Messages may be compressed (RFC 7692), each with what came before for a dictionary. So what comes
after one that is lost is delivered as it is without compression, which a peer may always send.
"""

from __future__ import annotations

import operator
import zlib

from collections.abc import Iterator
from typing import NamedTuple


__all__ = ["FramePart", "FrameReader", "WithoutMessage"]

_LAST, _COMPRESSED, _CONTROL = 0x80, 0x40, 0x08
_MASKED = 0x80
_EXTENDED = {126: 2, 127: 8}  # bytes of the length, after a short one that says so
_END_OF_BLOCK = b"\x00\x00\xff\xff"  # which every compressed message leaves out
_RAW = -zlib.MAX_WBITS


class FramePart(NamedTuple):
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


class FrameReader:
    """Tells the parts of frames.

    Attributes:
        mask: what the payload of the frame is masked with, as a client does; else empty.
    """

    def __init__(self) -> None:
        self.mask = b""
        self._header = b""
        self._left: int | None = None  # bytes of the payload; None as long as the header is read
        self._offset = 0  # bytes of it that were read

    def parts(self, data: bytes) -> Iterator[FramePart]:
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
            yield FramePart(at, payload, offset, first, is_whole)
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
        self._frames = FrameReader()
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

    def _delivered(self, part: FramePart, header: bytes, data: bytes) -> bytes:
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

    def _decompress(self, part: FramePart, payload: bytes) -> bool:
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

"""A message of a WebSocket is lost, and the others are read as they were written."""

from __future__ import annotations

import zlib

import pytest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode
from websockets.protocol import Protocol
from websockets.protocol import Side
from websockets.protocol import State

from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.response import DroppedMessage
from tests.pieces import split


HEADS = {
    "downstream": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "upstream": b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
}
texts = st.lists(
    st.text("abc \u00e9", max_size=40) | st.sampled_from(["again and again", "x" * 300]),
    min_size=1,
    max_size=6,
)
cuts = st.lists(st.integers(1, 40), max_size=40)


def altered(fault: DroppedMessage) -> Altered:
    found = fault.altered()
    assert found is not None
    return found


def receiver(compression: str, *, masked: bool = False) -> Protocol:
    """Who is spoken to on an open connection."""
    found = Protocol(Side.SERVER if masked else Side.CLIENT, state=State.OPEN, max_size=None)
    alone = compression == "alone"
    found.extensions = [PerMessageDeflate(alone, alone, 15, 15)] if compression else []
    return found


def frame(first: int, payload: bytes, mask: bytes = b"") -> bytes:
    size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2)
    if mask:
        size = bytes([size[0] | 0x80]) + size[1:]
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([first]) + size + mask + payload


class Speaker:
    """One side, which compresses each message with all that came before, or alone, or not."""

    def __init__(self, compression: str, mask: bytes = b"") -> None:
        self._compression = compression
        self._mask = mask
        self._compressor = zlib.compressobj(wbits=-15)

    def said(self, text: str) -> bytes:
        """In three frames, one of them empty, with a ping between them."""
        data, first = text.encode(), 0x01
        if self._compression == "alone":
            self._compressor = zlib.compressobj(wbits=-15)
        if self._compression:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
            data, first = data.removesuffix(b"\x00\x00\xff\xff"), 0x41
        half = len(data) // 2
        frames = (first, data[:half]), (0x89, b"?"), (0x00, b""), (0x80, data[half:])
        return b"".join(frame(*each, self._mask) for each in frames)


def heard(side: Protocol) -> tuple[list[str], int]:
    """The messages, and how many pings."""
    assert side.parser_exc is None
    found, data, pings = list[str](), b"", 0
    for event in side.events_received():
        assert isinstance(event, Frame)
        if event.opcode is Opcode.PING:
            pings += 1
            continue
        data += event.data
        if event.fin:
            found, data = [*found, data.decode()], b""
    return found, pings


@pytest.mark.parametrize("compression", ["", "alone", "with all before"])
@pytest.mark.parametrize("stream", ["downstream", "upstream"])
@settings(max_examples=50)  # of each of 6 ways
@given(given_texts=texts, count=st.integers(0, 6), sizes=cuts)
def test_all_others_are_read(
    stream: str, compression: str, given_texts: list[str], count: int, sizes: list[int]
) -> None:
    upstream = stream == "upstream"
    listener = receiver(compression, masked=upstream)
    speaker = Speaker(compression, b"mask" if upstream else b"")
    state = altered(DroppedMessage(items=count, of_requests=upstream))
    assert state.alter(HEADS[stream]) == HEADS[stream]
    for piece in split(b"".join(map(speaker.said, given_texts)), sizes):
        listener.receive_data(state.alter(piece))
    left = given_texts[:count] + given_texts[count + 1 :]
    assert heard(listener) == (left, len(given_texts))
    assert state.passed == len(given_texts)
    assert not state.spared


def test_what_is_compressed_with_what_nobody_has_seen_is_left_alone() -> None:
    listener = receiver("with all before")
    speaker, state = Speaker("with all before"), altered(DroppedMessage(items=1))
    listener.receive_data(speaker.said("again and again"))
    for piece in split(b"".join(speaker.said("again and again") for _ in range(3)), [1] * 99):
        listener.receive_data(state.alter(piece))
    assert heard(listener)[0] == ["again and again"] * 4
    assert state.spared


@pytest.mark.parametrize("size", [1, 125, 126, 0xFFFF, 0x10000])
@pytest.mark.parametrize("mask", [b"", b"mask"])
def test_a_message_of_any_length_is_delivered_without_compression(size: int, mask: bytes) -> None:
    listener = receiver("with all before", masked=bool(mask))
    speaker, state = Speaker("with all before", mask), altered(DroppedMessage())
    first, text = speaker.said("x" * size), "x" * size
    assert state.alter(first) == frame(0x89, b"?", mask)
    listener.receive_data(state.alter(speaker.said(text)))
    assert heard(listener) == ([text], 1)

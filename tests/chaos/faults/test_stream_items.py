"""Events, messages, lines and chunks are told apart in whatever pieces their bytes come."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import pytest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.chaos.faults.response import Corruption
from pytest_resilience.chaos.faults.response import DroppedMessage
from pytest_resilience.chaos.faults.response import From
from pytest_resilience.chaos.faults.response import Truncation
from tests.pieces import split


STATUS = b"HTTP/1.1 200 OK\r\n"
EVENTS = STATUS + b"Content-Type: text/event-stream; charset=utf-8\r\n"
LINES = STATUS + b"content-type: application/x-ndjson\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

texts = st.text("abc \u00e9", min_size=1, max_size=20).map(str.encode)
cuts = st.lists(st.integers(1, 40), max_size=40)


def event(text: bytes) -> bytes:
    return b"id: 7\r\ndata: " + text + b"\r\n\r\n"


def commented(text: bytes) -> bytes:
    return b": still here\n\n\n" + b"data: " + text + b"\ndata: more\n\n"


def line(text: bytes) -> bytes:
    return text + b"\n"


def chunk(data: bytes) -> bytes:
    return b"%x;note=1\r\n%b\r\n" % (len(data), data)


def frame(data: bytes, first: int = 0x81) -> bytes:
    size = len(data)
    if size < 126:
        return bytes([first, size]) + data
    return bytes([first, 126]) + size.to_bytes(2, "big") + data


def message(text: bytes) -> bytes:
    """In two frames, with a ping between them, the second of them long."""
    return frame(text, 0x01) + frame(b"?", 0x89) + frame(text * 10, 0x80)


# How a stream begins, and an item of it.
STREAMS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "events": (EVENTS + b"\r\n", event),
    "events with comments": (EVENTS + b"\r\n", commented),
    "events in chunks": (EVENTS + CHUNKED + b"\r\n", lambda text: chunk(event(text))),
    "an event in two chunks": (
        EVENTS + CHUNKED + b"\r\n",
        lambda text: chunk(event(text)[:4]) + chunk(event(text)[4:]),
    ),
    "lines": (LINES + b"\r\n", line),
    "lines in chunks": (LINES + CHUNKED + b"\r\n", lambda text: chunk(line(text))),
    "chunks": (STATUS + CHUNKED + b"\r\n", chunk),
    "messages": (SWITCHED, message),
    "messages of a connection that has switched before": (b"", message),
    "lines of another protocol": (b"", line),
    "after an interim response": (b"HTTP/1.1 103 Early Hints\r\n\r\n" + LINES + b"\r\n", line),
}
every_stream = pytest.mark.parametrize(("head", "item"), STREAMS.values(), ids=STREAMS.keys())


def altered(fault: Alteration) -> Altered:
    found = fault.altered()
    assert found is not None
    return found


def delivered(fault: Alteration, data: bytes, sizes: Sequence[int]) -> tuple[bytes, Altered]:
    state = altered(fault)
    return b"".join([state.alter(piece) for piece in split(data, sizes)]), state


@every_stream
@settings(max_examples=30)  # of each of 11 streams
@given(given_texts=st.lists(texts, min_size=1, max_size=6), count=st.integers(0, 7), sizes=cuts)
def test_so_many_items_arrive_before_the_rest_is_cut_off(
    head: bytes,
    item: Callable[[bytes], bytes],
    given_texts: list[bytes],
    count: int,
    sizes: list[int],
) -> None:
    items = [item(text) for text in given_texts]
    fault = Truncation(begins=From(items=count))
    kept, state = delivered(fault, head + b"".join(items), sizes)
    assert kept == head + b"".join(items[:count])
    assert state.ended == (count <= len(items))
    assert not state.spared


@every_stream
@settings(max_examples=30)  # of each of 11 streams
@given(given_texts=st.lists(texts, min_size=1, max_size=6), count=st.integers(0, 7), sizes=cuts)
def test_one_item_is_dropped_and_the_others_arrive(
    head: bytes,
    item: Callable[[bytes], bytes],
    given_texts: list[bytes],
    count: int,
    sizes: list[int],
) -> None:
    items = [item(text) for text in given_texts]
    kept, state = delivered(DroppedMessage(items=count), head + b"".join(items), sizes)
    assert kept == head + b"".join(items[:count] + items[count + 1 :])
    assert (state.ended, state.spared) == (False, False)


@every_stream
@settings(max_examples=30)  # of each of 11 streams
@given(given_texts=st.lists(texts, min_size=3, max_size=6), count=st.integers(1, 2), sizes=cuts)
def test_what_comes_after_so_many_items_is_damaged(
    head: bytes,
    item: Callable[[bytes], bytes],
    given_texts: list[bytes],
    count: int,
    sizes: list[int],
) -> None:
    items = [item(text) for text in given_texts]
    whole, before = head + b"".join(items), head + b"".join(items[:count])
    fault = Corruption(share=0.5, seed=0.25, begins=From(items=count))
    kept, _ = delivered(fault, whole, sizes)
    assert kept.startswith(before)
    assert len(kept) == len(whole)
    assert kept != whole


@given(st.binary(min_size=1, max_size=200), st.integers(0, 250), cuts)
def test_bytes_of_the_body_are_counted_in_any_pieces(
    body: bytes, count: int, sizes: list[int]
) -> None:
    head = STATUS + b"Content-Length: %d\r\n\r\n" % len(body)
    kept, state = delivered(Truncation(begins=From(size=count)), head + body, sizes)
    assert kept == head + body[:count]
    assert state.spared == (count >= len(body))
    assert state.ended == (count <= len(body))


@given(st.binary(min_size=2, max_size=200), cuts)
def test_of_a_request_it_is_the_body_as_well(body: bytes, sizes: list[int]) -> None:
    head = b"POST /teas HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    sizes = [len(head), *sizes]  # clients send it at once
    fault = Truncation(begins=From(size=1), of_requests=True)
    assert delivered(fault, head + body, sizes)[0] == head + body[:1]
    damage = Corruption(share=0.5, seed=0.25, begins=From(size=1), of_requests=True)
    kept, _ = delivered(damage, head + body, sizes)
    assert kept.startswith(head + body[:1])
    assert len(kept) == len(head + body)
    assert kept != head + body


@given(texts, st.integers(0, 3), cuts)
def test_what_has_no_body_is_spared(text: bytes, count: int, sizes: list[int]) -> None:
    head = b"HTTP/1.1 204 No Content\r\nX: " + text + b"\r\n\r\n"
    for fault in (Truncation(begins=From(items=count)), DroppedMessage(items=count)):
        kept, state = delivered(fault, head, sizes)
        assert (kept, state.spared) == (head, True)


@given(st.lists(texts, min_size=2, max_size=4), cuts)
def test_what_would_make_a_length_wrong_is_not_dropped(
    given_texts: list[bytes], sizes: list[int]
) -> None:
    body = b"".join(map(line, given_texts))
    named = LINES + b"Content-Length: %d\r\n\r\n" % len(body) + body
    events = b"".join(map(event, given_texts))
    astride = EVENTS + CHUNKED + b"\r\n" + chunk(events[:-4]) + chunk(events[-4:])
    for whole, before in ((named, 0), (astride, 1)):
        kept, state = delivered(DroppedMessage(items=before), whole, sizes)
        assert (kept, state.spared) == (whole, True)


def test_an_item_that_is_not_complete_is_not_delivered_by_halves() -> None:
    state = altered(DroppedMessage())
    assert state.alter(EVENTS + b"\r\ndata: a") == EVENTS + b"\r\n"
    assert state.alter(b"bc\r") == b""
    assert state.alter(b"\n\r\ndata: d") == b"data: d"


def test_the_last_chunk_ends_the_items() -> None:
    whole = STATUS + CHUNKED + b"\r\n" + chunk(b"abc") + b"0\r\nX-Sum: 1\r\n\r\n"
    state = altered(Truncation(begins=From(items=2)))
    assert (state.alter(whole), state.ended) == (whole, False)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Truncation(begins=From(items=3)), "truncated after 3 items"),
        (Truncation(begins=From(items=3), end="reset"), "reset after 3 items"),
        (Truncation(begins=From(size=2048), end="silence"), "silent after 2 KiB"),
        (Truncation(begins=From(seconds=2), end="reset"), "reset after 2s"),
        (Corruption(share=0.1, begins=From(items=1)), "corrupted, 0.1 of the bytes after 1 items"),
        (DroppedMessage(items=2), "message 3 dropped"),
    ],
)
def test_what_happens_is_told(fault: Alteration, said: str) -> None:
    assert str(fault) == said

"""Events, messages, lines and chunks are told apart in whatever pieces their bytes come."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import h11
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


def nats(text: bytes) -> bytes:
    return b"MSG teas 1 %d\r\n%b\r\n" % (len(text) + 5, text + b"\r\nMSG")


def reply(text: bytes) -> bytes:
    parts = b"$%d\r\n%b\r\n" % (len(text) + 3, text + b"\r\n*")
    return b"*5\r\n" + parts + b"$-1\r\n*0\r\n%1\r\n:1\r\n+OK\r\n*2\r\n$0\r\n\r\n#t\r\n"


def frame(data: bytes, first: int = 0x81) -> bytes:
    size = len(data)
    if size < 126:
        return bytes([first, size]) + data
    return bytes([first, 126]) + size.to_bytes(2, "big") + data


def message(text: bytes) -> bytes:
    """In two frames, with a ping between them, the second of them long."""
    return frame(text, 0x01) + frame(b"?", 0x89) + frame(text * 10, 0x80)


def unchunked(stream: bytes) -> bytes:
    """What is in the chunks after a head, if there are any."""
    head, _, rest = stream.partition(b"\r\n\r\n")
    if CHUNKED.strip() not in head:
        return stream
    content = b""
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        assert rest[size : size + 2] == b"\r\n"
        content, rest = content + rest[:size], rest[size + 2 :]
    return head + content


# What is left where an item was dropped.
REST: dict[Callable[[bytes], bytes], bytes] = {
    commented: b": still here\n\n\n",
    message: frame(b"?", 0x89),
}
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
    "messages of gRPC": (
        STATUS + b"content-type: application/grpc+proto\r\n\r\n",
        lambda text: b"\x00" + (len(text) + 1).to_bytes(4) + text + b"\n",
    ),
    "messages of NATS": (b"", nats),
    "replies of Redis": (b"", reply),
    "one value of Redis": (b"", lambda text: b"$%d\r\n%b\r\n" % (len(text), text)),
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
@settings(max_examples=30)  # of each of 15 streams
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
@settings(max_examples=30)  # of each of 15 streams
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
    rest = [REST.get(item, b"")] if count < len(items) else []
    expected = head + b"".join(items[:count] + rest + items[count + 1 :])
    assert (
        kept == expected if item in {chunk, line, event} else unchunked(kept) == unchunked(expected)
    )
    assert (state.ended, state.spared) == (False, False)


@every_stream
@settings(max_examples=30)  # of each of 15 streams
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
    whole = LINES + b"Content-Length: %d\r\n\r\n" % len(body) + body
    kept, state = delivered(DroppedMessage(), whole, sizes)
    assert (kept, state.spared) == (whole, True)


def read_by_h11(response: bytes) -> bytes:
    """The body."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "here")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(response)
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        body += bytes(event.data) if isinstance(event, h11.Data) else b""
        assert event is not h11.NEED_DATA
    assert dict(event.headers) == {b"sum": b"1"}
    return body


@given(
    st.sampled_from([(EVENTS, event), (LINES, line)]),
    st.lists(texts, min_size=1, max_size=6),
    st.integers(0, 6),
    cuts,
    cuts,
)
def test_an_item_is_dropped_wherever_chunks_begin(
    stream: tuple[bytes, Callable[[bytes], bytes]],
    given_texts: list[bytes],
    count: int,
    chunk_sizes: list[int],
    sizes: list[int],
) -> None:
    head, item = stream
    items = [item(text) for text in given_texts]
    chunks = b"".join(map(chunk, split(b"".join(items), chunk_sizes)))
    whole = head + CHUNKED + b"\r\n" + chunks + b"0\r\nSum: 1\r\n\r\n"
    kept, state = delivered(DroppedMessage(items=count), whole, sizes)
    assert read_by_h11(kept) == b"".join(items[:count] + items[count + 1 :])
    assert state.passed > count or state.passed == len(items)
    assert not state.spared


def test_a_chunk_that_loses_nothing_stays_as_it_is_if_it_comes_at_once() -> None:
    state = altered(DroppedMessage(items=3))
    first = LINES + CHUNKED + b"\r\n" + chunk(b"one\ntwo\n")
    assert state.alter(first) == first
    assert state.alter(b"9;x\r\nthr") == b"3\r\nthr\r\n"
    assert state.alter(b"ee\nfo") == b"3\r\nee\n\r\n"
    assert state.alter(b"u\r\n") == b""
    rest = b"5\r\nr\nfiv\r\n" + chunk(b"e\n") + b"0\r\n\r\n"
    assert state.alter(rest) == b"3\r\nfiv\r\n" + chunk(b"e\n") + b"0\r\n\r\n"


@pytest.mark.parametrize("wrong", [b"five\r\n", b"-5\r\n", b"5" * (17 << 10)])
@given(sizes=cuts)
def test_what_are_no_chunks_is_left_as_it_is(wrong: bytes, sizes: list[int]) -> None:
    whole = LINES + CHUNKED + b"\r\n" + chunk(b"one\n") + wrong + b"\r\ntwo\n"
    kept, _ = delivered(DroppedMessage(items=1), whole, [len(whole) - len(wrong) - 6, *sizes])
    assert kept == whole


@given(sizes=st.lists(st.integers(6, 20), max_size=20))
def test_what_else_a_server_of_nats_says_is_no_message(sizes: list[int]) -> None:
    says = [
        b'INFO {"port": 4222}\r\n',
        b"PONG\r\n",
        nats(b"1"),
        b"PING\r\n",
        nats(b"2"),
        b"+OK\r\n",
    ]
    for lost, count in ((2, 0), (4, 1)):
        kept, state = delivered(DroppedMessage(items=count), b"".join(says), sizes)
        assert kept == b"".join(says[:lost] + says[lost + 1 :])
        assert state.passed >= count + 1


@pytest.mark.parametrize(
    "begins", [b"* OK done\r\n", b"$ ", b"+OK\r\n", b"MSGS\r\n", b"INFORM\r\n"]
)
@given(sizes=cuts)
def test_what_only_begins_like_another_protocol_is_lines(begins: bytes, sizes: list[int]) -> None:
    lines = [begins.strip() + b"\r\n", b"two\r\n"]
    kept, _ = delivered(DroppedMessage(), b"".join(lines), sizes)
    assert kept == lines[1]


def test_what_comes_between_items_is_not_held_up() -> None:
    state = altered(DroppedMessage(items=1))
    ping, close = frame(b"", 0x89), frame(b"\x03\xe8", 0x88)
    for expected in (SWITCHED, frame(b"one"), ping, close):
        assert state.alter(expected) == expected
    state = altered(DroppedMessage(items=1))
    comment = b": still here\n\n"
    for expected in (EVENTS + b"\r\n", event(b"one"), comment, comment[:5]):
        assert state.alter(expected) == expected


def test_an_item_that_is_not_complete_is_not_delivered_by_halves() -> None:
    state = altered(DroppedMessage())
    assert state.alter(EVENTS + b"\r\ndata: a") == EVENTS + b"\r\n"
    assert state.alter(b"bc\r") == b""
    assert state.passed == 0
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

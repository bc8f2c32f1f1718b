"""What is done to the bytes of an answer does not depend on how they are cut into pieces."""

from __future__ import annotations

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.chaos.faults.response import Corruption
from pytest_resilience.chaos.faults.response import From
from pytest_resilience.chaos.faults.response import Truncation
from tests.pieces import split


HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: %d\r\n\r\n"
bodies = st.binary(min_size=1, max_size=200)
shares = st.floats(0, 1)
cuts = st.lists(st.integers(1, 50), max_size=30)


def altered(fault: Alteration) -> Altered:
    found = fault.altered()
    assert found is not None
    return found


def heard(fault: Alteration, parts: list[bytes]) -> bytes:
    answer = altered(fault)
    return b"".join(answer.alter(part) for part in parts)


@given(bodies, shares, cuts)
def test_a_share_of_what_the_head_promises_arrives(
    body: bytes, share: float, sizes: list[int]
) -> None:
    head = HEAD % len(body)
    kept = heard(Truncation(share=share), split(head + body, sizes))
    assert kept == head + body[: min(len(body) - 1, int(len(body) * share))]


@given(bodies, shares)
def test_without_a_length_the_first_piece_stands_for_the_whole(body: bytes, share: float) -> None:
    body = b"$" + body  # or it might be the beginning of a head
    kept = body[: min(len(body) - 1, int(len(body) * share))]
    assert heard(Truncation(share=share), [body, b"more"]) == kept
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    assert heard(Truncation(share=share), [head, body, b"more"]) == head + kept


@given(bodies, st.integers(0, 200), cuts)
def test_so_many_bytes_of_a_body_arrive_in_any_pieces(
    body: bytes, limit: int, sizes: list[int]
) -> None:
    fault = Truncation(limit=limit)
    head = HEAD % len(body)
    assert heard(fault, split(head + body, sizes)) == head + body[:limit]
    body = b"$" + body  # of another protocol, or it might be the beginning of a head
    assert heard(fault, split(body, sizes)) == body[:limit]


def test_a_body_that_is_no_longer_than_the_limit_is_spared() -> None:
    answer = altered(Truncation(limit=4))
    assert answer.alter(HEAD % 4 + b"abcd") == HEAD % 4 + b"abcd"
    assert (answer.spared, answer.ended) == (True, False)


def test_what_is_cut_off_has_ended_as_soon_as_it_is() -> None:
    answer = altered(Truncation(share=0.5))
    head = HEAD % 4
    assert (answer.alter(head), answer.ended) == (head, False)
    assert (answer.alter(b"ab"), answer.ended) == (b"ab", True)
    assert (answer.alter(b"cd"), answer.ended) == (b"", True)


@pytest.mark.parametrize("fault", [Truncation(share=0.5), Corruption(share=1)], ids=str)
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
def test_an_answer_without_a_body_is_spared(status: str, fault: Alteration) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    answer = altered(fault)
    assert (answer.alter(head[:20]), answer.spared) == (head[:20], False)
    assert (answer.alter(head[20:]), answer.spared, answer.ended) == (head[20:], True, False)


@pytest.mark.parametrize("fault", [Truncation(share=0), Corruption(share=1)], ids=str)
def test_the_word_to_go_on_is_not_the_answer(fault: Alteration) -> None:
    heads = b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD % 2
    heard = altered(fault).alter(heads + b"ab")
    assert heard.startswith(heads)
    assert heard != heads + b"ab"


def test_what_only_looks_like_a_head_for_ever_is_none() -> None:
    answer = altered(Truncation(share=0.5))
    endless = b"HTTP/1.1 200 OK\r\n" + b"x" * (64 << 10)
    assert answer.alter(endless) == endless
    assert (answer.alter(b"abcd"), answer.ended) == (b"ab", True)


@given(bodies, shares, st.floats(0, 1, exclude_max=True))
def test_bytes_of_the_body_are_hit_and_at_least_one(body: bytes, share: float, seed: float) -> None:
    head = HEAD % len(body)
    fault = Corruption(share=share).drawn(seed)
    assert isinstance(fault, Corruption)
    spoiled = heard(fault, [head + body])
    assert spoiled == heard(fault, [head + body])
    assert len(spoiled) == len(head + body)
    assert spoiled.startswith(head)
    assert spoiled != head + body
    if share == 1:
        assert all(new != old for new, old in zip(spoiled[len(head) :], body, strict=True))


@given(bodies, shares, st.floats(0, 1, exclude_max=True), cuts)
def test_with_a_length_the_same_bytes_are_hit_in_any_pieces(
    body: bytes, share: float, seed: float, sizes: list[int]
) -> None:
    message = HEAD % len(body) + body
    fault = Corruption(share=share, seed=seed)
    assert heard(fault, split(message, sizes)) == heard(fault, [message])


@given(st.binary(min_size=100, max_size=300), st.floats(0.01, 1), cuts)
def test_pieces_after_the_first_are_hit_as_the_whole_would_be(
    body: bytes, seed: float, sizes: list[int]
) -> None:
    """Where the first piece is the same, for one byte of that is hit at least."""
    parts = [body[:50], *split(body[50:], sizes)]
    assert heard(Corruption(share=0.1, seed=seed), parts) == heard(
        Corruption(share=0.1, seed=seed), [body[:50], body[50:]]
    )


@given(bodies, st.integers(0, 200), cuts)
def test_of_a_stream_so_many_bytes_pass_whatever_they_are(
    body: bytes, limit: int, sizes: list[int]
) -> None:
    message = HEAD % len(body) + body
    assert heard(Truncation(limit=limit, headless=True), split(message, sizes)) == message[:limit]


@given(bodies, st.integers(0, 200), cuts)
def test_of_a_stream_what_comes_after_the_skipped_bytes_is_hit_whatever_it_is(
    body: bytes, skip: int, sizes: list[int]
) -> None:
    message = HEAD % len(body) + body
    got = heard(Corruption(share=1, skip=skip), split(message, sizes))
    assert got[:skip] == message[:skip]
    assert all(new != old for new, old in zip(got[skip:], message[skip:], strict=True))
    assert heard(Corruption(share=0, skip=skip), split(message, sizes)) == message


def in_chunks(parts: list[bytes]) -> bytes:
    framed = [b"%x;name=value\r\n%b\r\n" % (len(part), part) for part in parts]
    return b"".join([*framed, b"0\r\nTrailer: 1\r\n\r\n"])


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUEST = b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
chunks = st.lists(st.binary(min_size=1, max_size=40), min_size=2, max_size=6)


@given(chunks, st.floats(0, 1, exclude_max=True), cuts, st.sampled_from([CHUNKED, REQUEST]))
def test_what_frames_chunks_is_left_alone(
    parts: list[bytes], seed: float, at: list[int], head: bytes
) -> None:
    fault = Corruption(share=1, seed=seed, of_requests=head is REQUEST)
    damaged = heard(fault, [head, *split(in_chunks(parts), at)])
    length = len(head)
    assert damaged[:length] == head
    rest = damaged[length:]
    for part in parts:
        line, _, rest = rest.partition(b"\r\n")
        assert line == b"%x;name=value" % len(part)
        assert all(one != other for one, other in zip(rest, part, strict=False))
        assert rest[len(part) : len(part) + 2] == b"\r\n"
        rest = rest[len(part) + 2 :]
    assert rest == b"0\r\nTrailer: 1\r\n\r\n"


@given(chunks, st.floats(0, 1, exclude_max=True), cuts, st.data())
def test_from_some_chunk_on_what_frames_chunks_is_left_alone(
    parts: list[bytes], seed: float, at: list[int], data: st.DataObject
) -> None:
    before = data.draw(st.integers(0, len(parts) - 1))
    fault = Corruption(share=1, seed=seed, begins=From(items=before))
    damaged = heard(fault, split(CHUNKED + in_chunks(parts), at))
    passes = (CHUNKED + in_chunks(parts[:before])).removesuffix(in_chunks([]))
    start = len(passes)
    assert damaged[:start] == passes
    rest = damaged[start:]
    for part in parts[before:]:
        line, _, rest = rest.partition(b"\r\n")
        assert line == b"%x;name=value" % len(part)
        assert all(one != other for one, other in zip(rest, part, strict=False))
        rest = rest[len(part) + 2 :]
    assert rest == in_chunks([])

"""Whether a response of HTTP/1 goes on, in any pieces."""

from __future__ import annotations

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.proxy.http_responses import ResponseReader


HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = {
    "a length": (b"GET / ", HEAD + b"content-length: 5\r\n\r\n12345"),
    "an empty body": (b"GET / ", HEAD + b"Content-Length: 0\r\n\r\n"),
    "nothing new": (b"GET / ", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    "a head": (b"HEAD / ", HEAD + b"Content-Length: 5\r\n\r\n"),
    "chunks": (
        b"GET / ",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n1F;of=1\r\n"
        b"%s\r\n0\r\n\r\n" % (b"x" * 31),
    ),
    "trailers": (
        b"GET / ",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n-\r\n0\r\nSum: 1\r\nA: 2\r\n\r\n",
    ),
    "after an interim one": (
        b"GET / ",
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\n1",
    ),
}
ENDLESS = {
    "until the connection ends": (b"GET / ", HEAD + b"Content-Type: text/event-stream\r\n\r\n"),
    "a WebSocket": (b"GET / ", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
}
NOT_FOLLOWED = {
    "no HTTP": (b"GET key\r\n", b"$5\r\nvalue\r\n"),
    "a tunnel": (b"CONNECT a:1 ", HEAD + b"\r\n"),
    "no chunks": (b"GET / ", HEAD + b"Transfer-Encoding: chunked\r\n\r\nfive\r\n"),
    "a line without end": (
        b"GET / ",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"5" * (17 << 10),
    ),
}


def reader(request: bytes, response: bytes, cuts: list[int]) -> tuple[ResponseReader, list[bool]]:
    """One that was fed it in pieces, and whether it goes on after each but the last."""
    found = ResponseReader()
    found.note_request(memoryview(request))
    goes_on = []
    ends = sorted({*(cut for cut in cuts if cut < len(response)), len(response)})
    for start, end in zip([0, *ends], ends, strict=False):
        found.feed_response(memoryview(response)[start:end])
        goes_on.append(found.is_unfinished)
    return found, goes_on[:-1]


@pytest.mark.parametrize("case", WHOLE)
@given(cuts=st.lists(st.integers(1, 150)))
def test_one_that_ends(case: str, cuts: list[int]) -> None:
    request, response = WHOLE[case]
    found, goes_on = reader(request, response, cuts)
    assert not found.is_unfinished
    assert all(goes_on)
    for _ in range(2):  # and those on the same connection after it
        found.note_request(memoryview(b"GET / "))
        _, following = WHOLE["chunks"]
        for piece, unfinished in ((following[:-1], True), (following[-1:], False)):
            found.feed_response(memoryview(piece))
            assert found.is_unfinished is unfinished


@pytest.mark.parametrize("case", ENDLESS)
@given(cuts=st.lists(st.integers(1, 150)))
def test_one_that_goes_on_for_ever(case: str, cuts: list[int]) -> None:
    request, response = ENDLESS[case]
    found, goes_on = reader(request, response + b"0\r\n\r\n" * 3, cuts)
    assert found.is_unfinished
    assert all(goes_on)


@pytest.mark.parametrize("case", NOT_FOLLOWED)
def test_what_is_not_followed(case: str) -> None:
    request, response = NOT_FOLLOWED[case]
    found, _ = reader(request, response, [])
    assert not found.is_unfinished
    found.feed_response(memoryview(WHOLE["a length"][1][:-1]))
    assert not found.is_unfinished

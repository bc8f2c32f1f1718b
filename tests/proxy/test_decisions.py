"""What a proxy knows of a conversation, also where it does not know the protocol."""

from __future__ import annotations

import h2.config
import h2.connection
import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.proxy.decisions import Decisions
from pytest_resilience.proxy.decisions import ResponseReader


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


@pytest.fixture
def engine() -> Engine:
    return Engine(lambda _: ())


@pytest.fixture
def decisions(engine: Engine) -> Decisions:
    return Decisions(engine, ("db:1", "127.0.0.1:1"))


def request(decisions: Decisions, data: bytes) -> int:
    decisions.note_request(memoryview(data))
    return decisions.turn


def test_a_request_begins_when_the_one_before_is_answered(decisions: Decisions) -> None:
    assert [request(decisions, b"a"), request(decisions, b"more of it")] == [1, 1]
    decisions.note_response(memoryview(b"answer"))
    assert request(decisions, b"and more") == 1
    decisions.answered = True  # some of the response has passed
    assert [request(decisions, b"b"), request(decisions, b"more of it")] == [2, 2]
    assert not decisions.answered


def test_a_server_that_speaks_first_is_in_its_first_turn(decisions: Decisions) -> None:
    decisions.note_response(memoryview(b"answer"))
    assert (decisions.turn, decisions.encrypted) == (1, True)
    request(decisions, b"hello")
    assert not decisions.encrypted  # from now on responses can be injected


@pytest.mark.parametrize(
    ("data", "encrypted"),
    [(b"GET / HTTP/1.1\r\n\r\n", False), (b"\x16\x03\x01", True), (b"PRI * HTTP/2.0\r\n", True)],
)
def test_nothing_is_injected_into_tls_and_http_2(
    decisions: Decisions, data: bytes, encrypted: bool
) -> None:
    request(decisions, data)
    decisions.answered = True
    request(decisions, b"something else")
    assert decisions.encrypted is encrypted


def test_after_a_head_that_waits_for_100_continue_comes_another_turn(decisions: Decisions) -> None:
    head = b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"
    assert request(decisions, head) == 1
    assert decisions.informational
    assert request(decisions, b"body") == 2
    assert not decisions.informational


def test_the_engine_is_asked_for_what_experiments_are_about(
    engine: Engine, decisions: Decisions
) -> None:
    assert decisions.decide(CONNECT) is None
    late = engine.start(ChaosExperiment("late", "network_latency", delay=1, target="db"), seed=1)
    request(decisions, b"a")
    effect = decisions.decide(RECEIVE)
    assert effect is not None
    assert (effect.delay, late.matched) == (1, 1)
    assert decisions.decide(END) is None
    assert decisions.decide(RECEIVE, mid_message=True) is None  # that is for partitions
    assert late.matched == 1


@pytest.mark.parametrize(("target", "is_new"), [("db:1", True), ("elsewhere:1", False)])
def test_an_experiment_that_begins_is_new_where_it_is_targeted(
    engine: Engine, decisions: Decisions, target: str, is_new: bool
) -> None:
    known = decisions.active
    engine.start(ChaosExperiment("late", "network_latency", delay=1, target=target), seed=1)
    assert decisions.is_newly_targeted(known) is is_new
    assert not decisions.is_newly_targeted(decisions.active)


def test_nobody_waits_in_http_2_once_all_streams_have_ended(decisions: Decisions) -> None:
    """Whatever the client sends of the protocol's own."""
    pytest.importorskip("hpack")
    client = h2.connection.H2Connection()
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    client.initiate_connection()
    server.initiate_connection()

    def sent_by_client() -> None:
        request(decisions, data := client.data_to_send())
        server.receive_data(data)

    def sent_by_server() -> None:
        decisions.note_response(memoryview(data := server.data_to_send()))
        decisions.answered = True
        client.receive_data(data)

    sent_by_client()
    assert decisions.awaits_response  # it is not known yet whether the server speaks HTTP/2
    sent_by_server()
    head = [(":method", "GET"), (":path", "/"), (":authority", "api"), (":scheme", "http")]
    client.send_headers(1, head, end_stream=True)
    sent_by_client()
    server.send_headers(1, [(":status", "200")])
    sent_by_server()
    assert decisions.awaits_response
    server.end_stream(1)
    sent_by_server()
    client.ping(b"12345678")
    sent_by_client()
    assert not decisions.awaits_response

"""What a proxy knows of a conversation whose protocol it does not know."""

from __future__ import annotations

import h2.config
import h2.connection
import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.proxy.decisions import Decisions


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

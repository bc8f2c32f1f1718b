"""An exchange without a client and without a mock: what it asks its driver to do."""

from __future__ import annotations

import errno

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ManualClock
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.interceptors.http_mocks.exchange import AskMock
from pytest_resilience.interceptors.http_mocks.exchange import Exchange
from pytest_resilience.interceptors.http_mocks.exchange import Hold
from pytest_resilience.interceptors.http_mocks.exchange import LeftToMock
from pytest_resilience.interceptors.http_mocks.exchange import MockResponse
from pytest_resilience.interceptors.http_mocks.exchange import Peer
from tests.injecting import ending


RESPONSE = MockResponse.of(200, "OK", [("X-Kind", "tea")], b"abcdef")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(clock: ManualClock) -> Iterator[Engine]:
    with ending(Engine(lambda _: [], clock=clock)) as engine:
        yield engine


def exchange(engine: Engine, kind: str = "network_failure", **parameters: Any) -> Exchange:
    engine.start(ChaosExperiment(kind, kind, **{"rate": 1} | parameters), seed=1)
    return Exchange(Peer(engine, "http", "shop.example", None))


def drive(clock: ManualClock, steps: Any) -> tuple[list[object], Any]:
    """The steps of a generator, with waits that pass at once, and its result."""
    taken, response = list[object](), None
    while True:
        try:
            step = steps.send(response)
        except StopIteration as done:
            return taken, done.value
        response = None
        if isinstance(step, Hold):
            clock.sleep(step.seconds)
            taken.append(step.seconds)
        else:
            assert isinstance(step, AskMock)
            response = RESPONSE
            taken.append("mock")


def test_a_response_as_a_server_sends_it() -> None:
    assert RESPONSE.head == (
        b"HTTP/1.1 200 OK\r\nX-Kind: tea\r\nContent-Length: 6\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("media", "body", "chunks"),
    [
        (
            "text/event-stream",
            b"data: 1\n\n: ping\n\ndata: 2\n\nda",
            [b"data: 1\n\n", b": ping\n\ndata: 2\n\n", b"da"],
        ),
        ("text/event-stream; charset=utf-8", b"data: 1\r\n\r\n", [b"data: 1\r\n\r\n"]),
        ("application/x-ndjson", b"{}\n[]\n", [b"{}\n", b"[]\n"]),
    ],
)
def test_a_stream_comes_in_chunks_as_servers_send_it(
    media: str, body: bytes, chunks: list[bytes]
) -> None:
    headers = [("Content-Type", media), ("Content-Length", str(len(body)))]
    streamed = MockResponse.of(200, "OK", headers, body)
    assert (
        streamed.head
        == (
            f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n"
            "Connection: close\r\n\r\n"
        ).encode()
    )
    sent = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
    assert streamed.body == sent + b"0\r\n\r\n"


def test_a_delay_is_held_and_the_rest_is_left_to_the_mock(
    engine: Engine, clock: ManualClock
) -> None:
    late = exchange(engine, "network_latency", delay=2)
    assert drive(clock, late.call(RESOLVE)) == ([], None)
    assert drive(clock, late.call(CONNECT)) == ([2], None)
    steps = late.receive(100)
    step = next(steps)
    assert isinstance(step, Hold)
    clock.sleep(step.seconds)
    assert clock.monotonic() == 4
    with pytest.raises(LeftToMock):
        next(steps)


@pytest.mark.parametrize(("mode", "asked"), [("reset", []), ("lose_answer", ["mock"])])
def test_a_reset_asks_the_mock_only_if_the_request_arrives(
    mode: str, asked: list[str], engine: Engine
) -> None:
    steps = exchange(engine, mode=mode).receive(100)
    for _ in asked:
        assert next(steps) == AskMock()
    with pytest.raises(ConnectionResetError) as caught:
        steps.send(RESPONSE if asked else None)
    assert caught.value.errno == errno.ECONNRESET


def test_a_replacement_never_asks_the_mock(engine: Engine, clock: ManualClock) -> None:
    replaced = exchange(engine, mode="status", status=503)
    taken, data = drive(clock, replaced.receive(100_000))
    assert taken == []
    assert data.startswith(b"HTTP/1.1 503 ")
    assert drive(clock, replaced.receive(100)) == ([], b"")


def test_a_body_is_cut_off_and_its_head_is_whole(engine: Engine, clock: ManualClock) -> None:
    cut = exchange(engine, mode="truncate")
    assert drive(clock, cut.receive(100_000)) == (["mock"], RESPONSE.head)
    _, data = drive(clock, cut.receive(100_000))
    assert data == b"abcdef"[: len(data)] != b"abcdef"
    assert drive(clock, cut.receive(100)) == ([], b"")


def test_a_reset_within_a_body_asks_the_mock_once(engine: Engine, clock: ManualClock) -> None:
    cut = exchange(engine, mode="truncate", after_bytes=2, end="reset")
    assert drive(clock, cut.receive(100_000)) == (["mock"], RESPONSE.head)
    assert drive(clock, cut.receive(100_000)) == ([], b"ab")
    with pytest.raises(ConnectionResetError):
        next(cut.receive(100))


def test_a_peer_that_closes_never_asks_the_mock(engine: Engine, clock: ManualClock) -> None:
    assert drive(clock, exchange(engine, mode="close").receive(100)) == ([], b"")


def test_a_body_comes_in_pieces(engine: Engine, clock: ManualClock) -> None:
    slow = exchange(engine, "network_latency", mode="dribble", piece=4, delay=1)
    assert drive(clock, slow.receive(10)) == (["mock"], RESPONSE.head[:10])
    assert drive(clock, slow.receive(1000)) == ([], RESPONSE.head[10:])
    assert drive(clock, slow.receive(1000)) == ([1], b"abcd")
    assert drive(clock, slow.receive(1000)) == ([1], b"ef")
    assert drive(clock, slow.receive(1000)) == ([], b"")


def test_an_address_is_not_resolved(engine: Engine, clock: ManualClock) -> None:
    engine.start(ChaosExperiment("dns", "network_failure", mode="dns", rate=1), seed=1)
    addressed = Exchange(Peer(engine, "http", "192.0.2.7", 8080))
    assert drive(clock, addressed.call(RESOLVE)) == ([], None)
    with pytest.raises(OSError, match="resolution"):
        drive(clock, Exchange(Peer(engine, "http", "shop.example", 80)).call(RESOLVE))

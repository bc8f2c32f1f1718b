"""Clients are hit where an experiment is aimed, when its trigger says so, as long as asked."""

from __future__ import annotations

import contextlib
import time

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from pytest_resilience.proxy import ChaosProxy
from tests.end_to_end.network.clients import BEHIND_PROXY
from tests.end_to_end.network.clients import HTTP
from tests.end_to_end.network.clients import OTHERS
from tests.end_to_end.network.clients import Peer
from tests.end_to_end.network.hostile import Place
from tests.end_to_end.network.test_fidelity import outcome
from tests.injecting import Inject
from tests.interceptors.conftest import Trust


Lead = Callable[..., AbstractContextManager[Place]]

DELAY = 0.03  # seconds
BY_NAME = {client.name: client for client in HTTP + OTHERS}
NAMED = ["boto3", "websockets.sync", "websockets.asyncio"]
# What connecting, being let in, and one request are.
ROUND_TRIPS = {
    "boto3": ["connect", "receive"],
    "urllib.request": ["connect", "receive"],
    "websockets.sync": ["connect", "receive", "receive"],
    "websockets.asyncio": ["connect", "receive", "receive"],
}


@pytest.mark.parametrize(
    ("name", "sealed"),
    [(name, False) for name in ROUND_TRIPS]
    + [(name, True) for name in ROUND_TRIPS if BY_NAME[name].speaks == "http"],
)
def test_each_round_trip_takes_as_long_as_asked(  # noqa: PLR0917  # all by name
    name: str, sealed: bool, lead_to: Lead, trust: Trust, inject: Inject, kinds: list[str]
) -> None:
    client, trips = BY_NAME[name], ROUND_TRIPS[name]
    if sealed:
        trips = [trips[0], "handshake", *trips[1:]]
    tls = trust if sealed else None
    with (
        lead_to(client.speaks, None, tls) as place,
        client.opened(Peer(port=place.port, tls=tls)) as ask,
    ):
        with inject("network_latency", target=f"127.0.0.1:{place.port}", delay=DELAY) as latency:
            started = time.monotonic()
            assert ask() == "ok"
            assert time.monotonic() - started >= DELAY * len(trips) * 0.99
        assert kinds == trips
        assert latency.matched == latency.hits == len(trips)
        with inject("network_latency", target=f"127.0.0.1:{place.port}", delay=DELAY):
            started = time.monotonic()
            assert ask() == "ok"
            assert time.monotonic() - started >= DELAY * 0.99


@pytest.mark.parametrize("name", NAMED)
def test_the_second_answer_of_a_named_host(name: str, lead_to: Lead, inject: Inject) -> None:
    client = BY_NAME[name]
    with lead_to(client.speaks) as place, lead_to(client.speaks) as elsewhere:
        peer = Peer(host="localhost", port=place.port)
        other = Peer(host="localhost", port=elsewhere.port)
        with (
            client.opened(peer) as ask,
            client.opened(other) as ask_elsewhere,
        ):
            assert (ask(), ask_elsewhere()) == ("ok", "ok")
            with inject(
                "network_failure", mode="reset", target=f"localhost:{place.port}", nth=2
            ) as failure:
                found = [outcome(each) for each in (ask, ask_elsewhere, ask, ask_elsewhere)]
    assert (failure.matched, failure.hits) == (2, 1)
    assert [text == "ok" for text in found] == [True, True, False, True]
    assert "ConnectionClosed" in found[2]


@pytest.mark.parametrize("name", NAMED)
def test_the_second_connection_of_a_client(name: str, lead_to: Lead, inject: Inject) -> None:
    """The others go on, whichever speaks."""
    client = BY_NAME[name]
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(lead_to(client.speaks))
        failure = stack.enter_context(
            inject("network_failure", mode="reset", rate=1, target=f"127.0.0.1:{place.port}#2")
        )
        peer = Peer(port=place.port)
        first, second, third = (stack.enter_context(client.opened(peer)) for _ in range(3))
        found = [outcome(each) for each in (first, first, second, third, first)]
    assert failure.hits
    assert [text == "ok" for text in found] == [True, True, False, True, True]


@pytest.mark.parametrize("name", ["boto3", "httpx, async"])
def test_a_host_that_is_excluded_is_left_alone(name: str, lead_to: Lead, inject: Inject) -> None:
    client = BY_NAME[name]

    def connect_and_ask(place: Place) -> str:
        with client.opened(Peer(port=place.port)) as ask:
            return ask()

    with (
        lead_to(client.speaks) as place,
        lead_to(client.speaks) as elsewhere,
        inject("network_failure", rate=1, target=f"!127.0.0.1:{place.port}") as failure,
    ):
        assert connect_and_ask(place) == "ok"
        assert not failure.matched
        with inject("network_latency", delay="1ms", target=f"127.0.0.1:1-{place.port}") as latency:
            assert connect_and_ask(place) == "ok"
        assert latency.hits
        assert "ConnectionRefusedError ECONNREFUSED" in outcome(lambda: connect_and_ask(elsewhere))
        assert failure.hits


@pytest.mark.parametrize("name", NAMED)
def test_a_service_by_its_host(name: str, lead_to: Lead, inject: Inject) -> None:
    client = BY_NAME[name]
    with (
        lead_to(client.speaks) as place,
        client.opened(Peer(host="localhost", port=place.port)) as ask,
    ):
        with inject("network_failure", mode="refuse", target="localhost:*") as failure:
            assert "ConnectionRefusedError ECONNREFUSED" in outcome(ask)
        assert failure.hits >= 1
        assert ask() == "ok"


def test_grpc_is_late_and_gives_up_behind_a_proxy(lead_to: Lead) -> None:
    import grpc

    client = next(each for each in BEHIND_PROXY if each.name == "grpc")
    with (
        lead_to(client.speaks) as place,
        ChaosProxy(("127.0.0.1", place.port)) as proxy,
    ):
        with client.opened(Peer(port=proxy.port)) as ask:
            assert ask() == "ok"
            with proxy.inject("network_latency", delay=DELAY) as latency:
                started = time.monotonic()
                assert ask() == "ok"
                assert time.monotonic() - started >= DELAY * 0.99
            assert latency.hits >= 1
        with client.opened(Peer(port=proxy.port, timeout=0.5)) as ask:
            assert ask() == "ok"
            with (
                proxy.inject("network_latency", delay=60),
                pytest.raises(grpc.RpcError) as caught,
            ):
                ask()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

"""The breakers of other libraries, real ones, taken through their states."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiobreaker  # type: ignore[import-untyped]
import circuitbreaker  # type: ignore[import-untyped]
import purgatory
import pybreaker
import pytest

from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_half_open
from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.assertions import assert_circuit_transitions
from pytest_resilience.assertions import assert_fails_fast


# aiobreaker asks for the time in a way that newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

FOREVER = 3600.0  # seconds


def broken() -> None:
    raise ConnectionError("no route")


@dataclass
class Peer:
    """One library.

    Attributes:
        make: a breaker that opens at the second failure, for so many seconds.
        call: calls a function through it.
    """

    make: Callable[[float], Any]
    call: Callable[[Any, Callable[[], object]], object]


def make_purgatory(seconds: float) -> Any:
    factory = purgatory.SyncCircuitBreakerFactory(default_threshold=2, default_ttl=seconds)
    return factory.get_breaker("prices")


def call_purgatory(breaker: Any, func: Callable[[], object]) -> object:
    with breaker:
        return func()


PEERS = {
    "pybreaker": Peer(
        make=lambda seconds: pybreaker.CircuitBreaker(
            fail_max=2, reset_timeout=seconds, name="prices"
        ),
        call=lambda breaker, func: breaker.call(func),
    ),
    "circuitbreaker": Peer(
        make=lambda seconds: circuitbreaker.CircuitBreaker(
            failure_threshold=2, recovery_timeout=seconds, name="prices"
        ),
        call=lambda breaker, func: breaker.decorate(func)(),
    ),
    "aiobreaker": Peer(
        make=lambda seconds: aiobreaker.CircuitBreaker(
            fail_max=2, timeout_duration=timedelta(seconds=seconds), name="prices"
        ),
        call=lambda breaker, func: breaker.call(func),
    ),
    "purgatory": Peer(make=make_purgatory, call=call_purgatory),
}


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Peer:
    return PEERS[request.param]


def fail(peer: Peer, breaker: Any, times: int = 2) -> None:
    for _ in range(times):
        with pytest.raises(Exception, match=r"."):  # pybreaker wraps the one that opens it
            peer.call(breaker, broken)


def test_closed_and_open(peer: Peer) -> None:
    breaker = peer.make(FOREVER)
    assert_circuit_closed(breaker)
    with pytest.raises(AssertionError, match="expected prices to be OPEN, but it is CLOSED"):
        assert_circuit_open(breaker)
    fail(peer, breaker)
    assert_circuit_open(breaker)
    with pytest.raises(AssertionError, match=r"prices to be CLOSED, but it is OPEN\n  \w+"):
        assert_circuit_closed(breaker)


def test_open_it_fails_fast_and_is_not_changed(peer: Peer) -> None:
    breaker = peer.make(FOREVER)
    with pytest.raises(AssertionError, match="expected prices to refuse a call"):
        assert_fails_fast(breaker)
    assert_circuit_closed(breaker)
    fail(peer, breaker)
    assert_fails_fast(breaker, within=5)
    assert_circuit_open(breaker)


def test_one_whose_time_is_over_does_not_fail_fast(peer: Peer) -> None:
    breaker = peer.make(1e-6)
    fail(peer, breaker)
    with pytest.raises(AssertionError, match="expected prices to refuse a call"):
        assert_fails_fast(breaker)


def test_transitions_that_nobody_kept_are_not_made_up(peer: Peer) -> None:
    with pytest.raises(TypeError, match="prices keeps no record of its transitions"):
        assert_circuit_transitions(peer.make(FOREVER), ["CLOSED"])


def test_half_open() -> None:
    first = pybreaker.CircuitBreaker(name="prices")
    first.half_open()
    assert_circuit_half_open(first)
    second = aiobreaker.CircuitBreaker(name="prices")
    second.half_open()
    assert_circuit_half_open(second)
    third = make_purgatory(-1.0)
    fail(PEERS["purgatory"], third)
    third.context.handle_new_request()
    assert_circuit_half_open(third)
    fourth = PEERS["circuitbreaker"].make(1e-9)
    fail(PEERS["circuitbreaker"], fourth)
    assert_circuit_half_open(fourth)  # as soon as its time is over, it says


@pytest.mark.parametrize("name", ["pybreaker", "circuitbreaker", "aiobreaker"])
def test_a_decorated_function_stands_for_its_breaker(name: str) -> None:
    breaker = PEERS[name].make(FOREVER)
    protected = breaker(broken)
    assert_circuit_closed(protected)
    for _ in range(2):
        with pytest.raises(Exception, match=r"."):
            protected()
    assert_circuit_open(protected)
    assert_fails_fast(protected)


def test_the_async_breaker_of_purgatory() -> None:
    async def main() -> None:
        factory = purgatory.AsyncCircuitBreakerFactory(default_threshold=1, default_ttl=FOREVER)
        breaker = await factory.get_breaker("prices")
        assert_circuit_closed(breaker)
        with pytest.raises(ConnectionError):
            async with breaker:
                broken()
        assert_circuit_open(breaker)
        assert_fails_fast(breaker)

    asyncio.run(main())


def test_libraries_are_loaded_by_those_who_use_them() -> None:
    libraries = ["pybreaker", "circuitbreaker", "aiobreaker", "purgatory", "tenacity", "stamina"]
    program = f"""
import sys
from pytest_resilience import CircuitBreaker
from pytest_resilience.assertions import assert_circuit_closed
assert_circuit_closed(CircuitBreaker())
print(*[name for name in {[*libraries, "backoff", "urllib3", "pytest"]} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "\n"

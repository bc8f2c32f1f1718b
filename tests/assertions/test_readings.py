"""The breakers and retries of other libraries, real ones, taken through their states."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from threading import Thread
from typing import Any

import aiobreaker  # type: ignore[import-untyped]
import backoff
import circuitbreaker  # type: ignore[import-untyped]
import purgatory
import pybreaker
import pytest
import requests
import stamina
import tenacity
import urllib3

from requests.adapters import HTTPAdapter

from pytest_resilience.assertions import assert_backoff
from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_half_open
from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.assertions import assert_circuit_transitions
from pytest_resilience.assertions import assert_fails_fast
from pytest_resilience.assertions import assert_retried
from pytest_resilience.assertions import assert_retry_exhausted


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


class Flaky:
    """Fails so many times, then answers."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise ConnectionError("no route")
        return "answer"


def tenacious(**options: Any) -> tenacity.Retrying:
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(4),
        wait=tenacity.wait_exponential(),
        sleep=lambda _seconds: None,
        **options,
    )


class TestTenacity:
    def test_calls_tried_again(self) -> None:
        retrying = tenacious()
        retrying(Flaky(2))
        assert_retried(retrying, attempts=3)
        assert_backoff(retrying, [1, 2])
        with pytest.raises(AssertionError, match=r"3 attempts\n  3 attempts, 3 s of waiting"):
            assert_retried(retrying, attempts=2)
        with pytest.raises(AssertionError, match=r"wait 1 s, 4 s: 5 s in all, .* 3 attempts and"):
            assert_backoff(retrying, [1, 4])

    def test_one_wait_is_known(self) -> None:
        retrying = tenacious()
        retrying(Flaky(1))
        assert_backoff(retrying, [1])
        with pytest.raises(AssertionError, match="wait 1 is 1 s"):
            assert_backoff(retrying, [2])

    def test_a_call_that_succeeds_at_once_leaves_no_trace(self) -> None:
        retrying = tenacious()
        retrying(Flaky(0))
        assert_backoff(retrying, [])
        with pytest.raises(AssertionError, match="it tried no call again"):
            assert_retried(retrying)

    def test_a_decorated_function(self) -> None:
        flaky = Flaky(1)

        @tenacious().wraps
        def fetch() -> str:
            return flaky()

        fetch()
        assert_retried(fetch, attempts=2)
        with pytest.raises(AssertionError, match=r"expected .*fetch to make 9 attempts"):
            assert_retried(fetch, attempts=9)

    def test_async(self) -> None:
        flaky = Flaky(2)

        async def no_sleep(_seconds: float) -> None:
            return

        @tenacity.retry(wait=tenacity.wait_fixed(5), sleep=no_sleep)
        async def fetch() -> str:
            return flaky()

        asyncio.run(fetch())
        assert_retried(fetch, attempts=3)
        assert_backoff(fetch, [5, 5])

    def test_given_up(self) -> None:
        retrying = tenacious()
        with pytest.raises(tenacity.RetryError) as caught:
            retrying(Flaky(9))
        assert_retry_exhausted(caught.value, attempts=4)
        assert_retried(caught.value, attempts=4)
        with pytest.raises(AssertionError, match="attempt 4 failed, ConnectionError: no route"):
            assert_retry_exhausted(caught.value, attempts=3)
        with pytest.raises(TypeError, match="tenacity keeps no record of the waits of a call"):
            assert_backoff(caught.value, [1, 2, 4])
        with pytest.raises(TypeError, match="keeps no record of the end of a call"):
            assert_retry_exhausted(retrying)

    def test_given_up_on_a_result(self) -> None:
        retrying = tenacious(retry=tenacity.retry_if_result(lambda result: result == "answer"))
        with pytest.raises(tenacity.RetryError) as caught:
            retrying(Flaky(0))
        with pytest.raises(AssertionError, match="attempt 4 failed, result 'answer'"):
            assert_retry_exhausted(caught.value, attempts=1)


@pytest.fixture
def told() -> Iterator[list[object]]:
    """What stamina tells its hooks, waiting for nothing."""
    seen: list[object] = []

    def hook(details: stamina.instrumentation.RetryDetails) -> None:
        seen.append(details)

    stamina.instrumentation.set_on_retry_hooks([hook])
    try:
        yield seen
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)


class TestStamina:
    def test_calls_tried_again(self, told: list[object]) -> None:
        @stamina.retry(on=ConnectionError, attempts=4, wait_initial=1e-4, wait_jitter=0)
        def fetch(flaky: Flaky) -> str:
            return flaky()

        with pytest.raises(AssertionError, match="it tried no call again"):
            assert_retried(told)
        fetch(Flaky(1))
        fetch(Flaky(2))
        assert_retried(told, attempts=3)
        assert_backoff(told, [1e-4, 2e-4])
        with pytest.raises(AssertionError, match=r"fetch to make 9 attempts, but it made 3"):
            assert_retried(told, attempts=9)
        with pytest.raises(TypeError, match="keeps no record of the end"):
            assert_retry_exhausted(told)


class TestBackoff:
    @staticmethod
    def fetching(seen: list[Any], flaky: Flaky) -> Callable[[], str]:
        decorate = backoff.on_exception(
            backoff.constant,
            ConnectionError,
            interval=0,
            jitter=None,
            max_tries=4,
            on_backoff=seen.append,
            on_success=seen.append,
            on_giveup=seen.append,
        )

        @decorate
        def fetch() -> str:
            return flaky()

        return fetch

    def test_calls_tried_again(self) -> None:
        seen: list[Any] = []
        fetch = self.fetching(seen, Flaky(2))
        fetch()
        assert_retried(seen, attempts=3)
        assert_backoff(seen, [0, 0])
        with pytest.raises(AssertionError) as caught:
            assert_retry_exhausted(seen)
        assert str(caught.value).splitlines()[1:] == [
            "  attempt 1 failed, ConnectionError: no route; the next in 0 s",
            "  attempt 2 failed, ConnectionError: no route; the next in 0 s",
            "  attempt 3 succeeded",
        ]
        fetch()
        with pytest.raises(AssertionError, match="it tried no call again"):
            assert_retried(seen)

    def test_given_up(self) -> None:
        seen: list[Any] = []
        with pytest.raises(ConnectionError):
            self.fetching(seen, Flaky(9))()
        assert_retry_exhausted(seen, attempts=4)

    def test_a_result_does_not_tell_whether_it_was_given_up(self) -> None:
        seen: list[Any] = []

        @backoff.on_predicate(
            backoff.constant, interval=0, jitter=None, max_tries=2,
            on_backoff=seen.append, on_giveup=seen.append,
        )  # fmt: skip
        def fetch() -> None:
            return None

        fetch()
        assert_retried(seen, attempts=2)
        with pytest.raises(TypeError, match="keeps no record of the end"):
            assert_retry_exhausted(seen)


class _Unwell(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    flaky = Flaky(0)

    def do_GET(self) -> None:
        try:
            self.flaky()
        except ConnectionError:
            self.send_response(502)
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def unwell() -> Iterator[Callable[[int], str]]:
    """A server that fails so many times, then answers."""

    class Handler(_Unwell):
        flaky = Flaky(0)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def failing(times: int) -> str:
            Handler.flaky.left = times
            return f"http://127.0.0.1:{server.server_address[1]}/"

        yield failing
        server.shutdown()
        thread.join()


class TestUrllib3:
    RETRY = urllib3.Retry(
        total=3, status_forcelist=[502], backoff_factor=1e-4, raise_on_status=False
    )

    def test_a_response(self, unwell: Callable[[int], str]) -> None:
        with urllib3.PoolManager(retries=self.RETRY) as pool:
            response = pool.request("GET", unwell(2))
        assert response.status == 200
        assert_retried(response, attempts=3)
        assert_backoff(response, [0, 2e-4])  # it never waits before the second
        with pytest.raises(AssertionError, match=r"did not give up\n  attempt 1 failed, 502: GET"):
            assert_retry_exhausted(response)

    def test_a_response_of_requests(self, unwell: Callable[[int], str]) -> None:
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=self.RETRY))
            assert_retried(session.get(unwell(1)), attempts=2)
            exhausted = session.get(unwell(9))
            assert exhausted.status_code == 502
            assert_retry_exhausted(exhausted, attempts=4)
            with pytest.raises(AssertionError, match="it tried no call again"):
                assert_retried(session.get(unwell(0)))

    def test_a_retry_of_its_own(self) -> None:
        retry = urllib3.Retry(total=1)
        with pytest.raises(AssertionError, match=r"urllib3\.Retry to make 2 attempts or more"):
            assert_retried(retry)
        again = retry.increment("GET", "/", error=ConnectionError("no route"))
        assert_retried(again, attempts=2)

    def test_waits_that_something_else_had_a_say_in_are_not_made_up(self) -> None:
        retry = urllib3.Retry(total=3, backoff_jitter=1.0)
        with pytest.raises(
            TypeError, match="of the waits of a call; assert what the called function saw, or"
        ):
            assert_backoff(retry.increment("GET", "/", error=ConnectionError("no route")), [1])

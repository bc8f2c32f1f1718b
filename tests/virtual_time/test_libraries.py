"""Libraries that wait, or look at the clock, each in virtual time.

The table of docs/virtual-time.md is what these tests saw; `UPDATE_DOCS=1` writes it anew.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import time

from collections.abc import Callable
from pathlib import Path

import aiobreaker  # type: ignore[import-untyped]
import aiohttp
import backoff
import circuitbreaker  # type: ignore[import-untyped]
import httpx
import purgatory
import pybreaker
import pytest
import redis
import redis.backoff
import redis.retry
import requests
import requests.adapters
import sqlalchemy
import stamina
import tenacity
import urllib3.util

from purgatory.domain.model import OpenedState

from pytest_resilience import StubServer
from pytest_resilience.virtual_time.clock import VirtualClock


PAGE = Path(__file__).parents[2] / "docs" / "virtual-time.md"
HEAD = "| library | what waits | virtual seconds |\n| --- | --- | --- |\n"

Trial = Callable[[StubServer], object]


def fails(*_: object) -> None:
    raise ConnectionError


def fails_not(*_: object) -> None:
    pass


def fails_to_reach_redis() -> None:
    raise redis.ConnectionError


async def fails_in_a_task() -> None:
    raise ConnectionError


def with_tenacity(_: StubServer) -> None:
    retrying = tenacity.Retrying(
        wait=tenacity.wait_exponential(), stop=tenacity.stop_after_attempt(6)
    )
    with pytest.raises(tenacity.RetryError):
        retrying(fails)


def with_tenacity_in_a_task(_: StubServer) -> None:
    retrying = tenacity.AsyncRetrying(
        wait=tenacity.wait_exponential(), stop=tenacity.stop_after_attempt(6)
    )
    with pytest.raises(tenacity.RetryError):
        asyncio.run(retrying(fails_in_a_task))


def with_stamina(_: StubServer) -> None:
    retry = stamina.retry(
        on=ConnectionError, attempts=6, wait_initial=1, wait_max=60, wait_jitter=0, timeout=None
    )
    with pytest.raises(ConnectionError):
        retry(fails)()


def with_backoff(_: StubServer) -> None:
    retry = backoff.on_exception(backoff.expo, ConnectionError, max_time=100, jitter=None)
    with pytest.raises(ConnectionError):
        retry(fails)()


def opens_for_a_minute(call: Callable[[], object], refused: type[Exception]) -> None:
    """`call` has failed; it is refused for 59 seconds, and tried again after 61."""
    time.sleep(59)
    with pytest.raises(refused):
        call()
    time.sleep(2)
    with pytest.raises(ConnectionError):
        call()


def with_pybreaker(_: StubServer) -> None:
    breaker = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=60, throw_new_error_on_trip=False)
    with pytest.raises(ConnectionError):
        breaker.call(fails)
    opens_for_a_minute(lambda: breaker.call(fails), pybreaker.CircuitBreakerError)


def with_circuitbreaker(_: StubServer) -> None:
    call = circuitbreaker.circuit(failure_threshold=1, recovery_timeout=60)(fails)
    with pytest.raises(ConnectionError):
        call()
    opens_for_a_minute(call, circuitbreaker.CircuitBreakerError)


def with_aiobreaker(_: StubServer) -> None:
    breaker = aiobreaker.CircuitBreaker(fail_max=1, timeout_duration=datetime.timedelta(seconds=60))
    with pytest.raises(aiobreaker.CircuitBreakerError):  # which opens it
        breaker.call(fails)
    time.sleep(59)
    with pytest.raises(aiobreaker.CircuitBreakerError):
        breaker.call(fails_not)
    time.sleep(2)
    breaker.call(fails_not)


def with_purgatory(_: StubServer) -> None:
    call = purgatory.SyncCircuitBreakerFactory(default_threshold=1, default_ttl=60)("x")(fails)
    with pytest.raises(ConnectionError):
        call()
    opens_for_a_minute(call, OpenedState)


def with_urllib3(stub: StubServer) -> None:
    url = stub.respond("/x", status=503).url
    retries = urllib3.util.Retry(total=5, backoff_factor=1, status_forcelist=[503])
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
        with pytest.raises(requests.exceptions.RetryError):
            session.get(url, timeout=5)


def with_redis(_: StubServer) -> None:
    retry = redis.retry.Retry(redis.backoff.ExponentialBackoff(cap=60, base=1), 5)
    with pytest.raises(redis.ConnectionError):
        retry.call_with_retry(fails_to_reach_redis, fails_not)


def with_sqlalchemy(_: StubServer) -> None:
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.QueuePool, pool_recycle=60)

    def connection() -> object:
        with engine.connect() as each:
            return each.connection.dbapi_connection

    first = connection()
    time.sleep(59)
    assert connection() is first
    time.sleep(2)
    assert connection() is not first
    engine.dispose()


def with_httpx(stub: StubServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(stub.respond("/x", delay=60).url, timeout=5)


def with_httpx_in_a_task(stub: StubServer) -> None:
    async def get() -> None:
        async with httpx.AsyncClient(timeout=5) as client:
            await client.get(stub.respond("/x", delay=60).url)

    with pytest.raises(httpx.ReadTimeout):
        asyncio.run(get())


def with_aiohttp(stub: StubServer) -> None:
    async def get() -> None:
        timeout = aiohttp.ClientTimeout(total=4)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await session.get(stub.respond("/x", delay=60).url)

    with pytest.raises(TimeoutError):
        asyncio.run(get())


TRIALS: list[tuple[str, str, float, Trial]] = [
    ("tenacity", "five waits of 1, 2, 4, 8 and 16 s", 31, with_tenacity),
    ("tenacity", "the same in a task", 31, with_tenacity_in_a_task),
    ("stamina", "five waits of 1, 2, 4, 8 and 16 s", 31, with_stamina),
    ("backoff", "`max_time=100`", 100, with_backoff),
    ("pybreaker", "`reset_timeout=60`: refused at 59 s, tried at 61 s", 61, with_pybreaker),
    ("circuitbreaker", "`recovery_timeout=60`: the same", 61, with_circuitbreaker),
    (
        "aiobreaker",
        "`timeout_duration` of 60 s: refused at 59 s, tried at 61 s",
        61,
        with_aiobreaker,
    ),
    ("purgatory", "`default_ttl=60`: refused at 59 s, tried at 61 s", 61, with_purgatory),
    ("urllib3.Retry", "five retries of 503, `backoff_factor=1`", 30, with_urllib3),
    ("redis", "its `Retry`: five waits of 2, 4, 8, 16 and 32 s", 62, with_redis),
    ("SQLAlchemy", "`pool_recycle=60`: kept at 59 s, new at 61 s", 61, with_sqlalchemy),
    ("httpx", "`timeout=5`", 5, with_httpx),
    ("httpx", "`timeout=5` in a task", 5, with_httpx_in_a_task),
    ("aiohttp", "`ClientTimeout(total=4)`; from 5 s on it rounds up by itself", 4, with_aiohttp),
]


@pytest.mark.may_block(reason="what waits is what is tested")
@pytest.mark.parametrize(
    ("seconds", "trial"),
    [(seconds, trial) for _, _, seconds, trial in TRIALS],
    ids=[trial.__name__ for _, _, _, trial in TRIALS],
)
def test_a_library_is_right_to_the_second(
    virtual_clock: VirtualClock, stub_server: StubServer, seconds: float, trial: Trial
) -> None:
    trial(stub_server)
    assert virtual_clock.elapsed == seconds


def test_the_table_is_that_of_these_tests() -> None:
    rows = [f"| {library} | {waits} | {seconds} |\n" for library, waits, seconds, _ in TRIALS]
    text = PAGE.read_text(encoding="utf-8")
    before, head, after = text.partition(HEAD)
    rest = after[after.find("\n\n") + 1 :] if "\n\n" in after else ""
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(before + HEAD + "".join(rows) + rest, encoding="utf-8")
        return
    assert head + after[: len(after) - len(rest)] == HEAD + "".join(rows), (
        "UPDATE_DOCS=1 python -m pytest tests/virtual_time/test_libraries.py"
    )

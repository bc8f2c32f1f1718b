"""Libraries that wait, or look at the clock, each in virtual time.

The table of docs/virtual-time.md is what these tests saw; `UPDATE_DOCS=1` writes it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import os
import socket
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import aiobreaker  # type: ignore[import-untyped]
import aiohttp
import backoff
import boto3
import botocore.config
import botocore.exceptions
import botocore.retries.standard
import circuitbreaker  # type: ignore[import-untyped]
import httpx
import limits
import limits.storage
import limits.strategies
import purgatory
import pybreaker
import pytest
import redis
import redis.asyncio
import redis.backoff
import redis.retry
import requests
import requests.adapters
import sqlalchemy
import stamina
import tenacity
import urllib3.util

from apscheduler.schedulers.asyncio import AsyncIOScheduler  # type: ignore[import-untyped]
from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]
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


@contextmanager
def server_that_hangs_up() -> Iterator[int]:
    """Its port. It takes connections, hears what they want, and closes them."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def with_redis(_: StubServer) -> None:
    retry = redis.retry.Retry(redis.backoff.ExponentialBackoff(cap=60, base=1), 5)
    with (
        server_that_hangs_up() as port,
        redis.Redis(port=port, retry=retry) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.get("x")


def with_redis_in_a_task(_: StubServer) -> None:
    retry = redis.asyncio.retry.Retry(redis.backoff.ExponentialBackoff(cap=60, base=1), 5)

    async def get(port: int) -> None:
        async with redis.asyncio.Redis(port=port, retry=retry) as client:
            with pytest.raises(redis.ConnectionError):
                await client.get("x")

    with server_that_hangs_up() as port:
        asyncio.run(get(port))


def with_botocore(mode: str, stub: StubServer) -> None:
    error = "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>"
    config = botocore.config.Config(retries={"mode": mode, "total_max_attempts": 5})
    backoff = botocore.retries.standard.ExponentialBackoff
    longest = functools.partial(backoff, random=lambda: 1.0)
    with (
        mock.patch("random.random", return_value=1.0),
        mock.patch.object(botocore.retries.standard, "ExponentialBackoff", longest),
    ):
        client = boto3.client(
            "sts",
            endpoint_url=stub.respond("/", method="POST", status=400, body=error).url,
            region_name="eu-west-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",  # of nobody
            config=config,
        )
        with pytest.raises(botocore.exceptions.ClientError, match="Throttling"):
            client.get_caller_identity()
        client.close()


def with_botocore_standard(stub: StubServer) -> None:
    with_botocore("standard", stub)


def with_botocore_legacy(stub: StubServer) -> None:
    with_botocore("legacy", stub)


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


def with_limits(_: StubServer) -> None:
    limiter = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage())
    one = limits.parse("1/minute")
    assert limiter.hit(one)
    time.sleep(59)
    assert not limiter.hit(one)
    time.sleep(2)
    assert limiter.hit(one)


def runs_each_minute_of_an_hour(scheduler: Any, began: float, done: Callable[[], object]) -> None:
    """`done` is called when it has run 60 times, each at its second."""
    ran: list[float] = []

    def run() -> None:
        ran.append(time.monotonic() - began)
        if ran == [60 * (number + 1) for number in range(60)]:
            done()

    scheduler.add_job(run, "interval", minutes=1)
    scheduler.start()


def with_apscheduler(_: StubServer) -> None:
    scheduler, done = BackgroundScheduler(timezone="UTC"), threading.Event()
    runs_each_minute_of_an_hour(scheduler, time.monotonic(), done.set)
    assert done.wait(7200)
    scheduler.shutdown()


def with_apscheduler_in_a_task(_: StubServer) -> None:
    async def main() -> None:
        scheduler, done = AsyncIOScheduler(timezone="UTC"), asyncio.Event()
        loop = asyncio.get_running_loop()
        runs_each_minute_of_an_hour(
            scheduler, time.monotonic(), lambda: loop.call_soon_threadsafe(done.set)
        )
        async with asyncio.timeout(7200):
            await done.wait()
        scheduler.shutdown()

    asyncio.run(main())


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
    ("redis", "`Redis(retry=…)`: five waits of 2, 4, 8, 16 and 32 s", 62, with_redis),
    ("redis", "the same in a task", 62, with_redis_in_a_task),
    (
        "botocore",
        'mode "standard", throttled: four waits, the longest of 1, 2, 4 and 8 s',
        15,
        with_botocore_standard,
    ),
    ("botocore", 'mode "legacy": the same', 15, with_botocore_legacy),
    ("SQLAlchemy", "`pool_recycle=60`: kept at 59 s, new at 61 s", 61, with_sqlalchemy),
    ("httpx", "`timeout=5`", 5, with_httpx),
    ("httpx", "`timeout=5` in a task", 5, with_httpx_in_a_task),
    ("limits", "1 in a minute: refused at 59 s, taken at 61 s", 61, with_limits),
    ("APScheduler", "a job every minute, 60 times", 3600, with_apscheduler),
    ("APScheduler", "the same in a task", 3600, with_apscheduler_in_a_task),
    ("aiohttp", "`ClientTimeout(total=4)`; from 5 s on it rounds up by itself", 4, with_aiohttp),
]


@pytest.mark.may_block(reason="what waits is what is tested")
@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:aiobreaker")
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
        "UPDATE_DOCS=1 python -m pytest tests/end_to_end/test_virtual_time.py"
    )

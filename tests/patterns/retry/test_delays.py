"""Backoff, jitter, and the delays that responses and errors ask for."""

from __future__ import annotations

import email.message
import io
import logging
import random
import time
import urllib.error

from collections.abc import Iterator
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import requests

from botocore.exceptions import ClientError
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import ManualClock
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience.patterns.retry.delays import JITTERS
from pytest_resilience.patterns.retry.delays import Jitter
from pytest_resilience.patterns.retry.delays import backoff
from pytest_resilience.patterns.retry.delays import parse_retry_after
from pytest_resilience.patterns.retry.delays import retry_after_of
from pytest_resilience.patterns.retry.delays import with_jitter


def test_plain_backoff_grows_to_its_cap() -> None:
    delays = [backoff(attempt, 1.0, 2.0, 10.0) for attempt in range(1, 7)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff(100_000, 1.0, 2.0, 10.0) == 10.0  # where a float would overflow


BASES, CAPS = st.floats(0.001, 10), st.floats(10, 100)


@given(
    jitter=st.sampled_from(JITTERS),
    bounds=st.tuples(BASES, CAPS),
    attempt=st.integers(1, 50),
    previous=st.floats(0.001, 100),
    seed=st.integers(),
)
def test_every_jitter_keeps_its_bounds(
    jitter: Jitter, bounds: tuple[float, float], attempt: int, previous: float, seed: int
) -> None:
    base, cap = bounds
    delay = backoff(attempt, base, 2.0, cap)
    chance = random.Random(seed)
    jittered = with_jitter(jitter, delay, base=base, cap=cap, previous=previous, source=chance)
    low, high = {
        True: (0.9 * delay, 1.1 * delay),
        False: (delay, delay),
        "full": (0.0, delay),
        "equal": (delay / 2, delay),
        "decorrelated": (base, max(base, 3 * previous)),
    }[jitter]
    assert low * (1 - 1e-9) <= jittered <= min(cap, high) * (1 + 1e-9)


@pytest.mark.parametrize("jitter", [True, "full", "equal", "decorrelated"])
def test_library_defect_jitter_cut_off_by_the_cap(jitter: Jitter) -> None:
    """Callers that have reached the cap must not all wait the same."""
    chance = random.Random(1)
    waits = {
        with_jitter(jitter, 60.0, base=1.0, cap=60.0, previous=60.0, source=chance)
        for _ in range(100)
    }
    assert len(waits) == 100
    assert max(waits) <= 60.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 9.0),
        ("Fri, 31 Dec 1999 23:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, now=946684790.0) == seconds


def test_where_retry_after_is_looked_for() -> None:
    class Response:
        headers = {"Retry-After": "7"}  # noqa: RUF012  # as the libraries have it

    class HTTPError(Exception):
        response = Response()

    class AttributeTellsError(Exception):
        retry_after = 3

    class NobodyTellsError(Exception):
        response = None
        retry_after = None

    assert retry_after_of(Response(), 0.0) == 7.0
    assert retry_after_of(HTTPError(), 0.0) == 7.0
    assert retry_after_of(AttributeTellsError(), 0.0) == 3.0
    assert retry_after_of(NobodyTellsError(), 0.0) is None
    assert retry_after_of(None, 0.0) is None


class Answer:
    def __init__(self, headers: Any) -> None:
        self.headers = headers


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RETRY-AFTER": "7"}, 7.0),
        ({b"retry-after": b"7"}, 7.0),
        ({"Retry-After": 7}, 7.0),
        ({"Retry-After": b"Thu, 01 Jan 1970 00:16:50 GMT"}, 10.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"X-RateLimit-Reset": "2000000000", "X-RateLimit-Remaining": "0"}, 1999999000.0),
        ({"X-RateLimit-Reset": "30", "X-RateLimit-Remaining": 0}, 30.0),
        ({"X-RateLimit-Reset": "30", "X-RateLimit-Remaining": "5"}, None),
        ({"RateLimit": '"default";r=0;t=50'}, 50.0),
        ({"RateLimit": '"default";r=9;t=50'}, None),
        ({"RateLimit": "limit=100, remaining=0, reset=50"}, 50.0),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "50"}, 50.0),
        ({"Retry-After": float("nan")}, None),
        ([("Retry-After", "7")], 7.0),  # as http.client lists them, and ASGI
        ([(b"retry-after", b"7")], 7.0),
        (["Retry-After"], None),
        ({"RateLimit": '"burst";r=9;t=5, "day";r=0;t=60, "week";r=0;t=50'}, 60.0),
        ({"X-Rate-Limit-Reset": "30"}, 30.0),
        ({"X-RateLimit-Reset": "2000000000000"}, 1999999000.0),  # in milliseconds
        (None, None),
    ],
)
def test_headers_of_any_case_and_type(headers: Any, seconds: float | None) -> None:
    assert retry_after_of(Answer(headers), 1000.0) == seconds
    error = OSError()
    error.response = Answer(headers)  # type: ignore[attr-defined]
    assert retry_after_of(error, 1000.0) == seconds
    outer = ValueError()
    outer.__cause__ = error
    assert retry_after_of(outer, 1000.0) == seconds


def test_an_error_of_botocore_and_attributes_of_any_type() -> None:
    metadata: Any = {"HTTPStatusCode": 503, "HTTPHeaders": {"retry-after": "7"}}
    response: Any = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": metadata}
    assert retry_after_of(ClientError(response, "PutObject"), 0.0) == 7.0
    for value in (timedelta(seconds=7), "7", b"7", 7):
        error = OSError()
        error.retry_after = value  # type: ignore[attr-defined]
        assert retry_after_of(error, 0.0) == 7.0
    itself = OSError()
    itself.__cause__ = itself
    assert retry_after_of(itself, 0.0) is None


NOW = 1_700_000_000.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(epoch=NOW)


def of_requests(value: str) -> Exception:
    response = requests.Response()
    response.headers["retry-after"] = value
    return requests.HTTPError(response=response)


def of_httpx(value: str) -> Exception:
    request = httpx.Request("GET", "http://prices")
    response = httpx.Response(503, headers={"retry-after": value}, request=request)
    return httpx.HTTPStatusError("busy", request=request, response=response)


def of_urllib(value: str) -> Exception:
    headers = email.message.Message()
    headers["retry-after"] = value
    return urllib.error.HTTPError("http://prices", 503, "busy", headers, io.BytesIO())


def of_a_plain_dict(value: str) -> Exception:
    error = Exception()
    error.headers = {"retry-after": value}  # type: ignore[attr-defined]
    return error


EVERYWHERE = pytest.mark.parametrize(
    "make", [of_requests, of_httpx, of_urllib, of_a_plain_dict], ids=lambda make: make.__name__
)


@EVERYWHERE
def test_seconds(make: Any) -> None:
    assert retry_after_of(make("120"), NOW) == 120.0


@EVERYWHERE
def test_a_date(make: Any) -> None:
    moment = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=90)
    assert retry_after_of(make(format_datetime(moment, usegmt=True)), NOW) == 90.0


@pytest.mark.parametrize(
    "result", [requests.Response(), httpx.Response(503)], ids=["requests", "httpx"]
)
def test_a_result_asks_too(result: Any) -> None:
    assert retry_after_of(result, NOW) is None
    result.headers["Retry-After"] = "5"
    assert retry_after_of(result, NOW) == 5.0


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is hours away from UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("zone", ["GMT", "-0000", ""])
def test_a_date_is_utc_wherever_we_are(zone: str) -> None:
    assert parse_retry_after(f"Tue, 14 Nov 2023 22:13:30 {zone}", NOW) == 10.0


@pytest.mark.parametrize(
    "value",
    ["1e9", "1_0", "٣", "0x10", "", " ", "soon", "Tue, 99 Nov 2023 22:13:30 GMT", "1 2", "nan",
     "Tue, 14 Nov 99999 22:13:30 GMT", "Tue, 14 Nov 99999999999999999999 22:13:30 GMT", "1.",
     ".5", "+5"],
)  # fmt: skip
def test_what_is_no_wait(value: str) -> None:
    assert parse_retry_after(value, NOW) is None


@example(value="0\x1f", now=0.0)  # white space to `re` and not to `float`
@given(value=st.text(max_size=40), now=st.floats(0, 4e9))
def test_no_header_is_an_error(value: str, now: float) -> None:
    seconds = parse_retry_after(value, now)
    assert seconds is None or seconds >= 0


def test_no_object_is_an_error() -> None:
    class HostileError(Exception):
        @property
        def response(self) -> None:
            raise RuntimeError

        headers = retry_after = response

    class Mapping:
        def get(self, *_: object) -> None:
            raise RuntimeError

    class OddError(Exception):
        headers = Mapping()
        retry_after = True

    assert retry_after_of(HostileError(), NOW) is None
    assert retry_after_of(OddError(), NOW) is None


def exhaust(handler: RetryHandler, error: Exception) -> RetryExhaustedError:
    def call() -> None:
        raise error

    with pytest.raises(RetryExhaustedError) as caught:
        handler.execute(call)
    return caught.value


def test_what_is_asked_for_is_waited_without_jitter(clock: ManualClock) -> None:
    handler = RetryHandler(RetryConfig(jitter="full", max_delay=5), clock=clock)
    exhaust(handler, of_requests("7"))
    assert clock.sleeps == [7.0, 7.0]


def test_a_date_is_waited_for_by_the_clock(clock: ManualClock) -> None:
    moment = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=90)
    exhaust(RetryHandler(clock=clock), of_httpx(format_datetime(moment, usegmt=True)))
    assert clock.sleeps == [90.0, 0.0]


def test_who_asks_for_just_what_is_granted_gets_it(clock: ManualClock) -> None:
    exhaust(RetryHandler(RetryConfig(max_attempts=2), clock=clock), of_requests("300"))
    assert clock.sleeps == [300.0]


def test_who_asks_for_too_much_is_not_called_again(clock: ManualClock) -> None:
    error = exhaust(RetryHandler(clock=clock), of_requests("31536000"))
    assert clock.sleeps == []
    assert error.attempts == 1
    assert error.reason == "asked to wait 31536000 s, max_retry_after=300 s"
    exhaust(RetryHandler(clock=clock), of_requests("9" * 400))  # beyond what floats hold
    assert clock.sleeps == []


def test_a_breaker_says_when_it_is_worth_trying(clock: ManualClock) -> None:
    config = CircuitBreakerConfig(failure_threshold=1, success_threshold=1, timeout=30.0)
    breaker = CircuitBreaker(config, clock=clock)
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 // 0)
    retry = RetryHandler(RetryConfig(retryable_exceptions=(CircuitBreakerError,)), clock=clock)
    assert retry.execute(breaker.call, lambda: "fine") == "fine"
    assert clock.sleeps == [30.0]


@pytest.mark.parametrize("answer", ["soon", -1, float("nan"), ZeroDivisionError()])
def test_a_function_that_cannot_say_how_long_leaves_it_to_the_rest(
    answer: Any, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(failure: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    handler = RetryHandler(
        RetryConfig(max_attempts=2, jitter=False, wait_from=ask), name="prices", clock=clock
    )
    with caplog.at_level(logging.ERROR):
        exhaust(handler, of_requests("7"))
    assert clock.sleeps == [1.0]
    assert "prices: " in caplog.text
    assert "cannot say how long to wait" in caplog.text


def test_a_function_of_results(clock: ManualClock) -> None:
    config = RetryConfig(
        max_attempts=2, retry_on_result=lambda result: True, wait_from=lambda result: result["in"]
    )
    with pytest.raises(RetryExhaustedError):
        RetryHandler(config, clock=clock).execute(lambda: {"in": 12})
    assert clock.sleeps == [12.0]

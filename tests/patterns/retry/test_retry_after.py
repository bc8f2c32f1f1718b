"""Whether waits that are asked for are found where the libraries have them, and kept."""

from __future__ import annotations

import email.message
import io
import logging
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
from pytest_resilience.patterns.retry.delays import parse_retry_after
from pytest_resilience.patterns.retry.delays import retry_after_of


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

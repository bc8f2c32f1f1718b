"""Faults that go away, and those that do not."""

from __future__ import annotations

import pytest
import requests

from examples.resilient_service import ResilientServiceClient
from pytest_resilience import Chaos
from pytest_resilience import CircuitBreakerError
from pytest_resilience import ManualClock
from pytest_resilience import RetryExhaustedError
from pytest_resilience.assertions import assert_backoff
from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.assertions import assert_retried
from pytest_resilience.assertions import assert_retry_exhausted


@pytest.fixture
def client(services_url: str, manual_clock: ManualClock) -> ResilientServiceClient:
    return ResilientServiceClient(services_url, clock=manual_clock)


@pytest.mark.chaos("network_failure", mode="refuse", first=2)
def test_what_goes_away_is_not_noticed(client: ResilientServiceClient) -> None:
    assert client.get_user_preferences("7")["path"] == "/users/7/preferences"
    assert_retried(client.retry_handlers["normal"], attempts=3)
    assert_backoff(client.retry_handlers["normal"], [1, 2])
    assert_circuit_closed(client.circuit_breaker)


@pytest.mark.chaos("network_failure", mode="reset", first=4)
def test_critical_data_is_worth_more_attempts(client: ResilientServiceClient) -> None:
    assert client.get_critical_data("3")["path"] == "/critical-data/3"
    assert_retried(client.retry_handlers["critical"], attempts=5)


def test_a_service_that_says_it_is_unwell_is_asked_again(
    client: ResilientServiceClient, chaos: Chaos
) -> None:
    chaos.service("data", "127.0.0.1")
    with chaos.service_failure("data", status=503, first=2):
        client.get_critical_data("3")
        assert_retried(client.retry_handlers["critical"], attempts=3)
    with (
        chaos.service_failure("data", status=503),
        pytest.raises(requests.HTTPError, match="503"),
    ):
        client.get_user_preferences("7")  # not worth it


@pytest.mark.chaos("network_failure", mode="refuse")
def test_what_stays_ends_in_an_open_breaker(client: ResilientServiceClient) -> None:
    with pytest.raises(RetryExhaustedError) as caught:
        client.get_user_preferences("7")
    assert isinstance(caught.value.last_exception, requests.ConnectionError)
    assert_retry_exhausted(client.retry_handlers["normal"], attempts=3)
    with pytest.raises(CircuitBreakerError):
        client.get_critical_data("3")  # opens at its second attempt, which ends the retry
    assert_circuit_open(client.circuit_breaker)

"""Outages of another system, and what its client does while they last and after."""

from __future__ import annotations

import pytest
import requests

from examples.external_service import ExternalServiceClient
from pytest_resilience import Chaos
from pytest_resilience import CircuitBreakerError
from pytest_resilience import ManualClock
from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.assertions import assert_circuit_transitions
from pytest_resilience.assertions import assert_fails_fast
from pytest_resilience.assertions import assert_recovers


@pytest.fixture
def client(services_url: str, manual_clock: ManualClock) -> ExternalServiceClient:
    return ExternalServiceClient(services_url, clock=manual_clock)


def pay(client: ExternalServiceClient) -> object:
    return client.process_payment({"amount": 10})


def test_on_a_good_day(client: ExternalServiceClient) -> None:
    assert client.get_user("7")["path"] == "/users/7"
    assert client.process_payment({"amount": 10})["status"] == "success"
    assert {each["state"] for each in client.get_health_status().values()} == {"CLOSED"}


@pytest.mark.parametrize("mode", ["refuse", "reset"])
def test_an_outage_opens_the_breaker_which_then_fails_fast(
    client: ExternalServiceClient, chaos: Chaos, mode: str
) -> None:
    with chaos.network_failure(mode=mode) as outage:
        for _ in range(3):
            with pytest.raises(requests.ConnectionError):
                pay(client)
        assert_circuit_open(client.circuit_breakers["payment"])
        assert_fails_fast(client.circuit_breakers["payment"], within=1)
        met = outage.matched
        with pytest.raises(CircuitBreakerError, match=r"try again in 30 s"):
            pay(client)
        assert outage.matched == met  # the network was not asked


@pytest.mark.chaos("network_failure", first=3)
def test_payments_that_fail_leave_users_alone(client: ExternalServiceClient) -> None:
    for _ in range(3):
        with pytest.raises(requests.ConnectionError):
            pay(client)
    assert_circuit_open(client.circuit_breakers["payment"])
    client.get_user("7")
    assert_circuit_closed(client.circuit_breakers["user"])


@pytest.mark.chaos("network_failure", first=3)
def test_when_the_outage_is_over_it_recovers_by_itself(
    client: ExternalServiceClient, manual_clock: ManualClock
) -> None:
    for _ in range(3):
        with pytest.raises(requests.ConnectionError):
            pay(client)
    assert_recovers(lambda: pay(client), within=31, every=10, clock=manual_clock)
    pay(client)
    assert_circuit_transitions(
        client.circuit_breakers["payment"], ["CLOSED", "OPEN", "HALF_OPEN", "CLOSED"]
    )

"""One operation in trouble, and the others that must not notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from examples.isolated_service import IsolatedServiceClient
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import ManualClock
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import ThreadPoolBulkhead
from pytest_resilience.assertions import assert_bulkhead_rejected
from pytest_resilience.assertions import assert_isolated
from pytest_resilience.assertions import assert_rate_limited
from pytest_resilience.assertions import assert_recovers


@pytest.fixture
def client(services_url: str, manual_clock: ManualClock) -> Iterator[IsolatedServiceClient]:
    client = IsolatedServiceClient(services_url, clock=manual_clock)
    yield client
    client.close()


def test_on_a_good_day(client: IsolatedServiceClient) -> None:
    assert client.database_operation("tea")["path"] == "/query?q=tea"
    assert client.external_api_call("weather")["path"] == "/weather"
    assert client.upload_file(b"12345")["size"] == 5
    assert client.get_health_status()["database"]["completed_tasks"] == 1


def test_an_api_that_is_full_leaves_the_database_alone(client: IsolatedServiceClient) -> None:
    api = client.manager.get_bulkhead("external_api")
    assert isinstance(api, SemaphoreBulkhead)
    assert_isolated(lambda: client.database_operation("tea"), while_saturated=api)
    with pytest.raises(AssertionError, match="external_api is full"):
        assert_isolated(lambda: client.external_api_call("weather"), while_saturated=api)
    assert_bulkhead_rejected(api, times=1)


def test_and_the_other_way_round(client: IsolatedServiceClient) -> None:
    database = client.manager.get_bulkhead("database")
    assert isinstance(database, ThreadPoolBulkhead)
    assert_isolated(lambda: client.external_api_call("weather"), while_saturated=database)


@pytest.mark.chaos("network_failure", mode="reset")
def test_calls_that_fail_give_their_places_back(client: IsolatedServiceClient) -> None:
    for _ in range(20):
        with pytest.raises(requests.ConnectionError):
            client.external_api_call("weather")
        with pytest.raises(requests.ConnectionError):
            client.database_operation("tea")
    health = client.get_health_status()
    assert health["external_api"]["available_permits"] == 2
    assert health["database"]["active_tasks"] + health["database"]["queued_tasks"] == 0


def test_uploads_keep_to_their_rate(
    client: IsolatedServiceClient, manual_clock: ManualClock
) -> None:
    uploads = client.manager.get_bulkhead("file_upload")
    assert isinstance(uploads, RateLimitBulkhead)
    for _ in range(5):
        client.upload_file(b"12345")
    with pytest.raises(BulkheadRejectedError, match="try again in 60 s"):
        client.upload_file(b"12345")
    assert_rate_limited(uploads, times=1)
    assert_recovers(lambda: client.upload_file(b""), within=60, every=10, clock=manual_clock)

"""What customers still get when services fail."""

from __future__ import annotations

import pytest

from examples.ecommerce import POPULAR
from examples.ecommerce import ECommerceService
from pytest_resilience import Chaos
from pytest_resilience import ManualClock
from pytest_resilience.assertions import assert_degraded
from pytest_resilience.assertions import assert_fallback_used


@pytest.fixture
def shop(services_url: str, manual_clock: ManualClock) -> ECommerceService:
    return ECommerceService(services_url, clock=manual_clock)


# On a bad day (`pytest examples --chaos-explore`) they get other answers, and never an error.
@pytest.mark.resilience(allowed=[AssertionError])
def test_on_a_good_day(shop: ECommerceService) -> None:
    assert shop.get_product_recommendations("7", "tea") != POPULAR
    assert shop.process_payment({"amount": 10})["status"] == "success"
    assert shop.check_inventory("tea")["stock"] == 15
    assert shop.search_products("tea")
    assert shop.get_service_status()["overall_status"] == "healthy"


@pytest.mark.chaos("network_failure", mode="refuse")
def test_nothing_works_and_every_customer_gets_an_answer(shop: ECommerceService) -> None:
    assert shop.get_product_recommendations("7", "tea") == POPULAR
    assert shop.process_payment({"amount": 10}) == {"status": "queued", "position": 1}
    assert shop.check_inventory("tea") == {"stock": 0, "source": "unavailable"}
    assert shop.search_products("tea") == []
    assert shop.get_service_status()["overall_status"] == "degraded"
    for service in ("recommendations", "payment", "inventory", "search"):
        assert_degraded(shop.degradation_manager, service, level="degraded")
        assert_fallback_used(shop.degradation_manager, service, times=1)


def test_stock_that_was_known_is_remembered(shop: ECommerceService, chaos: Chaos) -> None:
    shop.check_inventory("tea")
    with chaos.network_failure(mode="reset"):
        assert shop.check_inventory("tea")["source"] == "cache"
    assert_fallback_used(shop.degradation_manager, "inventory", used="fallback")


@pytest.mark.chaos("network_failure", mode="timeout", nth=1)
def test_a_payment_whose_answer_is_lost_is_queued_once(shop: ECommerceService) -> None:
    assert shop.process_payment({"amount": 10})["status"] == "queued"
    assert shop.queue == [{"amount": 10}]


def test_services_are_used_again_when_they_are_back(
    shop: ECommerceService, chaos: Chaos, manual_clock: ManualClock
) -> None:
    with chaos.network_failure(mode="refuse") as outage:
        assert shop.search_products("tea") == []
        assert shop.search_products("tea") == []
        assert outage.hits == 1  # while it is degraded nobody asks it
    assert shop.search_products("tea") == []
    manual_clock.advance(30)
    assert shop.search_products("tea")
    assert_degraded(shop.degradation_manager, "search", level="full")

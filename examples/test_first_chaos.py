"""A first chaos test: an unchanged client, a real server, real faults.

Two shops ask the same price service. One calls it as everybody does; the other goes
through a circuit breaker and remembers the last price. Then the network fails.
"""

from __future__ import annotations

import socket
import time

import pytest
import requests

from pytest_resilience import Chaos
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_open


class Shop:
    """Knows what things cost as long as the price service answers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def price(self, item: str) -> int:
        response = requests.get(f"{self.url}/prices/{item}", timeout=0.5)
        response.raise_for_status()
        return int(response.json()["price"])


class ResilientShop(Shop):
    """Remembers the last price, and stops asking a service that keeps failing."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.last: dict[str, int] = {}
        self.breaker = CircuitBreaker(
            CircuitBreakerConfig(
                failure_threshold=3,
                timeout=30.0,
                expected_exception=(requests.RequestException,),
            )
        )

    def price(self, item: str) -> int:
        try:
            self.last[item] = self.breaker.call(super().price, item)
        except (requests.RequestException, CircuitBreakerError):
            if item not in self.last:
                raise
        return self.last[item]


@pytest.fixture
def shop(prices_url: str) -> Shop:
    return Shop(prices_url)


@pytest.fixture
def resilient_shop(prices_url: str) -> ResilientShop:
    shop = ResilientShop(prices_url)
    assert shop.price("tea") == 4  # chaos begins with the test, not with its fixtures
    return shop


def test_on_a_good_day(resilient_shop: ResilientShop) -> None:
    assert resilient_shop.price("tea") == 4
    assert_circuit_closed(resilient_shop.breaker)


@pytest.mark.chaos("network_failure", mode="refuse")
def test_with_a_breaker_customers_still_see_a_price(resilient_shop: ResilientShop) -> None:
    assert [resilient_shop.price("tea") for _ in range(10)] == [4] * 10
    assert_circuit_open(resilient_shop.breaker)


@pytest.mark.xfail(
    strict=True,
    raises=requests.ConnectionError,
    reason="without a breaker and a remembered price the outage reaches the customer",
)
@pytest.mark.chaos("network_failure", mode="refuse")
def test_without_one_the_outage_reaches_them(shop: Shop) -> None:
    assert shop.price("tea") == 4


@pytest.mark.chaos("network_latency", delay="100ms", target="127.0.0.1:*")
def test_a_slow_network_is_slow_twice(shop: Shop) -> None:
    """Once for connecting and once for the answer."""
    started = time.monotonic()
    assert shop.price("tea") == 4
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    ("mode", "error", "cause"),
    [
        ("refuse", requests.exceptions.ConnectionError, ConnectionRefusedError),
        ("reset", requests.exceptions.ConnectionError, ConnectionResetError),
        ("timeout", requests.exceptions.ConnectTimeout, TimeoutError),
        ("dns", requests.exceptions.ConnectionError, socket.gaierror),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_clients_meet_the_real_exception(
    shop: Shop, chaos: Chaos, mode: str, error: type[Exception], cause: type[Exception]
) -> None:
    shop.url = shop.url.replace("127.0.0.1", "localhost")  # a name, so that it is looked up
    with chaos.network_failure(mode=mode), pytest.raises(error) as caught:
        shop.price("tea")
    first: BaseException = caught.value
    while first.__context__ is not None:
        first = first.__context__
    assert type(first) is cause

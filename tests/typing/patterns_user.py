"""What users write, for mypy and pyright to read in their strict modes. Nobody runs it.

`assert_type` says what must be known. Where something must be refused, the line has a comment that
ignores the complaint, and one that ignores nothing is a complaint itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Generator
from typing import Any
from typing import ParamSpec
from typing import Protocol
from typing import TypeVar
from typing import assert_type
from typing import overload

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerRegistry
from pytest_resilience import Event
from pytest_resilience import FeatureFlag
from pytest_resilience import RedisStore
from pytest_resilience import RetryConfig
from pytest_resilience import RetryHandler
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import ThreadPoolBulkhead
from pytest_resilience.patterns import CircuitRejection
from pytest_resilience.patterns import CircuitTransition
from pytest_resilience.patterns import Hedging
from pytest_resilience.patterns import HedgingConfig
from pytest_resilience.patterns import Pipeline
from pytest_resilience.patterns import RateLimitBulkhead
from pytest_resilience.patterns import RetryScheduled
from pytest_resilience.patterns import TimeLimiter


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

breaker = CircuitBreaker()
retry = RetryHandler()
semaphore = SemaphoreBulkhead()
pool = ThreadPoolBulkhead()
rate = RateLimitBulkhead()
limit = TimeLimiter(1.0)
pipeline = Pipeline(retry, breaker, semaphore, rate, limit)
hedging = Hedging(HedgingConfig(handled_exceptions=OSError))
named = CircuitBreakerRegistry().get_or_create("prices")


class Pattern(Protocol):
    """A decorator that keeps what it is put around."""

    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...


patterns: list[Pattern] = [breaker, retry, semaphore, pool, rate, limit, pipeline, named, hedging]
patterns += [rate.weighing(2)]


# Functions.


@breaker
def price(item: str, *, currency: str = "EUR") -> float:
    return len(item) + len(currency)


@overload
def find(key: str) -> str: ...
@overload
def find(key: int, default: T) -> int | T: ...
@retry
@breaker
def find(key: str | int, default: object = None) -> object:
    return key or default


@overload
def fetch(key: str) -> str: ...
@overload
def fetch(key: int, default: T) -> int | T: ...
def fetch(key: str | int, default: Any = None) -> Any:
    return key or default


@pipeline
@limit
@semaphore
def pair(item: T) -> tuple[T, T]:
    return item, item


fetched = pipeline(rate(retry(breaker(fetch))))

assert_type(price("tea"), float)
assert_type(price("tea", currency="USD"), float)
price(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
price("tea", curency="USD")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
assert_type(find("tea"), str)
assert_type(find(1, b""), int | bytes)
assert_type(fetched("tea"), str)
assert_type(fetched(1, b""), int | bytes)
fetched(1)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
assert_type(pair(1), tuple[int, int])
assert_type(breaker(lambda: price("tea"))(), float)

# Called.

assert_type(breaker.call(price, "tea", currency="USD"), float)
assert_type(breaker.call(fetch, 1, b""), int | bytes)
assert_type(retry.execute(pair, 1), tuple[int, int])
assert_type(semaphore.execute(len, "tea"), int)
assert_type(pool.execute(len, "tea"), int)
assert_type(pool.submit(len, "tea").result(), int)
assert_type(rate.execute(len, "tea"), int)
assert_type(limit.execute(len, "tea"), int)
assert_type(pipeline.call(len, "tea"), int)
assert_type(hedging.execute(len, "tea"), int)
breaker.call(price, 1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

# Methods.


class Shop:
    @breaker
    def price(self, item: str) -> float:
        return len(item)

    @classmethod
    @breaker
    def nearest(cls, city: str) -> Shop:
        return cls() if city else Shop()

    @staticmethod
    @retry
    def round(price: float) -> int:
        return int(price)

    @property
    @breaker
    def name(self) -> str:
        return "the shop"

    @overload
    def find(self, key: str) -> str: ...
    @overload
    def find(self, key: int) -> int: ...
    @breaker
    def find(self, key: str | int) -> str | int:
        return key

    @pipeline
    @breaker
    async def order(self, item: str, *, count: int = 1) -> list[str]:
        return [item] * count

    @breaker
    def rows(self, count: int) -> Generator[int, str, bytes]:
        return (yield count).encode()

    @breaker
    async def pages(self, count: int) -> AsyncIterator[str]:
        yield str(count)


shop = Shop.nearest("Bruges")
assert_type(shop, Shop)
assert_type(shop.price("tea"), float)
assert_type(Shop.price(shop, "tea"), float)
assert_type(Shop.round(1.5), int)
assert_type(shop.name, str)
assert_type(shop.find("tea"), str)
assert_type(shop.find(1), int)
assert_type(shop.rows(1), Generator[int, str, bytes])
shop.price(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
shop.price()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
breaker(1)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]

# Coroutine functions.


@limit
@rate
@retry
@breaker
async def later(item: T, *, count: int = 1) -> list[T]:
    return [item] * count


async def story() -> None:
    assert_type(await later("tea", count=2), list[str])
    assert_type(await shop.order("tea", count=2), list[str])
    assert_type(await breaker.call(later, 1), list[int])
    assert_type(await pipeline.call(later, 1), list[int])
    assert_type(await pool.execute_async(len, "tea"), int)
    assert_type([page async for page in shop.pages(1)], list[str])
    async with breaker as entered, semaphore, rate, limit:
        assert_type(entered, CircuitBreaker)
    async for attempt in retry:
        with attempt:
            assert_type(attempt.returned(1), int)
    await later("tea", 2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    later("tea").append("coffee")  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


# Configurations: one exception or several, and functions of one kind of error, result or event.


def is_down(error: OSError) -> bool:
    return error.errno == 111


def is_empty(rows: list[int]) -> bool:
    return not rows


def seconds(error: OSError) -> float | None:
    return error.errno


CircuitBreakerConfig(expected_exception=ValueError, ignored_exception=(KeyError, OSError))
CircuitBreakerConfig(is_failure=is_down, is_failed_result=is_empty)
CircuitBreakerConfig(is_failure=lambda error: isinstance(error, OSError))
CircuitBreakerConfig(timeout=lambda times, error: 10.0 * times)
CircuitBreakerConfig(expected_exception=int)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
RetryConfig(retryable_exceptions=OSError, is_retryable=is_down, wait_from=seconds)
RetryConfig(retryable_exceptions=(OSError, KeyError), retry_on_result=is_empty)
FeatureFlag("prices", expected_exception=OSError)

# A store.

store = RedisStore("redis://127.0.0.1:6379/0", refresh=1.0)
assert_type(CircuitBreaker(name="prices", store=store), CircuitBreaker)

# Listeners.


def on_transition(event: CircuitTransition) -> None:
    assert_type(event.reason, str)


def on_either(event: CircuitTransition | CircuitRejection) -> str:
    return event.source


def on_wait(event: RetryScheduled) -> float:
    return event.delay


def on_number(number: int) -> None: ...


heard: list[Event] = []
assert_type(breaker.listeners.add(on_transition), Callable[[], None])
breaker.listeners.add(on_either)
breaker.listeners.add(heard.append)
breaker.listeners.add(print)
breaker.listeners.add(lambda event: event.source)
retry.listeners.add(on_wait)
breaker.listeners.add(on_number)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]

"""A real Redis on loopback, met through faults."""

from __future__ import annotations

import asyncio
import time

from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.injecting import Inject
from tests.redis_server import redis_server


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with redis_server() as (number, _):
        yield number


@pytest.fixture
def client(port: int) -> Iterator[redis.Redis]:
    with redis.Redis("127.0.0.1", port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
        assert client.ping()
        yield client


def test_a_command_and_a_pipeline_are_one_turn_each(client: redis.Redis, inject: Inject) -> None:
    with inject("network_latency", delay=0.02) as latency:
        started = time.monotonic()
        client.set("key", "value")
        assert time.monotonic() - started >= 0.02
        pipeline = client.pipeline()
        for number in range(50):
            pipeline.set(f"key{number}", number)
        assert pipeline.execute() == [True] * 50
    assert latency.matched == 2
    assert client.get("key") == b"value"


def test_a_reset_is_the_clients_own_error_and_it_recovers(
    client: redis.Redis, inject: Inject
) -> None:
    with (
        inject("network_failure", mode="reset", rate=1),
        pytest.raises(redis.ConnectionError, match="Connection reset by peer"),
    ):
        client.get("key")
    assert client.ping()


def test_its_own_retries_run(port: int, inject: Inject) -> None:
    with (
        redis.Redis("127.0.0.1", port, retry=Retry(NoBackoff(), 3)) as client,
        inject("network_failure", mode="refuse", rate=1, first=2) as failure,
    ):
        assert client.ping()
    assert (failure.matched, failure.hits) == (3, 2)


def test_silence_meets_its_own_timeout(port: int, inject: Inject) -> None:
    never_again = Retry(NoBackoff(), 0)
    with redis.Redis("127.0.0.1", port, socket_timeout=1, retry=never_again) as client:
        assert client.ping()
        with (
            inject("network_failure", mode="timeout", rate=1),
            pytest.raises(redis.TimeoutError),
        ):
            client.get("key")


def never_again() -> redis.asyncio.retry.Retry:
    return redis.asyncio.retry.Retry(NoBackoff(), 0)


def test_under_asyncio_a_command_and_a_pipeline_are_one_turn_each(
    port: int, inject: Inject
) -> None:
    async def story() -> None:
        async with redis.asyncio.Redis(host="127.0.0.1", port=port, retry=never_again()) as client:
            assert await client.ping()
            with inject("network_latency", delay=0.02) as latency:
                started = time.monotonic()
                await client.set("key", "value")
                assert time.monotonic() - started >= 0.02
                async with client.pipeline() as pipeline:
                    for number in range(50):
                        pipeline.set(f"key{number}", number)
                    assert await pipeline.execute() == [True] * 50
            assert latency.matched == 2

    asyncio.run(story())


def test_under_asyncio_silence_meets_its_own_timeout(port: int, inject: Inject) -> None:
    async def story() -> None:
        async with redis.asyncio.Redis(
            host="127.0.0.1", port=port, socket_timeout=1, retry=never_again()
        ) as client:
            assert await client.ping()
            with (
                inject("network_failure", mode="timeout", rate=1),
                pytest.raises(redis.TimeoutError),
            ):
                await client.get("key")
            assert await client.ping()

    asyncio.run(story())

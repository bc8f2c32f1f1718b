"""Redis in trouble, as a server words it; against a real one."""

from __future__ import annotations

import asyncio

from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from pytest_resilience import ManualClock
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.runtime import Runtime
from tests.end_to_end.databases.conftest import Chaos
from tests.redis_server import redis_server


@pytest.fixture(scope="module")
def socket_file() -> Iterator[str]:
    with redis_server() as (_, path):
        yield path


@pytest.fixture
def client(socket_file: str) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=socket_file, decode_responses=True) as found:
        found.flushall()
        yield found


@pytest.mark.parametrize(
    ("mode", "error", "message"),
    [
        ("read_only", redis.ReadOnlyError, "You can't write against a read only replica."),
        ("disk_full", redis.ResponseError, "MISCONF Redis is configured to save RDB snapshots"),
        ("locked", redis.ResponseError, "BUSY Redis is busy running a script"),
    ],
)
def test_commands_fail_as_the_server_would_say(
    client: Any, chaos_on_databases: Chaos, mode: str, error: type[Exception], message: str
) -> None:
    experiment = chaos_on_databases("database_failure", mode=mode, match="SET orders*")
    client.set("stock:1", "4")
    with pytest.raises(error, match=message):
        client.set("orders:1", "tea")
    assert client.get("stock:1") == "4"
    experiment.stop()
    assert client.get("orders:1") is None
    assert (experiment.matched, experiment.hits) == (1, 1)


def test_a_pipeline_with_multi_is_a_commit(client: Any, chaos_on_databases: Chaos) -> None:
    experiment = chaos_on_databases("database_failure", mode="read_only", during="commit")
    with client.pipeline() as pipeline, pytest.raises(redis.ReadOnlyError):
        pipeline.set("a", 1).set("b", 2).execute()
    with client.pipeline(transaction=False) as pipeline:
        pipeline.set("c", 3).execute()
    assert (client.get("a"), client.get("c")) == (None, "3")
    assert experiment.hits == 1


def test_awaited(socket_file: str, chaos_on_databases: Chaos) -> None:
    chaos_on_databases("database_failure", mode="read_only", match="SET*", first=1)

    async def story() -> None:
        async with redis.asyncio.Redis(unix_socket_path=socket_file) as client:
            with pytest.raises(redis.ReadOnlyError):
                await client.set("a", 1)
            await client.set("a", 1)
            async with client.pipeline() as pipeline:
                pipeline.set("b", 2)
                assert await pipeline.execute() == [True]

    asyncio.run(story())


def test_slow_commands(client: Any) -> None:
    clock = ManualClock()
    slow = ChaosExperiment("slow", "database_slowdown", delay="100ms", match="GET*")
    running = Runtime(clock=clock).start(slow, seed=1)
    client.set("a", 1)
    assert clock.monotonic() == 0
    assert client.get("a") == "1"
    assert clock.monotonic() == pytest.approx(0.1)
    running.stop()


@pytest.mark.parametrize("mode", ["lost", "deadlock"])
def test_what_redis_does_not_know_does_not_happen(client: Any, mode: str) -> None:
    """And whoever expects it is told so, though the code may swallow every error."""
    failure = ChaosExperiment("failure", "database_failure", mode=mode, rate=1)  # type: ignore[call-overload]
    running = Runtime().start(failure, seed=1)
    client.get("a")
    running.stop()
    assert running.matched == 0
    told = str(never_fired(running))
    known = "'disk_full', 'locked', 'read_only', 'too_many_connections'"
    assert (
        f"GET 'a' (which knows but {known})" in told or f"GET a (which knows but {known})" in told
    )
    assert "Connections of redis are lost and refused by network_failure." in told

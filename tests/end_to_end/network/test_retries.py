"""Clients that try again try as often as they do when it really happens, and give up as then."""

from __future__ import annotations

import asyncio
import contextlib
import types

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import aiohttp
import pytest
import redis
import redis.asyncio
import redis.backoff
import redis.retry
import urllib3

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from tests.end_to_end.network import hostile
from tests.end_to_end.network.clients import Peer
from tests.end_to_end.network.clients import dynamodb
from tests.end_to_end.network.conftest import answer
from tests.end_to_end.network.hostile import Place
from tests.injecting import Inject


Lead = Callable[..., AbstractContextManager[Place]]
Tries = tuple[str, int]  # what came of it, and after how many tries

BUSY = {"busy": answer(b"busy", b"HTTP/1.1 503 Service Unavailable")}
TIMEOUT = 20.0  # seconds, in which a busy machine has answered
SHORT = 0.15  # seconds, for those that nobody answers

# The mood of a place, and what injects the same.
TROUBLES: dict[str, tuple[str, dict[str, Any]]] = {
    "refused": (hostile.REFUSE, {"mode": "refuse"}),
    "reset": (hostile.RESET, {"mode": "reset"}),
    "reset once": (hostile.RESET_ONCE, {"mode": "reset", "first": 1}),
    "no answer": (hostile.SILENT, {"mode": "timeout", "every": 2}),  # connecting, and that
    "status": ("busy", {"mode": "status", "status": 503, "body": "busy"}),
}


def result(action: Callable[[], object]) -> str:
    try:
        return str(action())
    except Exception as error:
        return type(error).__qualname__


def at_a_place_really(
    lead_to: Lead, trouble: str, tries: Callable[[int], Tries], speaks: str = "http"
) -> Tries:
    with lead_to(speaks, BUSY) as place:
        place.turn(TROUBLES[trouble][0])
        return tries(place.port)


def at_a_place_injected(
    lead_to: Lead, inject: Inject, trouble: str, tries: Callable[[int], Tries], speaks: str = "http"
) -> Tries:
    with (
        lead_to(speaks, BUSY) as place,
        inject(
            "network_failure", target=f"127.0.0.1:{place.port}", **TROUBLES[trouble][1]
        ) as failure,
    ):
        found = tries(place.port)
    assert failure.hits >= 1
    return found


class CountedRetry(urllib3.Retry):
    """Counts its own decisions.

    Attributes:
        failures: how many tries have failed.
    """

    failures = 0

    def increment(self, *args: Any, **kwargs: Any) -> Any:
        type(self).failures += 1
        return super().increment(*args, **kwargs)


def with_urllib3(method: str, port: int) -> Tries:
    CountedRetry.failures = 0
    retry = CountedRetry(3, status_forcelist=[503], allowed_methods=["GET"])
    with urllib3.PoolManager() as pool:
        found = result(
            lambda: (
                pool.request(
                    method, f"http://127.0.0.1:{port}/", retries=retry, timeout=TIMEOUT
                ).status
            )
        )
    return found, CountedRetry.failures


@pytest.mark.parametrize(
    ("method", "trouble", "expected"),
    [
        ("GET", "refused", ("MaxRetryError", 4)),
        ("GET", "reset", ("MaxRetryError", 4)),
        ("GET", "reset once", ("200", 1)),
        ("GET", "no answer", ("MaxRetryError", 4)),
        ("GET", "status", ("MaxRetryError", 4)),
        ("POST", "refused", ("MaxRetryError", 4)),  # nobody can have done it
        ("POST", "reset", ("ProtocolError", 1)),  # somebody may
        ("POST", "status", ("503", 0)),
    ],
)
def test_urllib3(method: str, trouble: str, expected: Tries, lead_to: Lead, inject: Inject) -> None:
    def tries(port: int) -> Tries:
        return with_urllib3(method, port)

    assert at_a_place_really(lead_to, trouble, tries) == expected
    assert at_a_place_injected(lead_to, inject, trouble, tries) == expected


@pytest.fixture(autouse=True)
def _patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long, but where waiting is the trouble."""
    case = getattr(request.node, "callspec", None)
    if case is not None and case.params.get("trouble") == "no answer":
        monkeypatch.setattr(request.module, "TIMEOUT", SHORT)


@pytest.fixture
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore pauses before it tries again, for up to seconds, by chance."""
    import botocore.endpoint

    instant = types.SimpleNamespace(sleep=lambda seconds: None)
    monkeypatch.setattr(botocore.endpoint, "time", instant)


def with_boto3(retries: dict[str, Any], port: int) -> Tries:
    tries = 0

    def count(**_: object) -> None:
        nonlocal tries
        tries += 1

    with dynamodb(Peer(port=port, timeout=TIMEOUT, connect_timeout=TIMEOUT), retries) as client:
        client.meta.events.register("before-send", count)
        found = result(lambda: client.list_tables()["TableNames"])
    return found, tries


@pytest.mark.usefixtures("_without_waiting")
@pytest.mark.parametrize("mode", ["legacy", "standard"])
@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        ("refused", ("EndpointConnectionError", 4)),
        ("reset", ("ConnectionClosedError", 4)),
        ("reset once", ("['teas']", 2)),
        ("no answer", ("ReadTimeoutError", 4)),
        ("status", ("ClientError", 4)),
    ],
)
def test_boto3(mode: str, trouble: str, expected: Tries, lead_to: Lead, inject: Inject) -> None:
    def tries(port: int) -> Tries:
        return with_boto3({"mode": mode, "total_max_attempts": 4}, port)

    assert at_a_place_really(lead_to, trouble, tries) == expected
    assert at_a_place_injected(lead_to, inject, trouble, tries) == expected


def with_aiohttp(method: str, port: int, trouble: AbstractContextManager[object]) -> str:
    """What a request on a connection that has served before comes to."""

    async def story() -> str:
        async with aiohttp.ClientSession() as session:

            async def ask(method: str) -> int:
                async with session.request(method, f"http://127.0.0.1:{port}/") as reply:
                    await reply.read()
                    return reply.status

            assert await ask("GET") == 200
            with trouble:
                try:
                    return str(await ask(method))
                except aiohttp.ClientError as error:
                    return type(error).__qualname__

    return asyncio.run(story())


@contextlib.contextmanager
def turned(place: Place, mood: str) -> Iterator[None]:
    place.turn(mood)
    yield


@contextlib.contextmanager
def counted(failure: AbstractContextManager[ActiveExperiment], counts: list[int]) -> Iterator[None]:
    with failure as active_experiment:
        yield
    counts.append(active_experiment.matched)


@pytest.mark.parametrize(
    ("method", "trouble", "expected", "tries"),
    [
        ("GET", "reset once", "200", 2),
        ("GET", "reset", "ClientOSError", 2),
        ("POST", "reset once", "ClientOSError", 1),
    ],
)
def test_aiohttp_repeats_what_can_be_repeated(  # noqa: PLR0917  # all by name
    method: str, trouble: str, expected: str, tries: int, lead_to: Lead, inject: Inject
) -> None:
    mood, parameters = TROUBLES[trouble]
    counts: list[int] = []
    with lead_to("http") as place:
        assert with_aiohttp(method, place.port, turned(place, mood)) == expected
        assert place.requests == 1 + tries
    with lead_to("http") as place:
        failure = inject("network_failure", target=f"127.0.0.1:{place.port}", **parameters)
        assert with_aiohttp(method, place.port, counted(failure, counts)) == expected
    assert counts == [tries]


class CountedBackoff(redis.backoff.NoBackoff):
    """Counts the pauses that it is asked for, which take no time.

    Attributes:
        asked: how often; of the class, as clients make copies for each of their connections.
    """

    asked = 0

    def compute(self, failures: int) -> float:
        type(self).asked += 1
        return super().compute(failures)


def with_redis(port: int) -> Tries:
    CountedBackoff.asked = 0
    with redis.Redis(
        "127.0.0.1",
        port,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=redis.retry.Retry(CountedBackoff(), 3),
    ) as client:
        found = result(lambda: client.echo("tea"))
    return found, CountedBackoff.asked


def with_redis_async(port: int) -> Tries:
    CountedBackoff.asked = 0

    async def story() -> object:
        async with redis.asyncio.Redis(
            host="127.0.0.1",
            port=port,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=redis.asyncio.retry.Retry(CountedBackoff(), 3),
        ) as client:
            return await client.echo("tea")

    return result(lambda: asyncio.run(story())), CountedBackoff.asked


@pytest.mark.parametrize("client", [with_redis, with_redis_async])
@pytest.mark.parametrize("trouble", ["refused", "reset", "reset once"])
def test_redis(client: Callable[[int], Tries], trouble: str, lead_to: Lead, inject: Inject) -> None:
    real = at_a_place_really(lead_to, trouble, client, "redis")
    assert real[0] == ("b'tea'" if trouble == "reset once" else "ConnectionError")
    assert real[1] >= 1
    assert at_a_place_injected(lead_to, inject, trouble, client, "redis") == real

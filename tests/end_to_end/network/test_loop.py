"""Beside a slow request of a client of asyncio, everything else in its loop goes on."""

from __future__ import annotations

import asyncio
import time

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import ExitStack
from contextlib import asynccontextmanager
from contextlib import contextmanager
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import psycopg  # noqa: F401  # which looks for libpq: before a loop would wait for it
import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.proxy import ChaosProxy
from tests.end_to_end.network.clients import BEHIND_PROXY
from tests.end_to_end.network.clients import EVERY
from tests.end_to_end.network.clients import AsyncAsk
from tests.end_to_end.network.clients import Client
from tests.end_to_end.network.clients import Peer
from tests.end_to_end.network.clients import everything_closed
from tests.end_to_end.network.clients import of_asyncio
from tests.end_to_end.network.hostile import Place
from tests.injecting import Inject
from tests.interceptors.conftest import Trust


Lead = Callable[..., AbstractContextManager[Place]]

DELAY = 20  # seconds
BEATS = 5
CLIENTS = [client for client in EVERY if client.in_loop is not None]


async def beside(client: Client, peer: Peer, slow: AbstractContextManager[ActiveExperiment]) -> int:
    """How often a heart has beaten beside a slow request, when that is answered.

    It is slow until the heart has beaten often enough, or for DELAY.
    """
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while beats < BEATS:
            await asyncio.sleep(0.001)
            beats += latency.hits > 0
        ending.close()

    assert client.in_loop is not None
    async with client.in_loop(peer) as ask:
        assert await ask() == "ok"
        with ExitStack() as ending:
            latency = ending.enter_context(slow)
            heart = asyncio.create_task(beat())
            assert await ask() == "ok"
            beaten = beats
            heart.cancel()
    await everything_closed()
    return beaten


@contextmanager
def slowly(
    client: Client, place: Place, inject: Inject
) -> Iterator[tuple[Peer, AbstractContextManager[ActiveExperiment]]]:
    """Whom to talk to, and what makes an answer late."""
    if client not in BEHIND_PROXY:
        target = f"127.0.0.1:{place.port}"
        yield Peer(port=place.port), inject("network_latency", target=target, delay=DELAY)
        return
    with ChaosProxy(("127.0.0.1", place.port)) as proxy:
        yield Peer(port=proxy.port), proxy.inject("network_latency", delay=DELAY)


def beats_beside(client: Client, place: Place, tls: Trust | None, inject: Inject) -> int:
    with slowly(client, place, inject) as (peer, slow):
        return asyncio.run(beside(client, replace(peer, tls=tls), slow))


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_heart_beats(client: Client, lead_to: Lead, inject: Inject) -> None:
    """In a loop that was made to wait, nothing would end the waiting."""
    with lead_to(client.speaks) as place:
        assert beats_beside(client, place, None, inject) == BEATS


@pytest.mark.parametrize(
    "client", [client for client in CLIENTS if client not in BEHIND_PROXY], ids=str
)
def test_a_heart_beats_above_tls(
    client: Client, lead_to: Lead, trust: Trust, inject: Inject
) -> None:
    with lead_to(client.speaks, None, trust) as place:
        assert beats_beside(client, place, trust, inject) == BEATS


@pytest.mark.may_block("to see that it is noticed")
def test_it_would_be_noticed() -> None:
    """The heart of a loop that waits does not beat."""

    @asynccontextmanager
    async def asleep(peer: Peer) -> AsyncIterator[AsyncAsk]:
        async def ask() -> str:
            time.sleep(0.1)  # noqa: ASYNC251  # what it must not do
            return "ok"

        yield ask

    client = of_asyncio("asleep", (), asleep)
    slow = SimpleNamespace(hits=1)
    assert asyncio.run(beside(client, Peer(port=1), nullcontext(slow))) == 0  # type: ignore[arg-type]

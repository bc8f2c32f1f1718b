"""Beside a slow request of a client of asyncio, everything else in its loop goes on."""

from __future__ import annotations

import asyncio
import time

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import asynccontextmanager
from contextlib import contextmanager
from contextlib import nullcontext
from typing import Any

import pytest

from pytest_resilience.proxy import ChaosProxy
from tests.network.clients import BEHIND_PROXY
from tests.network.clients import EVERY
from tests.network.clients import AsyncAsk
from tests.network.clients import Client
from tests.network.clients import Peer
from tests.network.clients import everything_closed
from tests.network.clients import of_asyncio
from tests.network.conftest import Inject
from tests.network.hostile import Place
from tests.seams.conftest import Trust


Lead = Callable[..., AbstractContextManager[Place]]

DELAY = 0.2  # seconds
BEAT = 0.002
CLIENTS = [client for client in EVERY if client.in_loop is not None]


async def beside(
    client: Client, peer: Peer, slow: AbstractContextManager[Any]
) -> tuple[float, float]:
    """How late a heart beat at worst beside a slow request, and how long that took, in seconds."""
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            due = time.monotonic() + BEAT
            await asyncio.sleep(BEAT)
            worst = max(worst, time.monotonic() - due)

    assert client.in_loop is not None
    async with client.in_loop(peer) as ask:
        assert await ask() == "ok"
        with slow:
            heart = asyncio.create_task(beat())
            await asyncio.sleep(0)
            started = time.monotonic()
            assert await ask() == "ok"
            took = time.monotonic() - started
            await asyncio.sleep(2 * BEAT)  # or nobody would know of the last beat
            heart.cancel()
    await everything_closed()
    return worst, took


@contextmanager
def slowly(client: Client, place: Place, inject: Inject) -> Iterator[tuple[Peer, Any]]:
    """Whom to talk to, and what makes an answer late."""
    if client not in BEHIND_PROXY:
        target = f"127.0.0.1:{place.port}"
        yield Peer(port=place.port), inject("network_latency", target=target, delay=DELAY)
        return
    with ChaosProxy(("127.0.0.1", place.port)) as proxy:
        yield Peer(port=proxy.port), proxy.inject("network_latency", delay=DELAY)


def a_heart_beats(client: Client, place: Place, tls: Trust | None, inject: Inject) -> bool:
    with slowly(client, place, inject) as (peer, slow):
        sealed = Peer(port=peer.port, tls=tls)
        worst, took = asyncio.run(beside(client, sealed, slow))
    assert took >= DELAY * 0.99
    return worst < DELAY / 2


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_heart_beats(client: Client, lead_to: Lead, inject: Inject) -> None:
    """A loop that was made to wait would be late by all of the delay, each time."""
    with lead_to(client.speaks) as place:
        assert any(a_heart_beats(client, place, None, inject) for _ in range(5))


@pytest.mark.parametrize(
    "client", [client for client in CLIENTS if client not in BEHIND_PROXY], ids=str
)
def test_a_heart_beats_above_tls(
    client: Client, lead_to: Lead, trust: Trust, inject: Inject
) -> None:
    with lead_to(client.speaks, None, trust) as place:
        assert any(a_heart_beats(client, place, trust, inject) for _ in range(5))


def test_it_would_be_noticed(lead_to: Lead) -> None:
    """The heart of a loop that waits stops for all of the delay."""

    @asynccontextmanager
    async def asleep(peer: Peer) -> AsyncIterator[AsyncAsk]:
        async def ask() -> str:
            time.sleep(DELAY)  # noqa: ASYNC251  # what it must not do
            return "ok"

        yield ask

    client = of_asyncio("asleep", (), asleep)
    worst, _ = asyncio.run(beside(client, Peer(port=1), nullcontext()))
    assert worst > DELAY / 2

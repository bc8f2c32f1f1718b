"""The place of a fault is where the user's code waits for what it happens to."""

from __future__ import annotations

import asyncio
import contextlib

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from pytest_resilience import Event
from pytest_resilience import FaultInjected
from pytest_resilience.runtime import Runtime
from tests.end_to_end.network.clients import BEHIND_PROXY
from tests.end_to_end.network.clients import EVERY
from tests.end_to_end.network.clients import AsyncAsk
from tests.end_to_end.network.clients import Client
from tests.end_to_end.network.clients import Peer
from tests.end_to_end.network.clients import everything_closed
from tests.end_to_end.network.hostile import Place
from tests.injecting import Inject
from tests.interceptors.conftest import Trust


Lead = Callable[..., AbstractContextManager[Place]]

REACHED = [client for client in EVERY if client not in BEHIND_PROXY]
IN_LOOP = [client for client in REACHED if client.in_loop is not None]


@pytest.fixture
def places(runtime: Runtime) -> Iterator[list[str]]:
    heard: list[str] = []

    def note(event: Event) -> None:
        assert isinstance(event, FaultInjected)
        heard.append(f"{event.kind} {event.place}")

    remove = runtime.engine.listeners.add(note)
    yield heard
    remove()


def elsewhere(places: list[str], opened: Any) -> list[str]:
    """Those that are not where a client asks, which is in a function within this one."""
    within = opened.__wrapped__.__code__.co_consts
    [code] = [each for each in within if getattr(each, "co_name", "") in {"ask", "get"}][:1]
    lines = {line for _, _, line in code.co_lines()}
    right = {f"{code.co_filename}:{line} in {code.co_name}" for line in lines}
    return [each for each in places if each.partition(" ")[2] not in right]


async def story(client: Client, peer: Peer, slow: AbstractContextManager[object]) -> None:
    """Two requests at a time, one after the other, and somebody beside them."""
    assert client.in_loop is not None
    over = asyncio.Event()

    async def bystander() -> None:
        await over.wait()

    beside = asyncio.create_task(bystander())
    async with client.in_loop(peer) as one, client.in_loop(peer) as other:
        with slow:
            await asyncio.gather(twice(one), twice(other))
            over.set()
            await beside
    await everything_closed()


async def twice(ask: AsyncAsk) -> None:
    await ask()
    await asyncio.sleep(0)
    await ask()


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, trust: Trust) -> Trust | None:
    return trust if request.param == "tls" else None


@pytest.mark.parametrize("client", IN_LOOP, ids=str)
def test_in_a_loop(
    client: Client, tls: Trust | None, lead_to: Lead, inject: Inject, places: list[str]
) -> None:
    with lead_to(client.speaks, None, tls) as place:
        peer = Peer(host="127.0.0.1" if tls else "localhost", port=place.port, tls=tls)
        slow = inject("network_latency", target=f"*:{place.port}", delay=0.002)
        asyncio.run(story(client, peer, slow))
    assert len(places) >= 4
    assert not elsewhere(places, client.in_loop)


@pytest.mark.parametrize(
    "client", [client for client in REACHED if client.in_loop is None], ids=str
)
def test_elsewhere(client: Client, lead_to: Lead, inject: Inject, places: list[str]) -> None:
    with (
        lead_to(client.speaks) as place,
        client.opened(Peer(host="localhost", port=place.port)) as ask,
        inject("network_latency", target=f"*:{place.port}", delay=0.002),
    ):
        ask()
    # One hears in a thread of its own; what that awaited before is told where it was asked for.
    unknown = {"network.receive "} if client.name == "websockets.sync" else set()
    assert len(places) >= 2
    assert set(elsewhere(places, client.opened)) <= unknown


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("network_latency", {"mode": "slow_dns", "delay": 0.001}),
        ("network_failure", {"mode": "dns"}),
    ],
    ids=["slow_dns", "dns"],
)
@pytest.mark.parametrize("client", IN_LOOP, ids=str)
def test_of_a_name_that_another_thread_resolves(  # noqa: PLR0917  # all by name
    client: Client,
    kind: str,
    parameters: dict[str, Any],
    lead_to: Lead,
    inject: Inject,
    places: list[str],
) -> None:
    slow = inject(kind, target="localhost", **parameters)
    with lead_to(client.speaks) as place, contextlib.suppress(Exception):
        peer = Peer(host="localhost", port=place.port)
        asyncio.run(story(client, peer, slow))
    assert places
    assert not elsewhere(places, client.in_loop)

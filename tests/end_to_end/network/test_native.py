"""What clients in C meet in this process by an experiment alone, and what for real."""

from __future__ import annotations

import importlib.util

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest

from pytest_resilience.native.loader_tables import unsupported
from tests.end_to_end.network.clients import Client
from tests.end_to_end.network.clients import Peer
from tests.end_to_end.network.hostile import Place
from tests.end_to_end.network.native_clients import CONFLUENT
from tests.end_to_end.network.native_clients import MYSQLCLIENT
from tests.end_to_end.network.native_clients import NATIVE
from tests.end_to_end.network.native_clients import NATIVE_HTTP
from tests.end_to_end.network.native_clients import PYMSSQL
from tests.end_to_end.network.test_fidelity import OF_HTTP
from tests.end_to_end.network.test_fidelity import OF_MYSQL
from tests.end_to_end.network.test_fidelity import OF_OTHERS
from tests.end_to_end.network.test_fidelity import OF_SERVICES
from tests.end_to_end.network.test_fidelity import SEALED
from tests.end_to_end.network.test_fidelity import Event
from tests.end_to_end.network.test_fidelity import Tell
from tests.end_to_end.network.test_fidelity import outcome
from tests.end_to_end.network.test_fidelity import place_of
from tests.end_to_end.network.test_fidelity import story
from tests.end_to_end.network.test_fidelity import treated
from tests.end_to_end.network.test_fidelity import warm_up
from tests.fidelity_page import Section
from tests.injecting import Inject
from tests.interceptors.conftest import Trust
from tests.waiting import side_by_side


pytestmark = pytest.mark.skipif(bool(unsupported()), reason=unsupported())

Lead = Callable[..., AbstractContextManager[Place]]

_MODULES = {"mysqlclient": "MySQLdb", "psycopg2-binary": "psycopg2", "grpcio": "grpc"}
# In TLS they are cut within a record, and really between two.
_CUT = {"half a body, TLS", "reset within a body, TLS"}
# A status is written by whom the bytes pass, who cannot where they are encrypted.
_OF_HTTP = {
    name: event
    for name, event in (OF_HTTP | SEALED).items()
    if name not in {"malformed JSON", "status 503, TLS", "no end", *_CUT}
}
_LEFT_OUT = {
    "uvloop": set(SEALED),  # it would be one more client
}


def events_of(client: Client) -> dict[str, Event]:
    if client is MYSQLCLIENT:
        return OF_MYSQL
    if client in {PYMSSQL, CONFLUENT}:
        return OF_SERVICES
    if client in NATIVE_HTTP:
        without = _LEFT_OUT.get(client.name, set())
        return {name: event for name, event in _OF_HTTP.items() if name not in without}
    # libpq has a timeout for connecting only, of two seconds at least; one driver is enough.
    waits = {"psycopg, in this process": {"no answer"}, "grpc.aio": {"no answer"}}.get(
        client.name, {"no answer", "not connected"}
    )
    return {name: event for name, event in OF_OTHERS.items() if name not in waits}


def is_here(client: Client) -> bool:
    return all(
        importlib.util.find_spec(_MODULES.get(name, name.replace("-", "_")))
        for name in client.libraries
    )


def case(client: Client, *more: str, id: str) -> Any:  # noqa: A002
    return pytest.param(
        client,
        *more,
        id=id,
        marks=[
            pytest.mark.skipif(not is_here(client), reason=f"{client} is not installed"),
            *(pytest.mark.filterwarnings(each) for each in client.warns),
        ],
    )


def waiting(client: Client) -> list[str]:
    """What can be waited for at once: FreeTDS has the same timeouts for all of a process."""
    names = [name for name, event in events_of(client).items() if event.waits]
    return [] if client is PYMSSQL else names


@pytest.fixture
def really(lead_to: Lead, trust: Trust) -> Tell:
    """The story of a client to whom it really happens."""

    def told(client: Client, name: str) -> str:
        event = events_of(client)[name]
        with place_of(client, name, event, lead_to, trust) as (place, peer):
            return story(client, peer, event, treated(place, event.mood))

    return told


@pytest.fixture
def injected(lead_to: Lead, trust: Trust, inject: Inject) -> Tell:
    """The story of a client into which it is injected."""

    def told(client: Client, name: str) -> str:
        event = events_of(client)[name]
        with place_of(client, name, event, lead_to, trust) as (_, peer):
            here = f"{peer.host}:{peer.port}"
            # A connection is reached that was made during an experiment, such as one that hits
            # nothing.
            with inject("network_latency", delay="1ms", probability=1, target=here, every=10**6):
                return story(client, peer, event, inject(event.kind, **event.aimed_at(peer)))

    return told


def note(client: Client, name: str, met: str, real: str) -> None:
    section = Section(
        title=client.name, events=tuple(events_of(client)), libraries=client.libraries
    )
    section.note(name, met, real)


@pytest.mark.parametrize(
    ("client", "name"),
    [
        case(client, name, id=f"{client}: {name}")
        for client in NATIVE
        for name in events_of(client)
        if name not in waiting(client)
    ],
)
def test_it_is_what_really_happens(client: Client, name: str, really: Tell, injected: Tell) -> None:
    real = really(client, name)
    note(client, name, injected(client, name), real)


@pytest.mark.parametrize(
    "client", [case(client, id=str(client)) for client in NATIVE if waiting(client)]
)
def test_waiting_is_what_really_happens(
    client: Client, lead_to: Lead, really: Tell, injected: Tell
) -> None:
    """First all that are real, while nothing is intercepted."""
    warm_up(client, lead_to)
    names = waiting(client)
    real = side_by_side(partial(really, client, name) for name in names)
    met = side_by_side(partial(injected, client, name) for name in names)
    for row in zip(names, met, real, strict=True):
        note(client, *row)


# Others have a resolver of their own: gRPC, and what curl_cffi is made of.
@pytest.mark.parametrize(
    "client", [each for each in NATIVE_HTTP if is_here(each) and each.name != "curl_cffi"], ids=str
)
def test_names_are_not_found(client: Client, lead_to: Lead, inject: Inject) -> None:
    with lead_to(client.speaks) as place:
        peer = Peer(host="nobody.invalid", port=place.port)
        aimed = {"mode": "dns_not_found", "target": f"nobody.invalid:{place.port}"}
        with client.opened(peer) as ask, inject("network_failure", **aimed) as lost:
            met = outcome(ask)
    assert met != "ok"
    assert lost.hits

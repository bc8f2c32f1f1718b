"""What clients in C meet in this process by an experiment alone, and what for real."""

from __future__ import annotations

import importlib.util

from collections.abc import Callable
from contextlib import AbstractContextManager

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
from tests.end_to_end.network.test_fidelity import outcome
from tests.end_to_end.network.test_fidelity import peer_of
from tests.end_to_end.network.test_fidelity import story
from tests.end_to_end.network.test_fidelity import treated
from tests.fidelity_page import Section
from tests.injecting import Inject
from tests.interceptors.conftest import Trust


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


CASES = [
    pytest.param(
        client,
        name,
        id=f"{client}: {name}",
        marks=[
            pytest.mark.skipif(not is_here(client), reason=f"{client} is not installed"),
            *(pytest.mark.filterwarnings(each) for each in client.warns),
        ],
    )
    for client in NATIVE
    for name in events_of(client)
]


@pytest.mark.parametrize(("client", "name"), CASES)
def test_it_is_what_really_happens(
    client: Client, name: str, lead_to: Lead, trust: Trust, inject: Inject
) -> None:
    event = events_of(client)[name]
    tls = trust if name.endswith(", TLS") else None
    with lead_to(client.speaks, event.answers, tls) as place:
        peer = peer_of(place, event, tls)
        real = story(client, peer, event, treated(place, event.mood))
    with lead_to(client.speaks, event.answers, tls) as place:
        peer = peer_of(place, event, tls)
        here = f"{peer.host}:{peer.port}"
        # A connection is reached that was made during an experiment, such as one that hits nothing.
        with inject("network_latency", delay="1ms", probability=1, target=here, every=10**6):
            met = story(client, peer, event, inject(event.kind, **event.aimed_at(peer)))
    section = Section(
        title=client.name, events=tuple(events_of(client)), libraries=client.libraries
    )
    section.note(name, met, real)


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

"""What clients do while nothing is injected is noted, of every kind that could be hit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.runtime import Runtime
from tests.end_to_end.network.clients import BEHIND_PROXY
from tests.end_to_end.network.clients import HTTP
from tests.end_to_end.network.clients import OTHERS
from tests.end_to_end.network.clients import Client
from tests.end_to_end.network.clients import Peer
from tests.end_to_end.network.hostile import Place
from tests.interceptors.conftest import Trust


Lead = Callable[..., AbstractContextManager[Place]]

MODES = {
    "network_failure": (
        *("refuse", "reset", "timeout", "dns", "dns_not_found", "partition", "lose_answer"),
        *("truncate", "corrupt", "status", "malformed_json"),
    ),
    "network_latency": ("round_trip", "slow_close", "slow_dns", "bandwidth", "dribble"),
}
NETWORK = [
    ChaosExperiment(f"{kind} {mode}", kind, mode=mode)  # type: ignore[call-overload]
    for kind, modes in MODES.items()
    for mode in modes
]
OF_HTTP = {"network_failure status", "network_failure malformed_json"}
OTHER = [ChaosExperiment("files", "disk_failure"), ChaosExperiment("rows", "database_failure")]

TALKING = frozenset({SEND, RECEIVE, CLOSE, HANDSHAKE})


class RecorderOfPlace(Recorder):
    """Of one place: what leads there has connections of its own."""

    def __init__(self, port: int) -> None:
        super().__init__([*NETWORK, *OTHER])
        self._port = str(port)

    def note(self, operation: Operation, *, again: bool = False) -> None:
        if operation.target.rpartition(":")[2] == self._port:
            super().note(operation, again=again)


def watched(runtime: Runtime, port: int, ask: Callable[[], object]) -> set[str]:
    """The experiments that could hit what `ask` does."""
    recorder = RecorderOfPlace(port)
    with runtime.engine.recording(recorder), runtime.engine.recording_test():
        ask()
    assert runtime.engine.recorder is None
    return {each.name for each in [*NETWORK, *OTHER] if recorder.could_hit(each)}


def about(kinds: frozenset[str]) -> set[str]:
    return {each.name for each in NETWORK if each.kinds & kinds}


@pytest.mark.parametrize(
    ("client", "sealed"),
    [
        pytest.param(client, sealed, id=f"{client}-{'tls' if sealed else 'plain'}")
        for client in HTTP + OTHERS
        for sealed in (False, True)
        if not (sealed and client.speaks == "mysql")  # whose server here speaks no TLS
    ],
)
def test_a_client_that_connects_and_one_that_is_connected(
    client: Client, sealed: bool, lead_to: Lead, trust: Trust, runtime: Runtime
) -> None:
    tls = trust if sealed else None
    with (
        lead_to(client.speaks, None, tls) as place,
        client.opened(Peer(port=place.port, tls=tls)) as ask,
    ):
        first = watched(runtime, place.port, ask)
        second = watched(runtime, place.port, ask)
    # Nobody is answered in HTTP who does not speak it, unless TLS hides that.
    if client in HTTP:
        assert first >= OF_HTTP <= second
    assert first | OF_HTTP == about(TALKING | {CONNECT})
    assert second | OF_HTTP in (first | OF_HTTP, about(TALKING))  # some connect each time


def test_a_name_that_is_resolved(lead_to: Lead, runtime: Runtime) -> None:
    [client] = [each for each in HTTP if each.name == "requests"]
    with (
        lead_to(client.speaks) as place,
        client.opened(Peer(host="localhost", port=place.port)) as ask,
    ):
        assert watched(runtime, place.port, ask) == about(TALKING | {CONNECT, RESOLVE})


@pytest.mark.parametrize("client", BEHIND_PROXY, ids=str)
def test_of_a_client_in_c_everything_is_taken_for_done_once_it_connects(
    client: Client, lead_to: Lead, runtime: Runtime
) -> None:
    with lead_to(client.speaks) as place:

        def connect() -> None:
            with client.opened(Peer(port=place.port)) as ask:
                assert ask() == "ok"

        found = watched(runtime, place.port, connect)
    assert found == {each.name for each in NETWORK}


def test_nothing_is_noted_of_who_does_nothing(runtime: Runtime) -> None:
    assert watched(runtime, 80, lambda: None) == set()

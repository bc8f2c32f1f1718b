"""When clients in C are reached, and when they are left alone."""

from __future__ import annotations

import os
import socket
import sys

from collections.abc import Iterator
from collections.abc import Mapping
from importlib.machinery import ExtensionFileLoader
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.native.loader_tables import unsupported
from pytest_resilience.native.slots import all_slots
from pytest_resilience.runtime import new_engine
from tests.injecting import Inject
from tests.injecting import injecting
from tests.interceptors.conftest import echo
from tests.interceptors.conftest import serve
from tests.native.conftest import Client


NOWHERE = ("127.0.0.1", 9)


def refused(client: Client) -> None:
    with pytest.raises(ConnectionRefusedError):
        client.connect(*NOWHERE)


def taken() -> int:
    return sum(place.taken for place in all_slots()._known)


@pytest.mark.parametrize("kind", ["network_latency", "network_failure"])
def test_nothing_is_taken_but_for_an_experiment_of_the_network(
    kind: str, client: Client, inject: Inject
) -> None:
    loading = vars(ExtensionFileLoader)["create_module"]
    for other in ("cpu_stress:load=0.01,cores=1", "disk_failure:mode=eio,path=**/nothing"):
        name, _, parameters = other.partition(":")
        with inject(name, **dict(each.split("=") for each in parameters.split(","))):
            assert taken() == 0
    with inject(kind):
        assert taken() > 0
        assert vars(ExtensionFileLoader)["create_module"] is not loading
    assert taken() == 0
    assert vars(ExtensionFileLoader)["create_module"] is loading
    refused(client)


def test_what_may_be_hit_later_is_led_through_us_from_the_beginning(
    client: Client, engine: Engine, inject: Inject
) -> None:
    with serve(echo) as port:
        here = ChaosExperiment("x", "network_failure", mode="reset", target=f"127.0.0.1:{port}")
        engine.watch(True, expected=[here])
        assert taken() > 0
        client.connect("127.0.0.1", port)
        assert client.ask(b"tea") == b"tea"
        with inject("network_failure", mode="reset", rate=1) as reset:
            pass  # what has begun and ended leaves it as it is
        assert taken() > 0
        with inject("network_failure", mode="reset", rate=1) as reset, pytest.raises(OSError):
            client.ask(b"tea")
        assert (reset.matched, reset.hits) == (1, 1)
    engine.watch(False)
    assert taken() == 0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("network_latency", {"target": "127.0.0.9"}),
        ("network_failure", {"mode": "refuse"}),
        ("database_slowdown", {}),
    ],
    ids=["elsewhere", "connects", "databases"],
)
def test_what_nothing_can_hit_later_is_left_alone(
    name: str, parameters: Mapping[str, Any], client: Client, engine: Engine, inject: Inject
) -> None:
    engine.watch(True, expected=[ChaosExperiment("x", name, **parameters)])
    with serve(echo) as port:
        client.connect("127.0.0.1", port)
        with inject("network_latency", delay="1ms") as late:
            assert client.ask(b"tea") == b"tea"
    assert late.matched == 0


def test_it_can_be_switched_off(client: Client) -> None:
    engine = new_engine(native=False)
    with injecting(engine.start)("network_failure", mode="reset", rate=1) as experiment:
        assert taken() == 0
        refused(client)
    assert experiment.matched == 0
    told = str(never_fired(experiment))
    assert "What clients in C do is not seen: chaos_native is false." in told


def test_that_it_is_off_is_said_only_where_it_matters(client: Client) -> None:
    engine = new_engine(native=False)
    start = injecting(engine.start)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        start("network_failure", mode="refuse", rate=1, target="127.0.0.1:1") as elsewhere,
    ):
        socket.create_connection(server.getsockname()).close()
    with start("disk_failure", mode="disk_full", path="**/nothing") as of_disks:
        refused(client)
    with injecting(new_engine().start)("network_failure", mode="reset", rate=1) as on:
        pass
    for each in (elsewhere, of_disks, on):
        assert "clients in C" not in str(never_fired(each))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    unsupported.cache_clear()
    yield
    monkeypatch.undo()
    unsupported.cache_clear()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("what", ["platform", "machine", "library"])
def test_elsewhere_it_is_said_and_the_run_goes_on(
    what: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    psycopg2 = pytest.importorskip("psycopg2")
    if what == "platform":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif what == "machine":
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    else:
        monkeypatch.setattr(os, "confstr", lambda _: None)
    reason = unsupported()
    assert "cannot be reached in this process" in reason
    engine = new_engine()
    running = engine.start(ChaosExperiment("x", "network_latency", delay="1ms"), seed=1)
    assert taken() == 0
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect("host=127.0.0.1 port=9 dbname=x")
    running.stop()
    assert reason in str(never_fired(running))

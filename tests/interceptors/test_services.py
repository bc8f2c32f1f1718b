"""Operations that the code under test names itself."""

from __future__ import annotations

import socket

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import DatabaseSimulator
from pytest_resilience import ManualClock
from pytest_resilience import NetworkSimulator
from pytest_resilience import ServiceFailureError
from pytest_resilience import ServiceFailureSimulator
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.interceptors.services import SimulatorInterceptor
from tests.injecting import ending


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(clock: ManualClock) -> Iterator[Engine]:
    engine = Engine(lambda engine: [SimulatorInterceptor(engine)], clock=clock)
    engine.services.add(Service.at("inventory", ["shop:check"]))
    engine.services.add(Service.at("prices", ["prices.internal"]))
    with ending(engine):
        yield engine


def start(engine: Engine, kind: str, **parameters: Any) -> ActiveExperiment:
    return engine.start(ChaosExperiment(kind, kind, intensity=1, **parameters), seed=1)


def request(response: str = "ok") -> str:
    return NetworkSimulator.simulate_request(lambda: response)


def test_an_answer_that_does_not_come_is_not_lost(engine: Engine) -> None:
    lost = start(engine, "network_failure", mode="lose_answer")
    with pytest.raises(ZeroDivisionError):
        NetworkSimulator.simulate_request(lambda: 1 / 0)
    assert (lost.matched, lost.hits) == (1, 0)
    with pytest.raises(ConnectionResetError):
        request()
    assert lost.hits == 1


@pytest.mark.parametrize(
    ("mode", "error", "number"),
    [
        ("refuse", ConnectionRefusedError, 111),
        ("reset", ConnectionResetError, 104),
        ("dns", socket.gaierror, socket.EAI_AGAIN),
        ("timeout", TimeoutError, 110),
    ],
)
def test_requests_fail(engine: Engine, mode: str, error: type[OSError], number: int) -> None:
    nth = 3 if mode == "timeout" else 2  # silence can happen to each connect and each answer
    active_experiment = start(engine, "network_failure", mode=mode, nth=nth, duration=5)
    assert request() == "ok"
    with pytest.raises(error) as caught:
        request()
    assert caught.value.errno == number
    assert active_experiment.hits == 1
    active_experiment.stop()
    assert request() == "ok"


def test_requests_are_delayed_once(engine: Engine, clock: ManualClock) -> None:
    active_experiment = start(engine, "network_latency", delay=3)
    assert request() == "ok"
    assert clock.monotonic() == pytest.approx(3)
    assert active_experiment.hits == 1
    assert active_experiment.delay == pytest.approx(3)


def test_requests_to_a_peer_with_a_name(engine: Engine) -> None:
    start(engine, "network_failure", target="prices.internal:443")
    assert NetworkSimulator.request_to("prices.internal:80", int) == 0
    for name in ("prices.internal", "prices.internal:443"):
        with pytest.raises(ConnectionRefusedError):
            NetworkSimulator.request_to(name, int)


def test_services_fail(engine: Engine) -> None:
    start(engine, "service_failure", target_services=["inventory"])
    assert ServiceFailureSimulator.simulate_service_call("payment", max, 1, 2) == 2
    with pytest.raises(ServiceFailureError, match="inventory"):
        ServiceFailureSimulator.simulate_service_call("inventory", max, 1, 2)


def test_statements_are_delayed(engine: Engine, clock: ManualClock) -> None:
    start(engine, "database_slowdown")
    assert DatabaseSimulator.simulate_query(lambda: [1]) == [1]
    assert clock.monotonic() == pytest.approx(5)


def test_without_experiments_they_only_call() -> None:
    def identity(value: int, *, more: int = 0) -> int:
        return value + more

    assert NetworkSimulator.simulate_request(identity, 1, more=2) == 3
    assert ServiceFailureSimulator.simulate_service_call("any", identity, 1, more=2) == 3
    assert DatabaseSimulator.simulate_query(identity, 1, more=2) == 3


def test_a_response_that_is_lost_or_replaced(engine: Engine) -> None:
    calls: list[str] = []
    lost = start(engine, "network_failure", mode="lose_answer")
    with pytest.raises(ConnectionResetError):
        NetworkSimulator.simulate_request(calls.append, "done")
    assert calls == ["done"]
    lost.stop()
    start(engine, "service_failure", target_services=["prices"], status=503)
    with pytest.raises(ConnectionError, match=r"prices\.internal failed: status 503"):
        NetworkSimulator.request_to("prices.internal", calls.append, "not asked for")
    assert calls == ["done"]

"""A user's tests, for mypy and pyright to read in their strict modes. Nobody runs it.

Where something must be refused, the line has a comment that ignores the complaint, and one that
ignores nothing is a complaint itself.
"""

from __future__ import annotations

import asyncio

from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import assert_type

import pytest

from pytest_resilience import BreakerFactory
from pytest_resilience import BulkheadManager
from pytest_resilience import Chaos
from pytest_resilience import ChaosExperiment
from pytest_resilience import ChaosMonkey
from pytest_resilience import ChaosProxy
from pytest_resilience import ChaosResponses
from pytest_resilience import ChaosType
from pytest_resilience import CircuitBreaker
from pytest_resilience import DegradationManager
from pytest_resilience import ManualClock
from pytest_resilience import PostgresChaos
from pytest_resilience import ProxyFactory
from pytest_resilience import RetryFactory
from pytest_resilience import RetryHandler
from pytest_resilience import RetryTesting
from pytest_resilience import SqliteChaos
from pytest_resilience import Stub
from pytest_resilience import StubRequest
from pytest_resilience import StubResponse
from pytest_resilience import StubServer
from pytest_resilience import mark


@pytest.mark.chaos("network_failure", mode="refuse", first=2)
def test_all_that_a_test_can_ask_for(chaos: Chaos) -> None:
    with chaos.network_failure(mode="reset", target="api:443", path="/v1/*", first=2) as outage:
        assert_type(outage.hits, int)
    with chaos.network_failure(mode="status", status=429, retry_after=2, headers={"x-shard": "7"}):
        pass
    with chaos.network_latency(delay="200ms", jitter=0.1, between=(1, "3s"), must_fire=False):
        pass
    with chaos.service_failure("payment", "stock", exception=TimeoutError, rate="30%"):
        pass
    with chaos.database_failure(after="commit", match="INSERT*", nth=1):
        pass
    with chaos.database_slowdown(at="execute|commit", intensity=0.5):
        pass
    with chaos.disk_failure(mode="torn_write", path=Path("data/config.json"), bytes_written="4KiB"):
        pass
    with chaos.cpu_stress(load=0.8, cores=2), chaos.memory_stress(size="10%"):
        pass
    with chaos.disk_stress(fill=True), chaos.fd_exhaustion(leave=0), chaos.thread_exhaustion():
        pass
    with chaos.inject("network_failure", mode="reset", path="/v1/*", first=2) as by_name:
        assert_type(by_name.hits, int)
    with chaos.inject(ChaosType.DISK_FAILURE, mode="torn_write", path=Path("data/config.json")):
        pass
    with chaos.inject("service_failure", target_services="payment", must_fire=False):
        pass
    parameters: dict[str, Any] = {"loudness": 11}
    with chaos.inject(ChaosExperiment("loud", "a type of another plugin", **parameters)):
        pass
    with chaos.inject(ChaosExperiment("slow", "network_latency", 0.3, "30s", delay="200ms", nth=1)):
        pass
    with chaos.inject(ChaosExperiment(name="", chaos_type=ChaosType.DISK_FAILURE, mode="EIO")):
        pass
    with chaos.inject("a type of another plugin", intensity=0.5):
        pass
    assert [event.kind for event in chaos.events] == ["network.receive"]


async def test_async(chaos: Chaos) -> None:
    async with chaos.network_failure(mode="timeout", name="silent", duration="5s", children=False):
        await asyncio.sleep(0)


def test_what_is_misspelt(chaos: Chaos, tmp_path: Path) -> None:
    chaos.network_failure(mode="refuze")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.network_latency(delya="200ms")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    chaos.network_latency(mode="reset")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.network_failure("reset")  # type: ignore[call-arg, arg-type] # pyright: ignore[reportCallIssue]
    chaos.network_failure(first="two")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.network_failure(stream="up")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.network_failure(must_fire="no")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.database_failure(mode="full")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.database_failure(after="rollback")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.disk_failure(mode="disk-full")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.cpu_stress(engine="stress_ng")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.memory_stress(mode="exhaust")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.service_failure("payment", exception=TimeoutError())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    chaos.thread_exhaustion(leave=3)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    chaos.inject("network_failure", mode="refuze")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    chaos.inject("network_latency", delya="200ms")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    chaos.inject(ChaosType.NETWORK_LATENCY, mode="reset")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    chaos.inject("service_failure", mode="refuse")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    ChaosExperiment("slow", "network_latency", dealy="1s")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    ChaosExperiment("away", ChaosType.NETWORK_FAILURE, mode="refuze")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    ChaosExperiment("away", "network_failure", duration="5s", load=1)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
    chaos.network_lateness()  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


pytestmark = [mark.no_virtual_time, mark.chaos("network_latency", delay="200ms", must_fire=False)]


@mark.chaos("network_failure", mode="refuse", first=2, include_setup=True)
@mark.chaos(ChaosExperiment("slow", "network_latency", 1.0), must_fire=False)
@mark.resilience(allowed=[TimeoutError], deadline="5s", own_chaos=True)
@mark.virtual_time(start="2030-01-01T00:00Z", schedule="seeded")
def test_marked(tmp_path: Path) -> int:
    return len(tmp_path.parts)


@mark.no_chaos
@mark.chaos_explore(faults=["refuse"], depth=1, invariant=test_marked, max_calls="4x", budget="30s")
@mark.chaos_replay("connect(payments:443)#1=refuse")
class TestMarked:
    @pytest.mark.parametrize("count", [1, pytest.param(2, marks=mark.chaos("cpu_stress"))])
    @mark.chaos("service_failure", target_services=["payment", "stock"], exception=TimeoutError)
    async def test_method(self, count: int) -> None:
        assert_type(test_marked(Path(str(count))), int)


mark.chaos("network_failure", mode="refuze")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
mark.chaos("network_latency", delya="200ms")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
mark.chaos("network_failure", first=1, must_fire="no")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
mark.chaos("service_failure", mode="refuse")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
mark.resilience(alowed=[TimeoutError])  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
mark.virtual_time(schedule="random")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
mark.chaos_explore(fault=["refuse"])  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
mark.chaos_expl()  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def test_a_proxy(chaos_proxy: ProxyFactory) -> None:
    proxy = chaos_proxy("127.0.0.1:5432", protocol="tcp")
    assert_type(proxy, ChaosProxy)
    with proxy.inject("network_failure", mode="reset", first=1) as experiment:
        assert_type(experiment.hits, int)
    with proxy.inject("network_latency:delay=100ms,stream=upstream"):
        pass
    with proxy.inject(ChaosType.NETWORK_LATENCY, delay="1s", stream="both", must_fire=False):
        pass
    with proxy.inject(ChaosExperiment("far", "network_latency"), stream="upstream"):
        pass
    proxy.inject("network_failure", mode="refuze")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    proxy.inject("network_latency", delya="1s")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    proxy.inject("disk_failure", mode="io_error")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    chaos_proxy("127.0.0.1:53", protocol="upd")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_other_fixtures(
    chaos_monkey: ChaosMonkey,
    chaos_responses: ChaosResponses,
    sqlite_chaos: SqliteChaos,
    postgres_chaos: Callable[[str], PostgresChaos],
    tmp_path: Path,
) -> None:
    with sqlite_chaos.locked(tmp_path / "shop.db"), postgres_chaos("postgresql://").read_only():
        pass
    chaos_responses.get("https://shop.example/", chaos="network_failure:mode=reset")
    assert not chaos_monkey.running


def echo(request: StubRequest) -> StubResponse:
    return StubResponse(body=request.body, status=201)


def test_a_server(stub_server: StubServer) -> None:
    tea = stub_server.respond("/tea", json={"price": 4}, delay="10ms")
    assert_type(tea, Stub)
    assert_type(tea.requests, list[StubRequest])
    stub_server.stream("/lines", ["one", b"two"])
    stub_server.respond_with("/echo", echo, method="POST")
    stub_server.respond("/tea", staus=503)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def test_patterns(
    circuit_breaker: BreakerFactory,
    retry_handler: RetryFactory,
    retry_testing: Callable[..., RetryTesting],
    manual_clock: ManualClock,
) -> None:
    breaker = circuit_breaker(failure_threshold=3, timeout=30, name="prices")
    assert_type(breaker, CircuitBreaker)
    assert_type(retry_handler(max_attempts=5, jitter="full"), RetryHandler)
    circuit_breaker(failure_treshold=3)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    retry_handler(jitter="some")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    manual_clock.advance(1.5)
    retry_testing(attempts=1)


def test_managers(
    bulkhead_manager: BulkheadManager, degradation_manager: DegradationManager
) -> None:
    assert_type(bulkhead_manager.get_all_stats(), dict[str, dict[str, Any]])
    assert_type(degradation_manager.get_service_status(), dict[str, Any])

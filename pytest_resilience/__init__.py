"""Prove in an ordinary pytest suite that code survives failures.

How the package is laid out, and what may import what (downwards only):

    plugin                       pytest, and only there
    chaostoolkit                 experiments of Chaos Toolkit, run by its own library
    report, assertions           events and states, read and judged
    runtime                      experiments in this process, with every interceptor there is
    interceptors, stress, proxy  faults in this process; load on the machine; faults on the wire
    chaos                        decides which operation meets which fault
    virtual_time                 time that passes only while everybody waits
    http_middleware              breakers of hosts, inside of HTTP clients
    patterns                     protects code: breaker, retry, bulkhead, degradation
    errors, events, clock, seeds

`chaos` and `patterns` never see each other: they meet in the user's code.
Nothing is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING
from typing import Any


if TYPE_CHECKING:
    from pytest_resilience.chaos.engine import FaultInjected as FaultInjected
    from pytest_resilience.chaos.experiment import ChaosExperiment as ChaosExperiment
    from pytest_resilience.chaos.experiment import ChaosType as ChaosType
    from pytest_resilience.chaos.faults.resources import PressureReading as PressureReading
    from pytest_resilience.chaos.types.service import Service as Service
    from pytest_resilience.chaos.types.service import Services as Services
    from pytest_resilience.chaostoolkit import ToolkitExperiment as ToolkitExperiment
    from pytest_resilience.clock import Clock as Clock
    from pytest_resilience.clock import ManualClock as ManualClock
    from pytest_resilience.clock import SystemClock as SystemClock
    from pytest_resilience.errors import BulkheadRejectedError as BulkheadRejectedError
    from pytest_resilience.errors import CircuitBreakerError as CircuitBreakerError
    from pytest_resilience.errors import ClockStalledError as ClockStalledError
    from pytest_resilience.errors import ConfigurationError as ConfigurationError
    from pytest_resilience.errors import DuplicateNameError as DuplicateNameError
    from pytest_resilience.errors import LeakedThreadsError as LeakedThreadsError
    from pytest_resilience.errors import NeverFiredError as NeverFiredError
    from pytest_resilience.errors import ResilienceError as ResilienceError
    from pytest_resilience.errors import RetryExhaustedError as RetryExhaustedError
    from pytest_resilience.errors import ServiceFailureError as ServiceFailureError
    from pytest_resilience.errors import ShutdownError as ShutdownError
    from pytest_resilience.errors import StandInError as StandInError
    from pytest_resilience.errors import SteadyStateError as SteadyStateError
    from pytest_resilience.errors import TimeLimitExceededError as TimeLimitExceededError
    from pytest_resilience.errors import UnavailableError as UnavailableError
    from pytest_resilience.errors import UnknownNameError as UnknownNameError
    from pytest_resilience.events import Event as Event
    from pytest_resilience.exploration.search import fault_schedules as fault_schedules
    from pytest_resilience.http_middleware import HostBreakers as HostBreakers
    from pytest_resilience.http_middleware import aiohttp_middleware as aiohttp_middleware
    from pytest_resilience.http_middleware import httpx_async_transport as httpx_async_transport
    from pytest_resilience.http_middleware import httpx_transport as httpx_transport
    from pytest_resilience.http_middleware import requests_adapter as requests_adapter
    from pytest_resilience.interceptors.simulators import DatabaseSimulator as DatabaseSimulator
    from pytest_resilience.interceptors.simulators import NetworkSimulator as NetworkSimulator
    from pytest_resilience.interceptors.simulators import (
        ServiceFailureSimulator as ServiceFailureSimulator,
    )
    from pytest_resilience.monkey.events import ExperimentEnded as ExperimentEnded
    from pytest_resilience.monkey.events import ExperimentFailed as ExperimentFailed
    from pytest_resilience.monkey.events import ExperimentHeldBack as ExperimentHeldBack
    from pytest_resilience.monkey.events import ExperimentStarted as ExperimentStarted
    from pytest_resilience.monkey.events import MonkeyStarted as MonkeyStarted
    from pytest_resilience.monkey.events import MonkeyStopped as MonkeyStopped
    from pytest_resilience.monkey.events import SteadyStateRead as SteadyStateRead
    from pytest_resilience.monkey.schedule import ByChance as ByChance
    from pytest_resilience.monkey.schedule import Daily as Daily
    from pytest_resilience.monkey.schedule import FixedSequence as FixedSequence
    from pytest_resilience.monkey.schedule import Windows as Windows
    from pytest_resilience.monkey.steady_state import Matches as Matches
    from pytest_resilience.monkey.steady_state import OneOf as OneOf
    from pytest_resilience.monkey.steady_state import Probe as Probe
    from pytest_resilience.monkey.steady_state import Verdict as Verdict
    from pytest_resilience.monkey.steady_state import Within as Within
    from pytest_resilience.monkey.stop_conditions import BreakerOpens as BreakerOpens
    from pytest_resilience.monkey.stop_conditions import ErrorBudget as ErrorBudget
    from pytest_resilience.monkey.stop_conditions import When as When
    from pytest_resilience.patterns.bulkhead.base import BulkheadConfig as BulkheadConfig
    from pytest_resilience.patterns.bulkhead.base import BulkheadType as BulkheadType
    from pytest_resilience.patterns.bulkhead.manager import BulkheadManager as BulkheadManager
    from pytest_resilience.patterns.bulkhead.rate_limit import (
        RateLimitBulkhead as RateLimitBulkhead,
    )
    from pytest_resilience.patterns.bulkhead.semaphore import SemaphoreBulkhead as SemaphoreBulkhead
    from pytest_resilience.patterns.bulkhead.thread_pool import (
        ThreadPoolBulkhead as ThreadPoolBulkhead,
    )
    from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreaker as CircuitBreaker
    from pytest_resilience.patterns.circuit_breaker.config import (
        CircuitBreakerConfig as CircuitBreakerConfig,
    )
    from pytest_resilience.patterns.circuit_breaker.registry import (
        CircuitBreakerRegistry as CircuitBreakerRegistry,
    )
    from pytest_resilience.patterns.circuit_breaker.states import CircuitState as CircuitState
    from pytest_resilience.patterns.circuit_breaker.store import RedisStore as RedisStore
    from pytest_resilience.patterns.degradation.features import NOTHING as NOTHING
    from pytest_resilience.patterns.degradation.features import FeatureFlag as FeatureFlag
    from pytest_resilience.patterns.degradation.features import ServiceLevel as ServiceLevel
    from pytest_resilience.patterns.degradation.manager import (
        DegradationManager as DegradationManager,
    )
    from pytest_resilience.patterns.hedging import Hedging as Hedging
    from pytest_resilience.patterns.hedging import HedgingConfig as HedgingConfig
    from pytest_resilience.patterns.pipeline import Pipeline as Pipeline
    from pytest_resilience.patterns.retry.budget import RetryBudget as RetryBudget
    from pytest_resilience.patterns.retry.config import RetryConfig as RetryConfig
    from pytest_resilience.patterns.retry.config import RetryDetails as RetryDetails
    from pytest_resilience.patterns.retry.config import RetryTesting as RetryTesting
    from pytest_resilience.patterns.retry.config import set_retry_testing as set_retry_testing
    from pytest_resilience.patterns.retry.handler import RetryHandler as RetryHandler
    from pytest_resilience.patterns.timeout import TimeLimiter as TimeLimiter
    from pytest_resilience.plugin.fixtures.chaos import Chaos as Chaos
    from pytest_resilience.plugin.fixtures.chaos import ProxyFactory as ProxyFactory
    from pytest_resilience.plugin.fixtures.patterns import BreakerFactory as BreakerFactory
    from pytest_resilience.plugin.fixtures.patterns import RetryFactory as RetryFactory
    from pytest_resilience.plugin.fixtures.postgres import PostgresChaos as PostgresChaos
    from pytest_resilience.plugin.fixtures.responses import ChaosResponses as ChaosResponses
    from pytest_resilience.plugin.fixtures.schedules import ChaosSchedules as ChaosSchedules
    from pytest_resilience.plugin.fixtures.sqlite import SqliteChaos as SqliteChaos
    from pytest_resilience.plugin.fixtures.stub_server import Stub as Stub
    from pytest_resilience.plugin.fixtures.stub_server import StubRequest as StubRequest
    from pytest_resilience.plugin.fixtures.stub_server import StubResponse as StubResponse
    from pytest_resilience.plugin.fixtures.stub_server import StubServer as StubServer
    from pytest_resilience.plugin.mark import mark as mark
    from pytest_resilience.proxy.proxy import ChaosProxy as ChaosProxy
    from pytest_resilience.report.cell import Cell as Cell
    from pytest_resilience.runtime import Caps as Caps
    from pytest_resilience.runtime import ChaosMonkey as ChaosMonkey
    from pytest_resilience.runtime import NewChaosType as NewChaosType
    from pytest_resilience.virtual_time.clock import VirtualClock as VirtualClock


_HOMES = {
    "BreakerFactory": "plugin.fixtures.patterns",
    "BreakerOpens": "monkey.stop_conditions",
    "BulkheadConfig": "patterns.bulkhead.base",
    "BulkheadManager": "patterns.bulkhead.manager",
    "BulkheadRejectedError": "errors",
    "BulkheadType": "patterns.bulkhead.base",
    "ByChance": "monkey.schedule",
    "Caps": "runtime",
    "Cell": "report.cell",
    "Chaos": "plugin.fixtures.chaos",
    "ChaosExperiment": "chaos.experiment",
    "ChaosMonkey": "runtime",
    "ChaosProxy": "proxy.proxy",
    "ChaosResponses": "plugin.fixtures.responses",
    "ChaosSchedules": "plugin.fixtures.schedules",
    "ChaosType": "chaos.experiment",
    "CircuitBreaker": "patterns.circuit_breaker.breaker",
    "CircuitBreakerConfig": "patterns.circuit_breaker.config",
    "CircuitBreakerError": "errors",
    "CircuitBreakerRegistry": "patterns.circuit_breaker.registry",
    "CircuitState": "patterns.circuit_breaker.states",
    "Clock": "clock",
    "ClockStalledError": "errors",
    "ConfigurationError": "errors",
    "Daily": "monkey.schedule",
    "DatabaseSimulator": "interceptors.simulators",
    "DegradationManager": "patterns.degradation.manager",
    "DuplicateNameError": "errors",
    "ErrorBudget": "monkey.stop_conditions",
    "Event": "events",
    "ExperimentEnded": "monkey.events",
    "ExperimentFailed": "monkey.events",
    "ExperimentHeldBack": "monkey.events",
    "ExperimentStarted": "monkey.events",
    "FaultInjected": "chaos.engine",
    "FeatureFlag": "patterns.degradation.features",
    "FixedSequence": "monkey.schedule",
    "Hedging": "patterns.hedging",
    "HedgingConfig": "patterns.hedging",
    "HostBreakers": "http_middleware",
    "LeakedThreadsError": "errors",
    "ManualClock": "clock",
    "Matches": "monkey.steady_state",
    "MonkeyStarted": "monkey.events",
    "MonkeyStopped": "monkey.events",
    "NOTHING": "patterns.degradation.features",
    "NetworkSimulator": "interceptors.simulators",
    "NeverFiredError": "errors",
    "NewChaosType": "runtime",
    "OneOf": "monkey.steady_state",
    "Pipeline": "patterns.pipeline",
    "PostgresChaos": "plugin.fixtures.postgres",
    "PressureReading": "chaos.faults.resources",
    "Probe": "monkey.steady_state",
    "ProxyFactory": "plugin.fixtures.chaos",
    "RateLimitBulkhead": "patterns.bulkhead.rate_limit",
    "RedisStore": "patterns.circuit_breaker.store",
    "ResilienceError": "errors",
    "RetryBudget": "patterns.retry.budget",
    "RetryConfig": "patterns.retry.config",
    "RetryDetails": "patterns.retry.config",
    "RetryExhaustedError": "errors",
    "RetryFactory": "plugin.fixtures.patterns",
    "RetryHandler": "patterns.retry.handler",
    "RetryTesting": "patterns.retry.config",
    "SemaphoreBulkhead": "patterns.bulkhead.semaphore",
    "Service": "chaos.types.service",
    "ServiceFailureError": "errors",
    "ServiceFailureSimulator": "interceptors.simulators",
    "ServiceLevel": "patterns.degradation.features",
    "Services": "chaos.types.service",
    "ShutdownError": "errors",
    "SqliteChaos": "plugin.fixtures.sqlite",
    "StandInError": "errors",
    "SteadyStateError": "errors",
    "SteadyStateRead": "monkey.events",
    "Stub": "plugin.fixtures.stub_server",
    "StubRequest": "plugin.fixtures.stub_server",
    "StubResponse": "plugin.fixtures.stub_server",
    "StubServer": "plugin.fixtures.stub_server",
    "SystemClock": "clock",
    "ThreadPoolBulkhead": "patterns.bulkhead.thread_pool",
    "TimeLimitExceededError": "errors",
    "TimeLimiter": "patterns.timeout",
    "ToolkitExperiment": "chaostoolkit",
    "UnavailableError": "errors",
    "UnknownNameError": "errors",
    "Verdict": "monkey.steady_state",
    "VirtualClock": "virtual_time.clock",
    "When": "monkey.stop_conditions",
    "Windows": "monkey.schedule",
    "Within": "monkey.steady_state",
    "aiohttp_middleware": "http_middleware",
    "fault_schedules": "exploration.search",
    "httpx_async_transport": "http_middleware",
    "httpx_transport": "http_middleware",
    "mark": "plugin.mark",
    "requests_adapter": "http_middleware",
    "set_retry_testing": "patterns.retry.config",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605  # one list, checked against the block above by a test


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Prove in an ordinary pytest suite that code survives failures.

How the package is laid out, and what may import what (downwards only):

    plugin                    pytest, and only there
    report, assertions        events and states, read and judged
    hazards                   experiments in this process, with every seam there is
    seams, stress, proxy      where operations are intercepted; pressure; between both ends
    chaos                     decides which operation meets which fault
    patterns                  protects code: breaker, retry, bulkhead, degradation
    errors, events, clock, seeds

`chaos` and `patterns` never see each other: they meet in the user's code.
Nothing is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING
from typing import Any


if TYPE_CHECKING:
    from pytest_resilience.chaos.conditions import BreakerOpens as BreakerOpens
    from pytest_resilience.chaos.conditions import ErrorBudget as ErrorBudget
    from pytest_resilience.chaos.conditions import When as When
    from pytest_resilience.chaos.engine import FaultInjected as FaultInjected
    from pytest_resilience.chaos.experiment import ChaosExperiment as ChaosExperiment
    from pytest_resilience.chaos.experiment import ChaosType as ChaosType
    from pytest_resilience.chaos.monkey_events import ExperimentEnded as ExperimentEnded
    from pytest_resilience.chaos.monkey_events import ExperimentFailed as ExperimentFailed
    from pytest_resilience.chaos.monkey_events import ExperimentHeldBack as ExperimentHeldBack
    from pytest_resilience.chaos.monkey_events import ExperimentStarted as ExperimentStarted
    from pytest_resilience.chaos.monkey_events import MonkeyStarted as MonkeyStarted
    from pytest_resilience.chaos.monkey_events import MonkeyStopped as MonkeyStopped
    from pytest_resilience.chaos.monkey_events import SteadyStateRead as SteadyStateRead
    from pytest_resilience.chaos.pressure import PressureReading as PressureReading
    from pytest_resilience.chaos.schedule import ByChance as ByChance
    from pytest_resilience.chaos.schedule import Daily as Daily
    from pytest_resilience.chaos.schedule import FixedSequence as FixedSequence
    from pytest_resilience.chaos.schedule import Windows as Windows
    from pytest_resilience.chaos.service import Service as Service
    from pytest_resilience.chaos.service import Services as Services
    from pytest_resilience.chaos.steady_state import Probe as Probe
    from pytest_resilience.chaos.steady_state import Verdict as Verdict
    from pytest_resilience.chaos.tolerance import Matches as Matches
    from pytest_resilience.chaos.tolerance import OneOf as OneOf
    from pytest_resilience.chaos.tolerance import Within as Within
    from pytest_resilience.chaos.toolkit import ToolkitExperiment as ToolkitExperiment
    from pytest_resilience.clock import Clock as Clock
    from pytest_resilience.clock import ManualClock as ManualClock
    from pytest_resilience.clock import SystemClock as SystemClock
    from pytest_resilience.errors import BulkheadRejectedError as BulkheadRejectedError
    from pytest_resilience.errors import CircuitBreakerError as CircuitBreakerError
    from pytest_resilience.errors import ConfigurationError as ConfigurationError
    from pytest_resilience.errors import DuplicateNameError as DuplicateNameError
    from pytest_resilience.errors import NeverFiredError as NeverFiredError
    from pytest_resilience.errors import ResilienceError as ResilienceError
    from pytest_resilience.errors import RetryExhaustedError as RetryExhaustedError
    from pytest_resilience.errors import ServiceFailureError as ServiceFailureError
    from pytest_resilience.errors import ShutdownError as ShutdownError
    from pytest_resilience.errors import SteadyStateError as SteadyStateError
    from pytest_resilience.errors import TimeLimitExceededError as TimeLimitExceededError
    from pytest_resilience.errors import UnavailableError as UnavailableError
    from pytest_resilience.errors import UnknownNameError as UnknownNameError
    from pytest_resilience.events import Event as Event
    from pytest_resilience.hazards import Caps as Caps
    from pytest_resilience.hazards import ChaosMonkey as ChaosMonkey
    from pytest_resilience.hazards import NewChaosType as NewChaosType
    from pytest_resilience.patterns.breaker import CircuitBreaker as CircuitBreaker
    from pytest_resilience.patterns.breaker_config import (
        CircuitBreakerConfig as CircuitBreakerConfig,
    )
    from pytest_resilience.patterns.breaker_events import CircuitState as CircuitState
    from pytest_resilience.patterns.budget import RetryBudget as RetryBudget
    from pytest_resilience.patterns.bulkhead_config import BulkheadConfig as BulkheadConfig
    from pytest_resilience.patterns.bulkhead_config import BulkheadType as BulkheadType
    from pytest_resilience.patterns.bulkhead_manager import BulkheadManager as BulkheadManager
    from pytest_resilience.patterns.degradation import DegradationManager as DegradationManager
    from pytest_resilience.patterns.degradation_config import NOTHING as NOTHING
    from pytest_resilience.patterns.degradation_config import FeatureFlag as FeatureFlag
    from pytest_resilience.patterns.degradation_config import ServiceLevel as ServiceLevel
    from pytest_resilience.patterns.pipeline import Pipeline as Pipeline
    from pytest_resilience.patterns.rate_limit import RateLimitBulkhead as RateLimitBulkhead
    from pytest_resilience.patterns.registry import CircuitBreakerRegistry as CircuitBreakerRegistry
    from pytest_resilience.patterns.retry import RetryHandler as RetryHandler
    from pytest_resilience.patterns.retry_config import RetryConfig as RetryConfig
    from pytest_resilience.patterns.semaphore_bulkhead import SemaphoreBulkhead as SemaphoreBulkhead
    from pytest_resilience.patterns.thread_pool_bulkhead import (
        ThreadPoolBulkhead as ThreadPoolBulkhead,
    )
    from pytest_resilience.patterns.timelimit import TimeLimiter as TimeLimiter
    from pytest_resilience.plugin.fixture import Chaos as Chaos
    from pytest_resilience.proxy.proxy import ChaosProxy as ChaosProxy
    from pytest_resilience.report.cell import Cell as Cell
    from pytest_resilience.seams.points import DatabaseSimulator as DatabaseSimulator
    from pytest_resilience.seams.points import NetworkSimulator as NetworkSimulator
    from pytest_resilience.seams.points import ServiceFailureSimulator as ServiceFailureSimulator


_HOMES = {
    "BreakerOpens": "chaos.conditions",
    "BulkheadConfig": "patterns.bulkhead_config",
    "BulkheadManager": "patterns.bulkhead_manager",
    "BulkheadRejectedError": "errors",
    "BulkheadType": "patterns.bulkhead_config",
    "ByChance": "chaos.schedule",
    "Caps": "hazards",
    "Cell": "report.cell",
    "Chaos": "plugin.fixture",
    "ChaosExperiment": "chaos.experiment",
    "ChaosMonkey": "hazards",
    "ChaosProxy": "proxy.proxy",
    "ChaosType": "chaos.experiment",
    "CircuitBreaker": "patterns.breaker",
    "CircuitBreakerConfig": "patterns.breaker_config",
    "CircuitBreakerError": "errors",
    "CircuitBreakerRegistry": "patterns.registry",
    "CircuitState": "patterns.breaker_events",
    "Clock": "clock",
    "ConfigurationError": "errors",
    "Daily": "chaos.schedule",
    "DatabaseSimulator": "seams.points",
    "DegradationManager": "patterns.degradation",
    "DuplicateNameError": "errors",
    "ErrorBudget": "chaos.conditions",
    "Event": "events",
    "ExperimentEnded": "chaos.monkey_events",
    "ExperimentFailed": "chaos.monkey_events",
    "ExperimentHeldBack": "chaos.monkey_events",
    "ExperimentStarted": "chaos.monkey_events",
    "FaultInjected": "chaos.engine",
    "FeatureFlag": "patterns.degradation_config",
    "FixedSequence": "chaos.schedule",
    "ManualClock": "clock",
    "Matches": "chaos.tolerance",
    "MonkeyStarted": "chaos.monkey_events",
    "MonkeyStopped": "chaos.monkey_events",
    "NOTHING": "patterns.degradation_config",
    "NetworkSimulator": "seams.points",
    "NeverFiredError": "errors",
    "NewChaosType": "hazards",
    "OneOf": "chaos.tolerance",
    "Pipeline": "patterns.pipeline",
    "PressureReading": "chaos.pressure",
    "Probe": "chaos.steady_state",
    "RateLimitBulkhead": "patterns.rate_limit",
    "ResilienceError": "errors",
    "RetryBudget": "patterns.budget",
    "RetryConfig": "patterns.retry_config",
    "RetryExhaustedError": "errors",
    "RetryHandler": "patterns.retry",
    "SemaphoreBulkhead": "patterns.semaphore_bulkhead",
    "Service": "chaos.service",
    "ServiceFailureError": "errors",
    "ServiceFailureSimulator": "seams.points",
    "ServiceLevel": "patterns.degradation_config",
    "Services": "chaos.service",
    "ShutdownError": "errors",
    "SteadyStateError": "errors",
    "SteadyStateRead": "chaos.monkey_events",
    "SystemClock": "clock",
    "ThreadPoolBulkhead": "patterns.thread_pool_bulkhead",
    "TimeLimitExceededError": "errors",
    "TimeLimiter": "patterns.timelimit",
    "ToolkitExperiment": "chaos.toolkit",
    "UnavailableError": "errors",
    "UnknownNameError": "errors",
    "Verdict": "chaos.steady_state",
    "When": "chaos.conditions",
    "Windows": "chaos.schedule",
    "Within": "chaos.tolerance",
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

# What type checkers and editors read of the package: what `_HOMES` offers.

from pytest_resilience.chaos.engine import FaultInjected as FaultInjected
from pytest_resilience.chaos.experiment import ChaosExperiment as ChaosExperiment
from pytest_resilience.chaos.experiment import ChaosType as ChaosType
from pytest_resilience.chaos.types.resources import PressureReading as PressureReading
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
from pytest_resilience.interceptors.services import DatabaseSimulator as DatabaseSimulator
from pytest_resilience.interceptors.services import NetworkSimulator as NetworkSimulator
from pytest_resilience.interceptors.services import (
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
from pytest_resilience.patterns.bulkhead.rate_limit import RateLimitBulkhead as RateLimitBulkhead
from pytest_resilience.patterns.bulkhead.semaphore import SemaphoreBulkhead as SemaphoreBulkhead
from pytest_resilience.patterns.bulkhead.thread_pool import ThreadPoolBulkhead as ThreadPoolBulkhead
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreaker as CircuitBreaker
from pytest_resilience.patterns.circuit_breaker.breaker import (
    CircuitBreakerRegistry as CircuitBreakerRegistry,
)
from pytest_resilience.patterns.circuit_breaker.config import (
    CircuitBreakerConfig as CircuitBreakerConfig,
)
from pytest_resilience.patterns.circuit_breaker.states import CircuitState as CircuitState
from pytest_resilience.patterns.circuit_breaker.store import RedisStore as RedisStore
from pytest_resilience.patterns.degradation import DegradationManager as DegradationManager
from pytest_resilience.patterns.features import NOTHING as NOTHING
from pytest_resilience.patterns.features import FeatureFlag as FeatureFlag
from pytest_resilience.patterns.features import ServiceLevel as ServiceLevel
from pytest_resilience.patterns.hedging import Hedging as Hedging
from pytest_resilience.patterns.hedging import HedgingConfig as HedgingConfig
from pytest_resilience.patterns.pipeline import Pipeline as Pipeline
from pytest_resilience.patterns.retry.config import RetryBudget as RetryBudget
from pytest_resilience.patterns.retry.config import RetryConfig as RetryConfig
from pytest_resilience.patterns.retry.config import RetryDetails as RetryDetails
from pytest_resilience.patterns.retry.config import RetryTesting as RetryTesting
from pytest_resilience.patterns.retry.config import set_retry_testing as set_retry_testing
from pytest_resilience.patterns.retry.handler import RetryHandler as RetryHandler
from pytest_resilience.patterns.timeout import TimeLimiter as TimeLimiter
from pytest_resilience.plugin.exploration.faults import ChaosSchedules as ChaosSchedules
from pytest_resilience.plugin.fixtures.chaos import Chaos as Chaos
from pytest_resilience.plugin.fixtures.chaos import ProxyFactory as ProxyFactory
from pytest_resilience.plugin.fixtures.databases import PostgresChaos as PostgresChaos
from pytest_resilience.plugin.fixtures.databases import SqliteChaos as SqliteChaos
from pytest_resilience.plugin.fixtures.patterns import BreakerFactory as BreakerFactory
from pytest_resilience.plugin.fixtures.patterns import RetryFactory as RetryFactory
from pytest_resilience.plugin.fixtures.responses import ChaosResponses as ChaosResponses
from pytest_resilience.plugin.fixtures.stub_server import Stub as Stub
from pytest_resilience.plugin.fixtures.stub_server import StubRequest as StubRequest
from pytest_resilience.plugin.fixtures.stub_server import StubResponse as StubResponse
from pytest_resilience.plugin.fixtures.stub_server import StubServer as StubServer
from pytest_resilience.plugin.markers import mark as mark
from pytest_resilience.proxy.proxy import ChaosProxy as ChaosProxy
from pytest_resilience.report.cell import Cell as Cell
from pytest_resilience.runtime import Caps as Caps
from pytest_resilience.runtime import ChaosMonkey as ChaosMonkey
from pytest_resilience.runtime import NewChaosType as NewChaosType
from pytest_resilience.virtual_time.clock import VirtualClock as VirtualClock

__all__: list[str]  # noqa: PYI035  # it is all that stands above

def _homes() -> dict[str, str]: ...

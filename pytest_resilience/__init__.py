"""Prove in an ordinary pytest suite that code survives failures.

docs/architecture.md says how the package is laid out, and what may import what.
`chaos` and `patterns` never see each other: they meet in the user's code.
Nothing is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


# The names behind their modules. One text, because every run of pytest loads it, and pytest takes
# long for each constant; so what type checkers have to know stands in `__init__.pyi`.
_HOMES = """
chaos.engine: FaultInjected
chaos.experiment: ChaosExperiment ChaosType
chaos.types.resources: PressureReading
chaos.types.service: Service Services
chaostoolkit: ToolkitExperiment
clock: Clock ManualClock SystemClock
errors: BulkheadRejectedError CircuitBreakerError ClockStalledError ConfigurationError
errors: DuplicateNameError LeakedThreadsError NeverFiredError ResilienceError RetryExhaustedError
errors: ServiceFailureError ShutdownError StandInError SteadyStateError TimeLimitExceededError
errors: UnavailableError UnknownNameError
events: Event
exploration.search: fault_schedules
http_middleware: HostBreakers aiohttp_middleware httpx_async_transport httpx_transport
http_middleware: requests_adapter
interceptors.services: DatabaseSimulator NetworkSimulator ServiceFailureSimulator
monkey.events: ExperimentEnded ExperimentFailed ExperimentHeldBack ExperimentStarted MonkeyStarted
monkey.events: MonkeyStopped SteadyStateRead
monkey.schedule: ByChance Daily FixedSequence Windows
monkey.steady_state: Matches OneOf Probe Verdict Within
monkey.stop_conditions: BreakerOpens ErrorBudget When
patterns.bulkhead.base: BulkheadConfig BulkheadType
patterns.bulkhead.manager: BulkheadManager
patterns.bulkhead.rate_limit: RateLimitBulkhead
patterns.bulkhead.semaphore: SemaphoreBulkhead
patterns.bulkhead.thread_pool: ThreadPoolBulkhead
patterns.circuit_breaker.breaker: CircuitBreaker CircuitBreakerRegistry
patterns.circuit_breaker.config: CircuitBreakerConfig
patterns.circuit_breaker.states: CircuitState
patterns.circuit_breaker.store: RedisStore
patterns.features: FeatureFlag NOTHING ServiceLevel
patterns.degradation: DegradationManager
patterns.hedging: Hedging HedgingConfig
patterns.pipeline: Pipeline
patterns.retry.config: RetryBudget RetryConfig RetryDetails RetryTesting set_retry_testing
patterns.retry.handler: RetryHandler
patterns.timeout: TimeLimiter
plugin.exploration.faults: ChaosSchedules
plugin.fixtures.chaos: Chaos ProxyFactory
plugin.fixtures.databases: PostgresChaos SqliteChaos
plugin.fixtures.patterns: BreakerFactory RetryFactory
plugin.fixtures.responses: ChaosResponses
plugin.fixtures.stub_server: Stub StubRequest StubResponse StubServer
plugin.markers: mark
proxy.proxy: ChaosProxy
report.cell: Cell
runtime: Caps ChaosMonkey NewChaosType
virtual_time.clock: VirtualClock
"""


def __getattr__(name: str) -> Any:
    homes = _homes()
    if name == "__all__":
        return sorted(homes)
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{homes[name]}"), name)
    globals()[name] = value
    return value


def _homes() -> dict[str, str]:
    """The module of each name."""
    lines = (line.split(":") for line in _HOMES.split("\n") if line)
    return {name: home for home, names in lines for name in names.split()}


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes()})

"""Patterns that protect code from what fails around it. Usable in production.

Nothing in here, nor below it, imports pytest, requests, responses or psutil.
"""

from __future__ import annotations

from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.errors import RetryExhaustedError
from pytest_resilience.errors import TimeLimitExceededError
from pytest_resilience.patterns.bulkhead.base import BulkheadConfig
from pytest_resilience.patterns.bulkhead.base import BulkheadRejection
from pytest_resilience.patterns.bulkhead.base import BulkheadType
from pytest_resilience.patterns.bulkhead.manager import BulkheadManager
from pytest_resilience.patterns.bulkhead.rate_limit import RateLimitBulkhead
from pytest_resilience.patterns.bulkhead.rate_limit import WeighedRateLimit
from pytest_resilience.patterns.bulkhead.semaphore import SemaphoreBulkhead
from pytest_resilience.patterns.bulkhead.thread_pool import ThreadPoolBulkhead
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreaker
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreakerRegistry
from pytest_resilience.patterns.circuit_breaker.config import CircuitBreakerConfig
from pytest_resilience.patterns.circuit_breaker.config import Outcome
from pytest_resilience.patterns.circuit_breaker.states import CircuitCall
from pytest_resilience.patterns.circuit_breaker.states import CircuitRejection
from pytest_resilience.patterns.circuit_breaker.states import CircuitState
from pytest_resilience.patterns.circuit_breaker.states import CircuitTransition
from pytest_resilience.patterns.circuit_breaker.states import CircuitWouldOpen
from pytest_resilience.patterns.circuit_breaker.store import RedisStore
from pytest_resilience.patterns.circuit_breaker.wrappers import Isolation
from pytest_resilience.patterns.circuit_breaker.wrappers import Permit
from pytest_resilience.patterns.degradation import DegradationManager
from pytest_resilience.patterns.degradation import FellBack
from pytest_resilience.patterns.degradation import LevelChanged
from pytest_resilience.patterns.features import NOTHING
from pytest_resilience.patterns.features import FeatureFlag
from pytest_resilience.patterns.features import ServiceLevel
from pytest_resilience.patterns.hedging import HedgeStarted
from pytest_resilience.patterns.hedging import Hedging
from pytest_resilience.patterns.hedging import HedgingConfig
from pytest_resilience.patterns.pipeline import Pipeline
from pytest_resilience.patterns.pipeline import PipelineOrderWarning
from pytest_resilience.patterns.pipeline import Step
from pytest_resilience.patterns.retry.attempts import RetryAborted
from pytest_resilience.patterns.retry.attempts import RetryGaveUp
from pytest_resilience.patterns.retry.attempts import RetryScheduled
from pytest_resilience.patterns.retry.attempts import RetrySucceeded
from pytest_resilience.patterns.retry.config import RetryBudget
from pytest_resilience.patterns.retry.config import RetryConfig
from pytest_resilience.patterns.retry.config import RetryDetails
from pytest_resilience.patterns.retry.config import set_retry_testing
from pytest_resilience.patterns.retry.handler import Attempt
from pytest_resilience.patterns.retry.handler import RetryHandler
from pytest_resilience.patterns.timeout import OverdueCall
from pytest_resilience.patterns.timeout import TimeLimiter
from pytest_resilience.patterns.timeout import TimeLimitExceeded


__all__ = [
    "NOTHING",
    "Attempt",
    "BulkheadConfig",
    "BulkheadManager",
    "BulkheadRejectedError",
    "BulkheadRejection",
    "BulkheadType",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerError",
    "CircuitBreakerRegistry",
    "CircuitCall",
    "CircuitRejection",
    "CircuitState",
    "CircuitTransition",
    "CircuitWouldOpen",
    "DegradationManager",
    "FeatureFlag",
    "FellBack",
    "HedgeStarted",
    "Hedging",
    "HedgingConfig",
    "Isolation",
    "LevelChanged",
    "Outcome",
    "OverdueCall",
    "Permit",
    "Pipeline",
    "PipelineOrderWarning",
    "RateLimitBulkhead",
    "RedisStore",
    "RetryAborted",
    "RetryBudget",
    "RetryConfig",
    "RetryDetails",
    "RetryExhaustedError",
    "RetryGaveUp",
    "RetryHandler",
    "RetryScheduled",
    "RetrySucceeded",
    "SemaphoreBulkhead",
    "ServiceLevel",
    "Step",
    "ThreadPoolBulkhead",
    "TimeLimitExceeded",
    "TimeLimitExceededError",
    "TimeLimiter",
    "WeighedRateLimit",
    "set_retry_testing",
]

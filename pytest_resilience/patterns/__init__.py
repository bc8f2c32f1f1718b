"""Patterns that protect code from what fails around it. Usable in production.

Nothing in here, nor below it, imports pytest, requests, responses or psutil.
"""

from __future__ import annotations

from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.errors import RetryExhaustedError
from pytest_resilience.errors import TimeLimitExceededError
from pytest_resilience.patterns.breaker import CircuitBreaker
from pytest_resilience.patterns.breaker_calls import Permit
from pytest_resilience.patterns.breaker_config import CircuitBreakerConfig
from pytest_resilience.patterns.breaker_config import Outcome
from pytest_resilience.patterns.breaker_events import CircuitRejection
from pytest_resilience.patterns.breaker_events import CircuitState
from pytest_resilience.patterns.breaker_events import CircuitTransition
from pytest_resilience.patterns.budget import RetryBudget
from pytest_resilience.patterns.bulkhead_config import BulkheadConfig
from pytest_resilience.patterns.bulkhead_config import BulkheadType
from pytest_resilience.patterns.bulkhead_events import BulkheadRejection
from pytest_resilience.patterns.bulkhead_manager import BulkheadManager
from pytest_resilience.patterns.degradation import DegradationManager
from pytest_resilience.patterns.degradation_config import NOTHING
from pytest_resilience.patterns.degradation_config import FeatureFlag
from pytest_resilience.patterns.degradation_config import ServiceLevel
from pytest_resilience.patterns.degradation_events import FellBack
from pytest_resilience.patterns.degradation_events import LevelChanged
from pytest_resilience.patterns.pipeline import Pipeline
from pytest_resilience.patterns.pipeline import PipelineOrderWarning
from pytest_resilience.patterns.pipeline import Step
from pytest_resilience.patterns.rate_limit import RateLimitBulkhead
from pytest_resilience.patterns.registry import CircuitBreakerRegistry
from pytest_resilience.patterns.retry import RetryHandler
from pytest_resilience.patterns.retry_blocks import Attempt
from pytest_resilience.patterns.retry_config import RetryConfig
from pytest_resilience.patterns.retry_events import RetryAborted
from pytest_resilience.patterns.retry_events import RetryGaveUp
from pytest_resilience.patterns.retry_events import RetryScheduled
from pytest_resilience.patterns.retry_events import RetrySucceeded
from pytest_resilience.patterns.semaphore_bulkhead import SemaphoreBulkhead
from pytest_resilience.patterns.thread_pool_bulkhead import ThreadPoolBulkhead
from pytest_resilience.patterns.timelimit import OverdueCall
from pytest_resilience.patterns.timelimit import TimeLimiter
from pytest_resilience.patterns.timelimit import TimeLimitExceeded


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
    "CircuitRejection",
    "CircuitState",
    "CircuitTransition",
    "DegradationManager",
    "FeatureFlag",
    "FellBack",
    "LevelChanged",
    "Outcome",
    "OverdueCall",
    "Permit",
    "Pipeline",
    "PipelineOrderWarning",
    "RateLimitBulkhead",
    "RetryAborted",
    "RetryBudget",
    "RetryConfig",
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
]

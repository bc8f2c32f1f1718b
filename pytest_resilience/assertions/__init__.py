"""Assertions about resilience: what must hold, told with the timeline that led there.

Each is a plain function that raises `AssertionError`, with or without pytest. Those about
breakers and retries read the objects of other libraries too.
"""

from __future__ import annotations

from pytest_resilience.assertions.breakers_and_retries import assert_backoff
from pytest_resilience.assertions.breakers_and_retries import assert_circuit_closed
from pytest_resilience.assertions.breakers_and_retries import assert_circuit_half_open
from pytest_resilience.assertions.breakers_and_retries import assert_circuit_open
from pytest_resilience.assertions.breakers_and_retries import assert_circuit_state
from pytest_resilience.assertions.breakers_and_retries import assert_circuit_transitions
from pytest_resilience.assertions.breakers_and_retries import assert_fails_fast
from pytest_resilience.assertions.breakers_and_retries import assert_retried
from pytest_resilience.assertions.breakers_and_retries import assert_retry_exhausted
from pytest_resilience.assertions.bulkhead import assert_bulkhead_rejected
from pytest_resilience.assertions.bulkhead import assert_isolated
from pytest_resilience.assertions.bulkhead import assert_rate_limited
from pytest_resilience.assertions.degradation_and_recovery import assert_degraded
from pytest_resilience.assertions.degradation_and_recovery import assert_fallback_used
from pytest_resilience.assertions.degradation_and_recovery import assert_recovers
from pytest_resilience.assertions.integrity import assert_file_intact
from pytest_resilience.assertions.integrity import assert_no_partial_write
from pytest_resilience.assertions.readings import CircuitReading
from pytest_resilience.assertions.readings import Reader
from pytest_resilience.assertions.readings import RetryReading
from pytest_resilience.assertions.readings import add_reader


__all__ = [
    "CircuitReading",
    "Reader",
    "RetryReading",
    "add_reader",
    "assert_backoff",
    "assert_bulkhead_rejected",
    "assert_circuit_closed",
    "assert_circuit_half_open",
    "assert_circuit_open",
    "assert_circuit_state",
    "assert_circuit_transitions",
    "assert_degraded",
    "assert_fails_fast",
    "assert_fallback_used",
    "assert_file_intact",
    "assert_isolated",
    "assert_no_partial_write",
    "assert_rate_limited",
    "assert_recovers",
    "assert_retried",
    "assert_retry_exhausted",
]

"""Assertions about resilience: what must hold, told with the timeline that led there.

Each is a plain function that raises `AssertionError`, with or without pytest.
"""

from __future__ import annotations

from pytest_resilience.assertions.circuit import assert_circuit_closed
from pytest_resilience.assertions.circuit import assert_circuit_half_open
from pytest_resilience.assertions.circuit import assert_circuit_open
from pytest_resilience.assertions.circuit import assert_circuit_transitions
from pytest_resilience.assertions.circuit import assert_fails_fast
from pytest_resilience.assertions.retry import assert_backoff
from pytest_resilience.assertions.retry import assert_retried
from pytest_resilience.assertions.retry import assert_retry_exhausted


__all__ = [
    "assert_backoff",
    "assert_circuit_closed",
    "assert_circuit_half_open",
    "assert_circuit_open",
    "assert_circuit_transitions",
    "assert_fails_fast",
    "assert_retried",
    "assert_retry_exhausted",
]

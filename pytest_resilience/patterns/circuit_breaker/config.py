"""When a circuit breaker opens, what counts as a failure, and how it closes again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.circuit_breaker.window import CountWindow
from pytest_resilience.patterns.circuit_breaker.window import TimeWindow
from pytest_resilience.patterns.circuit_breaker.window import Window


__all__ = ["CircuitBreakerConfig", "Outcome"]


class Outcome(Enum):
    """What the end of a call says about the service."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


_HALF_OPEN_RATE = "half_open_failure_rate_threshold"


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig:
    """How a circuit breaker decides.

    Without a window it opens after `failure_threshold` consecutive failures. With one (of
    `window_size` calls or `window_seconds`) it opens when the window has `minimum_calls` and
    its failure rate reaches `failure_rate_threshold`, or its rate of slow calls
    `slow_call_rate_threshold`.

    Attributes:
        failure_threshold: consecutive failures that open it, when it has no window.
        success_threshold: successes while half open that close it; or how many trial calls
            decide, with `half_open_failure_rate_threshold`.
        timeout: seconds it stays open; or a function that returns them, given how often it has
            opened since it was last closed (1, 2, …) and the error that opened it (None for a
            slow call).
        expected_exception: exceptions that are failures. Others count neither way.
        ignored_exception: exceptions that count neither way even so.
        is_failure: overrules both: whether an exception is a failure.
        is_failed_result: whether a result is a failure; a block has none, nor an async generator.
        failure_rate_threshold: rate of failures, above 0 up to 1, that opens it.
        window_size: how many calls the sliding window holds.
        window_seconds: how many seconds the sliding window holds, to a tenth of them.
        minimum_calls: calls in the window below which no rate is calculated.
        slow_call_duration: seconds above which a call is slow. Without a window a slow call
            is a failure; half open, it always is.
        slow_call_rate_threshold: rate of slow calls, above 0 up to 1, that opens it.
        half_open_max_calls: trial calls at once while half open; None for `success_threshold`.
            Never more are let through than can still be needed to decide.
        half_open_failure_rate_threshold: rate of failures, above 0 up to 1, among as many trial
            calls as `success_threshold`, that opens it again; below it, it closes. None: the
            first failure opens it. It decides as soon as the calls that are left cannot change it.
        count_calls: whether `get_stats` counts successes as well, in `total_successes`. Each call
            then takes a little longer.

    What is no `Exception` (cancellation, KeyboardInterrupt, …) always counts neither way.
    Raises ConfigurationError or TypeError for a value that makes no sense.
    """

    failure_threshold: int = 5
    success_threshold: int = 3
    timeout: float | Callable[[int, BaseException | None], float] = 60.0
    expected_exception: validation.ExceptionTypes = (Exception,)
    ignored_exception: validation.ExceptionTypes = ()
    is_failure: Callable[[Any], bool] | None = None
    is_failed_result: Callable[[Any], bool] | None = None
    failure_rate_threshold: float | None = None
    window_size: int | None = None
    window_seconds: float | None = None
    minimum_calls: int = 10
    slow_call_duration: float | None = None
    slow_call_rate_threshold: float | None = None
    half_open_max_calls: int | None = None
    half_open_failure_rate_threshold: float | None = None
    count_calls: bool = False

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "success_threshold", "minimum_calls"):
            validation.integer(name, getattr(self, name), low=1)
        for name in ("window_size", "half_open_max_calls"):
            if getattr(self, name) is not None:
                validation.integer(name, getattr(self, name), low=1)
        for name in ("window_seconds", "slow_call_duration"):
            if getattr(self, name) is not None:
                validation.number(name, getattr(self, name), above_low=True)
        validation.boolean("count_calls", self.count_calls)
        for name in ("failure_rate_threshold", "slow_call_rate_threshold", _HALF_OPEN_RATE):
            if getattr(self, name) is not None:
                validation.number(name, getattr(self, name), above_low=True, high=1.0)
        for name in ("expected_exception", "ignored_exception"):
            types = validation.exception_types(name, getattr(self, name))
            object.__setattr__(self, name, types)  # one class alone becomes a tuple
        for name in ("is_failure", "is_failed_result"):
            validation.function(name, getattr(self, name))
        if callable(self.timeout):
            validation.function("timeout", self.timeout)
        else:
            validation.number("timeout", self.timeout)
        self._check_window()

    def _check_window(self) -> None:
        rated = self.failure_rate_threshold is not None or self.slow_call_rate_threshold is not None
        windows = (self.window_size is not None) + (self.window_seconds is not None)
        if rated and windows != 1:
            raise ConfigurationError(
                f"window_size={self.window_size!r}, window_seconds={self.window_seconds!r}: a rate "
                "needs one of them, and one only; leave the other out"
            )
        if windows and not rated:
            raise ConfigurationError(
                "a window needs failure_rate_threshold or slow_call_rate_threshold; give one, or "
                "leave the window out"
            )
        if self.window_size is not None and self.minimum_calls > self.window_size:
            raise ConfigurationError(
                f"minimum_calls={self.minimum_calls!r}: at most window_size={self.window_size!r} "
                "calls are ever in the window; give less, or a larger window"
            )
        if self.slow_call_rate_threshold is not None and self.slow_call_duration is None:
            raise ConfigurationError(
                "slow_call_rate_threshold needs slow_call_duration: the seconds from which a call "
                "is slow"
            )

    def new_window(self) -> Window | None:
        """An empty window as configured; None where consecutive failures count."""
        if self.window_size is not None:
            return CountWindow(self.window_size)
        return None if self.window_seconds is None else TimeWindow(self.window_seconds)

    def judge_error(self, error: BaseException) -> Outcome:
        """The outcome of a call that raised. Calls `is_failure`."""
        if not isinstance(error, Exception):
            return Outcome.IGNORED
        if self.is_failure is not None:
            return Outcome.FAILURE if self.is_failure(error) else Outcome.IGNORED
        counts = isinstance(error, self.expected_exception)
        if counts and not isinstance(error, self.ignored_exception):
            return Outcome.FAILURE
        return Outcome.IGNORED

    def judge_result(self, result: Any) -> Outcome:
        """The outcome of a call that returned. Calls `is_failed_result`."""
        if self.is_failed_result is not None and self.is_failed_result(result):
            return Outcome.FAILURE
        return Outcome.SUCCESS

    def rate_reached(self, window: Window) -> str | None:
        """Which rate the calls in `window` have reached, in words; None if none."""
        if window.calls < self.minimum_calls or not (window.failures or window.slow):
            return None
        for what, count, limit in (
            ("failed", window.failures, self.failure_rate_threshold),
            ("were slow", window.slow, self.slow_call_rate_threshold),
        ):
            if limit is not None and count >= limit * window.calls:
                return f"{count} of {window.calls} calls {what}"
        return None

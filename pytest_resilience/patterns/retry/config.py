"""What is retried, how often, and with which delays; and the budget that many callers share."""

from __future__ import annotations

import threading

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import Self

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.locks import OfThisProcess
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.retry.delays import JITTERS
from pytest_resilience.patterns.retry.delays import Jitter


__all__ = [
    "RetryBudget", "RetryConfig", "RetryDetails", "RetryTesting", "current_testing",
    "set_retry_testing",
]  # fmt: skip


class RetryBudget(OfThisProcess):
    """A token bucket: each call adds a fraction of a token, each retry takes a whole one.

    With `ratio` 0.2, retries add at most a fifth to the calls there are, however many of
    them fail. `reserve` tokens a second are added as well, so that a caller with few calls
    can retry too. This is the retry budget of Finagle (Twitter, 2016). Share one between all
    handlers that call the same thing.
    """

    def __init__(
        self,
        ratio: float = 0.2,
        *,
        reserve: float = 1.0,
        capacity: float = 100.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`capacity`: the most tokens it holds; it starts with `reserve` of them, at most that."""
        self._ratio = validation.number("ratio", ratio)
        self._reserve = validation.number("reserve", reserve)
        self._capacity = validation.number("capacity", capacity, low=1.0)
        self._clock: Clock = validation.clock(clock)
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._tokens = min(self._reserve, self._capacity)
        self._refilled_at = clock.monotonic()

    @property
    def tokens(self) -> float:
        """The tokens in the bucket now."""
        now = self._clock.monotonic()
        with self._lock:
            self._refill(now)
            return self._tokens

    def deposit(self) -> None:
        """Add the tokens of a call, as its first attempt begins."""
        # The reserve can be added later: the bucket is full at the same moment.
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Take a token for a retry. False, and none taken, if there is less than one."""
        now = self._clock.monotonic()
        with self._lock:
            self._refill(now)
            # Five deposits of 0.2 are one token, whatever floating point makes of them.
            enough = self._tokens >= 1.0 - 1e-9
            if enough:
                self._tokens = max(0.0, self._tokens - 1.0)
            return enough

    def _refill(self, now: float) -> None:
        # A thread that read the clock first may come to the lock later.
        if now > self._refilled_at:
            grown = self._tokens + (now - self._refilled_at) * self._reserve
            self._tokens = min(self._capacity, grown)
            self._refilled_at = now

    def __repr__(self) -> str:
        return f"<RetryBudget {self.tokens:.3g} of {self._capacity:g} tokens>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDetails:
    """What a step before the next attempt is told.

    Attributes:
        name: of the retry handler.
        attempt: the number of the attempt that follows: 2, 3, …
        error: what the one before raised; None if its result was not acceptable.
        result: that result.
        delay: seconds that were waited.
    """

    name: str
    attempt: int
    error: Exception | None
    result: Any
    delay: float


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """How a retry handler decides.

    Attributes:
        max_attempts: calls in all, the first included.
        base_delay: the delay after the first failure, in seconds.
        max_delay: the longest delay, in seconds, but for those that a failure asks for.
        exponential_multiplier: the factor by which the delay grows from attempt to attempt.
        jitter: how delays are spread: True by 10 % either way, or AWS's "full", "equal" and
            "decorrelated", or False for none.
        retryable_exceptions: exceptions that are retried. Others pass at once, as they are.
        max_elapsed: seconds after the start of the first attempt, after which none starts.
        is_retryable: overrules `retryable_exceptions`: whether an exception is retried.
        retry_on_result: whether a result is retried.
        wait_from: the seconds that an error or a result asks for, None for backoff. By default
            the headers `Retry-After`, `retry-after-ms`, `RateLimit` and `X-RateLimit-Reset` are
            read, or an attribute `retry_after`, of it or of its cause. No jitter is added.
        budget: a limit to all retries, shared with other handlers.
        max_retry_after: the longest delay a failure may ask for, in seconds. If it asks for
            more it is not retried: to come back sooner than asked is of no use. A breaker or a
            bulkhead that rejects may ask for no more than `max_delay`, unless `wait_from` says
            otherwise.
        before_retry: a step before each attempt but the first, after the delay: it is given the
            `RetryDetails`, and may log in again, say. If it fails, that attempt has failed, as
            if the call had raised its error. A coroutine function is awaited in async calls, and
            refused with TypeError in plain ones.
        count_calls: whether `get_stats` counts all calls, and not only those that are retried.
        reraise: whether the last error itself is raised when no attempt is left, and not
            RetryExhaustedError from it.

    What is no `Exception` (cancellation, KeyboardInterrupt, …) is never retried.
    Raises ConfigurationError or TypeError for a value that makes no sense.
    """

    max_attempts: int = 3
    base_delay: float = 1.0
    max_delay: float = 60.0
    exponential_multiplier: float = 2.0
    jitter: Jitter = True
    retryable_exceptions: validation.ExceptionTypes = (Exception,)
    max_elapsed: float | None = None
    is_retryable: Callable[[Any], bool] | None = None
    retry_on_result: Callable[[Any], bool] | None = None
    wait_from: Callable[[Any], float | None] | None = None
    budget: RetryBudget | None = None
    max_retry_after: float = 300.0
    reraise: bool = False
    before_retry: Callable[[RetryDetails], object] | None = None
    count_calls: bool = False

    def __post_init__(self) -> None:
        validation.integer("max_attempts", self.max_attempts, low=1)
        validation.number("base_delay", self.base_delay)
        validation.number("max_delay", self.max_delay)
        validation.number("exponential_multiplier", self.exponential_multiplier, low=1.0)
        validation.one_of("jitter", self.jitter, JITTERS)
        types = validation.exception_types("retryable_exceptions", self.retryable_exceptions)
        object.__setattr__(self, "retryable_exceptions", types)
        validation.boolean("reraise", self.reraise)
        validation.boolean("count_calls", self.count_calls)
        if self.before_retry is not None:
            validation.any_function("before_retry", self.before_retry)
        if self.max_elapsed is not None:
            validation.number("max_elapsed", self.max_elapsed)
        validation.number("max_retry_after", self.max_retry_after)
        for name in ("is_retryable", "retry_on_result", "wait_from"):
            validation.function(name, getattr(self, name))
        if self.budget is not None and not isinstance(self.budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget or None, not {self.budget!r}")
        if self.base_delay > self.max_delay:
            raise ConfigurationError(
                f"base_delay={self.base_delay!r}: at most max_delay={self.max_delay!r} is needed; "
                "give less, or a larger max_delay"
            )

    def retries(self, error: Exception) -> bool:
        """Whether an exception is retried. Calls `is_retryable`."""
        if self.is_retryable is not None:
            return self.is_retryable(error)
        return isinstance(error, self.retryable_exceptions)


class RetryTesting:
    """How retries go in a test; leaving it as a context gives back what was there before."""

    __slots__ = ("_before", "attempts")

    def __init__(self, attempts: int | None, before: RetryTesting | None) -> None:
        self.attempts = attempts
        self._before = before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        global _testing  # noqa: PLW0603  # one for all retries of the process, as it says
        _testing = self._before


_testing: RetryTesting | None = None


def current_testing() -> RetryTesting | None:
    """As last set; None while retries go as configured. Only asked when an attempt has failed."""
    return _testing


def set_retry_testing(testing: bool = True, *, attempts: int | None = None) -> RetryTesting:
    """Let no retry of this process wait, as its tests run; and make at most `attempts`.

    It works at once, and until it is set otherwise; or as a context, which gives back what was
    there before. With `attempts=1` nothing is retried, and with `testing=False` retries go as
    they are configured.

    Examples:
        >>> with set_retry_testing(attempts=2) as testing:
        ...     testing.attempts
        2
    """
    global _testing  # noqa: PLW0603
    if attempts is not None:
        validation.integer("attempts", attempts, low=1)
    before = _testing
    switch = RetryTesting(attempts, before)
    _testing = switch if validation.boolean("testing", testing) else None
    return switch

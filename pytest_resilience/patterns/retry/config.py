"""What is retried, how often, after which delays, and the budget that many callers share.

The delays are backoff and jitter, or what a server asks for.
"""

from __future__ import annotations

import math
import re
import threading

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final
from typing import Literal
from typing import Protocol
from typing import Self

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.locks import OfThisProcess
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation


__all__ = [
    "JITTERS", "Jitter", "RandomSource", "RetryBudget", "RetryConfig", "RetryDetails",
    "RetryTesting", "backoff", "current_testing", "parse_retry_after", "retry_after_of",
    "set_retry_testing", "who_asks", "with_jitter",
]  # fmt: skip

Jitter = Literal["full", "equal", "decorrelated"] | bool
JITTERS: Final = (True, False, "full", "equal", "decorrelated")

_RATE_LIMIT = re.compile("rate-?limit")
_A_DATE = 10**8  # seconds: a rate limit that is over then says since 1970, not from now
_LONGEST_CHAIN = 5  # of errors that caused one another

_PLAIN_SPREAD = 0.1  # jitter=True: 10 % either way


class RandomSource(Protocol):
    """The part of `random.Random` that jitter needs."""

    def uniform(self, a: float, b: float) -> float:
        """A number between `a` and `b`."""


def backoff(attempt: int, base: float, multiplier: float, cap: float) -> float:
    """Seconds after the failed `attempt` (1, 2, …), without jitter: `base * multiplier**n`."""
    try:
        return min(cap, base * multiplier ** (attempt - 1))
    except OverflowError:
        return cap


def with_jitter(
    jitter: Jitter, delay: float, *, base: float, cap: float, previous: float, source: RandomSource
) -> float:
    """`delay` with jitter, in seconds, never more than `cap`.

    Args:
        jitter: True spreads by 10 % either way, "full" over 0..delay, "equal" over
            delay/2..delay, "decorrelated" over base..3*previous; False adds none.
        delay: the seconds of plain backoff, at most `cap`.
        base: the shortest delay of "decorrelated".
        cap: the longest delay.
        previous: the delay before this one; `base` at first.
        source: of random numbers.
    """
    if jitter is False:
        return delay
    if jitter == "full":
        return source.uniform(0.0, delay)
    if jitter == "equal":
        return source.uniform(delay / 2, delay)
    if jitter == "decorrelated":
        return source.uniform(min(base, cap), min(cap, max(base, 3 * previous)))
    return source.uniform(delay * (1 - _PLAIN_SPREAD), min(cap, delay * (1 + _PLAIN_SPREAD)))


# RFC 9110 has whole seconds only, some servers send fractions. What else `float` reads
# ("1e9", "1_0", "nan") is no header's number.
_SECONDS = re.compile(r"[ \t]*-?[0-9]+(\.[0-9]+)?[ \t]*")


def parse_retry_after(value: str, now: float) -> float | None:
    """Seconds from a header's value: a number of them, or an HTTP date (RFC 9110, 10.2.3).

    `now` is in seconds since 1970. What has passed is 0; None for what is neither.
    """
    if _SECONDS.fullmatch(value):
        return max(0.0, float(value))
    from email.utils import parsedate_to_datetime  # 3 ms, for those who meet a date

    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # the zone "-0000", which is UTC too
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def retry_after_of(error_or_result: Any, now: float) -> float | None:
    """The seconds that a response, or an error or its response, asks for; None if it does not.

    Read from the headers of it or of its `response`, as requests, httpx, urllib3, aiohttp and
    botocore have them, from an attribute `retry_after`, or from the error that caused it.
    `now` is in seconds since 1970.
    """
    asked = who_asks(error_or_result, now)
    return None if asked is None else asked[0]


def who_asks(error_or_result: Any, now: float) -> tuple[float, Any] | None:
    """The seconds that it asks for, and who does: it itself, or one of the errors that caused it.

    See `retry_after_of`.
    """
    holder, left = error_or_result, _LONGEST_CHAIN
    while holder is not None and left:
        response = _attribute(holder, "response")
        for each in (holder, response):
            seconds = _of_headers(_headers(each), now)
            if seconds is not None:
                return seconds, holder
        seconds = _seconds(_attribute(holder, "retry_after"), now)
        if seconds is not None:
            return seconds, holder
        holder = _attribute(holder, "__cause__")
        left -= 1
    return None


def _headers(holder: Any) -> dict[str, Any]:
    """With names in small letters: a mapping need not ignore their case, nor be one."""
    found: Any
    if isinstance(holder, dict):  # as a ClientError of botocore has it
        metadata = holder.get("ResponseMetadata")
        found = metadata.get("HTTPHeaders") if isinstance(metadata, dict) else None
    else:
        found = _attribute(holder, "headers")
    try:
        pairs = found if isinstance(found, (list, tuple)) else found.items()
        return {_text(name).lower(): value for name, value in pairs}
    except Exception:
        return {}


def _of_headers(headers: dict[str, Any], now: float) -> float | None:
    """What the first of the headers says that asks for a wait."""
    milliseconds = _seconds(headers.get("retry-after-ms"), now)
    if milliseconds is not None:
        return milliseconds / 1000
    seconds = _seconds(headers.get("retry-after"), now)
    if seconds is not None or not any(_RATE_LIMIT.search(name) for name in headers):
        return seconds
    # The drafts of the IETF, the last ones first; then what came before them.
    spent = _of_rate_limit(_text(headers.get("ratelimit", "")))
    if spent is not None:
        return spent
    for prefix in ("ratelimit", "x-ratelimit", "x-rate-limit"):
        reset_at = _seconds(headers.get(f"{prefix}-reset"), now)
        if reset_at is not None and _text(headers.get(f"{prefix}-remaining", "0")).strip() == "0":
            reset_at /= 1000 if reset_at > _A_DATE * 1000 else 1  # some say it in milliseconds
            return max(0.0, reset_at - now) if reset_at > _A_DATE else reset_at
    return None


def _of_rate_limit(header: str) -> float | None:
    """When the last of the quotas is renewed of which nothing remains."""
    quotas = header.split(",") if ";" in header else [header]  # one quota, in the older drafts
    resets = [
        float(reset[2])
        for quota in quotas
        if re.search(r"\b(r|remaining)=0\b", quota)
        and (reset := re.search(r"\b(t|reset)=(\d+)", quota))
    ]
    return max(resets, default=None)


def _seconds(value: Any, now: float) -> float | None:
    """A number, a time span, a moment, or the text of a header, in seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return max(0.0, float(value)) if math.isfinite(value) else None
    if isinstance(value, timedelta):
        return max(0.0, value.total_seconds())
    if isinstance(value, datetime):
        return max(0.0, value.timestamp() - now)
    return parse_retry_after(_text(value), now) if isinstance(value, (str, bytes)) else None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # a property may raise anything: then it says nothing
        return None


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

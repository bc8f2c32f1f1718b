"""When a circuit breaker opens, what counts as a failure, and how it closes again.

Failures are counted in a sliding window: the outcomes of the latest calls, by number or by time.
The windows are resilience4j's COUNT_BASED and TIME_BASED ones, the second by a ring of buckets with
a total of each. Both take constant time for a call, and no lock for one that ends well.
"""

from __future__ import annotations

import itertools
import math
import operator
import sys

from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.patterns import validation


__all__ = ["CircuitBreakerConfig", "CountWindow", "Outcome", "TimeWindow", "Window"]

_BUCKETS = 10  # of a time window: it slides by tenths of its length
_PLENTY = sys.maxsize  # calls: never that many


class CountWindow:
    """The last `size` calls.

    Calls are numbered. Of those that were neither failed nor slow nothing is kept: they are those
    numbers that are missing.

    Attributes:
        failures: how many of them failed.
        slow: how many of them were slow.
        quick: takes quick successes, until it is exhausted, without a lock: `next` of it is one
            step of the interpreter.
        until: the monotonic seconds up to which `quick` may be used.
    """

    until = math.inf

    def __init__(self, size: int) -> None:
        self._size = size
        self.clear()

    def clear(self) -> None:
        self.failures = self.slow = 0
        self._bad: deque[tuple[int, bool, bool]] = deque()  # number, failed, slow
        # The number of the last call that `quick` can take. The next one is to look whether all
        # are well by now, in its turn.
        self._last = self._size - 1
        self.quick = itertools.repeat(None, self._last)

    @property
    def _total(self) -> int:
        return self._last - operator.length_hint(self.quick)

    @property
    def calls(self) -> int:
        """How many there are."""
        return min(self._size, self._total)

    @property
    def settled(self) -> bool:
        """Whether one more quick success would change nothing."""
        return not self._bad and self._total >= self._size

    def record(self, now: float, failed: bool = False, slow: bool = False) -> None:
        """Add a call that has just ended."""
        if next(self.quick, True):
            self._last += self._size
            self.quick = itertools.repeat(None, self._size - 1)  # one is for this call
        if failed or slow:
            self.failures += failed
            self.slow += slow
            self._bad.append((self._total, failed, slow))
        self.forget(now)

    def forget(self, now: float) -> None:  # noqa: ARG002
        """Remove the calls that others have followed by now."""
        bad, oldest = self._bad, self._total - self._size
        while bad and bad[0][0] <= oldest:
            _, failed, slow = bad.popleft()
            self.failures -= failed
            self.slow -= slow

    def recount(self) -> None:
        """In a forked child: another thread may have been in the middle of counting."""
        self.failures = sum(failed for _, failed, _ in self._bad)
        self.slow = sum(slow for _, _, slow in self._bad)

    def dump(self) -> list[Any]:
        """What it holds, for `restore`."""
        gone = max(0, self._total - self._size)
        return [self._total - gone, [(number - gone, *how) for number, *how in self._bad]]

    def restore(self, dumped: list[Any]) -> None:
        """Hold what another held, of these the latest."""
        total, bad = dumped
        gone = max(0, total - self._size)
        self.clear()
        self._last, self.quick = total - gone, itertools.repeat(None, 0)
        for number, failed, slow in bad:
            self._bad.append((number - gone, failed, slow))
            self.failures += failed
            self.slow += slow
        self.forget(0.0)


class _Bucket:
    """A tenth of a time window: its number, and how the calls of that time ended."""

    __slots__ = ("counted", "failures", "number", "quick", "slow", "until")

    def __init__(self, number: int, step: float) -> None:
        self.number = number
        # A call that ends before is of this tenth, or of an earlier one. Less than the tenth, for
        # `now // step` may round otherwise.
        self.until = (number + 1) * step * (1 - 1e-12)
        self.counted = self.failures = self.slow = 0
        self.quick = itertools.repeat(None, _PLENTY)

    @property
    def calls(self) -> int:
        return self.counted + _PLENTY - operator.length_hint(self.quick)


class TimeWindow:
    """The calls of the last `seconds`, to a tenth of it; attributes as of `CountWindow`."""

    settled = False  # a success always changes it: it is the call's time that counts

    def __init__(self, seconds: float) -> None:
        self._step = seconds / _BUCKETS
        self._buckets: deque[_Bucket] = deque()
        self.failures = self.slow = 0

    @property
    def calls(self) -> int:
        return sum(bucket.calls for bucket in self._buckets)

    @property
    def quick(self) -> Iterator[None]:
        return self._buckets[-1].quick if self._buckets else iter(())

    @property
    def until(self) -> float:
        """When the tenth of the latest call is over: nothing is forgotten before."""
        return self._buckets[-1].until if self._buckets else -math.inf

    def record(self, now: float, failed: bool = False, slow: bool = False) -> None:
        """Add a call that ended at `now`, monotonic seconds; forget those too old."""
        self.forget(now)
        number = int(now // self._step)
        # A thread that read the clock first may arrive later: its call joins the newest bucket.
        if not self._buckets or self._buckets[-1].number < number:
            self._buckets.append(_Bucket(number, self._step))
        bucket = self._buckets[-1]
        bucket.counted += 1
        bucket.failures += failed
        bucket.slow += slow
        self.failures += failed
        self.slow += slow

    def forget(self, now: float) -> None:
        """Remove the calls that are too old at `now`."""
        oldest = int(now // self._step) - _BUCKETS
        while self._buckets and self._buckets[0].number <= oldest:
            bucket = self._buckets.popleft()
            self.failures -= bucket.failures
            self.slow -= bucket.slow

    def recount(self) -> None:
        """Do as that of `CountWindow`."""
        self.failures = sum(bucket.failures for bucket in self._buckets)
        self.slow = sum(bucket.slow for bucket in self._buckets)

    def clear(self) -> None:
        self._buckets.clear()
        self.failures = self.slow = 0

    def dump(self) -> list[list[int]]:
        """What it holds, for `restore`."""
        return [[each.number, each.calls, each.failures, each.slow] for each in self._buckets]

    def restore(self, dumped: list[list[int]]) -> None:
        """Hold what another of the same length held."""
        self.clear()
        for number, calls, failures, slow in dumped:
            bucket = _Bucket(number, self._step)
            bucket.counted, bucket.failures, bucket.slow = calls, failures, slow
            self._buckets.append(bucket)
            self.failures += failures
            self.slow += slow


Window = CountWindow | TimeWindow


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

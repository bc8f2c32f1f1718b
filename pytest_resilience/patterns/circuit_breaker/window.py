"""Sliding windows: the outcomes of the latest calls, by number or by time.

They are resilience4j's COUNT_BASED and TIME_BASED windows: a ring of outcomes, and a ring of
buckets with a total of each. Both take constant time and space for a call.
"""

from __future__ import annotations

import itertools
import operator
import sys

from collections import deque


__all__ = ["CountWindow", "TimeWindow", "Window"]

_BUCKETS = 10  # of a time window: it slides by tenths of its length
_PLENTY = sys.maxsize  # calls: never that many


class CountWindow:
    """The last `size` calls.

    Attributes:
        calls: how many there are.
        failures: how many of them failed.
        slow: how many of them were slow.
    """

    def __init__(self, size: int) -> None:
        # 1 for a failure, plus 2 for a slow call; nearly always 0.
        self._outcomes: deque[int] = deque(maxlen=size)
        self._size = size
        self.calls = self.failures = self.slow = 0

    newest = None

    @property
    def settled(self) -> bool:
        """Whether one more quick success would change nothing."""
        return self.calls == self._size and not self.failures and not self.slow

    def record(self, now: float, failed: bool = False, slow: bool = False) -> None:  # noqa: ARG002
        """Add a call that has just ended."""
        if self.calls == self._size:
            oldest = self._outcomes[0]
            if oldest:
                self.failures -= oldest & 1
                self.slow -= oldest >> 1
        else:
            self.calls += 1
        if failed or slow:
            self.failures += failed
            self.slow += slow
            self._outcomes.append(failed + 2 * slow)
        else:
            self._outcomes.append(0)

    def forget(self, now: float) -> None:
        """Nothing: a call here is never too old."""

    def clear(self) -> None:
        self._outcomes.clear()
        self.calls = self.failures = self.slow = 0


class _Bucket:
    """A tenth of a time window: its number, and how the calls of that time ended."""

    __slots__ = ("counted", "failures", "number", "quick", "slow", "until")

    def __init__(self, number: int, step: float) -> None:
        self.number = number
        # A call that ends before is of this tenth, or of an earlier one. Less than the tenth, for
        # `now // step` may round otherwise.
        self.until = (number + 1) * step * (1 - 1e-12)
        self.counted = self.failures = self.slow = 0
        # Takes quick successes without a lock: `next` of it is one step of the interpreter.
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
    def newest(self) -> _Bucket | None:
        """The tenth of the latest call, which forgets nothing before it is over."""
        return self._buckets[-1] if self._buckets else None

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

    def clear(self) -> None:
        self._buckets.clear()
        self.failures = self.slow = 0


Window = CountWindow | TimeWindow

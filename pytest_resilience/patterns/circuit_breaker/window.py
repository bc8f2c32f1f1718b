"""Sliding windows: the outcomes of the latest calls, by number or by time.

They are resilience4j's COUNT_BASED and TIME_BASED windows, the second by a ring of buckets with a
total of each. Both take constant time for a call, and no lock for one that ends well.
"""

from __future__ import annotations

import itertools
import math
import operator
import sys

from collections import deque
from collections.abc import Iterator
from typing import Any


__all__ = ["CountWindow", "TimeWindow", "Window"]

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

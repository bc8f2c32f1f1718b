"""Sliding windows: the outcomes of the latest calls, by number or by time.

They are resilience4j's COUNT_BASED and TIME_BASED windows: a ring of outcomes, and a ring of
buckets with a total of each. Both take constant time and space for a call.
"""

from __future__ import annotations

from collections import deque


__all__ = ["CountWindow", "TimeWindow", "Window"]

_BUCKETS = 10  # of a time window: it slides by tenths of its length


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


class TimeWindow:
    """The calls of the last `seconds`, to a tenth of it; attributes as of `CountWindow`."""

    settled = False  # a success always changes it: it is the call's time that counts

    def __init__(self, seconds: float) -> None:
        self._step = seconds / _BUCKETS
        # Of each tenth: its number, calls, failures, slow calls.
        self._buckets: deque[list[int]] = deque()
        self.calls = self.failures = self.slow = 0

    def record(self, now: float, failed: bool = False, slow: bool = False) -> None:
        """Add a call that ended at `now`, monotonic seconds; forget those too old."""
        self.forget(now)
        number = int(now // self._step)
        # A thread that read the clock first may arrive later: its call joins the newest bucket.
        if not self._buckets or self._buckets[-1][0] < number:
            self._buckets.append([number, 0, 0, 0])
        bucket = self._buckets[-1]
        bucket[1] += 1
        bucket[2] += failed
        bucket[3] += slow
        self.calls += 1
        self.failures += failed
        self.slow += slow

    def forget(self, now: float) -> None:
        """Remove the calls that are too old at `now`."""
        oldest = int(now // self._step) - _BUCKETS
        while self._buckets and self._buckets[0][0] <= oldest:
            _, calls, failures, slow = self._buckets.popleft()
            self.calls -= calls
            self.failures -= failures
            self.slow -= slow

    def clear(self) -> None:
        self._buckets.clear()
        self.calls = self.failures = self.slow = 0


Window = CountWindow | TimeWindow

"""A bulkhead that limits how many calls run at once, in the callers' own threads and tasks."""

from __future__ import annotations

import functools
import math
import threading

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any
from typing import ParamSpec
from typing import Self
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.events import Listeners
from pytest_resilience.patterns.bulkhead_config import BulkheadConfig
from pytest_resilience.patterns.bulkhead_events import BulkheadRejection
from pytest_resilience.patterns.bulkhead_events import Rejections
from pytest_resilience.patterns.calls import CallKind
from pytest_resilience.patterns.calls import kind_of


__all__ = ["SemaphoreBulkhead"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class SemaphoreBulkhead:
    """Lets at most `max_concurrent` calls run at once; threads and tasks share the places.

    A caller that finds none free waits up to `max_wait` seconds, in the order of arrival
    whatever it is, thread or task; tasks wait without blocking their loop. That wait is of
    real time: it ends when another caller leaves, not when a clock says so.

    Attributes:
        config: as given.
        name: what errors and events call it.
        listeners: told of every `BulkheadRejection`.
    """

    def __init__(
        self,
        config: BulkheadConfig | None = None,
        *,
        name: str = "semaphore",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.config = config or BulkheadConfig()
        self.name = name
        self.listeners = Listeners()
        self._rejections = Rejections(name, self.listeners)
        self._clock = clock
        self._limit = self.config.max_concurrent
        # Seconds; None for ever.
        self._patience = None if self.config.max_wait == math.inf else self.config.max_wait
        self._lock = threading.Lock()
        # Two that only grow: what is between them is in use.
        self._acquired = 0
        self._released = 0
        self._rejected = 0
        # Each is told once that a place is its own.
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def rejections(self) -> tuple[BulkheadRejection, ...]:
        """The latest rejections, at most 100, oldest first."""
        return self._rejections.recent

    def acquire(self) -> None:
        """Take a place, waiting for it if need be. Raises BulkheadRejectedError."""
        event = threading.Event() if self._patience != 0 else None
        if self._take_or_queue(None if event is None else event.set):
            return
        if event is None:
            raise self._full()
        try:
            granted = event.wait(self._patience)
        except BaseException:
            self._give_up(event.set)
            raise
        if not granted and self._leave_line(event.set):
            raise self._full()

    async def acquire_async(self) -> None:
        """Take a place without blocking the loop. Raises BulkheadRejectedError."""
        import asyncio

        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()

        def told() -> None:
            loop.call_soon_threadsafe(_grant, granted)

        if self._take_or_queue(told if self._patience != 0 else None):
            return
        if self._patience == 0:
            raise self._full()
        try:
            async with asyncio.timeout(self._patience):
                await granted
        except TimeoutError:
            if self._leave_line(told):
                raise self._full() from None
        except BaseException:
            self._give_up(told)
            raise

    def _take_or_queue(self, told: Callable[[], None] | None) -> bool:
        """Take a place; False if there was none, and `told`, if any, has joined the line."""
        with self._lock:
            if self._acquired - self._released < self._limit and not self._waiting:
                self._acquired += 1
                return True
            if told is not None:
                self._waiting.append(told)
            return False

    def _leave_line(self, told: Callable[[], None]) -> bool:
        """Stop waiting; False if a place was granted meanwhile."""
        with self._lock:
            try:
                self._waiting.remove(told)
            except ValueError:
                return False
        return True

    def _give_up(self, told: Callable[[], None]) -> None:
        """Stop waiting for good: a place that was granted meanwhile goes to the next."""
        if not self._leave_line(told):
            self.release()

    def release(self) -> None:
        """Give a place back; who has waited longest has it next."""
        with self._lock:
            self._released += 1
            if not self._waiting:
                return
            told = self._waiting.popleft()
            self._acquired += 1
        told()

    def _full(self) -> BulkheadRejectedError:
        with self._lock:
            self._rejected += 1
            active = self._acquired - self._released
        return self._rejections.reject(
            f"is full: {active} of {self._limit} places are taken; try again when a call has ended",
            at=self._clock.monotonic(),
            in_use=active,
            capacity=self._limit,
        )

    def execute(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` in a place of its own; await the result of a coroutine function."""
        return self(func)(*args, **kwargs)

    def __call__(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Limit a function, as a decorator. Raises TypeError for a generator function."""
        kind = kind_of(func)
        if kind is CallKind.COROUTINE:
            return self._awaiting(func)
        if kind is not CallKind.PLAIN:
            raise TypeError(f"{func!r} is a {kind.value} function; limit what consumes it")
        acquire, release, lock = self.acquire, self.release, self._lock
        waiting, limit = self._waiting, self._limit

        # `acquire` and `release`, written out for when nobody waits: two calls less.
        @functools.wraps(func)
        def limited(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with lock:
                free = self._acquired - self._released < limit and not waiting
                if free:
                    self._acquired += 1
            if not free:
                acquire()
            try:
                return func(*args, **kwargs)
            finally:
                with lock:
                    alone = not waiting
                    if alone:
                        self._released += 1
                if not alone:
                    release()

        return limited

    def _awaiting(self, func: Callable[_P, Any]) -> Callable[_P, Any]:
        @functools.wraps(func)
        async def limited(*args: _P.args, **kwargs: _P.kwargs) -> Any:
            await self.acquire_async()
            try:
                return await func(*args, **kwargs)
            finally:
                self.release()

        return limited

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def get_stats(self) -> dict[str, Any]:
        """The counts now."""
        with self._lock:
            active = self._acquired - self._released
            return {
                "max_concurrent": self._limit,
                "active_count": active,
                "waiting_count": len(self._waiting),
                "total_acquired": self._acquired,
                "total_rejected": self._rejected,
                "available_permits": self._limit - active,
            }


def _grant(granted: Any) -> None:
    if not granted.done():
        granted.set_result(None)

"""A bulkhead that limits how many calls run at once, in the callers' own threads and tasks."""

from __future__ import annotations

import contextlib
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
from pytest_resilience.patterns.bulkhead.base import Bulkhead
from pytest_resilience.patterns.bulkhead.config import BulkheadConfig
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import kind_of


__all__ = ["SemaphoreBulkhead"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PLAIN, _COROUTINE = CallKind.PLAIN, CallKind.COROUTINE

# How often it has been used: only who holds it counts.
_Place = list[int]


class SemaphoreBulkhead(Bulkhead):
    """Lets at most `max_concurrent` calls run at once; threads and tasks share the places.

    A caller that finds none free waits up to `max_wait` seconds, in the order of arrival
    whatever it is, thread or task; tasks wait without blocking their loop. That wait is of
    real time: it ends when another caller leaves, not when a clock says so.
    """

    def __init__(
        self,
        config: BulkheadConfig | None = None,
        *,
        name: str = "semaphore",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(config, name, clock)
        # Seconds; None for ever.
        self._patience = None if self.config.max_wait == math.inf else self.config.max_wait
        # Made when first needed. They are taken and given back without the lock, in one step
        # of the interpreter; who joins the line, or finds one there, looks again under it.
        self._places: list[_Place] = []
        self._free: deque[_Place] = deque()
        self._line: deque[_Waiting] = deque()
        # By `acquire`, whose caller does not know which.
        self._taken: deque[_Place] = deque()

    def acquire(self) -> None:
        """Take a place, waiting for it if need be. Raises BulkheadRejectedError."""
        self._taken.append(self._take_free() or self._take())

    async def acquire_async(self) -> None:
        """Take a place without blocking the loop. Raises BulkheadRejectedError."""
        self._taken.append(self._take_free() or await self._take_async())

    def release(self) -> None:
        """Give a place back; who has waited longest has it next. RuntimeError if none is taken."""
        try:
            place = self._taken.pop()
        except IndexError:
            raise RuntimeError(f"{self.name}: no place is taken that could be released") from None
        self._give(place)

    def _take_free(self) -> _Place | None:
        """A place, if there is one that nobody waits for."""
        if self._line or not self._free:
            return None
        try:
            place = self._free.pop()
        except IndexError:  # another thread has had it
            return None
        place[0] += 1
        return place

    def _take(self) -> _Place:
        if self._patience == 0:
            return self._take_now()
        event = threading.Event()
        waiting = self._join_line(event.set)
        if waiting.place is None:
            try:
                event.wait(self._patience)
            except BaseException:
                self._give_up(waiting)
                raise
        return self._leave_line(waiting)

    async def _take_async(self) -> _Place:
        if self._patience == 0:
            return self._take_now()
        import asyncio

        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        waiting = self._join_line(lambda: _tell(loop, told))
        if waiting.place is None:
            try:
                async with asyncio.timeout(self._patience):
                    await told.wait()
            except TimeoutError:
                pass
            except BaseException:
                self._give_up(waiting)
                raise
        return self._leave_line(waiting)

    def _take_now(self) -> _Place:
        """A place, without waiting: then there is no line. Raises BulkheadRejectedError."""
        with self._lock:
            place = self._free_place()
            if place is None:
                self._rejected += 1
        if place is None:
            raise self._full()
        place[0] += 1
        return place

    def _join_line(self, tell: Callable[[], Any]) -> _Waiting:
        waiting = _Waiting(tell)
        self._line.append(waiting)
        self._serve()
        return waiting

    def _leave_line(self, waiting: _Waiting) -> _Place:
        """The place that was given. Raises BulkheadRejectedError if none was."""
        with self._lock:
            if waiting.place is None:
                self._line.remove(waiting)
                self._rejected += 1
        if waiting.place is None:
            raise self._full()
        return waiting.place

    def _give_up(self, waiting: _Waiting) -> None:
        """Stop waiting; a place that was given meanwhile goes to the next."""
        with self._lock:
            if waiting.place is None:
                self._line.remove(waiting)
                return
        self._give(waiting.place)

    def _give(self, place: _Place) -> None:
        self._free.append(place)
        if self._line:
            self._serve()

    def _serve(self) -> None:
        """Give the free places to those who wait, in the order of their arrival."""
        served = []
        with self._lock:
            while self._line and (place := self._free_place()) is not None:
                waiting = self._line.popleft()
                waiting.place = place
                place[0] += 1
                served.append(waiting)
        for waiting in served:
            waiting.tell()

    def _free_place(self) -> _Place | None:
        if self._free:
            try:
                return self._free.pop()
            except IndexError:  # as above
                pass
        if len(self._places) == self._limit:
            return None
        place = [0]
        self._places.append(place)
        return place

    def _active(self) -> int:
        return len(self._places) - len(self._free)

    def _full(self) -> BulkheadRejectedError:
        active = self._active()
        return self._reject(
            f"is full: {active} of {self._limit} places are taken; try again when a call has ended",
            in_use=active,
            capacity=self._limit,
        )

    @calls_first_argument
    def execute(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` in a place of its own; await the result of a coroutine function.

        Raises TypeError for a generator function.
        """
        kind = kind_of(func, args)
        if kind is not _PLAIN:
            _check(func, kind)
            return self._await(func, args, kwargs)  # type: ignore[return-value]
        place = self._take_free() or self._take()
        try:
            return func(*args, **kwargs)
        finally:
            self._free.append(place)
            if self._line:
                self._serve()

    async def _await(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        place = self._take_free() or await self._take_async()
        try:
            return await func(*args, **kwargs)
        finally:
            self._free.append(place)
            if self._line:
                self._serve()

    def __call__(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Limit a function, as a decorator. Raises TypeError for a generator function."""
        kind = kind_of(func)
        if kind is not _PLAIN:
            _check(func, kind)

            @functools.wraps(func)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                return await self._await(func, args, kwargs)

            return awaited  # type: ignore[return-value]
        take, give, serve, line = self._take, self._free.append, self._serve, self._line
        take_free = self._free.pop

        @functools.wraps(func)
        def limited(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            # `_take_free` and `_give`, written out for when nobody waits: two calls less.
            try:
                place = None if line else take_free()
            except IndexError:
                place = None
            if place is None:
                place = take()
            else:
                place[0] += 1
            try:
                return func(*args, **kwargs)
            finally:
                give(place)
                if line:
                    serve()

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
        active = self._active()
        return {
            "max_concurrent": self._limit,
            "active_count": active,
            "waiting_count": len(self._line),
            "total_acquired": sum(used for (used,) in self._places),
            "total_rejected": self._rejected,
            "available_permits": self._limit - active,
        }


def _check(func: Callable[..., Any], kind: CallKind) -> None:
    if kind is not _COROUTINE:
        raise TypeError(f"{func!r} is a {kind.value} function; limit what consumes it")


class _Waiting:
    """Somebody in line; told, in whatever way it waits, when there is a place for it."""

    __slots__ = ("place", "tell")

    def __init__(self, tell: Callable[[], Any]) -> None:
        self.place: _Place | None = None
        self.tell = tell


def _tell(loop: Any, told: Any) -> None:
    # A loop that has been closed meanwhile has nobody left to tell.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(told.set)

"""A bulkhead that runs calls in threads of its own, so callers need not wait until they end."""

from __future__ import annotations

import contextvars
import functools

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import TimeLimitExceededError
from pytest_resilience.events import describe
from pytest_resilience.patterns.bulkhead.base import Bulkhead
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import close_unawaited
from pytest_resilience.patterns.callables import innermost
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of


__all__ = ["ThreadPoolBulkhead"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PLAIN = CallKind.PLAIN


class ThreadPoolBulkhead(Bulkhead):
    """Runs at most `max_concurrent` calls in a pool, while `queue_size` more may wait.

    A caller waits `timeout` seconds of real time for its result. What has not begun by then
    never will. What runs cannot be stopped, and keeps its thread until it really ends, as
    `get_stats` shows. Calls see the context variables of their callers.
    """

    _default_name = "thread pool"

    def _set_up(self) -> None:
        self._executor = ThreadPoolExecutor(self._limit, thread_name_prefix=self.name)
        self._accepted = 0  # calls that run or wait
        self._active = 0
        self._completed = 0
        self._timed_out = 0
        self._closed = False

    def submit(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Run `func` in the pool. Raises BulkheadRejectedError or ShutdownError.

        Raises TypeError for anything but a plain function: coroutines belong to their loop.
        """
        kind = kind_of(func, args)
        if kind is not _PLAIN:
            raise TypeError(
                f"{innermost(func, args)!r} is a {kind.value} function, which a thread cannot "
                "run; use a SemaphoreBulkhead"
            )
        capacity = self._limit + self.config.queue_size
        with self._lock:
            if self._closed:
                raise ShutdownError(f"{self.name} has been shut down; make a new bulkhead")
            accepted, in_use = self._accepted < capacity, self._accepted
            self._accepted += accepted
            self._rejected += not accepted
        if not accepted:
            raise self._rejection(in_use, capacity, "calls run or wait")
        context = contextvars.copy_context()
        call = functools.partial(func, *args, **kwargs)
        try:
            future = self._executor.submit(context.run, self._run, call)
        except RuntimeError:  # shut down since
            self._ended()
            raise ShutdownError(f"{self.name} has been shut down; make a new bulkhead") from None
        future.add_done_callback(lambda _: self._ended())
        return future

    def _run(self, call: functools.partial[_R]) -> _R:
        with self._lock:
            self._active += 1
        try:
            result = call()
        finally:
            with self._lock:
                self._active -= 1
                self._completed += 1
        if is_awaitable(result):
            close_unawaited(result)
            raise TypeError(
                f"{call.func!r} returned {describe(result)}, which a thread cannot run; use a "
                "SemaphoreBulkhead"
            )
        return result

    def _ended(self) -> None:
        with self._lock:
            self._accepted -= 1

    def execute(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` in the pool and wait for its result.

        Raises BulkheadRejectedError when there is no room, TimeLimitExceededError when the
        result is not there in time, ShutdownError after `shutdown`, else what `func` raises.
        """
        future = self.submit(func, *args, **kwargs)
        limit = self.config.timeout
        try:
            return future.result(None if limit == float("inf") else limit)
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it ended just now, or raised a TimeoutError itself
            raise self._timed_out_error(future) from None

    async def execute_async(
        self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Call a plain function in the pool and await its result. Raises as `execute` does."""
        import asyncio

        future = self.submit(func, *args, **kwargs)
        waiting = asyncio.wrap_future(future)
        limit = self.config.timeout
        done, _ = await asyncio.wait({waiting}, timeout=None if limit == float("inf") else limit)
        if done:
            return waiting.result()
        waiting.cancel()
        raise self._timed_out_error(future)

    def _timed_out_error(self, future: Future[Any]) -> TimeLimitExceededError:
        never = future.cancel()
        with self._lock:
            self._timed_out += 1
        limit = self.config.timeout
        fate = "it had not begun and never will" if never else "it still runs and keeps its thread"
        return TimeLimitExceededError(
            f"no result from {self.name} within {limit:g} s; {fate}", limit=limit
        )

    def __call__(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Run a plain function in the pool whenever it is called, as a decorator."""

        @functools.wraps(func)
        def pooled(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            return self.execute(func, *args, **kwargs)

        return pooled

    def get_stats(self) -> dict[str, Any]:
        """The counts now; a call that timed out is active until it really ends."""
        with self._lock:
            return {
                "max_concurrent": self._limit,
                "active_tasks": self._active,
                "queued_tasks": self._accepted - self._active,
                "completed_tasks": self._completed,
                "rejected_tasks": self._rejected,
                "timed_out_tasks": self._timed_out,
                "utilization": self._active / self._limit,
            }

    def shutdown(self, *, wait: bool = True) -> None:
        """Accept no more calls, cancel those that wait and, with `wait`, wait for the others."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=wait, cancel_futures=True)

"""A bulkhead that runs calls in threads of its own, so callers need not wait until they end."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import threading
import weakref

from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty
from queue import SimpleQueue
from typing import Any
from typing import ParamSpec
from typing import Self
from typing import TypeVar

from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import TimeLimitExceededError
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe
from pytest_resilience.locks import living
from pytest_resilience.patterns.bulkhead.base import Bulkhead
from pytest_resilience.patterns.bulkhead.base import BulkheadType
from pytest_resilience.patterns.callables import FINISHED
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import close_unawaited
from pytest_resilience.patterns.callables import innermost
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.event_loops import explain_missing_loop
from pytest_resilience.patterns.event_loops import outcome_of
from pytest_resilience.patterns.event_loops import wait_for


__all__ = ["ThreadPoolBulkhead"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PLAIN = CallKind.PLAIN

_open: weakref.WeakKeyDictionary[ThreadPoolBulkhead, None] = weakref.WeakKeyDictionary()


class _Workers:
    """The threads of a pool and what they have to do; a forked child starts with none."""

    __slots__ = ("__weakref__", "accepted", "active", "awaited", "calls", "running", "threads")

    def __init__(self) -> None:
        self.calls: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.running: set[int] = set()  # idents of the threads that run a call
        self.awaited: dict[int, _Call[Any]] = {}  # what some of these threads wait for, by ident
        self.accepted = 0  # calls that run or wait
        self.active = 0

    def is_stuck(self) -> bool:
        """Whether all threads wait for calls that only one of them could run."""
        waits = len(self.awaited) >= len(self.threads)
        return waits and not any(call.done() for call in self.awaited.values())

    def stop(self) -> None:
        """Let the threads end, each when it finds nothing more to do."""
        for _ in self.threads:
            self.calls.put(None)


class _Call(Future[_R]):
    """A call that waits for a thread, or runs in it."""

    def __init__(self, pool: ThreadPoolBulkhead, call: Callable[[], _R]) -> None:
        super().__init__()
        self.pool: ThreadPoolBulkhead | None = pool
        self.workers = pool._workers  # noqa: SLF001
        self.context = contextvars.copy_context()
        self.call = call

    def cancel(self) -> bool:
        """Give its place back at once, if it has not begun."""
        cancelled = super().cancel()
        pool = self.pool
        if cancelled and pool is not None:
            with pool._lock:  # noqa: SLF001
                # Cancelled twice, it had one place to give back.
                self.workers.accepted -= self.pool is not None
                self.pool = None
        return cancelled

    def result(self, timeout: float | None = None) -> _R:
        """Wait as any future does; what a pool's own thread would wait for in vain is an error."""
        ended = self._begin_wait()
        try:
            return super().result(timeout)
        finally:
            if ended is not None:
                ended()
            del self  # an error's traceback holds this frame: a cycle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `result` does."""
        ended = self._begin_wait()
        try:
            return super().exception(timeout)
        finally:
            if ended is not None:
                ended()

    def _begin_wait(self) -> Callable[[], object] | None:
        """What to call when the wait is over, if it is one of the pool's own threads that waits."""
        pool, workers, ident = self.pool, self.workers, threading.get_ident()
        if pool is None or ident not in workers.running or self.done():
            return None
        with pool._lock:  # noqa: SLF001
            workers.awaited[ident] = self
            stuck, threads = workers.is_stuck(), len(workers.threads)
            if stuck:  # this thread is about to raise, and does not wait
                del workers.awaited[ident]
        if stuck:
            raise pool._full(threads, nested=True)  # noqa: SLF001
        return functools.partial(workers.awaited.pop, ident, None)

    def run(self, pool: ThreadPoolBulkhead, ident: int) -> None:
        """Run in a thread of the pool; whoever waits is told when its place is free again."""
        workers, lock = self.workers, pool._lock  # noqa: SLF001
        with lock:
            workers.active += 1
            workers.running.add(ident)
        result, error = None, None
        try:
            result = self.context.run(self.call)
            if type(result) not in FINISHED and is_awaitable(result):
                close_unawaited(result)
                raise TypeError(
                    f"{describe(self.call)} returned {describe(result)}, which a thread cannot "
                    "run; use a SemaphoreBulkhead"
                )
        except BaseException as raised:
            error = raised
            explain_missing_loop(error)
        # Before the result is there: who gets it may call again at once, and finds the place free.
        with lock:
            workers.active -= 1
            workers.accepted -= 1
            workers.running.discard(ident)
            pool._completed += 1  # noqa: SLF001
        self.pool = None
        if error is None:
            self.set_result(result)  # type: ignore[arg-type]
        else:
            self.set_exception(error)
        del self, error  # the error's traceback holds this frame: a cycle


class ThreadPoolBulkhead(Bulkhead):
    """Runs at most `max_concurrent` calls in a pool, while `queue_size` more may wait.

    A caller waits `timeout` seconds of real time for its result. What has not begun by then
    never will. What runs cannot be stopped, and keeps its thread until it really ends, as
    `get_stats` shows. Calls see the context variables of their callers. Functions that are not
    plain are refused: a thread cannot run them.

    Leaving `with pool:` shuts it down. A pool that is never shut down is waited for at the end
    of the process. After `shutdown(wait=False)` nothing is: what runs by then is given up. A
    forked child has a pool of its own, with threads of its own.
    """

    _default_name = "thread pool"
    _kind = BulkheadType.THREAD_POOL

    def _set_up(self) -> None:
        self._workers = fork_safe(self, "_workers", _Workers)
        self._completed = 0
        self._timed_out = 0
        self._closed = False
        self._capacity = self._limit + self.config.queue_size
        _open[self] = None

    def __del__(self) -> None:
        workers = getattr(self, "_workers", None)  # none where `__init__` has failed
        if workers is not None:
            workers.stop()

    def submit(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Run `func` in the pool. Raises BulkheadRejectedError or ShutdownError.

        `result` of the future raises BulkheadRejectedError, at once, where it would wait for ever:
        in a thread of the pool while all others wait so too.
        Raises TypeError for anything but a plain function: coroutines belong to their loop.
        """
        _refuse_others(func, args)
        self._check_plain()
        return self._submit(functools.partial(func, *args, **kwargs), waits=False)

    def _submit(self, call: Callable[[], _R], *, waits: bool) -> _Call[_R]:
        """`waits`: whether the thread that asks waits for the result."""
        with self._lock:
            if self._closed:
                raise ShutdownError(f"{self.name} has been shut down; make a new bulkhead")
            workers = self._workers
            in_use = workers.accepted
            nested = waits and in_use >= self._limit and threading.get_ident() in workers.running
            if not nested and in_use < self._capacity:
                if in_use >= len(workers.threads) < self._limit:
                    self._start_thread(workers)
                workers.accepted += 1
                future = _Call(self, call)
                workers.calls.put(future)
                return future
            self._rejected += 1
        raise self._full(in_use, nested=nested)

    def _full(self, in_use: int, *, nested: bool) -> BulkheadRejectedError:
        if nested:
            unit = "threads are taken, one by the caller, which would wait for itself"
            return self._rejection(in_use, self._limit, unit)
        return self._rejection(in_use, self._capacity, "calls run or wait")

    def _start_thread(self, workers: _Workers) -> None:
        thread = threading.Thread(
            target=_work, args=(workers,), name=f"{self.name}_{len(workers.threads)}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            if not workers.threads:
                raise  # no thread can be had, and there is none to wait for
        else:
            workers.threads.append(thread)

    def execute(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` in the pool and wait for its result.

        Raises BulkheadRejectedError when there is no room, or when the caller runs in this pool
        and no other thread of it is free, TimeLimitExceededError when the result is not there in
        time, ShutdownError after `shutdown`, else what `func` raises.
        """
        _refuse_others(func, args)
        self._check_plain()
        return self._execute(functools.partial(func, *args, **kwargs))

    def _execute(self, call: Callable[[], _R]) -> _R:
        future = self._submit(call, waits=True)
        limit = self.config.timeout
        try:
            return future.result(None if limit == float("inf") else limit)
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it ended just now, or raised a TimeoutError itself
            raise self._timed_out_error(future) from None
        except BaseException:  # KeyboardInterrupt, say: nobody waits for it any more
            future.cancel()
            raise
        finally:
            del future  # the error's traceback holds this frame: a cycle

    async def execute_async(
        self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Call a plain function in the pool and await its result. Raises as `execute` does.

        Whoever is cancelled takes a call along that has not begun.
        """
        _refuse_others(func, args)
        try:
            future = self._submit(functools.partial(func, *args, **kwargs), waits=True)
        except BulkheadRejectedError:
            await self.listeners.notify_async()
            raise
        limit = self.config.timeout
        try:
            in_time = await wait_for(future, None if limit == float("inf") else limit)
        except BaseException:
            future.cancel()
            raise
        if not in_time:
            raise self._timed_out_error(future)
        return outcome_of(future)  # type: ignore[no-any-return]

    def _timed_out_error(self, future: Future[Any]) -> TimeLimitExceededError:
        never = future.cancel()
        with self._lock:
            self._timed_out += 1
        limit = self.config.timeout
        fate = "it had not begun and never will" if never else "it still runs and keeps its thread"
        return TimeLimitExceededError(
            f"no result from {self.name} within {limit:g} s; {fate}", limit=limit
        )

    def _decorate(self, func: Any) -> Any:
        _refuse_others(func, ())
        self.listeners.expect_plain(func)
        execute = self._execute

        @functools.wraps(func)
        def pooled(*args: Any, **kwargs: Any) -> Any:
            return execute(functools.partial(func, *args, **kwargs))

        return pooled

    def get_stats(self) -> dict[str, Any]:
        """The counts now; a call that timed out is active until it really ends."""
        with self._lock:
            workers = self._workers
            return {
                "max_concurrent": self._limit,
                "active_tasks": workers.active,
                "queued_tasks": workers.accepted - workers.active,
                "completed_tasks": self._completed,
                "rejected_tasks": self._rejected,
                "timed_out_tasks": self._timed_out,
                "utilization": workers.active / self._limit,
            }

    def shutdown(self, *, wait: bool = True) -> None:
        """Accept no more calls, cancel those that wait and, with `wait`, wait for the others."""
        self._shut_down(wait=wait, cancel=True)

    def retire(self) -> None:
        """Accept no more calls; those that wait or run end as if nothing had happened."""
        with self._lock:
            workers, closed = self._workers, self._closed
            self._closed = True
        if not closed:
            workers.stop()

    def _shut_down(self, *, wait: bool, cancel: bool) -> None:
        _open.pop(self, None)
        with self._lock:
            workers, closed = self._workers, self._closed
            self._closed = True
        with contextlib.suppress(Empty):
            while cancel:
                future = workers.calls.get_nowait()
                if future is not None:
                    future.cancel()
                    future.set_running_or_notify_cancel()  # for `concurrent.futures.wait`
        if cancel or not closed:  # with the calls, what tells the threads to end was taken out
            workers.stop()
        for thread in workers.threads if wait else ():
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.shutdown()


def _refuse_others(func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    kind = kind_of(func, args)
    if kind is not _PLAIN:
        raise TypeError(
            f"{innermost(func, args)!r} is a {kind.value} function, which a thread cannot "
            "run; use a SemaphoreBulkhead"
        )


def _work(workers: _Workers) -> None:
    """What a thread of a pool does; it keeps no pool alive while it has nothing to do."""
    ident = threading.get_ident()
    while (future := workers.calls.get()) is not None:
        pool = future.pool
        if pool is not None and future.set_running_or_notify_cancel():
            future.run(pool, ident)
        del future, pool


@atexit.register
def _finish() -> None:
    """Wait for what runs, as for threads that are no daemons."""
    for pool in living(_open):
        pool._shut_down(wait=True, cancel=False)  # noqa: SLF001

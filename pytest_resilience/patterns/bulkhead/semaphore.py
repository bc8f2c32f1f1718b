"""A bulkhead that limits how many calls run at once, in the callers' own threads and tasks."""

from __future__ import annotations

import contextlib
import math
import threading

from collections import deque
from collections.abc import Callable
from typing import Any
from typing import ParamSpec
from typing import Self
from typing import TypeVar

from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.locks import renew_in_child
from pytest_resilience.patterns.bulkhead.base import Bulkhead
from pytest_resilience.patterns.bulkhead.base import BulkheadType
from pytest_resilience.patterns.callables import FINISHED
from pytest_resilience.patterns.callables import AwaitableMakers
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import close_unawaited
from pytest_resilience.patterns.callables import generator_error
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import is_future
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.callables import when_done
from pytest_resilience.patterns.callables import wrap
from pytest_resilience.patterns.event_loops import Waker


__all__ = ["SemaphoreBulkhead"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PLAIN, _COROUTINE = CallKind.PLAIN, CallKind.COROUTINE
_NO_GENERATORS = "limit what consumes it"

# How many calls have used it: a count that only its holder changes, so it needs no lock. Empty
# for one of the process that this one was forked from.
_Slot = list[int]


class SemaphoreBulkhead(Bulkhead):
    """Lets at most `max_concurrent` calls run at once; threads and tasks share the slots.

    A caller that finds none free waits up to `max_wait` seconds, in the order of arrival
    whatever it is, thread or task. Tasks wait without blocking their loop. That wait is of
    real time: it ends when another caller leaves, not when a clock says so. Generator functions
    are refused: one that is never finished would keep its slot.
    """

    _default_name = "semaphore"
    _kind = BulkheadType.SEMAPHORE

    def _set_up(self) -> None:
        # Seconds; None for ever.
        self._max_wait = None if self.config.max_wait == math.inf else self.config.max_wait
        # Slots are made when first needed. Callers take and return free ones without the lock:
        # to append to a deque, or pop from it, is one step of the interpreter. Who joins the
        # waiters, or finds some after returning a slot, looks again under the lock.
        self._slots: list[_Slot] = []
        self._free: deque[_Slot] = deque()
        self._waiters: deque[_Waiter] = deque()
        # Those taken by `acquire`, whose caller does not know which.
        self._acquired: deque[_Slot] = deque()
        self._makers = AwaitableMakers()
        renew_in_child(self, "_renew")

    def _renew(self) -> None:
        for slot in self._slots:
            slot.clear()  # who returns it in the child has taken it in the parent
        for each in (self._slots, self._free, self._waiters, self._acquired):
            each.clear()

    def acquire(self) -> None:
        """Take a slot, waiting for it if need be. Raises BulkheadRejectedError."""
        self._acquired.append(self._take_free() or self._take())

    async def acquire_async(self) -> None:
        """Take a slot without blocking the loop. Raises BulkheadRejectedError."""
        self._acquired.append(self._take_free() or await self._take_async())

    def release(self) -> None:
        """Return a slot; who has waited longest gets it. RuntimeError if none is taken."""
        try:
            slot = self._acquired.pop()
        except IndexError:
            raise RuntimeError(
                f"{self.name}: no slot is taken that could be released; release once after each "
                "acquire, or use `with`"
            ) from None
        self._return(slot)

    def _take_free(self) -> _Slot | None:
        """A slot, if there is one that nobody waits for."""
        if self._waiters or not self._free:
            return None
        try:
            slot = self._free.pop()
            slot[0] += 1
        except IndexError:  # another thread has taken it, or it is the parent's
            return None
        return slot

    def _take(self) -> _Slot:
        self._check_plain()
        if self._max_wait == 0:
            return self._take_or_reject()
        woken = threading.Event()
        waiter = self._join_waiters(woken.set)
        if waiter.slot is None:
            try:
                woken.wait(self._max_wait)
            except BaseException:
                self._cancel(waiter)
                raise
        return self._slot_of(waiter)

    async def _take_async(self) -> _Slot:
        try:
            return self._take_or_reject() if self._max_wait == 0 else await self._wait_async()
        except BulkheadRejectedError:
            await self.listeners.notify_async()
            raise

    async def _wait_async(self) -> _Slot:
        waker = Waker()
        waiter = self._join_waiters(waker.wake)
        if waiter.slot is None:
            try:
                await waker.wait(self._max_wait)
            except BaseException:
                self._cancel(waiter)
                raise
        return self._slot_of(waiter)

    def _take_or_reject(self) -> _Slot:
        """A slot without waiting: with `max_wait` 0 nobody does. Raises BulkheadRejectedError."""
        with self._lock:
            slot = self._free_or_new()
            if slot is not None:
                slot[0] += 1
                return slot
            self._rejected += 1
        raise self._rejection(self._in_use(), self._limit, "slots are taken")

    def _join_waiters(self, wake: Callable[[], Any]) -> _Waiter:
        waiter = _Waiter(wake)
        self._waiters.append(waiter)
        self._serve()
        return waiter

    def _slot_of(self, waiter: _Waiter) -> _Slot:
        """The slot a waiter was given. Raises BulkheadRejectedError if none was in time."""
        with self._lock:
            if waiter.slot is not None:
                return waiter.slot
            self._waiters.remove(waiter)
            self._rejected += 1
        raise self._rejection(self._in_use(), self._limit, "slots are taken")

    def _cancel(self, waiter: _Waiter) -> None:
        """Stop waiting; a slot that was given meanwhile goes to the next."""
        with self._lock:
            if waiter.slot is None:
                self._waiters.remove(waiter)
                return
        self._return(waiter.slot)

    def _return(self, slot: _Slot) -> None:
        self._free.append(slot)
        if self._waiters:
            self._serve()

    def _serve(self) -> None:
        """Give the free slots to those who wait, in the order of their arrival."""
        served = []
        with self._lock:
            while self._waiters and (slot := self._free_or_new()) is not None:
                waiter = self._waiters.popleft()
                waiter.slot = slot
                slot[0] += 1
                served.append(waiter)
        for waiter in served:
            waiter.wake()

    def _free_or_new(self) -> _Slot | None:
        """A slot that is free, or has not been needed before; under the lock."""
        while self._free:
            with contextlib.suppress(IndexError):  # as in `_take_free`
                slot = self._free.pop()
                if slot:
                    return slot
        if len(self._slots) == self._limit:
            return None
        slot = [0]
        self._slots.append(slot)
        return slot

    def _in_use(self) -> int:
        return max(0, len(self._slots) - len(self._free))

    @calls_first_argument
    def execute(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` in a slot of its own; await the result of a coroutine function.

        Raises BulkheadRejectedError if there is no slot, TypeError for a generator function.
        """
        kind = kind_of(func, args)
        if kind is _COROUTINE:
            return self._await(func, args, kwargs)  # type: ignore[return-value]
        if kind is not _PLAIN:
            raise generator_error(func, kind, _NO_GENERATORS)
        slot = self._take_free()
        if slot is None:
            begun = self._begin_in_task(func, args, kwargs)
            if begun is not None:
                return begun  # type: ignore[no-any-return]
            slot = self._take()
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)  # type: ignore[call-arg]
        except BaseException:
            self._return(slot)
            raise
        if type(result) not in FINISHED and is_awaitable(result):
            return self._go_on(func, slot, result)  # type: ignore[no-any-return]
        self._free.append(slot)
        if self._waiters:
            self._serve()
        return result

    def _begin_in_task(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that waits without blocking the loop, of a plain function that is known for it."""
        return None if self._max_wait == 0 else self._makers.begin(func, self._await, args, kwargs)

    def _go_on(self, func: Any, slot: _Slot, awaitable: Any) -> Any:
        """What the caller of a plain function gets that has returned something to be awaited."""
        self._makers.note(func, awaitable)
        if is_future(awaitable):  # work that runs already, so it keeps its slot
            when_done(awaitable, lambda _: self._return(slot), lambda _: self._return(slot))
            return awaitable
        slot[0] -= 1  # the call takes one when it really begins
        self._return(slot)
        return self._await_begun(awaitable)

    async def _await_begun(self, awaitable: Any) -> Any:
        try:
            slot = self._take_free() or await self._take_async()
        except BaseException:
            close_unawaited(awaitable)
            raise
        try:
            return await awaitable
        finally:
            self._return(slot)

    async def _await(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        slot = self._take_free() or await self._take_async()
        try:
            return await (func(*args, **kwargs) if kwargs else func(*args))
        finally:
            self._free.append(slot)
            if self._waiters:
                self._serve()

    def _decorate(self, func: Any) -> Any:
        return wrap(func, self._wrap_plain, self._await, _NO_GENERATORS)

    def _wrap_plain(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        self.listeners.expect_plain(func)
        take, give, serve, waiters = self._take, self._free.append, self._serve, self._waiters
        pop_free, go_on, begin = self._free.pop, self._go_on, self._begin_in_task
        usual: type | None = None  # of its results; one that is no awaitable

        def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            nonlocal usual
            # `_take_free` and `_return`, written out for when nobody waits: two calls less.
            try:
                if waiters:
                    slot = None
                else:
                    slot = pop_free()
                    slot[0] += 1
            except IndexError:
                slot = None
            if slot is None:
                begun = begin(func, args, kwargs)
                if begun is not None:
                    return begun  # type: ignore[no-any-return]
                slot = take()
            try:
                result = func(*args, **kwargs) if kwargs else func(*args)  # type: ignore[call-arg]
            except BaseException:
                give(slot)
                if waiters:
                    serve()
                raise
            if type(result) is not usual:
                if is_awaitable(result):
                    return go_on(func, slot, result)  # type: ignore[no-any-return]
                usual = type(result)
            give(slot)
            if waiters:
                serve()
            return result

        return wrapper

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        self.release()

    def get_stats(self) -> dict[str, Any]:
        """The counts now."""
        in_use = self._in_use()
        return {
            "max_concurrent": self._limit,
            "active_count": in_use,
            "waiting_count": len(self._waiters),
            "total_acquired": sum(used for (used,) in self._slots),
            "total_rejected": self._rejected,
            "available_permits": self._limit - in_use,
        }


class _Waiter:
    """A thread or task that waits, and how to wake it when there is a slot for it."""

    __slots__ = ("slot", "wake")

    def __init__(self, wake: Callable[[], Any]) -> None:
        self.slot: _Slot | None = None
        self.wake = wake

"""Assertions about bulkheads: calls that they rejected, and calls that they keep apart."""

from __future__ import annotations

import contextvars
import threading

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import contextmanager
from typing import Any
from typing import overload

from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.errors import TimeLimitExceededError
from pytest_resilience.events import describe
from pytest_resilience.patterns.bulkhead.manager import Bulkhead
from pytest_resilience.patterns.bulkhead.rate_limit import RateLimitBulkhead
from pytest_resilience.patterns.bulkhead.semaphore import SemaphoreBulkhead
from pytest_resilience.patterns.bulkhead.thread_pool import ThreadPoolBulkhead
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import kind_of


__all__ = ["assert_bulkhead_rejected", "assert_isolated", "assert_rate_limited"]

_SHOWN = 10  # rejections in a message
_REJECTED = ("total_rejected", "rejected_tasks", "rejected_requests")  # as statistics call it

Saturated = SemaphoreBulkhead | ThreadPoolBulkhead | AbstractContextManager[Any]


def assert_bulkhead_rejected(bulkhead: Bulkhead, *, times: int | None = None) -> None:
    """Raise AssertionError unless the bulkhead rejected so many calls; None: 1 or more."""
    __tracebackhide__ = True
    stats = bulkhead.get_stats()
    seen = next(stats[name] for name in _REJECTED if name in stats)
    if seen < 1 if times is None else seen != times:
        wanted = "a call" if times is None else f"{times} call{'' if times == 1 else 's'}"
        raise AssertionError(
            f"expected {bulkhead.name} to reject {wanted}, but it rejected {seen or 'none'}\n"
            f"{_timeline(bulkhead, stats)}"
        )


def assert_rate_limited(limit: RateLimitBulkhead, *, times: int | None = None) -> None:
    """Raise AssertionError unless the rate limit rejected so many calls; None: 1 or more.

    Raises TypeError for a bulkhead that limits anything but the rate.
    """
    __tracebackhide__ = True
    if not isinstance(limit, RateLimitBulkhead):
        raise TypeError(f"{limit!r} is no RateLimitBulkhead; use assert_bulkhead_rejected")
    assert_bulkhead_rejected(limit, times=times)


def _timeline(bulkhead: Bulkhead, stats: dict[str, Any]) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in stats.items())]
    rejections = bulkhead.rejections[-_SHOWN:]
    for each in rejections:
        back = "" if each.retry_after is None else f", room in {each.retry_after:.3g} s"
        since = each.at - rejections[0].at
        lines.append(f"+{since:.3f}s rejected at {each.in_use} of {each.capacity}{back}")
    return "\n".join(f"  {line}" for line in lines)


@overload
def assert_isolated(  # type: ignore[overload-overlap]  # the narrower comes first
    victim: Callable[[], Awaitable[object]], *, while_saturated: Saturated, within: float = ...
) -> Awaitable[None]: ...


@overload
def assert_isolated(
    victim: Callable[[], object], *, while_saturated: Saturated, within: float = ...
) -> None: ...


def assert_isolated(
    victim: Callable[[], object], *, while_saturated: Saturated, within: float = 5.0
) -> Awaitable[None] | None:
    """Raise AssertionError unless `victim` works while something else is saturated.

    Args:
        victim: a call that must not suffer; for a coroutine function, await the assertion.
        while_saturated: a semaphore or thread pool whose every place is taken meanwhile, and
            given back; or a context manager that saturates something else.
        within: seconds of real time that `victim` may take.

    Raises TypeError for a rate limit: what is taken of it cannot be given back.
    """
    __tracebackhide__ = True
    name, full = _saturation(while_saturated)
    if kind_of(victim) is CallKind.COROUTINE:
        return _assert_isolated_async(victim, name, full, within)
    with full:
        error = _outcome(victim, within)
    _judge(victim, name, error)
    return None


async def _assert_isolated_async(
    victim: Callable[[], Any], name: str, full: AbstractContextManager[Any], within: float
) -> None:
    __tracebackhide__ = True
    import asyncio

    error: BaseException | None = None
    with full:
        limit = asyncio.timeout(within)
        try:
            async with limit:
                await victim()
        except Exception as raised:
            error = _late(within) if limit.expired() else raised
    _judge(victim, name, error)


def _late(within: float) -> TimeLimitExceededError:
    return TimeLimitExceededError(f"it did not return within {within:g} s", limit=within)


def _outcome(victim: Callable[[], object], within: float) -> BaseException | None:
    """The error of a call, if any; made in a thread, since it may never return."""
    outcome: list[BaseException | None] = []

    def call() -> None:
        try:
            victim()
        except BaseException as error:  # told by the assertion, in the thread of the test
            outcome.append(error)
        else:
            outcome.append(None)

    context = contextvars.copy_context()  # with the `Timeout`s around the assertion
    thread = threading.Thread(target=context.run, args=(call,), name="victim", daemon=True)
    with limits_lifted():
        thread.start()
    thread.join(within)
    return outcome[0] if outcome else _late(within)


def _judge(victim: Callable[[], object], name: str, error: BaseException | None) -> None:
    __tracebackhide__ = True
    if error is None:
        return
    called = getattr(victim, "__qualname__", repr(victim))
    raise AssertionError(
        f"expected {called} to work while {name} is full, but: {describe(error)}"
    ) from error


def _saturation(what: Saturated) -> tuple[str, AbstractContextManager[Any]]:
    if isinstance(what, SemaphoreBulkhead):
        return what.name, _all_places(what)
    if isinstance(what, ThreadPoolBulkhead):
        return what.name, _all_threads(what)
    if not isinstance(what, RateLimitBulkhead) and isinstance(what, AbstractContextManager):
        return f"{type(what).__name__}", what
    raise TypeError(
        f"while_saturated={what!r}: give a SemaphoreBulkhead, a ThreadPoolBulkhead or a context "
        "manager"
    )


@contextmanager
def _all_places(semaphore: SemaphoreBulkhead) -> Iterator[None]:
    taken = 0
    try:
        # Asked each time: others may take a place or give one back meanwhile.
        while semaphore.get_stats()["available_permits"] > 0:
            semaphore.acquire()
            taken += 1
        yield
    finally:
        for _ in range(taken):
            semaphore.release()


@contextmanager
def _all_threads(pool: ThreadPoolBulkhead) -> Iterator[None]:
    over = threading.Event()
    room = pool.config.max_concurrent + pool.config.queue_size
    futures = []
    try:
        stats = pool.get_stats()
        for _ in range(room - stats["active_tasks"] - stats["queued_tasks"]):
            try:
                futures.append(pool.submit(over.wait))  # holds a thread, or a place in the queue
            except BulkheadRejectedError:  # somebody else was there first
                break
        yield
    finally:
        over.set()
        for future in futures:
            future.result()

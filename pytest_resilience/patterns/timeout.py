"""A limit to how long a call may take."""

from __future__ import annotations

import contextvars
import itertools
import logging
import operator
import sys
import threading

from collections.abc import Awaitable
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any
from typing import ParamSpec
from typing import Self
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import TimeLimitExceededError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.locks import fork_safe
from pytest_resilience.locks import renew_in_child
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import Decorator
from pytest_resilience.patterns.callables import EnteredBlocks
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import generator_error
from pytest_resilience.patterns.callables import innermost
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.callables import wrap
from pytest_resilience.patterns.event_loops import explain_missing_loop
from pytest_resilience.patterns.event_loops import timeout


if TYPE_CHECKING:
    from asyncio import Timeout
    from concurrent.futures import Future

__all__ = ["OverdueCall", "TimeLimitExceeded", "TimeLimiter", "in_thread"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PLAIN, _COROUTINE = CallKind.PLAIN, CallKind.COROUTINE

_NO_GENERATORS = "its time is that of whoever iterates: put the limit around what consumes it"
_logger = logging.getLogger("pytest_resilience.timelimit")
_PLENTY = 2**62  # of calls

# One for all limiters: a ContextVar is never collected. Innermost block last.
_entered: contextvars.ContextVar[tuple[_Block, ...]] = contextvars.ContextVar(
    "pytest_resilience_timelimit_blocks", default=()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimitExceeded(Event):
    """A call took longer than its limit.

    Attributes:
        call: the function's name, or "block".
        limit: in seconds.
        running: whether it still runs, because it is a plain function.
    """

    call: str
    limit: float
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OverdueCall:
    """A call that nobody waits for any more and that still runs.

    Attributes:
        call: the function's name.
        since: monotonic seconds when it began.
        thread: where it runs; can be joined.
    """

    call: str
    since: float
    thread: threading.Thread


@dataclass(slots=True, eq=False)  # frozen, it would take four times as long to make
class _Block:
    """A block that was entered, at `started` monotonic seconds."""

    limiter: TimeLimiter
    timer: Timeout
    started: float


class TimeLimiter(Decorator):
    """Raises `TimeLimitExceededError` for calls that take longer than `limit` seconds.

    A coroutine function, or a block under `async with`, is cancelled when the time is up, by
    `asyncio.timeout`: it ends at its next `await`, unless it suppresses the cancellation.

    Generator functions are refused: their time is that of whoever iterates.

    A plain function cannot be stopped. It runs in a thread of its own, and when the time is
    up its caller stops waiting: **the call runs on**, with all it does and holds, until it ends
    by itself. `overdue` lists those calls; their results are dropped. The function sees the
    context variables of its caller, but what it sets there is not seen outside, and what
    belongs to a thread (`threading.local`, an sqlite3 connection) is not available. The thread
    is a daemon, so it keeps no process from ending. A call takes some 1.2 times what it takes to
    start and join a thread by that, a tenth of a millisecond (`benchmarks/patterns.py`). Where
    many calls may hang, put a bulkhead inside, which they then fill.

    Real time interrupts, for no other wakes a thread or an event loop. A call that has ended
    is measured by `clock` as well, and a result that came too late by it is dropped. So, on a
    `ManualClock`, a call that sleeps for longer than the limit exceeds it at once. An error of
    the call passes as it is, late or not; so does cancellation from outside.

    Attributes:
        limit: in seconds.
        name: what errors, events, logs and threads call it.
        listeners: are given every `TimeLimitExceeded`.

    Examples:
        >>> TimeLimiter(5.0).execute(len, "abc")
        3
    """

    def __init__(
        self, limit: float, *, name: str = "time limit", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.limit = validation.number("limit", limit, above_low=True, high=threading.TIMEOUT_MAX)
        self.name = validation.text("name", name)
        self.listeners = Listeners(may_await=True)
        self._clock: Clock = validation.clock(clock)
        self._overdue: dict[Future[Any], OverdueCall] = {}
        self._exceeded_calls = 0
        # Counts the calls without the lock: `next` of it is one step of the interpreter.
        self._calls = itertools.repeat(None, _PLENTY)
        self._blocks: EnteredBlocks[_Block] = EnteredBlocks()
        self._lock = fork_safe(self, "_lock", threading.Lock)
        renew_in_child(self, "_renew")

    def _renew(self) -> None:
        self._overdue.clear()  # those threads are not here

    @property
    def overdue(self) -> tuple[OverdueCall, ...]:
        """The calls of plain functions that still run after their time was up."""
        with self._lock:
            return tuple(self._overdue.values())

    def _decorate(self, func: Any) -> Any:
        return wrap(func, self._wrap_plain, self._call_and_await, _NO_GENERATORS)

    def _wrap_plain(self, func: Callable[..., Any]) -> Callable[..., Any]:
        self.listeners.expect_plain(func)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return self._run(func, args, kwargs)

        return wrapper

    async def _call_and_await(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return await self._await(func(*args, **kwargs), _name_of(func, args))

    @calls_first_argument
    def execute(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func`; await the result of a coroutine function.

        Raises TimeLimitExceededError, a TimeoutError, when it takes too long.
        """
        kind = kind_of(func, args)
        if kind is _COROUTINE:
            return self._await(func(*args, **kwargs), _name_of(func, args))  # type: ignore[return-value,arg-type]
        if kind is not _PLAIN:
            raise generator_error(func, kind, _NO_GENERATORS)
        return self._run(func, args, kwargs)  # type: ignore[no-any-return]

    async def __aenter__(self) -> Self:
        timer = timeout(self.limit)
        await timer.__aenter__()
        next(self._calls)
        block = _Block(self, timer, self._clock.monotonic())
        _entered.set((*_entered.get(), block))
        self._blocks.enter(sys._getframe(1), block)  # noqa: SLF001  # public, says its documentation
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        frame, entered = sys._getframe(1), _entered.get()  # noqa: SLF001
        block = self._blocks.leave(frame)
        if block is None:  # it was entered by an ExitStack, say
            own = (each for each in reversed(entered) if each.limiter is self)
            known = next((each for each in own if self._blocks.leave_this(each)), None)
            block = known or self._blocks.leave_latest()
            if block is None:
                raise RuntimeError(
                    f"{self.name}: no block was entered that could be left; leave each once, or "
                    "use `with`"
                )
        if entered:
            latest = entered[-1] is block
            _entered.set(entered[:-1] if latest else tuple(x for x in entered if x is not block))
        timer, started = block.timer, block.started
        try:
            await timer.__aexit__(None if error is None else type(error), error, None)
        except TimeoutError as late:
            raise await self._exceeded_async("block", "it was cancelled") from late
        outcome = None if error is not None else self._overdue_by(started)
        if outcome is not None:
            raise await self._exceeded_async("block", outcome)

    async def _await(self, call: Awaitable[Any], name: str) -> Any:
        next(self._calls)
        started = self._clock.monotonic()
        timer = timeout(self.limit)
        try:
            async with timer:
                result = await call
        except TimeoutError as late:
            if not timer.expired():
                raise  # the call's own
            raise await self._exceeded_async(name, "it was cancelled") from late
        finally:
            # It holds the task, which holds the error, whose traceback holds this frame: a cycle.
            del timer
        outcome = self._overdue_by(started)
        if outcome is not None:
            raise await self._exceeded_async(name, outcome)
        return result

    def _run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from concurrent.futures import Future

        if self.listeners.awaits:
            raise self.listeners.refusal(innermost(func, args))
        future: Future[Any] = Future()
        name, started = _name_of(func, args), self._clock.monotonic()
        thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(_run_into, future, func, args, kwargs),
            name=f"{self.name}: {name}",
            daemon=True,
        )
        try:
            self._wait(future, OverdueCall(call=name, since=started, thread=thread))
            result = future.result()
        finally:
            # It holds the error, whose traceback holds this frame: a cycle.
            del future
        if is_awaitable(result):
            return self._await(result, name)
        next(self._calls)
        outcome = self._overdue_by(started)
        if outcome is not None:
            raise self._exceeded(name, outcome)
        return result

    def _wait(self, future: Future[Any], call: OverdueCall) -> None:
        try:
            call.thread.start()
            future.exception(self.limit)
        except BaseException as interruption:  # the time is up, or KeyboardInterrupt
            if isinstance(interruption, TimeoutError) and future.done():
                return  # it ended just now
            if call.thread.ident is None:
                raise  # no thread could be started
            with self._lock:
                self._overdue[future] = call
            future.add_done_callback(self._overdue_ended)
            next(self._calls)
            if isinstance(interruption, TimeoutError):
                raise self._exceeded(call.call, "it runs on", running=True) from None
            raise

    def _overdue_ended(self, future: Future[Any]) -> None:
        with self._lock:
            call = self._overdue.pop(future)
        took = self._clock.monotonic() - call.since
        _logger.info("%s: %s has ended after %.3g s", self.name, call.call, took)

    def _overdue_by(self, started: float) -> str | None:
        """What is said of a result that came too late by the clock; None if it did not."""
        took = self._clock.monotonic() - started
        return f"it ended after {took:.3g} s" if took > self.limit else None

    async def _exceeded_async(self, call: str, outcome: str) -> TimeLimitExceededError:
        error = self._exceeded(call, outcome)
        await self.listeners.notify_async()
        return error

    def _exceeded(
        self, call: str, outcome: str, *, running: bool = False
    ) -> TimeLimitExceededError:
        _logger.warning("%s: %s took longer than %g s; %s", self.name, call, self.limit, outcome)
        at = self._clock.monotonic()
        with self._lock:
            self._exceeded_calls += 1
        self.listeners.emit(
            TimeLimitExceeded(at=at, source=self.name, call=call, limit=self.limit, running=running)
        )
        message = f"{self.name}: {call} took longer than {self.limit:g} s; {outcome}"
        return TimeLimitExceededError(message, limit=self.limit)

    def get_stats(self) -> dict[str, Any]:
        """How many calls began, and exceeded the limit; and those that still run after it."""
        with self._lock:
            return {
                "total_calls": _PLENTY - operator.length_hint(self._calls),
                "exceeded_calls": self._exceeded_calls,
                "overdue_calls": len(self._overdue),
            }

    def __repr__(self) -> str:
        return f"<TimeLimiter {self.name!r} {self.limit:g} s>"


def in_thread(func: Callable[[], _R], name: str) -> Future[_R]:
    """Call a function in a thread of its own that keeps no process from ending.

    Raises RuntimeError where no thread can be started.
    """
    from concurrent.futures import Future

    future: Future[_R] = Future()
    run = contextvars.copy_context().run
    threading.Thread(
        target=run, args=(_run_into, future, func, (), {}), name=name, daemon=True
    ).start()
    return future


def _run_into(
    future: Future[Any], func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        result = func(*args, **kwargs)
    except BaseException as error:
        explain_missing_loop(error)
        future.set_exception(error)
        del future  # as in `_run`
    else:
        future.set_result(result)


def _name_of(func: Callable[..., Any], args: tuple[Any, ...]) -> str:
    func = innermost(func, args)
    return getattr(func, "__qualname__", None) or repr(func)

"""Hedging: a slow call is tried a second time while the first still runs; the first answer wins."""

from __future__ import annotations

import logging
import threading

from collections import deque
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty
from queue import SimpleQueue
from typing import TYPE_CHECKING
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe
from pytest_resilience.locks import renew_in_child
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import Decorator
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import generator_error
from pytest_resilience.patterns.callables import innermost
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.callables import wrap
from pytest_resilience.patterns.event_loops import Tasks
from pytest_resilience.patterns.event_loops import Waker
from pytest_resilience.patterns.event_loops import is_of_caller
from pytest_resilience.patterns.retry.config import RetryBudget
from pytest_resilience.patterns.timeout import in_thread


__all__ = ["HedgeStarted", "Hedging", "HedgingConfig"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PLAIN, _COROUTINE = CallKind.PLAIN, CallKind.COROUTINE
_NO_GENERATORS = "two that run at once cannot be iterated as one: hedge what consumes it"
_NEVER = float("inf")
_logger = logging.getLogger("pytest_resilience.hedging")


@dataclass(frozen=True, slots=True)
class HedgingConfig:
    """When another attempt begins while the earlier ones still run.

    Attributes:
        delay: seconds after the latest attempt began after which another does, if none has ended
            well; 0: all begin at once; infinity: only when one has failed. Or a function that
            returns them, given the number of the attempt that would begin (2, 3, …).
        max_attempts: attempts in all, the first included.
        handled_exceptions: exceptions after which another attempt begins at once. Others end the
            call as they are.
        handle_result: whether a result is as bad as an exception.
        budget: a limit to all attempts but the first, shared with other patterns.

    Raises ConfigurationError or TypeError for a value that makes no sense.
    """

    delay: float | Callable[[int], float] = 2.0
    max_attempts: int = 2
    handled_exceptions: validation.ExceptionTypes = (Exception,)
    handle_result: Callable[[Any], bool] | None = None
    budget: RetryBudget | None = None

    def __post_init__(self) -> None:
        if callable(self.delay):
            validation.function("delay", self.delay)
        else:
            validation.number("delay", self.delay, infinite=True)
        validation.integer("max_attempts", self.max_attempts, low=1)
        types = validation.exception_types("handled_exceptions", self.handled_exceptions)
        object.__setattr__(self, "handled_exceptions", types)
        validation.function("handle_result", self.handle_result)
        if self.budget is not None and not isinstance(self.budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget or None, not {self.budget!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeStarted(Event):
    """Another attempt at a call begins.

    Attributes:
        attempt: its number: 2, 3, …
        reason: why, in words.
    """

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an attempt ended."""

    attempt: int
    result: Any = None
    error: BaseException | None = None

    def get(self) -> Any:
        try:
            if self.error is not None:
                raise self.error
            return self.result
        finally:
            del self  # the error's traceback holds this frame: a cycle


class Hedging(Decorator):
    """Begins another attempt at a call that is slow, or has failed; the first to end well wins.

    It cuts the longest of the waits where a call may safely be made twice, as those that read,
    and makes more calls. How the last attempt ended is the outcome if none ended well.

    Attempts of a coroutine function are tasks; those that have lost are cancelled, and are over
    when the call is. Attempts of a plain function run in a thread each. **Those that have lost
    run on**, until they end by themselves; nobody gets what they return, and they keep no process
    from ending. Both see the context variables of the caller, and what they set there is not
    seen outside. Generator functions are refused. Delays are of real time.

    Attributes:
        config: as given.
        name: what events, logs and threads call it.
        listeners: are given every `HedgeStarted`.

    Examples:
        >>> Hedging(HedgingConfig(delay=0.5)).execute(len, "abc")
        3
    """

    def __init__(
        self,
        config: HedgingConfig | None = None,
        *,
        name: str = "hedging",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`clock`: says when events happened."""
        self.config = validation.config(config, HedgingConfig)
        self.name = validation.text("name", name)
        self.listeners = Listeners(may_await=True)
        self._clock: Clock = validation.clock(clock)
        self._totals = _Totals()

    def _decorate(self, func: Any) -> Any:
        return wrap(func, self._wrap_plain, self._run_async, _NO_GENERATORS)

    def _wrap_plain(self, func: Callable[..., Any]) -> Callable[..., Any]:
        self.listeners.expect_plain(func)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return self._run(func, args, kwargs)

        return wrapper

    if TYPE_CHECKING:

        def execute(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            """Call `func` as often as it takes; await the result of a coroutine function."""

    else:

        @calls_first_argument
        def execute(self, func, /, *args, **kwargs):
            """Call `func` as often as it takes; await the result of a coroutine function."""
            kind = kind_of(func, args)
            if kind is _COROUTINE:
                return self._run_async(func, args, kwargs)
            if kind is not _PLAIN:
                raise generator_error(func, kind, _NO_GENERATORS)
            return self._run(func, args, kwargs)

    def _run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.listeners.awaits:
            raise self.listeners.refusal(innermost(func, args))
        ended: SimpleQueue[_Outcome] = SimpleQueue()
        race, outcome = self._begin_call(), None

        def start(number: int) -> None:
            future = in_thread(lambda: func(*args, **kwargs), f"{self.name}: attempt {number}")
            self._totals.add(running=1)
            future.add_done_callback(lambda future: done(number, future))

        def done(number: int, future: Future[Any]) -> None:
            self._totals.add(running=-1)
            error = future.exception()
            result = future.result() if error is None else None
            ended.put(_Outcome(number, result, error))

        try:
            race.begin(start)
            while race.outcome is None:
                try:
                    outcome = ended.get(timeout=race.patience())
                except Empty:
                    outcome = None
                if race.is_another_due(outcome):
                    race.begin(start)
            if is_awaitable(race.outcome.result):
                return self._run_async(func, args, kwargs, begun=race.outcome.result)
            return race.outcome.get()
        finally:
            del race, outcome  # an error's traceback holds this frame: a cycle

    async def _run_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        begun: Awaitable[Any] | None = None,
    ) -> Any:
        """`begun`: what a plain function has returned that is the first attempt."""
        ended: deque[_Outcome] = deque()
        race, waker = self._begin_call(begun), Waker()

        async def attempt(number: int) -> None:
            self._totals.add(running=1)
            try:
                call = func(*args, **kwargs) if begun is None or number > 1 else begun
                ended.append(_Outcome(number, await call))
            except BaseException as error:
                if is_of_caller(error):
                    raise
                ended.append(_Outcome(number, None, error))
            finally:
                self._totals.add(running=-1)
                waker.wake_here()

        try:
            async with Tasks() as tasks:
                race.begin(lambda number: tasks.start(attempt, number))
                while race.outcome is None:
                    await waker.wait(race.patience())
                    waker = Waker()  # before it is looked who has ended: later ones wake it
                    for _ in race.due(ended):
                        race.begin(lambda number: tasks.start(attempt, number))
                        await self.listeners.notify_async()
            return race.outcome.get()
        finally:
            del race  # an error's traceback holds this frame: a cycle

    def _begin_call(self, begun: object = None) -> _Race:
        """`begun`: what was begun as a plain call, and counted."""
        if begun is None:
            self._totals.add(calls=1)
            if self.config.budget is not None:
                self.config.budget.deposit()
        return _Race(self.config, self._begin_hedge, self._totals)

    def _begin_hedge(self, number: int, reason: str) -> None:
        self._totals.add(hedges=1)
        _logger.info("%s: attempt %d begins, %s", self.name, number, reason)
        if self.listeners.listened:
            at = self._clock.monotonic()
            event = HedgeStarted(at=at, source=self.name, attempt=number, reason=reason)
            self.listeners.emit(event)

    def get_stats(self) -> dict[str, Any]:
        """How many calls there were, and hedges, which are attempts after the first.

        `won_by_hedges` counts the calls whose outcome is that of a hedge; `running_attempts` are
        those that run now: of plain functions also when their call is over.
        """
        return self._totals.get()

    def __repr__(self) -> str:
        return f"<Hedging {self.name!r} max_attempts={self.config.max_attempts}>"


class _Totals:
    """What `Hedging.get_stats` tells."""

    __slots__ = ("__weakref__", "_counts", "_lock")

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("calls", "hedges", "won", "running"), 0)
        self._lock = fork_safe(self, "_lock", threading.Lock)
        renew_in_child(self, "_renew")

    def _renew(self) -> None:
        self._counts["running"] = 0  # those threads are not here

    def add(self, **changes: int) -> None:
        with self._lock:
            for name, change in changes.items():
                self._counts[name] += change

    def get(self) -> dict[str, Any]:
        with self._lock:
            counts = self._counts.copy()
        return {
            "total_calls": counts["calls"],
            "total_hedges": counts["hedges"],
            "won_by_hedges": counts["won"],
            "running_attempts": counts["running"],
        }


class _Race:
    """The attempts at one call: when another is due, and how the call ends.

    Attributes:
        outcome: of the call; None while that is open.
    """

    def __init__(
        self, config: HedgingConfig, begin_hedge: Callable[[int, str], None], totals: _Totals
    ) -> None:
        self._config = config
        self._begin_hedge = begin_hedge
        self._totals = totals
        self._begun = self._running = 0
        self._more = True  # whether another attempt may begin
        self._reason = ""  # of the next one
        self._delay = 0.0
        self.outcome: _Outcome | None = None

    def begin(self, start: Callable[[int], None]) -> None:
        """Begin another attempt."""
        number = self._begun + 1
        if number > 1:
            self._begin_hedge(number, self._reason)
        try:
            start(number)
        except RuntimeError:  # no thread can be had
            if not self._running:
                raise
            _logger.exception("attempt %d could not begin", number)
            self._more = False
            return
        self._begun, self._running = number, self._running + 1
        self._more = number < self._config.max_attempts

    def patience(self) -> float | None:
        """Seconds until another attempt is due, if none ends before; None for ever."""
        delay = self._config.delay
        if not self._more:
            return None
        if callable(delay):
            delay = validation.number("delay", delay(self._begun + 1), infinite=True)
        self._delay = delay
        return None if delay == _NEVER else min(delay, threading.TIMEOUT_MAX)

    def due(self, ended: deque[_Outcome]) -> Iterator[None]:
        """Once for each other attempt that is due after those that have ended, if any have."""
        if not ended and self.is_another_due(None):
            yield
        while ended and self.outcome is None:
            if self.is_another_due(ended.popleft()):
                yield

    def is_another_due(self, ended: _Outcome | None) -> bool:
        """After an attempt has ended, or the delay is over (None)."""
        if ended is None:
            self._reason = f"none has ended within {self._delay:g} s"
            return self._pay()
        self._running -= 1
        if self._is_accepted(ended):
            self._totals.add(won=ended.attempt > 1)
            self.outcome = ended
            return False
        failure = ended.result if ended.error is None else ended.error
        self._reason = f"attempt {ended.attempt} failed, {describe(failure)}"
        if self._pay():
            return True
        if not self._running:
            self.outcome = ended  # there is nothing left to hope for
        return False

    def _pay(self) -> bool:
        """Whether another attempt may begin, which the budget has then paid."""
        budget = self._config.budget
        if self._more and budget is not None:
            self._more = budget.withdraw()
        return self._more

    def _is_accepted(self, ended: _Outcome) -> bool:
        config = self._config
        if ended.error is not None:
            handled = isinstance(ended.error, config.handled_exceptions)
            return not (handled and isinstance(ended.error, Exception))
        return config.handle_result is None or not config.handle_result(ended.result)

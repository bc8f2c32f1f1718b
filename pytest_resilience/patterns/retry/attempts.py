"""The state of a retry handler, and of each call between its attempts."""

from __future__ import annotations

import itertools
import logging
import random
import threading

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import Any

from pytest_resilience.clock import Clock
from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.errors import RetryExhaustedError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.events import cannot_await
from pytest_resilience.events import describe
from pytest_resilience.events import is_coroutine_function
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import AwaitableMakers
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import close_unawaited
from pytest_resilience.patterns.callables import innermost
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.retry.config import RetryConfig
from pytest_resilience.patterns.retry.config import RetryDetails
from pytest_resilience.patterns.retry.config import current_testing
from pytest_resilience.patterns.retry.delays import RandomSource
from pytest_resilience.patterns.retry.delays import backoff
from pytest_resilience.patterns.retry.delays import who_asks
from pytest_resilience.patterns.retry.delays import with_jitter


__all__ = [
    "CallState",
    "HandlerState",
    "RetryAborted",
    "RetryEvent",
    "RetryGaveUp",
    "RetryScheduled",
    "RetrySucceeded",
]

# No part of what an event says, nor of its text, which may be long.
_error: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryEvent(Event):
    """Something about one call.

    An `error` is for listeners alone, and None in what is kept of the event: it would keep every
    frame alive that it passed through.

    Attributes:
        call: the call's number among those that the handler retried.
        attempt: how many attempts were made by then.
    """

    call: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(RetryEvent):
    """An attempt has failed and another follows.

    Attributes:
        failure: what went wrong, in words.
        delay: seconds until the next.
        error: what was raised; None for a result.
    """

    failure: str
    delay: float
    error: BaseException | None = _error


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySucceeded(RetryEvent):
    """A call has succeeded in a later attempt than the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAborted(RetryEvent):
    """A call that was being retried was ended by what is not retried, such as cancellation.

    Attributes:
        failure: what ended it, in words.
        error: what ended it.
    """

    failure: str
    error: BaseException | None = _error


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryGaveUp(RetryEvent):
    """The last attempt has failed.

    Attributes:
        failure: what went wrong, in words.
        reason: why no other attempt follows.
        error: what was raised; None for a result.
    """

    failure: str
    reason: str
    error: BaseException | None = _error


_logger = logging.getLogger("pytest_resilience.retry")

_HISTORY = 1000  # events that are remembered

# They say when they will be over, which may be long: to sleep it out would undo what a breaker
# is there for, that its callers fail at once.
_REJECTIONS = (CircuitBreakerError, BulkheadRejectedError)


class Totals:
    """How many calls of a handler came to what, as long as it is there."""

    __slots__ = (
        "__weakref__", "_lock", "aborted", "calls", "exhausted", "retried", "retries",
        "succeeded",
    )  # fmt: skip

    def __init__(self) -> None:
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self.calls = self.retried = self.retries = 0
        self.succeeded = self.exhausted = self.aborted = 0

    def add(self, name: str) -> None:
        """Count one more."""
        with self._lock:
            setattr(self, name, getattr(self, name) + 1)


class HandlerState:
    """What all calls of one handler share: its configuration, clock, listeners and history."""

    def __init__(
        self, config: RetryConfig, name: str, clock: Clock, source: RandomSource | None
    ) -> None:
        self.config = config
        self.name = name
        self.clock = clock
        self.totals = Totals()
        # The module's generator by default, for it is seeded anew in a forked child. One of our
        # own would make all workers of a server that forks wait the same times.
        self.random: RandomSource = random if source is None else source
        self.listeners = Listeners(may_await=True, changed=self._listeners_changed)
        self.call_numbers = itertools.count(1)
        self._listeners_changed()
        self.makers = AwaitableMakers()
        # To append to a deque, or to copy one, is one step of the interpreter: no lock.
        self._history: deque[RetryEvent] = deque(maxlen=_HISTORY)

    def _listeners_changed(self) -> None:
        config = self.config
        self.awaits = self.listeners.awaits or is_coroutine_function(config.before_retry)
        limited = config.budget is not None or config.max_elapsed is not None
        self.needs_start = limited or config.count_calls or self.awaits

    @property
    def history(self) -> tuple[RetryEvent, ...]:
        """The latest events, oldest first."""
        return tuple(self._history.copy())

    def start(self) -> float | None:
        """Note that a call begins: monotonic seconds, None if neither time nor budget matters."""
        if not self.needs_start:
            return None
        if self.config.count_calls:
            self.totals.add("calls")
        if self.config.budget is not None:
            self.config.budget.deposit()
        return self.clock.monotonic()

    def start_call(self, func: Callable[..., Any], args: tuple[Any, ...]) -> float | None:
        """Do as `start` does for a call of `func`, if that may be plain."""
        if self.awaits and kind_of(func, args) is not CallKind.COROUTINE:
            raise self.refusal(innermost(func, args))
        return self.start()

    def refusal(self, call: object) -> TypeError:
        """What a plain call raises that would have to await something."""
        if self.listeners.awaits:
            return self.listeners.refusal(call)
        return cannot_await(self.config.before_retry, call)

    def announce(self, event: RetryEvent, error: BaseException | None) -> None:
        """Remember an event and give it to the listeners, these with the error."""
        self._history.append(event)
        if self.listeners.listened:
            self.listeners.emit(event if error is None else replace(event, error=error))  # type: ignore[call-arg]


class CallState:
    """One call between its attempts; nothing here is shared with another call.

    No exception is kept longer than for a step before the next attempt: its traceback holds the
    frame that holds this.

    Attributes:
        handler: what it shares with other calls.
        failed: how many attempts have.
        delay: seconds to wait before the next attempt; None before the first, and when none
            follows.
    """

    __slots__ = (
        "_details", "_number", "_previous_delay", "_started", "delay", "failed", "handler",
    )  # fmt: skip

    def __init__(self, handler: HandlerState, started: float | None) -> None:
        """`started`: as `HandlerState.start` returned it; None to count from the first failure."""
        self.handler = handler
        self.failed = 0
        self._number = 0  # among the calls that were retried
        self._started = started
        self._previous_delay = handler.config.base_delay
        self.delay: float | None = None
        self._details: RetryDetails | None = None

    def raised(self, error: BaseException) -> bool:
        """Record that an attempt raised. True: another follows. False: the error is to pass.

        Raises RetryExhaustedError, from the error, if it could be retried but no attempt is left.
        """
        if isinstance(error, Exception) and self.handler.config.retries(error):
            self._record_failure(error, None)
            return True
        self.aborted(error)
        return False

    def returned(self, result: Any) -> bool:
        """Record that an attempt returned. True: that is the call's result. False: another follows.

        Raises RetryExhaustedError if the result should be retried but no attempt is left.
        """
        unwanted = self.handler.config.retry_on_result
        if unwanted is None or not unwanted(result):
            self.succeeded()
            return True
        self._record_failure(None, result)
        return False

    def succeeded(self) -> None:
        """Record that the call succeeded; an event only if an attempt failed before."""
        self.delay = None
        if self._number:
            attempt, name = self.failed + 1, self.handler.name
            _logger.info("%s: succeeded at attempt %d", name, attempt)
            self.handler.totals.add("succeeded")
            self._announce(RetrySucceeded, self.handler.clock.monotonic(), attempt)

    def aborted(self, error: BaseException) -> None:
        """Record that what is not retried ended the call; an event only if an attempt failed."""
        waiting, self.delay = self.delay is not None, None
        self._details = None
        if self._number:
            attempt, now = self.failed + (not waiting), self.handler.clock.monotonic()
            self.handler.totals.add("aborted")
            self._announce(RetryAborted, now, attempt, error, failure=describe(error))

    async def raised_async(self, error: BaseException) -> bool:
        """Record as `raised` does, in a call that can await listeners."""
        try:
            return self.raised(error)
        finally:
            await self.handler.listeners.notify_async(error)

    async def returned_async(self, result: Any) -> bool:
        """Record as `returned` does, in a call that can await listeners."""
        try:
            return self.returned(result)
        finally:
            await self.handler.listeners.notify_async()

    def wait(self) -> None:
        """Block for the seconds that are due before the next attempt, and take the step then."""
        while self.delay is not None:
            try:
                if current_testing() is None:
                    self.handler.clock.sleep(self.delay)
            except BaseException as interruption:
                self.aborted(interruption)
                raise
            step, details = self._begin_attempt()
            if step is None or details is None:
                return
            try:
                result = step(details)
            except BaseException as error:
                if not self.raised(error):
                    raise
            else:
                if result is not None and is_awaitable(result):
                    close_unawaited(result)
                    raise cannot_await(step, self.handler.name)
            finally:
                del details  # the error that a step raises holds this frame: a cycle

    async def wait_async(self) -> None:
        """Wait as `wait` does, suspended."""
        while self.delay is not None:
            try:
                if current_testing() is None:
                    await self.handler.clock.asleep(self.delay)
            except BaseException as interruption:
                self.aborted(interruption)
                raise
            step, details = self._begin_attempt()
            if step is None or details is None:
                return
            try:
                result = step(details)
                if result is not None and is_awaitable(result):
                    await result  # type: ignore[misc]
            except BaseException as error:
                if not await self.raised_async(error):
                    raise
            finally:
                del details  # as in `wait`

    def _begin_attempt(
        self,
    ) -> tuple[Callable[[RetryDetails], object] | None, RetryDetails | None]:
        """The step to take before the attempt, and what to tell it, which is kept no longer."""
        details, self.delay, self._details = self._details, None, None
        return self.handler.config.before_retry, details

    def _record_failure(self, error: Exception | None, result: Any) -> None:
        handler, now = self.handler, self.handler.clock.monotonic()
        started = self._started = now if self._started is None else self._started
        self.failed += 1
        if not self._number:
            self._number = next(handler.call_numbers)
            handler.totals.add("retried")
        cause = result if error is None else error
        failure, requested = describe(cause), self._requested_delay(cause)
        delay = self._backoff() if requested is None else requested[0]
        reason = self._reason_to_stop(delay, requested, now - started)
        if reason is not None:
            _logger.error(
                "%s: gave up at attempt %d (%s), %s", handler.name, self.failed, reason, failure
            )
            handler.totals.add("exhausted")
            self._announce(RetryGaveUp, now, self.failed, error, failure=failure, reason=reason)
            if error is not None and handler.config.reraise:
                raise error
            raise RetryExhaustedError(
                self.failed, error, reason=reason, last_result=result, elapsed=now - started
            ) from error
        self._previous_delay = delay
        self._schedule(error, result, now, failure, 0.0 if current_testing() else delay)

    def _schedule(
        self, error: Exception | None, result: Any, now: float, failure: str, delay: float
    ) -> None:
        handler, self.delay = self.handler, delay
        handler.totals.add("retries")
        _logger.warning(
            "%s: attempt %d failed, %s; the next in %.3g s",
            handler.name, self.failed, failure, delay,
        )  # fmt: skip
        self._announce(RetryScheduled, now, self.failed, error, failure=failure, delay=delay)
        if handler.config.before_retry is not None:
            self._details = RetryDetails(
                name=handler.name, attempt=self.failed + 1, error=error, result=result, delay=delay
            )

    def _announce(
        self,
        kind: type[RetryEvent],
        at: float,
        attempt: int,
        error: BaseException | None = None,
        **fields: Any,
    ) -> None:
        name, number = self.handler.name, self._number
        event = kind(at=at, source=name, call=number, attempt=attempt, **fields)
        self.handler.announce(event, error)

    def _reason_to_stop(
        self, delay: float, requested: tuple[float, Any] | None, elapsed: float
    ) -> str | None:
        """Why no other attempt follows; None if one does, which the budget has then paid."""
        config, testing = self.handler.config, current_testing()
        if self.failed >= config.max_attempts:
            return f"max_attempts={config.max_attempts}"
        allowed = None if testing is None else testing.attempts
        if allowed is not None and self.failed >= allowed:
            return f"set_retry_testing(attempts={allowed})"
        if requested is not None:
            bound, most = "max_retry_after", config.max_retry_after
            if isinstance(requested[1], _REJECTIONS):
                bound, most = "max_delay", min(most, config.max_delay)
            if delay > most:
                return f"asked to wait {delay:.10g} s, {bound}={most:g} s"
        if config.max_elapsed is not None and elapsed + delay > config.max_elapsed:
            return f"max_elapsed={config.max_elapsed:g} s"
        if config.budget is not None and not config.budget.withdraw():
            return "the retry budget is spent"
        return None

    def _backoff(self) -> float:
        config = self.handler.config
        delay = backoff(
            self.failed, config.base_delay, config.exponential_multiplier, config.max_delay
        )
        return with_jitter(
            config.jitter, delay, base=config.base_delay, cap=config.max_delay,
            previous=self._previous_delay, source=self.handler.random,
        )  # fmt: skip

    def _requested_delay(self, failure: Any) -> tuple[float, Any] | None:
        """The seconds that a failure asks for, and who does; None if nobody does, or can say.

        Who does is the failure, one that caused it, or the user's function.
        """
        ask = self.handler.config.wait_from
        if ask is None:
            return who_asks(failure, self.handler.clock.time())
        try:
            seconds = ask(failure)
            return None if seconds is None else (validation.number("wait_from", seconds), ask)
        except Exception:
            _logger.exception("%s: %r cannot say how long to wait", self.handler.name, ask)
            return None

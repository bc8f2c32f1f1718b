"""The state of a retry handler, and of each call between its attempts."""

from __future__ import annotations

import itertools
import logging
import random

from collections import deque
from dataclasses import dataclass
from typing import Any

from pytest_resilience.clock import Clock
from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.errors import RetryExhaustedError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.events import describe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.retry.config import RetryConfig
from pytest_resilience.patterns.retry.delays import RandomSource
from pytest_resilience.patterns.retry.delays import backoff
from pytest_resilience.patterns.retry.delays import retry_after_of
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryEvent(Event):
    """Something about one call.

    No event keeps an exception, which would keep every frame alive that it passed through.

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
    """

    failure: str
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySucceeded(RetryEvent):
    """A call has succeeded in a later attempt than the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAborted(RetryEvent):
    """A call that was being retried was ended by what is not retried, such as cancellation.

    Attributes:
        failure: what ended it, in words.
    """

    failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryGaveUp(RetryEvent):
    """The last attempt has failed.

    Attributes:
        failure: what went wrong, in words.
        reason: why no other attempt follows.
    """

    failure: str
    reason: str


_logger = logging.getLogger("pytest_resilience.retry")

_HISTORY = 1000  # events that are remembered

# They say when they will be over, which may be long: to sleep it out would undo what a breaker
# is there for, that its callers fail at once.
_REJECTIONS = (CircuitBreakerError, BulkheadRejectedError)


class HandlerState:
    """What all calls of one handler share: its configuration, clock, listeners and history."""

    def __init__(
        self, config: RetryConfig, name: str, clock: Clock, source: RandomSource | None
    ) -> None:
        self.config = config
        self.name = name
        self.clock = clock
        # The module's generator by default, for it is seeded anew in a forked child. One of our
        # own would make all workers of a server that forks wait the same times.
        self.random: RandomSource = random if source is None else source
        self.listeners = Listeners()
        self.call_numbers = itertools.count(1)
        self.needs_start = config.budget is not None or config.max_elapsed is not None
        # To append to a deque, or to copy one, is one step of the interpreter: no lock.
        self._history: deque[RetryEvent] = deque(maxlen=_HISTORY)

    @property
    def history(self) -> tuple[RetryEvent, ...]:
        """The latest events, oldest first."""
        return tuple(self._history.copy())

    def start(self) -> float | None:
        """Note that a call begins: monotonic seconds, None if neither time nor budget matters."""
        if not self.needs_start:
            return None
        if self.config.budget is not None:
            self.config.budget.deposit()
        return self.clock.monotonic()

    def announce(self, event: RetryEvent) -> None:
        """Remember an event and give it to the listeners."""
        self._history.append(event)
        self.listeners.emit(event)


class CallState:
    """One call between its attempts; nothing here is shared with another call.

    No exception is kept: its traceback holds the frame that holds this.

    Attributes:
        handler: what it shares with other calls.
        delay: seconds to wait before the next attempt; None before the first, and when none
            follows.
    """

    __slots__ = ("_failed", "_number", "_previous_delay", "_started", "delay", "handler")

    def __init__(self, handler: HandlerState, started: float | None = None) -> None:
        """`started`: as `HandlerState.start` returned it; None to count from the first failure."""
        self.handler = handler
        self._failed = 0  # attempts
        self._number = 0  # among the calls that were retried
        self._started = started
        self._previous_delay = handler.config.base_delay
        self.delay: float | None = None

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
            attempt, name = self._failed + 1, self.handler.name
            _logger.info("%s: succeeded at attempt %d", name, attempt)
            self._announce(RetrySucceeded, self.handler.clock.monotonic(), attempt)

    def aborted(self, error: BaseException) -> None:
        """Record that what is not retried ended the call; an event only if an attempt failed."""
        waiting, self.delay = self.delay is not None, None
        if self._number:
            attempt, now = self._failed + (not waiting), self.handler.clock.monotonic()
            self._announce(RetryAborted, now, attempt, failure=describe(error))

    def wait(self) -> None:
        """Block for the seconds that are due before the next attempt."""
        if self.delay is not None:
            try:
                self.handler.clock.sleep(self.delay)
            except BaseException as interruption:
                self.aborted(interruption)
                raise
            self.delay = None

    async def wait_async(self) -> None:
        """Wait as `wait` does, suspended."""
        if self.delay is not None:
            try:
                await self.handler.clock.asleep(self.delay)
            except BaseException as interruption:
                self.aborted(interruption)
                raise
            self.delay = None

    def _record_failure(self, error: Exception | None, result: Any) -> None:
        handler, now = self.handler, self.handler.clock.monotonic()
        started = self._started = now if self._started is None else self._started
        self._failed += 1
        self._number = self._number or next(handler.call_numbers)
        cause = result if error is None else error
        failure, requested = describe(cause), self._requested_delay(cause)
        delay = self._backoff() if requested is None else requested
        reason = self._reason_to_stop(error, delay, requested, now - started)
        if reason is not None:
            _logger.error(
                "%s: gave up at attempt %d (%s), %s", handler.name, self._failed, reason, failure
            )
            self._announce(RetryGaveUp, now, self._failed, failure=failure, reason=reason)
            if error is not None and handler.config.reraise:
                raise error
            raise RetryExhaustedError(
                self._failed, error, reason=reason, last_result=result, elapsed=now - started
            ) from error
        self.delay = self._previous_delay = delay
        _logger.warning(
            "%s: attempt %d failed, %s; the next in %.3g s",
            handler.name, self._failed, failure, delay,
        )  # fmt: skip
        self._announce(RetryScheduled, now, self._failed, failure=failure, delay=delay)

    def _announce(self, kind: type[RetryEvent], at: float, attempt: int, **fields: Any) -> None:
        name, number = self.handler.name, self._number
        self.handler.announce(kind(at=at, source=name, call=number, attempt=attempt, **fields))

    def _reason_to_stop(
        self, error: Exception | None, delay: float, requested: float | None, elapsed: float
    ) -> str | None:
        """Why no other attempt follows; None if one does, which the budget has then paid."""
        config = self.handler.config
        if self._failed >= config.max_attempts:
            return f"max_attempts={config.max_attempts}"
        if requested is not None:
            bound, most = "max_retry_after", config.max_retry_after
            if isinstance(error, _REJECTIONS) and config.wait_from is None:
                bound, most = "max_delay", min(most, config.max_delay)
            if requested > most:
                return f"asked to wait {requested:.10g} s, {bound}={most:g} s"
        if config.max_elapsed is not None and elapsed + delay > config.max_elapsed:
            return f"max_elapsed={config.max_elapsed:g} s"
        if config.budget is not None and not config.budget.withdraw():
            return "the retry budget is spent"
        return None

    def _backoff(self) -> float:
        config = self.handler.config
        delay = backoff(
            self._failed, config.base_delay, config.exponential_multiplier, config.max_delay
        )
        return with_jitter(
            config.jitter, delay, base=config.base_delay, cap=config.max_delay,
            previous=self._previous_delay, source=self.handler.random,
        )  # fmt: skip

    def _requested_delay(self, failure: Any) -> float | None:
        """The seconds that a failure asks for; None if it does not, or cannot be asked."""
        ask = self.handler.config.wait_from
        if ask is None:
            return retry_after_of(failure, self.handler.clock.time())
        try:
            seconds = ask(failure)
            return None if seconds is None else validation.number("wait_from", seconds)
        except Exception:
            _logger.exception("%s: %r cannot say how long to wait", self.handler.name, ask)
            return None

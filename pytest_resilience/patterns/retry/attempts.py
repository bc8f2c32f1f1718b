"""The attempts of one call: all that is remembered between them."""

from __future__ import annotations

import itertools
import logging
import random
import threading

from collections import deque
from dataclasses import dataclass
from typing import Any

from pytest_resilience.clock import Clock
from pytest_resilience.errors import RetryExhaustedError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.retry.config import RetryConfig
from pytest_resilience.patterns.retry.delays import Uniform
from pytest_resilience.patterns.retry.delays import backoff
from pytest_resilience.patterns.retry.delays import next_delay
from pytest_resilience.patterns.retry.delays import retry_after_of


__all__ = [
    "RetryAborted",
    "RetryEvent",
    "RetryGaveUp",
    "RetryScheduled",
    "RetrySucceeded",
    "Series",
    "Surroundings",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryEvent(Event):
    """Something about one call.

    No event keeps an exception: it would keep every frame alive that it passed through.

    Attributes:
        call: the call's number among those its handler had to try again.
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
    """A call has succeeded after all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAborted(RetryEvent):
    """A call that was to be tried again was ended by what is not: cancellation, say.

    Attributes:
        failure: by what, in words.
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


class Surroundings:
    """What all calls of one handler share: its configuration, and where it reports."""

    def __init__(
        self, config: RetryConfig, name: str, clock: Clock, chance: Uniform | None
    ) -> None:
        self.config = config
        self.name = name
        self.clock = clock
        # The module's generator, for it is seeded anew in a forked child. One of our own
        # would make all workers of a server that forks wait the same times.
        self.chance: Uniform = random if chance is None else chance
        self.listeners = Listeners()
        self.numbers = itertools.count(1)
        # Whether a call has to be known of before it fails.
        self.begins = config.budget is not None or config.max_elapsed is not None
        self._history: deque[RetryEvent] = deque(maxlen=_HISTORY)
        self._lock = fork_safe(self, "_lock", threading.Lock)

    @property
    def history(self) -> tuple[RetryEvent, ...]:
        """The latest events, oldest first."""
        with self._lock:
            return tuple(self._history)

    def begin(self) -> float:
        """A call is about to be made for the first time: monotonic seconds."""
        if self.config.budget is not None:
            self.config.budget.deposit()
        return self.clock.monotonic()

    def tell(self, event: RetryEvent) -> None:
        """Remember and announce."""
        with self._lock:
            self._history.append(event)
        self.listeners.emit(event)


class Series:
    """One call and its attempts; nothing here is shared with another call.

    No exception is kept between the attempts: its traceback holds the frame that holds this.

    Attributes:
        delay: seconds to wait before the next attempt; None before the first, and when
            there is no next.
    """

    __slots__ = ("_around", "_attempt", "_number", "_previous", "_started", "delay")

    def __init__(self, around: Surroundings, started: float | None = None) -> None:
        """`started`: what `Surroundings.begin` returned; None to count from the first failure."""
        self._around = around
        self._attempt = 0
        self._number = 0
        self._started = started
        self._previous = around.config.base_delay
        self.delay: float | None = None

    def raised(self, error: BaseException) -> bool:
        """An attempt has raised. False: what it raised is to pass as it is.

        Raises RetryExhaustedError, from the error, if no attempt follows.
        """
        if isinstance(error, Exception) and self._around.config.tries_again(error):
            self._failed(error, None)
            return True
        self.aborted(error)
        return False

    def returned(self, result: Any) -> bool:
        """An attempt has returned. False: another follows, or RetryExhaustedError is raised."""
        unwanted = self._around.config.retry_on_result
        if unwanted is None or not unwanted(result):
            self.succeeded()
            return True
        self._failed(None, result)
        return False

    def succeeded(self) -> None:
        """The call has succeeded; told only if an attempt failed before."""
        self.delay = None
        if self._number:
            attempt, name = self._attempt + 1, self._around.name
            _logger.info("%s: succeeded at attempt %d", name, attempt)
            at = self._around.clock.monotonic()
            event = RetrySucceeded(at=at, source=name, call=self._number, attempt=attempt)
            self._around.tell(event)

    def aborted(self, error: BaseException) -> None:
        """The call was ended by what is not tried again; told as success is."""
        waited, self.delay = self.delay is not None, None
        if self._number:
            self._around.tell(
                RetryAborted(
                    at=self._around.clock.monotonic(), source=self._around.name,
                    call=self._number, attempt=self._attempt + (not waited),
                    failure=describe(error),
                )
            )  # fmt: skip

    def pause(self) -> None:
        """Wait as long as is due before the next attempt."""
        if self.delay is not None:
            try:
                self._around.clock.sleep(self.delay)
            except BaseException as interruption:
                self.aborted(interruption)
                raise
            self.delay = None

    async def apause(self) -> None:
        """Wait as `pause` does, suspended."""
        if self.delay is not None:
            try:
                await self._around.clock.asleep(self.delay)
            except BaseException as interruption:
                self.aborted(interruption)
                raise
            self.delay = None

    def _failed(self, error: Exception | None, result: Any) -> None:
        around = self._around
        now = around.clock.monotonic()
        if self._started is None:
            self._started = now
        self._attempt += 1
        self._number = self._number or next(around.numbers)
        cause = result if error is None else error
        failure, asked = describe(cause), self._asked(cause)
        delay = self._backoff() if asked is None else asked
        reason = self._enough(delay, asked, now - self._started)
        if reason is not None:
            self._gave_up(now, failure, reason)
            raise RetryExhaustedError(
                self._attempt, error, reason=reason, last_result=result,
                elapsed=now - self._started,
            ) from error  # fmt: skip
        self.delay = self._previous = delay
        _logger.warning(
            "%s: attempt %d failed, %s; the next in %.3g s",
            around.name, self._attempt, failure, delay,
        )  # fmt: skip
        around.tell(
            RetryScheduled(
                at=now, source=around.name, call=self._number, attempt=self._attempt,
                failure=failure, delay=delay,
            )
        )  # fmt: skip

    def _gave_up(self, now: float, failure: str, reason: str) -> None:
        name = self._around.name
        _logger.error("%s: gave up at attempt %d (%s), %s", name, self._attempt, reason, failure)
        self._around.tell(
            RetryGaveUp(
                at=now, source=name, call=self._number, attempt=self._attempt,
                failure=failure, reason=reason,
            )
        )  # fmt: skip

    def _enough(self, delay: float, asked: float | None, elapsed: float) -> str | None:
        """Why no other attempt follows, if none does."""
        config = self._around.config
        if self._attempt >= config.max_attempts:
            return f"max_attempts={config.max_attempts}"
        if asked is not None and asked > config.max_retry_after:
            return f"asked to wait {asked:.10g} s, max_retry_after={config.max_retry_after:g} s"
        if config.max_elapsed is not None and elapsed + delay > config.max_elapsed:
            return f"max_elapsed={config.max_elapsed:g} s"
        if config.budget is not None and not config.budget.withdraw():
            return "the retry budget is spent"
        return None

    def _backoff(self) -> float:
        config = self._around.config
        plain = backoff(
            self._attempt, config.base_delay, config.exponential_multiplier, config.max_delay
        )
        return next_delay(
            config.jitter, plain, base=config.base_delay, cap=config.max_delay,
            previous=self._previous, chance=self._around.chance,
        )  # fmt: skip

    def _asked(self, failure: Any) -> float | None:
        """What a failure asks for; a function that cannot say leaves it to the rest."""
        ask = self._around.config.wait_from
        if ask is None:
            return retry_after_of(failure, self._around.clock.time())
        try:
            asked = ask(failure)
            return None if asked is None else validation.number("wait_from", asked)
        except Exception:
            _logger.exception("%s: %r cannot say how long to wait", self._around.name, ask)
            return None

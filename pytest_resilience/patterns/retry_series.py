"""The attempts of one call: all that is remembered between them."""

from __future__ import annotations

import itertools
import random

from collections import deque
from typing import Any

from pytest_resilience.clock import Clock
from pytest_resilience.errors import RetryExhaustedError
from pytest_resilience.events import Listeners
from pytest_resilience.patterns import fields
from pytest_resilience.patterns.delays import Uniform
from pytest_resilience.patterns.delays import backoff
from pytest_resilience.patterns.delays import next_delay
from pytest_resilience.patterns.retry_after import retry_after_of
from pytest_resilience.patterns.retry_config import RetryConfig
from pytest_resilience.patterns.retry_events import RetryEvent
from pytest_resilience.patterns.retry_events import RetryGaveUp
from pytest_resilience.patterns.retry_events import RetryScheduled
from pytest_resilience.patterns.retry_events import RetrySucceeded


__all__ = ["Series", "Surroundings"]

_HISTORY = 1000  # events that are remembered


class Surroundings:
    """What all calls of one handler share: its configuration, and where it reports.

    Attributes:
        history: the latest events, oldest first.
    """

    def __init__(
        self, config: RetryConfig, name: str, clock: Clock, chance: Uniform | None
    ) -> None:
        self.config = config
        self.name = name
        self.clock = clock
        self.chance: Uniform = chance or random.Random()
        self.listeners = Listeners()
        self.history: deque[RetryEvent] = deque(maxlen=_HISTORY)
        self.numbers = itertools.count(1)

    def tell(self, event: RetryEvent) -> None:
        """Remember and announce."""
        self.history.append(event)
        self.listeners.emit(event)


class Series:
    """One call and its attempts; nothing here is shared with another call."""

    __slots__ = ("_around", "_attempt", "_number", "_previous", "_started")

    def __init__(self, around: Surroundings, started: float | None = None) -> None:
        """`started`: monotonic seconds when the first attempt began, if that was noted."""
        self._around = around
        self._attempt = 0
        self._number = 0
        self._started = around.clock.monotonic() if started is None else started
        self._previous = around.config.base_delay

    def failed(self, error: Exception | None, result: Any = None) -> float:
        """An attempt has failed, by an error or its result: seconds to wait for the next.

        Raises RetryExhaustedError, from the error, if none follows.
        """
        self._attempt += 1
        self._number = self._number or next(self._around.numbers)
        delay = self._delay(error, result)
        reason = self._enough(delay)
        failure = f"result {result!r}" if error is None else f"{type(error).__name__}: {error}"
        now, name = self._around.clock.monotonic(), self._around.name
        if reason is not None:
            self._around.tell(
                RetryGaveUp(
                    at=now, source=name, call=self._number, attempt=self._attempt,
                    failure=failure, reason=reason,
                )
            )  # fmt: skip
            raise RetryExhaustedError(
                self._attempt, error, reason=reason, last_result=result,
                elapsed=now - self._started,
            ) from error  # fmt: skip
        self._around.tell(
            RetryScheduled(
                at=now, source=name, call=self._number, attempt=self._attempt,
                failure=failure, delay=delay,
            )
        )  # fmt: skip
        self._previous = delay
        return delay

    def succeeded(self) -> None:
        """The call has succeeded; told only if an attempt failed before."""
        if self._number:
            around = self._around
            around.tell(
                RetrySucceeded(
                    at=around.clock.monotonic(), source=around.name, call=self._number,
                    attempt=self._attempt + 1,
                )
            )  # fmt: skip

    def _enough(self, delay: float) -> str | None:
        """Why no other attempt follows, if none does."""
        config = self._around.config
        if self._attempt >= config.max_attempts:
            return f"max_attempts={config.max_attempts}"
        if config.max_elapsed is not None:
            elapsed = self._around.clock.monotonic() - self._started
            if elapsed + delay > config.max_elapsed:
                return f"max_elapsed={config.max_elapsed:g} s"
        if config.budget is not None and not config.budget.withdraw():
            return "the retry budget is spent"
        return None

    def _delay(self, error: Exception | None, result: Any) -> float:
        around, config = self._around, self._around.config
        cause = result if error is None else error
        if config.wait_from is not None:
            asked = config.wait_from(cause)
        else:
            asked = retry_after_of(cause, around.clock.time())
        if asked is not None:
            return fields.number("wait_from", asked)
        plain = backoff(
            self._attempt, config.base_delay, config.exponential_multiplier, config.max_delay
        )
        return next_delay(
            config.jitter, plain, base=config.base_delay, cap=config.max_delay,
            previous=self._previous, chance=around.chance,
        )  # fmt: skip

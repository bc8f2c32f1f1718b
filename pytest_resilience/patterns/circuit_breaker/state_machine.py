"""The state machine of a circuit breaker: admits calls, and learns from how they end."""

from __future__ import annotations

import logging
import math
import threading

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pytest_resilience.clock import Clock
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.circuit_breaker.config import CircuitBreakerConfig
from pytest_resilience.patterns.circuit_breaker.config import Outcome


__all__ = ["Circuit", "CircuitRejection", "CircuitState", "CircuitTransition", "Ticket"]


class CircuitState(Enum):
    """What a circuit breaker does with calls.

    CLOSED lets them through, OPEN refuses them, HALF_OPEN lets a few through to see.
    FORCED_OPEN refuses until somebody decides otherwise; DISABLED lets everything through
    and counts nothing; METRICS_ONLY lets everything through and counts.
    """

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"
    FORCED_OPEN = "FORCED_OPEN"
    DISABLED = "DISABLED"
    METRICS_ONLY = "METRICS_ONLY"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitTransition(Event):
    """A breaker has changed its state.

    Attributes:
        old: the state before.
        new: the state since.
        reason: why, in words.
    """

    old: CircuitState
    new: CircuitState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitRejection(Event):
    """A breaker has refused a call; told to listeners, not kept.

    Attributes:
        state: the state that refused.
    """

    state: CircuitState


# What a call that is under way holds: its generation, and when it began (monotonic seconds; 0
# where that does not matter).
Ticket = tuple[int, float]

_HISTORY = 100  # transitions that are remembered
_USUAL_TIMEOUT = 60.0  # seconds, where a function that was to say so cannot
_logger = logging.getLogger("pytest_resilience.breaker")

# Read from a module once, not from an Enum at each call.
_NEVER = math.inf
_CLOSED, _OPEN, _HALF_OPEN, _FORCED_OPEN, _DISABLED, _METRICS_ONLY = CircuitState


# Makes the error without `__init__`, which would set the same `args` again, in three times as long.
_Refusal = CircuitBreakerError
_refusal = CircuitBreakerError.__new__


class Circuit:
    """Decides for one breaker. No lock is held while anything of the user's runs.

    Each state has a generation. A call is admitted into the one that is current and counts
    in that one alone: late, its outcome says nothing about the state there is by then.

    All ways in go alike, each written out where it is, because one more call would double what
    they cost: `lane`, or else `admit()`, is the call's ticket; `failed` is told of what it
    raises; and if `learns` or `lane` is another by now, `returned` or `succeeded` of its end.

    Attributes:
        lane: the ticket of every call, while closed, if neither a call's duration nor its
            result matters: then it needs nothing else to begin, and no lock. Else None.
        streak: failures in a row.
        learns: whether a success would change anything: not if there is no failure to forget
            and any window is full of successes. So it does while open, which it is by
            failures, and half open.
        state: the state now.
        opened: how often it has opened since it was last closed.
        last_failure: monotonic seconds, None if there was none.
        successes: while half open.
        history: the latest transitions.
        reopens_at: monotonic seconds when an open one lets calls through again.
    """

    def __init__(
        self, config: CircuitBreakerConfig, name: str, clock: Clock, listeners: Listeners
    ) -> None:
        self.config = config
        self.name = name
        self.clock = clock
        self.listeners = listeners
        self.state = _CLOSED
        self.streak = 0
        self.opened = 0
        self.successes = 0
        self.last_failure: float | None = None
        self.history: deque[CircuitTransition] = deque(maxlen=_HISTORY)
        self.window = config.new_window()
        self.learns = self.window is not None
        self._slow_after = config.slow_call_duration
        self._quick = self._slow_after is None and config.is_failed_result is None
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._generation = 0
        self._under_way = 0  # calls, while half open
        self.reopens_at = _NEVER
        self._asked_at = 0.0  # when the last call was let through half open
        self.lane: Ticket | None = (0, 0.0) if self._quick else None
        self._monotonic = clock.monotonic

    def admit(self) -> Ticket:
        """Let a call through. Raises CircuitBreakerError."""
        generation = self._generation  # before the state: too old is ignored, too new is not
        state = self.state
        if state is _OPEN:
            left = self.reopens_at - self._monotonic()
            if left > 0:
                if self.listeners.listened:
                    self._refuse(state)
                raise _refusal(_Refusal, self.name, "OPEN", left if left < _NEVER else None)
        elif state is _CLOSED or state is _DISABLED or state is _METRICS_ONLY:
            return generation, 0.0 if self._slow_after is None else self._monotonic()
        elif state is _FORCED_OPEN:
            self._refuse(state)
            raise CircuitBreakerError(self.name, "FORCED_OPEN")
        with self._lock:
            transition = self._try_again()
            admitted = self._take_place()
            generation, state = self._generation, self.state
        self._tell(transition)
        if not admitted:
            self._refuse(state)
            raise CircuitBreakerError(self.name, state.value)
        return self._ticket(generation)

    def adopt(self) -> Ticket:
        """A ticket for a call that was let through, nobody knows when: as if it were just now."""
        return self._ticket(self._generation)

    def _ticket(self, generation: int) -> Ticket:
        return generation, 0.0 if self._slow_after is None else self._monotonic()

    def refuses(self) -> bool:
        """Whether a call would be refused now. To ask changes nothing."""
        with self._lock:
            now = self._monotonic()
            if self.state is _HALF_OPEN:
                return self._under_way >= self._places() and not self._is_stuck(now)
            is_open = self.state is _OPEN and now < self.reopens_at
            return is_open or self.state is _FORCED_OPEN

    def _try_again(self) -> CircuitTransition | None:
        """Turn half open if it is time; give up on calls that never came back."""
        now = self._monotonic()
        if self.state is _OPEN and now >= self.reopens_at:
            return self._enter(_HALF_OPEN, "its time was over")
        if self.state is _HALF_OPEN and self._is_stuck(now):
            _logger.warning("%s: %d probes never ended", self.name, self._under_way)
            self._generation += 1  # should they end after all, they are late
            self._under_way = 0
        return None

    def _is_stuck(self, now: float) -> bool:
        late = now >= self._asked_at + self._patience()
        return late and self._under_way >= self._places()

    def _patience(self) -> float:
        timeout = self.config.timeout
        return _USUAL_TIMEOUT if callable(timeout) else timeout

    def _places(self) -> int:
        """Calls that may be under way half open: no more than can still be needed."""
        return min(self.config.probes, self.config.success_threshold - self.successes)

    def _take_place(self) -> bool:
        if self.state is not _HALF_OPEN:
            return self.state in (_CLOSED, _DISABLED, _METRICS_ONLY)
        if self._under_way >= self._places():
            return False
        self._under_way += 1
        self._asked_at = self._monotonic()
        return True

    def _refuse(self, state: CircuitState) -> None:
        if self.listeners.listened:
            at = self._monotonic()
            self.listeners.emit(CircuitRejection(at=at, source=self.name, state=state))

    def returned(self, ticket: Ticket, result: Any) -> None:
        """A call has returned."""
        config = self.config
        if config.is_failed_result is not None:
            outcome = self._judge(ticket, config.judge_result, result)
            if outcome is not Outcome.SUCCESS:
                self._count(ticket, outcome, self._was_slow(ticket), None)
                return
        self.succeeded(ticket)

    def succeeded(self, ticket: Ticket) -> None:
        """A call has ended well, and has no result to be judged."""
        slow = self._was_slow(ticket)
        if not (slow or self.learns):
            return
        window = self.window
        if window is not None and self._quick and self.state is _CLOSED:
            now = self._monotonic() if window.timed else 0.0
            with self._lock:
                if ticket[0] == self._generation and not window.failures:
                    window.record(now)
                    self.streak = 0
                    self.learns = not window.settled
                    return
        self._count(ticket, Outcome.SUCCESS, slow, None)

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        """A call has raised."""
        slow = self._was_slow(ticket)
        self._count(ticket, self._judge(ticket, self.config.judge_error, error), slow, error)

    def released(self, ticket: Ticket) -> None:
        """A call has ended in a way that says nothing."""
        self._count(ticket, Outcome.IGNORED, False, None)

    def _was_slow(self, ticket: Ticket) -> bool:
        limit = self._slow_after
        return limit is not None and self._monotonic() - ticket[1] > limit

    def _judge(self, ticket: Ticket, judge: Callable[[Any], Outcome], ending: Any) -> Outcome:
        """Ask the user's function, if there is one; what it raises is raised, and says nothing."""
        try:
            return judge(ending)
        except BaseException:
            self.released(ticket)
            raise

    def _count(
        self, ticket: Ticket, outcome: Outcome, slow: bool, error: BaseException | None
    ) -> None:
        now = self._monotonic()
        with self._lock:
            if ticket[0] != self._generation or self.state is _DISABLED:
                return
            if self.state is _HALF_OPEN:
                transition = self._count_half_open(outcome, slow, error, now)
            elif outcome is Outcome.IGNORED:
                return
            else:
                transition = self._count_closed(outcome, slow, error, now)
                self._attend()
        if transition is not None and transition.new is _OPEN:
            self._set_timeout(error)
        self._tell(transition)

    def _count_half_open(
        self, outcome: Outcome, slow: bool, error: BaseException | None, now: float
    ) -> CircuitTransition | None:
        if not self._under_way:
            return None  # adopted: it was let through before
        self._under_way -= 1
        if outcome is Outcome.IGNORED:
            return None
        if outcome is Outcome.FAILURE or slow:
            self.last_failure = now
            self.streak += 1
            return self._enter(_OPEN, f"a probe failed{_cause(error, slow)}")
        self.streak = 0
        self.successes += 1
        if self.successes < self.config.success_threshold:
            return None
        return self._enter(_CLOSED, f"{self.successes} calls succeeded")

    def _count_closed(
        self, outcome: Outcome, slow: bool, error: BaseException | None, now: float
    ) -> CircuitTransition | None:
        failed = outcome is Outcome.FAILURE or (slow and self.window is None)
        self.streak = self.streak + 1 if failed else 0
        if failed:
            self.last_failure = now
        if self.window is not None:
            self.window.record(now, failed, slow)
            reason = self.config.too_many(self.window)
        else:
            enough = self.streak >= self.config.failure_threshold
            reason = f"{self.streak} failures in a row" if enough else None
        if reason is None or self.state is not _CLOSED:
            return None
        return self._enter(_OPEN, f"{reason}{_cause(error, slow)}")

    def put(self, state: CircuitState, reason: str) -> None:
        """Enter a state because somebody says so; CLOSED starts from nothing."""
        with self._lock:
            if state is _CLOSED:
                self.last_failure = None
            transition = self._enter(state, reason)
        self._tell(transition)

    def _enter(self, new: CircuitState, reason: str) -> CircuitTransition:
        """Change the state, under the lock."""
        now = self._monotonic()
        event = CircuitTransition(at=now, source=self.name, old=self.state, new=new, reason=reason)
        self.state = new
        self._generation += 1
        self._under_way = self.successes = 0
        self.reopens_at = _NEVER
        if new is _OPEN:
            self.opened += 1
            if not callable(self.config.timeout):
                self.reopens_at = now + self.config.timeout
        elif new is _HALF_OPEN:
            self._asked_at = now
        else:
            self.opened = self.streak = 0
            if self.window is not None:
                self.window.clear()
            self._attend()
        self.lane = (self._generation, 0.0) if new is _CLOSED and self._quick else None
        self.history.append(event)
        return event

    def _attend(self) -> None:
        self.learns = self.streak > 0 if self.window is None else not self.window.settled

    def _set_timeout(self, error: BaseException | None) -> None:
        """Ask the user's function how long to stay open, not under the lock."""
        ask = self.config.timeout
        if not callable(ask):
            return
        generation, opened = self._generation, self.opened
        try:
            seconds = validation.number("timeout", ask(opened, error))
        except Exception:
            _logger.exception("%s: %r cannot say how long to stay open", self.name, ask)
            seconds = _USUAL_TIMEOUT
        with self._lock:
            if generation == self._generation:
                self.reopens_at = self.history[-1].at + seconds

    def _tell(self, transition: CircuitTransition | None) -> None:
        if transition is None:
            return
        old, new = transition.old.value, transition.new.value
        _logger.info("%s: %s -> %s, %s", self.name, old, new, transition.reason)
        self.listeners.emit(transition)

    def numbers(self) -> dict[str, Any]:
        """The counts now."""
        with self._lock:
            now, last, window = self._monotonic(), self.last_failure, self.window
            if window is not None:
                window.forget(now)
            failures = self.streak if window is None else window.failures
            return {
                "state": self.state.value,
                "failure_count": failures,
                "success_count": self.successes,
                "last_failure_time": last,
                "time_since_last_failure": None if last is None else now - last,
                "times_opened": self.opened,
                "window_calls": None if window is None else window.calls,
                "window_slow_calls": None if window is None else window.slow,
            }


def _cause(error: BaseException | None, slow: bool) -> str:
    if error is not None:
        return f", with {type(error).__name__}"
    return ", too slow" if slow else ", by its result"

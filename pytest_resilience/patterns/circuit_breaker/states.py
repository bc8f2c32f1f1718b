"""The states of a circuit breaker, and what is told of them.

One object for each stay in a state. A call counts in the one that let it through, so when it
ends late its outcome says nothing about the state there is by then.

                  `failure_threshold` consecutive failures,
                  or a rate reached in the sliding window
     +--------+ ----------------------------------------> +------+ <-----------------+
     | CLOSED |                                           | OPEN |                   |
     +--------+                                           +------+                   |
         ^                                                   | `timeout` is over,    |
         |                                                   | and a call comes      |
         |                                                   v                       |
         |      `success_threshold` trial calls       +-----------+  one trial call  |
         +------------------------------------------- | HALF_OPEN | -----------------+
                succeed                               +-----------+  fails or is slow

    From any state, by hand: force_open() -> FORCED_OPEN, force_closed() -> DISABLED,
    metrics_only() -> METRICS_ONLY, reset() -> CLOSED, open_for(seconds) -> OPEN;
    isolate() -> FORCED_OPEN, and back to what there was before.

The pattern is Michael Nygard's ("Release It!", 2007); the words are those of resilience4j and
failsafe-go.
"""

from __future__ import annotations

import itertools
import math
import operator

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from enum import Enum

from pytest_resilience.events import Event
from pytest_resilience.patterns.circuit_breaker.config import CircuitBreakerConfig
from pytest_resilience.patterns.circuit_breaker.config import Outcome


__all__ = [
    "DEFAULT_TIMEOUT", "NEVER", "NOT_QUICK", "UNTIMED", "CircuitCall", "CircuitRejection",
    "CircuitState", "CircuitTransition", "CircuitWouldOpen", "Closed", "Counts", "HalfOpen",
    "Isolated", "Next", "Open", "State", "StatePermit",
]  # fmt: skip


class CircuitState(Enum):
    """What a circuit breaker does with calls.

    CLOSED lets them through, OPEN rejects them, HALF_OPEN lets a few trial calls through.
    FORCED_OPEN rejects until somebody decides otherwise. DISABLED lets everything through and
    counts nothing. METRICS_ONLY lets everything through, counts, and tells when it would have
    opened.
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
        new: the state after.
        reason: why, in words.
    """

    old: CircuitState
    new: CircuitState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitWouldOpen(Event):
    """A breaker that is METRICS_ONLY would have opened. Listeners get it; it is not kept.

    The next one is told of when there has been no reason to open meanwhile.

    Attributes:
        reason: why, in words.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitRejection(Event):
    """A breaker has rejected a call. Both kinds of listeners get it; it is not kept.

    Attributes:
        state: the state that rejected it.
    """

    state: CircuitState


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitCall(Event):
    """A call that a breaker had let through has ended. Only `call_listeners` get it.

    Attributes:
        outcome: whether it counts as a success, as a failure, or neither way.
        slow: whether it took longer than `slow_call_duration`.
        duration: in seconds; None if it began before anybody listened, or is a block that was
            entered in another context.
        error: what it raised; no part of its text.
    """

    outcome: Outcome
    slow: bool
    duration: float | None
    error: BaseException | None = field(default=None, compare=False, repr=False)


DEFAULT_TIMEOUT = 60.0  # seconds, where the user's function fails to say
NEVER = math.inf
UNTIMED = NEVER  # since when no call is slow

# An attribute of an Enum class is looked up slowly: once, not at each call.
_CLOSED, _OPEN, _HALF_OPEN, _FORCED_OPEN, _DISABLED, _METRICS_ONLY = CircuitState
_SUCCESS, _FAILURE, _IGNORED = Outcome

_PLENTY = 2**62  # of calls
_UNCOUNTED = itertools.repeat(None)  # quick successes where no window holds them

# The state that follows, and the reason in words.
Next = tuple[CircuitState, str]


class Totals:
    """How many calls came to what, as long as the breaker is there."""

    __slots__ = ("outcomes", "quick", "rejected", "slow")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.slow = 0
        # Counted without the lock: `next` of each is one step of the interpreter.
        self.quick, self.rejected = itertools.repeat(None, _PLENTY), itertools.repeat(None, _PLENTY)

    def add(self, outcome: Outcome, slow: bool) -> None:
        self.outcomes[outcome] += 1
        self.slow += slow

    def statistics(self, successes: bool) -> dict[str, int | None]:
        quick = _PLENTY - operator.length_hint(self.quick)
        return {
            "total_successes": self.outcomes[_SUCCESS] + quick if successes else None,
            "total_failures": self.outcomes[_FAILURE],
            "total_ignored": self.outcomes[_IGNORED],
            "total_slow": self.slow,
            "total_rejected": _PLENTY - operator.length_hint(self.rejected),
        }


class Counts:
    """The failures that a breaker remembers until it is closed again."""

    __slots__ = (
        "config", "consecutive_failures", "last_failure", "slow_after", "times_opened", "totals",
        "watched", "window",
    )  # fmt: skip

    def __init__(self, config: CircuitBreakerConfig) -> None:
        self.config = config
        limit = config.slow_call_duration
        self.slow_after = NEVER if limit is None else limit
        self.consecutive_failures = 0
        self.times_opened = 0
        self.last_failure: float | None = None  # monotonic seconds
        self.window = config.new_window()
        self.totals = Totals()
        self.watched = False  # whether somebody listens to single calls

    def clear(self) -> None:
        self.consecutive_failures = self.times_opened = 0
        if self.window is not None:
            self.window.clear()

    @property
    def settled(self) -> bool:
        """Whether one more quick success would change nothing."""
        if self.config.count_calls:
            return False
        return not self.consecutive_failures if self.window is None else self.window.settled

    @property
    def quick(self) -> tuple[Iterator[None], float] | None:
        """What takes a quick success that decides nothing, and until when; None if none does."""
        if self.consecutive_failures or self.watched:
            return None
        window, counted = self.window, self.config.count_calls
        if window is None:
            return self.totals.quick if counted else _UNCOUNTED, NEVER
        if counted:
            return None  # in the window and in all
        if window.settled:
            return _UNCOUNTED, NEVER
        # A success only lowers rates, unless it completes `minimum_calls`, or others grow too old.
        decides = (window.failures or window.slow) and window.calls < self.config.minimum_calls
        return None if decides else (window.quick, window.until)

    def add(self, now: float, failed: bool, slow: bool) -> None:
        if self.window is not None:
            self.window.record(now, failed, slow)
        else:
            failed = failed or slow
        self.add_consecutive(now, failed)

    def add_consecutive(self, now: float, failed: bool) -> None:
        if failed:
            self.last_failure = now
            self.consecutive_failures += 1
        else:
            self.consecutive_failures = 0

    def reason_to_open(self) -> str | None:
        if self.window is not None:
            return self.config.rate_reached(self.window)
        if self.consecutive_failures >= self.config.failure_threshold:
            return f"{self.consecutive_failures} failures in a row"
        return None


class Closed:
    """Lets every call through: CLOSED, METRICS_ONLY and DISABLED."""

    __slots__ = ("counts", "kind", "reached")

    def __init__(self, kind: CircuitState, counts: Counts) -> None:
        self.kind = kind
        self.counts = counts
        self.reached = False  # whether there is a reason to open, where none is heeded

    def try_acquire(self, now: float) -> bool:  # noqa: ARG002
        return True

    def record(self, outcome: Outcome, slow: bool, now: float) -> Next | None:
        if outcome is _IGNORED or self.kind is _DISABLED:
            return None
        self.counts.add(now, outcome is _FAILURE, slow)
        reason = self.counts.reason_to_open()
        if self.kind is _CLOSED:
            return None if reason is None else (_OPEN, reason)
        before, self.reached = self.reached, reason is not None
        return None if reason is None or before else (_METRICS_ONLY, reason)


class Open:
    """Lets no call through: OPEN until `reopens_at`, monotonic seconds, FORCED_OPEN for ever."""

    __slots__ = ("kind", "name", "reopens_at")

    def __init__(self, kind: CircuitState, reopens_at: float) -> None:
        self.kind = kind
        self.name = kind.value
        self.reopens_at = reopens_at

    def try_acquire(self, now: float) -> bool:  # noqa: ARG002
        return False

    def record(self, outcome: Outcome, slow: bool, now: float) -> None:
        """Nothing: no call is in progress that it let through."""


class HalfOpen:
    """Lets through as many trial calls at once as can still be needed to close."""

    __slots__ = ("acquired_at", "counts", "failures", "in_progress", "kind", "successes")

    def __init__(self, counts: Counts, now: float) -> None:
        self.kind = _HALF_OPEN
        self.counts = counts
        self.acquired_at = now  # when the last slot was taken
        self.in_progress = 0
        self.successes = self.failures = 0

    def again(self, now: float) -> HalfOpen:
        """The same without the trial calls in progress, which count no more."""
        state = HalfOpen(self.counts, now)
        state.successes, state.failures = self.successes, self.failures
        return state

    @property
    def is_full(self) -> bool:
        config = self.counts.config
        slots = config.half_open_max_calls or config.success_threshold
        undecided = config.success_threshold - self.successes - self.failures
        return self.in_progress >= min(slots, undecided)

    def is_stuck(self, now: float) -> bool:
        """Whether trial calls hold all slots for longer than the breaker would stay open."""
        timeout = self.counts.config.timeout
        patience = DEFAULT_TIMEOUT if callable(timeout) else timeout
        return self.is_full and now >= self.acquired_at + patience

    def try_acquire(self, now: float) -> bool:
        if self.is_full:
            return False
        self.in_progress += 1
        self.acquired_at = now
        return True

    def record(self, outcome: Outcome, slow: bool, now: float) -> Next | None:
        if not self.in_progress:
            return None  # a block entered earlier, and left in a context that knows no permit
        self.in_progress -= 1
        if outcome is _IGNORED:
            return None
        failed = outcome is _FAILURE or slow
        self.counts.add_consecutive(now, failed)
        self.failures += failed
        self.successes += not failed
        return self.decide()

    def decide(self) -> Next | None:
        """What follows from the trial calls that have ended; None while that is open."""
        config = self.counts.config
        calls, rate = config.success_threshold, config.half_open_failure_rate_threshold
        if rate is None:
            if self.failures:
                return _OPEN, "a trial call failed"
            enough = self.successes >= calls
        else:
            if self.failures >= rate * calls:
                return _OPEN, f"{self.failures} of {calls} trial calls failed"
            enough = calls - self.successes < rate * calls
        return (_CLOSED, f"{self.successes} calls succeeded") if enough else None


class Isolated(Open):
    """FORCED_OPEN for as long as anybody wants it, then as it was before."""

    __slots__ = ("before", "holders")

    def __init__(self, before: State) -> None:
        super().__init__(_FORCED_OPEN, NEVER)
        self.before = before
        self.holders = 0

    def end(self, now: float) -> State:
        """The state to go back to."""
        before = self.before
        # The trial calls of then count no more, so nobody would ever give their slots back.
        return before.again(now) if isinstance(before, HalfOpen) else before


State = Closed | Open | HalfOpen

# What a call in progress holds: the state that let it through, and when it began (monotonic
# seconds; UNTIMED where nobody asks, or knows).
StatePermit = tuple[State, float]

# What takes a success without the lock: what counts it, until when, if it took no more seconds than
# these, and in which state.
Quick = tuple[Iterator[None], float, float, State | None]
NOT_QUICK: Quick = _UNCOUNTED, NEVER, NEVER, None

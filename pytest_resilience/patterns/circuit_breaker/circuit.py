"""The state machine of a circuit breaker: which calls get through, by how earlier ones ended.

`states.py` shows the states.
"""

from __future__ import annotations

import logging
import threading

from collections.abc import Callable
from typing import Any

from pytest_resilience.clock import Clock
from pytest_resilience.clock import readings
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.events import Event
from pytest_resilience.events import Journal
from pytest_resilience.events import Listeners
from pytest_resilience.locks import fork_safe
from pytest_resilience.locks import renew_in_child
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.circuit_breaker.config import CircuitBreakerConfig
from pytest_resilience.patterns.circuit_breaker.config import Outcome
from pytest_resilience.patterns.circuit_breaker.config import Window
from pytest_resilience.patterns.circuit_breaker.states import DEFAULT_TIMEOUT
from pytest_resilience.patterns.circuit_breaker.states import NEVER
from pytest_resilience.patterns.circuit_breaker.states import NOT_QUICK
from pytest_resilience.patterns.circuit_breaker.states import UNTIMED
from pytest_resilience.patterns.circuit_breaker.states import CircuitCall
from pytest_resilience.patterns.circuit_breaker.states import CircuitRejection
from pytest_resilience.patterns.circuit_breaker.states import CircuitState
from pytest_resilience.patterns.circuit_breaker.states import CircuitTransition
from pytest_resilience.patterns.circuit_breaker.states import CircuitWouldOpen
from pytest_resilience.patterns.circuit_breaker.states import Closed
from pytest_resilience.patterns.circuit_breaker.states import Counts
from pytest_resilience.patterns.circuit_breaker.states import HalfOpen
from pytest_resilience.patterns.circuit_breaker.states import Isolated
from pytest_resilience.patterns.circuit_breaker.states import Open
from pytest_resilience.patterns.circuit_breaker.states import State
from pytest_resilience.patterns.circuit_breaker.states import StatePermit


__all__ = ["Circuit"]

_HISTORY = 100  # transitions that are remembered
_logger = logging.getLogger("pytest_resilience.breaker")

# An attribute of an Enum class is looked up slowly: once, not at each call.
_CLOSED, _OPEN, _HALF_OPEN, _FORCED_OPEN, _DISABLED, _METRICS_ONLY = CircuitState
_SUCCESS, _FAILURE, _IGNORED = Outcome
_SET_BY_HAND = frozenset({_FORCED_OPEN, _DISABLED, _METRICS_ONLY})

# A state that is over, whichever it was.
_EARLIER = Open(_OPEN, 0.0)

# `__init__` would set the same `args` again, and take three times as long.
_new_error = CircuitBreakerError.__new__


class _Journal(Journal[CircuitTransition]):
    """The transitions of a breaker, and who listens."""

    __slots__ = ("_name", "call_listeners")

    def __init__(self, name: str, changed: Callable[[], None]) -> None:
        """`changed`: called when a listener has come or gone."""
        super().__init__(Listeners(may_await=True, changed=changed), _HISTORY)
        self._name = name
        self.call_listeners = Listeners(may_await=True, changed=changed)

    def _announce(self, event: Event) -> None:
        if isinstance(event, CircuitTransition):
            old, new = event.old.value, event.new.value
            _logger.info("%s: %s -> %s, %s", self._name, old, new, event.reason)
        elif isinstance(event, CircuitWouldOpen):
            _logger.info("%s: it would open, %s", self._name, event.reason)
        super()._announce(event)

    def reject(self, event: CircuitRejection) -> None:
        self.listeners.emit(event)
        self.call_listeners.emit(event)

    async def notify_async(self, ended_by: BaseException | None) -> None:
        await self.listeners.notify_async(ended_by)
        await self.call_listeners.notify_async(ended_by)

    def check_plain(self) -> None:
        """Raise TypeError if a coroutine function listens, which a plain call cannot await."""
        for each in (self.listeners, self.call_listeners):
            if each.awaits:
                raise each.refusal(repr(self._name))


class Circuit:
    """Decides for one breaker. No lock is held while anything of the user's runs.

    A call gets `fast_path`, or else what `acquire_permit()` returns. When it raises, its wrapper
    calls `record_error`. When it returns and `settled` is not its permit (any more), its wrapper
    calls `record_result`, or `record_success` for a block. Each wrapper has that written out:
    one function more around a call would double what it costs.

    Attributes:
        awaits: whether a coroutine function listens: async calls then notify it at each step.
        fast_path: the permit of every call while all are let through; None while open or half
            open, and always where durations matter, or somebody listens to single calls.
        settled: the same, while a success would change nothing and need not be recorded. None
            where results matter.
        quick: what takes a success that is not `settled`, but decides nothing.
        clock: tells when calls begin and end.
        current: the state now.
        journal: of the transitions, and for the listeners.
    """

    __slots__ = (
        "__weakref__", "_lock", "awaits", "clock", "counts", "current",
        "fast_path", "journal", "name", "quick", "settled",
    )  # fmt: skip

    def __init__(self, config: CircuitBreakerConfig, name: str, clock: Clock) -> None:
        self.name = name
        self.awaits = False
        self.journal = _Journal(name, self._listeners_changed)
        self.counts = Counts(config)
        self.current: State = Closed(_CLOSED, self.counts)
        self.fast_path: StatePermit | None = None
        self.settled: StatePermit | None = None
        # Replaced as a whole, so that a thread that has read it counts in the stay it is of.
        self.quick = NOT_QUICK
        self._lock = fork_safe(self, "_lock", threading.Lock)
        renew_in_child(self, "_renew")
        self.clock = readings(clock)
        self._update_fast_path()

    def _renew(self) -> None:
        if self.counts.window is not None:
            self.counts.window.recount()
        if isinstance(self.current, Open):
            self._forget_who_asks(self.current)
        if isinstance(self.current, HalfOpen):  # its trial calls are of threads that are not here
            self.current = self.current.again(self.clock.monotonic())
            decided = self.current.decide()  # unless one of them was about to
            if decided is not None:
                self._enter(*decided)

    def _listeners_changed(self) -> None:
        with self._lock:
            listeners, of_calls = self.journal.listeners, self.journal.call_listeners
            self.awaits = listeners.awaits or of_calls.awaits
            self.counts.watched = of_calls.listened
            self._update_fast_path()

    @property
    def state(self) -> CircuitState:
        return self.current.kind

    def history(self) -> tuple[CircuitTransition, ...]:
        """The latest changes of state, oldest first."""
        return tuple(self.journal.latest.copy())

    async def acquire_async(self) -> StatePermit:
        """Do as `acquire_permit` does, where coroutine functions listen."""
        try:
            permit = self.acquire_permit(awaited=True)
        except CircuitBreakerError:
            await self.notify_async()
            raise
        try:
            await self.notify_async()
        except BaseException:  # cancellation: the call never begins
            self.release_permit(permit)
            raise
        return permit

    async def notify_async(self, ended_by: BaseException | None = None) -> None:
        """Await the listeners that are coroutine functions, for what they have not been told."""
        await self.journal.notify_async(ended_by)

    def acquire_permit(self, *, awaited: bool = False) -> StatePermit:
        """Let a call through. Raises CircuitBreakerError.

        `awaited`: whether the caller then notifies those listeners that have to be awaited.
        """
        if self.awaits and not awaited:
            self.journal.check_plain()
        state = self.current
        if type(state) is Closed:
            return state, self.clock.monotonic()
        # Without the lock: nothing changes, and all calls of an open breaker come here.
        if isinstance(state, Open):
            remaining = state.reopens_at - self.clock.monotonic()
            if remaining > 0:
                raise self.refusal(state, remaining)
        now = self.clock.monotonic()
        with self._lock:
            self._half_open(now)
            state = self.current  # which another thread may have changed since it was looked at
            acquired = state.try_acquire(now)
        permit = state, now
        try:
            self.journal.tell()
        except BaseException:  # of a listener: KeyboardInterrupt, say
            if acquired:
                self.release_permit(permit)
            raise
        if not acquired:
            next(self.counts.totals.rejected)
            self._announce_rejection(state)
            raise CircuitBreakerError(self.name, state.kind.value)
        return permit

    def refusal(self, state: Open, remaining: float) -> CircuitBreakerError:
        """What a call is rejected with in `state`, for so many seconds more; counts it.

        Each function that an error passes through costs half as much as a bare `raise`. So who is
        called most raises it, where `acquire_permit` would.
        """
        next(self.counts.totals.rejected)
        if self.journal.listeners.listened or self.counts.watched:
            self._announce_rejection(state)
        retry_after = None if remaining == NEVER else remaining
        return _new_error(CircuitBreakerError, self.name, state.name, retry_after)

    def is_trial(self, permit: StatePermit) -> bool:
        """Whether it is of a trial call."""
        return isinstance(permit[0], HalfOpen)

    def adopt(self) -> StatePermit:
        """A permit for a call that was let through, nobody knows when, and that is no trial."""
        state = self.current
        return (_EARLIER if isinstance(state, HalfOpen) else state), UNTIMED

    def rejects(self) -> bool:
        """Whether a call would be rejected now. To ask changes nothing."""
        with self._lock:
            state, now = self.current, self.clock.monotonic()
            if isinstance(state, HalfOpen):
                return state.is_full and not state.is_stuck(now)
            return isinstance(state, Open) and now < state.reopens_at

    def _half_open(self, now: float) -> None:
        """Turn half open if it is time; give up on trial calls that never ended."""
        state = self.current
        if isinstance(state, Open) and now >= state.reopens_at:
            self._enter(_HALF_OPEN, "its timeout was over")
        elif isinstance(state, HalfOpen) and state.is_stuck(now):
            _logger.warning("%s: %d trial calls never ended", self.name, state.in_progress)
            self.current = state.again(now)

    def record_result(self, permit: StatePermit, result: Any) -> None:
        """A call has returned."""
        if self.counts.config.is_failed_result is not None:
            outcome = self._judge(permit, self.counts.config.judge_result, result)
            if outcome is not _SUCCESS:
                self._record(permit, outcome, None)
                return
        self.record_success(permit)

    def record_success(self, permit: StatePermit) -> None:
        """A call has ended well, and has no result to be judged."""
        quick, until, slow_after, state = self.quick
        if permit[0] is state:
            now = self.clock.monotonic()
            if now < until and now - permit[1] <= slow_after and next(quick, True) is None:
                return
        self._record(permit, _SUCCESS, None)

    def record_error(self, permit: StatePermit, error: BaseException) -> None:
        """A call has raised."""
        self._record(permit, self._judge(permit, self.counts.config.judge_error, error), error)

    def record_failure(self, permit: StatePermit) -> None:
        """A call has failed, whatever it returned."""
        self._record(permit, _FAILURE, None)

    def release_permit(self, permit: StatePermit) -> None:
        """A call has ended in a way that says nothing."""
        self._record(permit, _IGNORED, None)

    def _judge(self, permit: StatePermit, judge: Callable[[Any], Outcome], ending: Any) -> Outcome:
        """Ask the user's function, if there is one; if it raises, the call says nothing."""
        try:
            return judge(ending)
        except BaseException:
            self.release_permit(permit)
            raise

    def _record(self, permit: StatePermit, outcome: Outcome, error: BaseException | None) -> None:
        (state, began), now, after = permit, self.clock.monotonic(), None
        slow = now - began > self.counts.slow_after
        with self._lock:
            if state.kind is not _DISABLED:
                self.counts.totals.add(outcome, slow)
            if state is self.current:  # or else it is too late to say anything about it
                after = state.record(outcome, slow, now)
                if after is None:
                    self._update_fast_path()
                else:
                    self._follow(*after, now, _cause(error, slow))
        try:
            if self.counts.watched:
                self._announce_call(permit, now, outcome, error)
        finally:
            if after is not None:
                if after[0] is _OPEN:
                    self._ask_timeout(error)
                self.journal.tell()

    def _follow(self, new: CircuitState, reason: str, now: float, cause: str) -> None:
        """Enter the state that follows, under the lock; or note that it would."""
        if new is _METRICS_ONLY:
            event = CircuitWouldOpen(at=now, source=self.name, reason=reason + cause)
            self.journal.add_note(event)
            self._update_fast_path()
        else:
            self._enter(new, reason + (cause if new is _OPEN else ""))

    def force(self, state: CircuitState, reason: str) -> None:
        """Enter a state because somebody says so; CLOSED starts from nothing."""
        with self._lock:
            if state is _CLOSED:
                self.counts.last_failure = None
            self._enter(state, reason)
        self.journal.tell()

    def open_for(self, seconds: float, reason: str) -> None:
        """Be open for so long at least, unless somebody has set another state."""
        with self._lock:
            if self.state in _SET_BY_HAND:
                return
            if not isinstance(self.current, Open):
                self._enter(_OPEN, reason, seconds)
            else:
                until = self.clock.monotonic() + seconds
                self.current.reopens_at = max(until, self.current.reopens_at)
        self.journal.tell()

    def isolate(self) -> Isolated:
        """Reject every call, and keep what there was; nests."""
        with self._lock:
            state = self.current
            if not isinstance(state, Isolated):
                state = Isolated(state)
                self._change(state, "isolated", self.clock.monotonic())
            state.holders += 1
        self.journal.tell()
        return state

    def rejoin(self, isolated: Isolated) -> None:
        """Be as before, if nobody else isolates it, and nobody has set another state since."""
        with self._lock:
            isolated.holders -= 1
            if isolated is self.current and not isolated.holders:
                now = self.clock.monotonic()
                self._change(isolated.end(now), "isolated no more", now)
        self.journal.tell()

    def _enter(
        self, new: CircuitState, reason: str, seconds: float | None = None
    ) -> CircuitTransition:
        """Start a stay in a state, under the lock; OPEN for `seconds`, if given."""
        now, counts, timeout = self.clock.monotonic(), self.counts, self.counts.config.timeout
        state: State
        if new is _HALF_OPEN:
            state = HalfOpen(counts, now)
        elif new is _OPEN:
            counts.times_opened += 1
            known = NEVER if callable(timeout) else timeout
            state = Open(new, now + (known if seconds is None else seconds))
        else:
            counts.clear()
            state = Open(new, NEVER) if new is _FORCED_OPEN else Closed(new, counts)
        return self._change(state, reason, now)

    def _change(self, state: State, reason: str, now: float) -> CircuitTransition:
        event = CircuitTransition(
            at=now, source=self.name, old=self.state, new=state.kind, reason=reason
        )
        self.current = state
        self._update_fast_path()
        self.journal.add(event)
        return event

    def _update_fast_path(self) -> None:
        state, config = self.current, self.counts.config
        if not isinstance(state, Closed) or self.awaits or self.counts.watched:
            self.fast_path, self.settled, self.quick = None, None, NOT_QUICK
            return
        disabled, quick = state.kind is _DISABLED, self.counts.quick
        if self.fast_path is None or self.fast_path[0] is not state:
            untimed = disabled or config.slow_call_duration is None
            self.fast_path = (state, UNTIMED) if untimed else None
        settled = disabled or (self.counts.settled and config.is_failed_result is None)
        self.settled = self.fast_path if settled else None
        noted = disabled or state.reached  # where a success may take the reason to open away
        self.quick = (
            NOT_QUICK if quick is None or noted else (*quick, self.counts.slow_after, state)
        )

    def _ask_timeout(self, error: BaseException | None) -> None:
        """Ask the user's function how long to stay open, not under the lock."""
        timeout, state = self.counts.config.timeout, self.current
        if not callable(timeout) or not isinstance(state, Open) or state.kind is not _OPEN:
            return
        seconds = DEFAULT_TIMEOUT
        try:
            seconds = validation.number("timeout", timeout(self.counts.times_opened, error))
        except Exception:
            _logger.exception("%s: %r cannot say how long to stay open", self.name, timeout)
        finally:  # whatever it raises, the breaker is not open for ever
            with self._lock:
                if state is self.current:
                    state.reopens_at = self.journal.latest[-1].at + seconds

    def _forget_who_asks(self, state: Open) -> None:
        """Whoever asks the user's function is not in this child: nobody would ever answer."""
        if state.kind is _OPEN and state.reopens_at == NEVER:
            state.reopens_at = self.clock.monotonic() + DEFAULT_TIMEOUT

    def _announce_call(
        self, permit: StatePermit, now: float, outcome: Outcome, error: BaseException | None
    ) -> None:
        duration = None if permit[1] == UNTIMED else now - permit[1]
        slow = duration is not None and duration > self.counts.slow_after
        event = CircuitCall(
            at=now, source=self.name, outcome=outcome, slow=slow, duration=duration, error=error
        )
        self.journal.call_listeners.emit(event)

    def _announce_rejection(self, state: State) -> None:
        at = self.clock.monotonic()
        self.journal.reject(CircuitRejection(at=at, source=self.name, state=state.kind))

    def statistics(self) -> dict[str, Any]:
        """The counts now."""
        with self._lock:
            now, state, counts = self.clock.monotonic(), self.current, self.counts
            last, window = counts.last_failure, counts.window
            if window is not None:
                window.forget(now)
            return {
                "state": state.kind.value,
                "failure_count": counts.consecutive_failures if window is None else window.failures,
                "success_count": state.successes if isinstance(state, HalfOpen) else 0,
                "last_failure_time": last,
                "time_since_last_failure": None if last is None else now - last,
                "times_opened": counts.times_opened,
                "window_calls": None if window is None else window.calls,
                "window_slow_calls": None if window is None else window.slow,
                "failure_rate": _failure_rate(state, window),
                "would_open": counts.reason_to_open() if state.kind is _METRICS_ONLY else None,
                **counts.totals.statistics(counts.config.count_calls),
            }


def _failure_rate(state: State, window: Window | None) -> float | None:
    """Of the trial calls, or of the window; None if there is nothing to rate."""
    if isinstance(state, HalfOpen):
        failures, calls = state.failures, state.failures + state.successes
    elif window is not None:
        failures, calls = window.failures, window.calls
    else:
        return None
    return failures / calls if calls else None


def _cause(error: BaseException | None, slow: bool) -> str:
    if error is not None:
        return f", with {type(error).__name__}"
    return ", too slow" if slow else ", by its result"

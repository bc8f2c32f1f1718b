"""A circuit breaker whose state processes and machines share.

Each step of the engine, which is `Circuit` as ever, is taken on a copy that is made of the shared
document; then what came of it replaces the document. If somebody else has replaced it meanwhile,
the step is taken again on the new one.

While the store cannot be reached each process goes on by itself, from the last document that it
has seen, with the same steps on a document of its own.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

from pytest_resilience.clock import Clock
from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.events import Listeners
from pytest_resilience.patterns.circuit_breaker.circuit import Circuit
from pytest_resilience.patterns.circuit_breaker.config import CircuitBreakerConfig
from pytest_resilience.patterns.circuit_breaker.config import Outcome
from pytest_resilience.patterns.circuit_breaker.states import NEVER
from pytest_resilience.patterns.circuit_breaker.states import CircuitRejection
from pytest_resilience.patterns.circuit_breaker.states import CircuitState
from pytest_resilience.patterns.circuit_breaker.states import CircuitTransition
from pytest_resilience.patterns.circuit_breaker.states import CircuitWouldOpen
from pytest_resilience.patterns.circuit_breaker.states import Closed
from pytest_resilience.patterns.circuit_breaker.states import HalfOpen
from pytest_resilience.patterns.circuit_breaker.states import Isolated
from pytest_resilience.patterns.circuit_breaker.states import Open
from pytest_resilience.patterns.circuit_breaker.states import State
from pytest_resilience.patterns.circuit_breaker.store import Alone
from pytest_resilience.patterns.circuit_breaker.store import Reading
from pytest_resilience.patterns.circuit_breaker.store import RedisStore
from pytest_resilience.patterns.circuit_breaker.store import Store
from pytest_resilience.patterns.event_loops import outcome_of
from pytest_resilience.patterns.event_loops import wait_for
from pytest_resilience.patterns.timeout import in_thread


if TYPE_CHECKING:
    from concurrent.futures import Future


__all__ = ["UNNAMED", "shared_circuit"]

_T = TypeVar("_T")

_AWAITED = "awaited"
UNNAMED = "circuit breaker"  # the name of breakers that nobody has named

_TRIES = 100  # of a step, while others are faster each time
_KEPT = 86_400.0  # seconds that a document is kept after the last change, at least
# States that pass by themselves: a document of another is kept for ever.
_PASSING = frozenset({CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN})
_logger = logging.getLogger("pytest_resilience.breaker")


class _Journal:
    """The transitions of a step, of which nobody hears before it has counted."""

    listeners = call_listeners = Listeners()

    def __init__(self) -> None:
        self.latest: list[CircuitTransition] = []
        self.notes: list[CircuitWouldOpen] = []

    def add(self, event: CircuitTransition) -> None:
        self.latest.append(event)

    def add_note(self, event: CircuitWouldOpen) -> None:
        self.notes.append(event)

    def tell(self) -> None: ...

    def reject(self, event: CircuitRejection) -> None: ...


class _Moment:
    """The clock of a step: it stands still."""

    def __init__(self, now: float) -> None:
        self.monotonic = lambda: now


class _Copy:
    """The engine, as the document says, for one step.

    Attributes:
        circuit: the engine.
        events: its transitions in this step.
        notes: what else it has to tell of in this step.
        now: seconds, by the store's clock.
        reading: what it was made of.
        reason: of the latest transition that was known before.
    """

    def __init__(self, reading: Reading, config: CircuitBreakerConfig, name: str) -> None:
        moment: Any = _Moment(reading.now)
        journal: Any = _Journal()
        self.now, self.reading = reading.now, reading
        self.circuit = Circuit(config, name, moment)
        self.circuit.journal = journal
        self.events: list[CircuitTransition] = journal.latest
        self.notes: list[CircuitWouldOpen] = journal.notes
        self.reason = ""
        # The names of stays in a state, which permits are of. All know that of the first one.
        first = self.circuit.current
        self._stays: dict[State, str] = {first: _stay_in(first.kind, "0")}
        if reading.text:
            try:
                self._restore(json.loads(reading.text))
            except (ValueError, TypeError, KeyError):
                _logger.warning("%s: %r is no state of a breaker", name, reading.text)
                self.circuit.current = first
        self._before = self._document()

    def _restore(self, document: dict[str, Any]) -> None:
        counts = self.circuit.counts
        self.circuit.current = self._state_of(document["state"])
        self.reason = document["reason"]
        for name in _COUNTS:
            setattr(counts, name, document["counts"][name])
        window = document["counts"]["window"]
        if counts.window is not None and window is not None:
            counts.window.restore(window)

    @property
    def stay(self) -> str:
        """The name of the stay in the state there is now."""
        return self._stay_of(self.circuit.current)

    def _stay_of(self, state: State) -> str:
        if state not in self._stays:
            self._stays[state] = _stay_in(state.kind, os.urandom(6).hex())
        return self._stays[state]

    @property
    def is_changed(self) -> bool:
        return self._document() != self._before

    def text(self) -> str:
        """The document."""
        return json.dumps(self._document(), sort_keys=True)

    def _document(self) -> dict[str, Any]:
        counts, window = self.circuit.counts, self.circuit.counts.window
        told = {name: getattr(counts, name) for name in _COUNTS}
        told["window"] = None if window is None else window.dump()
        return {
            "counts": told,
            "reason": self.events[-1].reason if self.events else self.reason,
            "state": self._told(self.circuit.current),
        }

    def _told(self, state: State) -> dict[str, Any]:
        told: dict[str, Any] = {"kind": state.kind.value, "stay": self._stay_of(state)}
        if isinstance(state, Isolated):
            told |= {"before": self._told(state.before), "holders": state.holders}
        elif isinstance(state, Open):
            told["reopens_at"] = None if state.reopens_at == NEVER else state.reopens_at
        elif isinstance(state, Closed):
            told["reached"] = state.reached
        elif isinstance(state, HalfOpen):
            told |= {name: getattr(state, name) for name in _TRIALS}
        return told

    def _state_of(self, told: dict[str, Any]) -> State:
        kind, counts = CircuitState(told["kind"]), self.circuit.counts
        state: State
        if "before" in told:
            state = Isolated(self._state_of(told["before"]))
            state.holders = told["holders"]
        elif "reopens_at" in told:
            state = Open(kind, NEVER if told["reopens_at"] is None else told["reopens_at"])
        elif kind is CircuitState.HALF_OPEN:
            state = HalfOpen(counts, told["acquired_at"])
            for name in _TRIALS:
                setattr(state, name, told[name])
        else:
            state = Closed(kind, counts)
            state.reached = told["reached"]
        self._stays[state] = told["stay"]
        return state


def _stay_in(kind: CircuitState, name: str) -> str:
    return f"{kind.value}/{name}"


_DISABLED = _stay_in(CircuitState.DISABLED, "")
_HALF_OPEN = _stay_in(CircuitState.HALF_OPEN, "")
_TRIALS = ("acquired_at", "failures", "in_progress", "successes")
_COUNTS = ("consecutive_failures", "last_failure", "times_opened")


def shared_circuit(store: RedisStore) -> Callable[..., SharedCircuit]:
    """What makes the circuits that share their state in `store`."""
    if not isinstance(store, RedisStore):
        raise TypeError(f"store must be a RedisStore or None, not {store!r}")
    return partial(SharedCircuit, store=store)


def _acquire(copy: _Copy) -> str:
    copy.circuit.acquire_permit()
    return copy.stay


class SharedCircuit(Circuit):
    """Decides for one breaker as `Circuit` does, in steps on a document that others share.

    Its permits are of a stay in a state, by the name that the document has for it. Those of async
    callers are of three parts: what is said on them is shared when they await `notify_async`.
    """

    __slots__ = ("_alone", "_config", "_latest", "_retry_at", "_seen", "_store", "_unshared")

    def __init__(
        self, config: CircuitBreakerConfig, name: str, clock: Clock, store: RedisStore
    ) -> None:
        super().__init__(config, name, clock)
        if name == UNNAMED:
            raise ConfigurationError(
                "name: with a store, breakers of the same name share their state; give it one"
            )
        self._config = config
        self._store = store
        self._alone: Alone | None = None
        self._retry_at = 0.0
        self._latest: tuple[Reading, float] | None = None  # and when it was asked for, by `clock`
        self._seen = CircuitState.CLOSED
        self._unshared = threading.local()  # steps of async callers, by the thread of their loop
        self.awaits = True

    def _listeners_changed(self) -> None:
        super()._listeners_changed()
        self.awaits = True

    def _update_fast_path(self) -> None:
        """There is none: what others know matters for each call."""

    def _renew(self) -> None:
        """Trial calls of the process that was forked go on there."""

    @property
    def state(self) -> CircuitState:
        return self._share(lambda copy: copy.circuit.state)

    def history(self) -> tuple[CircuitTransition, ...]:
        _ = self.state  # reads what others have brought about
        return super().history()

    @property
    def is_alone(self) -> bool:
        """Whether the store could not be reached the last time."""
        return self._alone is not None

    def acquire_permit(self, *, awaited: bool = False) -> Any:
        if not awaited:
            self.journal.check_plain()
        try:
            known = self._known(_acquire, self._store.refresh)
            stay = self._share(_acquire) if known is None else known[0]
        except CircuitBreakerError as error:
            self._rejected(error)
            raise
        return self._admitted(stay)

    async def acquire_async(self) -> Any:
        try:
            known = self._known(_acquire, self._store.refresh)
            stay = await self._acquire_in_thread() if known is None else known[0]
        except CircuitBreakerError as error:
            self._rejected(error)
            await self.notify_async()
            raise
        permit = self._admitted(stay)
        try:
            await self.notify_async()
        except BaseException:  # cancellation: the call never begins
            in_thread(partial(self.release_permit, permit), self.name)
            raise
        return (*permit, _AWAITED)

    async def _acquire_in_thread(self) -> str:
        future = in_thread(partial(self._share, _acquire), self.name)
        try:
            await wait_for(future, None)
        except BaseException:  # nobody waits for it any more
            future.add_done_callback(self._give_back)
            raise
        return outcome_of(future)  # type: ignore[no-any-return]

    def _give_back(self, future: Future[str]) -> None:
        if future.exception() is None:
            self.release_permit(self._admitted(future.result()))

    def _rejected(self, error: CircuitBreakerError) -> None:
        next(self.counts.totals.rejected)
        self.journal.tell()
        if self.journal.listeners.listened or self.counts.watched:
            at, state = self.clock.monotonic(), CircuitState(error.state)
            self.journal.reject(CircuitRejection(at=at, source=self.name, state=state))

    def _admitted(self, stay: str) -> Any:
        permit: Any = stay, self.clock.monotonic()
        try:
            self.journal.tell()
        except BaseException:  # of a listener
            self.release_permit(permit)
            raise
        return permit

    def is_trial(self, permit: Any) -> bool:
        return permit[0].startswith(_HALF_OPEN)  # type: ignore[no-any-return]

    def adopt(self) -> Any:
        permit = self._share(lambda copy: copy.stay), self.clock.monotonic()
        return ("", permit[1]) if self.is_trial(permit) else permit

    def rejects(self) -> bool:
        return self._share(lambda copy: copy.circuit.rejects())

    def record_success(self, permit: Any) -> None:
        self._record(permit, Outcome.SUCCESS, None)

    def _record(self, permit: Any, outcome: Outcome, error: BaseException | None) -> None:
        stay, began, *awaited = permit
        now = self.clock.monotonic()

        def step(copy: _Copy) -> None:
            if copy.stay == stay:
                of_copy = copy.circuit.current, copy.now - (now - began)
                copy.circuit._record(of_copy, outcome, error)  # noqa: SLF001  # as of `self`

        # What would change nothing in what was read last need not be known to others.
        if self._known(step, math.inf) is None:
            if awaited:
                self._unshared.__dict__.setdefault("steps", []).append(step)
            else:
                self._share(step)
        with self._lock:
            if not stay.startswith(_DISABLED):
                self.counts.totals.add(outcome, now - began > self.counts.slow_after)
        try:
            if self.counts.watched:
                self._announce_call(permit, now, outcome, error)
        finally:
            self.journal.tell()

    async def notify_async(self, ended_by: BaseException | None = None) -> None:
        steps: list[Callable[[_Copy], None]] = self._unshared.__dict__.pop("steps", [])
        for step in steps:
            future = in_thread(partial(self._share, step), self.name)
            if not isinstance(ended_by, GeneratorExit):  # which can await nothing
                await wait_for(future, None)
                outcome_of(future)
        self.journal.tell()
        await super().notify_async(ended_by)

    def force(self, state: CircuitState, reason: str) -> None:
        self._share(lambda copy: copy.circuit.force(state, reason))
        self.journal.tell()

    def open_for(self, seconds: float, reason: str) -> None:
        self._share(lambda copy: copy.circuit.open_for(seconds, reason))
        self.journal.tell()

    def isolate(self) -> Any:
        def step(copy: _Copy) -> str:
            copy.circuit.isolate()
            return copy.stay

        stay = self._share(step)
        self.journal.tell()
        return stay

    def rejoin(self, isolated: Any) -> None:
        def step(copy: _Copy) -> None:
            state = copy.circuit.current
            if copy.stay == isolated and isinstance(state, Isolated):
                copy.circuit.rejoin(state)

        self._share(step)
        self.journal.tell()

    def statistics(self) -> dict[str, Any]:
        """The counts now, of all; the totals are those of this process."""
        counts = self._share(lambda copy: copy.circuit.statistics())
        totals = self.counts.totals.statistics(self._config.count_calls)
        return counts | totals | {"shared": not self.is_alone}

    def _known(self, step: Callable[[_Copy], _T], oldest: float) -> tuple[_T] | None:
        """What `step` returns by what was read in the last seconds, if it changes nothing."""
        latest = self._latest_since(oldest)
        if latest is None:
            return None
        copy = _Copy(latest, self._config, self.name)
        result = step(copy)
        return None if copy.is_changed else (result,)

    def _share(self, step: Callable[[_Copy], _T]) -> _T:
        """What `step` returns, when what it changes is known to all."""
        asked, tries = self.clock.monotonic(), 0
        reading = self._ask(lambda store: store.load(self.name))
        while True:
            copy = _Copy(reading, self._config, self.name)
            self._observe(copy, asked)
            result, tries = step(copy), tries + 1
            if not copy.is_changed:
                return result
            asked = self.clock.monotonic()
            replaced, reading = self._ask(partial(self._replace, reading.text, copy))
            if replaced:
                self._publish(copy, reading, asked)
                return result
            if tries == _TRIES:
                _logger.warning("%s: others were faster %d times: it is lost", self.name, tries)
                return result

    def _replace(self, old: str, copy: _Copy, store: Store) -> tuple[bool, Reading]:
        timeout, kind = self._config.timeout, copy.circuit.current.kind
        keep = max(_KEPT, 0.0 if callable(timeout) else 2 * timeout)
        return store.replace(self.name, old, copy.text(), keep if kind in _PASSING else NEVER)

    def _ask(self, ask: Callable[[Store], _T]) -> _T:
        """Ask the store; while it cannot be reached, what stands for it."""
        own, alone = self.clock.monotonic(), self._alone
        if alone is None or own >= self._retry_at:
            self._retry_at = own + self._store.retry_every  # others need not wait for it too
            try:
                answer = ask(self._store)
            except self._store.errors as error:
                self._go_alone(error)
            else:
                if alone is not None:
                    self._alone = None
                    _logger.warning("%s: its state is shared again", self.name)
                return answer
        return ask(self._alone or self._go_alone(None))

    def _go_alone(self, error: Exception | None) -> Alone:
        with self._lock:
            if self._alone is None:
                _logger.warning("%s: its state is shared no more: %r", self.name, error)
                own = self.clock.monotonic()
                reading, asked = self._latest or (Reading(text="", now=time.time()), own)
                offset = reading.now - asked
                self._alone = Alone(reading.text, lambda: self.clock.monotonic() + offset)
            return self._alone

    def _latest_since(self, oldest: float) -> Reading | None:
        if self._latest is None:
            return None
        reading, asked = self._latest
        age = self.clock.monotonic() - asked
        return replace(reading, now=reading.now + age) if age < oldest else None

    def _observe(self, copy: _Copy, asked: float) -> None:
        """Keep what was read, and tell of a state that others have brought about."""
        own, state = self.clock.monotonic(), copy.circuit.state
        with self._lock:
            if self._latest is not None and asked < self._latest[1]:
                return  # another thread has asked since
            self._latest = copy.reading, asked
            if state is not self._seen:
                reason = f"{copy.reason}, elsewhere" if copy.reason else "its state was lost"
                self.journal.add(
                    CircuitTransition(
                        at=own, source=self.name, old=self._seen, new=state, reason=reason
                    )
                )
                self._seen = state

    def _publish(self, copy: _Copy, reading: Reading, asked: float) -> None:
        """Tell of what a step has changed, and keep what there is now."""
        own = self.clock.monotonic()
        with self._lock:
            for event in copy.events:
                self.journal.add(replace(event, at=own))
                self._seen = event.new
            for note in copy.notes:
                self.journal.add_note(replace(note, at=own))
            if self._latest is None or asked >= self._latest[1]:
                self._latest = reading, asked

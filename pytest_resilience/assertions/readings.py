"""State of a breaker and of a retry, in one form for all libraries, read without changing it.

Who reads one is asked only when its library is loaded: else no object can be of it. No other
library keeps a record of a breaker's transitions. A call that succeeds at its first attempt is read
as no retry at all, whichever library made it: `attempts` is 0 then.
"""

from __future__ import annotations

import sys
import time

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from types import CellType
from typing import Any
from typing import TypeVar

from pytest_resilience.events import describe
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreaker
from pytest_resilience.patterns.circuit_breaker.circuit import Circuit
from pytest_resilience.patterns.circuit_breaker.wrappers import Permit
from pytest_resilience.patterns.retry.attempts import HandlerState
from pytest_resilience.patterns.retry.attempts import RetryAborted
from pytest_resilience.patterns.retry.attempts import RetryEvent
from pytest_resilience.patterns.retry.attempts import RetryGaveUp
from pytest_resilience.patterns.retry.attempts import RetryScheduled
from pytest_resilience.patterns.retry.handler import RetryHandler


__all__ = ["CircuitReading", "Reader", "RetryReading", "add_reader", "read_circuit", "read_retry"]

_SHOWN = 10  # transitions in a timeline
_EMPTY = CellType()  # which is less than any that is filled, whatever with


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitReading:
    """A circuit breaker as it is now.

    Attributes:
        name: what messages call the breaker.
        state: "CLOSED", "OPEN", "HALF_OPEN", or what its library calls another state.
        path: the states it went through, the first one included; None if it keeps no record.
        timeline: its counts and how it came to its state, one line each.
        refuses: whether a call would be refused now.
        ask: asks for a call, made only while it refuses; it raises then. None if there is no
            way to ask that leaves no trace.
    """

    name: str
    state: str
    path: tuple[str, ...] | None = None
    timeline: tuple[str, ...]
    refuses: bool
    ask: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryReading:
    """The latest call that a retry tried again, or gave up.

    Attributes:
        name: what messages call the retry.
        attempts: how many attempts the call made; 0 if there was no such call, None if no
            record is kept of it.
        waits: seconds before the second of them, the third, …; None if they are not kept.
        waited: seconds of all waits together; None if they are not kept.
        exhausted: whether it ended because it had been tried enough; None if nobody can tell.
        timeline: what happened, one line each.
    """

    name: str
    attempts: int | None
    waits: tuple[float, ...] | None
    waited: float | None
    exhausted: bool | None
    timeline: tuple[str, ...]


Reader = Callable[[object], CircuitReading | RetryReading | None]
"""Reads an object, without changing it; None if it is none that it knows."""
_Reading = TypeVar("_Reading", CircuitReading, RetryReading)
_added: list[Reader] = []


def add_reader(reader: Reader) -> Callable[[], None]:
    """Ask `reader` too, before all others. Returns a function that removes it."""
    _added.append(reader)
    return lambda: _added.remove(reader)


def read_circuit(breaker: object) -> CircuitReading:
    """Read a breaker, or a function it decorates. Raises TypeError if no reader knows it."""
    __tracebackhide__ = True
    return _read(breaker, CircuitReading, "a circuit breaker")


def read_retry(retry: object) -> RetryReading:
    """Read a retry, or a function it decorates. Raises TypeError if no reader knows it."""
    __tracebackhide__ = True
    return _read(retry, RetryReading, "a retry")


def _read(thing: object, kind: type[_Reading], what: str) -> _Reading:
    __tracebackhide__ = True
    readers = _readers()
    for each in _candidates(thing):
        for reader in readers:
            reading = reader(each)
            if isinstance(reading, kind):
                return reading
    raise TypeError(
        f"{thing!r} cannot be read as {what}; for one of a library that is not known, add a "
        "reader with the hook pytest_resilience_adapters, or with add_reader"
    )


def _candidates(thing: object) -> list[object]:
    """The object, and what a function's closure holds: there its decorator is."""
    # Decorators of most libraries keep themselves in a variable of the function they return.
    cells: tuple[CellType, ...] = getattr(thing, "__closure__", None) or ()
    return [thing, *(each.cell_contents for each in cells if each != _EMPTY)]


def _readers() -> list[Reader]:
    loaded = [read for library, read in _LIBRARIES.items() if library in sys.modules]
    return [*reversed(_added), _read_own_patterns, *loaded, _read_hook_events]


def _read_own_patterns(thing: object) -> CircuitReading | RetryReading | None:
    """Read a `CircuitBreaker`, a `RetryHandler`, or what they leave in a decorated function."""
    if isinstance(thing, CircuitBreaker):
        return _read_circuit(thing._circuit)  # noqa: SLF001  # asking `acquire` would change it
    if isinstance(thing, Circuit):
        return _read_circuit(thing)
    if isinstance(thing, RetryHandler):
        return _read_retry(thing.name, thing.events)
    if isinstance(thing, HandlerState):
        return _read_retry(thing.name, thing.history)
    return None


def _read_circuit(circuit: Circuit) -> CircuitReading:
    history = circuit.history()
    first = history[0].old if history else circuit.state
    return CircuitReading(
        name=circuit.name,
        state=circuit.state.value,
        path=(first.value, *(each.new.value for each in history)),
        timeline=_circuit_timeline(circuit),
        refuses=circuit.rejects(),
        ask=lambda: Permit(circuit, circuit.acquire_permit()),
    )


def _circuit_timeline(circuit: Circuit) -> tuple[str, ...]:
    """The counts, and the last transitions with the seconds since the first of them."""
    numbers, config = circuit.statistics(), circuit.counts.config
    counts = (
        f"failures in a row: {numbers['failure_count']} (opens at {config.failure_threshold})"
        if circuit.counts.window is None
        else f"failures: {numbers['failure_count']} of {numbers['window_calls']} calls in its "
        f"window (opens at {config.failure_rate_threshold:.0%})",
        f"successes half open: {numbers['success_count']} (closes at {config.success_threshold})",
    )
    history = circuit.history()[-_SHOWN:]
    changes = tuple(
        f"+{each.at - history[0].at:.3f}s {each.old.value} -> {each.new.value}: {each.reason}"
        for each in history
    )
    return (*counts, *(changes or ("it has never changed its state",)))


def _read_retry(name: str, events: tuple[RetryEvent, ...]) -> RetryReading:
    call = max((each.call for each in events), default=0)
    latest = [each for each in events if each.call == call]
    waits = tuple(each.delay for each in latest if isinstance(each, RetryScheduled))
    return RetryReading(
        name=name,
        attempts=latest[-1].attempt if latest else 0,
        waits=waits,
        waited=sum(waits),
        exhausted=bool(latest) and isinstance(latest[-1], RetryGaveUp),
        timeline=tuple(f"+{each.at - latest[0].at:.3f}s {_told(each)}" for each in latest),
    )


def _told(event: RetryEvent) -> str:
    attempt = f"attempt {event.attempt}"
    if isinstance(event, RetryScheduled):
        return f"{attempt} failed, {event.failure}; the next in {event.delay:.3g} s"
    if isinstance(event, RetryGaveUp):
        return f"{attempt} failed, {event.failure}; gave up: {event.reason}"
    if isinstance(event, RetryAborted):
        return f"{attempt} ended it, {event.failure}"
    return f"{attempt} succeeded"


_STATES = {
    "closed": "CLOSED",
    "open": "OPEN",
    "opened": "OPEN",
    "half-open": "HALF_OPEN",
    "half-opened": "HALF_OPEN",
}


def _read_pybreaker(thing: object) -> CircuitReading | None:
    """Read a `pybreaker.CircuitBreaker`."""
    import pybreaker

    if not isinstance(thing, pybreaker.CircuitBreaker):
        return None
    state = _STATES.get(thing.current_state, thing.current_state)
    # Nothing public tells when it opened.
    opened = thing._state_storage.opened_at  # noqa: SLF001
    over = opened is None or _now() >= opened + timedelta(seconds=thing.reset_timeout)
    return CircuitReading(
        name=thing.name or "the pybreaker.CircuitBreaker",
        state=state,
        timeline=(
            f"failures in a row: {thing.fail_counter} (opens at {thing.fail_max})",
            f"successes half open: {thing.success_counter} (closes at {thing.success_threshold})",
            f"opened: {'never' if opened is None else _at(opened)}",
        ),
        refuses=state == "OPEN" and not over,
        ask=lambda: thing.call(lambda: None),
    )


def _read_aiobreaker(thing: object) -> CircuitReading | None:
    """Read an `aiobreaker.CircuitBreaker`."""
    import aiobreaker  # type: ignore[import-untyped]

    if not isinstance(thing, aiobreaker.CircuitBreaker):
        return None
    state = thing.current_state.name
    # What it says itself is off by the offset of the local time zone; nothing public is not.
    opened = thing._state_storage.opened_at  # noqa: SLF001
    reopens = None if opened is None else opened.replace(tzinfo=UTC) + thing.timeout_duration
    if state != "OPEN" or (reopens is not None and reopens <= _now()):
        reopens = None
    return CircuitReading(
        name=thing.name or "the aiobreaker.CircuitBreaker",
        state=state,
        timeline=(
            f"failures in a row: {thing.fail_counter} (opens at {thing.fail_max})",
            *([f"open until {_at(reopens)}"] if reopens else []),
        ),
        refuses=reopens is not None,
        ask=lambda: thing.call(lambda: None),
    )


def _read_circuitbreaker(thing: object) -> CircuitReading | None:
    """Read a `circuitbreaker.CircuitBreaker`.

    It cannot be asked for a call without one of its own functions to be called.
    """
    import circuitbreaker  # type: ignore[import-untyped]

    if not isinstance(thing, circuitbreaker.CircuitBreaker):
        return None
    error = thing.last_failure
    return CircuitReading(
        name=thing.name or "the circuitbreaker.CircuitBreaker",
        state=thing.state.upper(),
        timeline=(
            f"failures in a row: {thing.failure_count}",
            f"last error: {'none' if error is None else describe(error)}",
            *([f"open for {thing.open_remaining} s more"] if thing.opened else []),
        ),
        refuses=thing.opened,
    )


def _read_purgatory(thing: object) -> CircuitReading | None:
    """Read what `get_breaker` of a sync or async factory gave, or its context."""
    from purgatory.domain.model import Context

    context = getattr(thing, "context", thing)
    if not isinstance(context, Context):
        return None
    opened_at = context.opened_at
    state = _STATES.get(context.state, context.state)
    left = 0.0 if opened_at is None else opened_at + context.ttl - time.time()
    # Only a closed one counts.
    counts = f"failures in a row: {context.failure_count or 0} (opens at {context.threshold})"
    return CircuitReading(
        name=context.name,
        state=state,
        timeline=(f"open for {left:.3f} s more" if left > 0 else counts,),
        refuses=state == "OPEN" and left > 0,
        ask=context.handle_new_request,
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _at(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _read_tenacity(thing: object) -> RetryReading | None:
    """Read a `Retrying`, an `AsyncRetrying`, a decorated function or a `RetryError`.

    tenacity keeps the statistics of the thread that made the call, and of its waits the sum
    alone. How a call ended only its `RetryError` tells.
    """
    import tenacity

    if isinstance(thing, tenacity.RetryError):
        return _given_up(thing.last_attempt)
    retrying = thing if isinstance(thing, tenacity.BaseRetrying) else getattr(thing, "retry", None)
    if not isinstance(retrying, tenacity.BaseRetrying):
        return None
    # A decorated function counts for itself; what decorates it may decorate others.
    statistics: Mapping[str, Any] = getattr(thing, "statistics", retrying.statistics)
    made = statistics.get("attempt_number", 0)
    attempts = made if made > 1 else 0
    waited = float(statistics.get("idle_for", 0))
    return RetryReading(
        name=getattr(thing, "__qualname__", f"tenacity's {type(retrying).__name__}"),
        attempts=attempts,
        waits={0: (), 2: (waited,)}.get(attempts),
        waited=waited,
        exhausted=None if attempts else False,
        timeline=(f"{attempts} attempts, {waited:.3g} s of waiting in all",) if attempts else (),
    )


def _given_up(last: Any) -> RetryReading:
    error = last.exception()
    failure = f"result {describe(last.result())}" if error is None else describe(error)
    return RetryReading(
        name="tenacity",
        attempts=last.attempt_number,
        waits=None,
        waited=None,
        exhausted=True,
        timeline=(f"attempt {last.attempt_number} failed, {failure}; gave up",),
    )


def _read_urllib3(thing: object) -> RetryReading | None:
    """Read an `urllib3.Retry`, or the one that a response of urllib3 or requests carries.

    A `Retry` never changes: the one given to a session or an adapter knows no call. Each
    response carries the one that its own call ended with.
    """
    import urllib3

    response = getattr(thing, "raw", thing)
    retry = response if isinstance(response, urllib3.Retry) else getattr(response, "retries", None)
    if not isinstance(retry, urllib3.Retry):
        return None
    tries = [entry for entry in retry.history if not entry.redirect_location]
    waits = _urllib3_waits(retry)
    # A response may have come back that would have been tried again if it could.
    is_refused = getattr(response, "status", None) in (retry.status_forcelist or ())
    return RetryReading(
        name="urllib3.Retry",
        attempts=len(tries) + 1 if tries else 0,
        waits=waits,
        waited=None if waits is None else sum(waits),
        exhausted=retry.is_exhausted() or (bool(retry.history) and is_refused),
        timeline=tuple(
            f"attempt {number} failed, {entry.error or entry.status}: {entry.method} {entry.url}"
            for number, entry in enumerate(tries, 1)
        ),
    )


def _urllib3_waits(retry: Any) -> tuple[float, ...] | None:
    """Computed from the history; None where something else than the backoff had a say."""
    history = retry.history
    has_retry_after = retry.respect_retry_after_header and any(
        entry.status in retry.RETRY_AFTER_STATUS_CODES for entry in history
    )
    is_redirected = any(entry.redirect_location for entry in history)
    if retry.backoff_jitter or has_retry_after or is_redirected:
        return None
    return tuple(
        float(retry.new(history=history[:number]).get_backoff_time())
        for number in range(1, len(history) + 1)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _HookEvent:
    """One call of a hook of stamina or backoff.

    Attributes:
        name: of the function.
        attempt: the number of the attempt that ended.
        wait: seconds until the next; None if there is none.
        failed: whether the attempt did; None if nobody can tell.
        outcome: the error or the result.
    """

    name: str
    attempt: int
    wait: float | None
    failed: bool | None
    outcome: str

    def __str__(self) -> str:
        if self.wait is not None:
            return f"attempt {self.attempt} failed, {self.outcome}; the next in {self.wait:.3g} s"
        if self.failed is False:
            return f"attempt {self.attempt} succeeded"
        ended = "failed" if self.failed else "ended"
        return f"attempt {self.attempt} {ended}, {self.outcome}; it was the last"


def _read_hook_events(thing: object) -> RetryReading | None:
    """Read a list that hooks of stamina or backoff append to; it may be empty.

    The two keep nothing else. Such a list is filled by
    `stamina.instrumentation.set_on_retry_hooks([seen.append])` and
    `backoff.on_exception(…, on_backoff=seen.append, on_giveup=seen.append)`.
    """
    if not isinstance(thing, (list, tuple)):
        return None
    parse = _hook_parser(thing[-1]) if thing else _parse_backoff
    return None if parse is None else _of_hook_events([parse(each) for each in thing])


def _hook_parser(item: object) -> Callable[[Any], _HookEvent] | None:
    if isinstance(item, Mapping) and {"target", "tries", "elapsed"} <= item.keys():
        return _parse_backoff
    if "stamina" in sys.modules:
        from stamina.instrumentation import RetryDetails

        if isinstance(item, RetryDetails):
            return _parse_stamina
    return None


def _parse_backoff(details: Mapping[str, Any]) -> _HookEvent:
    wait = details.get("wait")
    error = details.get("exception")
    # A value may be what was wanted or what was given up on: the details are the same.
    failed = True if wait is not None or error is not None else None
    return _HookEvent(
        name=getattr(details["target"], "__qualname__", "backoff"),
        attempt=details["tries"],
        wait=wait,
        failed=failed if "value" in details or error is not None else False,
        outcome=f"result {describe(details.get('value'))}" if error is None else describe(error),
    )


def _parse_stamina(details: Any) -> _HookEvent:
    return _HookEvent(
        name=details.name,
        attempt=details.retry_num,
        wait=details.wait_for,
        failed=True,
        outcome=describe(details.caused_by),
    )


def _of_hook_events(events: list[_HookEvent]) -> RetryReading:
    starts = [index for index, event in enumerate(events) if event.attempt == 1]
    call = events[starts[-1] :] if starts else events
    waits = tuple(event.wait for event in call if event.wait is not None)
    last = call[-1] if call else None
    ended = last is not None and last.wait is None
    attempts = 0 if last is None else last.attempt + (not ended)
    return RetryReading(
        name=call[0].name if call else "the retry",
        attempts=attempts if attempts > 1 or last is None or last.failed else 0,
        waits=waits,
        waited=sum(waits),
        # Of a call whose last retry was announced nobody knows how it went.
        exhausted=False if last is None else last.failed if ended else None,
        timeline=tuple(map(str, call)),
    )


_LIBRARIES: dict[str, Reader] = {
    "pybreaker": _read_pybreaker,
    "circuitbreaker": _read_circuitbreaker,
    "aiobreaker": _read_aiobreaker,
    "purgatory": _read_purgatory,
    "tenacity": _read_tenacity,
    "urllib3": _read_urllib3,
}

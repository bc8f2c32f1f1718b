"""What the assertions know of an object, whichever library it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_resilience.patterns.retry import RetryHandler
from pytest_resilience.patterns.retry_events import RetryAborted
from pytest_resilience.patterns.retry_events import RetryEvent
from pytest_resilience.patterns.retry_events import RetryGaveUp
from pytest_resilience.patterns.retry_events import RetryScheduled


__all__ = ["RetryReader", "RetryReading", "read_retry", "retry_readers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryReading:
    """The latest call that a retry tried again, or gave up.

    Attributes:
        name: what messages call the retry.
        attempts: how many attempts the call made; 0 if there was no such call.
        waits: seconds before the second of them, the third, …
        exhausted: whether it ended because it had been tried enough.
        timeline: what happened, one line each.
    """

    name: str
    attempts: int
    waits: tuple[float, ...]
    exhausted: bool
    timeline: tuple[str, ...]


RetryReader = Callable[[object], RetryReading | None]
"""Reads an object, without changing it; None if it is none that it knows."""


def read_retry(retry: object) -> RetryReading:
    """What a retry has done last. Raises TypeError if no reader knows such an object."""
    for reader in retry_readers:
        reading = reader(retry)
        if reading is not None:
            return reading
    raise TypeError(f"{retry!r} is no RetryHandler, nor anything else that can be read as a retry")


def _read_handler(retry: object) -> RetryReading | None:
    if not isinstance(retry, RetryHandler):
        return None
    events = retry.events
    call = max((each.call for each in events), default=0)
    story = [each for each in events if each.call == call]
    return RetryReading(
        name=retry.name,
        attempts=story[-1].attempt if story else 0,
        waits=tuple(each.delay for each in story if isinstance(each, RetryScheduled)),
        exhausted=bool(story) and isinstance(story[-1], RetryGaveUp),
        timeline=tuple(f"+{each.at - story[0].at:.3f}s {_told(each)}" for each in story),
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


retry_readers: list[RetryReader] = [_read_handler]
"""Those that are asked, in this order."""

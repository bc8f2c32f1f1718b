"""Reads lists of what the hooks of stamina and backoff were told, which keep nothing else.

`stamina.instrumentation.set_on_retry_hooks([seen.append])` and
`backoff.on_exception(…, on_backoff=seen.append, on_giveup=seen.append)` fill such a list.
"""

from __future__ import annotations

import sys

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_resilience.assertions.readings import RetryReading
from pytest_resilience.events import describe


__all__ = ["read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One thing a hook was told.

    Attributes:
        name: of the function.
        attempt: the number of the attempt that ended.
        wait: seconds until the next; None if there is none.
        failed: whether the attempt did; None if nobody can tell.
        what: how it ended.
    """

    name: str
    attempt: int
    wait: float | None
    failed: bool | None
    what: str


def read(thing: object) -> RetryReading | None:
    """Read a list of stamina's `RetryDetails` or of backoff's details; it may be empty."""
    if not isinstance(thing, (list, tuple)):
        return None
    if not thing:
        return _reading([])
    understand = _understand(thing[-1])
    return None if understand is None else _reading([understand(each) for each in thing])


def _understand(item: object) -> Callable[[Any], _Step] | None:
    if isinstance(item, Mapping) and {"target", "tries", "elapsed"} <= item.keys():
        return _backoff
    if "stamina" in sys.modules:
        from stamina.instrumentation import RetryDetails

        if isinstance(item, RetryDetails):
            return _stamina
    return None


def _backoff(details: Mapping[str, Any]) -> _Step:
    wait = details.get("wait")
    error = details.get("exception")
    # A value may be what was wanted or what was given up on: the details are the same.
    failed = True if wait is not None or error is not None else None
    value = f"result {describe(details.get('value'))}"
    return _Step(
        name=getattr(details["target"], "__qualname__", "backoff"),
        attempt=details["tries"],
        wait=wait,
        failed=failed if "value" in details or error is not None else False,
        what=value if error is None else describe(error),
    )


def _stamina(details: Any) -> _Step:
    return _Step(
        name=details.name,
        attempt=details.retry_num,
        wait=details.wait_for,
        failed=True,
        what=describe(details.caused_by),
    )


def _reading(steps: list[_Step]) -> RetryReading:
    starts = [index for index, step in enumerate(steps) if step.attempt == 1]
    story = steps[starts[-1] :] if starts else steps
    waits = tuple(step.wait for step in story if step.wait is not None)
    last = story[-1] if story else None
    ended = last is not None and last.wait is None
    attempts = 0 if last is None else last.attempt + (not ended)
    return RetryReading(
        name=story[0].name if story else "the retry",
        # One that succeeded at once leaves the trace of no retry, as with all the others.
        attempts=attempts if attempts > 1 or last is None or last.failed else 0,
        waits=waits,
        waited=sum(waits),
        # Of a call whose last retry was announced nobody knows how it went.
        exhausted=False if last is None else last.failed if ended else None,
        timeline=tuple(_told(step) for step in story),
    )


def _told(step: _Step) -> str:
    if step.wait is not None:
        return f"attempt {step.attempt} failed, {step.what}; the next in {step.wait:.3g} s"
    if step.failed is False:
        return f"attempt {step.attempt} succeeded"
    ended = "failed" if step.failed else "ended"
    return f"attempt {step.attempt} {ended}, {step.what}; it was the last"

"""Assertions about retries. None of them changes the retry it looks at.

Each looks at the latest call that was tried again, or given up. One that succeeds at its first
attempt leaves no trace, nor does one that first raises what is not to be tried again.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_resilience.assertions.readings import RetryReading
from pytest_resilience.assertions.readings import read_retry


__all__ = ["assert_backoff", "assert_retried", "assert_retry_exhausted"]

_EPSILON = 1e-9  # seconds: what adding up floats leaves
_SHOWN = 20  # lines of a timeline


def assert_retried(retry: object, *, attempts: int | None = None) -> None:
    """Raise AssertionError unless the latest call was tried again.

    Args:
        retry: whose latest call is looked at.
        attempts: the calls that must have been made, the first included; None: 2 or more.
    """
    __tracebackhide__ = True
    reading = read_retry(retry)
    if reading.attempts < 2 if attempts is None else reading.attempts != attempts:
        wanted = "2 attempts or more" if attempts is None else _count(attempts)
        raise AssertionError(
            f"expected {reading.name} to make {wanted}, but {_made(reading)}\n{_story(reading)}"
        )


def assert_retry_exhausted(retry: object, *, attempts: int | None = None) -> None:
    """Raise AssertionError unless the latest call was given up.

    Args:
        retry: whose latest call is looked at.
        attempts: the calls that must have been made by then, the first included.
    """
    __tracebackhide__ = True
    reading = read_retry(retry)
    if not reading.exhausted or attempts not in (None, reading.attempts):
        after = "" if attempts is None else f" after {_count(attempts)}"
        gave_up = reading.exhausted or not reading.attempts
        did = _made(reading) + ("" if gave_up else " and did not give up")
        raise AssertionError(
            f"expected {reading.name} to give up{after}, but {did}\n{_story(reading)}"
        )


def assert_backoff(retry: object, waits: Sequence[float], *, tolerance: float = 0.1) -> None:
    """Raise AssertionError unless the waits of the latest call were these.

    Args:
        retry: whose latest call is looked at.
        waits: seconds before the second attempt, the third, …
        tolerance: by which share of it each may differ; 0.1 is what `jitter=True` does.
    """
    __tracebackhide__ = True
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance!r}: a share of at least 0 is needed")
    reading = read_retry(retry)
    wrong = [
        f"wait {number} is {'missing' if seen is None else f'{seen:.3g} s'}"
        for number, seen, wanted in _pairs(reading.waits, waits)
        if seen is None or wanted is None or abs(seen - wanted) > wanted * tolerance + _EPSILON
    ]
    if wrong:
        raise AssertionError(
            f"expected {reading.name} to wait {_list(waits)} (within {tolerance:.0%}), but it "
            f"waited {_list(reading.waits)}: {', '.join(wrong)}\n{_story(reading)}"
        )


def _pairs(
    seen: Sequence[float], wanted: Sequence[float]
) -> list[tuple[int, float | None, float | None]]:
    def at(waits: Sequence[float], index: int) -> float | None:
        return waits[index] if index < len(waits) else None

    length = max(len(seen), len(wanted))
    return [(index + 1, at(seen, index), at(wanted, index)) for index in range(length)]


def _count(attempts: int) -> str:
    return f"{attempts} attempt{'' if attempts == 1 else 's'}"


def _list(waits: Sequence[float]) -> str:
    return ", ".join(f"{wait:.3g} s" for wait in waits) or "not at all"


def _made(reading: RetryReading) -> str:
    return f"it made {_count(reading.attempts)}" if reading.attempts else "it tried no call again"


def _story(reading: RetryReading) -> str:
    if not reading.timeline:
        return "  (what succeeds at its first attempt, or may not be tried again, leaves no trace)"
    hidden = len(reading.timeline) - _SHOWN
    earlier = [f"  ({hidden} lines before)"] if hidden > 0 else []
    return "\n".join([*earlier, *(f"  {line}" for line in reading.timeline[-_SHOWN:])])

"""How a test may end under chaos: `@pytest.mark.resilience(...)`, and its deadline."""

from __future__ import annotations

import signal
import threading

from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest

from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.errors import ConfigurationError


__all__ = ["DEADLINE", "DeadlineError", "Expectation", "deadline"]

_REPEAT = 0.5  # seconds between signals after the deadline


class DeadlineError(BaseException):
    """The test took too long. Not an Exception: code that survives anything would catch it."""


@contextmanager
def deadline(seconds: float) -> Iterator[bool]:
    """Raise DeadlineError in the block after so many seconds; gives whether that can be done.

    It is done by SIGALRM, so in the main thread alone, where it reaches blocking calls too. A
    timer that somebody else has set goes on afterwards.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield False
        return

    inside = True

    def expired(_number: int, _frame: FrameType | None) -> None:
        if inside:
            raise DeadlineError(f"it was still running after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expired)
    began = MACHINE_CLOCK.monotonic()
    # Again and again: raised in a destructor or a callback it would reach nobody.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _REPEAT)
    try:
        yield True
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # at its time, or at once if that is over
            rest = left - (MACHINE_CLOCK.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 1e-6), interval)


DEADLINE = 60.0  # seconds of a cell, where nothing else is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """How a test may end under chaos.

    Attributes:
        allowed: exceptions that mean degraded, and not failed.
        deadline: seconds after which it hangs.
    """

    allowed: tuple[type[BaseException], ...] = ()
    deadline: float = DEADLINE

    @classmethod
    def of(cls, item: pytest.Item) -> Expectation:
        """From all marks of a test; the nearest deadline holds. Raises ConfigurationError."""
        marks = [cls.read(mark) for mark in item.iter_markers("resilience")]
        return cls(
            allowed=tuple(each for mark in marks for each in mark.allowed),
            deadline=next((mark.deadline for mark in marks if mark.deadline), DEADLINE),
        )

    @classmethod
    def read(cls, mark: pytest.Mark) -> Expectation:
        """From one mark; the deadline is 0 where it gives none. Raises ConfigurationError."""
        if mark.args:
            raise ConfigurationError("resilience takes allowed= and deadline=, nothing else")
        return cls.from_values(mark.kwargs)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Expectation:
        """As `read`, of the values that a mark gives. Raises ConfigurationError."""
        given = dict(values)
        allowed = _types(given.pop("allowed", ()))
        limit = given.pop("deadline", None)
        if given:
            raise ConfigurationError(
                f"resilience takes allowed= and deadline=, not {', '.join(given)}"
            )
        seconds = 0.0 if limit is None else quantities.seconds("deadline", limit)
        if limit is not None and not seconds:
            raise ConfigurationError(f"deadline={shortened(limit)}: give more than nothing")
        return cls(allowed=tuple(allowed), deadline=seconds)


def _types(value: object) -> list[type[BaseException]]:
    found: list[type[BaseException]] = []
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ConfigurationError(f"allowed={shortened(value)}: give exception types in a list")
        found.append(each)
    return found

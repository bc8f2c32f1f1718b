"""How a test may end under chaos: `@pytest.mark.resilience(...)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = ["DEADLINE", "Expectation"]

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

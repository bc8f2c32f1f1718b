"""What a test says of itself with `@pytest.mark.resilience(...)`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pytest_resilience.chaos import quantities
from pytest_resilience.chaos.texts import shortened
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
        """What the marks of a test say, the nearest first. Raises ConfigurationError."""
        allowed: list[type[BaseException]] = []
        limit = None
        for mark in item.iter_markers("resilience"):
            given = dict(mark.kwargs)
            if mark.args:
                raise ConfigurationError("resilience takes allowed= and deadline=, nothing else")
            allowed += _types(given.pop("allowed", ()))
            seconds = given.pop("deadline", None)
            if given:
                raise ConfigurationError(
                    f"resilience takes allowed= and deadline=, not {', '.join(given)}"
                )
            if limit is None and seconds is not None:
                limit = quantities.seconds("deadline", seconds)
        return cls(allowed=tuple(allowed), deadline=limit or DEADLINE)


def _types(value: object) -> list[type[BaseException]]:
    found: list[type[BaseException]] = []
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ConfigurationError(f"allowed={shortened(value)}: give exception types in a list")
        found.append(each)
    return found

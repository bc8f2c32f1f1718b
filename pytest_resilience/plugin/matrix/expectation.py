"""How a test may end under chaos: `@pytest.mark.resilience(...)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import pytest

from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = ["DEADLINE", "Expectation"]

DEADLINE = 60.0  # seconds of a cell, where nothing else is said
_KEYWORDS = "allowed=, deadline= and own_chaos="


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """How a test may end under chaos.

    Attributes:
        allowed: exceptions that mean degraded, and not failed.
        deadline: seconds after which it hangs.
        own_chaos: whether experiments of the matrix join the chaos that the test has of its own.
    """

    allowed: tuple[type[BaseException], ...] = ()
    deadline: float = DEADLINE
    own_chaos: bool = False

    @classmethod
    def of(cls, item: pytest.Item) -> Expectation:
        """From all marks of a test; the nearest of each holds. Raises ConfigurationError."""
        given = list(item.iter_markers("resilience"))
        marks = [cls.read(mark) for mark in given]
        return cls(
            allowed=tuple(each for mark in marks for each in mark.allowed),
            deadline=next((mark.deadline for mark in marks if mark.deadline), DEADLINE),
            own_chaos=next(
                (m.kwargs["own_chaos"] for m in given if "own_chaos" in m.kwargs), False
            ),
        )

    @classmethod
    def read(cls, mark: pytest.Mark) -> Expectation:
        """From one mark; the deadline is 0 where it gives none. Raises ConfigurationError."""
        if mark.args:
            told = ", ".join(map(shortened, mark.args))
            raise ConfigurationError(f"resilience takes {_KEYWORDS}, each by its name, not {told}")
        values = dict(mark.kwargs)
        own = values.pop("own_chaos", False)
        if not isinstance(own, bool):
            raise ConfigurationError(f"own_chaos={shortened(own)}: give True or False")
        return replace(cls.from_values(values), own_chaos=own)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Expectation:
        """As `read`, of the values that a mark gives. Raises ConfigurationError."""
        given = dict(values)
        allowed = _types(given.pop("allowed", ()))
        limit = given.pop("deadline", None)
        if given:
            raise ConfigurationError(f"resilience takes {_KEYWORDS}, not {', '.join(given)}")
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

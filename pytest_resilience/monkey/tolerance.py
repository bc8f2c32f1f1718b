"""What a probe of the steady state may answer."""

from __future__ import annotations

import re

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = ["Matches", "OneOf", "Within", "tolerates"]


@dataclass(frozen=True, slots=True)
class Within:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float

    def __post_init__(self) -> None:
        try:
            ascending = self.low <= self.high
        except TypeError:  # they cannot even be compared
            ascending = False
        if not ascending:
            raise ConfigurationError(
                f"nothing is within {shortened(self.low)} and {shortened(self.high)}; give two "
                "numbers, the lower one first"
            )

    def __call__(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any of several values."""

    values: tuple[Any, ...]

    def __call__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return " or ".join(map(repr, self.values))


@dataclass(frozen=True, slots=True)
class Matches:
    """Texts in which a regular expression is found; the text of anything else."""

    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except (re.error, TypeError, RecursionError, OverflowError) as error:
            raise ConfigurationError(
                f"{shortened(self.pattern)} is no regular expression: {error}"
            ) from error

    def __call__(self, value: Any) -> bool:
        text = value if isinstance(value, str) else str(value)
        return re.search(self.pattern, text) is not None

    def __str__(self) -> str:
        return f"text with {self.pattern!r}"


def tolerates(tolerance: Any, value: Any) -> bool:
    """Whether `value` is tolerated: by a function of it, else by being equal."""
    if callable(tolerance):
        judge: Callable[[Any], Any] = tolerance
        return bool(judge(value))
    return bool(tolerance == value)

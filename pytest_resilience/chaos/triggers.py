"""Which of the matching operations a fault happens to.

A trigger is a pure function of the operation's number (1, 2, 3 … as matched by its
experiment), the seconds since the experiment started, and a seeded stream. Where an experiment has
several, each of them has to hit; without one every operation is hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_resilience.seeds import Stream


__all__ = [
    "Between", "Every", "First", "From", "Never", "Nth", "Rate", "Trigger", "chooses",
    "goes_by_number", "goes_by_time", "is_left_to_chance",
]  # fmt: skip


class Trigger(Protocol):
    """Decides; see the module."""

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool: ...


@dataclass(frozen=True, slots=True)
class Never:
    """No operation: they are only counted."""

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:  # noqa: ARG002
        return False

    def __str__(self) -> str:
        return "never"


@dataclass(frozen=True, slots=True)
class Rate:
    """Each operation with this probability, 0 to 1, independently of the others."""

    rate: float

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:  # noqa: ARG002
        return stream.draw(number) < self.rate

    def __str__(self) -> str:
        return f"rate {self.rate:g}"


@dataclass(frozen=True, slots=True)
class Nth:
    """Only the operation of this number."""

    n: int

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:  # noqa: ARG002
        return number == self.n

    def __str__(self) -> str:
        return f"number {self.n}"


@dataclass(frozen=True, slots=True)
class First:
    """The first n operations: a fault that goes away."""

    n: int

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:  # noqa: ARG002
        return number <= self.n

    def __str__(self) -> str:
        return f"the first {self.n}"


@dataclass(frozen=True, slots=True)
class From:
    """The operation of this number and all after it: a fault that stays."""

    n: int

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:  # noqa: ARG002
        return number >= self.n

    def __str__(self) -> str:
        return f"from number {self.n} on"


@dataclass(frozen=True, slots=True)
class Every:
    """The n-th operation, the 2n-th, the 3n-th and so on."""

    n: int

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:  # noqa: ARG002
        return number % self.n == 0

    def __str__(self) -> str:
        return f"every {self.n}"


@dataclass(frozen=True, slots=True)
class Between:
    """Operations in [start, end), in seconds since the experiment started."""

    start: float
    end: float

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:  # noqa: ARG002
        return self.start <= elapsed < self.end

    def __str__(self) -> str:
        return f"from {self.start:g} s to {self.end:g} s"


def is_left_to_chance(triggers: Sequence[Trigger]) -> bool:
    """Whether the seed decides which operations they hit."""
    return any(isinstance(each, Rate) for each in triggers)


def chooses(triggers: Sequence[Trigger]) -> bool:
    """Whether it is for certain which operations they hit, and not every one of them."""
    return bool(triggers) and not is_left_to_chance(triggers)


def goes_by_number(triggers: Sequence[Trigger]) -> bool:
    """Whether it matters to them which operation of all it is."""
    return any(isinstance(each, (Nth, First, From, Every)) for each in triggers)


def goes_by_time(triggers: Sequence[Trigger]) -> bool:
    """Whether it matters to them when an operation is done."""
    return any(isinstance(each, Between) for each in triggers)

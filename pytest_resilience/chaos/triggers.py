"""Which of the matching operations a fault happens to.

A trigger is a pure function of the operation's number (1, 2, 3 … as matched by its
experiment), the seconds since the experiment started, and a seeded stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pytest_resilience.seeds import Stream


__all__ = [
    "All", "Always", "Between", "Every", "First", "From", "Never", "Nth", "Rate", "Trigger",
    "chooses", "goes_by_number", "goes_by_time", "is_left_to_chance",
]  # fmt: skip


class Trigger(Protocol):
    """Decides; see the module."""

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool: ...


@dataclass(frozen=True, slots=True)
class Always:
    """Every operation."""

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:  # noqa: ARG002
        return True

    def __str__(self) -> str:
        return "always"


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


@dataclass(frozen=True, slots=True)
class All:
    """Where every one of several triggers hits."""

    triggers: tuple[Trigger, ...]

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:
        return all(trigger.hits(number, elapsed, stream) for trigger in self.triggers)

    def __str__(self) -> str:
        return ", ".join(map(str, self.triggers))


def is_left_to_chance(trigger: Trigger) -> bool:
    """Whether the seed decides which operations it hits."""
    if isinstance(trigger, All):
        return any(map(is_left_to_chance, trigger.triggers))
    return isinstance(trigger, Rate)


def chooses(trigger: Trigger) -> bool:
    """Whether it is for certain which operations it hits, and not every one of them."""
    return not is_left_to_chance(trigger) and not isinstance(trigger, Always)


def goes_by_number(trigger: Trigger) -> bool:
    """Whether it matters to it which operation of all it is."""
    if isinstance(trigger, All):
        return any(map(goes_by_number, trigger.triggers))
    return isinstance(trigger, (Nth, First, From, Every))


def goes_by_time(trigger: Trigger) -> bool:
    """Whether it matters to it when an operation is done."""
    if isinstance(trigger, All):
        return any(map(goes_by_time, trigger.triggers))
    return isinstance(trigger, Between)

"""What happens to an operation: frozen data, nothing else.

A fault names the kinds of operation it can happen to. Seams know how to make it
happen; nothing here does anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.quantities import format_seconds


__all__ = ["Fault", "Latency", "Refusal", "Reset", "ResolutionFailure", "Silence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Base of all faults.

    Attributes:
        kinds: the kinds of operation it can happen to.
        waits: whether the caller is made to wait, which only a blocking one can.
        delay: how long, in seconds; infinite where the answer never comes.
    """

    kinds: ClassVar[frozenset[str]]
    waits: ClassVar[bool] = False
    delay: float = 0.0

    def __str__(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Fault):
    """The peer is `delay` seconds further away, there and back."""

    kinds: ClassVar[frozenset[str]] = frozenset({CONNECT, RECEIVE})
    waits: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"latency {format_seconds(self.delay)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence(Fault):
    """The peer never answers: packets are lost without a word."""

    kinds: ClassVar[frozenset[str]] = frozenset({CONNECT, RECEIVE})
    waits: ClassVar[bool] = True
    delay: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Fault):
    """Nothing listens at the peer's port (ECONNREFUSED)."""

    kinds: ClassVar[frozenset[str]] = frozenset({CONNECT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Fault):
    """The peer tears the connection down while an answer is awaited (ECONNRESET)."""

    kinds: ClassVar[frozenset[str]] = frozenset({RECEIVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionFailure(Fault):
    """The name server cannot be reached (EAI_AGAIN)."""

    kinds: ClassVar[frozenset[str]] = frozenset({RESOLVE})

    def __str__(self) -> str:
        return "name resolution failure"

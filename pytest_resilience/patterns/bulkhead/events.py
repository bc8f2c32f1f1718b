"""What bulkheads tell their listeners, and remember."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_resilience.events import Event


__all__ = ["BulkheadRejection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadRejection(Event):
    """A bulkhead had no room for a call.

    Attributes:
        in_use: calls inside, or in the window of a rate limit.
        capacity: how many there may be.
        retry_after: seconds until there may be room; None when nobody can tell.
    """

    in_use: int
    capacity: int
    retry_after: float | None = None

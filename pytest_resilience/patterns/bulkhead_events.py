"""What bulkheads tell their listeners, and remember."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners


__all__ = ["BulkheadRejection", "Rejections"]

_HISTORY = 100  # rejections that are remembered


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


class Rejections:
    """What one bulkhead has rejected, and who is told of it.

    Attributes:
        listeners: told of each.
    """

    def __init__(self, name: str, listeners: Listeners) -> None:
        self.listeners = listeners
        self._name = name
        self._recent: deque[BulkheadRejection] = deque(maxlen=_HISTORY)

    @property
    def recent(self) -> tuple[BulkheadRejection, ...]:
        """The latest, oldest first."""
        return tuple(self._recent.copy())

    def reject(
        self,
        why: str,
        *,
        at: float,
        in_use: int,
        capacity: int,
        retry_after: float | None = None,
    ) -> BulkheadRejectedError:
        """Remember a rejection and tell of it; the error is for the caller to raise."""
        event = BulkheadRejection(
            at=at, source=self._name, in_use=in_use, capacity=capacity, retry_after=retry_after
        )
        self._recent.append(event)
        self.listeners.emit(event)
        return BulkheadRejectedError(
            f"{self._name} {why}",
            name=self._name,
            in_use=in_use,
            capacity=capacity,
            retry_after=retry_after,
        )

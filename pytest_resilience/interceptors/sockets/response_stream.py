"""How an answer is heard, from its first byte to its last: in pieces, altered, or both."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.payload import altered
from pytest_resilience.chaos.faults.response import Alteration


__all__ = ["Course", "Ending"]


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of what a peer sends, which has come and is not there yet.

    Attributes:
        due: monotonic seconds.
        effect: what holds it up.
    """

    due: float
    effect: Effect


class Course:
    """One answer while it is heard.

    Attributes:
        effect: what happens to it.
        ended: whether no more of it will be heard.
        ready: bytes of a piece that are there, and have not been taken; in TLS of records.
        idle: whether all that the peer has said of it so far has been heard.
    """

    def __init__(self, effect: Effect, began: float, *, sealed: bool = False) -> None:
        """`began`: monotonic seconds of its first byte. `sealed`: its bytes are encrypted, and
        are altered elsewhere.
        """
        self.effect = effect
        self.ended = False
        self.ready = 0
        self.idle = False
        failure = effect.failure
        self._altered: Altered | None = None
        if isinstance(failure, Alteration) and not sealed:
            self._altered = altered(failure)
        self._free = began  # when the line has carried all that it was given
        self._due: float | None = None

    @property
    def piece(self) -> int | None:
        """How many bytes come at a time, at most; None for all there are."""
        pace = self.effect.pace
        return None if pace is None or not self.effect.left() else pace.piece

    def expect(self, size: int, *, idle: bool) -> float:
        """When the next piece, of `size` bytes, is there, in monotonic seconds.

        `idle`: whether it has only just been put on the line.
        """
        if self._due is None:
            began = max(self._free, self.effect.clock.monotonic()) if idle else self._free
            pace = self.effect.pace
            self._due = began if pace is None else began + pace.seconds(size)
        return self._due

    def expect_more(self, size: int, *, idle: bool) -> float:
        """When `size` bytes are there that come on top of all that was expected before."""
        if self._due is None:
            return self.expect(size, idle=idle)
        pace = self.effect.pace
        self._due += 0.0 if pace is None else pace.seconds(size)
        return self._due

    def carry(self) -> None:
        """What was expected is there."""
        if self._due is not None:
            self._free, self._due = self._due, None

    def take(self, data: bytes) -> bytes:
        """What is heard of the next `data`, none for the end of the stream."""
        self.carry()
        if self._altered is None or not self.effect.left():
            return data
        heard = self._altered.alter(data)
        self.ended = self._altered.ended
        if self._altered.spared:
            self._altered = None
            self.effect.spare()
        return heard

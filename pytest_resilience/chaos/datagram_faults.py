"""Datagrams on their way: which of them arrive, when, and in which order. Sans-IO.

As `response_stream` does for responses, this says in one place what a fault does to datagrams.
A `DatagramLine` touches no socket and reads no clock: its driver puts in what was sent, with the
effect that was decided, and takes out what has arrived.

    line.put(datagram, effect, now)
    while (arrived := line.take(now)) is not None:
        deliver(arrived)
    call_again_at(line.due)

    put -+-> lost                                     drop, timeout, partition, refuse
         +-> due at once, or after its delay          latency: with jitter some overtake others
         +-> due twice                                duplicate
         +-> held, until the next has passed it       reorder
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math

from dataclasses import dataclass
from typing import Final
from typing import Generic
from typing import TypeVar

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.faults.network import Duplication
from pytest_resilience.chaos.faults.network import Loss
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import Reordering
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import Operation


__all__ = ["PATIENCE", "DatagramLine", "datagram"]

PATIENCE: Final = 0.1  # seconds that one waits for the next to overtake it
_ADVICE: Final = (
    "Datagrams went to {}, over UDP, where there are no connections: those that come back can be "
    "late (network_latency), and those that are sent with stream='upstream'; by network_failure "
    "they are lost (mode='drop', 'timeout', 'partition'), doubled ('duplicate'), out of order "
    "('reorder') or refused ('refuse')."
)
_T = TypeVar("_T")


def datagram(kind: str, names: tuple[str, ...], task: object = None) -> Operation:
    """The operation `kind` with a peer; `task`: of an event loop, for whom it is done."""
    return Operation(
        kind=kind,
        target=names[0],
        names=names,
        call_site=CallSite(loop_objects=(task,)),
        remark="UDP",
        advice=_ADVICE.format(names[0]),
    )


def _is_lost(effect: Effect | None) -> bool:
    """Whether a datagram with this effect never arrives."""
    if effect is None:
        return False
    return effect.delay == math.inf or isinstance(effect.failure, (Loss, Refusal))


class DatagramLine(Generic[_T]):
    """The datagrams that pass one way on one socket.

    Of those that are to be reordered one is held at a time: the next, whatever happens to it,
    overtakes it. Where none comes for `PATIENCE` seconds, it arrives alone.

    Attributes:
        is_timed: the driver waits with something that books delays itself.
    """

    def __init__(self) -> None:
        self._waiting: list[_Waiting[_T]] = []  # by the moment when they are due
        self._held: _Waiting[_T] | None = None  # one of them, to be overtaken
        self._numbers = itertools.count()
        self.is_timed = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def due(self) -> float:
        """When the next one arrives, in monotonic seconds; infinite where there is none."""
        return self._waiting[0].due if self._waiting else math.inf

    def put(self, datagram: _T, effect: Effect | None, now: float) -> float:
        """One was sent `now`; returns when it arrives at the latest, in monotonic seconds."""
        if _is_lost(effect):
            return math.inf
        failure = None if effect is None else effect.failure
        due = now if effect is None else now + effect.delay
        held, self._held = self._held, None
        if held is None and isinstance(failure, Reordering):
            self._held = self._wait(datagram, effect, now, due + PATIENCE)
            return self._held.due
        for _ in range(2 if isinstance(failure, Duplication) else 1):
            self._wait(datagram, effect, now, due)
        if held is not None:
            self._waiting.remove(held)
            self._wait(held.datagram, held.effect, held.put_at, max(due, held.due - PATIENCE))
        return due

    def take(self, now: float) -> _T | None:
        """The next one that has arrived, in monotonic seconds; None if none has."""
        if not self._waiting or self._waiting[0].due > now:
            return None
        first = self._waiting.pop(0)
        if first is self._held:
            self._held = None
        if not self.is_timed and first.effect is not None and first.effect.delay:
            first.effect.add_delay(max(0.0, min(now, first.due) - first.put_at))
        return first.datagram

    def release_ended(self, now: float) -> None:
        """Let those arrive now whose experiments have ended."""
        for each in [each for each in self._waiting if each.due > now and each.has_ended]:
            self._waiting.remove(each)
            early = dataclasses.replace(each, due=now)
            bisect.insort(self._waiting, early)
            if each is self._held:
                self._held = None

    def _wait(self, datagram: _T, effect: Effect | None, put_at: float, due: float) -> _Waiting[_T]:
        waiting = _Waiting(due, next(self._numbers), datagram, effect, put_at)
        bisect.insort(self._waiting, waiting)
        return waiting


@dataclass(frozen=True, slots=True, order=True)
class _Waiting(Generic[_T]):
    """A datagram on its way: by the moment when it is due, then in the order of sending."""

    due: float
    number: int
    datagram: _T = dataclasses.field(compare=False)
    effect: Effect | None = dataclasses.field(compare=False)
    put_at: float = dataclasses.field(compare=False)

    @property
    def has_ended(self) -> bool:
        """Whether nothing holds it up any more."""
        return self.effect is not None and not self.effect.left()

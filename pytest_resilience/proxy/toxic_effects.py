"""What toxics do: the filters of a direction, each with a fault that happens to all that passes.

A toxic is a fault as experiments have them, on one proxy, for as long as it is there. What differs
is the part of the stream that is one message to it: a piece, a response, or all of it.
"""

from __future__ import annotations

import itertools
import math
import random

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import Latency
from pytest_resilience.chaos.faults.network import LostResponse
from pytest_resilience.chaos.faults.response import Bandwidth
from pytest_resilience.chaos.faults.response import Corruption
from pytest_resilience.chaos.faults.response import Pace
from pytest_resilience.chaos.faults.response import SlowClose
from pytest_resilience.chaos.faults.response import Truncation
from pytest_resilience.chaos.parsing.quantities import DelayDistribution
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.proxy.traffic_filter import DirectionContext
from pytest_resilience.proxy.traffic_filter import Sink
from pytest_resilience.proxy.traffic_filter import TrafficFilter


__all__ = ["ToxicFilter", "make_filter"]

_MS = 1e-3
_US = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slices(Pace):
    """Data comes in pieces of `size` bytes, give or take `variation`, with a pause after each.

    Other faults have their pause before each piece. So this one is told as a negative `delay`:
    data that comes later than that after the piece before need not wait.

    Attributes:
        pauses: in seconds, before each piece; the first has none.
    """

    size: int
    variation: int
    pauses: Iterator[float]
    chance: random.Random

    @property
    def piece(self) -> int:
        return max(1, self.size + self.chance.randint(-self.variation, self.variation))

    def seconds(self, size: int) -> float:  # noqa: ARG002  # the pause is all
        return next(self.pauses)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ToxicEffect(Effect):
    """A toxic's fault, until the toxic is removed; no experiment counts it."""

    is_active: Callable[[], bool]

    def left(self) -> float:
        return math.inf if self.is_active() else 0.0


class ToxicFilter(TrafficFilter):
    """Base of all: the filter of one toxic, in one direction of one connection."""

    def __init__(
        self,
        direction: DirectionContext,
        attributes: Mapping[str, Any],
        chance: random.Random,
        following: Sink,
    ) -> None:
        super().__init__(direction, following)
        self._connection = direction.connection
        self._attributes = attributes
        self._chance = chance

    def start(self) -> None:
        """The filter is in its place, and the connection is open."""

    def change(self, attributes: Mapping[str, Any]) -> None:
        """The toxic has other attributes now."""
        self._attributes = attributes

    def remove(self) -> None:
        """The toxic has been removed: pass on at once whatever is held."""

    def client_gone(self) -> None:
        """The client sends no more; most likely it has given up."""


class _FaultFilter(ToxicFilter):
    """Base of those whose fault happens to a message. By itself all of the stream is one."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._is_active = True
        self._passed = 0  # bytes
        self._message = self._new_message()

    def fault(self) -> Fault:
        """Made of the attributes, in seconds and bytes."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        self._put(self._message, data)
        self._passed += len(data)

    def change(self, attributes: Mapping[str, Any]) -> None:
        super().change(attributes)
        before, self._message = self._message, self._new_message()
        for piece in self._queue:
            if piece.stream is before:
                piece.stream = self._message
        self._pump()

    def remove(self) -> None:
        self._is_active = False
        while self._queue:
            self._pump()

    def _new_message(self) -> ResponseStream:
        clock = self._connection.loop.clock
        fault = self.fault()
        effect = _ToxicEffect(
            clock=clock,
            delay=fault.delay,
            failure=None if fault.waits else fault,
            pace=fault if isinstance(fault, Pace) else None,
            is_active=lambda: self._is_active,
        )
        return ResponseStream(effect)


class _Latency(_FaultFilter):
    """Each piece of data is late by itself: several at once are not several times as late."""

    def fault(self) -> Fault:
        delay, jitter = self._attributes["latency"] * _MS, self._attributes["jitter"] * _MS
        distribution = DelayDistribution(kind="uniform", delay=delay, jitter=jitter)
        return Latency(delay=delay, distribution=distribution).drawn(self._chance.random())

    def write(self, data: bytes) -> None:
        self._put(self._new_message(), data)


class _Bandwidth(_FaultFilter):
    def fault(self) -> Fault:
        return Bandwidth(rate=self._attributes["rate"] * 1000)


class _Slicer(_FaultFilter):
    def fault(self) -> Fault:
        pause = self._attributes["delay"] * _US
        return _Slices(
            delay=-pause,
            size=self._attributes["average_size"],
            variation=self._attributes["size_variation"],
            pauses=itertools.chain([0.0], itertools.repeat(pause)),
            chance=self._chance,
        )


class _SlowClose(_FaultFilter):
    def fault(self) -> Fault:
        return SlowClose(delay=self._attributes["delay"] * _MS)

    def write(self, data: bytes) -> None:
        self._put(None, data)

    def write_eof(self) -> None:
        self._put(self._message, is_eof=True)


class _LimitData(_FaultFilter):
    def fault(self) -> Fault:
        left = max(0, self._attributes["bytes"] - self._passed)
        return Truncation(limit=left, headless=True)


class _Corrupt(_FaultFilter):
    def fault(self) -> Fault:
        return Corruption(
            share=self._attributes["share"],
            skip=max(0, self._attributes["skip"] - self._passed),
            seed=self._chance.random(),
        )


class _ResponseFilter(_FaultFilter):
    """Base of those that happen to one response, counted from when the toxic was added."""

    _turns = 0
    _turn = -1

    def write(self, data: bytes) -> None:
        if self._connection.decisions.turn != self._turn:
            self._turn = self._connection.decisions.turn
            self._turns += 1
        self._put(self._message if self._turns == self._attributes["answer"] else None, data)


class _Truncate(_ResponseFilter):
    def fault(self) -> Fault:
        return Truncation(share=self._attributes["share"])


class _LoseAnswer(_ResponseFilter):
    def fault(self) -> Fault:
        resets = self._attributes["reset"]
        return LostResponse() if resets else Truncation(limit=0, headless=True)


class _TimerFilter(ToxicFilter):
    """Base of those through which nothing gets, and which end the connection after a time."""

    _lost_data = False
    _lost_eof = False

    def start(self) -> None:
        self._cancel_timer()
        self._wait(self._now() + self._attributes["timeout"] * _MS)

    def change(self, attributes: Mapping[str, Any]) -> None:
        super().change(attributes)
        self.start()

    def write(self, data: bytes) -> None:  # noqa: ARG002  # it is lost
        self._lost_data = True

    def write_eof(self) -> None:
        self._lost_eof = True


class _Timeout(_TimerFilter):
    """Once nothing has come for so long, the connection is closed; a time of 0 never ends."""

    _due = 0.0

    def start(self) -> None:
        self._cancel_timer()
        self._due = 0.0
        if self._attributes["timeout"]:
            super().start()

    def write(self, data: bytes) -> None:
        super().write(data)
        self._due = self._now() + self._attributes["timeout"] * _MS

    def _go_on(self) -> None:
        if self._now() < self._due:  # data came meanwhile: one timer is enough for all of it
            self._wait(self._due)
        else:
            self._connection.close()

    def write_eof(self) -> None:
        """Lost as well: a client that waits must not learn that the server has gone."""
        super().write_eof()
        if self._connection.client_done:
            self.following.write_eof()

    def client_gone(self) -> None:
        if self._lost_eof:
            self.following.write_eof()

    def remove(self) -> None:
        self._connection.close()  # what was lost is missing: nothing can go on


class _ResetPeer(_TimerFilter):
    """RST to both transports, at once or after a time: no response and no EOF comes before."""

    def _go_on(self) -> None:
        self._connection.reset()

    def remove(self) -> None:
        self._cancel_timer()
        if self._lost_data or self._lost_eof:
            self._connection.reset()  # what is missing would not be noticed


_FILTERS: dict[str, type[ToxicFilter]] = {
    "latency": _Latency,
    "bandwidth": _Bandwidth,
    "slow_close": _SlowClose,
    "timeout": _Timeout,
    "reset_peer": _ResetPeer,
    "slicer": _Slicer,
    "limit_data": _LimitData,
    "corrupt": _Corrupt,
    "truncate": _Truncate,
    "lose_answer": _LoseAnswer,
}


def make_filter(
    kind: str,
    direction: DirectionContext,
    attributes: Mapping[str, Any],
    chance: random.Random,
    following: Sink,
) -> ToxicFilter:
    """The filter of a type of toxic. Raises KeyError for "refuse", which has none."""
    return _FILTERS[kind](direction, attributes, chance, following)

"""Toxics at work: what each type does to the data of one direction of one connection."""

from __future__ import annotations

import math
import random

from collections.abc import Mapping
from typing import Any

from pytest_resilience.chaos.faults.payload import gap
from pytest_resilience.proxy.event_loop import Timer
from pytest_resilience.proxy.toxics.stages import Line
from pytest_resilience.proxy.toxics.stages import Pieces
from pytest_resilience.proxy.toxics.stages import Sink
from pytest_resilience.proxy.toxics.stages import Stage
from pytest_resilience.proxy.toxics.stages import Surroundings


__all__ = ["make_stage"]

_BITE = 0.02  # seconds' worth of data that a limited line delivers at once
_MS = 1e-3


class _Latency(Line):
    """Everything arrives later."""

    def take(self, data: bytes) -> None:
        jitter = self._told["jitter"] * (2 * self._chance.random() - 1)
        self.put(self._now() + max(0.0, self._told["latency"] + jitter) * _MS, data)


class _Bandwidth(Pieces):
    """So many bytes a second: each piece is there when its last byte is."""

    def _rate(self) -> float:
        return float(self._told["rate"]) * 1000  # bytes a second

    def _piece(self) -> int:
        return max(1, int(self._rate() * _BITE))

    def _due(self, free: float, size: int) -> float:
        rate = self._rate()
        return free + size / rate if rate else math.inf

    def _free_after(self, due: float) -> float:
        return due


class _Slicer(Pieces):
    """Data comes in small pieces, with a pause after each."""

    def _piece(self) -> int:
        variation = self._told["size_variation"]
        drawn = self._told["average_size"] + self._chance.randint(-variation, variation)
        return max(1, int(drawn))

    def _due(self, free: float, size: int) -> float:  # noqa: ARG002  # the pause is all
        return free

    def _free_after(self, due: float) -> float:
        return due + float(self._told["delay"]) * 1e-6


class _SlowClose(Line):
    """The end comes later than the last data."""

    def take(self, data: bytes) -> None:
        self.put(self.last_due, data)

    def finish(self) -> None:
        self.put(self._now() + self._told["delay"] * _MS)


class _Waiting(Stage):
    """Base of those to whom something happens after a time."""

    _timer: Timer | None = None

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        self.stop()

    def change(self, told: Mapping[str, Any]) -> None:
        super().change(told)
        self.stop()
        self.start()

    def _after(self) -> float:
        return self._now() + float(self._told["timeout"]) * _MS


class _Timeout(_Waiting):
    """Nothing gets through; once quiet for so long, the connection is closed."""

    _due = math.inf
    _ended = False

    def start(self) -> None:
        if self._told["timeout"]:
            self._due = self._after()
            self._timer = self._around.loop.at(self._due, self._look)

    def take(self, data: bytes) -> None:  # noqa: ARG002  # it is lost
        self._due = self._after()

    def _look(self) -> None:
        if self._now() >= self._due:
            self._around.close()
        else:  # there was data meanwhile
            self._timer = self._around.loop.at(self._due, self._look)

    def finish(self) -> None:
        """Lost too: a client that waits is not told that the server has gone."""
        self._ended = True
        if self._around.deserted:
            self.following.finish()

    def desert(self) -> None:
        if self._ended:
            self.following.finish()

    def leave(self) -> None:
        self._around.close()  # what was dropped is missing: nothing can go on


class _ResetPeer(_Waiting):
    """RST to both sides, at once or after a time."""

    _lost = False

    def start(self) -> None:
        self._timer = self._around.loop.at(self._after(), self._around.reset)

    def take(self, data: bytes) -> None:  # noqa: ARG002  # it is lost
        """Lose it: who is reset does not get the answer first."""
        self._lost = True

    def finish(self) -> None:
        """Lose it too: an orderly end would be none."""
        self._lost = True

    def leave(self) -> None:
        super().leave()
        if self._lost:
            self._around.reset()  # what is missing would not be noticed


class _LimitData(Stage):
    """So many bytes in all, then the connection is closed."""

    _passed = 0

    def take(self, data: bytes) -> None:
        allowed = max(0, self._told["bytes"] - self._passed)
        data = data[:allowed]
        self._passed += len(data)
        if data:
            self.following.take(data)
        if self._passed >= self._told["bytes"]:
            self._cut()


class _Corrupt(Stage):
    """A share of the bytes is not what it was."""

    _seen = 0
    _next: int | None = None  # position in the stream of the next byte to hit

    def take(self, data: bytes) -> None:
        end = self._seen + len(data)
        if self._next is None:
            self._next = max(self._told["skip"], self._seen) + self._gap()
        if self._next < end:
            hit = bytearray(data)
            while self._next < end:
                hit[self._next - self._seen] ^= self._chance.randrange(1, 256)
                self._next += 1 + self._gap()
            data = bytes(hit)
        self._seen = end
        self.following.take(data)

    def change(self, told: Mapping[str, Any]) -> None:
        super().change(told)
        self._next = None

    def _gap(self) -> int:
        """Bytes left alone before the next one hit: a geometric distribution."""
        return gap(self._chance, self._told["share"])


class _OfAnAnswer(Stage):
    """Base of those that happen to one answer, counted from when the toxic began."""

    _answers = 0
    _known = -1

    def _is_the_one(self) -> bool:
        if self._around.answer != self._known:
            self._known = self._around.answer
            self._answers += 1
        return bool(self._answers == self._told["answer"])


class _Truncate(_OfAnAnswer):
    """A share of what arrives first of an answer, then the connection is closed."""

    def take(self, data: bytes) -> None:
        if not self._is_the_one():
            self.following.take(data)
            return
        kept = min(len(data) - 1, int(len(data) * self._told["share"]))
        if kept:
            self.following.take(data[:kept])
        self._cut()


class _LoseAnswer(_OfAnAnswer):
    """The server has done what it was asked; its answer, and the connection, are lost."""

    def take(self, data: bytes) -> None:
        if self._is_the_one():
            self._around.lose(reset=self._told["reset"])
        else:
            self.following.take(data)


_STAGES: dict[str, type[Stage]] = {
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


def make_stage(
    kind: str,
    around: Surroundings,
    told: Mapping[str, Any],
    chance: random.Random,
    following: Sink,
) -> Stage:
    """The stage of a type of toxic. Raises KeyError for one that has none."""
    return _STAGES[kind](around, told, chance, following)

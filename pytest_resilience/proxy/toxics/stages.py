"""What stands between the two sides of a connection, in one direction.

A stage is given data and the end of it, and passes both on to the next. What it holds back
it queues with the moment it is due, so nothing ever overtakes.
"""

from __future__ import annotations

import math
import random

from collections import deque
from collections.abc import Mapping
from typing import Any
from typing import Protocol

from pytest_resilience.proxy.event_loop import Loop
from pytest_resilience.proxy.event_loop import Timer


__all__ = ["Line", "Pieces", "Sink", "Stage", "Surroundings"]

_AT_ONCE = 256  # pieces passed on in a row, so that nobody else has to wait for long


class Sink(Protocol):
    """What data flows into."""

    def take(self, data: bytes) -> None:
        """More data; never empty."""

    def finish(self) -> None:
        """There will be no more."""


class Surroundings(Protocol):
    """What a stage can do to its connection."""

    loop: Loop

    @property
    def answer(self) -> int:
        """The number of the answer that flows now, from 1."""

    @property
    def deserted(self) -> bool:
        """Whether the client sends no more: most likely it has given up."""

    def reset(self) -> None:
        """Tear both sides down with RST, whatever is still under way."""

    def close(self) -> None:
        """Close both sides now."""

    def end(self) -> None:
        """Read no more, and close both sides when the end that is passed on arrives."""

    def lose(self, *, reset: bool) -> None:
        """Drop the client, with or without RST, and let the server have what was sent."""

    def flowed(self) -> None:
        """Something that was held has been passed on."""


class _Nowhere:
    """What is behind the end of a connection."""

    def take(self, data: bytes) -> None:
        """Lose it."""

    def finish(self) -> None:
        """It is finished."""


_NOWHERE = _Nowhere()


class Stage:
    """Passes everything on: base of all.

    Attributes:
        following: what comes next.
        held: bytes that it holds back.
    """

    def __init__(
        self, around: Surroundings, told: Mapping[str, Any], chance: random.Random, following: Sink
    ) -> None:
        self.following = following
        self.held = 0
        self._around = around
        self._told = told
        self._chance = chance

    def start(self) -> None:
        """The connection is open, or the toxic has been added to an open one."""

    def change(self, told: Mapping[str, Any]) -> None:
        """It is told something else."""
        self._told = told

    def leave(self) -> None:
        """The toxic has been removed: whatever is held goes on at once."""

    def desert(self) -> None:
        """The client sends no more; see `Surroundings.deserted`."""

    def stop(self) -> None:
        """The connection is gone."""

    def take(self, data: bytes) -> None:
        self.following.take(data)

    def finish(self) -> None:
        self.following.finish()

    def _cut(self) -> None:
        """End the connection here; what has been passed on still arrives."""
        if self.following is not _NOWHERE:
            self._around.end()
            self.following.finish()
            self.following = _NOWHERE

    def _now(self) -> float:
        return self._around.loop.clock.monotonic()


class Line(Stage):
    """Base of those that hold data back; in order, each piece until it is due."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._queue: deque[tuple[float, bytes]] = deque()  # no bytes: the end
        self._timer: Timer | None = None

    def put(self, due: float, data: bytes = b"") -> None:
        """Pass `data` on at `due`, or when all before it has been; none means the end."""
        if not self._queue and due <= self._now():
            self._pass(data)
            return
        if self._queue:
            due = max(due, self._queue[-1][0])
        self._queue.append((due, data))
        self.held += len(data)
        if self._timer is None:
            self._arm()

    @property
    def last_due(self) -> float:
        """When the last piece held is due; the beginning of time if none is."""
        return self._queue[-1][0] if self._queue else -math.inf

    def finish(self) -> None:
        self.put(self.last_due)

    def leave(self) -> None:
        self.stop()
        while self._queue:
            self._pass_first()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = self._around.loop.at(self._queue[0][0], self._release)

    def _release(self) -> None:
        self._timer = None
        now = self._now()
        while self._queue and self._queue[0][0] <= now:
            self._pass_first()
        if self._queue:
            self._arm()
        self._around.flowed()

    def _pass_first(self) -> None:
        _, data = self._queue.popleft()
        self.held -= len(data)
        self._pass(data)

    def _pass(self, data: bytes) -> None:
        if data:
            self.following.take(data)
        else:
            self.following.finish()


class Pieces(Stage):
    """Base of those that cut data up. It is cut when it is due: little pieces take no room."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._queue: deque[tuple[float, memoryview]] = deque()  # with when it came; none: the end
        self._free = -math.inf  # when what has been passed on lets more pass
        self._size = 0  # of the next piece, once it is known
        self._timer: Timer | None = None

    def take(self, data: bytes) -> None:
        self._arrive(data)

    def finish(self) -> None:
        self._arrive(b"")

    def change(self, told: Mapping[str, Any]) -> None:
        super().change(told)
        self._wake()
        self._free, self._size = self._now(), 0
        self._pump()

    def leave(self) -> None:
        self._wake()
        while self._queue:
            self._pass(len(self._queue[0][1]))

    def stop(self) -> None:
        self._wake()
        self._queue.clear()
        self.held = 0

    def _piece(self) -> int:
        """How many bytes the next piece has, if there are as many; at least one."""
        raise NotImplementedError

    def _due(self, free: float, size: int) -> float:
        """When a piece is, if it can come from `free` on."""
        raise NotImplementedError

    def _free_after(self, due: float) -> float:
        """When the next piece can come, after one at `due`."""
        raise NotImplementedError

    def _arrive(self, data: bytes) -> None:
        self._queue.append((self._now(), memoryview(data)))
        self.held += len(data)
        if self._timer is None:
            self._pump()

    def _pump(self) -> None:
        """Pass on what is due."""
        now = self._now()
        for _ in range(_AT_ONCE):
            if not self._queue:
                return
            came, data = self._queue[0]
            if data:
                self._size = self._size or min(self._piece(), len(data))
                due = self._due(max(came, self._free), self._size)
                if due > now:
                    self._wait(due)
                    return
                self._free = self._free_after(due)
            self._pass(self._size)
        self._wait(now)

    def _pass(self, size: int) -> None:
        """Pass on so many bytes of the first data, or the end."""
        came, data = self._queue.popleft()
        self._size = 0
        self.held -= size
        if data[size:]:
            self._queue.appendleft((came, data[size:]))
        if data:
            self.following.take(bytes(data[:size]))
        else:
            self.following.finish()

    def _wait(self, due: float) -> None:
        if due < math.inf:
            self._timer = self._around.loop.at(due, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        self._pump()
        self._around.flowed()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

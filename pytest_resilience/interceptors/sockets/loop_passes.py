"""When what an event loop reads has arrived, as far as that can be known.

A loop looks at its sockets once in each pass, and it may have been busy for long before.
"""

from __future__ import annotations

import weakref

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import asyncio


__all__ = ["Passes"]


class Passes:
    """Keeps account of the passes of all loops."""

    def __init__(self) -> None:
        self._passes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pass] = (
            weakref.WeakKeyDictionary()
        )

    def spoke(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Something is sent, at `now` in monotonic seconds."""
        current = self._of(loop)
        if current.spoke is None:
            current.spoke = now
            loop.call_soon(self._turn, loop)

    def arrival(self, loop: asyncio.AbstractEventLoop, sent_at: float, now: float) -> float:
        """Monotonic seconds at which the answer to what was `sent_at`, now being read, came.

        Where it is there when the loop looks for the first time after that, it may have been
        there for as long as the loop was busy: then it came at once. Otherwise the loop had
        nothing to do but wait for it, and it came just before this pass, however long that
        takes: from the first time that this is asked in it.
        """
        current = self._of(loop)
        if current.began is None:
            current.began = now
            loop.call_soon(self._end, loop)
        if current.looked is not None and sent_at >= current.looked:
            return sent_at
        return max(current.began, sent_at)

    def _of(self, loop: asyncio.AbstractEventLoop) -> _Pass:
        found = self._passes.get(loop)
        if found is None:
            found = self._passes[loop] = _Pass()
        return found

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """The pass after one in which something was sent begins, before anything is read."""
        current = self._of(loop)
        current.looked, current.spoke = current.spoke, None
        loop.call_soon(self._see, loop)

    def _see(self, loop: asyncio.AbstractEventLoop) -> None:
        self._of(loop).looked = None

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._of(loop).began = None


class _Pass:
    """What is known of a loop's pass, in monotonic seconds.

    Attributes:
        began: when it began to read; None if it has not.
        spoke: when something was first sent in it; None if nothing was.
        looked: the same of the pass before, so that in this one the loop has looked for the
            first time whether it is answered.
    """

    __slots__ = ("began", "looked", "spoke")

    def __init__(self) -> None:
        self.began: float | None = None
        self.spoke: float | None = None
        self.looked: float | None = None

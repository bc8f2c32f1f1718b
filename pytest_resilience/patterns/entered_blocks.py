"""Which of the blocks that were entered is left now, where context variables cannot tell.

The two halves of a generator may run in different threads or contexts, as those of a dependency
of FastAPI do, and generators end in any order. Its frame stays the same.
"""

from __future__ import annotations

from types import FrameType
from typing import TypeVar


__all__ = ["EnteredBlocks"]

_T = TypeVar("_T")

_MOST = 1000  # blocks, should some never be left


class EnteredBlocks(dict[FrameType, list[_T]]):
    """What is known of the blocks of a pattern that were entered and not left, by their frames.

    The keys are the frames themselves, for their numbers would be given again.
    """

    __slots__ = ()

    def enter(self, frame: FrameType, block: _T) -> None:
        """Note a block of the frame that called `__enter__`, or `__aenter__`."""
        if len(self) >= _MOST:
            self.clear()
        self.setdefault(frame, []).append(block)

    def leave(self, frame: FrameType) -> _T | None:
        """The block of the frame that called `__exit__`; None if it has none, as ExitStack's."""
        return self._take(frame, -1) if frame in self else None

    def leave_this(self, block: _T) -> bool:
        """Note that a block was left, whatever its frame. False if it was before."""
        for frame, blocks in self.copy().items():
            for index, each in enumerate(blocks):
                if each is block:
                    self._take(frame, index)
                    return True
        return False

    def leave_latest(self) -> _T | None:
        """The block that was entered last; None if there is none."""
        frame = next(reversed(self), None)
        return None if frame is None else self._take(frame, -1)

    def _take(self, frame: FrameType, index: int) -> _T:
        blocks = self[frame]
        block = blocks.pop(index)
        if not blocks:
            del self[frame]
        return block

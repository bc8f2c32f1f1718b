"""Lines of the code under test, for what is told of locks and waits."""

from __future__ import annotations

import _thread
import os
import queue
import sys
import threading
import weakref

from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from types import FrameType
from typing import Any


__all__ = ["CallSite", "is_machinery", "locks_of_tasks"]

_HERE = os.path.dirname(__file__) + os.sep
_MACHINERY = frozenset({threading.__file__, queue.__file__, _thread.__name__})


@dataclass(frozen=True, slots=True)
class CallSite:
    """A line, which keeps nothing alive but its code."""

    code: CodeType
    line: int

    @classmethod
    def of(cls, frame: FrameType) -> CallSite:
        return cls(frame.f_code, frame.f_lineno)

    @classmethod
    def here(cls) -> CallSite:
        """Where what waits was called from: not in this package, nor where locks are made of."""
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # inspect is 100 times slower
        outermost = frame
        while frame is not None and is_machinery(frame.f_code.co_filename):
            outermost, frame = frame, frame.f_back
        found = frame or outermost
        assert found is not None
        return cls(found.f_code, found.f_lineno)

    def __str__(self) -> str:
        return f"{self.code.co_filename}:{self.line} in {self.code.co_name}"


locks_of_tasks: weakref.WeakKeyDictionary[Any, tuple[CallSite, Any, CallSite | None]] = (
    weakref.WeakKeyDictionary()
)
"""Of each lock of asyncio where it was made, the task that holds it, and where that took it."""


@lru_cache(maxsize=4096)
def is_machinery(file: str) -> bool:
    """Whether a file is one of those that waits are made of."""
    return file in _MACHINERY or file.startswith(_HERE) or f"{os.sep}asyncio{os.sep}" in file

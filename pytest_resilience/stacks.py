"""Whose code the frames of a stack are, and those of a task that is suspended."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import sysconfig
import traceback

from collections.abc import Iterator
from functools import lru_cache
from types import FrameType
from types import TracebackType
from typing import Any


__all__ = [
    "clear_frames",
    "end_at_caller",
    "is_library",
    "is_ours",
    "is_tool",
    "shown_file",
    "suspended_frames",
]

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARIES = tuple(
    {
        path + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
        if (path := sysconfig.get_path(name))
    }
)
_RESUMED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_SHARED = ("site-packages", "dist-packages")
_TOOLS = frozenset({"_pytest", "pluggy", "xdist", "execnet", "coverage", "hypothesis"})
# These call what a test gives them: whose operation it is, is said by who calls them.
_BETWEEN = (
    "pytest_resilience.patterns.", "pytest_resilience.interceptors.files", "_pytest.raises",
    "_pytest.python_api",
)  # fmt: skip


@lru_cache(maxsize=4096)
def is_library(filename: str) -> bool:
    """Whether a file is of a library or of this package, and not of the code under test."""
    return (
        filename.startswith((*_LIBRARIES, _HERE, "<"))
        or any(each in filename for each in _SHARED)
        or not os.path.splitext(filename)[1]  # a program that was started, such as bin/pytest
    )


def is_ours(filename: str) -> bool:
    """Whether a file is of this package."""
    return filename.startswith(_HERE)


def is_tool(module: str) -> bool | None:
    """Whether a module is of a tool that runs tests; None where that is said by who calls it."""
    top = module.partition(".")[0]
    if module.startswith(_BETWEEN) or top in sys.stdlib_module_names:
        return None
    return top in _TOOLS or top.startswith("pytest")


@lru_cache(maxsize=4096)
def shown_file(filename: str, folder: str) -> str:
    """For messages: without `folder`, where pytest was called, if the file is below it."""
    return filename.removeprefix(folder.rstrip(os.sep) + os.sep) if folder else filename


def end_at_caller(trace: TracebackType | None) -> None:
    """Let a traceback end at the line of the code under test that has called this package."""
    caller, file = None, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not is_library(file):
            caller = trace
        trace = trace.tb_next
    if caller is not None and is_ours(file):
        caller.tb_next = None


def clear_frames(trace: TracebackType | None, *, of_coroutines: bool = True) -> None:
    """Let go of what the functions hold that are over, and that a traceback has gone through.

    A coroutine or a generator that has caught an error may not be over: to clear it ends it.
    """
    for frame, _ in traceback.walk_tb(trace):
        if of_coroutines or not frame.f_code.co_flags & _RESUMED:
            with contextlib.suppress(RuntimeError):  # it still runs
                frame.clear()
                _ = frame.f_locals  # a copy that somebody has had made, which is emptied now


def suspended_frames(task: Any) -> Iterator[FrameType]:
    """The frames of a task of asyncio or trio, down to what it is suspended in."""
    coroutine = task.coro if hasattr(task, "coro") else task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if not isinstance(frame, FrameType):
            return
        yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)

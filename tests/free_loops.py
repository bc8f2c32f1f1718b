"""Holding that nothing of ours blocks the thread of an event loop.

blockbuster lets every call that blocks raise there. It lets modules be loaded, though, which
reads files as well: so what we load there is held against us here.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from types import ModuleType
from typing import Any

import blockbuster
import pytest

import pytest_resilience


__all__ = ["free_loops", "no_loop_was_running"]

# What clients do by themselves, without us as with us.
ARGUED = {
    "os.stat": [
        ("asyncpg/connect_utils.py", "_read_password_file"),  # it looks for ~/.pgpass
        ("redis/utils.py", "get_lib_version"),  # of itself, to tell the server
        ("requests/utils.py", "get_netrc_auth"),  # it looks for ~/.netrc
    ],
    "io.TextIOWrapper.read": [("redis/utils.py", "get_lib_version")],
}

# What calls of the system go through: the machinery of paths and threads, and blockbuster.
_BETWEEN = ("blockbuster", "posixpath", "genericpath", "pathlib", "threading", "contextlib")
_OURS = str(Path(pytest_resilience.__file__).parent)


@contextlib.contextmanager
def free_loops() -> Iterator[None]:
    """Within, whoever blocks the thread of a loop gets a BlockingError; or fails in the end."""
    loaded: list[str] = []
    loads = _Loads(loaded)
    blocked: list[str] = []
    with _guarding() as guard, _noting(blocked):
        for call, places in ARGUED.items():
            for place in places:
                guard.functions[call].can_block_in(*place)
        sys.meta_path.insert(0, loads)
        try:
            yield
        finally:
            sys.meta_path.remove(loads)
    assert not loaded, f"loaded while a loop waited: {loaded}"
    assert not blocked, f"done while a loop waited: {blocked}"


@contextlib.contextmanager
def _noting(blocked: list[str]) -> Iterator[None]:
    """Note what we do that blocks: who watches never raises, so it may not get out."""

    def made(error: blockbuster.BlockingError, call: str) -> None:
        Exception.__init__(error, f"Blocking call to {call}")
        if _is_ours(sys._getframe(1), *_BETWEEN):
            blocked.append(call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockbuster.BlockingError, "__init__", made)
        yield


@contextlib.contextmanager
def _guarding() -> Iterator[blockbuster.BlockBuster]:
    """As `blockbuster_ctx`, which leaves behind in classes what they had inherited before."""
    guard = blockbuster.BlockBuster()
    replaced = guard.functions.values()
    inherited = [(each.module, each.func_name) for each in replaced if not _has_itself(each)]
    guard.activate()
    try:
        yield guard
    finally:
        guard.deactivate()
        for owner, name in inherited:
            if name in vars(owner):
                delattr(owner, name)


def _has_itself(function: Any) -> bool:
    return function.func_name in vars(function.module)


def no_loop_was_running(error: BaseException) -> bool:
    """Whether it is what blockbuster has found before it let something block that raised."""
    return isinstance(error, RuntimeError) and str(error) == "no running event loop"


class _Loads:
    """Finds no module, and notes those that we look for where a loop runs."""

    def __init__(self, loaded: list[str]) -> None:
        self._loaded = loaded

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            if _is_ours(sys._getframe(1), "importlib"):
                self._loaded.append(name)


def _is_ours(frame: FrameType | None, *between: str) -> bool:
    """Whether the nearest frame that is of no file `between` is of this package."""
    while frame is not None and any(each in frame.f_code.co_filename for each in between):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_OURS)

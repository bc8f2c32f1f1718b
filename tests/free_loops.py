"""Holding that nothing of ours blocks the thread of an event loop.

blockbuster lets every call that blocks raise there. It lets modules be loaded, though, which
reads files as well: so what we load there is held against us here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys

from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from types import ModuleType
from typing import Any

import blockbuster
import forbiddenfruit  # type: ignore[import-untyped]
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
_ABSENT = object()
_OURS = str(Path(pytest_resilience.__file__).parent)


@contextlib.contextmanager
def free_loops() -> Iterator[None]:
    """Within, whoever blocks the thread of a loop gets a BlockingError; or fails in the end."""
    loaded: list[str] = []
    loads = _Loads(loaded)
    blocked: list[str] = []
    with _guarding(), _noting(blocked):
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


def _guarding() -> contextlib.AbstractContextManager[None]:
    """What blockbuster puts in place, for a while; made once while nothing else lies there."""
    made = _made()
    return made.in_place() if made.fits() else _Guard().in_place()


@functools.cache
def _made() -> _Guard:
    return _Guard()


class _Guard:
    """What `BlockBuster.activate` puts in place, to be put there for each of thousands of tests.

    Unlike `deactivate`, it leaves nothing behind in classes of what they had inherited before.
    """

    def __init__(self) -> None:
        guard = blockbuster.BlockBuster()
        for call, places in ARGUED.items():
            for place in places:
                guard.functions[call].can_block_in(*place)
        at = [(each.module, each.func_name) for each in guard.functions.values()]
        before = [vars(owner).get(name, _ABSENT) for owner, name in at]
        guard.activate()
        self._replaced = [
            (owner, name, found, vars(owner)[name])
            for (owner, name), found in zip(at, before, strict=True)
            if vars(owner).get(name, _ABSENT) is not found
        ]
        guard.deactivate()
        self._remove()

    def fits(self) -> bool:
        """Whether there is what it was made of."""
        return all(vars(owner).get(name, _ABSENT) is was for owner, name, was, _ in self._replaced)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        try:
            for owner, name, _, ours in self._replaced:
                _put(owner, name, ours)
            yield
        finally:
            self._remove()

    def _remove(self) -> None:
        for owner, name, found, _ in self._replaced:
            if found is not _ABSENT:
                _put(owner, name, found)
            elif name in vars(owner):
                delattr(owner, name)


def _put(owner: Any, name: str, value: object) -> None:
    try:
        setattr(owner, name, value)
    except TypeError:  # it is written in C
        forbiddenfruit.curse(owner, name, value)


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

"""The disk interceptor: `open`, and the functions of `os` about files.

pathlib, shutil, tempfile, json, csv, logging, zipfile and what else is written in Python end
in these. A file is reached if it is opened while an experiment is aimed at it, or through
`os` whenever it was opened. Out of reach are code that has taken a function from its module
before (`from os import replace`), `io.FileIO` called by its name, libraries that write in C
(sqlite3, pyarrow), and other processes. Descriptors are known by name where there is /proc.

What is never hit is told in `interceptors.disk_files`.
"""

from __future__ import annotations

import builtins
import io
import os

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import MAKE
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import OPEN_IN_VAIN
from pytest_resilience.chaos.operation import OPEN_TO_WRITE
from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import SYNC
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.interceptors.files.matching import FILE_KINDS
from pytest_resilience.interceptors.files.matching import AimedFiles
from pytest_resilience.interceptors.files.os_functions import FileCalls
from pytest_resilience.interceptors.patching import Patches


__all__ = ["FileInterceptor"]

_OPENING = frozenset({OPEN, OPEN_IN_VAIN, OPEN_TO_WRITE, CREATE})
# Where `os` says of its functions what they can do: shutil.rmtree relies on it.
_ABILITIES = (
    os.supports_dir_fd, os.supports_effective_ids, os.supports_fd, os.supports_follow_symlinks
)  # fmt: skip


class FileInterceptor:
    """Intercepts what is done with files. See `chaos.engine.Interceptor`."""

    kinds = FILE_KINDS

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._patches = Patches()
        self._files: AimedFiles | None = None
        self._replaced: set[str] = set()
        self._able: list[tuple[set[Any], Any]] = []

    def install(self) -> None:
        if self._files is None:
            self._files = AimedFiles(self._engine)
            self._calls = FileCalls(self._files)
        needed = self._engine.kinds
        if not needed.isdisjoint(_OPENING | {READ, WRITE, RESIZE}) and "open" not in self._replaced:
            self._replaced.add("open")
            make = _once(self._calls.open)
            for owner in (builtins, io):
                self._replace(owner, "open", make)
        for kinds, names, make in _functions(self._calls):
            if not kinds or kinds & needed:
                for name in names:
                    if hasattr(os, name) and f"os.{name}" not in self._replaced:
                        self._replaced.add(f"os.{name}")
                        self._replace(os, name, _once(make))

    def refresh(self) -> None:
        if self._files is not None:
            self._files.forget()

    def remove(self) -> None:
        if self._files is not None:
            self._files.retire()
            self._files = None
        if self._patches:
            self._patches.restore()
        self._replaced.clear()
        while self._able:
            abilities, ours = self._able.pop()
            abilities.discard(ours)

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        self._patches.replace(owner, name, make)
        ours = getattr(owner, name)
        if ours is original:  # a mock, which would note that it is looked for
            return
        for abilities in _ABILITIES:
            if original in abilities:
                abilities.add(ours)
                self._able.append((abilities, ours))


def _once(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make one thing of what is one thing under two names.

    A function of Python's would become a method where a class takes it as an attribute; a
    built-in one does not, nor does a static method.
    """
    made: dict[int, Any] = {}
    return lambda found: made.setdefault(id(found), staticmethod(make(found)))


def _functions(
    calls: FileCalls,
) -> tuple[tuple[frozenset[str], tuple[str, ...], Callable[[Any], Any]], ...]:
    """What is replaced in `os`: for which kinds, what, by what.

    What may change where a path leads is always replaced.
    """
    always = frozenset[str]()
    return (
        (_OPENING | {WRITE}, ("open",), calls.open_descriptor),
        (frozenset({WRITE}), ("write", "pwrite"), calls.write),
        (frozenset({WRITE}), ("writev", "pwritev"), calls.write_several),
        (frozenset({WRITE}), ("sendfile",), calls.send),
        (frozenset({WRITE}), ("copy_file_range",), calls.copy),
        (frozenset({READ}), ("read", "pread", "readv", "preadv"), calls.read),
        (frozenset({RESIZE}), ("truncate",), calls.truncate),
        (frozenset({RESIZE}), ("ftruncate", "posix_fallocate"), calls.resize),
        (frozenset({SYNC}), ("fsync", "fdatasync"), calls.sync),
        (frozenset({MAKE}), ("mkdir",), calls.make_folder),
        (always, ("rename", "replace"), calls.rename),
        (always, ("link",), calls.link("dst_dir_fd")),
        (always, ("symlink",), calls.link("dir_fd")),
        (always, ("unlink", "remove", "rmdir"), calls.remove),
        (always, ("chdir", "fchdir"), calls.go),
    )

"""The disk interceptor: `open`, the functions of `os` about files, and `fcntl`, which locks them.

pathlib, shutil, tempfile, json, csv, logging, zipfile and what else is written in Python end
in these. A file is reached if it is opened while an experiment is aimed at it, or through
`os` whenever it was opened. Out of reach are code that has taken a function from its module
before (`from os import replace`), though a sync is traced, `io.FileIO` called by its name,
libraries that write in C (sqlite3, pyarrow), and other processes. Descriptors are known by name
where there is /proc.

What is never hit is listed in `matching`.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import sys

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import LOCK_FILE
from pytest_resilience.chaos.operation import MAKE
from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import SYNC
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.types.files import FILE_KINDS
from pytest_resilience.chaos.types.files import OPENING_KINDS
from pytest_resilience.interceptors.files.matching import FileTargets
from pytest_resilience.interceptors.files.os_functions import FileFunctions
from pytest_resilience.patching import Patches


__all__ = ["FileInterceptor"]

# Where `os` tells which functions take what: shutil.rmtree relies on it.
_SUPPORTING = (
    os.supports_dir_fd, os.supports_effective_ids, os.supports_fd, os.supports_follow_symlinks
)  # fmt: skip


_SYNCS = "fsync", "fdatasync"


class FileInterceptor:
    """Intercepts what is done with files. See `chaos.engine.Interceptor`."""

    kinds = FILE_KINDS

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._patches = Patches()
        self._files: FileTargets | None = None
        self._replaced: set[tuple[Any, str]] = set()
        self._seen: frozenset[str] = frozenset()  # the kinds that all of it is in place for
        self._supported: list[tuple[set[Any], Any]] = []
        self._syncs: dict[int, Any] = {}  # ours, by the id of what it stands for
        self._bound: list[tuple[dict[str, Any], str, Any]] = []

    def install(self) -> None:
        if self._files is None:
            self._files = FileTargets(self._engine)
            self._functions = FileFunctions(self._files)
        needed = self._engine.kinds
        if needed <= self._seen:
            return
        if not needed.isdisjoint(OPENING_KINDS | {READ, WRITE, RESIZE}):
            make = _once(self._functions.open)
            for owner in (builtins, io):
                self._replace(owner, "open", make)
        for kinds, names, maker in _replacements(self._functions):
            make = _once(maker)
            for name in names if not kinds or kinds & needed else ():
                if hasattr(os, name):
                    self._replace(os, name, make)
        if LOCK_FILE in needed:
            self._replace_locks(self._functions)
        self._seen |= needed

    def refresh(self) -> None:
        if self._files is not None:
            self._files.refresh()
            self._unbind()
            if self._engine.file_trace is not None:
                self._bind_syncs()

    def remove(self) -> bool:
        if self._files is not None:
            self._files.remove()
            self._files = None
        self._unbind()
        self._syncs.clear()
        if self._patches:
            self._patches.restore()
        self._replaced.clear()
        self._seen = frozenset()
        while self._supported:
            supporting, ours = self._supported.pop()
            supporting.discard(ours)
        return bool(self._patches)

    def _replace_locks(self, functions: FileFunctions) -> None:
        with contextlib.suppress(ImportError):  # where there is none, nothing is locked by it
            import fcntl

            for name in ("flock", "lockf"):
                self._replace(fcntl, name, _once(functions.lock(fcntl.LOCK_NB, fcntl.LOCK_UN)))

    def _bind_syncs(self) -> None:
        """Also where a module has bound one before: synced unseen, a file would look as if lost."""
        for module_name, module in [*sys.modules.items()]:
            names = getattr(module, "__dict__", None)
            if type(names) is not dict or module_name in sys.builtin_module_names:
                continue
            if self._syncs.keys().isdisjoint(map(id, [*names.values()])):
                continue
            for name, found in [*names.items()]:
                if id(found) in self._syncs:
                    self._bound.append((names, name, found))
                    names[name] = self._syncs[id(found)]

    def _unbind(self) -> None:
        while self._bound:
            names, name, found = self._bound.pop()
            if names.get(name) is self._syncs[id(found)]:
                names[name] = found

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        if (owner, name) in self._replaced:
            return
        self._replaced.add((owner, name))
        original = getattr(owner, name)
        self._patches.replace(owner, name, make)
        ours = getattr(owner, name)
        if ours is original:  # a mock, which would note that it is looked for
            return
        if name in _SYNCS:
            self._syncs[id(original)] = ours
        for supporting in _SUPPORTING:
            if original in supporting:
                supporting.add(ours)
                self._supported.append((supporting, ours))


def _once(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Makes one replacement of what is one function under two names.

    A function of Python's would become a method where a class takes it as an attribute; a
    built-in one does not, nor does a static method.
    """
    made: dict[int, Any] = {}
    return lambda found: made.setdefault(id(found), staticmethod(make(found)))


def _replacements(
    functions: FileFunctions,
) -> tuple[tuple[frozenset[str], tuple[str, ...], Callable[[Any], Any]], ...]:
    """The functions of `os` to replace: for which kinds, their names, the maker of replacements.

    What may change where a path leads is always replaced. The names are constants, for Python's
    cache of attributes keeps every string that one was looked up by.
    """
    write, always = frozenset({WRITE}), frozenset[str]()
    return (
        (OPENING_KINDS | write, ("open",), functions.open_descriptor),
        (write, ("write", "pwrite"), functions.write),
        (write, ("writev", "pwritev"), functions.write_several),
        (write, ("sendfile",), functions.send),
        (write, ("copy_file_range",), functions.copy),
        (frozenset({READ}), ("read", "pread", "readv", "preadv"), functions.by_descriptor(READ)),
        (frozenset({RESIZE}), ("truncate",), functions.truncate),
        (frozenset({RESIZE}), ("ftruncate", "posix_fallocate"), functions.by_descriptor(RESIZE)),
        (frozenset({SYNC}), _SYNCS, functions.by_descriptor(SYNC)),
        (frozenset({MAKE}), ("mkdir",), functions.make_folder),
        (always, ("rename", "replace"), functions.rename),
        (always, ("link",), functions.link("dst_dir_fd")),
        (always, ("symlink",), functions.link("dir_fd")),
        (always, ("unlink", "remove", "rmdir"), functions.remove),
        (always, ("chdir", "fchdir"), functions.change_folder),
    )

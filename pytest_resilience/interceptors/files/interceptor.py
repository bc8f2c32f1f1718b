"""The disk interceptor: `open`, the functions of `os` about files, and `fcntl`, which locks them.

pathlib, shutil, tempfile, json, csv, logging, zipfile and what else is written in Python end
in these, and so do modules that have bound one before (`from os import replace`). A file is
reached if it is opened while an experiment is aimed at it, or through `os` whenever it was opened.
Out of reach are `io.FileIO` called by its name, functions that are kept elsewhere than under a name
of a module, libraries that write in C (sqlite3, pyarrow), and other processes. Descriptors are
known by name where there is /proc.

What is never hit is listed in `matching`.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import sys
import weakref

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from types import ModuleType
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

_OURS = __name__.partition(".")[0]
# The last reads the sources that tracebacks show, which is nobody's operation.
_NOT_THEIRS = frozenset({*sys.builtin_module_names, "tokenize"})

# Where `os` tells which functions take what: shutil.rmtree relies on it.
_SUPPORTING = (
    os.supports_dir_fd, os.supports_effective_ids, os.supports_fd, os.supports_follow_symlinks
)  # fmt: skip


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
        self._aliases: _Aliases | None = None
        self._makers: dict[int, Callable[[Any], Any]] = {}  # by the id of what is replaced

    def install(self) -> None:
        if self._files is None:
            self._files = FileTargets(self._engine)
            self._functions = FileFunctions(self._files)
        needed = self._engine.kinds
        if needed <= self._seen:
            return
        if self._aliases is None:  # before they are replaced
            self._aliases = _Aliases(_replaceable(self._functions))
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
        self._replace_aliases(self._aliases)
        self._seen |= needed

    def refresh(self) -> None:
        if self._files is not None:
            self._files.refresh()

    def remove(self) -> bool:
        if self._files is not None:
            self._files.remove()
            self._files = None
        if self._patches:
            self._patches.restore()
        self._replaced.clear()
        self._makers.clear()
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

    def _replace_aliases(self, aliases: _Aliases) -> None:
        for owner, name, found in aliases.all():
            make = self._makers.get(id(found))
            if make is not None:
                self._patches.replace(owner, name, make)

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        if (owner, name) in self._replaced:
            return
        self._replaced.add((owner, name))
        original = getattr(owner, name)
        self._patches.replace(owner, name, make)
        ours = getattr(owner, name)
        if ours is original:  # a mock, which would note that it is looked for
            return
        self._makers[id(original)] = make
        for supporting in _SUPPORTING:
            if original in supporting:
                supporting.add(ours)
                self._supported.append((supporting, ours))


class _Aliases:
    """Where modules have bound a function of another one to a name of their own.

    Such as aiofiles, bz2 and tarfile, which have bound `open`. A module is looked into once, for
    there are thousands of them.
    """

    def __init__(self, functions: Iterable[object]) -> None:
        self._functions = {id(each): each for each in functions}
        self._looked_into: weakref.WeakSet[ModuleType] = weakref.WeakSet()
        self._found: list[tuple[weakref.ref[ModuleType], str]] = []

    def all(self) -> Iterator[tuple[ModuleType, str, object]]:
        """Each module that has a function, the name of it there, and the function.

        Not the interpreter's own, whose functions they are, nor ours.
        """
        for name, module in [*sys.modules.items()]:
            is_module = issubclass(type(module), ModuleType)  # some only say that they are one
            if is_module and module not in self._looked_into:
                self._looked_into.add(module)
                if name not in _NOT_THEIRS and name.partition(".")[0] != _OURS:
                    self._look_into(module)
        for reference, name in self._found:
            owner = reference()
            if owner is not None and id(found := vars(owner).get(name)) in self._functions:
                yield owner, name, found

    def _look_into(self, module: ModuleType) -> None:
        names = vars(module)
        if self._functions.keys().isdisjoint(map(id, [*names.values()])):
            return
        for name, value in [*names.items()]:
            if id(value) in self._functions:
                self._found.append((weakref.ref(module), name))


def _replaceable(functions: FileFunctions) -> list[object]:
    """What may be replaced, of which other modules may have names of their own."""
    names = [name for _, names, _ in _replacements(functions) for name in names]
    return [open, *(getattr(os, name) for name in names if hasattr(os, name))]


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
        (frozenset({SYNC}), ("fsync", "fdatasync"), functions.by_descriptor(SYNC)),
        (frozenset({MAKE}), ("mkdir",), functions.make_folder),
        (always, ("rename", "replace"), functions.rename),
        (always, ("link",), functions.link("dst_dir_fd")),
        (always, ("symlink",), functions.link("dir_fd")),
        (always, ("unlink", "remove", "rmdir"), functions.remove),
        (always, ("chdir", "fchdir"), functions.change_folder),
    )

"""The disk interceptor: `open`, the functions of `os` about files, and `fcntl`, which locks them.

pathlib, shutil, tempfile, json, csv, logging, zipfile and what else is written in Python end
in these, and so do modules that have bound one before (`from os import replace`). A file is
reached if it is opened while an experiment is aimed at it, or through `os` whenever it was opened.
Out of reach are `io.FileIO` called by its name, functions that are kept elsewhere than under a name
of a module, libraries that write in C (sqlite3, pyarrow), and other processes. Descriptors are
known by name where there is /proc.

What concerns no experiment is passed on, and what fails fails before the function is called. What
is never hit is listed in `targeted_faults`.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import io
import os
import sys
import weakref

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import LOCK_FILE
from pytest_resilience.chaos.operation import MAKE
from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import REMOVE
from pytest_resilience.chaos.operation import RENAME
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import SYNC
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.types.files import FILE_KINDS
from pytest_resilience.chaos.types.files import OPENING_KINDS
from pytest_resilience.interceptors.files.file_objects import TornWrites
from pytest_resilience.interceptors.files.file_objects import as_bytes
from pytest_resilience.interceptors.files.file_objects import make_stream
from pytest_resilience.interceptors.files.file_objects import opening_kind
from pytest_resilience.interceptors.files.targeted_faults import FileTargets
from pytest_resilience.interceptors.files.targeted_faults import Names
from pytest_resilience.patching import Patches


__all__ = ["FileInterceptor"]

_OURS = __name__.partition(".")[0]
# The last reads the sources that tracebacks show, which is nobody's operation.
_NOT_THEIRS = frozenset({*sys.builtin_module_names, "tokenize"})

# Where `os` tells which functions take what: shutil.rmtree relies on it.
_SUPPORTING = (
    os.supports_dir_fd, os.supports_effective_ids, os.supports_fd, os.supports_follow_symlinks
)  # fmt: skip
Call = Callable[..., Any]
Done = tuple[Any, ...]  # an operation's kind, and the names of what it is done on


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
            self._functions = _FileFunctions(self._files)
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

    def _replace_locks(self, functions: _FileFunctions) -> None:
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


def _replaceable(functions: _FileFunctions) -> list[object]:
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
    functions: _FileFunctions,
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


class _FileFunctions:
    """Makes what stands in the place of each function: given the function that was found."""

    def __init__(self, files: FileTargets) -> None:
        self._files = files
        # By descriptor, with the name it had: numbers are given to other files later.
        self._torn: dict[int, tuple[str, TornWrites]] = {}

    def open(self, original: Call) -> Call:
        """Of `builtins.open`, which is `io.open`."""
        files = self._files

        @functools.wraps(original)
        def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            # A path that is remembered as untargeted costs this look, and nothing else.
            if isinstance(file, str) or hasattr(file, "__fspath__"):
                file = os.fspath(file)
                if file in files.untargeted and not kwargs.get("opener"):
                    return original(file, *args, **kwargs)
            return make_stream(files, original, file, *args, **kwargs)

        return opened

    def open_descriptor(self, original: Call) -> Call:
        """Of `os.open`."""

        @functools.wraps(original)
        def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            folder = kwargs.get("dir_fd")
            names, is_absent = self._files.look_at(path, folder)
            if names:
                kind = opening_kind(path, flags, folder, is_absent=is_absent)
                self._files.apply(kind, names, path)
            descriptor = original(path, flags, *args, **kwargs)
            if flags & (os.O_CREAT | os.O_TRUNC):
                self._files.done(CREATE, names)
            # The number may be that of a file which was torn and closed since.
            self._torn.pop(descriptor, None)
            return descriptor

        return opened

    def write(self, original: Call) -> Call:
        """Of `os.write` and `os.pwrite`."""

        @functools.wraps(original)
        def write(fd: Any, data: Any, *offset: Any) -> Any:
            __tracebackhide__ = True
            names = self._files.names_of(fd)
            view = None if names is None else as_bytes(data)
            if names is None or view is None:
                return original(fd, data, *offset)
            written = original(fd, view[: self._accepted(fd, names, view.nbytes)], *offset)
            self._files.done(WRITE, names)
            return written

        return write

    def write_several(self, original: Call) -> Call:
        """Of `os.writev` and `os.pwritev`."""

        @functools.wraps(original)
        def write(fd: Any, buffers: Sequence[Any], *more: Any) -> Any:
            __tracebackhide__ = True
            names = self._files.names_of(fd)
            views = [] if names is None else [as_bytes(each) for each in buffers]
            if names is None or None in views:
                return original(fd, buffers, *more)
            data = b"".join(filter(None, views))
            accepted = self._accepted(fd, names, len(data))
            # Joined only where a part of it is written: the end may lie within a buffer.
            written = original(fd, buffers if accepted == len(data) else [data[:accepted]], *more)
            self._files.done(WRITE, names)
            return written

        return write

    def send(self, original: Call) -> Call:
        """Of `os.sendfile`, as `shutil` copies."""

        @functools.wraps(original)
        def send(out_fd: Any, in_fd: Any, offset: Any, count: int, *args: Any, **more: Any) -> Any:
            __tracebackhide__ = True
            names = self._files.names_of(out_fd)
            if names is not None:
                count = self._accepted(out_fd, names, _available(in_fd, offset, count))
            sent = original(out_fd, in_fd, offset, count, *args, **more)
            self._files.done(WRITE, names)
            return sent

        return send

    def copy(self, original: Call) -> Call:
        """Of `os.copy_file_range`."""

        @functools.wraps(original)
        def copy(
            src: Any, dst: Any, count: int, offset_src: Any = None, offset_dst: Any = None
        ) -> Any:
            __tracebackhide__ = True
            names = self._files.names_of(dst)
            if names is not None:
                count = self._accepted(dst, names, _available(src, offset_src, count))
            copied = original(src, dst, count, offset_src, offset_dst)
            self._files.done(WRITE, names)
            return copied

        return copy

    def _accepted(self, fd: Any, names: Names, size: int) -> int:
        """How many bytes of a write reach the file; raises where that is none."""
        __tracebackhide__ = True
        if not size:
            return size
        name, torn = self._torn.get(fd, ("", None))
        if name != names[0] or torn is None:
            torn = TornWrites()
            self._torn[fd] = (names[0], torn)
        return torn.accepted(self._files, names, size)

    def by_descriptor(self, kind: str) -> Callable[[Call], Call]:
        """Of what is given a descriptor, and whose errors name no file."""

        def before(fd: Any, *_: Any, **__: Any) -> Done:
            __tracebackhide__ = True
            names = self._files.names_of(fd)
            if names:
                self._files.apply(kind, names)
            return (kind, names)

        return self._preceded(before)

    def lock(self, at_once: int, unlock: int) -> Callable[[Call], Call]:
        """Of `fcntl.flock` and `fcntl.lockf`, as they are told to lock `at_once`, or not at all."""

        def before(fd: Any, operation: Any, *_: Any, **__: Any) -> Done | None:
            __tracebackhide__ = True
            asks = isinstance(operation, int) and operation & at_once and not operation & unlock
            names = self._files.names_of(fd) if asks else None
            if names:
                self._files.apply(LOCK_FILE, names)
            return None

        return self._preceded(before)

    def truncate(self, original: Call) -> Call:
        """Of `os.truncate`."""

        def before(path: Any, _length: int) -> Done:
            __tracebackhide__ = True
            names = self._files.names_at(path)
            if names:
                self._files.apply(RESIZE, names, *(() if isinstance(path, int) else (path,)))
            return (RESIZE, names)

        return self._preceded(before)(original)

    def make_folder(self, original: Call) -> Call:
        """Of `os.mkdir`."""

        def before(path: Any, *_: Any, dir_fd: int | None = None, **__: Any) -> Done:
            __tracebackhide__ = True
            names = self._files.names_at(path, dir_fd)
            if names and not _exists(path, dir_fd):
                self._files.apply(MAKE, names, path)
            return (MAKE, names)

        return self._preceded(before)(original)

    def rename(self, original: Call) -> Call:
        """Of `os.rename` and `os.replace`."""

        def before(
            src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
        ) -> Done:
            __tracebackhide__ = True
            # The new name first: it is the one shown, and the one that people aim at.
            there = self._files.names_at(dst, dst_dir_fd)
            here = self._files.names_at(src, src_dir_fd)
            if (there or here) and _exists(src, src_dir_fd):
                self._files.apply(RENAME, (*(there or ()), *(here or ())), src, dst)
            return (RENAME, here, there)

        return self._preceded(before, changes_paths=True)(original)

    def link(self, folder: str) -> Callable[[Call], Call]:
        """Of `os.link` and `os.symlink`; `folder` is what they call that of the new name."""

        def before(src: Any, dst: Any, *_: Any, **given: Any) -> Done:
            __tracebackhide__ = True
            names = self._files.names_at(dst, given.get(folder))
            if names and not _exists(dst, given.get(folder)):
                self._files.apply(MAKE, names, src, dst)
            return (MAKE, names)

        return self._preceded(before, changes_paths=True)

    def remove(self, original: Call) -> Call:
        """Of `os.unlink`, `os.remove` and `os.rmdir`."""

        def before(path: Any, *, dir_fd: int | None = None) -> Done:
            __tracebackhide__ = True
            names = self._files.names_at(path, dir_fd)
            if names and _exists(path, dir_fd):
                self._files.apply(REMOVE, names, path)
            return (REMOVE, names)

        return self._preceded(before, changes_paths=True)(original)

    def change_folder(self, original: Call) -> Call:
        """Of `os.chdir` and `os.fchdir`, after which a relative path is another one."""
        return self._preceded(lambda *_, **__: None, changes_paths=True)(original)

    def _preceded(
        self, before: Callable[..., Done | None], *, changes_paths: bool = False
    ) -> Callable[[Call], Call]:
        """Makes a function that calls `before`, and says what it returned when all is done.

        `changes_paths`: afterwards, or after its error, a path may lead elsewhere.
        """

        def make(original: Call) -> Call:
            @functools.wraps(original)
            def call(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                done = before(*args, **kwargs) if self._files.may_concern() else None
                try:
                    result = original(*args, **kwargs)
                finally:
                    if changes_paths:
                        self._files.forget()
                if done is not None:
                    self._files.done(*done)
                return result

            return call

        return make


def _available(source: Any, offset: Any, count: int) -> int:
    """How much of a copy there is to write: nothing is written at the end of the source."""
    try:
        begin = os.lseek(source, 0, os.SEEK_CUR) if offset is None else offset
        return int(max(0, min(count, os.fstat(source).st_size - begin)))
    except (OSError, TypeError):  # a pipe; or the function itself will say so
        return count


def _exists(path: Any, folder: int | None) -> bool:
    """False of what is not there; that is no disk's fault, nor is what is there already."""
    try:
        os.stat(path, dir_fd=folder, follow_symlinks=False)
    except (OSError, TypeError, ValueError):
        return False
    return True

"""The functions of `os` and `fcntl` about files, as they are while an experiment is aimed at some.

What concerns no experiment is passed on, and what fails fails before the function is called.
"""

from __future__ import annotations

import functools
import os

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import LOCK_FILE
from pytest_resilience.chaos.operation import MAKE
from pytest_resilience.chaos.operation import REMOVE
from pytest_resilience.chaos.operation import RENAME
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.interceptors.files.file_objects import TornWrites
from pytest_resilience.interceptors.files.file_objects import as_bytes
from pytest_resilience.interceptors.files.file_objects import make_stream
from pytest_resilience.interceptors.files.file_objects import opening_kind
from pytest_resilience.interceptors.files.matching import FileTargets
from pytest_resilience.interceptors.files.matching import Names


__all__ = ["FileFunctions"]

Call = Callable[..., Any]
Done = tuple[Any, ...]  # an operation's kind, and the names of what it is done on


class FileFunctions:
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

"""The functions of `os` about files, as they are while an experiment is aimed at some.

Each maker takes the function that was found and returns what stands in its place: it passes
on what concerns nobody, and what fails fails before the function is called.
"""

from __future__ import annotations

import functools
import os

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from pytest_resilience.chaos.operation import MAKE
from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import REMOVE
from pytest_resilience.chaos.operation import RENAME
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import SYNC
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.interceptors.files.file_objects import Tear
from pytest_resilience.interceptors.files.file_objects import as_bytes
from pytest_resilience.interceptors.files.file_objects import make_stream
from pytest_resilience.interceptors.files.file_objects import opening_kind
from pytest_resilience.interceptors.files.matching import AimedFiles


__all__ = ["FileCalls"]

Call = Callable[..., Any]


class FileCalls:
    """Makes the functions that ask about the files they are given."""

    def __init__(self, files: AimedFiles) -> None:
        self._files = files
        # By descriptor, with the name it had: numbers are given to other files later.
        self._tears: dict[int, tuple[str, Tear]] = {}

    def open(self, original: Call) -> Call:
        """Of `builtins.open`, which is `io.open`."""
        files = self._files

        @functools.wraps(original)
        def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            # A path that is remembered as nobody's concern costs a look, and nothing else.
            if isinstance(file, str) or hasattr(file, "__fspath__"):
                path = os.fspath(file)
                if files.verdicts.get(path) is False and not kwargs.get("opener"):
                    return original(path, *args, **kwargs)
            return make_stream(files, original, file, *args, **kwargs)

        return opened

    def open_descriptor(self, original: Call) -> Call:
        """Of `os.open`."""

        @functools.wraps(original)
        def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            folder = kwargs.get("dir_fd")
            names = self._files.at(path, folder)
            if names:
                self._files.ask(opening_kind(path, flags, folder), names, path)
            descriptor = original(path, flags, *args, **kwargs)
            self._tears.pop(descriptor, None)
            return descriptor

        return opened

    def write(self, original: Call) -> Call:
        """Of `os.write` and `os.pwrite`."""

        @functools.wraps(original)
        def write(fd: Any, data: Any, *offset: Any) -> Any:
            __tracebackhide__ = True
            view = None if self._files.open_as(fd) is None else as_bytes(data)
            if view is None:
                return original(fd, data, *offset)
            return original(fd, view[: self._taken(fd, view.nbytes)], *offset)

        return write

    def write_several(self, original: Call) -> Call:
        """Of `os.writev` and `os.pwritev`."""

        @functools.wraps(original)
        def write(fd: Any, buffers: Sequence[Any], *more: Any) -> Any:
            __tracebackhide__ = True
            if self._files.open_as(fd) is None:
                return original(fd, buffers, *more)
            views = [as_bytes(each) for each in buffers]
            if None in views:
                return original(fd, buffers, *more)
            data = b"".join(filter(None, views))
            taken = self._taken(fd, len(data))
            return original(fd, buffers if taken == len(data) else [data[:taken]], *more)

        return write

    def send(self, original: Call) -> Call:
        """Of `os.sendfile`, as `shutil` copies."""

        @functools.wraps(original)
        def send(out_fd: Any, in_fd: Any, offset: Any, count: int, *args: Any, **more: Any) -> Any:
            __tracebackhide__ = True
            if self._files.open_as(out_fd) is not None:
                count = self._taken(out_fd, _available(in_fd, offset, count))
            return original(out_fd, in_fd, offset, count, *args, **more)

        return send

    def copy(self, original: Call) -> Call:
        """Of `os.copy_file_range`."""

        @functools.wraps(original)
        def copy(
            src: Any, dst: Any, count: int, offset_src: Any = None, offset_dst: Any = None
        ) -> Any:
            __tracebackhide__ = True
            if self._files.open_as(dst) is not None:
                count = self._taken(dst, _available(src, offset_src, count))
            return original(src, dst, count, offset_src, offset_dst)

        return copy

    def _taken(self, fd: Any, size: int) -> int:
        """How much of a write reaches the file; raises where that is none."""
        __tracebackhide__ = True
        names = self._files.open_as(fd) if size else None
        if names is None:
            return size
        name, tear = self._tears.get(fd, ("", None))
        if name != names[0] or tear is None:
            tear = Tear()
            self._tears[fd] = (names[0], tear)
        tear.check()
        return tear.taken(self._files.ask(WRITE, names), size)

    def by_descriptor(self, kind: str) -> Callable[[Call], Call]:
        """Of functions whose first argument is a descriptor, and whose errors name no file."""

        def make(original: Call) -> Call:
            @functools.wraps(original)
            def call(fd: Any, *args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                names = self._files.open_as(fd)
                if names:
                    self._files.ask(kind, names)
                return original(fd, *args, **kwargs)

            return call

        return make

    def truncate(self, original: Call) -> Call:
        """Of `os.truncate`."""

        @functools.wraps(original)
        def truncate(path: Any, length: int) -> None:
            __tracebackhide__ = True
            names = self._files.at(path)
            if names:
                self._files.ask(RESIZE, names, *(() if isinstance(path, int) else (path,)))
            original(path, length)

        return truncate

    def rename(self, original: Call) -> Call:
        """Of `os.rename` and `os.replace`."""

        @functools.wraps(original)
        def rename(src: Any, dst: Any, **folders: Any) -> None:
            __tracebackhide__ = True
            there = self._files.at(dst, folders.get("dst_dir_fd"))
            here = self._files.at(src, folders.get("src_dir_fd"))
            if (there or here) and _exists(src, folders.get("src_dir_fd")):
                self._files.ask(RENAME, (*(there or ()), *(here or ())), src, dst)
            try:
                original(src, dst, **folders)
            finally:
                self._files.forget()

        return rename

    def make_folder(self, original: Call) -> Call:
        """Of `os.mkdir`."""

        @functools.wraps(original)
        def make(path: Any, *args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            folder = kwargs.get("dir_fd")
            names = self._files.at(path, folder)
            if names and not _exists(path, folder):
                self._files.ask(MAKE, names, path)
            original(path, *args, **kwargs)

        return make

    def link(self, folder: str) -> Callable[[Call], Call]:
        """Of `os.link` and `os.symlink`; `folder` is what they call that of the new name."""

        def make(original: Call) -> Call:
            @functools.wraps(original)
            def link(src: Any, dst: Any, *args: Any, **kwargs: Any) -> None:
                __tracebackhide__ = True
                names = self._files.at(dst, kwargs.get(folder))
                if names and not _exists(dst, kwargs.get(folder)):
                    self._files.ask(MAKE, names, src, dst)
                try:
                    original(src, dst, *args, **kwargs)
                finally:
                    self._files.forget()

            return link

        return make

    def remove(self, original: Call) -> Call:
        """Of `os.unlink`, `os.remove` and `os.rmdir`."""

        @functools.wraps(original)
        def remove(path: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            folder = kwargs.get("dir_fd")
            names = self._files.at(path, folder)
            if names and _exists(path, folder):
                self._files.ask(REMOVE, names, path)
            try:
                original(path, **kwargs)
            finally:
                self._files.forget()

        return remove

    def go(self, original: Call) -> Call:
        """Of `os.chdir` and `os.fchdir`, after which a relative path is another one."""

        @functools.wraps(original)
        def go(*args: Any, **kwargs: Any) -> None:
            try:
                original(*args, **kwargs)
            finally:
                self._files.forget()

        return go

    def read(self, original: Call) -> Call:
        """Of `os.read` and its kin."""
        return self.by_descriptor(READ)(original)

    def sync(self, original: Call) -> Call:
        """Of `os.fsync` and `os.fdatasync`."""
        return self.by_descriptor(SYNC)(original)

    def resize(self, original: Call) -> Call:
        """Of `os.ftruncate` and `os.posix_fallocate`."""
        return self.by_descriptor(RESIZE)(original)


def _available(source: Any, offset: Any, count: int) -> int:
    """How much of a copy there is to write: nothing is written at the end of the source."""
    try:
        begin = os.lseek(source, 0, os.SEEK_CUR) if offset is None else offset
        return int(max(0, min(count, os.fstat(source).st_size - begin)))
    except (OSError, TypeError):  # a pipe; or the function itself will say so
        return count


def _exists(path: Any, folder: int | None) -> bool:
    """Whether there is anything; what is not there, or is already, is no disk's fault."""
    try:
        os.stat(path, dir_fd=folder, follow_symlinks=False)
    except (OSError, TypeError, ValueError):
        return False
    return True

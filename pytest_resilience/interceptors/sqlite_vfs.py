"""A VFS of SQLite that tells what the default one has written and synced.

SQLite writes in C, but through a VFS, the layer that it has for that (https://sqlite.org/vfs.html).
Ours is the default one, but for the functions that change something: they call what they stand for,
and then tell. It becomes the default VFS, so connections that are opened from now on have it. A
file has it for as long as it is open, so what was made for one stays.

Of the synced folders nothing is told to a VFS: the one of Unix syncs the folder of a new journal or
WAL when that is first synced, and that of a file that is deleted where it is asked to (os_unix.c,
`unixSync` and `unixDelete`). That is what is recorded. Not seen are writes of connections that were
open before, and of SQLite's own libraries elsewhere (a second copy of it, as apsw brings along).
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import Final
from typing import Protocol

from pytest_resilience.errors import UnavailableError


__all__ = ["SqliteTrace", "tracing_sqlite"]

_OK: Final = 0
_CREATE: Final = 0x4
_JOURNALS: Final = 0x800 | 0x4000 | 0x80000  # main, super, WAL
_VERSION: Final = 3  # of the structures, since SQLite 3.7.17
_NAME: Final = b"pytest-resilience"


class SqliteTrace(Protocol):
    """Told of what is done to files below a folder; see `crash_recorder`."""

    def covers(self, path: str) -> bool: ...

    def made(self, path: str) -> None: ...

    def wrote(self, path: str, offset: int, data: bytes) -> None: ...

    def resized(self, path: str, size: int) -> None: ...

    def synced(self, path: str) -> None: ...

    def done(self, kind: str, *paths: str) -> None: ...


_FILE, _INT, _WHOLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_Open = ctypes.CFUNCTYPE(_INT, ctypes.c_void_p, ctypes.c_void_p, _FILE, _INT, ctypes.POINTER(_INT))
_Delete = ctypes.CFUNCTYPE(_INT, ctypes.c_void_p, ctypes.c_char_p, _INT)
_Close = ctypes.CFUNCTYPE(_INT, _FILE)
_Write = ctypes.CFUNCTYPE(_INT, _FILE, ctypes.c_void_p, _INT, _WHOLE)
_Truncate = ctypes.CFUNCTYPE(_INT, _FILE, _WHOLE)
_Sync = ctypes.CFUNCTYPE(_INT, _FILE, _INT)


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`."""

    _fields_ = (
        ("version", _INT), ("file_size", _INT), ("longest_path", _INT), ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("open", _Open), ("delete", _Delete),
        ("others", ctypes.c_void_p * 14),
    )  # fmt: skip


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`, what can be done with an open file."""

    _fields_ = (
        ("version", _INT), ("close", _Close), ("read", ctypes.c_void_p), ("write", _Write),
        ("truncate", _Truncate), ("sync", _Sync), ("others", ctypes.c_void_p * 13),
    )  # fmt: skip


# Called by SQLite for as long as files are open, so never given up.
_kept: list[Any] = []
_tracing: list[SqliteTrace] = []  # by whom; the latest last


@contextlib.contextmanager
def tracing_sqlite(trace: SqliteTrace) -> Iterator[None]:
    """Tell `trace` of the files of connections that are opened in the block, as long as it lasts.

    Raises UnavailableError where sqlite3 does not show the functions of SQLite.
    """
    library = _library()
    default = library.sqlite3_vfs_find(None)
    if not default or _Vfs.from_address(default).version < _VERSION:
        raise UnavailableError("crash states: SQLite's default VFS is an older one")
    outermost = not _tracing
    ours = _tracer_of(default) if outermost else None
    _tracing.append(trace)
    try:
        if ours is not None:
            library.sqlite3_vfs_register(ctypes.byref(ours), 1)
        yield
    finally:
        _tracing.remove(trace)
        if ours is not None:
            library.sqlite3_vfs_unregister(ctypes.byref(ours))
            library.sqlite3_vfs_register(ctypes.c_void_p(default), 1)


def _library() -> Any:
    import _sqlite3

    try:
        # Its symbols are those of the SQLite that it is linked with.
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = ctypes.c_void_p
        library.sqlite3_vfs_find.argtypes = (ctypes.c_char_p,)
        library.sqlite3_vfs_register.argtypes = (ctypes.c_void_p, _INT)
    except (AttributeError, OSError, TypeError) as error:
        raise UnavailableError(f"crash states: sqlite3 hides SQLite's VFS: {error}") from error
    return library


def _tracer_of(default: int) -> _Vfs:
    """A VFS that does what the default one does, and tells."""
    original = _Vfs.from_address(default)
    ours = _Vfs()
    ctypes.memmove(ctypes.byref(ours), default, ctypes.sizeof(_Vfs))
    ours.name = _NAME
    files = _Files()

    def open_(_: Any, name: Any, file: Any, flags: int, out: Any) -> int:
        code: int = original.open(default, name, file, flags, out)
        if code == _OK and name:
            _guarded(files.opened, file, ctypes.string_at(name), flags)
        return code

    def delete(_: Any, name: bytes, sync: int) -> int:
        code: int = original.delete(default, name, sync)
        if code == _OK:
            _guarded(_deleted, os.fsdecode(name), sync)
        return code

    ours.open, ours.delete = _Open(open_), _Delete(delete)
    _kept.append(ours)
    return ours


class _Files:
    """The open files, by their addresses."""

    def __init__(self) -> None:
        self._methods: dict[int, _Methods] = {}  # made of the original ones, by their address
        self._paths: dict[int, str] = {}
        self._new_journals: set[int] = set()

    def opened(self, file: int, name: bytes, flags: int) -> None:
        path = os.path.realpath(os.fsdecode(name))
        if not any(each.covers(path) for each in _tracing):
            return
        methods = ctypes.c_void_p.from_address(file)
        if not methods.value or _Methods.from_address(methods.value).version < _VERSION:
            return  # what is not seen is told later
        self._paths[file] = path
        if flags & _CREATE and flags & _JOURNALS:
            self._new_journals.add(file)
        if methods.value not in self._methods:
            self._methods[methods.value] = self._tracing(methods.value)
        methods.value = ctypes.addressof(self._methods[methods.value])
        _tell(path, lambda trace: trace.made(path))

    def _tracing(self, address: int) -> _Methods:
        original = _Methods.from_address(address)
        ours = _Methods()
        ctypes.memmove(ctypes.byref(ours), address, ctypes.sizeof(_Methods))

        def close(file: Any) -> int:
            self._paths.pop(file, None)
            self._new_journals.discard(file)
            return int(original.close(file))

        def write(file: Any, data: Any, size: int, offset: int) -> int:
            code: int = original.write(file, data, size, offset)
            if code == _OK:
                _guarded(self._wrote, file, offset, ctypes.string_at(data, size))
            return code

        def truncate(file: Any, size: int) -> int:
            code: int = original.truncate(file, size)
            if code == _OK:
                _guarded(self._cut, file, size)
            return code

        def sync(file: Any, flags: int) -> int:
            code: int = original.sync(file, flags)
            if code == _OK:
                _guarded(self._synced, file)
            return code

        ours.close, ours.write = _Close(close), _Write(write)
        ours.truncate, ours.sync = _Truncate(truncate), _Sync(sync)
        _kept.append(ours)
        return ours

    def _wrote(self, file: int, offset: int, data: bytes) -> None:
        path = self._paths.get(file, "")
        _tell(path, lambda trace: trace.wrote(path, offset, data))

    def _cut(self, file: int, size: int) -> None:
        path = self._paths.get(file, "")
        _tell(path, lambda trace: trace.resized(path, size))

    def _synced(self, file: int) -> None:
        path = self._paths.get(file, "")
        _tell(path, lambda trace: trace.synced(path))
        if file in self._new_journals:
            self._new_journals.discard(file)
            _tell(path, lambda trace: trace.synced(os.path.dirname(path)))


def _deleted(name: str, sync: int) -> None:
    path = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
    _tell(path, lambda trace: trace.done("file.remove", path))
    if sync:
        _tell(path, lambda trace: trace.synced(os.path.dirname(path)))


def _tell(path: str, how: Callable[[SqliteTrace], None]) -> None:
    for trace in _tracing:
        if path and trace.covers(path):
            how(trace)


def _guarded(call: Callable[..., None], *args: Any) -> None:
    """Nothing may be raised into C: a recording that lacks something is refused later."""
    with contextlib.suppress(Exception):
        call(*args)

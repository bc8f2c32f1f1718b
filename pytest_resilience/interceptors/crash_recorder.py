"""Records what is done with the files below a folder, and puts there what a crash may leave.

Files written in Python are seen by `interceptors.files`, and looked at after each operation; those
of SQLite by a VFS of ours. What else writes there, in C or in another process, is not seen: a
recording that does not end with what is in the folder raises UnavailableError.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import threading

from collections.abc import Generator
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_resilience.chaos.crash_states import Acknowledged
from pytest_resilience.chaos.crash_states import CrashModel
from pytest_resilience.chaos.crash_states import CrashState
from pytest_resilience.chaos.crash_states import Disk
from pytest_resilience.chaos.crash_states import Effect
from pytest_resilience.chaos.crash_states import EntryMade
from pytest_resilience.chaos.crash_states import EntryRemoved
from pytest_resilience.chaos.crash_states import Renamed
from pytest_resilience.chaos.crash_states import Resized
from pytest_resilience.chaos.crash_states import Step
from pytest_resilience.chaos.crash_states import Synced
from pytest_resilience.chaos.crash_states import crash_states
from pytest_resilience.chaos.crash_states import written
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import MAKE
from pytest_resilience.chaos.operation import OPEN_TO_WRITE
from pytest_resilience.chaos.operation import REMOVE
from pytest_resilience.chaos.operation import RENAME
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import SYNC
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.errors import UnavailableError
from pytest_resilience.interceptors.sqlite_vfs import tracing_sqlite
from pytest_resilience.locks import fork_safe


__all__ = ["CrashRecording", "awaiting_crashes", "recording_crashes"]

_TRACED: Final = frozenset({CREATE, MAKE, OPEN_TO_WRITE, REMOVE, RENAME, RESIZE, SYNC, WRITE})
_PIECE: Final = 4096  # bytes compared at once
_NOT_DURABLE: Final = "-shm"  # of SQLite, which makes it anew after a crash


class CrashRecording:
    """What was done with the files below a folder.

    Attributes:
        folder: its path, with all links resolved.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """What is in the folder now has been there for long, and survives."""
        self.folder = os.path.realpath(folder)
        self.kinds = _TRACED
        self._steps: list[Step] = []
        self._nodes: dict[tuple[int, int], int] = {}  # by device and number
        self._databases: set[str] = set()
        self._unseen: set[str] = set()  # what was moved here, though nobody saw how it was made
        self._lock = fork_safe(self, "_lock", threading.RLock)
        self._disk = Disk()
        self._look_below("")
        self._before = self._disk
        self._steps.clear()

    @property
    def steps(self) -> int:
        """How many steps were recorded so far."""
        return len(self._steps)

    @property
    def before(self) -> Disk:
        """What the folder held when the recording began."""
        return self._before

    def acknowledge(self, told: object) -> None:
        """Somebody relies on what was done so far: states of later crashes are told of it."""
        with self._lock:
            self._steps.append(Acknowledged(told))

    def states(
        self, model: CrashModel | str = CrashModel.POSIX
    ) -> Generator[CrashState, None, None]:
        """Each state that a crash may leave, while the folder holds it.

        Whatever has the files open should have closed them. When it is over, the folder holds what
        it held before. Raises UnavailableError where not all that was written was seen.
        """
        self._check()
        after = self._disk
        try:
            for state in crash_states(self._before, tuple(self._steps), CrashModel(model)):
                self._put(state.disk)
                yield state
        finally:
            self._put(after)

    # What `chaos.engine.FileTrace` asks for.

    def covers(self, path: str) -> bool:
        return path.startswith(self.folder + os.sep) or path == self.folder

    def done(self, kind: str, *paths: str) -> None:
        with self._lock:
            if kind == RENAME:
                self._renamed(*map(self._inside, paths))
            for path in paths:
                if self.covers(path) and not self._is_ignored(path):
                    self._look(self._inside(path))
                    if kind == SYNC:
                        self.synced(path)

    # What the VFS of SQLite tells: to open a database once more would take its locks away.

    def made(self, path: str) -> None:
        """SQLite has opened a file."""
        with self._lock:
            self._databases.add(self._inside(path))
            if self._inside(path) not in self._disk.entries:
                self._look(self._inside(path))

    def wrote(self, path: str, offset: int, data: bytes) -> None:
        """SQLite has written."""
        with self._lock:
            node = self._disk.entries.get(self._inside(path))
            if node is not None:
                size = self._disk.sizes.get(node, 0)
                self._add(*written(node, self._inside(path), offset, data, size))

    def resized(self, path: str, size: int) -> None:
        """SQLite has cut a file off."""
        with self._lock:
            node = self._disk.entries.get(self._inside(path))
            if node is not None and self._disk.sizes.get(node, 0) != size:
                self._add(Resized(node, size, self._disk.sizes.get(node, 0), self._inside(path)))

    def synced(self, path: str) -> None:
        """A file or a folder was synced."""
        with self._lock:
            name = self._inside(path)
            if not name or name in self._disk.entries:
                self._steps.append(Synced(name, self._disk.entries.get(name)))

    def _inside(self, path: str) -> str:
        """Below the folder; '' for itself. What is elsewhere keeps its name."""
        return os.path.relpath(path, self.folder) if path != self.folder else ""

    def _is_ignored(self, path: str) -> bool:
        return path.endswith(_NOT_DURABLE)

    def _add(self, *effects: Effect) -> None:
        self._steps += effects
        self._disk = self._disk.after(effects)

    def _renamed(self, *names: str) -> None:
        """Of the old name and the new one those that are below the folder."""
        *_, new = names
        if new.startswith(os.pardir):
            return
        if names[0] in self._disk.entries and len(names) > 1:
            node = self._disk.entries[names[0]]
            replaces = self._disk.entries.get(new) is not None
            self._add(Renamed(names[0], new, node, replaces))
        elif os.path.lexists(os.path.join(self.folder, new)):
            self._unseen.add(new)  # what it holds was written, and maybe synced, out of sight

    def _look_below(self, name: str) -> None:
        for entry in sorted(os.listdir(os.path.join(self.folder, name))):
            found = f"{name}/{entry}" if name else entry
            if not self._is_ignored(found):
                self._look(found)
                if found in self._disk.entries and self._disk.entries[found] is None:
                    self._look_below(found)

    def _look(self, name: str) -> None:
        """Add what has changed of one entry, and of the file that it leads to."""
        path = os.path.join(self.folder, name)
        try:
            found = os.lstat(path)
        except OSError:
            if name in self._disk.entries:
                self._add(EntryRemoved(name))
            return
        if not name:
            return
        if stat.S_ISDIR(found.st_mode):
            if name not in self._disk.entries:
                self._add(EntryMade(name, None))
        elif stat.S_ISREG(found.st_mode):
            node = self._node(name, found)
            if name not in self._disk.entries:
                self._add(EntryMade(name, node))
            if name not in self._databases:
                self._add(*_changes(node, name, self._disk.content(node), _read(path)))

    def _node(self, name: str, found: os.stat_result) -> int:
        """Which file it is. A number is given again when no entry has it any more."""
        key = (found.st_dev, found.st_ino)
        node = self._nodes.get(key)
        known = self._disk.entries.get(name)
        if node is None or node not in self._disk.entries.values():
            node = self._nodes[key] = len(self._disk.sizes) + 1
            self._disk = Disk(
                entries=self._disk.entries,
                sizes={**self._disk.sizes, node: 0},
                data=self._disk.data,
            )
        if known is not None and known != node:
            self._add(EntryRemoved(name))
        return node

    def _check(self) -> None:
        """Raise UnavailableError where the folder does not hold what was recorded."""
        there = {
            os.path.relpath(os.path.join(at, name), self.folder)
            for at, _, names in os.walk(self.folder)
            for name in names
            if not self._is_ignored(name)
        }
        files = self._disk.files
        strange = sorted(
            name
            for name in there | files.keys() | self._unseen
            if name in self._unseen
            or (_read(os.path.join(self.folder, name)) if name in there else None)
            != files.get(name)
        )
        if strange:
            raise UnavailableError(
                f"crash states of {self.folder}: {', '.join(strange)} changed unseen; let Python "
                "or sqlite3 of this process write all files, and open them while it is recorded"
            )

    def _put(self, disk: Disk) -> None:
        """Let the folder hold this, and nothing else."""
        for entry in os.scandir(self.folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        for name in disk.folders:
            Path(self.folder, name).mkdir()
        for name, content in disk.files.items():
            Path(self.folder, name).write_bytes(content)


def _read(path: str) -> bytes:
    if os.path.islink(path):
        raise UnavailableError(
            f"crash states: {path} is a symbolic link, which is not recorded; write a file there, "
            "or record another folder"
        )
    with io.FileIO(path) as file:  # not by `open`, which is recorded
        return file.readall()


def _changes(node: int, name: str, old: bytes, new: bytes) -> Iterator[Effect]:
    """From the old content of a file to the new one."""
    if len(new) < len(old):
        yield Resized(node, len(new), len(old), name)
        old = old[: len(new)]
    begin, end = _differing(old, new)
    if begin < end:
        yield from written(node, name, begin, new[begin:end], len(old))


def _differing(old: bytes, new: bytes) -> tuple[int, int]:
    """From where to where they differ; all that `new` is longer by does."""
    shared = len(old)
    begin = next(
        (
            at
            for at in range(0, shared, _PIECE)
            if old[at : at + _PIECE] != new[at : min(at + _PIECE, shared)]
        ),
        shared,
    )
    while begin < shared and old[begin] == new[begin]:
        begin += 1
    end = len(new)
    if end == shared:
        while end > begin and old[end - 1] == new[end - 1]:
            end -= 1
    return begin, end


class _NotYet:
    """What is done before a recording begins. See `sqlite_vfs.SqliteTrace`."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(os.path.realpath(folder), "")

    def covers(self, path: str) -> bool:
        return path.startswith(self._folder)

    def made(self, path: str) -> None: ...

    def wrote(self, path: str, offset: int, data: bytes) -> None: ...

    def resized(self, path: str, size: int) -> None: ...

    def synced(self, path: str) -> None: ...

    def done(self, kind: str, *paths: str) -> None: ...


def awaiting_crashes(folder: str) -> contextlib.AbstractContextManager[None]:
    """Let connections of SQLite that are opened in the block be seen by recordings in it.

    Those of files below the folder.
    """
    return tracing_sqlite(_NotYet(folder))


@contextlib.contextmanager
def recording_crashes(engine: Engine, folder: str | os.PathLike[str]) -> Iterator[CrashRecording]:
    """Records what is done below the folder in the block, which may be gone through once."""
    recording = CrashRecording(folder)
    with engine.tracing(recording), tracing_sqlite(recording):
        yield recording

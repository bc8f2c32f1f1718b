"""The main function and the jobs of a worker process, the only code that runs in one.

It is started isolated, with the standard library alone, and ends when its parent lets go of
its standard input, for whatever reason: closed, killed, crashed.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from collections.abc import Callable
from typing import Any

from pytest_resilience.stress import machine


__all__ = ["main"]

_CHUNK = 4 * 2**20  # bytes
_OWN_PAGES = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE  # all there at once
_LOOK = 0.25  # seconds between looks at whether the parent is still the same
_SLICE = 0.01  # seconds of work, or of rest, at most
_MOST_DEBT = 0.05  # seconds of work that are caught up with; what was missed before is lost


class _Job:
    """Something to do until the process ends."""

    def prepare(self) -> None:
        """Get to full strength, or to where a ramp begins."""

    def run(self) -> None:
        """Keep it there; need not end."""

    def figures(self) -> dict[str, Any]:
        """Measurements for the parent; asked for in another thread."""
        return {}

    def end(self) -> None:
        """Undo what the end of the process does not undo."""


def main() -> None:
    """Do the job that the arguments name: its name, its settings in JSON, the parent."""
    _, name, settings, parent = sys.argv
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    job = _JOBS[name](**json.loads(settings))
    try:
        job.prepare()
    except (OSError, MemoryError) as error:
        _say({"error": str(error) or type(error).__name__})
        os._exit(1)
    threading.Thread(target=_end_with_parent, args=(job, int(parent)), daemon=True).start()
    _say({"ready": True} | job.figures())
    job.run()
    threading.Event().wait()


def _end_with_parent(job: _Job, parent: int) -> None:
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], _LOOK)
        if readable and not os.read(0, 1):
            break
    job.end()
    with contextlib.suppress(OSError):
        _say(job.figures())
    os._exit(0)


def _say(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


class _Compute(_Job):
    """Compute for a share of the time, by the processor time that was really had."""

    def __init__(self, load: float) -> None:
        self._load = load

    def run(self) -> None:
        compute(self._load, time.process_time, lambda: True)


def compute(load: float, used: Callable[[], float], goes_on: Callable[[], bool]) -> None:
    """Compute `load` of the time while `goes_on`, as `used` tells, in seconds."""
    due, before, began = 0.0, used(), time.monotonic()
    while goes_on():
        now = time.monotonic()
        due += load * (now - began)
        began = now
        done = used() - before
        due = min(due, done + _MOST_DEBT)
        if due > done or load >= 1:
            end = before + done + min(_SLICE, due - done if load < 1 else _SLICE)
            while used() < end:
                for _ in range(200):
                    pass
        else:
            time.sleep(min(_SLICE, (done - due) / load + _SLICE / 2))


class _HoldMemory(_Job):
    """Hold memory, every page touched, as long as `reserve` bytes are left to others."""

    def __init__(self, size: int, ramp: float, reserve: int) -> None:
        self._size, self._ramp, self._reserve = size, ramp, reserve
        self._held: list[mmap.mmap] = []
        self._bytes = 0
        self._before = _resident()

    def prepare(self) -> None:
        if not self._ramp:
            self._grow(self._size)

    def run(self) -> None:
        began = time.monotonic()
        while self._bytes < self._size and self._ramp:
            grown = min(1.0, (time.monotonic() - began) / self._ramp)
            if not self._grow(int(self._size * grown)):
                break
            time.sleep(_SLICE)
        while True:  # others may need it
            while self._held and machine.available_memory() < self._reserve // 2:
                chunk = self._held.pop()
                self._bytes -= len(chunk)
                chunk.close()
            time.sleep(0.02)

    def _grow(self, size: int) -> bool:
        """Hold `size` bytes; False if the reserve did not allow it."""
        while self._bytes < size:
            length = min(_CHUNK, size - self._bytes)
            if machine.available_memory() - length < self._reserve:
                return False
            self._held.append(mmap.mmap(-1, length, flags=_OWN_PAGES))
            self._bytes += length
        return True

    def figures(self) -> dict[str, Any]:
        return {"before": self._before}


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


class _WriteAndRead(_Job):
    """Write, sync and read a file that has no name, so nothing is left of it ever."""

    def __init__(self, folder: str, size: int) -> None:
        self._folder, self._size = folder, size
        self._data = os.urandom(min(_CHUNK // 4, size))
        self._written = self._read = self._syncs = self._most = 0

    def prepare(self) -> None:
        self._file = _nameless(self._folder)
        self._turn(0)

    def run(self) -> None:
        step = len(self._data)
        offset = step
        while True:
            if offset + step > self._size:
                offset = 0
            try:
                self._turn(offset)
            except OSError:  # full: begin again
                os.ftruncate(self._file, 0)
                offset = 0
                time.sleep(_SLICE)
            else:
                offset += step

    def _turn(self, offset: int) -> None:
        self._written += os.pwrite(self._file, self._data, offset)
        os.fsync(self._file)
        self._syncs += 1
        self._most = max(self._most, offset + len(self._data))
        if hasattr(os, "posix_fadvise"):  # read it from the disk, not from memory
            os.posix_fadvise(self._file, offset, len(self._data), os.POSIX_FADV_DONTNEED)
        self._read += len(os.pread(self._file, len(self._data), offset))

    def figures(self) -> dict[str, Any]:
        detail = f"wrote {self._written} bytes, read {self._read}, synced {self._syncs} times"
        return {"achieved": self._most, "detail": detail}


class _FillDisk(_Job):
    """Take room on a disk with a file that has no name."""

    def __init__(self, folder: str, size: int) -> None:
        self._folder, self._size = folder, size

    def prepare(self) -> None:
        self._file = _nameless(self._folder)
        os.posix_fallocate(self._file, 0, self._size)

    def figures(self) -> dict[str, Any]:
        return {"achieved": os.fstat(self._file).st_blocks * 512}


def _nameless(folder: str) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:  # not every file system can
        file, path = tempfile.mkstemp(dir=folder)
        os.unlink(path)
        return file


class _RunProgram(_Job):
    """Another program, which ends when this process does."""

    def __init__(self, command: list[str], folder: str) -> None:
        self._command = command
        self._scratch = tempfile.mkdtemp(dir=folder)

    def prepare(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # the command is the parent's own
            [*self._command, "--temp-path", self._scratch],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )

    def figures(self) -> dict[str, Any]:
        return {"status": self._process.poll()}

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        shutil.rmtree(self._scratch, ignore_errors=True)


_JOBS: dict[str, Callable[..., _Job]] = {
    "compute": _Compute,
    "hold_memory": _HoldMemory,
    "write_and_read": _WriteAndRead,
    "fill_disk": _FillDisk,
    "run_program": _RunProgram,
}

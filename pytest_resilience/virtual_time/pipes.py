"""Pipes: who else has one, and who is blocked in one; on Linux, of whose `/proc` all of it is."""

from __future__ import annotations

import os
import platform
import stat

from collections.abc import Iterator
from pathlib import Path

from pytest_resilience import proc


__all__ = ["awaited_by", "is_of_this_process"]

# Read and write, readv and writev.
_CALLS = {"x86_64": {0, 1, 19, 20}, "aarch64": {63, 64, 65, 66}}.get(platform.machine(), set())


def awaited_by(native_id: int | None) -> int | None:
    """The descriptor that a blocked thread reads or writes in C; None if it does not."""
    found = proc.system_call_of(native_id)
    return found[1][0] if found is not None and found[0] in _CALLS else None


def is_of_this_process(fd: int) -> bool:
    """Whether the other end of a pipe is here, and in no child either; on Linux."""
    try:
        own, kind = _pipe_of(fd), _access(fd)
        if own is None or not any(
            _pipe_of(other) == own and _access(other) != kind
            for other in map(int, os.listdir("/proc/self/fd"))
        ):
            return False
        paths = (each for child in _children() for each in Path(f"/proc/{child}/fd").iterdir())
        return all(_identity(path) != own for path in paths)
    except OSError:
        return False


def _pipe_of(fd: int) -> tuple[int, int] | None:
    return _identity(Path(f"/proc/self/fd/{fd}"))


def _identity(fd: Path) -> tuple[int, int] | None:
    """Which pipe an open file is; None if it is none."""
    try:
        found = fd.stat()
    except FileNotFoundError:  # closed meanwhile
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISFIFO(found.st_mode) else None


def _access(fd: int) -> int:
    """Whether it reads or writes."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def _children(process: str = "self") -> Iterator[str]:
    """The processes that a process has started, and those that they have."""
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text("ascii").split():
            yield child
            yield from _children(child)

"""What Linux says of processes in `/proc`; nothing, on a system that has none."""

from __future__ import annotations

import contextlib
import os

from collections.abc import Iterator


__all__ = ["polled_by", "program_of", "read", "system_call_of"]

_STATE, _START, _STACK = 0, 19, 25  # in `/proc/PID/stat`, after the name of the program


def read(path: str, *, size: int = 1 << 20, at: int = 0) -> bytes:
    """What the kernel says there; b"" if nothing. Not by what a test may have replaced."""
    import posix  # only where there is such a file

    with contextlib.suppress(OSError, OverflowError):
        # A loop that is watched for what blocks it bears what is opened like this.
        descriptor = posix.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return posix.pread(descriptor, size, at)
        finally:
            posix.close(descriptor)
    return b""


def system_call_of(thread: int | None) -> tuple[int, list[int]] | None:
    """The number of the call that a thread waits in, and three arguments of it; None if it runs.

    `thread`: the kernel's number of it.
    """
    words = read(f"/proc/self/task/{thread}/syscall").split()[:4]
    if not words or not words[0].isdigit():
        return None
    return int(words[0]), [int(each, 16) for each in words[1:]]


def program_of(process: int) -> str:
    """What tells the program that this process runs from others of its number; "" if it is dead.

    A number that is used again has another start, and what `exec` has put there another stack.
    """
    _, _, text = read(f"/proc/{process}/stat", size=4096).rpartition(b") ")
    words = text.decode().split()
    if len(words) <= _STACK or words[_STATE] in "ZX":
        return ""
    return f"{words[_START]} {words[_STACK]}"


def polled_by(epoll: int) -> Iterator[tuple[int, int]]:
    """The descriptors that an epoll object polls, each with the events that it asks for."""
    for line in read(f"/proc/self/fdinfo/{epoll}").splitlines():
        words = line.split()
        if words[:1] == [b"tfd:"]:
            yield int(words[1]), int(words[3], 16)

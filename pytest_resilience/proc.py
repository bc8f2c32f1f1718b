"""What Linux says of processes in `/proc`; nothing, on a system that has none."""

from __future__ import annotations

import contextlib
import os
import stat
import threading

from collections.abc import Iterator


__all__ = [
    "is_pipe_of_this_process",
    "number_of_thread",
    "pipe_awaited_by",
    "polled_by",
    "program_of",
    "read",
    "state_of",
    "system_call_of",
    "threads_of_python",
    "time_queued_by",
]

# The calls of a pipe, by machine: read and write, readv and writev.
_CALLS = {"x86_64": (0, 1, 19, 20), "aarch64": (63, 64, 65, 66)}
# The numbers of `restart_syscall` and of `poll`, which goes on by the former once a process that
# was stopped is continued. So does what sleeps for some time. The other calls keep their numbers.
_RESTARTS, _POLL = {"x86_64": 219}, 7
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


def threads_of_python() -> list[threading.Thread]:
    """Those that Python has begun, and lists until they end.

    A thread of a library in C is listed for ever once it has called Python; when it ends is not
    known, and what it waits for is the library's own business.
    """
    of_c = threading._DummyThread  # noqa: SLF001  # has no public name
    return [each for each in threading.enumerate() if not isinstance(each, of_c)]


def number_of_thread(thread: threading.Thread) -> int | None:
    """The kernel's number of a thread of this process.

    In a forked child a main thread's `native_id` is its parent's, until Python 3.13.
    """
    return os.getpid() if thread is threading.main_thread() else thread.native_id


def system_call_of(thread: int | None) -> tuple[int, list[int]] | None:
    """The number of the call that a thread waits in, and three arguments of it; None if it runs.

    `thread`: the kernel's number of it.
    """
    words = read(f"/proc/self/task/{thread}/syscall").split()[:4]
    if not words or not words[0].isdigit():
        return None
    number = int(words[0])
    if number == _RESTARTS.get(os.uname().machine) and b"poll" in _sleeps_in(thread):
        number = _POLL
    return number, [int(each, 16) for each in words[1:]]


def _sleeps_in(thread: int | None) -> bytes:
    """The name of the kernel's function in which a thread of this process sleeps."""
    return read(f"/proc/self/task/{thread}/wchan")


def state_of(thread: int | None) -> str:
    """A thread of this process: "R" if it runs or waits for a processor, "S" if it sleeps.

    Other letters are told by `man proc_pid_stat`; "" where nobody can say.
    """
    words = read(f"/proc/self/task/{thread}/stat").rpartition(b")")[2].split()
    return words[0].decode() if words else ""


def time_queued_by(thread: int | None) -> int:
    """Nanoseconds for which a thread of this process waited for a processor; 0 if nobody counts."""
    words = read(f"/proc/self/task/{thread}/schedstat").split()
    return int(words[1]) if len(words) > 1 else 0


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


def pipe_awaited_by(thread: int | None) -> int | None:
    """The descriptor that a blocked thread reads or writes in C; None if it does not."""
    found = system_call_of(thread)
    if found is None or found[0] not in _CALLS.get(os.uname().machine, ()):
        return None
    return found[1][0]


def is_pipe_of_this_process(fd: int) -> bool:
    """Whether the other end of a pipe is here, and in no child either; on Linux."""
    try:
        own, kind = _pipe_at(f"/proc/self/fd/{fd}"), _access(fd)
        if own is None or not any(
            _pipe_at(f"/proc/self/fd/{other}") == own and _access(int(other)) != kind
            for other in os.listdir("/proc/self/fd")
        ):
            return False
        folders = (f"/proc/{child}/fd" for child in _children())
        return all(_pipe_at(f"{at}/{each}") != own for at in folders for each in os.listdir(at))
    except OSError:
        return False


def _pipe_at(path: str) -> tuple[int, int] | None:
    """Which pipe an open file is; None if it is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:  # closed meanwhile
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISFIFO(found.st_mode) else None


def _access(fd: int) -> int:
    """Whether it reads or writes."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def _children(process: str = "self") -> Iterator[str]:
    """The processes that a process has started, and those that they have."""
    for task in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{task}/children", encoding="ascii") as file:
            children = file.read().split()  # which not every kernel tells: OSError
        for child in children:
            yield child
            yield from _children(child)

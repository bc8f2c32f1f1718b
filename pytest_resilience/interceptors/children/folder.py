"""The folder through which a test process and its Python children know of each other.

    experiments    what is active, written anew and moved into place at every change
    counts         a page of memory for each experiment, which all map: see `SharedCounts`
    told           lines of JSON, which children append: faults, and what they did not match
    members/NAME   a pipe for each child: a byte in it says that the experiments have changed
    programs/NAME  a link for each child that leads nowhere: its process, and `proc.program_of` it
    answers        a pipe, in which children say what they have seen; broken when the parent is gone

Nobody but the user can look into it. No thread is needed in the parent, and none waits for what a
child does, but for a while when an experiment begins. A child that is killed, stopped or that
outlives the parent leaves nothing undone.

A child loads this before anything of its own, and then nothing else of ours until an experiment
begins: keep the imports few. The functions of `posix` are those that no experiment replaces.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` loads as well takes long
import contextlib
import errno
import marshal
import os
import posix
import stat
import sys
import threading  # noqa: F401  # here: it takes the thread that loads it for the main one

from _thread import allocate_lock  # as the next ones, before gevent can replace it
from _thread import get_native_id
from _thread import start_new_thread
from collections.abc import Callable
from select import POLLIN
from select import poll
from typing import Any
from typing import Protocol

from pytest_resilience import proc


__all__ = ["STARTUP", "VARIABLE", "Follower", "Member", "add_hook", "hook_of", "remove_hook"]

VARIABLE = "PYTEST_RESILIENCE_CHILD"  # in the environment: the folder, and the child's number
STARTUP = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "startup")
_MOST_TOLD = 10_000  # lines of one child
_PATIENCE = 1.0  # seconds that a fork waits for what is under way here
_LOOKS = 10_000  # for a thread that is about to end


def add_hook(environment: Any, place: str) -> None:
    """Let Python processes that are started with `environment` find their way to `place`."""
    environment[VARIABLE] = place
    path = environment.get("PYTHONPATH", "")
    if STARTUP not in path.split(os.pathsep):
        environment["PYTHONPATH"] = f"{STARTUP}{os.pathsep}{path}" if path else STARTUP


def hook_of(environment: Any) -> str | None:
    """The place that `add_hook` has put there; "" where only a part of it is left."""
    startup = STARTUP in environment.get("PYTHONPATH", "")
    place: str | None = environment.get(VARIABLE)
    return place if startup == (place is not None) else ""


def remove_hook(environment: Any) -> None:
    """Undo `add_hook`, whatever others have made of it since."""
    environment.pop(VARIABLE, None)
    path = environment.get("PYTHONPATH", "")
    if STARTUP in path:
        rest = [each for each in path.split(os.pathsep) if each != STARTUP]
        if rest:
            environment["PYTHONPATH"] = os.pathsep.join(rest)
        else:
            del environment["PYTHONPATH"]


def _experiments_of(folder: str) -> tuple[int, tuple[str, bool], list[tuple[int, bytes]]]:
    """The number of the latest change, `place` and `native` of a member, what is active, by key.

    What is active is pickled: to read that takes all of the package.
    """
    fd = posix.open(f"{folder}/experiments", os.O_RDONLY)
    try:
        text = b""
        while part := posix.read(fd, 1 << 20):
            text += part
    finally:
        posix.close(fd)
    found: tuple[int, tuple[str, bool], list[tuple[int, bytes]]] = marshal.loads(text)  # noqa: S302
    return found


class Follower(Protocol):
    """What does in a child as the parent does."""

    def update(self, experiments: list[tuple[int, bytes]]) -> None:
        """These are active now, by key."""

    def after_fork(self) -> None:
        """This process is a child of that which was the child."""


class Member:
    """A child: this process in the folder of a parent.

    Attributes:
        folder: of the parent.
        name: of this process among its members, from which its seeds are derived.
        place: the folder of call sites.
        native: whether clients in C are reached.
    """

    def __init__(self, folder: str, number: str) -> None:
        """Raises OSError if the parent is gone, or is another user."""
        if posix.stat(folder).st_uid != posix.geteuid():
            raise PermissionError(errno.EACCES, "the folder is of somebody else", folder)
        self.folder = folder
        self.place, self.native = "", True
        self._children = 0  # that this process has started
        self._fork = ""  # the number of the child that is about to be made
        self._left = _MOST_TOLD
        self._follower: Follower | None = None
        self._watch: _Watch | None = None
        self._join(number)

    def _join(self, number: str) -> None:
        """Take the number, or if another process has it, one after it."""
        tries, name = 0, number
        process = posix.getpid()
        program = f"{process}:{proc.program_of(process)}"
        while True:
            try:
                posix.symlink(program, f"{self.folder}/programs/{name}")
            except FileExistsError:
                tries += 1
                name = f"{number}x{tries}"
            else:
                break
        self.name = name
        posix.mkfifo(f"{self.folder}/members/{name}", 0o600)
        # Read and written here: without a writer there would be nothing to wait for.
        wakes = _Pipe(f"{self.folder}/members/{name}", os.O_RDWR)
        answers = _Pipe(f"{self.folder}/answers", os.O_WRONLY | os.O_NONBLOCK)
        self._watch = _Watch(wakes, answers, self._read)
        os.environ[VARIABLE] = f"{self.folder}:{name}"

    def go_on(self, follower: Follower) -> None:
        """Tell it what is active, now and whenever that changes; in forks of this as well."""
        self._follower = follower
        self._read(True)
        if self._watch is not None:
            self._watch.start()
        # It stays, also in forks.
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork_here,
            after_in_child=self._after_fork,
        )

    def next_number(self) -> str:
        """For a process that this one starts."""
        self._children += 1
        return f"{self.name}.{self._children}"

    def tell(self, line: list[Any]) -> None:
        """Tell the parent something."""
        import json

        if self._left <= 0:
            return
        self._left -= 1
        fd = posix.open(f"{self.folder}/told", os.O_WRONLY | os.O_APPEND)
        try:
            posix.write(fd, json.dumps(line).encode() + b"\n")
        finally:
            posix.close(fd)

    def _read(self, is_there: bool) -> None:
        """Do as the parent does, and say so; end all where it is not there any more."""
        follower, watch = self._follower, self._watch
        assert follower is not None  # else nobody would have asked
        if not is_there or watch is None:
            self._leave()
            remove_hook(os.environ)
            follower.update([])
            return
        number, (self.place, self.native), experiments = _experiments_of(self.folder)
        follower.update(experiments)
        watch.answers.write(b"%s %d\n" % (self.name.encode(), number))

    def _leave(self) -> None:
        """Be awaited no more."""
        watch, self._watch = self._watch, None
        if watch is not None:
            with contextlib.suppress(OSError):  # the folder is gone, and with it the parent
                posix.unlink(f"{self.folder}/programs/{self.name}")
                posix.unlink(f"{self.folder}/members/{self.name}")

    def _before_fork(self) -> None:
        if self._watch is not None:
            self._fork = self.next_number()
            self._watch.stop()
            _let_gevent_hear_of_children()

    def _after_fork_here(self) -> None:
        if self._watch is not None:
            self._watch.start()

    def _after_fork(self) -> None:
        """This is the child, a member of its own."""
        if self._watch is None or self._follower is None:
            return
        self._watch.close()
        self._left, self._children = _MOST_TOLD, 0
        try:
            self._join(self._fork)
            self._follower.after_fork()
            self._read(True)  # what began before it was a member
        except OSError:  # the parent has just gone
            self._watch = None  # which is that of the process that it is a fork of
            self._read(False)
        else:
            self._watch.start()


def _let_gevent_hear_of_children() -> None:
    """Where gevent has replaced `fork`: it listens for SIGCHLD from the end of the first one on.

    A child that is dead by then, because we have still started a thread, it would await for ever.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("os"):
        sys.modules["gevent"].get_hub().loop.install_sigchld()


class _Watch:
    """A thread that waits for news, and that nobody sees: no signal is delivered to it."""

    def __init__(self, wakes: _Pipe, answers: _Pipe, news: Callable[[bool], object]) -> None:
        """`news` is called with whether the parent is there."""
        self.answers = answers
        self._wakes = wakes
        self._news = news
        self._stopping = False
        self._idle = allocate_lock()  # held by the thread
        self._thread = 0

    def start(self) -> None:
        """Begin, or go on after `stop`."""
        self._stopping = False
        if not self._idle.acquire(False):
            return  # it was busy, and has not stopped
        before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        try:
            start_new_thread(self._run, ())
        except RuntimeError:  # there is no thread to be had: it goes on as it is
            self._idle.release()
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """Have no thread for a fork: Python warns of forks where there are several.

        What is under way in it is awaited, for a bounded time.
        """
        self._stopping = True
        self._wakes.write(b".")
        if self._idle.acquire(timeout=_PATIENCE):
            self._idle.release()
            try:
                for _ in range(_LOOKS):
                    posix.stat(f"/proc/self/task/{self._thread}")
            except OSError:  # there is no such thread any more, or no such file here
                pass

    def close(self) -> None:
        """Close the pipes: they are those of another process."""
        self._wakes.close()
        self.answers.close()

    def _run(self) -> None:
        self._thread = get_native_id()
        try:
            while self._is_there():
                if self._stopping:
                    self._wakes.write(b".")  # there may have been news in what was read
                    return
                self._news(True)
            self._news(False)
        except Exception:  # the folder is gone, and with it the parent
            self._news(False)
        finally:
            self._idle.release()

    def _is_there(self) -> bool:
        """Wait for news, or for the end of the parent, which is False, or until it stops."""
        while True:
            if self._wakes.reopened() | self.answers.reopened():
                return True  # what was in it is lost
            ready = poll()
            ready.register(self._wakes.fd, POLLIN)
            ready.register(self.answers.fd, 0)  # it is ready when nobody reads any more
            found = dict(ready.poll())
            if self._stopping:
                return True
            if self._wakes.is_ours and self.answers.is_ours:
                if self.answers.fd in found:
                    return False
                posix.read(self._wakes.fd, 4096)
                return True


class _Pipe:
    """A pipe that has a name. A process may close all it has open, and open others instead."""

    def __init__(self, path: str, flags: int) -> None:
        self._path, self._flags = path, flags | os.O_CLOEXEC
        self.fd = posix.open(path, self._flags)
        self._inode = posix.fstat(self.fd).st_ino

    def reopened(self) -> bool:
        """Open it again if it has been closed, as daemons close all; whether it was."""
        lost = not self.is_ours
        if lost:
            self.fd = posix.open(self._path, self._flags)
        return lost

    @property
    def is_ours(self) -> bool:
        """Whether the descriptor is still that of the pipe."""
        try:
            found = posix.fstat(self.fd)
        except OSError:
            return False
        return stat.S_ISFIFO(found.st_mode) and found.st_ino == self._inode

    def write(self, data: bytes) -> None:
        if self.is_ours:
            posix.write(self.fd, data)

    def close(self) -> None:
        if self.is_ours:
            posix.close(self.fd)

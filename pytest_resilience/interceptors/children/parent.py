"""The parent's end of the folder that it has with its children: see `folder.py`."""

from __future__ import annotations

import contextlib
import errno
import json
import marshal
import os
import posix
import select
import shutil
import tempfile

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Final

from pytest_resilience import proc
from pytest_resilience.chaos.forked_children import Pages
from pytest_resilience.clock import MACHINE_CLOCK


__all__ = ["Host"]

_MEMORY = "/dev/shm"  # noqa: S108  # where there is one: quick, and no disk can be full
_STEP: Final = 0.1  # seconds, after which a child that was waited for may be dead


class Host:
    """Tells the children of this process what is active, and hears what they met.

    Attributes:
        folder: its path; only the user can look into it.
        pages: in which experiments count.
        patience: seconds that it waits for all children together when an experiment begins.
    """

    def __init__(self, place: str, *, native: bool) -> None:
        """`place` and `native`: as in `Member`. Raises OSError where there can be no folder."""
        memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self.folder = tempfile.mkdtemp(prefix="chaos-", dir=memory)
        os.mkdir(f"{self.folder}/members")
        os.mkdir(f"{self.folder}/programs")
        os.mkfifo(f"{self.folder}/answers", 0o600)
        self.pages = Pages.make(f"{self.folder}/counts")
        self.patience = 10.0
        self._settings = place, native
        self._number = 0
        self._silent: set[str] = set()  # members that are hung, as far as it is known
        # Read and written: it never ends while this process lives.
        self._answers = posix.open(f"{self.folder}/answers", os.O_RDWR | os.O_NONBLOCK)
        self._told = posix.open(f"{self.folder}/told", os.O_RDWR | os.O_CREAT, 0o600)
        self._rest = b""
        self.publish([])

    def publish(self, experiments: Sequence[tuple[int, bytes]], *, wait: bool = False) -> None:
        """Have children run these, by key; `wait` until they do, or hang."""
        self._number += 1
        content = marshal.dumps((self._number, self._settings, list(experiments)), 2)
        new = f"{self.folder}/new"
        fd = posix.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            posix.write(fd, content)
        finally:
            posix.close(fd)
        posix.rename(new, f"{self.folder}/experiments")
        alive = {name for name in self.members() if self._wake(name)}
        if wait:
            self._wait(alive)

    def members(self) -> list[str]:
        """The names of all children that have been reached since the last `forget`."""
        return posix.listdir(f"{self.folder}/members")

    def _wake(self, name: str, data: bytes = b".") -> bool:
        """Whether a child lives, which is told that there is news if there is `data`."""
        try:
            fd = posix.open(f"{self.folder}/members/{name}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it: it is dead, or has closed all, and opens it again
            return self._runs(name)
        try:
            posix.write(fd, data)
        except OSError as error:  # it is full of what a hung child has not read
            return error.errno == errno.EAGAIN or self._runs(name)
        finally:
            posix.close(fd)
        return True

    def _runs(self, name: str) -> bool:
        """Whether the process of a child still runs the program that made it one."""
        try:
            process, _, program = posix.readlink(f"{self.folder}/programs/{name}").partition(":")
        except OSError:  # it has left
            return False
        return bool(program) and program == proc.program_of(int(process))

    def _wait(self, names: set[str]) -> None:
        """Until each of these has seen the latest news; a bounded time."""
        answered = self._answered()  # some were quicker than this, and say nothing more
        missing = names - answered - self._silent
        deadline = MACHINE_CLOCK.monotonic() + self.patience
        ready = select.poll()
        ready.register(self._answers, select.POLLIN)
        while missing:
            left = deadline - MACHINE_CLOCK.monotonic()
            if left <= 0:
                self._silent |= missing
                return
            ready.poll(min(left, _STEP) * 1000)
            missing -= self._answered()
            missing = {name for name in missing if self._wake(name, b"")}

    def _answered(self) -> set[str]:
        """The children that have seen the latest news, of those that have said something now."""
        text = b""
        with contextlib.suppress(BlockingIOError):
            while part := posix.read(self._answers, 1 << 16):
                text += part
        found = set()
        for line in text.decode().splitlines():
            name, _, number = line.partition(" ")
            self._silent.discard(name)
            if int(number) >= self._number:
                found.add(name)
        return found

    def told(self) -> Iterator[list[Any]]:
        """What children have told since the last time."""
        text = self._rest
        while part := posix.read(self._told, 1 << 20):
            text += part
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # of one that was killed in the middle
                yield json.loads(line)

    def forget(self) -> None:
        """Forget the children that have ended, and all that was told."""
        for name in self.members():
            if not self._wake(name, b""):
                self._silent.discard(name)
                for kind in ("members", "programs"):
                    with contextlib.suppress(FileNotFoundError):
                        posix.unlink(f"{self.folder}/{kind}/{name}")
        self._rest = b""
        if posix.lseek(self._told, 0, os.SEEK_CUR):
            posix.ftruncate(self._told, 0)
            posix.lseek(self._told, 0, os.SEEK_SET)

    def close(self) -> None:
        """Let all children go on without."""
        self.leave()
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> None:
        """Have no part in it any more: in a forked child it is not this process's."""
        posix.close(self._answers)
        posix.close(self._told)

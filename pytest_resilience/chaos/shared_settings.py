"""Settings of the whole process that several owners change at once, and end in any order."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import Generic
from typing import TypeVar

from pytest_resilience.locks import fork_safe


__all__ = ["Limit", "SharedSetting", "limits_lifted"]

T = TypeVar("T")

# Re-entrant: a destructor or a signal can need a limit lifted in the middle of another change.
_lock = fork_safe(sys.modules[__name__], "_lock", threading.RLock)


class SharedSetting(Generic[T]):
    """One setting: a resource limit, a variable of the environment.

    Each owner says what it wants; what stands is what `combine` makes of all that is wanted.
    When the last owner lets go, the setting is what the first one found. Undoing owner by
    owner would not do: the one that ends last would put back what another had set.

    A value that somebody else has set meanwhile counts as found: it stays.

    Attributes:
        read: what it is now.
    """

    def __init__(
        self,
        read: Callable[[], T],
        write: Callable[[T], object],
        combine: Callable[[T, list[T]], T] = lambda _, wanted: wanted[-1],
    ) -> None:
        """`combine` is given what was found and what the owners want, the oldest first."""
        self.read = read
        self._write = write
        self._combine = combine
        self._wanted: dict[object, T] = {}
        self._found = self._set = read()

    def hold(self, wanted: T) -> Callable[[], None]:
        """Want it to be so until what is returned is called; calling it again is harmless."""
        owner = object()
        with _lock:
            self._notice_changes()
            self._wanted[owner] = wanted
            try:
                self._apply()
            except BaseException:
                del self._wanted[owner]
                self._apply()
                raise

        def release() -> None:
            with _lock:
                if owner in self._wanted:
                    self._notice_changes()
                    del self._wanted[owner]
                    self._apply()

        return release

    @property
    def held(self) -> bool:
        """Whether it has an owner."""
        return bool(self._wanted)

    def _notice_changes(self) -> None:
        """Keep what somebody else has set: without owners, that is whatever is there."""
        current = self.read()
        if not self._wanted or current != self._set:
            self._found = self._set = current

    def _apply(self) -> None:
        wants = list(self._wanted.values())
        self._write_if_changed(self._combine(self._found, wants) if wants else self._found)

    def _write_if_changed(self, value: T) -> None:
        if value != self._set:
            self._write(value)
            self._set = value


class Limit(SharedSetting[T]):
    """A setting that lets this process have only so much of something; `limits_lifted` lifts it.

    What is taken or given back while it is lifted is ours, so that afterwards as much can be had
    as before.
    """

    def __init__(
        self,
        read: Callable[[], T],
        write: Callable[[T], object],
        combine: Callable[[T, list[T]], T],
        used: Callable[[], Any] = lambda: None,
        adjust: Callable[[T, Any, Any], T] = lambda wanted, _, __: wanted,
    ) -> None:
        """`used` says what is in use; `adjust` makes, of what an owner wanted and of what was in
        use before and after, what leaves as much as it wanted to leave.
        """
        super().__init__(read, write, combine)
        self._used = used
        self._adjust = adjust
        self._lifted = False
        self._before: tuple[list[object], Any] = [], None  # for whom, what was in use
        _limits.append(self)  # type: ignore[arg-type]  # of whatever type

    def lift(self) -> None:
        """Have it as the first owner found it, until `lower`."""
        self._notice_changes()
        self._lifted = True
        self._apply()

    def measure_before(self) -> None:
        """See what is in use, now that all limits are lifted: looking takes some as well."""
        if self._wanted:
            self._before = list(self._wanted), self._used()

    def adjust_after(self) -> None:
        """Charge no owner for what has been taken; those that are new have seen it."""
        (owners, before), self._before = self._before, ([], None)
        if owners:
            with contextlib.suppress(OSError, MemoryError):  # the machine itself has no more
                after = self._used()
                for owner in self._wanted.keys() & owners:
                    self._wanted[owner] = self._adjust(self._wanted[owner], before, after)

    def restore(self) -> None:
        """Have it again as the owners want it."""
        self._notice_changes()
        self._lifted = False
        self._apply()

    def _apply(self) -> None:
        if self._lifted:
            self._write_if_changed(self._found)
        else:
            super()._apply()


_limits: list[Limit[object]] = []
_lifting: list[int] = []  # the thread of each block that runs


@contextlib.contextmanager
def limits_lifted() -> Iterator[None]:
    """Run a block without the limits that experiments have put on this process.

    For what is ours: a worker, a timer or a proxy that starts while an experiment leaves the
    process no thread or no descriptor, and children, which inherit its limits. Other threads
    are without limits as well meanwhile, and what they take or give back counts as ours: a block
    is as short as can be.
    """
    try:
        _begin()
        yield
    finally:
        _end()


def _begin() -> None:
    with _lock:
        _lifting.append(threading.get_ident())
        if len(_lifting) == 1:
            for each in _limits:
                each.lift()
            for each in _limits:
                each.measure_before()


def _end() -> None:
    with _lock:
        try:
            if len(_lifting) == 1:
                for each in _limits:
                    each.adjust_after()
        finally:
            _lifting.remove(threading.get_ident())
            if not _lifting:
                for each in _limits:
                    each.restore()


def _forget_other_threads() -> None:
    """In a forked child, where no other thread is to end its block."""
    lifted = bool(_lifting)
    _lifting[:] = [each for each in _lifting if each == threading.get_ident()]
    if lifted and not _lifting:
        for each in _limits:
            each.restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)

"""Settings of the whole process that several owners change at once, and put back in any order."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from collections.abc import Callable
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

    Each owner wants a value, and the setting is what `combine` makes of all of them. When the last
    owner releases it, the setting is what the first one found. If each owner put back what it had
    found, the last to end would put back what another had set.

    A value that somebody else has set meanwhile counts as found: it stays.

    Attributes:
        read: returns the value that it has now.
    """

    def __init__(
        self,
        read: Callable[[], T],
        write: Callable[[T], object],
        combine: Callable[[T, list[T]], T] = lambda _, wanted: wanted[-1],
    ) -> None:
        """`combine` makes the value of the one found and those wanted, the oldest first."""
        self.read = read
        self._write = write
        self._combine = combine
        self._wanted: dict[object, T] = {}
        self._found = self._set = read()

    def hold(self, wanted: T) -> Callable[[], None]:
        """Want a value until the result is called; calling it again is harmless."""
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
        """Take a value that somebody else has set for the one found; without owners, any value."""
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
    """A resource limit of this process, which `limits_lifted` lifts.

    What is taken or given back while it is lifted is the package's own. It is charged to no
    experiment: afterwards as much is left as before.
    """

    def __init__(
        self,
        read: Callable[[], T],
        write: Callable[[T], object],
        combine: Callable[[T, list[T]], T],
        used: Callable[[], Any] = lambda: None,
        adjust: Callable[[T, Any, Any], T] = lambda wanted, _, __: wanted,
    ) -> None:
        """`used` returns what is in use. `adjust` takes the value wanted, and what was in use
        before and after a lift; it returns the value that leaves as much as was wanted.
        """
        super().__init__(read, write, combine)
        self._used = used
        self._adjust = adjust
        self._lifted = False
        self._before: tuple[list[object], Any] = [], None  # for whom, what was in use
        _limits.append(self)  # type: ignore[arg-type]  # of whatever type

    def lift(self) -> None:
        """Set it to what the first owner found, until `restore`."""
        self._notice_changes()
        self._lifted = True
        self._apply()

    def measure_before(self) -> None:
        """Note what is in use, now that all limits are lifted: to ask takes some as well."""
        if self._wanted:
            self._before = list(self._wanted), self._used()

    def adjust_after(self) -> None:
        """Charge no owner for what was taken meanwhile; owners that are new have counted it."""
        (owners, before), self._before = self._before, ([], None)
        if owners:
            with contextlib.suppress(OSError, MemoryError):  # the machine itself has no more
                after = self._used()
                for owner in self._wanted.keys() & owners:
                    self._wanted[owner] = self._adjust(self._wanted[owner], before, after)

    def restore(self) -> None:
        """Set it to what the owners want again."""
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


class _LimitsLifted:
    """A block of `limits_lifted`: it knows nothing, so one serves all."""

    def __enter__(self) -> None:
        try:
            _begin()
        except BaseException:
            _end()
            raise

    def __exit__(self, *_: object) -> None:
        _end()


_LIFTED = _LimitsLifted()


def limits_lifted() -> contextlib.AbstractContextManager[None]:
    """Run a block without the limits that experiments have put on this process.

    For the package itself: a worker, a timer or a proxy that starts while an experiment leaves the
    process no thread or no descriptor, and children, which inherit its limits. Other threads have
    no limits meanwhile either, and what they take counts as ours: keep the block short.
    """
    return _LIFTED


def _begin() -> None:
    with _lock:
        _lifting.append(threading.get_ident())
        if len(_lifting) == 1:
            # First all of them: to measure opens a file, for which another limit may leave none.
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
            _lifting.remove(threading.get_ident())  # its own: blocks of threads end in any order
            if not _lifting:
                for each in _limits:
                    each.restore()


def _forget_other_threads() -> None:
    """In a forked child, where the threads of the parent will never end their blocks."""
    lifted = bool(_lifting)
    _lifting[:] = [each for each in _lifting if each == threading.get_ident()]
    if lifted and not _lifting:
        for each in _limits:
            each.restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)

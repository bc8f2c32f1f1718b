"""Settings of the whole process that several owners change at once, and end in any order."""

from __future__ import annotations

import contextlib
import sys
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Generic
from typing import TypeVar

from pytest_resilience.locks import fork_safe


__all__ = ["SharedSetting", "limits_lifted"]

T = TypeVar("T")

# Re-entrant: what is started while limits are lifted may hold a limit of its own.
_lock = fork_safe(sys.modules[__name__], "_lock", threading.RLock)
_limits: list[SharedSetting[object]] = []


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
        *,
        lift: Callable[[SharedSetting[T]], contextlib.AbstractContextManager[None]] | None = None,
    ) -> None:
        """`combine` is given what was found and what the owners want, the oldest first.

        `lift`: makes it a limit that `limits_lifted` lifts; it is called to do so.
        """
        self.read = read
        self._write = write
        self._combine = combine
        self._wanted: dict[object, T] = {}
        self._found = self._set = read()
        self._lifted = False
        if lift is not None:
            self._lift = lift
            _limits.append(self)  # type: ignore[arg-type]  # of whatever type, it is only lifted

    def hold(self, wanted: T) -> Callable[[], None]:
        """Want it to be so until what is returned is called; calling it again is harmless."""
        owner = object()
        with _lock:
            self._look()
            self._wanted[owner] = wanted
            try:
                self._apply()
            except BaseException:
                del self._wanted[owner]
                self._apply()
                raise

        def let_go() -> None:
            with _lock:
                if owner in self._wanted:
                    self._look()
                    del self._wanted[owner]
                    self._apply()

        return let_go

    @property
    def held(self) -> bool:
        """Whether it has an owner."""
        return bool(self._wanted)

    @contextlib.contextmanager
    def as_found(self) -> Iterator[None]:
        """For the length of a block it is what the first owner found."""
        if self._lifted:
            yield
            return
        self._look()
        self._lifted = True
        self._apply()
        try:
            yield
        finally:
            self._look()
            self._lifted = False
            self._apply()

    def change(self, turn: Callable[[T], T]) -> None:
        """Let every owner want `turn(what it wanted)`, from the next time on that it is set."""
        self._wanted = {owner: turn(wanted) for owner, wanted in self._wanted.items()}

    def lifted(self) -> contextlib.AbstractContextManager[None]:
        """See `limits_lifted`."""
        return self._lift(self) if self._wanted else contextlib.nullcontext()

    def _look(self) -> None:
        """Keep what somebody else has set: without owners, that is whatever is there."""
        current = self.read()
        if not self._wanted or current != self._set:
            self._found = self._set = current

    def _apply(self) -> None:
        wants = [] if self._lifted else list(self._wanted.values())
        wanted = self._combine(self._found, wants) if wants else self._found
        if wanted != self._set:
            self._write(wanted)
            self._set = wanted


@contextlib.contextmanager
def limits_lifted() -> Iterator[None]:
    """Run a block without the limits that experiments have put on this process.

    For what is ours: a worker, a timer or a proxy that starts while an experiment leaves the
    process no thread or no descriptor, and children, which inherit its limits.
    """
    with _lock, contextlib.ExitStack() as stack:
        for each in _limits:
            stack.enter_context(each.lifted())
        yield

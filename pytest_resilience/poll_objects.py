"""What takes the place of the objects that `select.poll()` and `select.epoll(…)` make.

All is left to the real object, but for `poll`, which a derived class writes.
"""

from __future__ import annotations

from typing import Any
from typing import Self


__all__ = ["EpollObject", "PollObject", "number_of"]

_ANY = 1 | 2 | 4  # POLLIN, POLLPRI and POLLOUT: what is asked for unless it is told


def number_of(file: Any) -> int:
    """The descriptor of what is polled."""
    return file if isinstance(file, int) else file.fileno()


class PollObject:
    """In the place of what `select.poll()` makes, which does not say what it polls.

    Attributes:
        masks: the events that it asks for, by descriptor.
    """

    def __init__(self, made: Any) -> None:
        """`made`: the real one."""
        self._made = made
        self.masks: dict[int, int] = {}

    def register(self, fd: Any, eventmask: int = _ANY, /) -> None:
        self._made.register(fd, eventmask)
        self.masks[number_of(fd)] = eventmask

    def modify(self, fd: Any, eventmask: int, /) -> None:
        self._made.modify(fd, eventmask)
        self.masks[number_of(fd)] = eventmask

    def unregister(self, fd: Any, /) -> None:
        self._made.unregister(fd)
        self.masks.pop(number_of(fd), None)

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        return self._made.__reduce_ex__(protocol)  # which says that there are no copies


class EpollObject:
    """In the place of what `select.epoll(…)` makes. What it polls the kernel knows."""

    _make: Any  # the real class

    def __init__(self, *args: Any, **options: Any) -> None:
        self._made = self._make(*args, **options)

    @classmethod
    def fromfd(cls, fd: int, /) -> Self:
        found = cls.__new__(cls)
        found._made = cls._make.fromfd(fd)  # noqa: SLF001  # its own
        return found

    @property
    def closed(self) -> bool:
        return self._made.closed  # type: ignore[no-any-return]

    def fileno(self) -> int:
        return self._made.fileno()  # type: ignore[no-any-return]

    def close(self) -> None:
        self._made.close()

    def __enter__(self) -> Self:
        self._made.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        return self._made.__reduce_ex__(protocol)  # which says that there are no copies

    def register(self, fd: Any, *args: Any, **options: Any) -> None:
        self._made.register(fd, *args, **options)

    def modify(self, fd: Any, eventmask: int) -> None:
        self._made.modify(fd, eventmask)

    def unregister(self, fd: Any) -> None:
        self._made.unregister(fd)

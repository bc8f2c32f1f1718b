"""Events, which are frozen records, and their listeners."""

from __future__ import annotations

import inspect
import logging
import reprlib
import threading

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import TypeVar
from typing import overload

from pytest_resilience.locks import fork_safe


__all__ = ["Event", "Listener", "Listeners", "describe"]

_logger = logging.getLogger("pytest_resilience")

_LONGEST = 200  # characters: a message is no dump
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _LONGEST


def describe(failure: object) -> str:
    """An exception, or a result, in words: short ones, whatever its own texts are or do."""
    if not isinstance(failure, BaseException):
        return _short.repr(failure)
    name = type(failure).__name__
    try:
        text = str(failure)
    except Exception:
        return f"{name} (its text cannot be had)"
    if len(text) > _LONGEST:
        half = (_LONGEST - 3) // 2
        text = f"{text[:half]}...{text[-half:]}"
    return f"{name}: {text}" if text else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; each kind of event is a subclass.

    Attributes:
        at: monotonic seconds on the clock of whoever recorded it.
        source: the name of the breaker, retry, experiment … it happened to.
    """

    at: float
    source: str


Listener = Callable[[Any], object]
_E = TypeVar("_E", bound=Event)


class Listeners:
    """Who is told about events, in the order they subscribed.

    Nobody listening costs one truth test (`if listeners:`). An error of a
    listener is logged and goes no further: observing must not break what is
    observed.

    Attributes:
        listened: whether anybody listens; cheaper to ask than `bool`.
    """

    __slots__ = ("__weakref__", "_all", "_lock", "listened")

    def __init__(self) -> None:
        # Replaced, never changed in place: `emit` may be walking it in a thread.
        self._all: tuple[tuple[Listener], ...] = ()
        self.listened = False
        self._lock = fork_safe(self, "_lock", threading.Lock)

    def __bool__(self) -> bool:
        return bool(self._all)

    def __len__(self) -> int:
        return len(self._all)

    # A function of one kind of event may be given, and a lambda, which is taken to be of any.
    @overload
    def add(self, listener: Callable[[Event], object]) -> Callable[[], None]: ...
    @overload
    def add(self, listener: Callable[[_E], object]) -> Callable[[], None]: ...
    def add(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of every event from now on; call the result to stop.

        Raises TypeError for a coroutine function: events are told to threads and tasks alike.
        """
        if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(
            getattr(listener, "__call__", None)  # noqa: B004  # not whether, but which
        ):
            raise TypeError(
                f"{listener!r} is a coroutine function, which would never run: give a plain "
                "function, e.g. one that starts a task"
            )
        subscription = (listener,)  # of its own: who subscribes twice can leave once
        with self._lock:
            self._all = (*self._all, subscription)
            self.listened = True

        def remove() -> None:
            with self._lock:
                self._all = tuple(each for each in self._all if each is not subscription)
                self.listened = bool(self._all)

        return remove

    def emit(self, event: Event) -> None:
        """Tell everybody. Never raises an `Exception`."""
        for (listener,) in self._all:
            try:
                listener(event)
            except Exception:
                _logger.exception("listener %r failed on %r", listener, event)

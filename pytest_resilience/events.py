"""Events, which are frozen records, and their listeners."""

from __future__ import annotations

import inspect
import logging
import reprlib
import threading
import weakref

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from types import MethodType
from typing import Any
from typing import Generic
from typing import TypeVar
from typing import overload

from pytest_resilience.locks import fork_safe


__all__ = [
    "Event", "Journal", "Listener", "Listeners", "cannot_await", "describe",
    "is_coroutine_function",
]  # fmt: skip

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

_MOST_UNAWAITED = 1000  # events; they wait for an async call, which may never come


class _Subscription:
    """One listener; who subscribes twice can leave once."""

    __slots__ = ("awaited", "listener")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.awaited = is_coroutine_function(listener)


class Listeners:
    """Who is told about events, in the order they subscribed.

    Nobody listening costs one truth test (`if listeners:`). An error of a
    listener is logged and goes no further: observing must not break what is
    observed.

    A coroutine function is awaited by the async call that an event is of, before that goes on;
    if another call is just telling of one, that call tells of both, in their order. A plain call
    cannot await it, so it is refused with a TypeError.

    Attributes:
        listened: whether anybody listens; cheaper to ask than `bool`.
        awaits: whether a coroutine function does.
    """

    __slots__ = (
        "__weakref__", "_all", "_changed", "_lock", "_may_await", "_plain", "_telling",
        "_unawaited", "awaits", "listened",
    )  # fmt: skip

    def __init__(
        self, *, may_await: bool = False, changed: Callable[[], None] | None = None
    ) -> None:
        """`may_await`: whether some calls are async, and then call `notify_async`.

        `changed`: a method, to be called when somebody has come or gone.
        """
        # Replaced, never changed in place: `emit` may be walking it in a thread.
        self._all: tuple[_Subscription, ...] = ()
        self._changed = None if changed is None else weakref.WeakMethod(changed)
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._may_await = may_await
        self._plain: str | None = None  # a plain function whose calls the events are of
        self._telling: threading.Lock | None = None
        self._unawaited: deque[tuple[Listener, Event, Any]] = deque(maxlen=_MOST_UNAWAITED)
        self.awaits = self.listened = False

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

        Raises TypeError for what is no function, and for a coroutine function where calls are
        plain.
        """
        if not callable(listener):
            raise TypeError(f"a listener must be a function, not {listener!r}")
        subscription = _Subscription(listener)
        with self._lock:
            if subscription.awaited:
                self._check_awaited(listener)
            self._all = (*self._all, subscription)
        self._update()

        def remove() -> None:
            with self._lock:
                self._all = tuple(each for each in self._all if each is not subscription)
            self._update()

        return remove

    def _check_awaited(self, listener: Listener) -> None:
        if not self._may_await:
            raise TypeError(
                f"{listener!r} is a coroutine function, which would never run: give a plain "
                "function, e.g. one that starts a task"
            )
        if self._plain is not None:
            raise cannot_await(listener, self._plain)
        self._telling = self._telling or fork_safe(self, "_telling", threading.Lock)

    def _update(self) -> None:
        with self._lock:
            self.listened = bool(self._all)
            self.awaits = any(each.awaited for each in self._all)
        changed = None if self._changed is None else self._changed()
        if changed is not None:
            changed()

    def expect_plain(self, func: object) -> None:
        """Note that events will be of calls of `func`, a plain function.

        Raises TypeError if a coroutine function listens.
        """
        with self._lock:
            if self.awaits:
                raise self.refusal(func)
            self._plain = getattr(func, "__qualname__", None) or repr(func)

    def refusal(self, call: object) -> TypeError:
        """What a plain call raises, before anything is called, if a coroutine function listens."""
        listener = next((each.listener for each in self._all if each.awaited), None)
        return cannot_await(listener, call)

    def emit(self, event: Event) -> None:
        """Tell everybody, coroutine functions in `notify_async`. Never raises an `Exception`."""
        for subscription in self._all:
            listener = subscription.listener
            if subscription.awaited:
                self._unawaited.append((listener, event, None))
                continue
            try:
                result = listener(event)
                if result is not None and inspect.isawaitable(result):
                    self._await_later(subscription, event, result)
            except Exception:
                _logger.exception("listener %r failed on %r", listener, event)

    def _await_later(self, subscription: _Subscription, event: Event, result: Any) -> None:
        """What a plain function has returned, as a lambda does, is awaited too."""
        try:
            with self._lock:
                self._check_awaited(subscription.listener)
        except TypeError:
            if inspect.iscoroutine(result):
                result.close()
            raise
        subscription.awaited = True
        self._unawaited.append((subscription.listener, event, result))
        self._update()

    async def notify_async(self, ended_by: BaseException | None = None) -> None:
        """Await the coroutine functions among them for all events so far, in their order.

        `ended_by`: what the call raised; one that is being closed can await nothing.
        """
        telling = self._telling
        if telling is None or isinstance(ended_by, GeneratorExit):
            return
        # Who has the lock tells of ours as well. Once more, for what came while it was released.
        while self._unawaited and telling.acquire(blocking=False):
            try:
                while self._unawaited:
                    await _tell(*self._unawaited.popleft())
            finally:
                telling.release()


class Journal(Generic[_E]):
    """Events, which are told in the order in which they happened, whatever threads they happen in.

    Attributes:
        listeners: who is told.
        latest: the latest events, oldest first.
    """

    __slots__ = ("__weakref__", "_telling", "_untold", "latest", "listeners")

    def __init__(self, listeners: Listeners, length: int) -> None:
        """`length`: how many events are remembered."""
        self.listeners = listeners
        self.latest: deque[_E] = deque(maxlen=length)
        self._untold: deque[Event] = deque()
        self._telling = fork_safe(self, "_telling", threading.Lock)

    def add(self, event: _E) -> None:
        """Remember an event, under the lock under which it happened."""
        self.latest.append(event)
        self._untold.append(event)

    def add_note(self, event: Event) -> None:
        """The same for an event that is told, and not remembered."""
        self._untold.append(event)

    def tell(self) -> None:
        """Tell of what is new, under no lock; who tells does so for the others, which go on."""
        # Looked at again after each: who came while it was held has gone on, and left it to us.
        while self._untold and self._telling.acquire(blocking=False):
            try:
                if self._untold:
                    self._announce(self._untold.popleft())
            finally:
                self._telling.release()

    def _announce(self, event: Event) -> None:
        self.listeners.emit(event)


async def _tell(listener: Listener, event: Event, begun: Any) -> None:
    try:
        await (listener(event) if begun is None else begun)  # type: ignore[misc]
    except Exception:
        _logger.exception("listener %r failed on %r", listener, event)


def is_coroutine_function(func: object) -> bool:
    """Whether it is an `async def`, or an object that is called as one."""
    if inspect.iscoroutinefunction(func):
        return True
    if isinstance(func, (FunctionType, MethodType)):
        return False
    return inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004  # which?


def cannot_await(func: object, call: object) -> TypeError:
    """What is raised where a coroutine function would have to be awaited by a plain call."""
    name = call if isinstance(call, str) else getattr(call, "__qualname__", None) or repr(call)
    return TypeError(
        f"{func!r} is a coroutine function, which a plain call of {name} cannot await: "
        "give a plain function instead, or make what is called an `async def`"
    )

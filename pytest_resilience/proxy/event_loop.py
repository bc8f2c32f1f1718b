"""Waits for sockets and for moments, in a thread of its own."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import queue
import select
import selectors
import threading

from collections import deque
from collections.abc import Callable
from typing import Any
from typing import TypeVar

from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import Clock
from pytest_resilience.clock import in_a_loop
from pytest_resilience.errors import ShutdownError
from pytest_resilience.locks import fork_safe


__all__ = ["Loop", "Timer"]

_logger = logging.getLogger("pytest_resilience.proxy")
_Result = TypeVar("_Result")

_SLICE = (
    0.05  # seconds: how soon a moment is noticed on a clock that does not run with the kernel's
)
_PATIENCE = 1.0  # seconds between looks at whether the thread that is to answer is alive
_SETSIZE = 1024  # descriptors that select(2) can take


class Timer:
    """Something that is to happen at a moment."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Let it not happen; harmless when it has."""
        self.action = None


class _Call:
    """Something another thread wants done here."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action
        self.done = queue.SimpleQueue[None]()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.action()
        except BaseException as error:  # whoever asked for it gets it
            self.error = error
        self.done.put(None)

    def is_done(self, seconds: float) -> bool:
        """Whether it is, or is within so many seconds."""
        try:
            self.done.get(timeout=seconds)
        except queue.Empty:
            return False
        return True


class Loop:
    """One thread that serves sockets. Everything but `call` and `close` is for that thread."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.clock = clock
        with limits_lifted():
            self._selector = selectors.DefaultSelector()
            self._waker, self._wake_end = os.pipe()
        for descriptor in (self._waker, self._wake_end):
            os.set_blocking(descriptor, False)
        self._selector.register(self._waker, selectors.EVENT_READ, self._drain)
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = itertools.count()
        self._calls: deque[_Call] = deque()
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._closed = False
        self._reason = "the proxy is closed; make a new one"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            with limits_lifted():
                self._thread.start()
        except RuntimeError:  # there is no thread left
            self.abandon()
            raise

    def call(self, action: Callable[[], _Result]) -> _Result:
        """Do something in the loop's thread, and give what it returns or raises.

        Who calls waits, an event loop too: no longer than it takes the thread to turn to it,
        and as short as a lock is held. Raises ShutdownError once the loop is closed.
        """
        if threading.current_thread() is self._thread:
            return action()
        call = _Call(action)
        with self._lock:
            self.check_open()
            self._calls.append(call)
            os.write(self._wake_end, b".")
        while not call.is_done(_PATIENCE):
            if not self._thread.is_alive():
                raise ShutdownError("the proxy's thread has died; see what was logged")
        if call.error is not None:
            raise call.error
        result: _Result = call.result
        return result

    def check_open(self) -> None:
        """Raise ShutdownError once it is closed."""
        if self._closed:
            raise ShutdownError(self._reason)

    def close(self, goodbye: Callable[[], None], reason: str = "") -> None:
        """Do `goodbye` in the loop's thread and end it; harmless when it has ended.

        `reason`: what ShutdownError says from now on.
        """
        with self._lock:
            if self._closed:
                return
            self._reason = reason or self._reason
            self._closed = True
            call = _Call(goodbye)
            self._calls.append(call)
            os.write(self._wake_end, b".")
        if threading.current_thread() is self._thread:  # which may be where it is collected
            return
        while not call.is_done(_PATIENCE) and self._thread.is_alive():
            pass
        if not in_a_loop():  # where the thread may take its time to end
            self._thread.join()

    @property
    def closed(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._closed

    def abandon(self) -> None:
        """In a forked process, where it does not run: be closed, and close its descriptors."""
        self._closed = True
        self._calls.clear()
        self._let_go()

    def _let_go(self) -> None:
        with limits_lifted():
            self._selector.close()
            os.close(self._waker)
            os.close(self._wake_end)

    def watch(self, source: Any, events: int, ready: Callable[[int], None]) -> None:
        """Call `ready(events)` whenever `source` is; no events: no more."""
        number = source if isinstance(source, int) else source.fileno()
        known = self._selector.get_map().get(number)
        if known is None:
            if events:
                self._selector.register(number, events, ready)
        elif not events:
            self._selector.unregister(number)
        elif (known.events, known.data) != (events, ready):
            self._selector.modify(number, events, ready)

    def at(self, due: float, action: Callable[[], None]) -> Timer:
        """Call `action` at `due`, in monotonic seconds, never before."""
        timer = Timer(action)
        heapq.heappush(self._timers, (due, next(self._number), timer))
        return timer

    def hold(self, due: float, left: Callable[[], float], action: Callable[[], None]) -> None:
        """Call `action` at `due`, or soon after nothing is `left()`, whichever is first."""

        def look() -> None:
            now = self.clock.monotonic()
            if now >= due or left() <= 0:
                action()
            else:
                self.at(min(due, now + _SLICE), look)

        look()

    def _run(self) -> None:
        while True:
            for key, events in self._ready():
                if not self._guarded(key.data, events):
                    self.watch(key.fileobj, 0, key.data)  # else it would fail for ever
            self._ring()
            while self._calls:
                self._calls.popleft().run()
            with self._lock:  # whoever has asked for something has also rung the bell
                if self._closed and not self._calls:
                    self._let_go()
                    return

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        while self._timers and self._timers[0][2].action is None:  # cancelled
            heapq.heappop(self._timers)
        if not self._timers:
            return self._selector.select()
        rest = min(self._timers[0][0] - self.clock.monotonic(), _SLICE)
        if rest > 0:
            number = getattr(self._selector, "fileno", lambda: _SETSIZE)()
            if number >= _SETSIZE:
                return self._selector.select(rest)
            # epoll counts in milliseconds, select in microseconds.
            select.select([number], [], [], rest)
        return self._selector.select(0)

    def _ring(self) -> None:
        now = self.clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.action is not None:
                self._guarded(timer.action)

    def _drain(self, _events: int) -> None:
        os.read(self._waker, 4096)

    def _guarded(self, action: Callable[..., None], *given: int) -> bool:
        try:
            action(*given)
        except Exception:  # one connection's trouble is not the others'
            _logger.exception("a connection was given up")
            return False
        return True

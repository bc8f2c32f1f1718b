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
from typing import TypeAlias
from typing import TypeVar

from pytest_resilience.chaos.descriptors import keep_private
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import Clock
from pytest_resilience.clock import in_a_loop
from pytest_resilience.errors import ShutdownError
from pytest_resilience.locks import fork_safe


__all__ = ["EventLoop", "Timer"]

_logger = logging.getLogger("pytest_resilience.proxy")
_Result = TypeVar("_Result")
_Outcome: TypeAlias = tuple[Any, BaseException | None]  # what a call returned, or raised

_LOOK = 0.05  # seconds: how soon a moment is noticed on a clock that does not run with the kernel's
_PATIENCE = 1.0  # seconds between looks at whether the loop's thread is alive
_SETSIZE = 1024  # descriptors that select(2) can take


class Timer:
    """A call that is to be made at a moment."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do not make it; harmless when it has been made."""
        self.action = None


class EventLoop:
    """One thread that serves sockets. Everything but `call` and `close` is for that thread."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.clock = clock
        with limits_lifted():
            self._selector = selectors.DefaultSelector()
            self._wake_pipe: tuple[int, ...] = os.pipe()  # read, write; none once it is closed
        for descriptor in self._wake_pipe:
            os.set_blocking(descriptor, False)
        self._selector.register(self._wake_pipe[0], selectors.EVENT_READ, self._drain_pipe)
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._closed = False
        self._reason = "the proxy is closed; make a new one"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        keep_private(self)
        try:
            with limits_lifted():
                self._thread.start()
        except RuntimeError:  # there is no thread left
            self.close_in_child()
            raise

    def call(self, action: Callable[[], _Result]) -> _Result:
        """Do something in the loop's thread, and give what it returns or raises.

        Who calls waits, an event loop too: no longer than it takes the thread to turn to it,
        and as short as a lock is held. Raises ShutdownError once the loop is closed.
        """
        if threading.current_thread() is self._thread:
            return action()
        with self._lock:
            self.check_open()
            outcome = self._submit(action)
        found = self._outcome(outcome)
        if found is None:
            raise ShutdownError(
                "the proxy's thread has died; see what was logged, and make a new proxy"
            )
        if found[1] is not None:
            raise found[1]
        result: _Result = found[0]
        return result

    def _submit(self, action: Callable[[], Any]) -> queue.SimpleQueue[_Outcome]:
        """Have it called in the loop's thread; what comes of it. The lock has to be held."""
        outcome = queue.SimpleQueue[_Outcome]()

        def run() -> None:
            try:
                outcome.put((action(), None))
            except BaseException as error:  # it is raised where `call` was called
                outcome.put((None, error))

        # In this order: the thread looks for calls when it has been woken.
        self._calls.append(run)
        os.write(self._wake_pipe[1], b".")
        return outcome

    def _outcome(self, outcome: queue.SimpleQueue[_Outcome]) -> _Outcome | None:
        """Wait for it; None if the thread has died before."""
        while True:
            try:
                return outcome.get(timeout=_PATIENCE)
            except queue.Empty:
                if not self._thread.is_alive():
                    return None

    def check_open(self) -> None:
        """Raise ShutdownError once it is closed."""
        if self._closed:
            raise ShutdownError(self._reason)

    def close(self, last_action: Callable[[], None], reason: str = "") -> None:
        """Do `last_action` in the loop's thread and end it; harmless when it has ended.

        `reason`: what ShutdownError says from now on.
        """
        with self._lock:
            if self._closed:
                return
            self._reason = reason or self._reason
            self._closed = True
            outcome = self._submit(last_action)
        if threading.current_thread() is self._thread:  # which may be where it is collected
            return
        self._outcome(outcome)
        if not in_a_loop():  # where the thread may take its time to end
            self._thread.join()

    @property
    def closed(self) -> bool:
        """True once it has ended, or is about to."""
        return self._closed

    def close_in_child(self) -> None:
        """In a forked process, where it does not run: be closed, and close its descriptors."""
        self._closed = True
        self._calls.clear()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        with limits_lifted():
            self._selector.close()
            closing, self._wake_pipe = self._wake_pipe, ()  # the numbers are somebody else's now
            for descriptor in closing:
                os.close(descriptor)

    def descriptors(self) -> list[int]:
        """Those that it serves, and its own."""
        served = self._selector.get_map()  # None once it is closed
        return [*self._wake_pipe, *(served or ())]

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

    def call_at(self, due: float, action: Callable[[], None]) -> Timer:
        """Call `action` at `due`, in monotonic seconds, never before."""
        timer = Timer(action)
        heapq.heappush(self._timers, (due, next(self._number), timer))
        return timer

    def call_at_or_after(
        self, due: float, left: Callable[[], float], action: Callable[[], None]
    ) -> None:
        """Call `action` at `due`, or soon after no seconds are `left()`, whichever is first."""

        def look() -> None:
            now = self.clock.monotonic()
            if now >= due or left() <= 0:
                action()
            else:
                self.call_at(min(due, now + _LOOK), look)

        look()

    def _run(self) -> None:
        while True:
            for key, events in self._ready():
                if not self._guarded(key.data, events):
                    self.watch(key.fileobj, 0, key.data)  # else it would fail for ever
            self._run_timers()
            while self._calls:
                self._calls.popleft()()
            with self._lock:  # whoever has asked for something has also written to the pipe
                if self._closed and not self._calls:
                    self._close_descriptors()
                    return

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        while self._timers and self._timers[0][2].action is None:  # cancelled
            heapq.heappop(self._timers)
        if not self._timers:
            return self._selector.select()
        rest = min(self._timers[0][0] - self.clock.monotonic(), _LOOK)
        if rest > 0:
            number = getattr(self._selector, "fileno", lambda: _SETSIZE)()
            if number >= _SETSIZE:
                return self._selector.select(rest)
            # epoll counts in milliseconds, select in microseconds.
            select.select([number], [], [], rest)
        return self._selector.select(0)

    def _run_timers(self) -> None:
        now = self.clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.action is not None:
                self._guarded(timer.action)

    def _drain_pipe(self, _events: int) -> None:
        os.read(self._wake_pipe[0], 4096)

    def _guarded(self, action: Callable[..., None], *given: int) -> bool:
        try:
            action(*given)
        except Exception:  # one connection's trouble is not the others'
            _logger.exception("a connection was given up")
            return False
        return True

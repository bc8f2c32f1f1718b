"""Signals: Python handles them in the main thread, in the middle of what that does or waits for.

Where that thread waits it counts as running from the first line of a handler to the last, so that
time stands. A signal that comes in the middle of what needs the mutex is sent again when that is
free. Waits in C, which no lock of ours can end, are ended by a signal too.
"""

from __future__ import annotations

import _thread
import functools
import os
import signal
import threading
import types

from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.scheduler import current


__all__ = ["Signals"]

# What sends a signal, perhaps to this process, where the main thread handles it.
_SENDING: dict[types.ModuleType, tuple[str, ...]] = {
    os: ("kill", "killpg"),
    signal: ("raise_signal", "pthread_kill"),
    _thread: ("interrupt_main",),
}
# As they are now.
_signal, _getsignal = signal.signal, signal.getsignal
_send_to = getattr(signal, "pthread_kill", None)

_END = getattr(signal, "SIGURG", None)
"""Ends a wait in C. Nobody else uses it, and who does not expect it is not disturbed: see Go's."""


class _Handler:
    """In the place of `real`, which is what `signal.signal` was given."""

    __slots__ = ("_signals", "real")

    def __init__(self, signals: Signals, real: Any) -> None:
        self._signals = signals
        self.real = real

    def __call__(self, number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        if self._signals.comes(number) and callable(self.real):
            self.real(number, frame)


def _real(handler: Any) -> Any:
    return handler.real if isinstance(handler, _Handler) else handler


class Signals:
    """Those of one scheduler. Where its test does not run in the main thread it handles none."""

    def __init__(self, scheduler: Scheduler, kick: Callable[[], None]) -> None:
        """`kick`: calls `send_again` soon, in another thread."""
        self._scheduler = scheduler
        self._kick = kick
        self._again: deque[int] = deque()
        self._ends = False
        self._handles = False

    def install(self, patches: Patches) -> None:
        for module, names in _SENDING.items():
            for name in names:
                if hasattr(module, name):
                    patches.set(module, name, _send(getattr(module, name)))
        self._handles = threading.current_thread() is threading.main_thread()
        if not self._handles:
            return
        patches.set(signal, "signal", self._setting(signal.signal))
        patches.set(signal, "getsignal", _getting(signal.getsignal))
        for number in signal.valid_signals():
            handler = _getsignal(number)
            if callable(handler) or number == _END:
                _signal(number, _Handler(self, handler))

    def remove(self) -> None:
        """Put the handlers back, but for those that were set anew by others."""
        for number in signal.valid_signals() if self._handles else ():
            handler = _getsignal(number)
            if isinstance(handler, _Handler):
                _signal(number, handler.real)
        self._handles = False

    def comes(self, number: int) -> bool:
        """A signal has come, in this thread; whether it is to be handled now.

        Raises ClockStalledError for the one that ends a wait in C.
        """
        __tracebackhide__ = True
        scheduler = self._scheduler
        if scheduler.is_held_here:
            self._again.append(number)
            self._kick()
            return False
        with scheduler.mutex:
            scheduler.let_go(_thread.get_ident())
            ends = number == _END and self._ends
            self._ends = self._ends and not ends
        if ends:
            scheduler.members.told(_thread.get_ident())
            raise ClockStalledError(str(scheduler.failure))
        return True

    def send_again(self) -> None:
        """What came at a bad moment. Needs the mutex: so the main thread does not have it."""
        while self._again:
            self._send(self._again.popleft())

    def end_wait_in_c(self) -> None:
        """Raise the failure in the test's thread, which is blocked. Needs the mutex."""
        if self._handles and _END is not None:
            self._ends = True
            self._send(_END)

    def _send(self, number: int) -> None:
        handles = threading.main_thread().ident
        if handles is not None and _send_to is not None:
            _send_to(handles, number)
            self._scheduler.let_go(handles)

    def _setting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def set_handler(signalnum: int, handler: Any) -> Any:
            return _real(real(signalnum, _Handler(self, handler) if callable(handler) else handler))

        return set_handler


def _getting(real: Callable[[int], Any]) -> Callable[[int], Any]:
    return functools.wraps(real)(lambda signalnum: _real(real(signalnum)))


def _send(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def send(*args: Any) -> Any:
        scheduler, handles = current(), threading.main_thread().ident
        if scheduler is None or handles is None or handles == _thread.get_ident():
            return real(*args)
        with scheduler.mutex:  # so that it is not handled in the middle of what needs that
            result = real(*args)
            scheduler.let_go(handles)
            return result

    return send

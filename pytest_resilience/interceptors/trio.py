"""trio: its sockets, delays of its tasks, and the cancel scopes that the code under test enters.

Its sockets poll, and are read as all that do (see `receive_nonblocking`). But they call the methods
of Python's sockets that were there when trio was loaded, and await connects.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import socket
import sys
import threading

from collections.abc import Callable
from collections.abc import Coroutine
from types import FrameType
from typing import Any

from pytest_resilience.chaos.cancelling import note_nursery
from pytest_resilience.chaos.cancelling import note_scope
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.types.callers import Cancellation
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.clock import IdlingClock
from pytest_resilience.clock import is_frozen
from pytest_resilience.locks import fork_safe
from pytest_resilience.patching import LibraryPatches
from pytest_resilience.patching import Patches
from pytest_resilience.stacks import is_library


__all__ = ["CancelScopeInterceptor", "TrioSockets", "pause_in_trio"]

_A_WHILE = 0.05  # seconds: how soon who waits meets what another task has asked for
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_ENTERING = frozenset({"__enter__", "__aenter__"})


class TrioSockets:
    """The sockets of trio, once it is loaded.

    Attributes:
        patience: after how many seconds a receive of a socket is tried again, though nothing has
            come; None for never.
        wakes: what it receives then, unless something has come; None for nothing.
    """

    def __init__(self, connect: Callable[..., Coroutine[Any, Any, None]], patches: Patches) -> None:
        """`connect`: as of `LoopConnects`."""
        self.patience: Callable[[socket.socket], float | None] = lambda _: None
        self.wakes: Callable[[socket.socket], bytes | None] = lambda _: None
        self._connect = connect
        self._patches = patches
        self._reached = False
        self._retired = False
        self._lock = fork_safe(self, "_lock", threading.Lock)

    def install(self) -> None:
        """Reach trio now, if it is loaded."""
        self._reached = self._retired = False
        self.reach()

    def reach(self) -> None:
        """Reach trio, if it is loaded."""
        module = sys.modules.get("trio._socket")
        made = getattr(module, "_SocketType", None)  # not as long as it is being loaded
        with self._lock:
            if self._reached or self._retired or made is None:
                return
            self._reached = True
            self._patches.replace(made, "_nonblocking_helper", self._calling)
            self._patches.replace(made, "connect", self._connecting)

    def remove(self) -> None:
        with self._lock:  # or another thread's first run comes in between
            self._retired = True

    def _calling(
        self, original: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        # Only now: a child without sockets that is cancelled somewhere needs none of theirs.
        from pytest_resilience.interceptors.sockets.socket_classes import python_socket_class

        @functools.wraps(original)
        async def call(sock: Any, wait: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            name = method.__name__
            method = getattr(python_socket_class(), name, method)
            if name == "recv":
                wait = functools.partial(self._wait, wait)
                method = functools.partial(self._receive, method)
            return await original(sock, wait, method, *args, **kwargs)

        return call

    async def _wait(self, wait: Callable[[Any], Coroutine[Any, Any, None]], sock: Any) -> None:
        """Wait until something has come, or it is time to try it all the same."""
        patience = self.patience(sock)
        if patience is None:
            await wait(sock)
            return
        import trio  # whose task this is

        with trio.move_on_after(min(patience, _A_WHILE)):
            await wait(sock)

    def _receive(self, receive: Callable[..., Any], sock: Any, *args: Any) -> Any:
        """`receive`, which is replaced no more if the last experiment has ended meanwhile."""
        __tracebackhide__ = True
        woken = self.wakes(sock)
        return receive(sock, *args) if woken is None else woken

    def _connecting(
        self, original: Callable[..., Coroutine[Any, Any, None]]
    ) -> Callable[..., Coroutine[Any, Any, None]]:
        @functools.wraps(original)
        async def connect(sock: Any, address: Any) -> None:
            __tracebackhide__ = True
            await self._connect(
                sock._sock,  # noqa: SLF001  # trio has no name for it
                address,
                proceed=functools.partial(original, sock, address),
                failed=f"Error connecting to {address!r}: {os.strerror(errno.ETIMEDOUT)}",
            )

        return connect


class _Nap:
    """What a task of trio has as `custom_sleep_data` while it is delayed.

    Attributes:
        resilience_due: when the delay is over, in the time of the run; infinite for never.
        resilience_scope: ends the nap before, as experiments may end.
    """

    async def sleep(self, seconds: float, rest: float, clock: Clock) -> None:
        """For so many seconds of the `rest`."""
        import trio  # whose task this is

        task = trio.lowlevel.current_task()
        self.resilience_due = trio.current_time() + rest
        with trio.move_on_after(seconds) as self.resilience_scope:
            task.custom_sleep_data = self  # until it is woken
            if isinstance(clock, IdlingClock):
                clock.idle_in(task._runner, self.resilience_due)  # noqa: SLF001  # has no name
            await trio.sleep_forever()


async def pause_in_trio(effect: Effect, seconds: float) -> None:
    """As `waiting.pause`, of a task of trio."""
    import trio  # whose task this is

    began, slept, nap = effect.clock.monotonic(), 0.0, _Nap()

    def passed() -> float:
        # Whichever is faster: a clock that stands still holds nobody up for ever.
        return max(effect.clock.monotonic() - began, slept)

    try:
        while (rest := min(seconds - passed(), effect.left())) > 0:  # nobody says when it ends
            step = min(rest, _A_WHILE)
            if is_frozen():  # trio sleeps by what is frozen
                await trio.to_thread.run_sync(MACHINE_CLOCK.sleep, step)
                continue
            before = trio.current_time()
            try:
                await nap.sleep(step, rest, effect.clock)
            finally:
                slept += 0.0 if is_frozen() else trio.current_time() - before
    finally:
        effect.add_delay(passed())


class CancelScopeInterceptor:
    """Notes who enters a cancel scope, while there is an experiment that cancels."""

    kinds = KINDS

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._library = LibraryPatches({"trio": _reach_trio})

    def install(self) -> None:
        active = self._engine.active
        if any(
            isinstance(fault, Cancellation) for each in active for fault in each.experiment.faults
        ):
            self._library.install()
        else:
            self._library.remove()

    def refresh(self) -> None:
        """Nothing to do: what is entered is all the same for every experiment."""

    def remove(self) -> bool:
        return self._library.remove()


def _reach_trio(patches: Patches) -> None:
    import trio  # which is loaded

    patches.replace(trio.CancelScope, "__enter__", _entering)


def _is_of_nursery(frame: FrameType) -> bool:
    manager = frame.f_locals.get("self") if frame.f_code.co_name == "__aenter__" else None
    return type(manager).__name__ == "NurseryManager"


def _is_by_user(frame: FrameType | None) -> bool:
    """Whether it is the user's code that enters a scope, which is done in `frame`.

    Libraries may help with that: by a context manager, or the generator that one is made of.
    """
    while frame is not None:
        code = frame.f_code
        if not is_library(code.co_filename):
            return True
        if code.co_name not in _ENTERING and not code.co_flags & _GENERATOR:
            return False
        frame = frame.f_back
    return False


def _entering(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def enter(scope: Any) -> Any:
        frame = sys._getframe(1)  # noqa: SLF001  # as in `chaos.call_site`
        if _is_by_user(frame):
            note = note_nursery if _is_of_nursery(frame) else note_scope
            note(scope)
        return original(scope)

    return enter

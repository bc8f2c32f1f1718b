"""Keeping a socket that its program polls from being ready to read, until a moment.

Who reads without blocking asks the system when there is something to read: with select,
poll or epoll, or through a loop that is made of them, in whatever language. So it is the
kernel that has to keep quiet, and it does below the socket's low-water mark. What the
mark cannot keep back, the end of a stream and a full buffer, is polled again until its
time has come; and so is everything where there is no such mark.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.seams import socket_effects
from pytest_resilience.seams.links import Link


__all__ = ["Readiness"]

_SLICE = 0.05  # seconds: how soon it is noticed that an experiment is over
_PATIENCE = 1.0  # seconds for the thread to end
_HIGH = 1 << 20  # bytes: more than comes while nobody reads
_MARK = getattr(socket, "SO_RCVLOWAT", None)


class Readiness:
    """The sockets that are not ready yet. One thread sees when they are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waits: dict[Link, _Wait] = {}
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None

    def hold(self, sock: socket.socket, link: Link, effect: Effect, due: float) -> None:
        """Until `due`, in monotonic seconds, there is nothing to receive.

        Before that, and while the experiments of `effect` last, raises what a non-blocking
        receive raises then. Afterwards returns, or raises what ends a silence.
        """
        __tracebackhide__ = True
        if getattr(sock, "pending", int)():  # TLS has it: no poll would tell of it later
            return
        with self._changed:
            wait = self._waits.get(link)
            if wait is None and due > self._clock.monotonic() and effect.left():
                wait = self._waits[link] = _Wait(sock, effect, self._clock.monotonic(), due)
                self._watch()
            if wait is not None and not wait.look(self._clock.monotonic()):
                raise socket_effects.nothing_yet(sock)
            self._waits.pop(link, None)
        if due == float("inf") and not effect.heals:
            raise socket_effects.silenced()

    def look(self) -> None:
        """The active experiments have changed."""
        with self._changed:
            self._changed.notify()

    def retire(self) -> None:
        """Keep nobody waiting any more."""
        with self._changed:
            for wait in self._waits.values():
                wait.end(self._clock.monotonic())
            self._waits.clear()
            self._changed.notify()
            watcher = self._watcher
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join(_PATIENCE)

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(
                target=self._end_in_time, name="pytest-resilience readiness", daemon=True
            )
            self._watcher.start()
        self._changed.notify()

    def _end_in_time(self) -> None:
        with self._changed:
            while True:
                now = self._clock.monotonic()
                waits = [wait for wait in self._waits.values() if not wait.look(now)]
                if not waits:
                    self._watcher = None
                    return
                rest = min(wait.rest for wait in waits)
                self._changed.wait(min(max(rest, 0.0), _SLICE))


class _Wait:
    """One socket that is not ready yet.

    Time passes with the clock or with the machine, whichever is faster: one that stands
    still holds nobody up for ever.
    """

    def __init__(self, sock: socket.socket, effect: Effect, now: float, due: float) -> None:
        self._sock = weakref.ref(sock)
        self._effect = effect
        self._began = now
        self._due = due
        self._machine_due = SYSTEM_CLOCK.monotonic() + due - now
        self._over = False
        self._mark: int | None = None
        # Where the socket blocks, and only this call was not to, the mark would hold up others.
        if _MARK is not None and sock.gettimeout() == 0:
            with contextlib.suppress(OSError):
                self._mark = sock.getsockopt(socket.SOL_SOCKET, _MARK)
                sock.setsockopt(socket.SOL_SOCKET, _MARK, _HIGH)

    @property
    def rest(self) -> float:
        """Seconds of the machine until it is over, if nothing else ends it."""
        return self._machine_due - SYSTEM_CLOCK.monotonic()

    def look(self, now: float) -> bool:
        """Whether it is over, `now` in monotonic seconds."""
        sock = self._sock()
        gone = sock is None or sock.fileno() < 0
        if gone or now >= self._due or self.rest <= 0 or not self._effect.left():
            self.end(now)
        return self._over

    def end(self, now: float) -> None:
        """Let the socket be ready when it is."""
        if self._over:
            return
        self._over = True
        self._effect.waited(max(0.0, min(now, self._due) - self._began))
        sock = self._sock()
        if sock is not None and self._mark is not None:
            with contextlib.suppress(OSError):  # closed
                sock.setsockopt(socket.SOL_SOCKET, _MARK, self._mark)  # type: ignore[arg-type]

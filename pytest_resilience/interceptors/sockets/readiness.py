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

from collections.abc import Callable

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.clock import in_a_loop
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.connections import Link
from pytest_resilience.interceptors.waiting import SLICE
from pytest_resilience.locks import fork_safe


__all__ = ["Readiness"]

Then = Callable[[], None]

_PATIENCE = 1.0  # seconds for the thread to end
_HIGH = 1 << 20  # bytes: more than comes while nobody reads
_MARK = getattr(socket, "SO_RCVLOWAT", None)


class Readiness:
    """The sockets that are not ready yet. One thread sees when they are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waits: dict[Link, _Wait] = {}
        self._changed = fork_safe(self, "_changed", threading.Condition)
        self._watcher: threading.Thread | None = None

    def hold(  # whom, for what, until when, and then
        self, sock: socket.socket, link: Link, effect: Effect, due: float, then: Then
    ) -> None:
        """There is nothing to receive until `due`, in monotonic seconds, or `effect` is over.

        Raises what a non-blocking receive raises then; `then` is called when it is over and
        the program has come again. When it is over already, that is now.
        """
        __tracebackhide__ = True
        in_hand = getattr(sock, "pending", int)()  # in TLS: no poll would tell of it later
        now = self._clock.monotonic()
        if in_hand or due <= now or not effect.left():
            then()
            return
        with self._changed:
            self._waits[link] = _Wait(sock, effect, now, due, then)
            self._watch()
        raise effects.nothing_yet(sock)

    def ask(self, sock: socket.socket, link: Link) -> bool:
        """Whether something was held that is over now.

        While it is not, raises what a non-blocking receive raises; after a silence, what ends it.
        """
        __tracebackhide__ = True
        if link not in self._waits:
            return False
        with self._changed:
            wait = self._waits.get(link)
            if wait is None:  # its socket was another one, and has just gone
                return False
            if not wait.look(self._clock.monotonic()):
                raise effects.nothing_yet(sock)
            del self._waits[link]
        if wait.due == float("inf") and not wait.effect.transient:
            raise effects.silenced()
        wait.then()
        return True

    def release(self, link: Link) -> None:
        """Whoever uses the socket from now on polls no more, or uses another object for it."""
        if link not in self._waits:
            return
        with self._changed:
            wait = self._waits.pop(link, None)
            if wait is None:
                return
            wait.end(self._clock.monotonic())
        if link.receiving and link.ending is None and link.course is None:
            link.answer, link.due = wait.effect, wait.due

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
        if watcher is not None and watcher is not threading.current_thread() and not in_a_loop():
            watcher.join(_PATIENCE)

    def _watch(self) -> None:
        if self._watcher is None or not self._watcher.is_alive():  # it was, before a fork
            self._watcher = threading.Thread(
                target=self._end_in_time, name="pytest-resilience readiness", daemon=True
            )
            with limits_lifted():
                self._watcher.start()
        self._changed.notify()

    def _end_in_time(self) -> None:
        with self._changed:
            while True:
                now = self._clock.monotonic()
                waits = [wait for wait in self._waits.values() if not wait.look(now)]
                # Each is over, with what it took: nobody comes for it.
                self._waits = {link: wait for link, wait in self._waits.items() if not wait.gone}
                if not waits:
                    self._watcher = None
                    return
                rest = min(wait.rest for wait in waits)
                self._changed.wait(min(max(rest, 0.0), SLICE))


class _Wait:
    """One socket that is not ready yet, and what follows when it is.

    Time passes with the clock or with the machine, whichever is faster: one that stands
    still holds nobody up for ever.
    """

    def __init__(  # as given to `hold`
        self, sock: socket.socket, effect: Effect, now: float, due: float, then: Then
    ) -> None:
        self.effect = effect
        self.due = due
        self.then = then
        self._sock = weakref.ref(sock)
        self._began = now
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
        if self.gone or now >= self.due or self.rest <= 0 or not self.effect.left():
            self.end(now)
        return self._over

    @property
    def gone(self) -> bool:
        """Whether the socket is closed, or nobody's any more."""
        sock = self._sock()
        return sock is None or sock.fileno() < 0

    def end(self, now: float) -> None:
        """Let the socket be ready when it is."""
        if self._over:
            return
        self._over = True
        self.effect.add_delay(max(0.0, min(now, self.due) - self._began))
        sock = self._sock()
        if sock is not None and self._mark is not None:
            with contextlib.suppress(OSError):  # closed
                sock.setsockopt(socket.SOL_SOCKET, _MARK, self._mark)  # type: ignore[arg-type]

"""The sockets on which something is held back from who polls them: not ready yet.

It is the kernel that has to keep quiet, and it does below the socket's low-water mark. What the
mark cannot keep back, the end of a stream and a full buffer, is polled again until its time has
come; and so is everything where there is no such mark.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import threading
import weakref

from typing import Any

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.clock import in_a_loop
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.peer_names import is_literal
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import given_up
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket
from pytest_resilience.interceptors.sockets.socket_classes import lower_mark
from pytest_resilience.interceptors.sockets.socket_classes import raise_mark
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.waiting import head_start
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.interceptors.waiting import wait_for_change
from pytest_resilience.locks import fork_safe
from pytest_resilience.socket_filters import allow_incoming
from pytest_resilience.socket_filters import drop_incoming


__all__ = ["Held", "Readiness", "silence"]

_TOO_LONG = 60.0  # seconds: nobody waits for so long to see the kernel give up
_PATIENCE = 1.0  # seconds for the thread to end


class Readiness:
    """The sockets that are not ready yet. One thread sees when they are.

    Attributes:
        held: what is held back, by connection.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.held: dict[TcpConnection, Held] = {}
        self._changed = fork_safe(self, "_changed", threading.Condition)
        self._watcher: threading.Thread | None = None

    def hold(self, sock: socket.socket, connection: TcpConnection, held: Held, now: float) -> None:
        """Let there be nothing to receive until `held` is over; `now` is when that was decided.

        Raises what a non-blocking receive raises then, unless it is over already.
        """
        __tracebackhide__ = True
        in_hand = getattr(sock, "pending", int)()  # in TLS: no poll would tell of it later
        if in_hand or held.due <= now or not held.stream.effect.left():
            return
        with self._changed:
            self._begin(sock, connection, held, now)
        raise effects.nothing_yet(sock)

    def silence(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        stream: ResponseStream,
        *,
        sends: bool = False,
    ) -> None:
        """Let who polls a blocking socket hear nothing of `stream` until its experiments end.

        `sends`: what it sends is kept from the kernel, which cannot give up on it.
        """
        if self.is_silent(connection):
            return
        with self._changed:
            held, now = Held(sock, stream, math.inf, 0), self._clock.monotonic()
            drops = stream.is_stalled or not stream.effect.passes
            self._begin(sock, connection, held, now, drops=drops, sends=sends)

    def try_on(
        self, sock: socket.socket, connection: TcpConnection, effect: Effect, address: Any
    ) -> None:
        """Let the kernel go on with a connect to `address`, for which the client waits no longer.

        It ends its wait by a timeout of Python (no errno), or of the kernel (EINPROGRESS).
        """
        if not is_literal(address[0]):
            return  # to find out whose name it is may take any time
        self.keep_pending(sock, connection, effect)
        timeout = sock.gettimeout()
        sock.settimeout(0)
        try:
            with contextlib.suppress(OSError):  # it is pending
                KernelSocket.connect(kernel_socket(sock), address)
        finally:
            sock.settimeout(timeout)

    def keep_pending(self, sock: socket.socket, connection: TcpConnection, effect: Effect) -> None:
        """Let a connect that is about to be begun be answered when the experiments have ended."""
        with self._changed:
            # A connection of its own, for which no receive is held up.
            pending = TcpConnection(sock, connection.peer, number=connection.number)
            held = Held(sock, ResponseStream(effect), math.inf, 0)
            self._begin(sock, pending, held, self._clock.monotonic(), drops=True)

    def _begin(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        held: Held,
        now: float,
        *,
        drops: bool = False,
        sends: bool = False,
    ) -> None:
        before = self.held.get(connection)
        if before is not None:  # it may be over, and nobody has seen that: the mark is its own
            before.end(now)
        held.begin(sock, now, drops=drops, sends=sends)
        self.held[connection] = held
        self._watch()

    def is_silent(self, connection: TcpConnection) -> bool:
        """Whether that is so."""
        held = self.held.get(connection)
        return held is not None and held.due == math.inf and held.stream.effect.left() > 0

    def ended(self, sock: socket.socket, connection: TcpConnection) -> Held | None:
        """The hold on `connection` that is over now; None if there was none.

        While it is not over, raises what a non-blocking receive raises; after a silence, what
        ends it.
        """
        __tracebackhide__ = True
        if connection not in self.held:
            return None
        with self._changed:
            held = self.held.get(connection)
            if held is None:  # its socket was another one, and has just gone
                return None
            if 0 < held.rest <= head_start():
                wait(MACHINE_CLOCK, held.rest, held.stream.left)
            if not held.is_over(self._clock.monotonic()):
                raise effects.nothing_yet(sock)
            del self.held[connection]
        held.tell()
        if held.due == float("inf") and not held.stream.effect.transient:
            raise effects.silenced()
        return held

    def release(self, connection: TcpConnection) -> None:
        """Whoever uses the socket from now on polls no more, or uses another object for it.

        For who has found it among those that are `held`.
        """
        with self._changed:
            held = self.held.pop(connection, None)
            if held is not None:  # the watcher was not faster
                held.end(self._clock.monotonic())
                self._changed.notify()

    def refresh(self) -> None:
        """The active experiments have changed: what ends with one of them does so at once.

        Before the next begins, for which all that has come by then can be received.
        """
        with self._changed:
            now = self._clock.monotonic()
            for held in self.held.values():
                held.is_over(now)
            self._changed.notify()

    def remove(self) -> None:
        """Keep nobody waiting any more."""
        with self._changed:
            for held in self.held.values():
                held.end(self._clock.monotonic())
            self.held.clear()
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
                waiting = [held for held in self.held.values() if not held.is_over(now)]
                # Each of the others is over, with what it took: nobody comes for those.
                self.held = {key: held for key, held in self.held.items() if not held.is_closed}
                if not waiting:
                    self._watcher = None
                    return
                rest = min(min(held.announce(), held.stream.left()) for held in waiting)
                wait_for_change(self._changed, rest)


class Held:
    """A hold on one socket: it is kept from being ready to read.

    Time passes with the clock or with the machine, whichever is faster: one that stands
    still holds nobody up for ever.

    Attributes:
        stream: the response, or the EOF.
        due: until when, in monotonic seconds.
        size: bytes that were there when a response was held back before it began.
    """

    __slots__ = (
        "_began", "_blocking", "_drops", "_machine_due", "_mark", "_over", "_sock", "due", "size",
        "stream",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        stream: ResponseStream,
        due: float,
        size: int,
        *,
        polls: bool = False,
    ) -> None:
        """`polls`: the client comes when it is over, though the socket may block."""
        self.stream = stream
        self.due = due
        self.size = size
        self._sock = weakref.ref(sock)
        self._began = self._machine_due = due
        self._over = self._drops = False
        self._blocking = sock.gettimeout() != 0 and not (polls and due < math.inf)
        self._mark: int | None = None

    def begin(
        self, sock: socket.socket, now: float, *, drops: bool = False, sends: bool = False
    ) -> None:
        """Keep the kernel from telling that there is something to receive, or from taking it."""
        self._began = now
        late = self.stream.effect.clock.monotonic() - now
        self._machine_due = MACHINE_CLOCK.monotonic() + self.due - now - late
        self._drops = drops
        if drops:
            silence(sock)
        if self.due == math.inf and (sends or not drops):  # the kernel has nothing to give up for
            patience, code = effects.kernel_patience(sock, silent=True, connecting=False)
            if code == errno.ETIMEDOUT:  # and not of who blocks in receiving
                self._machine_due = MACHINE_CLOCK.monotonic() + patience
        # Where the socket blocks, and only this call was not to, the mark would hold up others.
        elif self._blocking and self.due < math.inf:
            return
        self._mark = raise_mark(sock)

    @property
    def left(self) -> float:
        """Seconds until it is over, if not more comes in between; never 0."""
        return max(1e-6, min(self.rest, self.stream.left()))

    @property
    def rest(self) -> float:
        """Seconds of the machine until it is over, if nothing else ends it."""
        return self._machine_due - MACHINE_CLOCK.monotonic()

    def announce(self) -> float:
        """Let who polls come, if it is nearly over; seconds until there is more to do for it."""
        sock = self._sock()
        if self._mark is None or sock is None:
            return self.rest
        rest = self.rest - head_start()
        if rest <= 0:
            lower_mark(sock, self._mark)
            self._mark = None
        return rest if rest > 0 else self.rest

    @property
    def is_closed(self) -> bool:
        """Whether the socket is closed, or nobody's any more."""
        sock = self._sock()
        return sock is None or sock.fileno() < 0

    def is_over(self, now: float) -> bool:
        """Whether it is over `now`, in monotonic seconds; if so, it is ended."""
        is_due = now >= self.due or self.rest <= 0
        if is_due or self.is_closed or not self.stream.left():
            self.end(now)
        return self._over

    @property
    def _is_timed_out(self) -> bool:
        return self.due == math.inf and self.rest <= 0 < self.stream.left()

    def tell(self) -> None:
        """Raise what the kernel would have told by now, if it would have given up on the peer."""
        __tracebackhide__ = True
        if self._is_timed_out:
            raise os_error(errno.ETIMEDOUT)

    def is_given_up(self, sock: KernelSocket) -> bool:
        """Whether the kernel has given up on its peer before it was over."""
        return self._drops and self.stream.left() > 0 and given_up(sock)

    def end(self, now: float) -> None:
        """Let the socket be ready when it is."""
        if self._over:
            return
        self._over = True
        if not self._blocking:  # else who receives waits, and says how long
            # On a clock that stands still.
            now = self.due if self.rest <= 0 and self.due < math.inf else now
            self.stream.effect.add_delay(max(0.0, min(now, self.due) - self._began))
        sock = self._sock()
        if sock is None or sock.fileno() < 0:
            return
        if self._mark is not None:
            lower_mark(sock, self._mark)
        if self._drops:
            allow_incoming(sock)
        is_lost = self.due == math.inf and not self.stream.effect.transient and not self._drops
        if self._is_timed_out or (not self._blocking and (is_lost or self.stream.is_stalled)):
            effects.end_of_stream(sock)  # or nobody is told that it is lost


def silence(sock: KernelSocket) -> None:
    """Let the kernel take nothing that the peer of `sock` says, but that it receives what is sent.

    Not even that where the client has the kernel give up on a peer of whom nothing comes.
    """
    patience, code = effects.kernel_patience(sock, silent=True, connecting=False)
    gives_up = code == errno.ETIMEDOUT and patience < _TOO_LONG
    drop_incoming(sock, keep_acks=not gives_up)

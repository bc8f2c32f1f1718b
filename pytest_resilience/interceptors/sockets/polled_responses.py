"""Responses for which a client polls its blocking socket, and comes when it is told of one.

Who calls `recv` is held up there, and nobody else is needed. But a poll asks the kernel. So from
the request on, until the client comes, a thread looks after the connection: what is late is kept
below the socket's low-water mark until it is due, and what needs no response is told. What
happens to a response is still decided when the client waits for it: when it receives, or is seen
to poll. Who looks again and again without waiting is never seen to, and is told a moment later.
"""

from __future__ import annotations

import math
import socket
import threading
import weakref

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.callers import CallerFault
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import in_a_loop
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets import waiting_threads
from pytest_resilience.interceptors.sockets.connections import TcpConnection
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import lower_mark
from pytest_resilience.interceptors.sockets.socket_classes import raise_mark
from pytest_resilience.locks import fork_safe


__all__ = ["PolledResponses"]

_SLICE = 0.001  # seconds between two looks
_A_WHILE = 0.01  # seconds in which a client comes that does not poll
_LINGER = 0.1  # seconds until the thread ends that nobody needs
_PATIENCE = 1.0  # seconds for that


class PolledResponses:
    """See the module.

    Attributes:
        awaited: what clients may poll for; None once they are told that it is there.
    """

    def __init__(self, engine: Engine) -> None:
        self.awaited: dict[TcpConnection, _Awaited | None] = {}
        self._engine = engine
        self._changed = fork_safe(self, "_changed", threading.Condition)
        self._watcher: threading.Thread | None = None
        self._over = self._lingers = False

    def expect(self, sock: socket.socket, connection: TcpConnection) -> None:
        """A request is about to be sent, and its response may be polled for: `watch` then."""
        late, strikes = self._possible()
        if (
            not (late or strikes)
            or (connection.inbound.tickets and effects.available(sock))  # polls are told of them
            or connection.inbound.thread is not None
            or not is_a(sock, KernelSocket)
            or MACHINE_CLOCK.exact_sleep() is not None  # in virtual time others tell polls
        ):
            return
        with self._changed:
            self.awaited[connection] = _Awaited(sock, connection, late=late, strikes=strikes)

    def watch(self) -> None:
        """It was sent: look after it.

        Not before, where the thread would take its turn, and the request be late.
        """
        if not self.awaited:
            return
        with self._changed:
            self._watch()

    def forget(self, connection: TcpConnection, *, asks: bool = False) -> None:
        """The client comes for its response, or goes, or `asks` for more."""
        if connection not in self.awaited:
            return
        with self._changed:
            if connection not in self.awaited:
                return
            awaited = self.awaited.pop(connection)
            if awaited is not None:
                awaited.end(self._engine.clock.monotonic())
            elif asks:  # who was told of it has taken it otherwise, or leaves it for later
                connection.inbound.expected = False

    def remove(self) -> None:
        """Nothing is intercepted any more."""
        with self._changed:
            for connection in [*self.awaited]:
                self.forget(connection)
            watcher, self._over = self._watcher, True
            self._changed.notify()
        if watcher is not None and watcher is not threading.current_thread() and not in_a_loop():
            watcher.join(_PATIENCE)

    def _possible(self) -> tuple[bool, bool]:
        """Whether a response may be late, and whether something may happen that needs none."""
        late = strikes = False
        if self._engine.recorder is None:
            for each in self._engine.active:
                for fault in each.experiment.faults:
                    if isinstance(fault, CallerFault):  # which only the caller can meet
                        return False, False
                    late = late or (RECEIVE in fault.kinds and 0 < fault.delay < math.inf)
                    strikes = strikes or _needs_no_response(fault)
        return late, strikes

    def _watch(self) -> None:
        """Have the thread look, which needs the lock for it."""
        if self._watcher is None or not self._watcher.is_alive():  # it was, before a fork
            self._over = False
            self._watcher = threading.Thread(
                target=self._look_until_over, name="pytest-resilience polls", daemon=True
            )
            with limits_lifted():
                self._watcher.start()
        elif self._lingers:
            self._changed.notify()

    def _look_until_over(self) -> None:
        with self._changed:
            while not self._over:
                self._changed.wait(_SLICE)
                if not self._look():
                    self._lingers = True
                    if not self._changed.wait(_LINGER):
                        break
                    self._lingers = False
            self._watcher, self._lingers = None, False

    def _look(self) -> bool:
        """Do what there is to do now; returns whether there may be more later."""
        polled = _Polled()
        for connection, awaited in [*self.awaited.items()]:
            if awaited is not None and awaited.look(self._engine, connection, polled):
                self.awaited[connection] = None
                if not connection.inbound.expected:
                    del self.awaited[connection]
        return any(self.awaited.values())


class _Polled:
    """What is polled just now, found out when somebody wants to know."""

    def __init__(self) -> None:
        self._found: frozenset[int] | None = None

    def __contains__(self, sock: socket.socket) -> bool:
        if self._found is None:
            found, received = waiting_threads.waits(), waiting_threads.IN_RECEIVE
            self._found = frozenset(each.descriptor for each in found if each.how != received)
        return sock.fileno() in self._found


class _Awaited:
    """One response that was asked for, and that nobody has come for.

    As with what is held back elsewhere, a clock that stands still holds nobody up for ever.
    """

    __slots__ = (
        "_arrived", "_decided", "_due", "_machine_due", "_mark", "_since", "_sock", "_stream",
        "_strikes", "_thread",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, connection: TcpConnection, *, late: bool, strikes: bool
    ) -> None:
        """Whether the response may be late, and whether something may happen that needs none."""
        self._sock = weakref.ref(sock)
        self._thread = threading.get_ident()
        self._strikes = strikes
        self._since = MACHINE_CLOCK.monotonic()  # when it was asked for, or has come
        self._arrived: float | None = None
        self._decided = connection.inbound.expected
        self._stream = connection.inbound.stream if self._decided else None
        self._due: float | None = None
        self._machine_due = math.inf
        self._mark = raise_mark(sock) if late else None

    def look(self, engine: Engine, connection: TcpConnection, polled: _Polled) -> bool:
        """Do what there is to do now; returns whether that was all."""
        sock, now = self._sock(), engine.clock.monotonic()
        if sock is None or sock.fileno() < 0:
            return True
        if connection.is_sending:
            return False
        if self._arrived is None and effects.available(sock):
            self._arrived, self._since = now, MACHINE_CLOCK.monotonic()
            if self._mark is None:
                return True  # the poll was told of it
        stream = connection.inbound.stream
        if connection.turn.receiving and not (self._decided and stream is self._stream):
            # An outage has begun, which has decided, or overtakes what is late.
            self._stream, self._due = stream, None
            self._decided = connection.inbound.expected = True
        if not self._decided and self._is_awaited(sock, polled):
            place = engine.call_site(thread=self._thread)
            self._stream = connection.begin_response(engine, place=place)
            self._decided = connection.inbound.expected = True
        return self._decided and self._deliver(sock, connection, now)

    def _is_awaited(self, sock: socket.socket, polled: _Polled) -> bool:
        """Whether the client waits, as far as is seen, for what may happen now."""
        waits_long = MACHINE_CLOCK.monotonic() - self._since >= _A_WHILE
        if self._arrived is not None:
            return waits_long or sock in polled
        return self._strikes and waits_long and sock in polled

    def _deliver(self, sock: socket.socket, connection: TcpConnection, now: float) -> bool:
        """Have the poll told when it is time; returns whether it was."""
        stream = self._stream
        if stream is not None and self._due is None:
            if stream.needs_response and self._arrived is None:
                return False
            if not stream.needs_response:
                self._arrived = connection.turn.sent_at
            assert self._arrived is not None  # as above
            self._due = stream.arrive(self._arrived)
            self._machine_due = MACHINE_CLOCK.monotonic() + self._due - now
        is_early = self._due is not None and now < self._due
        if stream is not None and is_early and stream.left() and self._rest > 0:
            return False
        self.end(now)
        if stream is not None and not stream.needs_response and stream.effect.left():
            match stream.next(0, now):
                case ResetConnection() | CloseConnection() as step:
                    effects.end_once(connection, step)
                case _:
                    effects.end_of_stream(sock)
        return True

    @property
    def _rest(self) -> float:
        """Seconds of the machine until it is due."""
        return self._machine_due - MACHINE_CLOCK.monotonic()

    def end(self, now: float) -> None:
        """Let the kernel tell what it has."""
        if self._stream is not None and self._due is not None and self._arrived is not None:
            self._stream.effect.add_delay(max(0.0, min(now, self._due) - self._arrived))
        if (sock := self._sock()) is not None and self._mark is not None:
            lower_mark(sock, self._mark)


def _needs_no_response(fault: Fault) -> bool:
    return RECEIVE in fault.kinds and not (fault.waits or fault.needs_response)

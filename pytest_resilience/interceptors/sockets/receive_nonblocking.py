"""What a program receives that polls its sockets by itself.

As one on `selectors` does, and trio, and `loop.sock_recv`. Who reads without blocking asks the
system when there is something to read, or a loop that asks it. So it is the kernel that has to keep
quiet, and it does below the socket's low-water mark. What the mark cannot keep back, the end of a
stream and a full buffer, is polled again until its time; so is everything where there is no mark.
"""

from __future__ import annotations

import errno
import math
import socket
import sys
import threading
import weakref

from typing import Any

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.clock import in_a_loop
from pytest_resilience.deaf_sockets import hear
from pytest_resilience.interceptors.sockets import deliveries
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.socket_calls import ReceiveArguments
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import given_up
from pytest_resilience.interceptors.sockets.socket_classes import kernel_patience
from pytest_resilience.interceptors.sockets.socket_classes import lower_mark
from pytest_resilience.interceptors.sockets.socket_classes import raise_mark
from pytest_resilience.interceptors.sockets.socket_classes import silence
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.wire_format import RECORD
from pytest_resilience.interceptors.waiting import head_start
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.interceptors.waiting import wait_for_change
from pytest_resilience.locks import fork_safe


__all__ = ["NonblockingReceiver", "Readiness"]

_PATIENCE = 1.0  # seconds for the thread to end
_AT_ONCE = 1e-6  # seconds


class NonblockingReceiver:
    """Receives for clients that poll; raises what a socket raises until something is due.

    Attributes:
        readiness: the sockets on which something is held back.
    """

    def __init__(self, engine: Engine) -> None:
        self.readiness = Readiness(engine.clock)
        self._engine = engine

    def receive(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        """Do `call`, of one of the socket's receiving methods."""
        __tracebackhide__ = True
        with connection.send_queue.undisturbed(tls=effects.speaks_tls(sock)):
            return self._receive(sock, connection, call)

    def held_for(self, sock: socket.socket, connection: TcpConnection) -> float:
        """Seconds in which a poll tells of nothing to receive; 0 if it tells what the kernel does.

        What needs nothing to be there for it happens, if the client waits for it.
        """
        turn, inbound = connection.turn, connection.inbound
        held = self.readiness.held.get(connection)
        if held is not None and held.due == math.inf:  # what ends it is for who receives
            if turn.asked and sock.gettimeout() != 0:  # held since it was sent into a partition
                connection.begin_response(self._engine)
            now = self._engine.clock.monotonic()
            return 0.0 if held.is_over(now) or held.is_given_up(sock) else held.left
        if not (held or turn.receiving or turn.asked or turn.partial or effects.available(sock)):
            return 0.0
        try:
            with connection.send_queue.undisturbed(tls=effects.speaks_tls(sock)):
                self._resume(sock, connection)
                if inbound.eof is not None:
                    self._await_eof(sock, connection, inbound.eof, polls=True)
                    return 0.0
                if not inbound.asked_early:
                    self._begin(sock, connection)
                most = self._await_turn(sock, connection, polls=True)
                if sock.gettimeout() != 0 and deliveries.pass_over(sock, inbound, most):
                    if inbound.stream is not None and inbound.stream.is_stalled:
                        self.readiness.silence(sock, connection, inbound.stream)
                    held = self.readiness.held.get(connection)
                    return _AT_ONCE if held is None else held.left
                return 0.0
        except OSError:  # nothing yet, or what is for who receives
            held = self.readiness.held.get(connection)
            return 0.0 if held is None else held.left

    def _receive(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        __tracebackhide__ = True
        if sock.fileno() < 0:
            return call()  # which says so
        inbound = connection.inbound
        held = self.readiness.held.get(connection)
        if held is not None and held.is_given_up(sock):
            self.readiness.release(connection)
            connection.give_up_response()
            return call()  # which says so
        self._resume(sock, connection)
        if inbound.eof is not None:
            return self._deliver_eof(sock, connection, inbound.eof, ReceiveArguments(call))
        if not inbound.asked_early:
            self._begin(sock, connection)
        most = self._await_turn(sock, connection)
        if inbound.stream is not None and inbound.stream.is_replaced:
            return deliveries.replay(sock, inbound, call)
        return self._read(sock, connection, call, most)

    def _resume(self, sock: socket.socket, connection: TcpConnection) -> None:
        """If something was held back, go on with it; raises while it is."""
        __tracebackhide__ = True
        held = self.readiness.ended(sock, connection)
        if held is None:
            return
        held.stream.waited(held.due)
        if held.size and not connection.turn.receiving:  # more was asked meanwhile
            inbound = connection.inbound
            inbound.stream, inbound.asked_early = held.stream, held.size
            inbound.more_early = effects.available(sock) > held.size

    def _begin(self, sock: socket.socket, connection: TcpConnection) -> None:
        """If what is there begins a response, what happens to that? Raises if nothing is."""
        __tracebackhide__ = True
        turn, inbound = connection.turn, connection.inbound
        if not effects.readable(sock, 0):
            if not self._strike(connection):
                raise effects.nothing_yet(sock)
            return
        if inbound.expected:
            inbound.expected = False
            return
        if turn.receiving or not (turn.asked or not effects.speaks_tls(sock)):
            return  # unasked, what comes in TLS is no response
        was_early, inbound.more_early = inbound.more_early, False
        stream = connection.begin_response(self._engine)
        if stream is not None and was_early:
            stream.arrive(turn.sent_at)  # else it has come just now, as it is told then

    def _strike(self, connection: TcpConnection) -> bool:
        """The client waits: whether something happens now, for there may never be a response."""
        turn, inbound = connection.turn, connection.inbound
        if connection.is_sending:
            return False
        if self._engine.strikes_waiting and not turn.receiving and (turn.asked or turn.partial):
            connection.begin_response(self._engine)
            inbound.expected = True
        stream = inbound.stream
        if not inbound.expected or stream is None or stream.needs_response:
            return False
        stream.arrive(turn.sent_at)
        return True

    def _await_turn(self, sock: Any, connection: TcpConnection, *, polls: bool = False) -> int:
        """Do what the stream says; returns how many bytes can be read. Raises while none can.

        `polls`: for who comes when that is over, whether the socket blocks or not.
        """
        __tracebackhide__ = True
        inbound, stream = connection.inbound, connection.inbound.stream
        tls = effects.speaks_tls(sock)
        while stream is not None:
            there = inbound.asked_early or effects.available(sock)
            if tls:  # which gives nothing of a record before all of it is there
                there = 0 if sock.pending() else min(RECORD, there)
            now = self._engine.clock.monotonic()
            match stream.next(there, now, whole=tls):
                case WaitUntil(due):
                    is_later = tls or stream.begun or (polls and sock.gettimeout() != 0)
                    held = _Held(sock, stream, due, 0 if is_later else there, polls=polls)
                    self.readiness.hold(sock, connection, held, now)
                    stream.waited(due)
                case ReadPeer(most):
                    return min(most, inbound.asked_early or sys.maxsize)
                case ReadReplacement():
                    return 0
                case ResetConnection() | CloseConnection() as step:
                    effects.end_once(connection, step, sock)
                    break
        return sys.maxsize

    def _read(
        self, sock: socket.socket, connection: TcpConnection, call: SocketCall, most: int
    ) -> Any:
        __tracebackhide__ = True
        inbound, stream = connection.inbound, connection.inbound.stream
        tls = effects.speaks_tls(sock)
        plain = (stream is None or stream.is_unchanged) and CLOSE not in self._engine.active_kinds
        try:
            if plain and not inbound.asked_early:
                result = call()
                inbound.stream = None if tls else stream  # it was the response, and no ticket
                return result
            arguments = ReceiveArguments(call)
            if arguments.peeks and (seen := deliveries.look(sock, inbound, arguments, most)):
                return arguments.returned(seen)
            data = arguments.fetch(most, takes=True)
        except OSError:
            if tls and stream is not None and stream.is_unchanged:
                stream.await_again()  # what had come were tickets
            elif tls and stream is not None:
                stream.drained()  # it was not all of a record
            raise
        delivered = deliveries.take(sock, connection, data, arguments)
        if stream is not None and stream.is_stalled:
            self.readiness.silence(sock, connection, stream)
        if stream is not None and not effects.available(sock):
            stream.drained()
        if inbound.asked_early:
            inbound.asked_early = max(0, inbound.asked_early - len(data)) if data else 0
        elif not data and arguments.size:
            eof = connection.begin_eof(self._engine)
            if eof is not None:
                inbound.eof = eof
                return self._deliver_eof(sock, connection, eof, arguments)
        if deliveries.is_withheld(stream, data, delivered):
            raise effects.nothing_yet(sock)
        return arguments.returned(delivered)

    def _deliver_eof(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        eof: ResponseStream,
        arguments: ReceiveArguments,
    ) -> Any:
        __tracebackhide__ = True
        self._await_eof(sock, connection, eof)
        connection.inbound.eof = None
        return arguments.returned(b"")

    def _await_eof(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        eof: ResponseStream,
        *,
        polls: bool = False,
    ) -> None:
        __tracebackhide__ = True
        now = self._engine.clock.monotonic()
        match eof.next(0, now):
            case WaitUntil(due):
                held = _Held(sock, eof, due, 0, polls=polls)
                self.readiness.hold(sock, connection, held, now)


class Readiness:
    """The sockets that are not ready yet. One thread sees when they are.

    Attributes:
        held: what is held back, by connection.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.held: dict[TcpConnection, _Held] = {}
        self._changed = fork_safe(self, "_changed", threading.Condition)
        self._watcher: threading.Thread | None = None

    def hold(self, sock: socket.socket, connection: TcpConnection, held: _Held, now: float) -> None:
        """Let there be nothing to receive until `held` is over; `now` is when that was decided.

        Raises what a non-blocking receive raises then, unless it is over already.
        """
        __tracebackhide__ = True
        in_hand = getattr(sock, "pending", int)()  # in TLS: no poll would tell of it later
        if in_hand or held.due <= now or not held.stream.effect.left():
            return
        with self._changed:
            held.begin(sock, now)
            self.held[connection] = held
            self._watch()
        raise effects.nothing_yet(sock)

    def silence(
        self, sock: socket.socket, connection: TcpConnection, stream: ResponseStream
    ) -> None:
        """Let who polls a blocking socket hear nothing of `stream` until its experiments end."""
        if self.is_silent(connection):
            return
        with self._changed:
            held = self.held[connection] = _Held(sock, stream, math.inf, 0)
            deaf = stream.is_stalled or not stream.effect.passes
            held.begin(sock, self._clock.monotonic(), deaf=deaf)
            self._watch()

    def keep_pending(self, sock: socket.socket, connection: TcpConnection, effect: Effect) -> None:
        """Let a connect that is about to be begun be answered when the experiments have ended."""
        with self._changed:
            # A connection of its own, for which no receive is held up.
            pending = TcpConnection(sock, connection.names, number=connection.number)
            held = self.held[pending] = _Held(sock, ResponseStream(effect), math.inf, 0)
            held.begin(sock, self._clock.monotonic(), deaf=True)
            self._watch()

    def is_silent(self, connection: TcpConnection) -> bool:
        """Whether that is so."""
        held = self.held.get(connection)
        return held is not None and held.due == math.inf and held.stream.effect.left() > 0

    def ended(self, sock: socket.socket, connection: TcpConnection) -> _Held | None:
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
        if held.due == float("inf") and not held.stream.effect.transient:
            raise effects.silenced()
        return held

    def release(self, connection: TcpConnection) -> None:
        """Whoever uses the socket from now on polls no more, or uses another object for it."""
        if connection not in self.held:
            return
        with self._changed:
            held = self.held.pop(connection, None)
            if held is not None:
                held.end(self._clock.monotonic())
                self._changed.notify()

    def refresh(self) -> None:
        """The active experiments have changed."""
        with self._changed:
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


class _Held:
    """A hold on one socket: it is kept from being ready to read.

    Time passes with the clock or with the machine, whichever is faster: one that stands
    still holds nobody up for ever.

    Attributes:
        stream: the response, or the EOF.
        due: until when, in monotonic seconds.
        size: bytes that were there when a response was held back before it began.
    """

    __slots__ = (
        "_began", "_blocking", "_deaf", "_machine_due", "_mark", "_over", "_sock", "due", "size",
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
        self._over = self._deaf = False
        self._blocking = sock.gettimeout() != 0 and not (polls and due < math.inf)
        self._mark: int | None = None

    def begin(self, sock: socket.socket, now: float, *, deaf: bool = False) -> None:
        """Keep the kernel from telling that there is something to receive, or from taking it."""
        self._began = now
        late = self.stream.effect.clock.monotonic() - now
        self._machine_due = MACHINE_CLOCK.monotonic() + self.due - now - late
        self._deaf = deaf
        if deaf:
            silence(sock)
        elif self.due == math.inf:  # the kernel has nothing to give up for
            patience, code = kernel_patience(sock, silent=True, connecting=False)
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

    def is_given_up(self, sock: KernelSocket) -> bool:
        """Whether the kernel has given up on its peer before it was over."""
        return self._deaf and self.stream.left() > 0 and given_up(sock)

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
        if self._deaf:
            hear(sock)
        is_lost = self.due == math.inf and not self.stream.effect.transient and not self._deaf
        if not self._blocking and (is_lost or self.stream.is_stalled):
            effects.end_of_stream(sock)  # or nobody is told that it is lost

"""What clients send: passed on, or kept while a partition lets nothing through.

As a kernel whose packets are lost does, a partition takes no more than a buffer full, and what
was closed meanwhile is still delivered. Only where TLS is made within a socket, that cannot be.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import socket
import threading

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.active_experiment import tell_of_ends
from pytest_resilience.chaos.descriptors import keep_private
from pytest_resilience.chaos.descriptors import timeout_of
from pytest_resilience.chaos.descriptors import unacknowledged
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.request_stream import AHEAD
from pytest_resilience.chaos.request_stream import CAPACITY
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import in_a_loop
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.abandoned import end_given_up
from pytest_resilience.interceptors.sockets.abandoned import kept_while_replaced
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.receive import Receiver
from pytest_resilience.interceptors.sockets.send_queue import SendQueue
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_calls import is_at_once
from pytest_resilience.interceptors.sockets.socket_calls import message_of
from pytest_resilience.interceptors.sockets.socket_calls import untaken
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import another
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket
from pytest_resilience.interceptors.sockets.socket_classes import leave_no_room
from pytest_resilience.interceptors.sockets.ssl_objects import SslObjects
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.tcp_connection import moment
from pytest_resilience.interceptors.sockets.wire_format import beginning
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.locks import fork_safe


__all__ = ["PartitionedSends", "Sender"]

_FILE = "os.sendfile"
_SOON = 0.01  # seconds until a full socket is tried again
_AT_ONCE = 0.001  # seconds until it is seen that what was sent has arrived
_PATIENCE = 1.0  # seconds for what was closed, at the end


class Sender:
    """Sends for clients, and notes whose turn it is then.

    Attributes:
        partitions: keeps what does not get through.
        ssl_objects: what is encrypted above the sockets.
    """

    def __init__(
        self,
        engine: Engine,
        partitions: PartitionedSends,
        loops: AsyncioLoops,
        ssl_objects: SslObjects,
        *,
        receiver: Receiver,
    ) -> None:
        self._engine, self._loops, self._receiver = engine, loops, receiver
        self.partitions = partitions
        self.ssl_objects = ssl_objects

    def send(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        """Do `call`, of one of the socket's sending methods."""
        __tracebackhide__ = True
        turn, queue, began = connection.turn, connection.send_queue, self._engine.clock.monotonic()
        if queue.ended.is_set() or not (connection.ends or ends_of(sock)):
            if queue.messages and sock.fileno() >= 0:  # the kernel learns of the end after those
                raise effects.os_error(errno.EPIPE)
            return call()
        _end_replaced(sock, connection)
        message = beginning(call.args[1] if len(call.args) > 1 else b"")
        before, blocking = turn.receiving, sock.gettimeout() != 0
        if not turn.decrypted:  # else it was heard before it became records
            self.ssl_objects.send(connection, message)
        if blocking:  # another thread may receive the response before this one is back
            connection.sent(message, began)
            self._receiver.expect(sock, connection)
        try:
            if self.partitions.holds(sock, connection):
                if blocking:  # nobody who polls it is told of anything meanwhile
                    self._receiver.cut(sock, connection)
                result = self.partitions.keep(sock, connection, call)
            else:
                queue.flush(sock)
                result = self._pass_on(sock, connection, call)
        except OSError as error:
            turn.receiving = before  # nothing new has been asked
            end_given_up(sock, connection, error)
            raise
        turn.sent_at = moment(began, self._engine.clock.monotonic())
        if not blocking:
            if self._engine.active.strikes_waiting:
                self._receiver.asyncio.expect(sock, connection)
            connection.sent(message, turn.sent_at)
            self._loops.sent(turn.sent_at)
            connection.task = self._loops.task() or connection.task
        if turn.handshaking and not turn.decrypted:
            self.ssl_objects.sent_hello(connection, message)
        return result

    def held_for(self, connection: TcpConnection) -> float:
        """Seconds in which a poll tells of no room to send; 0 if it tells what the kernel does."""
        queue, requests = connection.send_queue, connection.send_queue.requests
        if queue.threads or queue.ended.is_set():
            return 0.0
        if requests.cut is not None and queue.is_full:
            return min(requests.cut.left(), queue.patience(connection.owner()))
        effect, now = requests.effect, self._engine.clock.monotonic()
        if requests.rest and effect is not None:
            match requests.next(requests.rest, now):
                case WaitUntil(due):
                    return max(0.0, min(due - now, effect.left()))
        return 0.0

    def _pass_on(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        """Do `call`, as far as what happens to the message lets it."""
        __tracebackhide__ = True
        requests = connection.send_queue.requests
        if requests.is_unchanged and (sock.gettimeout() != 0 or SEND not in self._engine.kinds):
            requests.rest = 0
            result = call()
            requests.rest = untaken(call, result)
            return result
        send, data = message_of(call)
        was_cut = requests.rest > 0 and not is_at_once(call)
        requests.rest = len(data)  # where it is tried again, it is no new message
        sent = self._send(connection, call, send, data, was_cut=was_cut)
        requests.rest -= sent
        return None if call.name == "sendall" else sent

    def _send(
        self,
        connection: TcpConnection,
        call: SocketCall,
        send: Callable[..., int | None],
        data: bytes,
        *,
        was_cut: bool,
    ) -> int:
        """Send `data`, or some of it if `call` may; returns how many bytes. See `_end`."""
        __tracebackhide__ = True
        sock, whole, at_once = call.args[0], call.name == "sendall", is_at_once(call)
        requests, clock = connection.send_queue.requests, self._engine.clock
        sent, asked_at = 0, clock.monotonic()
        while sent < len(data) or not data:
            match requests.next(len(data) - sent, clock.monotonic()):
                case WaitUntil(due):
                    if sent and not whole:
                        break
                    self._hold(sock, connection, due, asked_at, at_once=at_once)
                    requests.waited(due)
                case ReadPeer(most):
                    ready = requests.take(
                        data[sent : sent + most], data[sent + most : sent + most + AHEAD]
                    )
                    done = send(sock, ready) if ready or not data else 0
                    sent += requests.passed(len(ready) if done is None else done)
                    if (sent and not whole) or not data:
                        break
                case ResetConnection() | CloseConnection() as step:
                    self._let_arrive(sock, connection, asked_at, at_once=at_once)
                    self._end(call, connection, step, was_cut=was_cut)
                    if isinstance(step, ResetConnection) and self._tells_later(call, len(data)):
                        return min(len(data), CAPACITY)
        if sent == len(data):
            self._end_if_sent(call, connection, asked_at)
        return sent

    def _end_if_sent(self, call: SocketCall, connection: TcpConnection, asked_at: float) -> None:
        """Let the connection end with what was sent, if it does: who sends no more is told too."""
        __tracebackhide__ = True
        match connection.send_queue.requests.next(0, self._engine.clock.monotonic()):
            case ResetConnection() | CloseConnection() as step:
                if not is_at_once(call):  # else it was sent, and cannot be asked for again
                    self._let_arrive(call.args[0], connection, asked_at)
                self._end(call, connection, step)

    def _tells_later(self, call: SocketCall, size: int) -> bool:
        """Whether a kernel takes what is sent, and tells of a reset who comes again.

        A transport comes to read. What sends files by a loop gives up where it is told at once.
        """
        is_file = call.name == _FILE and is_at_once(call) and size > CAPACITY
        return is_file or self._loops.transport(call.args[0]) is not None

    def _hold(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        due: float,
        asked_at: float,
        *,
        at_once: bool,
    ) -> None:
        """Let nothing be sent until `due`; raises where the socket does not block for so long."""
        __tracebackhide__ = True
        effect = connection.send_queue.requests.effect
        assert effect is not None  # it is what is in the way
        if at_once:
            raise effects.no_room(sock)
        ended = connection.send_queue.ended
        effects.hold_sending(sock, effect, ended, due=due, asked_at=asked_at)

    def _let_arrive(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        asked_at: float,
        *,
        at_once: bool = False,
    ) -> None:
        """Let the peer have what was sent, for it ends the connection only after that.

        A reset takes with it what has not left this side yet. As with all that is sent, the peer
        may take its time, but no longer than the socket's timeout; raises where it does not block.
        """
        __tracebackhide__ = True
        effect, clock = connection.send_queue.requests.effect, self._engine.clock
        if effect is None or not unacknowledged(sock):
            return
        failure = effect.failure
        is_cut = failure is not None and not (failure.resets or failure.closes)
        if at_once:
            if is_cut and effect.left():
                leave_no_room(sock)
                raise effects.no_room(sock)
            return
        limit = timeout_of(sock, socket.SO_SNDTIMEO)
        ends = math.inf if limit is None else asked_at + limit
        if not is_cut:  # it strikes at once, whoever has what was sent before
            ends = min(ends, clock.monotonic() + _SOON)
        ended = connection.send_queue.ended
        while unacknowledged(sock) and effect.left() and not ended.is_set():
            if clock.monotonic() >= ends:
                if is_cut:
                    raise effects.send_timed_out(sock)
                return
            wait(clock, _AT_ONCE, effect.left, ended)

    def _end(
        self,
        call: SocketCall,
        connection: TcpConnection,
        step: ResetConnection | CloseConnection,
        *,
        was_cut: bool = False,
    ) -> None:
        """Let the peer have ended the connection: what is sent next tells.

        `was_cut`: a call before has sent some of the message, and would have sent all.
        """
        __tracebackhide__ = True
        sock = call.args[0]
        requests = connection.send_queue.requests
        if requests.effect is not None:
            self.partitions.keep_open(sock, requests.effect)
        requests.begin(None)
        connection.is_over()
        with kept_while_replaced(connection, sock):
            effects.end(sock, step)
        if was_cut:
            _be_told(sock, step, is_file=call.name == _FILE)


def _be_told(
    sock: socket.socket, step: ResetConnection | CloseConnection, *, is_file: bool
) -> None:
    """What an earlier call had on its way has met the end: so the kernel was told of it already."""
    with contextlib.suppress(OSError):  # it was
        if isinstance(step, CloseConnection):
            KernelSocket.send(kernel_socket(sock), b"\0")  # to which nobody there answers with RST
        elif is_file:  # which tells how much it has sent, and not what it has met then
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


class PartitionedSends:
    """Keeps what clients send during a partition, and sends it on afterwards."""

    def __init__(self, engine: Engine, connections: ConnectionTable, loops: AsyncioLoops) -> None:
        self._engine = engine
        self._connections = connections
        self._loops = loops
        self._closed: list[tuple[KernelSocket, SendQueue, Effect]] = []
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._watcher: threading.Thread | None = None
        self._over = threading.Event()  # of its own for each watcher
        keep_private(self)

    def descriptors(self) -> list[int]:
        """Those by which what was closed is still sent."""
        return [sock.fileno() for sock, _, _ in [*self._closed]]

    def holds(self, sock: socket.socket, connection: TcpConnection) -> bool:
        """Whether nothing gets through; once that is so, it stays so for a while."""
        queue = connection.send_queue
        cut = queue.requests.cut
        if cut is None or not cut.left():
            return False
        if queue.awaited is cut:
            return True
        queue.awaited = cut
        if self._loops.transport(sock) is not None:
            # Nobody blocks here who would notice when it is over.
            self._loops.after(cut, lambda: self._flush_soon(sock, connection))
        else:
            queue.watched = True
        return True

    def keep(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        """Keep what `call` would send; returns what its method returns, when it does."""
        __tracebackhide__ = True
        queue, cut = connection.send_queue, connection.send_queue.awaited
        assert cut is not None  # it is what is in the way
        if code := queue.refusal(sock):
            raise effects.os_error(code)
        send, data = message_of(call, later=True)
        kept = queue.keep(sock, send, data)
        if not cut.left():  # since it was looked at
            queue.flush(sock)
        elif queue.watched:
            self._watch()
        whole = call.name == "sendall"
        if kept < len(data) and (whole or not kept):
            if is_at_once(call):
                raise effects.no_room(sock)
            effects.hold_sending(sock, cut, queue.ended, patience=queue.patience(sock))
            queue.flush(sock)
            while kept < len(data):
                sent = send(sock, data[kept:])
                kept = len(data) if sent is None else kept + sent
        return None if call.name == "sendall" else kept

    def shut_down(
        self, sock: socket.socket, connection: TcpConnection, call: functools.partial[Any]
    ) -> bool:
        """Keep the end of what is sent, if it has to come after more; whether that is so."""
        if call.args[1:] == (socket.SHUT_RD,) or not self._is_kept(sock, connection):
            return False
        connection.send_queue.keep(sock, lambda sock, _: call.func(sock, *call.args[1:]), b"")
        if call.args[1:] == (socket.SHUT_RDWR,):
            effects.end_of_stream(sock)  # which is nobody's business but this side's
        return True

    def close(self, sock: socket.socket, connection: TcpConnection) -> None:
        """The socket is being closed: what has not got through still does."""
        cut = connection.send_queue.awaited
        if not self._is_kept(sock, connection) or cut is None:
            return
        queue, connection.send_queue = connection.send_queue, SendQueue()
        connection.send_queue.ended = queue.ended
        self._keep_open(sock, queue, cut)

    def keep_open(self, sock: socket.socket, effect: Effect) -> None:
        """The socket is about to be another one: what was sent is still to arrive.

        It would not if what the peer says meanwhile met nobody, and was answered with RST.
        """
        self._keep_open(sock, SendQueue(), effect)

    def _keep_open(self, sock: socket.socket, queue: SendQueue, effect: Effect) -> None:
        with contextlib.suppress(OSError):  # no descriptor to be had
            with limits_lifted():
                left = another(sock, os.dup(sock.fileno()))
            left.settimeout(_PATIENCE)
            with self._lock:
                self._closed.append((left, queue, effect))
            self._watch()

    @staticmethod
    def _is_kept(sock: socket.socket, connection: TcpConnection) -> bool:
        queue = connection.send_queue
        sender = connection.owner() or sock  # of which `sock` may be a copy
        return bool(queue.messages) and not effects.speaks_tls(sender)

    def flush_all(self) -> None:
        """Send on, everywhere, what nothing keeps back any more."""
        for connection in self._connections.all():
            sock, queue = connection.owner(), connection.send_queue
            if sock is not None and queue.messages and not queue.requests.is_cut:
                self._flush(sock, connection)
        if self._closed and not in_a_loop():  # or they may block: the watcher does it
            self._flush_closed()

    def remove(self) -> None:
        """Keep nothing any more."""
        with self._lock:  # or it may not have been started yet
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            self._over.set()
            tell_of_ends()
        self.flush_all()
        if watcher is not None and watcher is not threading.current_thread() and not in_a_loop():
            watcher.join(_PATIENCE)

    def _flush_closed(self) -> None:
        with self._lock:
            ready = [each for each in self._closed if not each[2].left()]
            self._closed = [each for each in self._closed if each not in ready]
        for sock, queue, _ in ready:
            with contextlib.suppress(OSError):
                queue.flush(sock)
            effects.discard(sock)  # or closing it is RST, which overtakes what was sent
            with limits_lifted():
                sock.close()

    def _flush_soon(self, sock: socket.socket, connection: TcpConnection) -> None:
        self._flush(sock, connection)
        if connection.send_queue.messages and sock.fileno() >= 0:
            self._loops.later(_SOON, lambda: self._flush_soon(sock, connection))

    def _flush(self, sock: Any, connection: TcpConnection) -> None:
        with contextlib.suppress(OSError):  # full; or gone, and whoever uses it next is told
            connection.send_queue.flush(sock)
        connection.turn.sent_at = self._engine.clock.monotonic()

    def _watch(self) -> None:
        """Have a thread see when it is over, where nobody else would."""
        tell_of_ends()  # there may be less to wait for
        with self._lock:
            if self._watcher is None or not self._watcher.is_alive():  # it was, before a fork
                self._over = threading.Event()
                self._watcher = threading.Thread(
                    target=self._wait_for_the_end,
                    args=[self._over],
                    name="pytest-resilience partition",
                    daemon=True,
                )
                with limits_lifted():
                    self._watcher.start()

    def _wait_for_the_end(self, over: threading.Event) -> None:
        while not over.is_set():
            wait(MACHINE_CLOCK, math.inf, self._rest, over)
            for connection in self._watched():
                sock, cut = connection.owner(), connection.send_queue.awaited
                if sock is not None and cut is not None and not cut.left():
                    self._flush(sock, connection)
            self._flush_closed()
            with self._lock:
                if not (self._watched() or self._closed):
                    if self._over is over:
                        self._watcher = None
                    return
            if not self._rest():  # it has no room for all of it
                over.wait(_SOON)
        self._flush_closed()

    def _rest(self) -> float:
        """Seconds until there is something to send on for the watcher, or nothing any more."""
        cuts = [each.send_queue.awaited for each in self._watched()]
        cuts += [effect for _, _, effect in self._closed]
        return min((cut.left() for cut in cuts if cut is not None), default=0.0)

    def _watched(self) -> list[TcpConnection]:
        return [each for each in self._connections.all() if self._is_for_the_watcher(each)]

    def _is_for_the_watcher(self, connection: TcpConnection) -> bool:
        """Not for a loop, nor where TLS may be in use for long by the thread that has sent."""
        sock, queue = connection.owner(), connection.send_queue
        if sock is None or not queue.watched or not queue.messages:
            return False
        return self._is_kept(sock, connection) or sock.gettimeout() == 0


def _end_replaced(sock: socket.socket, connection: TcpConnection) -> None:
    """Let the peer be gone that has ended the connection with its response: what is sent tells."""
    stream = connection.inbound.stream
    if stream is not None and (stream.is_replaced or stream.is_reset):
        step = CloseConnection() if stream.is_replaced else ResetConnection()
        effects.end_once(connection, step, sock)

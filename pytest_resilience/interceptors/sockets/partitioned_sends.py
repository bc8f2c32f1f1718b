"""What clients send while a partition lets nothing through: kept, and sent on afterwards.

As a kernel whose packets are lost does, a partition takes no more than a buffer full, and what
was closed meanwhile is still delivered. Only where TLS is made within a socket, that cannot be.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import threading

from typing import Any

from pytest_resilience.chaos.active_experiment import tell_of_ends
from pytest_resilience.chaos.descriptors import keep_private
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import in_a_loop
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.send_queue import SendQueue
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_calls import is_at_once
from pytest_resilience.interceptors.sockets.socket_calls import message_of
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import another
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.locks import fork_safe


__all__ = ["PartitionedSends"]

_SOON = 0.01  # seconds until a full socket is tried again
_PATIENCE = 1.0  # seconds for what was closed, at the end


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
            raise os_error(code)
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

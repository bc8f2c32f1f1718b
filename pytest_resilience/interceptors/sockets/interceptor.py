"""The socket interceptor: every client written in Python ends in the methods of sockets.

requests, urllib3, httpx, http.client and redis-py bring their own ways of connecting, but
all of them call methods of the class `socket.socket` (or `ssl.SSLSocket` on TLS), and
`socket.getaddrinfo` for names. httpx, aiohttp, redis-py and asyncpg under asyncio do too,
where what takes time is left to the loop (see `receive_asyncio`), and so do programs that poll,
as trio (see `receive_nonblocking`). Sockets that a server of this process accepted, sockets that
are no TCP, and connections that no experiment has for a target pass straight through.
"""

from __future__ import annotations

import errno
import functools
import math
import socket
import threading

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.abandoned import kept_while_replaced
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.asyncio_loops import LoopConnects
from pytest_resilience.interceptors.sockets.clients_in_c import ClientsInC
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.deliveries import give_up
from pytest_resilience.interceptors.sockets.descriptor_calls import DescriptorCalls
from pytest_resilience.interceptors.sockets.http2 import Http2Streams
from pytest_resilience.interceptors.sockets.name_resolution import NameResolution
from pytest_resilience.interceptors.sockets.outages import Outages
from pytest_resilience.interceptors.sockets.partitioned_sends import PartitionedSends
from pytest_resilience.interceptors.sockets.peer_names import HostNameHooks
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.pending_receives import PendingReceives
from pytest_resilience.interceptors.sockets.polls import Polls
from pytest_resilience.interceptors.sockets.receive import Receiver
from pytest_resilience.interceptors.sockets.send import Sender
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_calls import handled
from pytest_resilience.interceptors.sockets.socket_classes import accepting_classes
from pytest_resilience.interceptors.sockets.socket_classes import is_udp
from pytest_resilience.interceptors.sockets.socket_classes import socket_classes
from pytest_resilience.interceptors.sockets.socket_classes import tls_modules
from pytest_resilience.interceptors.sockets.ssl_objects import SslObjects
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.tcp_connection import answer_nothing
from pytest_resilience.interceptors.sockets.tcp_connection import other_ends
from pytest_resilience.interceptors.sockets.wire_format import may_bring_tickets
from pytest_resilience.patching import Patches
from pytest_resilience.socket_filters import forget


if TYPE_CHECKING:
    import ssl


__all__ = ["SocketInterceptor", "SocketPatches"]


class SocketInterceptor:
    """Intercepts what clients do with sockets. See `chaos.engine.Interceptor`.

    Attributes:
        names: of hosts, as clients have had them resolved.
    """

    kinds = frozenset({RESOLVE, CONNECT, HANDSHAKE, SEND, RECEIVE, CLOSE, *DATAGRAMS})

    def __init__(self, engine: Engine, *, out_of_reach: str | None = "") -> None:
        """`out_of_reach`: why clients that connect in C are; None if another one reaches them."""
        self._engine = engine
        self.names = HostNames()
        self._out_of_reach = out_of_reach
        self._patches = Patches()
        self._installed = False
        # Made by the first install, and used again by the next: most tests need the same.
        self._socket_patches: SocketPatches | None = None
        self._beside: tuple[HostNameHooks | ClientsInC, ...] = ()

    def install(self) -> None:
        if self._installed:
            return
        self._installed = True
        if self._socket_patches is None:
            self._socket_patches = SocketPatches(self._engine, self.names, self._patches)
            self._beside = (
                HostNameHooks(self._engine, self.names, self._patches),
                ClientsInC(self._engine, self.names, self._patches, self._out_of_reach),
            )
        self._socket_patches.install(self._patches)
        for each in self._beside:
            each.import_hook.install()

    def refresh(self) -> None:
        if self._installed and self._socket_patches is not None:
            self._socket_patches.refresh()

    def remove(self) -> bool:
        if self._installed and self._socket_patches is not None:
            self._installed = False
            self._socket_patches.remove()
            for each in self._beside:
                each.import_hook.remove()
        if self._patches:
            self._patches.restore()
            if self._patches:
                # Some of it is stuck below another tool's, and may only pass on from now on:
                # the next install puts its own on top.
                self._socket_patches = None
        return bool(self._patches)


_Proceed = functools.partial[Any]
_Handle = Callable[[socket.socket, SocketCall], Any]

_RECEIVING = ("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into")
_SENDING = ("send", "sendall", "sendmsg", "sendto")
_TLS_RECEIVING = ("recv", "recv_into", "read")
_TLS_SENDING = ("send", "sendall", "write")


class SocketPatches:
    """The methods of sockets while they are replaced, again and again.

    The replacements can be called in between, where somebody has kept hold of them: then they
    only pass on. `__tracebackhide__` keeps their frames out of pytest's tracebacks: what the user
    sees is what the real event would show.
    """

    def __init__(self, engine: Engine, names: HostNames, patches: Patches) -> None:
        self._engine = engine
        self._connections = ConnectionTable(engine, names)
        self._resolution = NameResolution(engine, names, patches)
        self._connects = LoopConnects(engine, self._connections)
        loops = AsyncioLoops(engine, self._connects, names, patches)
        http2 = Http2Streams(engine, patches, loops)
        partitions = PartitionedSends(engine, self._connections, loops)
        self._receiver = Receiver(engine, self._connections, loops, http2)
        self._datagrams = self._receiver.datagrams
        self._waiting = PendingReceives(engine, loops, self._receiver)
        ssl_objects = SslObjects(
            engine, http2, patches, self._waiting.stall, connections=self._connections
        )
        self._sender = Sender(
            engine,
            self._connections,
            loops,
            ssl_objects=ssl_objects,
            partitions=partitions,
            receiver=self._receiver,
            waiting=self._waiting,
        )
        polls = Polls(self._connections, self._waiting, self._sender, patches)
        self._outages = Outages(engine, self._connections, self._receiver, patches)
        receive, send = self._receiver.receive, self._sender.send
        calls = DescriptorCalls(self._connections, patches, receive, send)
        self._parts = (self._resolution, self._connects, loops, http2, ssl_objects, polls, calls)

    def refresh(self) -> None:
        """The active experiments have changed."""
        self._sender.partitions.flush_all()
        self._receiver.nonblocking.readiness.refresh()
        self._outages.note_received()
        self._connections.refresh()
        self._datagrams.refresh()
        self._outages.refresh()

    def remove(self) -> None:
        """Only pass on, from now on; who has made the patches takes them out."""
        for connection in self._connections.all():
            connection.inbound.threads.abandoned = True
            give_up(connection)
        self._sender.partitions.remove()  # who sends meanwhile comes after what was kept
        self._connections.close()
        self._receiver.nonblocking.readiness.remove()
        self._datagrams.remove()
        self._outages.remove()
        for part in self._parts:
            part.remove()
        self._connections.forget()
        self._resolution.unresolvable.close_all()

    def install(self, patches: Patches) -> None:
        """Replace what clients call."""
        self._connections.open()
        plain, accepting = socket_classes(), accepting_classes()
        encrypted = [tls.SSLSocket for tls in tls_modules()]

        def replace() -> None:
            for each in plain:
                self._replace_in_plain(patches, each)
            for each in accepting:  # `_accept`: of which `accept` is made
                patches.replace(each, "_accept", _around(self._accept))
            for each in encrypted:
                self._replace_in_tls(patches, each)

        patches.again("methods", (self, *plain, None, *accepting, None, *encrypted), replace)
        for part in self._parts:
            part.install()

    def _replace_in_plain(self, patches: Patches, owner: Any) -> None:
        self._replace_all(patches, owner, self._receiver.receive, _RECEIVING)
        self._replace_all(patches, owner, self._sender.send, _SENDING)
        patches.replace(owner, "connect", _around(self._connect))
        patches.replace(owner, "connect_ex", _around(self._connect_ex))
        patches.replace(owner, "detach", _around(self._detach))
        patches.replace(owner, "shutdown", _around(self._shut_down))
        patches.replace(owner, "_real_close", _around(self._close))

    def _replace_in_tls(self, patches: Patches, owner: Any) -> None:
        self._replace_all(patches, owner, self._receiver.receive, _TLS_RECEIVING)
        self._replace_all(patches, owner, self._sender.send, _TLS_SENDING)
        patches.replace(owner, "do_handshake", _around(self._shake_hands))

    def _replace_all(
        self, patches: Patches, owner: Any, handle: _Handle, names: tuple[str, ...]
    ) -> None:
        for name in names:
            patches.replace(owner, name, functools.partial(self._handled, handle, name))

    def _handled(self, handle: _Handle, name: str, original: Callable[..., Any]) -> Any:
        method = handled(name, original, handle, self._connections.passing)
        return self._datagrams.shortened(name, original, method)

    def _connect_ex(self, sock: socket.socket, proceed: _Proceed) -> Any:
        try:
            return self._connect(sock, proceed)
        except socket.gaierror:
            raise  # as it does by itself
        except OSError as error:
            return error.errno or errno.EAGAIN  # EAGAIN: what it returns for a timeout

    def _connect(self, sock: socket.socket, proceed: _Proceed) -> Any:
        __tracebackhide__ = True
        if len(proceed.args) != 2:
            return proceed()  # which says what is wrong about it
        address = proceed.args[1]
        decided = id(sock) in self._connects.decided
        if not decided and self._connections.look(self._connections.is_connecting, sock):
            return proceed()  # who polls may ask again how far it is
        connection = self._connections.look(self._connections.opened, sock, address)
        if connection is None:
            self._connections.look(self._note, sock, address)
            return proceed()
        unresolvable = self._resolution.unresolvable
        if self._connections.look(unresolvable.knows, address):
            whom = connection.peer.names, connection.number
            proceed = functools.partial(unresolvable.connect, *whom, proceed.func, sock, address)
        effect = None
        if decided:
            known = self._connects.decided[id(sock)]
            effects.fail(sock, None if known is None else known.failure)
        elif not connection.untargeted:
            self._resolution.resolve(address[0], address[1])
            blocking = sock.gettimeout() != 0
            effect = self._engine.decide(connection.operation(CONNECT, blocking=blocking))
        elif self._engine.recorder is not None:
            self._resolution.resolve(address[0], address[1])
        try:
            if effect is not None and effect.delay == math.inf and sock.gettimeout() == 0:
                self._receiver.nonblocking.readiness.keep_pending(sock, connection, effect)
                effect = None
            return self._attempt(sock, connection, effect, "timed out", proceed)
        except OSError as error:
            if effect and effect.delay == math.inf and error.errno in {None, errno.EINPROGRESS}:
                self._receiver.nonblocking.readiness.try_on(sock, connection, effect, address)
            raise
        finally:
            or_none(self._connections.connected, connection, sock)

    def _note(self, sock: socket.socket, address: Any) -> None:
        """Let those that never fire tell of a connect that nothing can happen to."""
        if is_udp(sock):
            self._datagrams.connecting(sock, address)
        elif is_a(address, tuple, str, bytes):
            path = text_of(address)
            where = path or ":".join(map(text_of, address[:2]))
            remark = "a socket of the file system" if path else "no TCP"
            self._engine.note_unmatched(
                Operation(kind=CONNECT, target=where, names=(), remark=remark)
            )

    def _shake_hands(self, sock: ssl.SSLSocket, proceed: _Proceed) -> Any:
        """A round trip that happens within one call. What is there to receive comes after it."""
        __tracebackhide__ = True
        connection = self._connections.of(sock, RECEIVE)
        if connection is not None:
            connection.inbound.threads.seen = connection.send_queue.threads.seen = True
        if connection is None or connection.untargeted or sock.gettimeout() == 0:
            return proceed()
        effect = self._engine.decide(connection.operation(HANDSHAKE))
        connection.turn.receiving = True
        if connection.number in other_ends:
            answer_nothing(connection.number, effect)
        message = "The handshake operation timed out"
        done = self._attempt(sock, connection, effect, message, proceed)
        connection.inbound.tickets = may_bring_tickets(sock)
        return done

    def _attempt(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        effect: Effect | None,
        timed_out: str,
        proceed: _Proceed,
    ) -> Any:
        """Do what `effect` says, then `proceed` in the time that is left."""
        __tracebackhide__ = True
        if effect is None:
            return proceed()
        timeout = sock.gettimeout()
        inbound, me = connection.inbound, threading.get_ident()
        inbound.threads.add(me)
        try:
            left = effects.hold_before(sock, effect, timed_out, inbound.ended)
            with kept_while_replaced(connection, sock):
                effects.fail(sock, effect.failure)
        finally:
            inbound.threads.discard(me)
        if left == timeout:
            return proceed()
        sock.settimeout(left)
        try:
            return proceed()
        finally:
            sock.settimeout(timeout)

    def _accept(self, listener: socket.socket, proceed: _Proceed) -> Any:
        accepted = proceed()
        if is_a(accepted, tuple):
            self._connections.look(lambda: self._connections.accepted(accepted[0], listener))
        return accepted

    def _detach(self, sock: socket.socket, proceed: _Proceed) -> Any:
        connection = self._connections.look(self._connections.known, sock)
        if connection is not None:
            self._receiver.nonblocking.readiness.release(connection)
        return proceed()

    def _shut_down(self, sock: socket.socket, proceed: _Proceed) -> None:
        __tracebackhide__ = True
        # Or of another descriptor of the same, as `dup` makes one, that was not seen before.
        table = self._connections
        connection = table.look(table.known, sock) or table.look(lambda: table.at(sock.fileno()))
        if connection is None or len(proceed.args) != 2:
            if proceed.args[1:] != (socket.SHUT_WR,):
                self._connections.look(self._datagrams.end, sock)
            proceed()
            return
        if connection.ends is None and connection.inbound.threads:
            # It is held up in connecting, which the kernel would end, and does not know of.
            self._waiting.end(sock, connection)
            return
        if not self._sender.partitions.shut_down(sock, connection, proceed):
            proceed()
        self._waiting.end(sock, connection, proceed.args[1])

    def _is_copied(self, sock: socket.socket, connection: TcpConnection) -> bool:
        """Whether the connection goes on when `sock` is closed, by another descriptor."""
        table = self._connections
        return table.look(table.twin, sock.fileno(), connection.ends) is connection

    def _close(self, sock: socket.socket, proceed: _Proceed) -> None:
        connection = self._connections.look(self._connections.known, sock)
        self._connections.look(self._connections.closing, sock)
        if connection is not None and self._is_copied(sock, connection):
            proceed()
            return
        if connection is not None:
            forget(sock)
            self._sender.partitions.close(sock, connection)
        else:
            self._connections.look(self._datagrams.close, sock)
            self._connections.look(self._connections.closed, sock)
        proceed()
        if connection is not None:
            self._waiting.end(sock, connection)
            self._resolution.unresolvable.close(connection.number)


def _around(handle: Callable[[Any, _Proceed], Any]) -> Callable[[Callable[..., Any]], Any]:
    """Makes of a method of sockets one that has `handle` do it, given the call to proceed with."""
    return functools.partial(_wrapped, handle)


def _wrapped(handle: Callable[[Any, _Proceed], Any], original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def method(sock: socket.socket, *args: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        return handle(sock, functools.partial(original, sock, *args, **named))

    return method

"""The open connections of this process: which socket each belongs to, and who its peer is."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from typing import TypeVar

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import ACCEPT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import MESSAGES
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.operation import new_connection
from pytest_resilience.chaos.parsing.targets import accepted_from
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets import unseen_traffic
from pytest_resilience.interceptors.sockets.abandoned import is_at
from pytest_resilience.interceptors.sockets.abandoned import is_being_made
from pytest_resilience.interceptors.sockets.emulated_socketpairs import EmulatedSocketPairs
from pytest_resilience.interceptors.sockets.emulated_socketpairs import Origin
from pytest_resilience.interceptors.sockets.emulated_socketpairs import is_made_here
from pytest_resilience.interceptors.sockets.peer_names import ForwardProxies
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.peer_names import known_by_tls
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import SocketsByNumber
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import is_address
from pytest_resilience.interceptors.sockets.socket_classes import is_tcp
from pytest_resilience.interceptors.sockets.socket_classes import is_tried
from pytest_resilience.interceptors.sockets.socket_classes import is_udp
from pytest_resilience.interceptors.sockets.tcp_connection import Peer
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.wire_format import beginning
from pytest_resilience.interceptors.sockets.wire_format import may_bring_tickets
from pytest_resilience.locks import fork_safe


__all__ = ["ConnectionTable"]

_R = TypeVar("_R")


class ConnectionTable:
    """The connections of this process that were seen.

    They are kept by file descriptor. One is used again after a close, but then it comes
    back through `opened` or `accepted`, or with another owner and other ends.

    Attributes:
        passing: the sockets that no experiment has for a target, by `id`. What they do passes
            straight through, and this is all that it costs to know. A socket leaves when
            it dies, so an id never stands for another one.
        targeted: those that an experiment has for a target, or may have, by descriptor.
        by_number: those that are used by the number of their descriptor alone.
        proxies: the connections that may be to a forward proxy.
        experiments: those that are active, as far as it was told; None while it is closed.
    """

    def __init__(self, engine: Engine, names: HostNames) -> None:
        self.passing: dict[int, weakref.ref[socket.socket]] = {}
        self.targeted: dict[int, TcpConnection] = {}
        self._by_descriptor: dict[int, TcpConnection] = {}
        # Of those that were there before, with their ends: it takes long to find out.
        self._origins = weakref.WeakKeyDictionary[socket.socket, tuple[object, Origin]]()
        self._engine = engine
        self.experiments: tuple[ActiveExperiment, ...] | None = ()
        self.by_number = SocketsByNumber()
        self._pairs = EmulatedSocketPairs[TcpConnection]()
        self.proxies = ForwardProxies[TcpConnection](names)
        # Between a decision that a socket may pass and its note nothing may start.
        # Re-entrant: a destructor that says goodbye on its socket can run anywhere.
        self._lock = fork_safe(self, "_lock", threading.RLock)

    @property
    def names(self) -> HostNames:
        """What is known of host names."""
        return self.proxies.names

    def open(self) -> None:
        """Operations are intercepted from now on."""
        self.forget()  # a thread may have looked while it was closed
        self.experiments = ()

    def close(self) -> None:
        """No operation is intercepted any more: there is nobody who has to know a connection."""
        unseen_traffic.tell_of_all(self.all(), self.experiments or ())
        self.experiments = None

    def look(self, look: Callable[..., _R], *args: Any) -> _R | None:
        """The result of `look`; None where it raises, on odd objects, or while this is closed."""
        return None if self.experiments is None else or_none(look, *args)

    def opened(self, sock: socket.socket, address: Any) -> TcpConnection | None:
        """A connect to `address` is about to be tried; None if it is no TCP connection."""
        if not is_tcp(sock) or not is_address(address):
            return None
        self.passing.pop(id(sock), None)  # what it tried before may have been another peer
        known = self.known(sock)  # a loop decides about it first, and then connects
        number = known.number if known and known.ends is None else new_connection()
        number = 0 if is_made_here(address) else number
        peer = Peer(self.names.of(*address[:2]))
        connection = TcpConnection(sock, peer, number=number)
        self._by_descriptor[sock.fileno()] = connection
        if connection.client:
            self.proxies.begin(connection, peer.names)
        self._target(sock, connection, CONNECT)
        return connection

    def is_connecting(self, sock: socket.socket) -> bool:
        """Whether a connect was begun that nobody waits for, and has not, or not yet, succeeded."""
        connection = self.known(sock)
        if connection is None or not connection.client or connection.ends is not None:
            return False
        return sock.gettimeout() == 0 or is_tried(sock)

    def connected(self, connection: TcpConnection, sock: socket.socket) -> None:
        """That connect has succeeded, or is under way."""
        connection.ends = ends_of(sock)
        connection.turn.sent_at = self._engine.clock.monotonic()
        self._pairs.connected(connection)
        unseen_traffic.begin(connection, sock)

    def accepted(self, descriptor: int, listener: KernelSocket) -> None:
        """This process has accepted a connection."""
        with borrowed(descriptor) as sock:
            ends = ends_of(sock)
        self.by_number.passing.discard(descriptor)
        opener = self._pairs.accepted(listener, ends)
        is_pair = opener is not None and not opener.client
        origin = Origin.PAIR if is_pair else Origin.ACCEPTED
        connection = self._by_descriptor[descriptor] = self._made(ends, origin)
        self._pairs.serves(listener, connection)

    def closed(self, listener: KernelSocket) -> None:
        """It is about to be closed: a client may have made both ends of a connection with it."""
        for opener in self._pairs.closed(listener):
            for each in self.all():
                if each is opener or (opener.ends and each.ends == opener.ends[::-1]):
                    each.number, each.stale = 0, True

    def of(self, sock: socket.socket, kind: str) -> TcpConnection | None:
        """The connection of a socket that is about to do `kind`; None if it has none of TCP.

        None for an odd object too, and while this is closed.
        """
        if self.experiments is None:
            return None
        try:
            connection = self._by_descriptor.get(sock.fileno())
            if connection is None or connection.owner() is not sock:
                with self._lock:  # a reader and a sender may be the first at the same time
                    connection = self._by_descriptor.get(sock.fileno())
                    if connection is None or connection.owner() is not sock:
                        connection = self._adopt(sock, connection)
            if connection is not None and connection.stale:
                self._target(sock, connection, kind)
        except Exception:  # whatever is wrong about it, the real call will say so
            return None
        return connection

    def sends(self, sock: socket.socket, connection: TcpConnection, message: object) -> None:
        """The client sends this to who may be a proxy, and may say whom it wants by way of it."""
        names = self.proxies.hear(connection, beginning(message))
        if names is not None and names != connection.peer.names:
            connection.peer = replace(connection.peer, names=names)
            self._target(sock, connection, SEND)
        elif connection.untargeted:
            self._let_pass_if_known(sock, connection)

    def receives(self, sock: socket.socket, connection: TcpConnection) -> None:
        """The client receives from who may be a proxy, on a connection that nobody targets."""
        if connection.turn.decrypted:
            return  # who speaks first there is TLS
        self.proxies.receive(connection)
        self._let_pass_if_known(sock, connection)

    def at(self, descriptor: int) -> TcpConnection | None:
        """The connection of a client, whoever has its descriptor; None if it is nothing of that."""
        with self._lock, contextlib.suppress(OSError), borrowed(descriptor) as sock:
            found = self._by_descriptor.get(descriptor)
            owner = None if found is None or found.ends is not None else found.owner()
            if owner is not None and owner.fileno() == descriptor:
                return None  # its connect may have succeeded, and nobody has come to know of that
            if found is None or not is_at(found, sock):
                found, ends = None, ends_of(sock) if is_tcp(sock) else None
                if ends is not None and not is_being_made(ends, sock):
                    found = self._add(descriptor, ends, self._pairs.origin(ends))
            return found if found is not None and found.client else None
        return None

    def targeted_at(self, descriptor: int) -> TcpConnection | None:
        """The connection that an experiment has for a target; None if it is none."""
        connection = self.targeted.get(descriptor)
        if connection is None:
            return None
        sock = connection.owner()
        is_gone = sock is None or self.by_number.is_gone(sock, connection.ends)
        if sock is None or is_gone or sock.fileno() != descriptor:
            with self._lock:  # it is closed, or somebody else's, who may be known meanwhile
                if self.targeted.get(descriptor) is connection:
                    del self.targeted[descriptor]
            return None
        found = self.of(sock, RECEIVE)
        return None if found is None or found.untargeted else found

    def used_by_number(self, descriptor: int) -> TcpConnection | None:
        """The same, for who uses it by its number, and may be the first to use it."""
        found = self.targeted_at(descriptor)
        if found is not None or descriptor in self.by_number.passing:
            return found
        with self._lock:
            found = self.at(descriptor)
            sock: Any = None if found is None else found.owner()
            if found is not None and (sock is None or sock.fileno() != descriptor):
                sock = self.by_number.make(descriptor)
            found = None if sock is None else self.of(sock, RECEIVE)
            if found is None or found.untargeted:
                self.by_number.passing.add(descriptor)
                return None
        return found

    def closing(self, sock: socket.socket) -> None:
        """Its descriptor is about to be closed: nobody polls that any more."""
        with self._lock:
            connection = self.targeted.get(sock.fileno())
            if connection is not None and connection.owner() is sock:
                unseen_traffic.tell(connection, sock, self.experiments or ())
                del self.targeted[sock.fileno()]

    def known(self, sock: socket.socket) -> TcpConnection | None:
        """The connection of a socket, if it has been seen."""
        connection = self._by_descriptor.get(sock.fileno())
        return None if connection is None or connection.owner() is not sock else connection

    def all(self) -> list[TcpConnection]:
        """Every connection that is known, open or not."""
        return list(self._by_descriptor.values())

    def refresh(self) -> None:
        """The active experiments have changed: to a new one, more of a response is a response."""
        with self._lock:
            self.passing.clear()
            self.by_number.passing.clear()
            known, self.experiments = self.experiments or (), self._engine.active
            unseen_traffic.tell_of_all(self.all(), set(known) - set(self.experiments))
            unseen_traffic.begin_all(self.all())
            self.targeted.clear()
            for descriptor, connection in [*self._by_descriptor.items()]:  # others add some
                connection.stale = True
                connection.turn.requests.look_away()
                sock = connection.owner()
                if connection.client and sock is not None and sock.fileno() == descriptor:
                    self.targeted[descriptor] = connection
            self.divide(known)

    def divide(self, known: Sequence[ActiveExperiment]) -> None:
        """To those that are not `known`, more of a response is a response."""
        for connection in self.all():
            turn, stream = connection.turn, connection.inbound.stream
            is_read = turn.receiving and (stream is None or stream.begun)
            about = connection.operation(RECEIVE) if is_read and connection.client else None
            if about is not None and self._engine.is_targeted(about, known=known):
                turn.receiving, turn.partial = False, True

    def forget(self) -> None:
        """Every connection: nothing is intercepted any more.

        Who is just about to use one that was looked up before goes on with it. Whatever begins
        meanwhile does not happen to that, for nobody would find what is kept of it.
        """
        with self._lock:
            for connection in self.all():
                connection.number, connection.stale = 0, True
            self.passing.clear()
            self.targeted.clear()
            self._by_descriptor.clear()
            self.by_number.forget()
            self._pairs = EmulatedSocketPairs[TcpConnection]()
            self.proxies.forget()

    def _target(self, sock: socket.socket, connection: TcpConnection, kind: str) -> None:
        with self._lock:
            connection.untargeted, connection.stale = True, False
            self.targeted.pop(sock.fileno(), None)
            if connection.client:
                operation = connection.operation(kind)
                if self._engine.is_targeted(operation):
                    connection.untargeted = False
                    self.passing.pop(id(sock), None)
                    self.by_number.passing.discard(sock.fileno())
                    self.targeted[sock.fileno()] = connection
                    return
                if not operation.tcp.accepted:
                    self._engine.note_unmatched(operation)
                elif not self._pairs.is_of_server(connection, self.all()):
                    self._engine.note_unmatched(_accepting(connection.peer.names[0]))
                # As long as somebody wants to know what else is done, it is looked at again.
                is_recorded = self._engine.is_recording(MESSAGES)
                connection.stale = is_recorded and not operation.tcp.accepted
            self._let_pass_if_known(sock, connection)

    def _let_pass_if_known(self, sock: socket.socket, connection: TcpConnection) -> None:
        """Let it pass that nobody targets, unless it may be for somebody else than it seems."""
        with self._lock:  # else the experiments may change between the question and the answer
            if not connection.stale and connection not in self.proxies:
                self.let_pass(sock)

    def let_pass(self, sock: socket.socket) -> None:
        """Nothing that is done on it is looked at, until the active experiments change."""
        key = id(sock)
        self.passing[key] = weakref.ref(sock, lambda _: self.passing.pop(key, None))

    def _adopt(self, sock: socket.socket, known: TcpConnection | None) -> TcpConnection | None:
        if not is_tcp(sock):
            if not is_udp(sock):
                self.let_pass(sock)
            return None
        if (ends := ends_of(sock)) is None:
            return None
        if known is not None and is_at(known, sock):
            known.owner, known.stale = weakref.ref(sock), True
            names = self.proxies.encrypt(known) or known_by_tls(sock, known.peer.names)
            known.peer = replace(known.peer, names=names)
            return known
        connection = self._add(sock.fileno(), ends, self._origin(sock, ends))
        # By way of whom the peer has opened one is unseen.
        if connection.client and not connection.peer.accepted:
            names = known_by_tls(sock, connection.peer.names)
            connection.peer = Peer(names)
            self.proxies.begin(connection, names)
        connection.owner, connection.stale = weakref.ref(sock), True
        connection.inbound.tickets = may_bring_tickets(sock)
        return connection

    def _add(self, descriptor: int, ends: tuple[Any, Any], origin: Origin) -> TcpConnection:
        """One that was there before anybody looked."""
        connection = self.twin(descriptor, ends) or self._made(ends, origin)
        self._by_descriptor[descriptor] = connection
        return connection

    def _made(self, ends: tuple[Any, Any] | None, origin: Origin) -> TcpConnection:
        """What stands for one that is connected now, or was and has no `ends` any more."""
        names = () if ends is None else self.names.of(*ends[1][:2])
        is_accepted = origin is Origin.ACCEPTED
        if is_accepted:
            names = tuple(map(accepted_from, names))
        number = new_connection() if names and origin is not Origin.PAIR else 0
        connection = TcpConnection(None, Peer(names, is_accepted), number=number)
        connection.ends = ends
        connection.turn.sent_at = self._engine.clock.monotonic()  # at the latest
        return connection

    def twin(self, descriptor: int, ends: object) -> TcpConnection | None:
        """The connection of another descriptor that is a copy of this one (`dup`)."""
        for number, each in list(self._by_descriptor.items()):
            if each.ends == ends and number != descriptor:
                with contextlib.suppress(OSError), borrowed(number) as sock:
                    return each if ends_of(sock) == ends else None
        return None

    def _origin(self, sock: socket.socket, ends: tuple[Any, Any]) -> Origin:
        """Who opened a connection that was there before anybody looked."""
        found = self._origins.get(sock)
        if found is None or found[0] != ends:
            found = self._origins[sock] = (ends, self._pairs.origin(ends))
        return found[1]


def _accepting(name: str) -> Operation:
    """What is noted of a connection that was accepted, whose peer has any port."""
    peer = name.rpartition(":")[0]
    remark = f"accepted here: only target={peer!r} is about it"
    tcp = TcpDetails(accepted=True)
    return Operation(kind=ACCEPT, target=peer, names=(), tcp=tcp, remark=remark)

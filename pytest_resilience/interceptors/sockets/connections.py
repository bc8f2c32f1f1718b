"""The open connections: the ends of each, whose turn it is to speak, what comes in and goes out."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import ACCEPT
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.operation import new_connection
from pytest_resilience.chaos.parsing.targets import accepted_from
from pytest_resilience.chaos.parsing.targets import is_accepted
from pytest_resilience.chaos.request_stream import after
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.interceptors.sockets.conversation import Inbound
from pytest_resilience.interceptors.sockets.conversation import Turn
from pytest_resilience.interceptors.sockets.emulated_socketpairs import EmulatedSocketPairs
from pytest_resilience.interceptors.sockets.emulated_socketpairs import Origin
from pytest_resilience.interceptors.sockets.emulated_socketpairs import is_made_here
from pytest_resilience.interceptors.sockets.forward_proxies import ForwardProxies
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.peer_names import known_by_tls
from pytest_resilience.interceptors.sockets.send_queue import SendQueue
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import borrowed
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import is_address
from pytest_resilience.interceptors.sockets.socket_classes import is_tcp
from pytest_resilience.interceptors.sockets.socket_classes import is_udp
from pytest_resilience.interceptors.sockets.unresolvable_hosts import answer_nothing
from pytest_resilience.interceptors.sockets.unresolvable_hosts import other_ends
from pytest_resilience.interceptors.sockets.wire_format import BODILESS
from pytest_resilience.interceptors.sockets.wire_format import EXPECTANT
from pytest_resilience.interceptors.sockets.wire_format import FRAMED
from pytest_resilience.interceptors.sockets.wire_format import beginning
from pytest_resilience.interceptors.sockets.wire_format import may_bring_tickets
from pytest_resilience.locks import fork_safe


__all__ = ["ConnectionTable", "TcpConnection"]

_TALK = frozenset({SEND, RECEIVE})


class TcpConnection:
    """One TCP connection.

    Attributes:
        owner: the socket object that was seen on it last.
        ends: own and peer's address, once connected: what stays when a descriptor moves
            to another socket object, as in TLS.
        names: every `host:port` the peer is known by, the best first.
        number: what `new_connection` gave it; 0 if nothing can happen to it.
        stale: the active experiments have changed since `untargeted` was decided.
        untargeted: no active experiment has it for a target.
        task: of an event loop, that has connected or sent on it last.
        turn: whose turn it is to speak.
        inbound: what comes in.
        send_queue: what could not be sent.
    """

    __slots__ = (
        "__weakref__", "ends", "inbound", "names", "number", "owner", "send_queue", "stale", "task",
        "turn", "untargeted",
    )  # fmt: skip

    def __init__(self, owner: socket.socket | None, names: tuple[str, ...], *, number: int) -> None:
        self.owner: Callable[[], socket.socket | None]
        self.owner = (lambda: None) if owner is None else weakref.ref(owner)
        self.ends: tuple[Any, Any] | None = None
        self.names = names
        self.number = number
        self.stale = True
        self.untargeted = False
        self.task: Callable[[], object] | None = None
        self.turn = Turn()
        self.inbound = Inbound()
        self.send_queue = SendQueue()

    @property
    def client(self) -> bool:
        """Whether something can happen to it."""
        return bool(self.number)

    @property
    def accepted(self) -> bool:
        """Whether the other side opened it: then it is for those targets only that say so."""
        return bool(self.names) and is_accepted(self.names[0])

    @property
    def is_sending(self) -> bool:
        """Whether more of a request is still to be sent, by another thread or later by this one.

        The peer has all of it before it refuses it, so nobody is told of that before.
        """
        queue = self.send_queue
        elsewhere = bool(queue.threads - {threading.get_ident()})
        return elsewhere or queue.requests.rest > 0 or self.turn.requests.lacks_end

    @property
    def is_struck(self) -> bool:
        """Whether something may happen to who waits here, though nothing comes from the peer."""
        stream = self.inbound.stream
        if self.inbound.expected:  # that is decided
            return stream is not None and not stream.needs_response and not self.is_sending
        return not self.turn.receiving and not self.is_sending

    def sent(self, message: bytes, now: float) -> None:
        """`message` was sent: now it is the peer's turn, unless it asks for nothing."""
        stream = self.inbound.stream
        if self.turn.partial and stream is None:
            self.inbound.expected = False  # who has polled has found nothing more of that before
        if self.inbound.expected:
            self.turn.sent_at = now  # it is more of the same request
        elif self.turn.sent(message, now) and not (stream is not None and stream.is_replaced):
            is_read = bool(self.inbound.threads - {threading.get_ident()})
            is_waited_for = stream is not None and stream.due is None
            if not (is_read and is_waited_for):
                self.inbound.stream = None

    def begin_response(
        self,
        engine: Engine,
        *,
        through: object = None,
        among: Sequence[ActiveExperiment] | None = None,
    ) -> ResponseStream | None:
        """The client turns from sending to receiving: what happens to the response?

        `among`: the experiments that may happen to one about which others have decided.
        """
        turn = self.turn
        turn.receiving, turn.asked, self.inbound.expected = True, False, False
        kind = HANDSHAKE if turn.handshaking else RECEIVE
        turn.after_handshake, turn.handshaking = turn.handshaking, False
        about = self.operation(kind, through=through, asked=True)
        effect = engine.decide(about, among=among)
        if turn.request == FRAMED:
            turn.requests.forget()  # others may come and be received, and belong to none
        requests = self.send_queue.requests
        if self.send_queue.messages and (effect is None or effect.delay < float("inf")):
            effect = requests.cut  # what it has not received it does not respond to
        elif requests.late is not None and kind == RECEIVE:
            effect = after(requests.late, effect)
            requests.late = None
        if self.number in other_ends:
            answer_nothing(self.number, effect)
        if effect is not None:
            self.inbound.stream = ResponseStream(effect, encrypted=turn.decrypted)
        elif not (turn.partial or among):  # else what has happened to the rest of it goes on
            self.inbound.stream = None
        return self.inbound.stream

    def begin_request(self, engine: Engine, message: bytes) -> None:
        """The client sends `message`: what happens to it, if it is a new one?"""
        requests = self.send_queue.requests
        if SEND not in engine.active_kinds and requests.is_idle:
            return
        # Of TLS, what comes first may be its own, such as tickets.
        answered = requests.is_answered if self.turn.decrypted else self.turn.receiving
        begins = requests.begins(message, answered=answered)
        if requests.is_cut or requests.is_ending:
            return
        effect = None
        if SEND in engine.active_kinds:
            effect = engine.decide(self.operation(SEND, asked=True, mid_message=not begins))
            newer = self.send_queue.newer(engine, begins=begins)
            if newer and effect is None:
                effect = engine.decide(self.operation(SEND, asked=True), among=newer)
        if begins or effect is not None:
            requests.begin(effect, sealed=self.turn.decrypted)

    def begin_eof(self, engine: Engine, *, through: object = None) -> ResponseStream | None:
        """The peer has closed its side: what happens to the EOF, the first time?"""
        if self.inbound.eof_received:
            return None
        self.inbound.eof_received = True
        effect = engine.decide(self.operation(CLOSE, through=through, asked=True))
        return None if effect is None else ResponseStream(effect)

    def is_over(self) -> None:
        """Its peer has ended it: nothing more can happen to what it is used for all the same."""
        self.number, self.stale = 0, True
        self.inbound.stream, self.inbound.unread, self.inbound.asked_early = None, b"", 0

    def give_up_response(self) -> None:
        """Nobody waits for it any more, nor for the EOF."""
        self.inbound.stream, self.inbound.eof, self.inbound.unread = None, None, b""
        self.inbound.eof_received = True

    def operation(
        self,
        kind: str,
        *,
        blocking: bool = True,
        through: object = None,
        asked: bool = False,
        mid_message: bool = False,
    ) -> Operation:
        """The operation `kind`; `through` what a loop delivers it; `asked` by a request."""
        turn, requests, accepted = self.turn, self.turn.requests, self.accepted
        return Operation(
            kind=kind,
            target=self.names[0],
            names=self.names,
            blocking=blocking,
            tcp=TcpDetails(connection=self.number, accepted=accepted, mid_message=mid_message)
            if kind != RECEIVE
            else TcpDetails(
                connection=self.number,
                accepted=accepted,
                encrypted=turn.tls and not turn.decrypted,
                partial=turn.partial,
                other=requests.is_other,
                bodiless=turn.request == BODILESS,
                informational=turn.request == EXPECTANT,
                multiplexed=turn.request == FRAMED,
            ),
            http=HttpDetails(request=requests.request if asked and requests.is_whole else None),
            call_site=CallSite(loop_objects=(through, self.task and self.task())),
        )


class ConnectionTable:
    """The connections of this process that were seen.

    They are kept by file descriptor. One is used again after a close, but then it comes
    back through `opened` or `accepted`, or with another owner and other ends.

    Attributes:
        passing: the sockets that no experiment has for a target, by `id`. What they do passes
            straight through, and this is all that it costs to know. A socket leaves when
            it dies, so an id never stands for another one.
        targeted: those that an experiment has for a target, or may have, by descriptor.
        names: what is known of host names.
        proxies: the connections that may be to a forward proxy.
    """

    def __init__(self, engine: Engine, names: HostNames) -> None:
        self.passing: dict[int, weakref.ref[socket.socket]] = {}
        self.targeted: dict[int, TcpConnection] = {}
        self._by_descriptor: dict[int, TcpConnection] = {}
        # Of those that were there before, with their ends: it takes long to find out.
        self._origins = weakref.WeakKeyDictionary[socket.socket, tuple[object, Origin]]()
        self._engine = engine
        self._known: tuple[ActiveExperiment, ...] = ()
        self.names = names
        self._pairs = EmulatedSocketPairs[TcpConnection]()
        self.proxies = ForwardProxies[TcpConnection](names)
        # Between a decision that a socket may pass and its note nothing may start.
        # Re-entrant: a destructor that says goodbye on its socket can run anywhere.
        self._lock = fork_safe(self, "_lock", threading.RLock)

    def opened(self, sock: socket.socket, address: Any) -> TcpConnection | None:
        """A connect to `address` is about to be tried; None if it is no TCP connection."""
        if not is_tcp(sock) or not is_address(address):
            return None
        self.passing.pop(id(sock), None)  # what it tried before may have been another peer
        known = self.known(sock)  # a loop decides about it first, and then connects
        number = known.number if known and known.ends is None else new_connection()
        number = 0 if is_made_here(address) else number
        connection = TcpConnection(sock, self.names.of(*address[:2]), number=number)
        self._by_descriptor[sock.fileno()] = connection
        if connection.client:
            self.proxies.begin(connection, connection.names)
        self._target(sock, connection, CONNECT)
        return connection

    def is_connecting(self, sock: socket.socket) -> bool:
        """Whether a connect was begun without blocking that has not, or not yet, succeeded."""
        connection = self.known(sock) if sock.gettimeout() == 0 else None
        return connection is not None and connection.client and connection.ends is None

    def connected(self, connection: TcpConnection, sock: socket.socket) -> None:
        """That connect has succeeded, or is under way."""
        connection.ends = ends_of(sock)
        connection.turn.sent_at = self._engine.clock.monotonic()
        self._pairs.connected(connection)

    def accepted(self, descriptor: int, listener: KernelSocket) -> None:
        """This process has accepted a connection."""
        with borrowed(descriptor) as sock:
            ends = ends_of(sock)
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
        """The connection of a socket that is about to do `kind`; None if it has none of TCP."""
        connection = self._by_descriptor.get(sock.fileno())
        if connection is None or connection.owner() is not sock:
            with self._lock:  # a reader and a sender may be the first at the same time
                connection = self._by_descriptor.get(sock.fileno())
                if connection is None or connection.owner() is not sock:
                    connection = self._adopt(sock, connection)
        if connection is not None and connection.stale:
            self._target(sock, connection, kind)
        return connection

    def sends(self, sock: socket.socket, connection: TcpConnection, message: object) -> None:
        """The client sends this to who may be a proxy, and may say whom it wants by way of it."""
        names = self.proxies.hear(connection, beginning(message))
        if names is not None and names != connection.names:
            connection.names = names
            self._target(sock, connection, SEND)
        elif connection.untargeted:
            self._let_pass_if_known(sock, connection)

    def receives(self, sock: socket.socket, connection: TcpConnection) -> None:
        """The client receives from who may be a proxy, on a connection that nobody targets."""
        self.proxies.receive(connection)
        self._let_pass_if_known(sock, connection)

    def at(self, descriptor: int) -> TcpConnection | None:
        """The connection of a client, whoever has its descriptor; None if it is nothing of that."""
        with self._lock, contextlib.suppress(OSError), borrowed(descriptor) as sock:
            ends = ends_of(sock)
            found = self._by_descriptor.get(descriptor)
            if ends is not None and is_tcp(sock) and (found is None or found.ends != ends):
                found = self._add(descriptor, ends, self._pairs.origin(ends))
            return found if found is not None and found.client and found.ends == ends else None
        return None

    def targeted_at(self, descriptor: int) -> TcpConnection | None:
        """The connection that an experiment has for a target; None if it is none."""
        connection = self.targeted.get(descriptor)
        if connection is None:
            return None
        sock = connection.owner()
        if sock is None or sock.fileno() != descriptor:
            with self._lock:  # it is closed, or somebody else's, who may be known meanwhile
                if self.targeted.get(descriptor) is connection:
                    del self.targeted[descriptor]
            return None
        found = self.of(sock, RECEIVE)
        return None if found is None or found.untargeted else found

    def closing(self, sock: socket.socket) -> None:
        """Its descriptor is about to be closed: nobody polls that any more."""
        with self._lock:
            connection = self.targeted.get(sock.fileno())
            if connection is not None and connection.owner() is sock:
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
            known, self._known = self._known, self._engine.active
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
        """Every connection: nothing is intercepted any more."""
        with self._lock:
            self.passing.clear()
            self.targeted.clear()
            self._by_descriptor.clear()
            self._known = ()
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
                    self.targeted[sock.fileno()] = connection
                    return
                if not connection.accepted:
                    self._engine.note_unmatched(operation)
                elif not self._pairs.is_of_server(connection, self.all()):
                    self._engine.note_unmatched(_accepting(connection.names[0]))
                # As long as somebody wants to know what else is done, it is looked at again.
                is_recorded = self._engine.is_recording(_TALK)
                connection.stale = is_recorded and not connection.accepted
            self._let_pass_if_known(sock, connection)

    def _let_pass_if_known(self, sock: socket.socket, connection: TcpConnection) -> None:
        """Let it pass that nobody targets, unless it may be for somebody else than it seems."""
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
        if known is not None and known.ends == ends:
            known.owner, known.stale = weakref.ref(sock), True
            known.names = self.proxies.encrypt(known) or known_by_tls(sock, known.names)
            return known
        connection = self._add(sock.fileno(), ends, self._origin(sock, ends))
        if connection.client and not connection.accepted:  # by way of whom it was opened is unseen
            connection.names = known_by_tls(sock, connection.names)
            self.proxies.begin(connection, connection.names)
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
        if origin is Origin.ACCEPTED:
            names = tuple(map(accepted_from, names))
        number = new_connection() if names and origin is not Origin.PAIR else 0
        connection = TcpConnection(None, names, number=number)
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

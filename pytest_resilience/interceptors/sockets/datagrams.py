"""Sockets of UDP: what happens to each datagram that a client sends or receives.

All ways to use them end in the methods of `socket.socket`: blocking, under asyncio
(`create_datagram_endpoint`, `loop.sock_recvfrom`), trio and gevent, or polled by the program
itself. A datagram that is not due yet is taken from the kernel and kept in a `DatagramLine`. When
it is due, the socket is made readable, for poll, select and epoll, so that whoever waits comes.

A socket is a client of those to whom it has sent before it received from them. What it exchanges
with others, as a server does, is left alone.
"""

from __future__ import annotations

import errno
import functools
import math
import socket
import threading
import weakref

from collections.abc import Callable
from typing import Any
from typing import Final

from pytest_resilience.chaos.datagram_faults import datagram
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.descriptors import readable
from pytest_resilience.chaos.descriptors import timeout_of
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import RECEIVE_DATAGRAM
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import in_a_loop
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.datagram_endpoint import Endpoint
from pytest_resilience.interceptors.sockets.datagram_endpoint import FastestClock
from pytest_resilience.interceptors.sockets.datagram_endpoint import Peer
from pytest_resilience.interceptors.sockets.datagram_endpoint import PeerKey
from pytest_resilience.interceptors.sockets.datagram_endpoint import is_place
from pytest_resilience.interceptors.sockets.datagram_endpoint import peer_key
from pytest_resilience.interceptors.sockets.datagram_endpoint import resolved
from pytest_resilience.interceptors.sockets.deliveries import DatagramsBefore
from pytest_resilience.interceptors.sockets.socket_calls import NOTHING
from pytest_resilience.interceptors.sockets.socket_calls import Datagram
from pytest_resilience.interceptors.sockets.socket_calls import DatagramArguments
from pytest_resilience.interceptors.sockets.socket_calls import DatagramMessage
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.waiting import head_start
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.interceptors.waiting import wait_for_change
from pytest_resilience.locks import fork_safe


__all__ = ["DatagramSockets"]

_LARGEST: Final = 65507  # bytes of a datagram, beside the headers of IPv4 and UDP
_PATIENCE = 1.0  # seconds for the thread to end
_EXACT = 0.001  # seconds: polls count in those
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)  # not on every system


class DatagramSockets:
    """The sockets of UDP that were seen.

    One lock is for all of them, and one thread sees when something is due.
    """

    def __init__(
        self,
        engine: Engine,
        connections: ConnectionTable,
        loops: AsyncioLoops,
        before: DatagramsBefore,
    ) -> None:
        """`before`: those that outages do not happen to."""
        self._engine = engine
        self._connections = connections
        self._before = before
        self._loops = loops
        # By the `id` of the socket; by its own, once that is closed and something still on its way.
        self._endpoints: dict[int, Endpoint] = {}
        # By the `id` of the socket: the addresses to which it sends without anybody looking, and,
        # where nobody looks at what comes in, what notes where it came from.
        self._passing: dict[int, set[Any]] = {}
        self._listening: dict[int, Callable[[Any], None]] = {}
        self._changed = fork_safe(self, "_changed", threading.Condition)
        self._timer: threading.Thread | None = None
        self._clock = FastestClock(engine.clock)

    def shortened(
        self, name: str, original: Callable[..., Any], method: Callable[..., Any]
    ) -> Callable[..., Any]:
        """`method`, made of `original`, with a short way for addresses that are no target.

        One socket sends to many, so that it does not say who is meant.
        """
        if name in ("sendto", "sendmsg"):
            return self._sending(name, original, method)
        return self._receiving(original, method) if name == "recvfrom" else method

    def _sending(
        self, name: str, original: Callable[..., Any], method: Callable[..., Any]
    ) -> Callable[..., Any]:
        known = self._passing

        @functools.wraps(original)
        def send(
            sock: socket.socket, data: Any = NOTHING, where: Any = NOTHING, /, *more: Any
        ) -> Any:
            __tracebackhide__ = True
            try:
                passes = where in known[id(sock)]
            except (KeyError, TypeError):  # nobody has used it yet; or it is no address
                passes = False
            if passes:
                return original(sock, data, where)
            args = [each for each in (data, where) if each is not NOTHING]
            if id(sock) not in known:
                return method(sock, *args, *more)
            return self.send(sock, SocketCall.of(name, original, sock, data, (*args[1:], *more)))

        return send

    def _receiving(
        self, original: Callable[..., Any], method: Callable[..., Any]
    ) -> Callable[..., Any]:
        listening = self._listening

        @functools.wraps(original)
        def recvfrom(sock: socket.socket, size: Any = NOTHING, /, *more: Any) -> Any:
            __tracebackhide__ = True
            try:
                note = listening[id(sock)]
            except KeyError:  # as long as something may happen to what it receives
                note = None
            if note is None or more or size is NOTHING:
                args = () if size is NOTHING else (size,)
                return method(sock, *args, *more)
            result = original(sock, size)
            note(result[1])
            return result

        return recvfrom

    def refresh(self) -> None:
        """The active experiments have changed."""
        with self._changed:
            self._listening.clear()
            for passing in self._passing.values():
                passing.clear()
            for endpoint in self._endpoints.values():
                for peer in endpoint.peers.values():
                    peer.targeted = None
            now = self._clock.now()
            for endpoint in self._all():
                self._advance(endpoint, now, ended=True)
            self._changed.notify()

    def remove(self) -> None:
        """Nothing is intercepted any more: what is under way arrives now, where that can be."""
        with self._changed:
            for endpoint in self._all():
                endpoint.give_up()
            self._endpoints.clear()
            self._passing.clear()
            self._listening.clear()
            self._changed.notify()
            timer = self._timer
        if timer is not None and timer is not threading.current_thread() and not in_a_loop():
            timer.join(_PATIENCE)

    def connecting(self, sock: socket.socket, address: Any) -> None:
        """One of UDP is about to be connected to `address`."""
        with self._changed:
            self._look_again(sock)
            endpoint = self._of(sock)
            endpoint.connected_to, endpoint.called = None, address

    def end(self, sock: socket.socket) -> None:
        """It takes no more: whoever waits for a datagram is told by the kernel's poll."""
        with self._changed:
            endpoint = self._endpoints.get(id(sock))
            if endpoint is not None:
                endpoint.inbound.ended = True

    def close(self, sock: socket.socket) -> None:
        """It is about to be closed."""
        with self._changed:
            endpoint = self._endpoints.pop(id(sock), None)
            self._passing.pop(id(sock), None)
            self._listening.pop(id(sock), None)
            if endpoint is not None and endpoint.outbound:
                endpoint.close()
                self._endpoints[id(endpoint)] = endpoint

    # Peers.

    def _of(self, sock: socket.socket) -> Endpoint:
        key = id(sock)
        found = self._endpoints.get(key)
        if found is None:

            def forget(_: object) -> None:
                self._endpoints.pop(key, None)
                self._passing.pop(key, None)
                self._listening.pop(key, None)

            found = self._endpoints[key] = Endpoint(weakref.ref(sock, forget))
            self._passing[key] = set()
        return found

    def _all(self) -> list[Endpoint]:
        return [*self._endpoints.values()]

    def _peer(self, sock: socket.socket, endpoint: Endpoint, where: Any) -> Peer | None:
        """The peer at an address; where None is given, that of the connection, if there is one."""
        given = where
        if where is None:
            where = endpoint.peer_address()
            given = endpoint.called or where
        if where is None:
            return None
        key = peer_key(where)
        peer = endpoint.peers.get(key)
        if peer is None:
            names = (*self._connections.names.of(*key), *self._connections.names.of(*given[:2]))
            peer = Peer(tuple(dict.fromkeys(names)))
            peer.is_served = self._is_served(endpoint, key)
            endpoint.peers[key] = peer
        if not self._is_meant(peer):
            self._passing[id(sock)].add(where)
        return peer

    def _is_meant(self, peer: Peer) -> bool:
        if peer.targeted is None:  # since the active experiments have changed
            peer.targeted = not peer.is_served and self._is_targeted(peer)
        return peer.targeted

    def _is_targeted(self, peer: Peer) -> bool:
        operation = datagram(SEND_DATAGRAM, peer.names)
        if self._engine.is_targeted(operation) and self._engine.kinds & DATAGRAMS:
            return True
        self._engine.note_unmatched(operation)
        # As long as somebody wants to know what else is done, it is looked at again.
        return self._engine.is_recording(DATAGRAMS)

    def _is_served(self, endpoint: Endpoint, key: PeerKey) -> bool:
        """Whether a peer has sent first, so that this side is its server.

        What a thread receives that was waiting when all began is not seen. But where the
        client is in this process, it is known to have sent.
        """
        if any(each is not None and peer_key(each) == key for each in endpoint.sources):
            return True
        here = endpoint.port
        others = [each for each in self._endpoints.values() if here and each is not endpoint]
        asking = [each for each in others if each.is_client_of(here)]
        return any(each.port == key[1] for each in asking)

    def _lets_pass(self, sock: socket.socket, endpoint: Endpoint) -> bool:
        """Whether nothing can happen to what it receives, so that nobody looks from now on."""
        inbound = endpoint.inbound
        if inbound.line or inbound.error or inbound.peeked:
            return False
        if any(peer.targeted is not False for peer in endpoint.peers.values()):
            return False
        self._connections.let_pass(sock)
        self._listening[id(sock)] = endpoint.sources.append
        return True

    def _look_again(self, sock: socket.socket) -> None:
        self._connections.passing.pop(id(sock), None)
        self._listening.pop(id(sock), None)

    # Sending.

    def send(self, sock: socket.socket, call: SocketCall) -> Any:
        """Do `call`, of one of the socket's sending methods."""
        __tracebackhide__ = True
        message = or_none(DatagramMessage, call)
        if message is None or len(message.data) > _LARGEST or not is_place(message.where):
            return call()  # which says what is wrong about it
        where = resolved(sock, message.where)
        with self._changed:
            endpoint = self._of(sock)
            peer = self._peer(sock, endpoint, where)
            if peer is None or not peer.targeted:
                self._lets_pass(sock, endpoint)
            else:
                self._look_again(sock)
                endpoint.raise_error(self._clock.now())
                if sock.gettimeout() == 0:
                    endpoint.task = self._loops.task() or endpoint.task
                effect = self._decide(SEND_DATAGRAM, endpoint, peer)
                if not self._put(endpoint, message, effect):
                    return None if call.name == "sendall" else len(message.data)
                if endpoint.outbound:  # some of it may be due as soon as this is sent
                    sent = call()
                    self._advance(endpoint, self._clock.now())
                    return sent
            endpoint.sent_at = self._clock.now()  # nearly: a datagram does not wait for room
            self._loops.sent(endpoint.sent_at)
        return call()

    def _put(self, endpoint: Endpoint, message: DatagramMessage, effect: Effect | None) -> bool:
        """Put it on its way; whether it is now to be sent in earnest."""
        now = endpoint.sent_at = self._clock.now()
        line, sock = endpoint.outbound, endpoint.owner()
        assert sock is not None  # who sends has it
        line.put(message, effect, now)
        is_first = False
        while not is_first and (due := line.take(now)) is not None:
            is_first = due is message
            if not is_first:
                with borrowed(sock.fileno()) as kernel:
                    due.send_through(kernel)
        if not is_first:
            endpoint.bind()
        if line:
            self._watch()
        failure = None if effect is None else effect.failure
        if isinstance(failure, Refusal) and endpoint.connected_to is not None:
            # What ICMP answers is told by the next call, whichever it is.
            endpoint.inbound.error = os_error(errno.ECONNREFUSED)
            endpoint.settle(now)
        return is_first

    def _decide(self, kind: str, endpoint: Endpoint, peer: Peer) -> Effect | None:
        task = None if endpoint.task is None else endpoint.task()
        return self._engine.decide(datagram(kind, peer.names, task))

    # Receiving.

    def receive(self, sock: socket.socket, call: SocketCall) -> Any:
        """Do `call`, of one of the socket's receiving methods."""
        __tracebackhide__ = True
        arguments = or_none(DatagramArguments, call)
        with self._changed:
            endpoint = self._of(sock)
            self._peer(sock, endpoint, None)  # if it is connected
            passes = self._lets_pass(sock, endpoint)
        if passes or arguments is None or arguments.is_of_errors or sock.fileno() < 0:
            result = call()
            if passes and is_a(result, tuple):
                endpoint.sources.append(result[-1])
            return result
        timeout = timeout_of(sock, socket.SO_RCVTIMEO)
        if sock.gettimeout() is None and arguments.flags & _AT_ONCE:
            timeout = 0.0
        found = self._receive(sock, endpoint, timeout, peeks=arguments.peeks)
        return arguments.returned(found)

    def _receive(
        self, sock: socket.socket, endpoint: Endpoint, timeout: float | None, *, peeks: bool
    ) -> Datagram:
        __tracebackhide__ = True
        deadline = math.inf if timeout is None else MACHINE_CLOCK.monotonic() + timeout
        waited = timeout == 0
        while True:
            with self._changed:
                found = self._next(sock, endpoint, waited=waited)
                if peeks:
                    endpoint.inbound.peeked = found
                left = deadline - MACHINE_CLOCK.monotonic()
                if found is not None or left <= 0:
                    self._advance(endpoint, self._clock.now())
                    if found is not None:
                        return found
                    raise effects.nothing_yet(sock) if timeout == 0 else effects.timed_out(sock)
                if endpoint.inbound.ended and sock.gettimeout() is None:
                    return Datagram(data=b"", ancillary=[], flags=0, where=None)  # as the kernel
                rest = endpoint.inbound.line.due - self._clock.now()
                endpoint.inbound.attended = True
            try:
                self._await(sock, left, rest)
            finally:
                endpoint.inbound.attended = False
            waited = True

    @staticmethod
    def _await(sock: socket.socket, left: float, rest: float) -> None:
        """Wait until there is something to read, for `left` seconds, or what is late is due."""
        __tracebackhide__ = True
        if min(rest, left) == math.inf:
            readable(sock, None)
        elif left < rest:
            readable(sock, left)
        elif rest > 2 * _EXACT:
            readable(sock, rest - 2 * _EXACT)  # which is rounded up
        else:
            wait(MACHINE_CLOCK, rest, lambda: math.inf)

    def _next(self, sock: socket.socket, endpoint: Endpoint, *, waited: bool) -> Datagram | None:
        """The next datagram that has arrived, if one has. Raises the error that came instead.

        `waited`: nothing was there just before. Else it may have come when something was last
        sent, but no sooner than anybody has looked.
        """
        __tracebackhide__ = True
        inbound = endpoint.inbound
        endpoint.raise_error(self._clock.now())
        if inbound.peeked is not None:
            peeked, inbound.peeked = inbound.peeked, None
            return peeked
        while True:
            now = self._clock.now()
            arrived = endpoint.take(self._clock, now)
            if arrived is not None:
                return arrived
            found = endpoint.read()
            if found is None:
                inbound.looked_at = now
                return None
            peer = endpoint.peers.get(peer_key(found.where or endpoint.connected_to))
            if self._before.take(sock) or peer is None or not self._is_meant(peer):
                return found
            effect = self._decide(RECEIVE_DATAGRAM, endpoint, peer)
            came_at = self._loops.arrival(endpoint.sent_at, now) if waited else endpoint.sent_at
            came_at = max(came_at, inbound.looked_at)
            due = inbound.line.put(found, effect, came_at)
            if effect is not None and now < due < math.inf and sock.gettimeout() == 0:
                inbound.transport = self._loops.transport(sock)
                arrive = functools.partial(self._arrive, endpoint, due)
                rest = due - self._clock.now()
                since = effect.clock.monotonic() - (due - rest - came_at)
                inbound.line.is_timed = self._loops.after(
                    effect, arrive, rest, since=since, early=head_start()
                )
                inbound.attended = inbound.line.is_timed

    # Time.

    def _arrive(self, endpoint: Endpoint, due: float) -> None:
        """A loop has waited for what is `due`; its time may be ahead of all others."""
        with self._changed:
            line, transport = endpoint.inbound.line, endpoint.inbound.transport
            line.release_ended(self._clock.now())
            late = min(due, line.due) - self._clock.now()
            if head_start() < late < math.inf and line.due <= due:
                self._clock.skip(late)
            reads = transport is not None and not transport.is_closing()
            if not reads or line.due - head_start() > self._clock.now():
                self._advance(endpoint, self._clock.now(), ended=True)
                return
        transport._read_ready()  # noqa: SLF001  # as its loop does when a poll has told it

    def _advance(self, endpoint: Endpoint, now: float, *, ended: bool = False) -> None:
        """Send what is due, and let what has arrived be received; `ended`: experiments may have."""
        if ended:
            endpoint.outbound.release_ended(now)
            endpoint.inbound.line.release_ended(now)
        endpoint.send_due(now)
        endpoint.settle(now)
        if endpoint.due < math.inf:
            self._watch()
        elif not endpoint.outbound:
            self._endpoints.pop(id(endpoint), None)

    def _watch(self) -> None:
        if self._timer is None or not self._timer.is_alive():  # it was, before a fork
            self._timer = threading.Thread(
                target=self._run, name="pytest-resilience datagrams", daemon=True
            )
            with limits_lifted():
                self._timer.start()
        elif self._timer is not threading.current_thread():
            self._changed.notify()

    def _until_an_end(self) -> float:
        """Seconds until the next of the experiments ends by itself."""
        now = self._engine.clock.monotonic()
        return min(filter(None, (each.left(now) for each in self._engine.active)), default=math.inf)

    def _run(self) -> None:
        """Advance each when it is due; in between, look whether experiments have ended."""
        with self._changed:
            while waiting := [each for each in self._all() if each.due < math.inf]:
                rest = min(each.due for each in waiting) - self._clock.now()
                rest = min(rest, self._until_an_end())
                if rest > 0:
                    wait_for_change(self._changed, rest)
                now = self._clock.now()
                for each in waiting:
                    self._advance(each, now, ended=True)
            self._timer = None

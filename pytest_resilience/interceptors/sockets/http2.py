"""HTTP/2: responses that share a connection, each with what happens to it alone.

A connection shows only frames, and what is in their heads depends on all that came before. So the
requests and responses are those of the library h2, by which clients in Python speak HTTP/2 (httpx,
grpclib): it tells what it has received by events, and these are what is changed. Its own account
of the connection stays right, and so do the streams beside. What a request is sent on is known by
the bytes that h2 hands out and the next socket takes.

Nobody is held up here, as the others on the connection must not be. Events wait, and who reads the
connection is woken when it is time for them, by bytes that h2 does not get to see (`WAKE`).
"""

from __future__ import annotations

import functools
import math
import socket
import sys
import threading
import weakref

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any

from pytest_resilience.chaos.descriptors import readable
from pytest_resilience.chaos.descriptors import timeout_of
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.parsing.http_requests import read_pairs
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.http2_responses import NO_BYTES
from pytest_resilience.interceptors.sockets.http2_responses import WAKE
from pytest_resilience.interceptors.sockets.http2_responses import SharedConnection
from pytest_resilience.interceptors.sockets.http2_responses import StreamResponse
from pytest_resilience.interceptors.sockets.socket_calls import ReceiveArguments
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_calls import is_at_once
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.waiting import wait
from pytest_resilience.locks import entries
from pytest_resilience.locks import living
from pytest_resilience.patching import ImportHook
from pytest_resilience.patching import Patches


__all__ = ["Http2Streams"]

_EARLY = 0.0005  # seconds by which a loop may wake somebody too early
_A_WHILE = 0.01  # seconds: how soon who waits meets what another thread has asked for
_A_MOMENT = 0.002  # seconds: polls are not more exact than that


class _Outgoing(threading.local):
    """What h2 has handed out last in this thread, and which requests are in it."""

    data: bytes = b""
    shared: SharedConnection | None = None
    asked: Mapping[int, HttpRequest] = MappingProxyType({})
    ended: AbstractSet[int] = frozenset()


class Http2Streams:
    """See the module.

    Attributes:
        connections: those that have sent a request, which responses share.
    """

    def __init__(self, engine: Engine, patches: Patches, loops: AsyncioLoops) -> None:
        self._engine = engine
        self._patches = patches
        self._loops = loops
        loops.trio.patience, loops.trio.wakes = self._patience, self._wakes
        self._outgoing = _Outgoing()
        self._shared: weakref.WeakKeyDictionary[Any, SharedConnection] = weakref.WeakKeyDictionary()
        self.connections: weakref.WeakKeyDictionary[TcpConnection, weakref.ref[SharedConnection]]
        self.connections = weakref.WeakKeyDictionary()
        self._import_hook = ImportHook({"h2.connection": self._reach}, patches)

    def install(self) -> None:
        """Reach h2, as soon as it is loaded."""
        self._import_hook.install()

    def remove(self) -> None:
        self._import_hook.remove()
        now = self._engine.clock.monotonic()
        for h2, shared in entries(self._shared):
            if shared.rest(now) < math.inf:  # what waits is told next
                vars(h2)["receive_data"] = functools.partial(self._receive_once, h2)

    def _receive_once(self, h2: Any, data: Any) -> list[Any]:
        """In the place of a method that is not replaced any more."""
        vars(h2).pop("receive_data", None)
        return self._received(h2.receive_data, h2, data)

    def has_handed_out(self, message: bytes) -> bool:
        """Whether h2 has just made this, or what begins so, with a request in it."""
        outgoing = self._outgoing
        return outgoing.shared is not None and outgoing.data[: len(message)] == message

    def sent(self, connection: TcpConnection, message: bytes) -> None:
        """`message`, or what begins so, is sent on a connection: read the requests in it."""
        turn = connection.turn
        turn.requests.feed(message, answered=not turn.asked)
        outgoing = self._outgoing
        shared = outgoing.shared
        if shared is None or not self.has_handed_out(message):
            return
        outgoing.shared, outgoing.data = None, b""
        asked, ended = outgoing.asked, outgoing.ended
        shared.connection, self.connections[connection] = connection, weakref.ref(shared)
        now = self._engine.clock.monotonic()
        for number, request in asked.items():
            turn.requests.note(request)
            operation = connection.operation(RECEIVE, asked=True)
            effect = self._engine.decide(operation.of_stream(request))
            if effect is not None:
                stream = ResponseStream(effect)
                shared.responses[number] = StreamResponse(number, stream)
        for number in ended & shared.responses.keys():
            shared.responses[number].asked(now)
        if ended:
            self._time(shared)

    def _reach(self) -> None:
        connection = sys.modules["h2.connection"].H2Connection
        self._patches.replace(connection, "send_headers", self._encoding)
        self._patches.replace(connection, "send_data", self._sending)
        self._patches.replace(connection, "end_stream", self._sending)
        self._patches.replace(connection, "data_to_send", self._handing_out)
        self._patches.replace(connection, "receive_data", self._receiving)

    def _of(self, connection: Any) -> SharedConnection | None:
        """A connection of a client, as it is known here."""
        if not connection.config.client_side:
            return None
        found = self._shared.get(connection)
        if found is None:
            text = bool(connection.config.header_encoding)
            found = self._shared[connection] = SharedConnection(text=text)
        return found

    def _encoding(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def send_headers(h2: Any, stream_id: int, headers: Any, *args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            given = list(headers)
            original(h2, stream_id, given, *args, **named)
            shared, request = or_none(self._of, h2), or_none(read_pairs, given)
            if shared is not None and request is not None:
                shared.asked[stream_id] = request
            if shared is not None and named.get("end_stream", args[:1] == (True,)):
                shared.ended.add(stream_id)

        return send_headers

    def _sending(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def send_data(h2: Any, stream_id: int, *args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            original(h2, stream_id, *args, **named)
            is_last = named.get("end_stream", args[1:2] == (True,))
            if (original.__name__ == "end_stream" or is_last) and (shared := or_none(self._of, h2)):
                shared.ended.add(stream_id)

        return send_data

    def _handing_out(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def data_to_send(h2: Any, *args: Any, **named: Any) -> Any:
            data = original(h2, *args, **named)
            shared = or_none(self._of, h2)
            if shared is not None and (shared.asked or shared.ended):
                # Where nobody looks at who sends it, it is not sent with what follows.
                self._outgoing.asked, shared.asked = shared.asked, {}
                self._outgoing.ended, shared.ended = shared.ended, set()
                self._outgoing.shared, self._outgoing.data = shared, data
            return data

        return data_to_send

    def _receiving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def receive_data(h2: Any, data: Any) -> Any:
            __tracebackhide__ = True
            return self._received(functools.partial(original, h2), h2, data)

        return receive_data

    def _received(self, receive: Callable[[Any], Any], h2: Any, data: Any) -> list[Any]:
        """The events that are told to who has received `data`."""
        __tracebackhide__ = True
        shared = self._shared.get(h2)
        is_woken = is_a(data, bytes) and WAKE in data
        if is_woken:
            data = data.replace(WAKE, b"")
        events = receive(data) if data or not is_woken else []
        if shared is None or not shared.responses:
            return list(events)
        told = [each for each in events if not shared.hear(each)]
        told += shared.due(self._engine.clock.monotonic())
        for number, size in shared.lost():
            if size > 0:  # nobody will say that there is room again
                or_none(h2.acknowledge_received_data, size, number)
        self._time(shared)
        return told

    def receive(
        self,
        receive: Callable[[socket.socket, TcpConnection, SocketCall], Any],
        sock: socket.socket,
        connection: TcpConnection,
        call: SocketCall,
    ) -> Any:
        """Do `call` of one of the `connections`: `receive`, unless a response is due before."""
        __tracebackhide__ = True
        shared = self.awaited(connection)
        if shared is None:
            return receive(sock, connection, call)
        if self._is_woken(sock, connection, call, shared):
            return ReceiveArguments(call).returned(self.woken(connection))
        result = receive(sock, connection, call)
        if result or is_at_once(call):
            return result
        clock, inbound = self._engine.clock, connection.inbound
        if shared.rest(clock.monotonic()) == math.inf:
            return result
        # What has come before the end is delivered before it.
        wait(clock, math.inf, lambda: shared.rest(clock.monotonic()), inbound.ended)
        return ReceiveArguments(call).returned(self.woken(connection))

    def awaited(self, connection: TcpConnection) -> SharedConnection | None:
        """Its responses, where something may be told of one though nothing comes."""
        shared = self._of_connection(connection)
        if shared is None or not (shared.responses or self._is_aimed()):
            return None
        return shared

    def _of_connection(self, connection: TcpConnection) -> SharedConnection | None:
        found = self.connections.get(connection)
        return None if found is None else found()

    def is_due(self, connection: TcpConnection) -> bool:
        """Whether something is to be told now."""
        shared = self._of_connection(connection)
        return shared is not None and shared.rest(self._engine.clock.monotonic()) <= 0

    def _is_woken(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        call: SocketCall,
        shared: SharedConnection,
    ) -> bool:
        """Wait until something comes; whether one of several responses is due before that."""
        __tracebackhide__ = True
        clock, inbound = self._engine.clock, connection.inbound
        if is_at_once(call):
            is_read_by_loop = self._loops.transport(sock) is not None
            return not is_read_by_loop and shared.rest(clock.monotonic()) <= 0
        limit = timeout_of(sock, socket.SO_RCVTIMEO)
        now = MACHINE_CLOCK.monotonic  # as the kernel, whatever a test has frozen
        ends = math.inf if limit is None else now() + limit
        while (rest := shared.rest(clock.monotonic())) > 0:
            if inbound.unread or inbound.ended.is_set():
                return False
            if self._engine.active.strikes_waiting and connection.is_struck:
                return False
            if rest <= _A_MOMENT:
                wait(clock, rest, functools.partial(float, rest))
                continue
            left = ends - now()
            if readable(sock, max(0.0, min(_A_WHILE, left, rest - _A_MOMENT))):
                return False
            if left <= 0:
                raise effects.timed_out(sock)
        return True

    def _is_aimed(self) -> bool:
        return any(each.experiment.aims_at_requests for each in self._engine.active)

    def _patience(self, sock: socket.socket) -> float | None:
        """Seconds after which to come again for what `sock` receives; None if that is no use."""
        shared = next(filter(None, map(self.awaited, self._connections_of(sock))), None)
        return None if shared is None else max(0.0, shared.rest(self._engine.clock.monotonic()))

    def woken(self, connection: TcpConnection) -> bytes:
        """What its socket receives then."""
        return NO_BYTES if connection.turn.decrypted else WAKE

    def _wakes(self, sock: socket.socket) -> bytes | None:
        """What `sock` receives if something is to be told now; None if it is not."""
        due = next(filter(self.is_due, self._connections_of(sock)), None)
        return None if due is None else self.woken(due)

    def _connections_of(self, sock: socket.socket) -> list[TcpConnection]:
        """That of `sock`, if it has sent a request."""
        return [each for each in living(self.connections) if each.owner() is sock]

    def _time(self, shared: SharedConnection) -> None:
        """Have a loop of asyncio tell when it is time."""
        now = self._engine.clock.monotonic()
        connection = shared.connection
        sock = None if connection is None else connection.owner()
        if connection is None or sock is None or self._loops.transport(sock) is None:
            return
        for response in [*shared.responses.values()]:
            rest = response.rest(now)
            if rest < math.inf and not response.is_timed:
                wake = functools.partial(self._wake, connection, shared)
                response.is_timed = self._loops.after(response.effect, wake, max(0.0, rest))

    def _wake(self, connection: TcpConnection, shared: SharedConnection) -> None:
        """Let who reads the transport of a connection come for what is due."""
        sock = connection.owner()
        protocol = None if sock is None else self._loops.delaying_protocol(sock)
        if protocol is not None and shared.rest(self._engine.clock.monotonic()) <= _EARLY:
            protocol.wake(b"" if connection.turn.decrypted else WAKE)

"""TLS that is made above sockets, as asyncio and anyio do: what is received once it is decrypted.

A socket sees only records there, and an `ssl.SSLObject` sees no socket. They are brought
together by the hello that one makes and the other sends: no two of them are the same. Of what was
open before anybody looked, by a record that is as long as what the same task has just written.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.call_site import current_task
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import FRAMED
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import Content
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.http2 import Http2Streams
from pytest_resilience.interceptors.sockets.http2_responses import WAKE
from pytest_resilience.interceptors.sockets.socket_calls import ReceiveArguments
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_classes import tls_modules
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.wire_format import beginning
from pytest_resilience.interceptors.sockets.wire_format import client_random
from pytest_resilience.interceptors.sockets.wire_format import is_hello
from pytest_resilience.interceptors.sockets.wire_format import may_seal
from pytest_resilience.locks import entries
from pytest_resilience.patching import Patches


if TYPE_CHECKING:
    import socket
    import ssl


__all__ = ["SslObjects"]

_AT_ONCE = 4  # messages that are written before any record is sent
_OFTEN = 100  # messages: more than anybody writes before any record is sent


class SslObjects:
    """Every `ssl.SSLObject` of a client that is made, or writes, from now on."""

    def __init__(
        self,
        engine: Engine,
        http2: Http2Streams,
        patches: Patches,
        stall: Callable[[TcpConnection], None],
        *,
        connections: ConnectionTable,
    ) -> None:
        """`stall`: told of a connection of which nothing more is delivered."""
        self._engine = engine
        self._stall = stall
        self._http2 = http2
        self._patches = patches
        self._table = connections
        self._installed = False
        self._outgoing: weakref.WeakKeyDictionary[Any, ssl.MemoryBIO]
        self._outgoing = weakref.WeakKeyDictionary()
        # The connections for which something of HTTP/2 waits, when the rest is forgotten.
        self._left: weakref.WeakKeyDictionary[Any, TcpConnection] = weakref.WeakKeyDictionary()
        self._strangers = _Strangers()
        self._connections: weakref.WeakKeyDictionary[Any, TcpConnection] = (
            weakref.WeakKeyDictionary()
        )

    def install(self) -> None:
        self._installed = True
        for tls in tls_modules():
            classes = tls.SSLContext, tls.SSLObject
            self._patches.again(classes, (self,), functools.partial(self._replace_in, *classes))

    def _replace_in(self, context: Any, tls_object: Any) -> None:
        self._patches.replace(context, "wrap_bio", self._wrapping)
        self._patches.replace(tls_object, "do_handshake", self._shaking_hands)
        self._patches.replace(tls_object, "read", self._reading)
        self._patches.replace(tls_object, "write", self._writing)

    def remove(self) -> None:
        self._installed = False
        for made, connection in entries(self._connections):
            if self._http2.awaited(connection) is not None:
                self._left[made] = connection
        self._strangers.forget()
        for table in (self._outgoing, self._connections):
            if table:  # else it takes longer than all of the rest
                table.clear()

    def sent_hello(self, connection: TcpConnection, hello: bytes) -> bool:
        """`hello` is sent on `connection`: whose is it? Whether that is known."""
        made = self._strangers.that_said(hello)
        if made is not None:
            self._connections[made] = connection
            connection.turn.decrypted = True
        return made is not None

    def send(self, connection: TcpConnection, message: bytes) -> None:
        """The client sends `message`: is it a request, or a record with one in it?"""
        if not connection.turn.handshaking:
            self._recognize(connection, message)
        if not connection.turn.decrypted:
            self._http2.sent(connection, message)
            if connection.turn.asks(message):
                connection.begin_request(self._engine, message)

    def _recognize(self, connection: TcpConnection, record: bytes) -> None:
        """Whose is a `record` that is sent on a connection that was open before?"""
        written = self._strangers.that_wrote(record)
        if written is None or SEND in self._engine.active.kinds:
            return  # what is sent is met as records, which cannot be taken back
        made = written.made()
        if made is not None and made.selected_alpn_protocol() == "h2":
            # What its headers mean depends on all that were sent before: only h2 knows.
            if not any(self._http2.has_handed_out(message) for _, message in written.messages):
                return
            connection.turn.request = FRAMED
        self._connections[made] = connection
        connection.turn.tls = connection.turn.decrypted = True
        for _, message in written.messages:
            self._http2.sent(connection, message)

    def hear(self, sock: socket.socket, connection: TcpConnection, message: object) -> None:
        """The client sends this to who may be a proxy; of records it is heard what is in them."""
        if connection.turn.decrypted:
            return
        said = beginning(message)
        begins = is_hello(said) and not self._table.proxies.has_begun(connection)
        if not (begins and self.sent_hello(connection, said)):
            self._table.sends(sock, connection, said)

    def _hear_within(self, made: Any, connection: TcpConnection, said: bytes) -> None:
        """The same of what is encrypted by `made`, which may begin TLS with who is behind."""
        sock = connection.owner()
        if sock is None:
            return
        if connection in self._table.proxies:
            self._table.sends(sock, connection, said)
        elif connection.stale:
            self._table.of(sock, SEND)
        if is_hello(said) and self.sent_hello(connection, said):
            del self._connections[made]  # it only carries the other
            connection.turn.handshaking = True

    def _wrapping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrap_bio(
            context: ssl.SSLContext, incoming: Any, outgoing: Any, *args: Any, **kwargs: Any
        ) -> Any:
            made = original(context, incoming, outgoing, *args, **kwargs)
            if self._installed:
                or_none(self._wrapped, made, outgoing)
            return made

        return wrap_bio

    def _shaking_hands(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def do_handshake(made: Any) -> None:
            try:
                original(made)
            finally:
                or_none(self._note, made)
            connection = or_none(self._connections.get, made)
            if connection is not None and made.selected_alpn_protocol() == "h2":
                connection.turn.request = FRAMED

        return do_handshake

    def _wrapped(self, made: Any, outgoing: ssl.MemoryBIO) -> None:
        if not made.server_side:
            self._outgoing[made] = outgoing

    def _note(self, made: Any) -> None:
        if made in self._connections:
            return
        outgoing = self._outgoing[made]
        hello = outgoing.read()
        outgoing.write(hello)
        if is_hello(hello):
            self._strangers.said(made, hello)

    def _writing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        passing = self._table.passing

        @functools.wraps(original)
        def write(made: Any, data: Any) -> Any:
            connection = or_none(self._connections.get, made) if self._installed else None
            is_asked_of = SEND in self._engine.active.kinds
            if connection is not None and is_asked_of and made not in self._outgoing:
                del self._connections[made]  # it was open before: see `_recognize`
                connection.turn.decrypted = False
                return original(made, data)
            if connection is None and self._installed and RECEIVE in self._engine.active.kinds:
                active = self._engine.active
                if self._strangers.ignored.get(made) is not active:
                    or_none(self._strangers.wrote, made, data, active)
            if connection is None or not connection.client or id(connection.owner()) in passing:
                return original(made, data)
            message, requests = beginning(data), connection.send_queue.requests
            or_none(self._hear_within, made, connection, message)
            if connection.untargeted or made not in self._connections:
                return original(made, data)
            self._http2.sent(connection, message)
            connection.begin_request(self._engine, message)
            if requests.is_unchanged:
                return original(made, data)
            plain, outgoing = bytes(data), self._outgoing[made]
            parts = requests.seal(plain, self._engine.clock.monotonic())
            records = [outgoing.read()]  # of before
            try:
                for part in parts:
                    if part:
                        original(made, part)
                    records.append(outgoing.read())
                requests.end_between(*records[1:])
            finally:
                outgoing.write(b"".join(records))
            return len(plain)

        return write

    def _reading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def read(made: Any, *args: Any, **kwargs: Any) -> Any:
            table = self._connections if self._installed else self._left
            connection = or_none(table.get, made)
            if connection is None or (self._installed and connection.untargeted):
                return original(made, *args, **kwargs)
            call = SocketCall(original, made, *args, **kwargs)
            call.name, call.is_plain = "read", False
            if self._http2.is_due(connection):
                return ReceiveArguments(call).returned(WAKE)
            result = self._read(connection, made, call)
            if result:
                connection.send_queue.requests.is_answered = True
                connection.turn.after_handshake = 0
            return result

        return read

    def _read(self, connection: TcpConnection, made: Any, call: SocketCall) -> Any:
        stream = connection.inbound.stream
        content = None if stream is None else stream.content
        if content is None:
            return call()
        if content.is_over or content.stalls:
            if content.closes:  # and this had been held back until now
                _drop(ReceiveArguments(call))
            raise effects.nothing_yet(made)  # but RST or FIN, which the socket tells of
        if not (content.is_altered or content.is_replaced):
            return call()
        arguments = ReceiveArguments(call)
        data = b"" if content.is_replaced else _taken(content, arguments)
        if content.stalls:
            self._stall(connection)
            if not data:
                raise effects.nothing_yet(made)
        if content.is_over:
            if content.closes:
                _drop(arguments)
            _end(connection)
            if not data:
                raise effects.nothing_yet(made)
        data = data or content.replay(arguments.size)
        if not data and arguments.size:
            _close(connection, arguments)
        return arguments.returned(data)


class _Written:
    """What one `ssl.SSLObject`, `made`, was given to encrypt: the size and beginning of each."""

    def __init__(self, made: weakref.ref[Any]) -> None:
        self.made = made
        # Nobody looks at them where it is about a connection that is no target.
        self.messages = deque[tuple[int, bytes]](maxlen=_AT_ONCE)
        self.times = 0


class _Strangers:
    """Each `ssl.SSLObject` of which the connection is not known, by what is sent of it next.

    Attributes:
        ignored: those of which much was written, and nothing sent on a target of the experiments
            that were active then: their connections are none.
    """

    def __init__(self) -> None:
        self.ignored = weakref.WeakKeyDictionary[Any, object]()
        self._greeting: dict[bytes, weakref.ref[Any]] = {}  # by what is random in its hello
        self._written = weakref.WeakKeyDictionary[Any, _Written]()  # by task or thread: the last

    def forget(self) -> None:
        self.ignored.clear()
        self._greeting.clear()
        self._written.clear()

    def said(self, made: Any, hello: bytes) -> None:
        key = client_random(hello)
        self._greeting[key] = weakref.ref(made, lambda _: self._greeting.pop(key, None))

    def that_said(self, hello: bytes) -> Any:
        """The one, or None."""
        found = self._greeting.pop(client_random(hello), None)
        return None if found is None else found()

    def wrote(self, made: Any, data: Any, active: object) -> None:
        if made.server_side:
            self.ignored[made] = active
            return
        who = _sender()
        written = self._written.get(who)
        if written is None or written.made() is not made:
            written = self._written[who] = _Written(weakref.ref(made))
        written.messages.append((memoryview(data).nbytes, beginning(data)))
        written.times += 1
        if written.times >= _OFTEN:
            self.ignored[made] = active

    def that_wrote(self, record: bytes) -> _Written | None:
        """What was written by the one whose `record` this may be, and which is there."""
        written = self._written.pop(_sender(), None)
        made = None if written is None else written.made()
        if written is None or made is None:
            return None
        sizes = (size for size, _ in written.messages)
        return written if any(may_seal(record, each, made.version()) for each in sizes) else None


def _sender() -> object:
    task = current_task()
    return threading.current_thread() if task is None else task


def _taken(content: Content, arguments: ReceiveArguments) -> bytes:
    """What is delivered of what has come; nothing only at the end."""
    while not (content.is_over or content.stalls):
        data = arguments.fetch()  # which raises if there is no more
        delivered = content.take(data)
        if delivered or not data:
            return delivered
    return b""


def _close(connection: TcpConnection, arguments: ReceiveArguments) -> None:
    """Let the peer have closed the connection after what is delivered, and nothing else has come.

    Who closes it in good order would wait for the peer to do so too, and meet what it says.
    """
    _drop(arguments)
    effects.end_once(connection, CloseConnection())


def _drop(arguments: ReceiveArguments) -> None:
    """What has come already is not delivered: at the end, who reads looks whether there is more."""
    with contextlib.suppress(OSError):  # there is no more
        while arguments.fetch():
            pass


def _end(connection: TcpConnection) -> None:
    """Let whoever reads the records be told that something has come: its driver knows what."""
    sock = connection.owner()
    if sock is not None:
        effects.end_of_stream(sock)

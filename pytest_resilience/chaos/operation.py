"""One thing the code under test does that can go wrong."""

from __future__ import annotations

import itertools

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from typing import NamedTuple


__all__ = [
    "ACCEPT", "ACCEPTED_FROM", "BODILESS", "CALL", "CHECK_OUT", "CLOSE", "COMMIT", "CONNECT",
    "CREATE", "DATAGRAMS", "END", "EXECUTE", "EXPECTANT", "FETCH", "FRAMED", "HANDSHAKE", "KINDS",
    "LOCK", "LOCK_FILE", "MAKE", "MESSAGES", "ON_CONNECTIONS", "OPEN", "OPEN_CONNECTION",
    "OPEN_IN_VAIN", "OPEN_TO_WRITE", "PROCESS_START", "READ", "RECEIVE", "RECEIVE_DATAGRAM",
    "REMOVE", "RENAME", "RESIZE", "RESOLVE", "SEND", "SEND_DATAGRAM", "SLEEP", "START", "SYNC",
    "TURNS", "WRITE", "CallSite", "HttpDetails", "HttpRequest", "Operation", "SqlDetails",
    "TcpDetails", "new_connection",
]  # fmt: skip

RESOLVE: Final = "network.resolve"
CONNECT: Final = "network.connect"
CALL: Final = "service.call"
EXECUTE: Final = "database.execute"
HANDSHAKE: Final = "network.handshake"  # of TLS: a round trip within one call
OPEN_CONNECTION: Final = "database.connect"
CHECK_OUT: Final = "database.checkout"  # of a connection from a pool
COMMIT: Final = "database.commit"
FETCH: Final = "database.fetch"
SEND: Final = "network.send"
RECEIVE: Final = "network.receive"
CLOSE: Final = "network.close"  # the peer says that it sends no more
END: Final = "network.end"  # the client says so
MESSAGES: Final = frozenset({SEND, RECEIVE})
ON_CONNECTIONS: Final = frozenset({SEND, RECEIVE, CLOSE, END})  # when they are open
SEND_DATAGRAM: Final = "network.send_datagram"  # of UDP
RECEIVE_DATAGRAM: Final = "network.receive_datagram"
DATAGRAMS: Final = frozenset({SEND_DATAGRAM, RECEIVE_DATAGRAM})
OPEN: Final = "file.open"  # one that is there, to read it
OPEN_IN_VAIN: Final = "file.open_in_vain"  # one that is not there, or must not be and is
OPEN_TO_WRITE: Final = "file.open_to_write"  # one that is there
CREATE: Final = "file.create"  # by opening it
READ: Final = "file.read"
WRITE: Final = "file.write"
RESIZE: Final = "file.resize"  # truncating, allocating
SYNC: Final = "file.sync"
RENAME: Final = "file.rename"
MAKE: Final = "file.make"  # a folder or a link
REMOVE: Final = "file.remove"
LOCK_FILE: Final = "file.lock_file"  # without waiting for who has it
LOCK: Final = "thread.lock"  # it is about to be taken, by a thread
SLEEP: Final = "thread.sleep"  # of a thread or a task
START: Final = "thread.start"
ACCEPT: Final = "network.accept"  # nothing happens to it: it is noted where no target names it
PROCESS_START: Final = "process.start"  # nothing happens to it: it is noted where it is unreached

ACCEPTED_FROM: Final = "from "  # before the name of a peer that has opened the connection

# All that something can happen to.
KINDS: Final = DATAGRAMS | {
    RESOLVE, CONNECT, CALL, EXECUTE, HANDSHAKE, OPEN_CONNECTION, CHECK_OUT, COMMIT, FETCH, SEND,
    RECEIVE, CLOSE, END, OPEN, OPEN_IN_VAIN, OPEN_TO_WRITE, CREATE, READ, WRITE, RESIZE, SYNC,
    RENAME, MAKE, REMOVE, LOCK_FILE,
}  # fmt: skip


TURNS: Final = frozenset({LOCK, SLEEP, START})
"""Nothing can happen to these, but that others go first. They are seen in virtual time."""


BODILESS: Final = "bodiless"  # a request to whose response no bytes are seen, as HEAD
EXPECTANT: Final = "expectant"  # the head of one, whose body is to follow when a 1xx wants it
FRAMED: Final = "framed"  # one of many whose responses share a connection, as in HTTP/2


class TcpDetails(NamedTuple):
    """The connection, and the state of the response where it receives one. Most are of HTTP.

    Attributes:
        connection: what `new_connection` gave it; 0 where it is not known which it is.
        accepted: the peer opened it: it is chaos only for those who name it.
        encrypted: TLS is made above the socket, so nobody but the peer can write a response.
        partial: it is the rest of a response that has begun, so nobody can write its beginning.
            Of a request, that what happens to a response that nobody has received yet is decided.
        other: it is the response to what is no request of HTTP.
        form: of what it is the response to: `BODILESS`, `EXPECTANT`, `FRAMED`; "" for others.
        mid_message: it is more of a message that has begun, either way. Only a fault that lets
            nothing through can happen to it.
        unseen: nothing is seen of what is done on the connection, by a client in C.
        in_conversation: both sides speak at any time (see `ConversationReader`): to who counts
            in it, all that comes is one response.
    """

    connection: int = 0
    accepted: bool = False
    encrypted: bool = False
    partial: bool = False
    other: bool = False
    form: str = ""
    mid_message: bool = False
    unseen: bool = False
    in_conversation: bool = False


# What tells one connection of this process from all others.
new_connection: Callable[[], int] = itertools.count(1).__next__


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """What a client asks for.

    Attributes:
        method: in capitals.
        path: without the query, as it is sent.
        headers: names in small letters, and values, in order.
        pipelined: others were sent on the connection before its response had come.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    pipelined: bool = False

    @classmethod
    def of(
        cls,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        *,
        pipelined: bool = False,
    ) -> HttpRequest:
        """One for a target as it is sent: a path with its query, or a whole URL to a proxy."""
        path = target.partition("?")[0]
        if not path.startswith("/") and "://" in path:
            path = "/" + path.partition("://")[2].partition("/")[2]
        return cls(
            method=method.upper(),
            path=path or "/",
            headers=tuple((name.lower(), value) for name, value in headers),
            pipelined=pipelined,
        )

    def __str__(self) -> str:
        others = " and others before its response" * self.pipelined
        return f"{self.method} {self.path}{others}"


class HttpDetails(NamedTuple):
    """The request, where HTTP is spoken and it is seen.

    Attributes:
        request: the one that the operation belongs to; None where that is not known.
        mock_response: the object of a mock that responds, where that is known.
        in_process: the application is called in this process, which is chaos only for those
            who name it: nothing happens to it without a target.
        stream: it is one of several responses on a connection (HTTP/2), which are told apart.
    """

    request: HttpRequest | None = None
    mock_response: object = None
    in_process: bool = False
    stream: bool = False


class SqlDetails(NamedTuple):
    """The statement, where a database is asked.

    Attributes:
        statement: the SQL text.
        position: the statement's number within its transaction, from 1.
        conditions: the modes of `database_failure` that this driver can report; None for all.
        watched: what is done later on a connection that is opened is seen, whoever opens it.
    """

    statement: str = ""
    position: int = 1
    conditions: frozenset[str] | None = None
    watched: bool = False


class CallSite(NamedTuple):
    """Where in the user's code an operation comes from, if the stack does not tell.

    Attributes:
        place: `file:line in function`, found when the operation was asked for.
        loop_objects: objects of an event loop that may lead to the task that waits.
        is_elsewhere: it is done in the code of a proxy, for a client that knows nothing of it.
    """

    place: str = ""
    loop_objects: tuple[object, ...] = ()
    is_elsewhere: bool = False


_NO_TCP, _NO_SQL, _NO_HTTP, _ON_THE_STACK = TcpDetails(), SqlDetails(), HttpDetails(), CallSite()


class Operation(NamedTuple):
    """An operation that is about to happen: a tuple, which takes the least to make.

    Attributes:
        kind: one of the kinds above.
        target: the peer, as shown to people: `host:port` with a host name where one is known,
            else with the address; a service's name; a database; a file.
        names: every `host:port` it is known by; `port` is empty where there is none. Of a
            call, the service's name alone; of a database, what it is called there; of a file,
            the absolute path as it was given, and with all links resolved.
        blocking: whether the caller can be made to wait here. A non-blocking socket
            belongs to an event loop, which a wait would stop altogether; a transport of
            asyncio can be made to deliver later.
        tcp: of a response on a connection.
        sql: of a statement.
        http: of a request, and what belongs to one.
        call_site: where in the user's code.
        remark: shown to people beside the operation.
        advice: how to reach it, for faults that cannot happen to it as it is.
    """

    kind: str
    target: str
    names: tuple[str, ...]
    blocking: bool = True
    tcp: TcpDetails = _NO_TCP
    sql: SqlDetails = _NO_SQL
    http: HttpDetails = _NO_HTTP
    call_site: CallSite = _ON_THE_STACK
    remark: str = ""
    advice: str = ""

    def alone(self) -> Operation:
        """Without what leads to who awaits it, and so to a connection that keeps what happens."""
        return self._replace(call_site=self.call_site._replace(loop_objects=()))

    @property
    def is_plain(self) -> bool:
        """Whether nothing is known of a connection or a request."""
        return self.tcp is _NO_TCP and self.http is _NO_HTTP

    @property
    def has_no_statement(self) -> bool:
        """Whether no database is asked."""
        return self.sql is _NO_SQL

    def of_stream(self, request: HttpRequest) -> Operation:
        """The same as one of several on its connection, which belongs to this request."""
        connection = self.tcp.connection
        form = BODILESS if request.method == "HEAD" else ""
        tcp = TcpDetails(connection=connection, form=form)
        return self._replace(tcp=tcp, http=HttpDetails(request=request, stream=True))

"""One thing the code under test does that can go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


__all__ = [
    "CALL", "CHECK_OUT", "CLOSE", "COMMIT", "CONNECT", "CREATE", "END", "EXECUTE", "FETCH",
    "HANDSHAKE", "MAKE", "OPEN", "OPEN_CONNECTION", "OPEN_IN_VAIN", "OPEN_TO_WRITE", "READ",
    "RECEIVE", "REMOVE", "RENAME", "RESIZE", "RESOLVE", "SEND", "SYNC", "WRITE", "Operation",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation that is about to happen.

    Attributes:
        kind: one of the kinds above.
        target: whom it concerns, as shown to people: `host:port`, with a host name
            where one is known and the address otherwise; a service's name.
        names: every `host:port` it is known by; `port` is empty where there is none. Of a
            call, the service's name alone; of a database, what it is called there; of a file,
            the absolute path as it was given, and with all links resolved.
        empty: whether no bytes of it are seen to which something could happen.
        answer: the object of a mock that answers it, where that is known.
        statement: the SQL text, of a database.
        position: the statement's number within its transaction, from 1.
        place: where in the user's code, if that will not be known any more when it happens.
        through: objects of an event loop that may lead to the task that waits for it.
        blocking: whether the caller can be made to wait here. A non-blocking socket
            belongs to an event loop, which a wait would stop altogether; a transport of
            asyncio can be made to deliver later.
        conditions: what a database can be made to say here; None for anything.
        encrypted: whether what is received here is encrypted, so that nobody but the peer can
            make an answer: where TLS is made above the socket.
        begun: whether it is the rest of an answer, which nobody can begin anew.
        informational: whether it is only the word to go on (100 Continue), and no answer yet.
        framed: whether it is a part of many answers that come together, as in HTTP/2.
        mid_message: whether it is more of a message that has begun, to which only what lets
            nothing through can happen.
        remark: what people are to know of it.
        advice: what to do if it was meant; where this is given, no fault can happen to it.
    """

    kind: str
    target: str
    names: tuple[str, ...]
    blocking: bool = True
    conditions: frozenset[str] | None = None
    encrypted: bool = False
    empty: bool = False
    begun: bool = False
    informational: bool = False
    multiplexed: bool = False
    mid_message: bool = False
    remark: str = ""
    advice: str = ""
    answer: object = None
    statement: str = ""
    position: int = 1
    place: str = ""
    through: tuple[object, ...] = ()

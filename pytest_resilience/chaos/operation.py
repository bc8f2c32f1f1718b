"""One thing the code under test does that can go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


__all__ = [
    "CALL", "CHECK_OUT", "COMMIT", "CONNECT", "EXECUTE", "FETCH", "HANDSHAKE",
    "OPEN_CONNECTION", "RECEIVE", "RESOLVE", "SEND", "Operation",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation that is about to happen.

    Attributes:
        kind: one of the kinds above.
        target: whom it concerns, as shown to people: `host:port`, with a host name
            where one is known and the address otherwise; a service's name.
        names: every `host:port` it is known by; `port` is empty where there is none. Of a
            call, the service's name alone; of a database, what it is called there.
        statement: the SQL text, of a database.
        position: the statement's number within its transaction, from 1.
        blocking: whether the caller can be made to wait here. A non-blocking socket
            belongs to an event loop, which a wait would stop altogether.
    """

    kind: str
    target: str
    names: tuple[str, ...]
    blocking: bool = True
    statement: str = ""
    position: int = 1

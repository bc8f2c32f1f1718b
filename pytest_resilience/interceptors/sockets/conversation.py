"""Whose turn it is to speak on a connection, and what comes in on it."""

from __future__ import annotations

import threading

from pytest_resilience.chaos.parsing.http_requests import RequestReader
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.interceptors.sockets.wire_format import FRAMED
from pytest_resilience.interceptors.sockets.wire_format import asks_something
from pytest_resilience.interceptors.sockets.wire_format import is_hello
from pytest_resilience.interceptors.sockets.wire_format import is_sealed
from pytest_resilience.interceptors.sockets.wire_format import kind_of
from pytest_resilience.locks import fork_safe


__all__ = ["Inbound", "Turn"]


class Turn:
    """Whose turn it is to speak on a connection, and what for.

    Attributes:
        receiving: it is the peer's: True from the first receive after a send on.
        partial: the response had begun before an experiment began to be about it.
        asked: something was sent since it was the peer's turn.
        sent_at: monotonic seconds of the last send.
        request: which kind was sent last: of `wire_format.kind_of`.
        tls: TLS is made above the socket, so that what is sent are its records.
        decrypted: that TLS is known, so that faults can change what is in its records.
        handshaking: what is awaited is the response to a TLS hello.
        after_handshake: nothing has come since the handshake.
        requests: reads what was sent, or what is in its records.
    """

    __slots__ = (
        "after_handshake", "asked", "decrypted", "handshaking", "partial", "receiving", "request",
        "requests", "sent_at", "tls",
    )  # fmt: skip

    def __init__(self) -> None:
        self.receiving = False
        self.partial = False
        self.asked = False
        self.sent_at = 0.0
        self.request = ""
        self.tls = False
        self.decrypted = False
        self.handshaking = False
        self.after_handshake = False
        self.requests = RequestReader()

    def asks(self, message: bytes) -> bool:
        """Whether `message` is the client's own, and nothing of TLS's."""
        if is_hello(message):
            return False
        return not self.tls or asks_something(message)

    def sent(self, message: bytes, now: float) -> bool:
        """`message` was sent at `now`; returns whether it asks for a response."""
        self.sent_at = now
        if is_hello(message):
            self.tls = self.handshaking = True
        elif not self.tls:
            self.tls = is_sealed(message)  # it was open before anybody looked
        elif not asks_something(message):
            return False
        self.request = self.request if self.request == FRAMED else kind_of(message)
        self.receiving = self.partial = False
        self.asked = True
        return True


class Inbound:
    """What comes in on a connection.

    Attributes:
        stream: the response that is awaited or received now, if something happens to it.
        eof: the EOF, while it is held back.
        eof_received: the peer has closed its side.
        unread: bytes that were received for real and not delivered, to see what they are.
        tickets: something of TLS's own may come before the response, and look like it.
        asked_early: bytes of the response to an earlier request, when more was asked meanwhile.
        more_early: what has come after those came while they were held back.
        threads: those in one of the receiving methods: one may be made of others.
        expected: what happens to the response was decided before the client has come for it.
        ended: set when this side has shut it down or closed it: nobody waits for more.
    """

    __slots__ = (
        "__weakref__", "asked_early", "ended", "eof", "eof_received", "expected", "more_early",
        "stream", "threads", "tickets", "unread",
    )  # fmt: skip

    def __init__(self) -> None:
        self.stream: ResponseStream | None = None
        self.eof: ResponseStream | None = None
        self.eof_received = False
        self.unread = b""
        self.tickets = False
        self.asked_early = 0
        self.more_early = False
        self.expected = False
        self.ended = threading.Event()
        self.threads: set[int] = fork_safe(self, "threads", set)

"""What is known about each open connection: whose it is, and whose turn it is to speak."""

from __future__ import annotations

import io
import socket
import threading
import weakref

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.sockets.descriptors import borrowed
from pytest_resilience.interceptors.sockets.descriptors import ends_of
from pytest_resilience.interceptors.sockets.descriptors import is_tcp
from pytest_resilience.interceptors.sockets.descriptors import listening_ports
from pytest_resilience.interceptors.sockets.host_names import Names
from pytest_resilience.interceptors.sockets.response_stream import Course
from pytest_resilience.interceptors.sockets.response_stream import Decrypted
from pytest_resilience.interceptors.sockets.response_stream import Ending
from pytest_resilience.interceptors.sockets.send_queue import Backlog
from pytest_resilience.interceptors.sockets.wire_format import BODILESS
from pytest_resilience.interceptors.sockets.wire_format import EXPECTANT
from pytest_resilience.interceptors.sockets.wire_format import FRAMED
from pytest_resilience.interceptors.sockets.wire_format import asks_something
from pytest_resilience.interceptors.sockets.wire_format import is_hello
from pytest_resilience.interceptors.sockets.wire_format import is_sealed
from pytest_resilience.interceptors.sockets.wire_format import kind_of
from pytest_resilience.interceptors.sockets.wire_format import may_bring_tickets
from pytest_resilience.locks import fork_safe


__all__ = ["Link", "Links"]


_TALK = frozenset({SEND, RECEIVE})


def _is_address(address: Any) -> bool:
    """Whether it is a host and a port, as far as that can be told without touching them."""
    return (
        is_a(address, tuple)
        and tuple.__len__(address) > 1
        and is_a(address[0], str, bytes)
        and is_a(address[1], int)
    )


def _nobody() -> None:
    """The owner of what no socket object was seen on yet."""


class Link:
    """One TCP connection.

    Attributes:
        owner: the socket object that was seen on it last.
        ends: own and peer's address, once connected: what stays when a descriptor moves
            to another socket object, as in TLS.
        names: every `host:port` the peer is known by, the best first.
        client: whether this side opened it.
        stale: whether the active experiments have changed since `calm` was decided.
        calm: whether no active experiment is aimed at it.
        receiving: whose turn it is: True from the first receive after a send on.
        midway: whether its turn began before somebody began to be interested in it.
        before: bytes that had come before more was asked, and may still be heard.
        shaded: whether what has come after those came while they were held back.
        asked: whether anything was sent since it was the peer's turn.
        sent_at: monotonic seconds of the last send.
        answer: what happens to the answer that is awaited now.
        due: monotonic seconds before which that answer is not there.
        script: what is received instead of what the peer sends, from now to the end.
        tls: whether TLS is made above the socket, so that what is sent are its records.
        unsealed: whether that TLS is known, so that something can be done above it.
        decrypted: what is heard above TLS of the answer that is received now.
        unsure: whether something of TLS's own may come before the answer.
        unread: what was received to be sure, and has not been heard.
        shaking: whether what is awaited is the answer to a TLS hello.
        fresh: whether nothing was received on it since it has shaken hands.
        again: what happens to more of the answer that is received now.
        course: how that answer is heard, where it matters how.
        ending: the end of what the peer sends, as long as it is not there yet.
        ended: whether the end of what the peer sends has been received.
        cut: what keeps anything from being sent, since the last try.
        backlog: what could not be sent.
        request: what kind of one was sent last, as far as that matters.
        task: of an event loop, that has connected or sent on it last.
        heard_by, told_by: the thread that is in one of the socket's methods, which may be made
            of others of them.
    """

    __slots__ = (
        "again", "answer", "asked", "backlog", "before", "calm", "client", "course", "cut",
        "decrypted", "due", "ended", "ending", "ends", "fresh", "heard_by", "midway", "names",
        "owner", "receiving", "request", "script", "sent_at", "shaded", "shaking", "stale", "task",
        "tls", "told_by", "unread", "unsealed", "unsure",
    )  # fmt: skip

    def __init__(
        self, owner: socket.socket | None, names: tuple[str, ...], *, client: bool
    ) -> None:
        self.owner: Callable[[], socket.socket | None]
        self.owner = _nobody if owner is None else weakref.ref(owner)
        self.ends: tuple[Any, Any] | None = None
        self.names = names
        self.client = client
        self.stale = True
        self.calm = False
        self.receiving = False
        self.midway = False
        self.before = 0
        self.shaded = False
        self.asked = False
        self.sent_at = 0.0
        self.answer: Effect | None = None
        self.due: float | None = None
        self.script: io.BytesIO | None = None
        self.tls = False
        self.unsealed = False
        self.decrypted: Decrypted | None = None
        self.unsure = False
        self.unread = b""
        self.shaking = False
        self.fresh = False
        self.again: Effect | None = None
        self.course: Course | None = None
        self.ending: Ending | None = None
        self.ended = False
        self.cut: Effect | None = None
        self.request = ""
        self.task: Callable[[], object] = _nobody
        self.heard_by: int | None = None
        self.told_by: int | None = None
        self.backlog = Backlog()

    def spoke(self, message: bytes, now: float) -> None:
        """`message` was sent: now it is the peer's turn, unless there is nothing to answer."""
        self.sent_at = now
        if is_hello(message):
            self.tls = self.shaking = True
        elif not self.tls:
            self.tls = is_sealed(message)  # it was open before anybody looked
        elif not asks_something(message):
            return
        self.request = self.request if self.request == FRAMED else kind_of(message)
        self.receiving = self.midway = False
        self.asked = True
        self.answer = self.again = self.course = self.decrypted = None

    def turn(self) -> str:
        """It is the peer's turn, who says something: what kind of an answer?"""
        self.receiving = True
        self.asked = False
        self.due = None
        kind = HANDSHAKE if self.shaking else RECEIVE
        self.fresh, self.shaking = self.shaking, False
        return kind

    def operation(self, kind: str, *, blocking: bool = True, through: object = None) -> Operation:
        """The operation `kind` on this connection; in a loop, `through` what it is delivered."""
        return Operation(
            kind=kind,
            target=self.names[0],
            names=self.names,
            blocking=blocking,
            tcp=self._details() if kind == RECEIVE else TcpDetails(),
            call_site=CallSite(loop_objects=(through, self.task())),
        )

    def _details(self) -> TcpDetails:
        return TcpDetails(
            encrypted=self.tls and not self.unsealed,
            partial=self.midway,
            bodiless=self.request == BODILESS,
            informational=self.request == EXPECTANT,
            multiplexed=self.request == FRAMED,
        )


class Links:
    """The connections of this process that were seen.

    They are kept by file descriptor. One is used again after a close, but then it comes
    back through `opened` or `accepted`, or with another owner and other ends.

    Attributes:
        passing: the sockets that no experiment is aimed at, by `id`. What they do passes
            straight through, and this is all that it costs to know. A socket leaves when
            it dies, so an id never stands for another one.
    """

    def __init__(self, engine: Engine, names: Names) -> None:
        self.passing: dict[int, weakref.ref[socket.socket]] = {}
        self._by_descriptor: dict[int, Link] = {}
        # Connections accepted from now on are seen: only those of listeners that are there
        # already have to be told by their port.
        self._listening: frozenset[int] | None = None
        # Of those that were there before, with their ends: it takes long to find out.
        self._roles: weakref.WeakKeyDictionary[socket.socket, tuple[object, bool]]
        self._roles = weakref.WeakKeyDictionary()
        self._engine = engine
        self._known: tuple[ActiveExperiment, ...] = ()
        self._names = names
        # Between a decision that a socket may pass and its note nothing may start.
        # Re-entrant: a destructor that says goodbye on its socket can run anywhere.
        self._lock = fork_safe(self, "_lock", threading.RLock)

    def opened(self, sock: socket.socket, address: Any) -> Link | None:
        """A connect to `address` is about to be tried; None if it is no TCP connection."""
        if not _is_address(address) or not is_tcp(sock):
            return None
        self.passing.pop(id(sock), None)  # what it tried before may have been another peer
        link = Link(sock, self._names.of(*address[:2]), client=True)
        self._by_descriptor[sock.fileno()] = link
        self._look(sock, link, CONNECT)
        return link

    def is_dialing(self, sock: socket.socket) -> bool:
        """Whether a connect was begun without blocking that has not, or not yet, succeeded."""
        link = self.known(sock) if sock.gettimeout() == 0 else None
        return link is not None and link.client and link.ends is None

    def connected(self, link: Link, sock: socket.socket) -> None:
        """That connect has succeeded, or is under way."""
        link.ends = ends_of(sock)
        link.sent_at = self._engine.clock.monotonic()

    def accepted(self, descriptor: int) -> None:
        """A server of this process has accepted a connection: it is never touched."""
        link = Link(None, (), client=False)
        with borrowed(descriptor) as sock:
            link.ends = ends_of(sock)
        self._by_descriptor[descriptor] = link

    def of(self, sock: socket.socket, kind: str) -> Link | None:
        """The link of a connected socket about to do `kind`; None if it is no TCP connection."""
        link = self._by_descriptor.get(sock.fileno())
        if link is None or link.owner() is not sock:
            with self._lock:  # a reader and a sender may be the first at the same time
                link = self._by_descriptor.get(sock.fileno())
                if link is None or link.owner() is not sock:
                    link = self._adopt(sock, link)
        if link is not None and link.stale:
            self._look(sock, link, kind)
        return link

    def known(self, sock: socket.socket) -> Link | None:
        """The link of a socket, if it has been seen."""
        link = self._by_descriptor.get(sock.fileno())
        return None if link is None or link.owner() is not sock else link

    def all(self) -> list[Link]:
        """Every connection that is known, open or not."""
        return list(self._by_descriptor.values())

    def refresh(self) -> None:
        """The active experiments have changed: to one that is new, more of an answer is one."""
        with self._lock:
            self.passing.clear()
            known, self._known = self._known, self._engine.active
            for link in self.all():
                link.stale = True
                heard = link.client and link.receiving and link.answer is None
                if heard and self._engine.is_targeted(link.operation(RECEIVE), known=known):
                    link.receiving, link.midway = False, True

    def forget(self) -> None:
        """Every connection: nothing is intercepted any more."""
        with self._lock:
            self.passing.clear()
            self._by_descriptor.clear()
            self._listening, self._known = None, ()

    def _look(self, sock: socket.socket, link: Link, kind: str) -> None:
        with self._lock:
            link.calm = not link.client or not self._engine.is_targeted(link.operation(kind))
            if link.calm and link.client:
                self._engine.note_unmatched(link.operation(kind))
            # As long as somebody wants to know what else is done with it, it is looked at again.
            link.stale = link.calm and link.client and self._engine.is_recording(_TALK)
            if link.calm and not link.stale:
                self._let_pass(sock)

    def _let_pass(self, sock: socket.socket) -> None:
        key = id(sock)
        self.passing[key] = weakref.ref(sock, lambda _: self.passing.pop(key, None))

    def _adopt(self, sock: socket.socket, known: Link | None) -> Link | None:
        if not is_tcp(sock):
            self._let_pass(sock)
            return None
        ends = ends_of(sock)
        if ends is None:
            return None
        if known is not None and known.ends == ends:
            known.owner, known.stale = weakref.ref(sock), True
            return known
        names = self._names.of(*ends[1][:2])
        return self._keep(sock, Link(sock, names, client=self._is_client(sock, ends)))

    def _is_client(self, sock: socket.socket, ends: tuple[Any, Any]) -> bool:
        """Whether this side opened a connection that was there before anybody looked."""
        role = self._roles.get(sock)
        if role is None or role[0] != ends:
            if self._listening is None:
                self._listening = listening_ports()
            role = self._roles[sock] = (ends, ends[0][1] not in self._listening)
        return role[1]

    def _keep(self, sock: socket.socket, link: Link) -> Link:
        link.ends = ends_of(sock)
        link.unsure = may_bring_tickets(sock)
        link.sent_at = self._engine.clock.monotonic()  # at the latest
        self._by_descriptor[sock.fileno()] = link
        return link

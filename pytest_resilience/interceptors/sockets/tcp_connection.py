"""One open connection: whose turn it is to speak, what comes in and what goes out."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import weakref

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import FRAMED
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.parsing.http_requests import RequestReader
from pytest_resilience.chaos.request_stream import after
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.send_queue import CallingThreads
from pytest_resilience.interceptors.sockets.send_queue import SendQueue
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.wire_format import asks_something
from pytest_resilience.interceptors.sockets.wire_format import is_hello
from pytest_resilience.interceptors.sockets.wire_format import is_sealed
from pytest_resilience.interceptors.sockets.wire_format import kind_of
from pytest_resilience.locks import fork_safe


__all__ = ["Inbound", "Peer", "TcpConnection", "answer_nothing", "moment", "other_ends"]

_NO_TIME = 0.001  # seconds that nobody waits: a peer near by and cold caches take them

# The other ends of connections to nobody, by the numbers of these.
other_ends: dict[int, KernelSocket] = {}


def moment(since: float, now: float) -> float:
    """When something happened: `now`, or `since`, if that is hardly before. Monotonic seconds."""
    return now if now - since > _NO_TIME else since


def answer_nothing(number: int, effect: Effect | None) -> None:
    """Let a response of a connection to nobody end before it begins, unless `effect` gives one."""
    if effect is None or not (effect.failure or effect.delay == math.inf):
        with contextlib.suppress(OSError):  # it is over
            other_ends[number].shutdown(socket.SHUT_WR)


class Turn:
    """Whose turn it is to speak on a connection, and what for.

    Attributes:
        receiving: it is the peer's: True from the first receive after a send on.
        partial: the response had begun before an experiment began to be about it.
        asked: something was sent since it was the peer's turn.
        sent_at: monotonic seconds of the last send: when it began, if it took no time.
        request: which kind was sent last: the `form` of its response.
        tls: TLS is made above the socket, so that what is sent are its records.
        decrypted: that TLS is known, so that faults can change what is in its records.
        handshaking: what is awaited is the response to a TLS hello.
        after_handshake: how many responses have begun, of which the first was to a handshake, since
            anything was read; of tickets of TLS nothing is.
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
        self.after_handshake = 0
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


class ReceivingThreads(CallingThreads):
    """Those in one of the receiving methods, and which of them decides about a response just now.

    A fault is counted before it can be looked up at its connection. So an outage that begins in
    between is left to the thread that decides. And who waits as one begins may come back just then
    and ask as well: whoever is faster asks, about each response each experiment once.

    Attributes:
        asked: the experiments that have been asked about the response that is awaited.
        abandoned: nobody looks at the connection any more: who leaves gives back what is unread.
        lock: held by who changes any of that, or gives back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: tuple[ActiveExperiment, ...] = ()
        self._deciding: dict[int, list[ActiveExperiment]] = {}
        self.abandoned = False
        self.lock = fork_safe(self, "lock", threading.Lock)

    @property
    def decide(self) -> bool:
        """Whether one of them decides just now."""
        return bool(self._deciding)

    @contextlib.contextmanager
    def deciding(
        self, turn: Turn, engine: Engine, among: Sequence[ActiveExperiment] | None
    ) -> Iterator[tuple[Sequence[ActiveExperiment], list[ActiveExperiment]] | None]:
        """This thread decides in the block: it asks those, and after it the outages in the list.

        `among`: of the rest of a response; else it begins one of which it is the `turn`, and asks
        all that are active. None if another thread has begun it.
        """
        asked, left = among, list[ActiveExperiment]()
        with self.lock:
            if asked is None and not turn.receiving:
                asked = self.asked = tuple(engine.active)  # later ones find it among who decide
            if asked is not None:
                turn.receiving, turn.asked = True, False
                self._deciding[threading.get_ident()] = left
        try:
            yield None if asked is None else (asked, left)
        finally:
            with self.lock:
                self._deciding.pop(threading.get_ident(), None)

    def unasked(self, experiments: Sequence[ActiveExperiment]) -> list[ActiveExperiment]:
        """Those that nobody has asked about the response that is awaited."""
        return [each for each in experiments if each not in self.asked]

    def claim(self, experiments: Sequence[ActiveExperiment]) -> list[ActiveExperiment]:
        """The same, and this thread asks them."""
        with self.lock:
            new = self.unasked(experiments)
            self.asked = (*self.asked, *new)
            return new

    def ask_again(self, about: ActiveExperiment) -> None:
        """Its window has begun: what it was asked before is nothing."""
        with self.lock:
            self.asked = tuple(each for each in self.asked if each is not about)

    def leave(self, outages: Sequence[ActiveExperiment]) -> bool:
        """Whether a thread decides just now, and will ask these outages as well."""
        with self.lock:
            left = next(iter(self._deciding.values()), None)
            if left is not None:
                left.extend(outages)
            return left is not None


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
        threads: those that receive: one method may be made of others, or be held up in connecting.
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
        self.threads = fork_safe(self, "threads", ReceivingThreads)

    def give_back(self, sock: Any) -> None:
        """Nobody looks any more: what is unread of TLS is for who reads `sock` on.

        A thread that receives just now delivers it by itself, and gives back the rest.
        """
        tls = or_none(getattr, sock, "_sslobj")  # which gevent's do not say once they are closed
        with self.threads.lock:  # that thread and who abandons the connection may do it at once
            if self.unread and not self.threads and tls is not None:
                data, self.unread = self.unread, b""
                sock._sslobj = _GivenBack(sock, tls, data)  # noqa: SLF001  # below all that reads


class _GivenBack:
    """In place of what OpenSSL has decrypted for an `ssl.SSLSocket`, until this is read."""

    def __init__(self, sock: Any, tls: Any, data: bytes) -> None:
        self._sock = weakref.ref(sock)
        self._tls = tls
        self._data = data

    def pending(self) -> int:
        return len(self._data) or int(self._tls.pending())

    def read(self, size: int, *buffers: Any) -> Any:
        if not self._data:  # another thread was faster
            return self._tls.read(size, *buffers)
        data, self._data = self._data[:size], self._data[size:]
        sock = self._sock()
        if not self._data and sock is not None:
            sock._sslobj = self._tls  # noqa: SLF001
        for buffer in buffers:
            memoryview(buffer).cast("B")[: len(data)] = data
        return len(data) if buffers else data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection.

    Attributes:
        names: every `host:port` that it is known by, the best first.
        accepted: it has opened the connection, which this process accepted.
    """

    names: tuple[str, ...]
    accepted: bool = False


class TcpConnection:
    """One TCP connection.

    Attributes:
        owner: the socket object that was seen on it last.
        ends: own and peer's address, once connected: what stays when a descriptor moves
            to another socket object, as in TLS.
        peer: who is at the other end.
        number: what `new_connection` gave it; 0 if nothing can happen to it.
        stale: the active experiments have changed since `untargeted` was decided.
        untargeted: no active experiment has it for a target.
        task: of an event loop, that has connected or sent on it last.
        turn: whose turn it is to speak.
        inbound: what comes in.
        send_queue: what could not be sent.
    """

    __slots__ = (
        "__weakref__", "ends", "inbound", "number", "owner", "peer", "send_queue", "stale", "task",
        "turn", "untargeted",
    )  # fmt: skip

    def __init__(self, owner: socket.socket | None, peer: Peer, *, number: int) -> None:
        self.owner: Callable[[], socket.socket | None]
        self.owner = (lambda: None) if owner is None else weakref.ref(owner)
        self.ends: tuple[Any, Any] | None = None
        self.peer = peer
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

    @property
    def _has_tickets_only(self) -> bool:
        """Whether what has come since the handshake, like a response, is TLS's own so far."""
        turn, stream, late = self.turn, self.inbound.stream, self.send_queue.requests.late
        is_late_only = late is None if stream is None else stream.content is None
        return turn.receiving and turn.after_handshake > 1 and is_late_only

    @property
    def _conversation(self) -> ResponseStream | None:
        """What happens somewhere in all that comes, whatever is said in between."""
        stream = self.inbound.stream
        if stream is None or not self.turn.requests.conversation.is_on:
            return None
        return stream if stream.effect.is_of_stream else None

    def sent(self, message: bytes, now: float) -> None:
        """`message` was sent: now it is the peer's turn, unless it asks for nothing."""
        stream = self.inbound.stream
        if self.turn.partial and stream is None:
            self.inbound.expected = False  # who has polled has found nothing more of that before
        if self._has_tickets_only:
            self.inbound.expected = True
            if stream is not None:
                stream.await_again()
        if self.inbound.expected:
            self.turn.sent_at = now  # it is more of the same request
        elif self.turn.sent(message, now) and not (stream is not None and stream.is_replaced):
            is_read = bool(self.inbound.threads - {threading.get_ident()})
            is_waited_for = stream is not None and stream.due is None
            if not (is_read and is_waited_for) and self._conversation is None:
                self.inbound.stream = None

    def begin_response(
        self,
        engine: Engine,
        *,
        through: object = None,
        among: Sequence[ActiveExperiment] | None = None,
        early: bool = False,
    ) -> ResponseStream | None:
        """The client turns from sending to receiving: what happens to the response?

        `among`: the experiments that may happen to one about which others have decided.
        `early`: the client has not come for it yet, and finds it decided when it does.
        """
        threads = self.inbound.threads
        with threads.deciding(self.turn, engine, among) as decides:
            if decides is None:
                return self.inbound.stream
            asked, left = decides
            stream = self._decide(engine, through, asked, again=among is not None)
            self.inbound.expected = early
        begun = threads.claim(left) if left else []
        if not begun:
            return stream
        following = self.begin_response(engine, through=through, among=begun, early=early)
        if stream is not None and following is not stream:
            stream.overtake()
        return following

    def _decide(
        self, engine: Engine, through: object, asked: Sequence[ActiveExperiment], *, again: bool
    ) -> ResponseStream | None:
        """`again`: others have decided about it before."""
        turn, self.inbound.expected = self.turn, False
        if through is not None:  # who blocks in a handshake knows more
            self.inbound.tickets = turn.after_handshake > 0
        kind = HANDSHAKE if turn.handshaking else RECEIVE
        if turn.handshaking or not turn.decrypted:
            turn.after_handshake = int(turn.handshaking)
        elif turn.after_handshake:
            turn.after_handshake += 1
        turn.handshaking = False
        about = self.operation(kind, through=through, asked=True)
        # Another thread may find out meanwhile that the peer has ended it.
        effect = engine.decide(about, among=asked) if about.tcp.connection else None
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
        if effect is None and (turn.partial or again):
            return self.inbound.stream  # what has happened to the rest of it goes on
        conversation = self._conversation if turn.requests.conversation.is_on else None
        stream = None if effect is None else ResponseStream(effect, encrypted=turn.decrypted)
        self.inbound.stream = stream if conversation is None else conversation.going_on(effect)
        return self.inbound.stream

    def begin_request(self, engine: Engine, message: bytes) -> None:
        """The client sends `message`: what happens to it, if it is a new one?"""
        requests = self.send_queue.requests
        if not self.client or (SEND not in engine.active.kinds and requests.is_idle):
            return
        # Of TLS, what comes first may be its own, such as tickets.
        answered = requests.is_answered if self.turn.decrypted else self.turn.receiving
        goes_on = self.turn.requests.conversation.is_on
        begins = requests.begins(message, answered=answered, in_conversation=goes_on)
        if requests.is_cut or requests.is_ending:
            return
        effect = None
        if SEND in engine.active.kinds:
            effect = engine.decide(self.operation(SEND, asked=True, mid_message=not begins))
            newer = self.send_queue.newer(engine, begins=begins)
            if newer and effect is None:
                effect = engine.decide(self.operation(SEND, asked=True), among=newer)
        if begins or effect is not None:
            requests.begin(effect, sealed=self.turn.decrypted)

    def begin_eof(self, engine: Engine, *, through: object = None) -> ResponseStream | None:
        """The peer has closed its side: what happens to the EOF, the first time?"""
        if self.inbound.eof_received or not self.client:
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
        turn, requests, peer = self.turn, self.turn.requests, self.peer
        return Operation(
            kind=kind,
            target=peer.names[0],
            names=peer.names,
            blocking=blocking,
            tcp=TcpDetails(
                connection=self.number,
                accepted=peer.accepted,
                partial=kind == SEND and self.inbound.expected,
                mid_message=mid_message,
                in_conversation=requests.conversation.is_on,
            )
            if kind != RECEIVE
            else TcpDetails(
                connection=self.number,
                accepted=peer.accepted,
                encrypted=turn.tls and not turn.decrypted,
                partial=turn.partial,
                other=requests.is_other,
                form=turn.request,
                in_conversation=requests.conversation.is_on,
            ),
            http=HttpDetails(request=requests.request if asked and requests.is_whole else None),
            call_site=CallSite(loop_objects=(through, self.task and self.task())),
        )

"""Asks the engine what experiments do to one connection, whose conversation it follows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.payload import ChunkReader
from pytest_resilience.chaos.faults.payload import Head
from pytest_resilience.chaos.faults.payload import is_chunked
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import EXPECTANT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.operation import new_connection
from pytest_resilience.chaos.parsing.http_requests import FrameReader
from pytest_resilience.chaos.parsing.http_requests import RequestReader


__all__ = ["Decisions", "ResponseReader"]

_AT_ONCE = 4096  # bytes that are looked at for a head
_SWITCHED = b"101"  # to another protocol, which follows until the end
_TLS_HANDSHAKE = b"\x16\x03"  # how a record of TLS that shakes hands begins
_SERVER_FIRST = "before any request"
_END_OF_HEAD = b"\r\n\r\n"
_EXPECTATION = b"\r\nexpect: 100-continue\r\n"
_HTTP2_PREFACE = b"PRI * HTTP/2"


class ResponseReader:
    """Follows the responses of HTTP/1, to know whether the client waits for more.

    What is no HTTP/1 is not followed.

    Attributes:
        is_unfinished: whether one has begun, and not ended. One whose end is that of the
            connection does not, nor what follows after an upgrade, as of a WebSocket.
    """

    def __init__(self) -> None:
        self.is_unfinished = False
        self._method = b""
        self._head = Head()
        self._chunks = ChunkReader()
        self._left = 0  # bytes of a body
        self._read: Callable[[memoryview], int] = self._read_head

    def note_request(self, request: memoryview) -> None:
        """The client sends this, or something that begins so: what comes next responds to it."""
        self._method = bytes(request[:8]).partition(b" ")[0]

    def feed_response(self, data: memoryview) -> None:
        """The server sends this."""
        while data:
            data = data[self._read(data) :]

    def _read_head(self, data: memoryview) -> int:
        size = self._head.within(bytes(data[:_AT_ONCE]))
        self.is_unfinished = True
        if self._head.over:
            self._begin_body(self._head)
        return size

    def _begin_body(self, head: Head) -> None:
        status = head.text[len(b"HTTP/1.1 ") :][:3]
        if not head.text or (self._method == b"CONNECT" and status.startswith(b"2")):
            self._ignore()
        elif status == _SWITCHED:
            self._read = len
        elif self._method == b"HEAD" or head.bodiless:
            self._end()
        elif is_chunked(head.text):
            self._chunks, self._read = ChunkReader(), self._read_chunks
        elif head.length is None:
            self._read = len
        else:
            self._left, self._read = head.length, self._skip

    def _skip(self, data: memoryview) -> int:
        size = min(self._left, len(data))
        self._left -= size
        if not self._left:
            self._end()
        return size

    def _read_chunks(self, data: memoryview) -> int:
        end = 0
        for part in self._chunks.parts(data):
            end = part.end
        if self._chunks.is_over:
            self._end()
        elif self._chunks.is_broken:
            self._ignore()
        return end

    def _end(self) -> None:
        self.is_unfinished = False
        self._head, self._read = Head(), self._read_head

    def _ignore(self) -> None:
        """It is no HTTP, nor what follows."""
        self.is_unfinished, self._read = False, len


class Decisions:
    """See the module.

    A proxy knows no protocol, and so not where messages begin. A request is what the client sends
    once the server has responded to the one before; a response is what the server sends until then.

    Attributes:
        turn: the number of the response that comes now, or is awaited, from 1; 0 before any.
        answered: whether any of that response has passed: what the client sends next is a new
            request.
        encrypted: whether no response can be injected: what passes is encrypted, or HTTP/2, or
            there was no request yet.
        informational: whether the request waits for 100 Continue, which is no response yet.
    """

    def __init__(self, engine: Engine, names: tuple[str, ...], connection: int = 0) -> None:
        """`names`: every `host:port` the server is known by, the best first.

        `connection`: its number, if it has one already.
        """
        self.turn = 0
        self.answered = False
        self.encrypted = True
        self.informational = False
        self._remark = _SERVER_FIRST
        self._engine = engine
        self._names = names
        self._connection = connection or new_connection()
        self._requests = RequestReader()
        self._responses: ResponseReader | FrameReader = ResponseReader()  # the latter: of HTTP/2

    @property
    def active(self) -> tuple[ActiveExperiment, ...]:
        """The experiments that run."""
        return self._engine.active

    @property
    def opened(self) -> tuple[ActiveExperiment, ...]:
        """The outages among them whose window has begun, if they have one."""
        windows = [each for each in self.active if each.experiment.opens_after]
        if not windows:
            return ()
        now = self._engine.clock.monotonic()
        return tuple(each for each in windows if each.experiment.is_outage and each.opens_at <= now)

    @property
    def awaits_response(self) -> bool:
        """Whether the client waits for one, or in HTTP for more of one that has begun."""
        # What is sent in HTTP/2 after its preface may be no request, but an acknowledgement.
        asked = self.turn == 1 if self._frames is not None else bool(self.turn)
        return (asked and not self.answered) or self._responses.is_unfinished

    @property
    def _frames(self) -> FrameReader | None:
        return self._responses if isinstance(self._responses, FrameReader) else None

    @property
    def in_conversation(self) -> bool:
        """Whether both sides speak at any time, as on a WebSocket."""
        return self._requests.conversation.is_on

    @property
    def awaits_head(self) -> bool:
        """Whether requests are meant, and it will soon be known whether this is one of them."""
        return self._requests.is_partial and any(
            each.experiment.aims_at_requests for each in self.active
        )

    def note_request(self, data: memoryview) -> None:
        """The client has sent this: a new request, or more of one."""
        is_new = self.answered or not self.turn or self.informational
        if is_new:
            self.turn += 1
            self.answered = False
            if isinstance(self._responses, ResponseReader):
                self._responses.note_request(data)
        if is_new or self._remark == _SERVER_FIRST:
            self._look_at_beginning(data)
        if self._frames is not None:
            self._note_frames(bytes(data))
        elif self.active or self._engine.recorder is not None:
            self._requests.feed(bytes(data), answered=is_new)

    def note_response(self, data: memoryview) -> None:
        """The server has sent this."""
        self.turn = self.turn or 1  # it may speak first
        self._responses.feed_response(data)
        if self._frames is not None and not self.active:
            self._requests.forget()  # as in `decide`

    def _look_at_beginning(self, request: memoryview) -> None:
        """Notice TLS, and HTTP/2, where it begins, and a head that comes before its body."""
        end = request[-len(_END_OF_HEAD) :] == _END_OF_HEAD
        self.informational = end and _EXPECTATION in bytes(request).lower()
        if request[: len(_TLS_HANDSHAKE)] == _TLS_HANDSHAKE:
            self.encrypted, self._remark = True, ""
        elif request[: len(_HTTP2_PREFACE)] == _HTTP2_PREFACE:
            self.encrypted, self._remark = True, "HTTP/2"
            with suppress(ImportError):  # then no request is known
                self._responses = FrameReader()
        elif self._remark == _SERVER_FIRST:
            self.encrypted, self._remark = False, ""

    def _note_frames(self, data: bytes) -> None:
        """A request of HTTP/2 begins a turn of its own, whatever else the client has sent."""
        frames = self._frames
        assert frames is not None
        try:
            begun = frames.feed(data)
        except Exception:  # what is no HTTP/2 is for the server to refuse
            self._responses = ResponseReader()
            return
        if begun and frames.request is not None:
            self.turn += 1
            self.answered = False
            self._requests.note(frames.request)

    def is_recording(self, kinds: frozenset[str]) -> bool:
        """Whether somebody wants to know that one of these is done."""
        return self._engine.is_recording(kinds)

    def note(self, kind: str) -> None:
        """An operation is about to be done, while there is no experiment."""
        self._engine.note_unmatched(self._operation(kind))

    def decide(self, kind: str, *, mid_message: bool = False) -> Effect | None:
        """The effect on an operation; None if there is none. `mid_message`: see `TcpDetails`."""
        if not self._concerns(kind, mid_message=mid_message):
            return None
        effect = self._engine.decide(self._operation(kind, mid_message=mid_message))
        if self._frames is not None and kind == RECEIVE and not mid_message:
            self._requests.forget()  # what comes after it may belong to any
        return effect

    def _concerns(self, kind: str, *, mid_message: bool) -> bool:
        faults = (fault for each in self.active for fault in each.experiment.faults)
        if mid_message:
            return any(kind in fault.kinds and fault.transient for fault in faults)
        # An experiment that never fires tells which connections and responses there were.
        is_noted = kind in (CONNECT, RECEIVE) and bool(self.active)
        return is_noted or kind in self._engine.active.kinds

    def is_newly_targeted(self, known: tuple[ActiveExperiment, ...]) -> bool:
        """True if an experiment runs that is not `known`, and is about this connection."""
        return self._engine.is_targeted(self._operation(RECEIVE), known=known)

    def _operation(self, kind: str, *, mid_message: bool = False) -> Operation:
        is_response = kind == RECEIVE
        return Operation(
            kind=kind,
            target=self._names[0],
            names=self._names,
            tcp=TcpDetails(
                connection=self._connection,
                encrypted=self.encrypted and is_response,
                partial=self.answered and is_response,
                other=self._requests.is_other and is_response,
                in_conversation=self.in_conversation,
                form=EXPECTANT if self.informational and is_response else "",
                mid_message=mid_message,
            ),
            http=HttpDetails(request=None if kind == CONNECT else self._requests.request),
            call_site=CallSite(is_elsewhere=True),
            remark=self._remark if is_response and self._needs_http else "",
        )

    @property
    def _needs_http(self) -> bool:
        experiments = [each.experiment for each in self.active]
        faults = (fault for each in experiments for fault in each.faults)
        return any(each.aims_at_requests for each in experiments) or any(
            isinstance(fault, InjectedResponse) for fault in faults
        )

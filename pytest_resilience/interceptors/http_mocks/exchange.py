"""One request to a mocked peer and its response, as they would pass over a connection. Sans-IO.

A mock has no connections. Each call, and each retry of one, counts as a connection of its
own: a name that is resolved, unless it is an address; a connect; a response. So the nth
call is the nth of each, whatever a pool would have made of it. There is no TLS handshake,
and nobody sees how a connection is closed.

An `Exchange` decides what happens and touches neither client nor mock. Its methods are
generators, which yield what their driver has to do (see `fake_network`): hold the client up,
or ask the mock for its response and send that in.
"""

from __future__ import annotations

import errno
import functools
import io

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from typing import TypeVar

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.faults.response import Pace
from pytest_resilience.chaos.faults.stream_items import in_chunks
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.operation import new_connection
from pytest_resilience.chaos.parsing.targets import as_shown
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.peer_names import is_literal


__all__ = [
    "AskMock", "Exchange", "Hold", "InProcess", "LeftToMock", "MockResponse", "Peer",
]  # fmt: skip

_ON_WEBSOCKET = "a WebSocket, in this process"
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class LeftToMock(BaseException):  # no client may catch it
    """Nothing happens to this call: the mock responds. Its cause is what the mock has raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MockResponse:
    """The response of a mock.

    Attributes:
        head: in HTTP/1.1, up to where the body begins.
        body: as it would be sent, before anything is decoded.
    """

    head: bytes
    body: bytes

    @classmethod
    def of(
        cls, status: int, reason: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> MockResponse:
        """As a server sends it: the body in one piece, whose length it names, if any.

        A stream of events or records comes in chunks, one for each, and names no length.
        """
        first = f"HTTP/1.1 {status} {reason}"
        framing = {"transfer-encoding", "connection"}
        kept = [each for each in headers if each[0].lower() not in framing]
        streamed = [each for each in kept if each[0].lower() != "content-length"]
        chunks = in_chunks(_head(first, streamed), body) if body else None
        if chunks is not None:
            return cls(head=_head(first, [*streamed, _CHUNKED]), body=chunks)
        if body and streamed == kept:
            kept.append(("Content-Length", str(len(body))))
        return cls(head=_head(first, kept), body=body)


_CHUNKED = ("Transfer-Encoding", "chunked")


def _head(first: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers), "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class InProcess:
    """Who calls an application in this process, for people.

    Attributes:
        name: of the client or the transport.
        callee: what it calls.
    """

    name: str
    callee: str = "the application"

    @property
    def remark(self) -> str:
        """Beside an operation."""
        return f"by {self.name}, in this process"

    @property
    def on_websocket(self) -> str:
        """What to do where something is to happen to what is said on a WebSocket."""
        return (
            f"Of a WebSocket, {self.name} is hit while it is opened, as by mode='refuse', 'reset' "
            f"or a delay: what is said on it is passed on in this process. To hit that, serve "
            f"{self.callee} on loopback, as uvicorn does, and connect to it by a client of "
            "WebSockets."
        )

    def advice(self, place: str) -> str:
        """How to aim at `place`, a `host:port`."""
        return (
            f"{self.name} called {self.callee} in this process, with no network in between. That "
            f"is hit where a target names it: target={place!r}. To hit what {self.callee} "
            "connects to, aim at that."
        )


class Peer:
    """A host that is mocked, or an application that is called in this process.

    Attributes:
        clock: on which those who wait for it wait.
        tls: whether it would be spoken to over TLS.
        name: `host:port`.
    """

    def __init__(
        self,
        engine: Engine,
        scheme: str,
        host: str,
        port: int | None,
        *,
        http: HttpDetails = HttpDetails(),  # noqa: B008  # it is immutable
        caller: InProcess | None = None,
    ) -> None:
        """`http`: what is known of the request. `caller`: of an application in this process."""
        self.clock = engine.clock
        self.tls = scheme in {"https", "wss"}
        self._engine = engine
        self._caller = caller
        self._is_http = scheme in _PORTS
        self._is_websocket = scheme in {"ws", "wss"}
        names, self._is_address = _names(host, port or _PORTS.get(scheme))
        self.name = names[0]
        self._connect = Operation(
            kind=CONNECT,
            target=self.name,
            names=names,
            tcp=TcpDetails(connection=new_connection()),
            http=http if caller is None else http._replace(in_process=True),
            remark="" if caller is None else caller.remark,
        )

    @classmethod
    def nobody(cls, engine: Engine) -> Peer:
        """Where nothing happens, and nothing is noted."""
        return cls(engine, "", "", None)

    def is_targeted(self, mock_responds: Callable[[], bool] | None = None) -> bool:
        """An active experiment is aimed at it, and the mock has a response; noted if not."""
        if not self._is_http or not self._engine.is_targeted(self._connect):
            self._note(self._connect)
            return False
        if mock_responds is not None and not mock_responds():
            self.note_no_response()
            return False
        return True

    def note_no_response(self) -> None:
        """Note that it was called, and that the mock has no response."""
        self._note(self._connect._replace(remark="the mock has no response"))

    def _note(self, operation: Operation) -> None:
        if not self._is_http:
            return
        if self._caller is not None:
            operation = operation._replace(advice=self._caller.advice(self.name))
        self._engine.note_unmatched(operation)
        if self._engine.recorder is not None:  # it would be a whole exchange
            for kind in (RECEIVE,) if self._is_address else (RESOLVE, RECEIVE):
                self._engine.recorder.note(self._connect._replace(kind=kind))

    def decide(self, kind: str) -> Effect | None:
        """The effect on an operation of this kind; None if nothing happens to it."""
        if not self._is_http or (kind == RESOLVE and self._is_address):
            return None  # nobody is called, or nobody has to be asked for an address
        operation = self._connect._replace(kind=kind)
        if kind == RECEIVE and self._is_websocket and self._caller is not None:
            return self._decide_upgrade(operation, self._caller)
        if kind == RECEIVE:
            return self._engine.decide(operation)
        # Over a network nobody knows what will be asked for while a connection is made: what is
        # aimed at some requests, and can happen to their responses, awaits those.
        active = self._engine.active
        others = [
            each
            for each in active
            if not (each.experiment.aims_at_requests and RECEIVE in each.kinds)
        ]
        among = None if len(others) == len(active) else others
        return self._engine.decide(operation, among=among)

    def _decide_upgrade(self, operation: Operation, caller: InProcess) -> Effect | None:
        """The effect on the opening of a WebSocket, where nothing is seen of what is said on it."""
        among = []
        for each in self._engine.active:
            if not any(map(_is_within, each.experiment.faults)):
                among.append(each)
            elif RECEIVE in each.kinds:
                said = operation._replace(remark=_ON_WEBSOCKET, advice=caller.on_websocket)
                each.unmatched.note(said)
        return self._engine.decide(operation, among=among)


def _is_within(fault: Fault) -> bool:
    """Whether it happens to what follows once a response has begun."""
    return fault.needs_body or fault.is_of_stream or isinstance(fault, Pace)


@functools.lru_cache
def _names(host: str, port: int | None) -> tuple[tuple[str, ...], bool]:
    """Every `host:port` of a host, and whether it is an address."""
    host = as_shown(host)
    return HostNames().of(host, port), is_literal(host)


@dataclass(frozen=True, slots=True)
class Hold:
    """Hold the client up for so many seconds, or until its own timeout."""

    effect: Effect
    seconds: float


@dataclass(frozen=True, slots=True)
class AskMock:
    """Send in the mock's response, or raise LeftToMock from what the mock has raised."""


_R = TypeVar("_R")
Steps = Generator[Hold | AskMock, MockResponse | None, _R]


@dataclass(slots=True)
class Exchange:
    """See the module. Raises what a socket raises, or LeftToMock."""

    peer: Peer
    _stream: ResponseStream | None = field(default=None, init=False)
    # What has come and is not paced: a mock sends it at once.
    _head: io.BytesIO = field(default_factory=io.BytesIO, init=False)
    # What has not been read of it; None before it came.
    _body: io.BytesIO | None = field(default=None, init=False)

    def call(self, kind: str) -> Steps[None]:
        """RESOLVE the host's name, or CONNECT to it."""
        __tracebackhide__ = True
        effect = self.peer.decide(kind)
        if effect is None:
            return
        if effect.delay:
            yield Hold(effect, effect.delay)
        error = effect.error(self.peer.name)
        if error is not None:
            raise error

    def receive(self, size: int) -> Steps[bytes]:
        """The next bytes of the response, `size` at most; none at EOF."""
        __tracebackhide__ = True
        if self._stream is None:
            effect = self.peer.decide(RECEIVE)
            if effect is None:
                raise LeftToMock
            self._stream = ResponseStream(effect)
        stream, now = self._stream, self.peer.clock.monotonic()
        while not (ready := self._head.read(size)):
            available = 0 if self._body is None else len(self._body.getbuffer()) - self._body.tell()
            step = stream.next(available, now)
            if isinstance(step, WaitUntil):
                yield Hold(stream.effect, step.due - now)
                now = step.due  # as far as the client's timeout and the clock let it come
            elif isinstance(step, ResetConnection):
                raise os_error(errno.ECONNRESET)
            elif isinstance(step, CloseConnection):
                return b""
            elif isinstance(step, ReadReplacement):
                return stream.replay(size)
            elif self._body is not None:
                data = self._body.read(min(size, step.most))
                ready = stream.take(data)
                if ready or not (data or stream.is_reset):
                    return ready
            elif stream.is_unchanged:
                raise LeftToMock
            else:
                response = yield AskMock()
                assert response is not None
                self._receive_head(stream, response)
        return ready

    def _receive_head(self, stream: ResponseStream, response: MockResponse) -> None:
        self._body = io.BytesIO(response.body)
        failure = stream.effect.failure
        if response.body or (failure is not None and not failure.needs_body):
            self._head = io.BytesIO(stream.take(response.head))
        else:  # whatever length is named, as in the response to HEAD
            self._head = io.BytesIO(response.head)
            stream.effect.uncount()

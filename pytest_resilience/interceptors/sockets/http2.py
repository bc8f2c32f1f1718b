"""HTTP/2: responses that share a connection, each with what happens to it alone.

A connection shows only frames, and what is in their heads depends on all that came before. So the
requests and responses are those of the library h2, by which clients in Python speak HTTP/2 (httpx,
grpclib): it tells what it has received by events, and these are what is changed. Its own account
of the connection stays right, and so do the streams beside. What a request is sent on is known by
the bytes that h2 hands out and the next socket takes.

Nobody can be held up here, as the others on the connection must not be. What delays a response
delays all that is received meanwhile (see `connections.TcpConnection.begin_response`).
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.parsing.http_requests import read_pairs
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.import_hook import ImportHook
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.patching import Patches


__all__ = ["Http2Streams"]

_INTERNAL_ERROR = 2  # of RFC 9113, 7: what a server says whose handler has failed


class _Shared:
    """One connection of h2.

    Attributes:
        asked: the requests that were encoded and not sent yet, by stream.
        responses: what happens to those awaited, by stream.
    """

    def __init__(self) -> None:
        self.asked: dict[int, HttpRequest] = {}
        self.responses: dict[int, _Response] = {}


class _Outgoing(threading.local):
    """What h2 has handed out last in this thread."""

    data: bytes = b""
    shared: _Shared | None = None


class Http2Streams:
    """See the module."""

    def __init__(self, engine: Engine, patches: Patches) -> None:
        self._engine = engine
        self._patches = patches
        self._outgoing = _Outgoing()
        self._shared: weakref.WeakKeyDictionary[Any, _Shared] = weakref.WeakKeyDictionary()
        self._import_hook = ImportHook({"h2.connection": self._reach}, patches)

    def install(self) -> None:
        """Reach h2, as soon as it is loaded."""
        self._import_hook.install()

    def remove(self) -> None:
        self._import_hook.remove()

    def sent(self, connection: TcpConnection, message: bytes, *, encrypted: bool = False) -> None:
        """`message`, or what begins so, is sent on a connection: read the requests in it.

        `encrypted`: it was noted before it was.
        """
        if encrypted:
            return
        turn = connection.turn
        turn.requests.feed(message, answered=not turn.asked)
        outgoing = self._outgoing
        shared = outgoing.shared
        if shared is None or outgoing.data[: len(message)] != message:
            return
        outgoing.shared, outgoing.data = None, b""
        asked, shared.asked = shared.asked, {}
        for stream_id, request in asked.items():
            turn.requests.note(request)
            operation = connection.operation(RECEIVE, asked=True)
            effect = self._engine.decide(operation.of_stream(request))
            if effect is not None:
                shared.responses[stream_id] = _Response(ResponseStream(effect))

    def _reach(self) -> None:
        connection = sys.modules["h2.connection"].H2Connection
        self._patches.replace(connection, "send_headers", self._encoding)
        self._patches.replace(connection, "data_to_send", self._handing_out)
        self._patches.replace(connection, "receive_data", self._receiving)

    def _of(self, connection: Any) -> _Shared | None:
        """A connection of a client, as it is known here."""
        if not connection.config.client_side:
            return None
        return self._shared.setdefault(connection, _Shared())

    def _encoding(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def send_headers(h2: Any, stream_id: int, headers: Any, *args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            given = list(headers)
            original(h2, stream_id, given, *args, **named)
            shared, request = or_none(self._of, h2), or_none(read_pairs, given)
            if shared is not None and request is not None:
                shared.asked[stream_id] = request

        return send_headers

    def _handing_out(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def data_to_send(h2: Any, *args: Any, **named: Any) -> Any:
            data = original(h2, *args, **named)
            shared = or_none(self._of, h2)
            if shared is not None and shared.asked:
                self._outgoing.shared, self._outgoing.data = shared, data
            return data

        return data_to_send

    def _receiving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def receive_data(h2: Any, *args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            events = original(h2, *args, **named)
            shared = self._shared.get(h2)
            if shared is None or not shared.responses:
                return events
            return [each for event in events for each in self._delivered(h2, shared, event)]

        return receive_data

    def _delivered(self, h2: Any, shared: _Shared, event: Any) -> list[Any]:
        """The events that take the place of one."""
        response = shared.responses.get(getattr(event, "stream_id", 0) or 0)
        if response is None:
            return [event]
        delivered = response.deliver(event, self._engine.clock.monotonic())
        kept = sum(getattr(each, "flow_controlled_length", 0) for each in delivered)
        lost = getattr(event, "flow_controlled_length", 0) - kept
        if lost > 0:  # nobody will say that there is room again
            or_none(h2.acknowledge_received_data, lost, event.stream_id)
        return delivered


class _Response:
    """One response on its way: the events of h2 that tell of it, as its `ResponseStream` says."""

    def __init__(self, stream: ResponseStream) -> None:
        self._stream = stream
        self._is_over = False

    def deliver(self, event: Any, now: float) -> list[Any]:
        """The events that take the place of the next one."""
        events = sys.modules["h2.events"]
        if self._is_over:
            return []
        if isinstance(event, events.ResponseReceived):
            end = self._end(event, now)
            if end is not None:
                return end
            is_lost = not self._stream.take(_head(event))
            return [*([] if is_lost else [event]), *(self._end(event, now) or [])]
        if not isinstance(event, events.DataReceived):
            return [event]
        event.data = self._stream.take(event.data)
        return [*([event] if event.data else []), *(self._end(event, now) or [])]

    def _end(self, event: Any, now: float) -> list[Any] | None:
        """What is delivered in the place of all that is still to come; None if that comes."""
        match self._stream.next(0, now):
            case ResetConnection() | CloseConnection():
                end = [_reset(event)]
            case ReadReplacement():
                replay = self._stream.replay()
                end = _injected(event, replay) if replay else [_reset(event)]
            case WaitUntil():  # silence: nobody can be told when that ends
                end = []
            case _:
                return None
        self._is_over = True
        return end


def _reset(event: Any) -> Any:
    """The server ends the stream, and not the connection."""
    return _made("StreamReset", event, error_code=_INTERNAL_ERROR, remote_reset=True)


def _head(event: Any) -> bytes:
    """The head of a response, as it would be in HTTP/1."""
    pairs = [(text_of(name), text_of(value)) for name, value in event.headers]
    lines = [f"{name}: {value}" for name, value in pairs if not name.startswith(":")]
    status = f"HTTP/1.1 {dict(pairs).get(':status', '200')} "
    return "\r\n".join([status, *lines, "", ""]).encode("latin-1", "replace")


def _injected(event: Any, replay: bytes) -> list[Any]:
    """The events of a response that is given in HTTP/1, in the place of one that begins."""
    head, _, body = replay.partition(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    pairs = [(":status", line.split(" ")[1])]
    pairs += [(name.lower(), value) for name, _, value in (each.partition(": ") for each in rest)]
    pairs = [each for each in pairs if each[0] != "connection"]
    decoded = isinstance(event.headers[0][0], str)  # as the client's configuration has it
    event.headers = pairs if decoded else [tuple(map(str.encode, each)) for each in pairs]
    data = _made("DataReceived", event, data=body, flow_controlled_length=0, stream_ended=None)
    return [event, *([data] if body else []), _made("StreamEnded", event)]


def _made(kind: str, event: Any, **attributes: Any) -> Any:
    """An event of the stream of another, in whichever way this version makes them."""
    cls = getattr(sys.modules["h2.events"], kind)
    made = cls.__new__(cls)
    vars(made).update(stream_id=event.stream_id, **attributes)
    return made

"""Applications that are called in this process: no network is between them and their clients.

They are hit as mocks are, where the target of an experiment names the host that is called. What
has no such target leaves them alone: it is meant for what the application depends on.

Clients of httpx raise httpx's errors. Test clients without errors of the network are given
those of `http.client`, which are the system's (ConnectionResetError, TimeoutError) and its own
(IncompleteRead). They have no timeout either, but `socket.setdefaulttimeout`.
"""

from __future__ import annotations

import functools
import http.client
import inspect
import io
import socket
import sys

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from urllib.parse import urlsplit

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.http_mocks import httpx_mocks
from pytest_resilience.interceptors.http_mocks.exchange import InProcess
from pytest_resilience.interceptors.http_mocks.exchange import LeftToMock
from pytest_resilience.interceptors.http_mocks.exchange import MockResponse
from pytest_resilience.interceptors.http_mocks.exchange import Peer
from pytest_resilience.interceptors.http_mocks.fake_network import AsyncFakeSocket
from pytest_resilience.interceptors.http_mocks.fake_network import FakeSocket
from pytest_resilience.patching import Patches


__all__ = ["IN_PROCESS"]

_PIECE = 64 << 10  # bytes
_UNQUOTED = "/:@!$&'()*+,;=~"  # in paths, but for letters and digits


def _of_httpx(module: str, engine: Engine, patches: Patches) -> None:
    httpx = sys.modules[module]
    if httpx.__name__ != module:
        return  # an alias of the other one
    httpx_mocks.load(module)
    for owner, method, callee in (
        ("ASGITransport", "handle_async_request", "the application"),
        ("WSGITransport", "handle_request", "the application"),
        ("MockTransport", "handle_request", "its handler"),
        ("MockTransport", "handle_async_request", "its handler"),
    ):
        caller = InProcess(name=f"{module}.{owner}", callee=callee)
        transport = _HttpxAsyncTransport if "async" in method else _HttpxTransport
        _replace(patches, getattr(httpx, owner), method, engine, transport(caller=caller))


def _of_starlette(engine: Engine, patches: Patches) -> None:
    """Also FastAPI's, which is the same."""
    module: Any = sys.modules["starlette.testclient"]
    httpx_mocks.load(module.httpx.__name__)
    reached = _HttpxTransport(caller=InProcess(name="starlette's TestClient"))
    _replace(patches, module._TestClientTransport, "handle_request", engine, reached)  # noqa: SLF001


def _of_werkzeug(engine: Engine, patches: Patches) -> None:
    """Also Flask's, which is made of it."""
    owner = sys.modules["werkzeug.test"].Client
    reached = _WerkzeugClient(caller=InProcess(name="werkzeug's test client"))
    _replace(patches, owner, "run_wsgi_app", engine, reached)


def _of_django(engine: Engine, patches: Patches) -> None:
    module = sys.modules["django.test.client"]
    for client, reached in (("Client", _DjangoClient), ("AsyncClient", _DjangoAsyncClient)):
        owner = getattr(module, f"{client}Handler")
        caller = InProcess(name=f"Django's test {client}")
        _replace(patches, owner, "__call__", engine, reached(caller=caller))


# By the module whose import means that the clients are there.
IN_PROCESS: dict[str, Callable[[Engine, Patches], None]] = {
    "httpx": functools.partial(_of_httpx, "httpx"),
    "httpx2": functools.partial(_of_httpx, "httpx2"),
    "starlette.testclient": _of_starlette,
    "werkzeug.test": _of_werkzeug,
    "django.test.client": _of_django,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Client:
    """What calls an application: where it is said to be, and how it is called with a fault.

    Attributes:
        caller: for people.
    """

    caller: InProcess

    def peer(self, engine: Engine, request: Any) -> Peer:
        """Whom a request is for."""
        raise NotImplementedError

    def send(self, peer: Peer, request: Any, ask: Callable[[], Any]) -> Any:
        """The response, or that to be awaited; None if the application is to be called as always.

        `ask` calls the application, or gives what calls it when it is awaited.
        """
        raise NotImplementedError


def _replace(patches: Patches, owner: Any, method: str, engine: Engine, client: _Client) -> None:
    patches.replace(owner, method, functools.partial(_reached, engine, client))


def _reached(engine: Engine, client: _Client, original: Callable[..., Any]) -> Any:
    """A method that calls an application for a request, its first argument, with faults."""

    def peer_if_targeted(there: Any, request: Any) -> Peer | None:
        if _is_mocked(there):
            return None
        peer = or_none(client.peer, engine, request)  # what is wrong, its own method says
        return peer if peer is not None and peer.is_targeted() else None

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def awaited(there: Any, request: Any, *args: Any, **named: Any) -> Any:
            __tracebackhide__ = True
            ask = functools.partial(original, there, request, *args, **named)
            peer = peer_if_targeted(there, request)
            response = None if peer is None else await client.send(peer, request, ask)
            return await ask() if response is None else response

        return awaited

    @functools.wraps(original)
    def call(there: Any, request: Any, *args: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        ask = functools.partial(original, there, request, *args, **named)
        peer = peer_if_targeted(there, request)
        response = None if peer is None else client.send(peer, request, ask)
        return ask() if response is None else response

    return call


def _is_mocked(transport: Any) -> bool:
    """Whether a library for mocks stands behind it, which is reached by itself."""
    handler = getattr(transport, "handler", None)
    behind = transport, getattr(handler, "__self__", None)  # which may be a class
    return any(str(getattr(each, "__module__", "")).startswith("respx.") for each in behind)


class _HttpxTransport(_Client):
    """A transport of httpx, whose client's own code makes the errors."""

    __slots__ = ()

    def peer(self, engine: Engine, request: Any) -> Peer:
        return httpx_mocks.peer_of(engine, request, self.caller)

    def send(self, peer: Peer, request: Any, ask: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        return httpx_mocks.send(peer, request, ask)


class _HttpxAsyncTransport(_HttpxTransport):
    """As `_HttpxTransport`, of an AsyncClient."""

    __slots__ = ()

    def send(self, peer: Peer, request: Any, ask: Callable[[], Any]) -> Any:
        return httpx_mocks.send_async(peer, request, ask)


class _WerkzeugClient(_Client):
    """Calls a WSGI application with an environment, and returns body, status and headers."""

    __slots__ = ()

    def peer(self, engine: Engine, request: Any) -> Peer:
        return _peer_of_environ(self.caller, engine, request)

    def send(self, peer: Peer, request: Any, ask: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        from werkzeug.datastructures import Headers

        def read() -> MockResponse:
            pieces, status, headers = ask()
            try:
                body = b"".join(pieces)
            finally:
                getattr(pieces, "close", int)()
            code, _, reason = status.partition(" ")
            return MockResponse.of(int(code), reason, headers.items(), body)

        reply = _exchange(peer, request["REQUEST_METHOD"], read)
        if reply is None:
            return None
        return iter([reply.body]), f"{reply.status} {reply.reason}", Headers(reply.headers)


class _DjangoClient(_Client):
    """Calls Django with an environment of WSGI, and returns its response."""

    __slots__ = ()

    def peer(self, engine: Engine, request: Any) -> Peer:
        return _peer_of_environ(self.caller, engine, request)

    def send(self, peer: Peer, request: Any, ask: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        from django.core.handlers.wsgi import WSGIRequest

        kept: list[Any] = []

        def read() -> MockResponse:
            response = ask()
            kept.append(response)
            whole = response.streaming_content if response.streaming else [response.content]
            return _mock_response(response, b"".join(whole))

        reply = _exchange(peer, request["REQUEST_METHOD"], read)
        if reply is None:
            return None
        response = _django_response(reply, kept)
        response.wsgi_request = WSGIRequest(request)
        return response


class _DjangoAsyncClient(_Client):
    """Calls Django with a scope of ASGI, and returns its response."""

    __slots__ = ()

    def peer(self, engine: Engine, request: Any) -> Peer:
        headers = [(text_of(name), text_of(value)) for name, value in request["headers"]]
        seen = HttpRequest.of(request["method"], _quoted(request["path"]), headers)
        return _peer(self.caller, engine, request["scheme"], seen, request["server"])

    async def send(self, peer: Peer, request: Any, ask: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        from django.core.handlers.asgi import ASGIRequest

        kept: list[Any] = []

        async def read() -> MockResponse:
            response = await ask()
            kept.append(response)
            if response.streaming and response.is_async:
                whole = [each async for each in response.streaming_content]
            else:
                whole = response.streaming_content if response.streaming else [response.content]
            return _mock_response(response, b"".join(whole))

        scope = {name: value for name, value in request.items() if name != "_body_file"}
        reply = await _exchange_async(peer, request["method"], read)
        if reply is None:
            return None
        response = _django_response(reply, kept)
        response.asgi_request = ASGIRequest(scope, io.BytesIO())
        return response


def _mock_response(response: Any, body: bytes) -> MockResponse:
    return MockResponse.of(response.status_code, response.reason_phrase, response.items(), body)


def _django_response(reply: _Reply, kept: list[Any]) -> Any:
    """The response that Django gave, with the body that came of it; or one in its place."""
    from django.http import HttpResponse

    if not kept:
        headers = dict(reply.headers)
        return HttpResponse(reply.body, status=reply.status, reason=reply.reason, headers=headers)
    response = kept[-1]
    if response.streaming:
        response.streaming_content = [reply.body]
    else:
        response.content = reply.body
    return response


def _peer_of_environ(caller: InProcess, engine: Engine, environ: Any) -> Peer:
    headers = [
        (name.removeprefix("HTTP_").replace("_", "-"), text_of(value))
        for name, value in environ.items()
        if name.startswith(("HTTP_", "CONTENT_"))
    ]
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "/")
    seen = HttpRequest.of(environ["REQUEST_METHOD"], _quoted(path), headers)
    server = environ["SERVER_NAME"], environ["SERVER_PORT"]
    return _peer(caller, engine, environ["wsgi.url_scheme"], seen, server)


def _quoted(path: str) -> str:
    """A path as it would be sent, of one that gateways and Django's clients have decoded."""
    return quote(path, safe=_UNQUOTED, encoding="latin-1", errors="replace")


def _peer(
    caller: InProcess, engine: Engine, scheme: str, request: HttpRequest, server: Iterable[Any]
) -> Peer:
    """By the header Host, as the client said; without one, where it is said to be served."""
    named = urlsplit(f"//{dict(request.headers).get('host', '')}")
    host, port = (named.hostname, named.port) if named.hostname else server
    details = HttpDetails(request=request)
    return Peer(engine, scheme, host, int(port) if port else None, http=details, caller=caller)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """A response as `http.client` has read it."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    @classmethod
    def read(cls, received: bytes, method: str) -> _Reply:
        """From all that was received before EOF. Raises what `http.client` does."""
        __tracebackhide__ = True
        response = http.client.HTTPResponse(_Received(received), method=method)  # type: ignore[arg-type]
        response.begin()
        body = response.read()
        headers = [
            each for each in response.getheaders() if each[0].lower() != "transfer-encoding"
        ]  # the body is in one piece now
        return cls(status=response.status, reason=response.reason, headers=headers, body=body)


class _Received(bytes):
    """Takes the place of a socket from which all has been received."""

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self)


def _exchange(peer: Peer, method: str, ask: Callable[[], MockResponse]) -> _Reply | None:
    """The response that a client of `http.client` would read; None if nothing happens to it."""
    __tracebackhide__ = True
    try:
        sock = FakeSocket(peer, ask, socket.getdefaulttimeout())
        received = b"".join(iter(functools.partial(sock.recv, _PIECE), b""))
    except LeftToMock as left:
        error_of_app = left.__cause__
    else:
        return _Reply.read(received, method)
    if error_of_app is not None:
        raise error_of_app  # as it is: no cause, no context of ours
    return None


async def _exchange_async(
    peer: Peer, method: str, ask: Callable[[], Awaitable[MockResponse]]
) -> _Reply | None:
    """As `_exchange`, where nobody may block."""
    __tracebackhide__ = True
    sock = AsyncFakeSocket(peer, ask)
    received = b""
    try:
        await sock.connect()
        while piece := await sock.recv(_PIECE):
            received += piece
    except LeftToMock as left:
        error_of_app = left.__cause__
    else:
        return _Reply.read(received, method)
    if error_of_app is not None:
        raise error_of_app  # as above
    return None

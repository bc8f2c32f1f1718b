"""httpx, where its transports are mocked: by respx, or by pytest-httpx.

A call that an experiment is aimed at goes through httpx's and httpcore's own code, with a
network of ours. See `mocked_requests`, which does the same for requests.
"""

from __future__ import annotations

import functools

from collections.abc import Awaitable
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.seams.mocked_httpcore import Network
from pytest_resilience.seams.mocked_peers import GetThrough
from pytest_resilience.seams.mocked_peers import Peer
from pytest_resilience.seams.mocked_peers import Reply
from pytest_resilience.seams.patching import Patches


if TYPE_CHECKING:
    import ssl

    import httpcore
    import httpx


__all__ = ["mock_with_pytest_httpx", "mock_with_respx"]

_STAGED = "pytest_resilience.staged"
_RETRIES: ContextVar[int] = ContextVar("retries of the transport that respx stands for", default=0)
_ABOUT_THE_BODY = frozenset({"content-length", "transfer-encoding"})


def mock_with_respx(engine: Engine, patches: Patches) -> None:
    """Reach what respx mocks, by whichever of its mockers, and its routers as handlers."""
    from respx.mocks import AbstractRequestMocker
    from respx.router import Router

    patches.replace(AbstractRequestMocker, "_send_sync_request", _around_respx)
    patches.replace(AbstractRequestMocker, "_send_async_request", _around_respx_async)
    patches.replace(Router, "resolve", functools.partial(_over_respx, engine))
    patches.replace(Router, "aresolve", functools.partial(_over_respx_async, engine))


def mock_with_pytest_httpx(engine: Engine, patches: Patches) -> None:
    """Reach what pytest-httpx mocks."""
    from pytest_httpx._httpx_mock import HTTPXMock

    patches.replace(HTTPXMock, "_handle_request", functools.partial(_over_httpx_mock, engine))
    patches.replace(
        HTTPXMock, "_handle_async_request", functools.partial(_over_httpx_mock_async, engine)
    )


def _over_respx(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def resolve(router: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        peer = _peer(engine, request)
        response = None
        if peer.concerns() and _answered_by_respx(router, request):
            response = send(
                peer,
                request,
                lambda: original(router, request).response,
                retries=_RETRIES.get(),
            )
        return original(router, request) if response is None else _resolved(response)

    return resolve


def _over_respx_async(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def aresolve(router: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        peer = _peer(engine, request)
        response = None
        if peer.concerns() and _answered_by_respx(router, request):

            async def reply() -> Any:
                return (await original(router, request)).response

            response = await send_async(peer, request, reply, retries=_RETRIES.get())
        return await original(router, request) if response is None else _resolved(response)

    return aresolve


def _around_respx(original: Any) -> Any:
    """Past the mock goes what comes from here: it lies around httpcore's classes too."""

    def sending(cls: Any, seen: Any, /, *, target_spec: Any, instance: Any, **given: Any) -> Any:
        __tracebackhide__ = True
        if _STAGED in seen.extensions:
            return target_spec(instance, **given)
        token = _RETRIES.set(_retries_of(instance))
        try:
            return original.__func__(cls, seen, target_spec=target_spec, instance=instance, **given)
        finally:
            _RETRIES.reset(token)

    return classmethod(sending)


def _around_respx_async(original: Any) -> Any:
    async def sending(
        cls: Any, seen: Any, /, *, target_spec: Any, instance: Any, **given: Any
    ) -> Any:
        __tracebackhide__ = True
        if _STAGED in seen.extensions:
            return await target_spec(instance, **given)
        token = _RETRIES.set(_retries_of(instance))
        try:
            return await original.__func__(
                cls, seen, target_spec=target_spec, instance=instance, **given
            )
        finally:
            _RETRIES.reset(token)

    return classmethod(sending)


def _resolved(response: httpx.Response) -> Any:
    from respx.models import ResolvedRoute

    resolved = ResolvedRoute()
    resolved.response = response
    return resolved


def _answered_by_respx(router: Any, request: httpx.Request) -> bool:
    """Whether the router has an answer of its own."""
    for route in router.routes:
        if route.pattern is None or route.pattern.match(request):
            return not route.is_pass_through
    return not router._assert_all_mocked  # noqa: SLF001  # if not, it answers whatever comes


def _over_httpx_mock(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def handle_request(mock: Any, transport: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        request.read()
        peer = _peer(engine, request)
        ask = functools.partial(original, mock, transport, request)
        response = None
        if peer.concerns() and _answered_by_httpx_mock(mock, transport, request):
            response = send(peer, request, ask, retries=_retries_of(transport))
        return ask() if response is None else response

    return handle_request


def _over_httpx_mock_async(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def handle_async_request(mock: Any, transport: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        await request.aread()
        peer = _peer(engine, request)
        ask = functools.partial(original, mock, transport, request)
        response = None
        if peer.concerns() and _answered_by_httpx_mock(mock, transport, request):
            response = await send_async(peer, request, ask, retries=_retries_of(transport))
        return await ask() if response is None else response

    return handle_async_request


def _answered_by_httpx_mock(mock: Any, transport: Any, request: httpx.Request) -> bool:
    """Whether it has an answer left for this request."""
    known = mock._callbacks  # noqa: SLF001  # nothing public tells without using one up
    found = [each for each, _ in known if each.match(transport, request)]
    return any(not each.nb_calls for each in found) or bool(found and found[-1].is_reusable)


def _retries_of(pool: Any) -> int:
    """How often the user's transport, or its pool, tries to connect again."""
    found: int = getattr(getattr(pool, "_pool", pool), "_retries", 0)
    return found


def _peer(engine: Engine, request: httpx.Request) -> Peer:
    return Peer(engine, request.url.scheme, request.url.host, request.url.port)


def send(
    peer: Peer, request: httpx.Request, reply: Callable[[], httpx.Response], *, retries: int = 0
) -> httpx.Response | None:
    """Send a request the way httpx does, with nobody at the other end.

    None if it is for the mock to answer. Raises what a client meets, or the mock raised.
    """
    __tracebackhide__ = True
    import httpcore

    from httpx._transports.default import ResponseStream
    from httpx._transports.default import map_httpcore_exceptions

    network: Any = Network(peer, lambda: _reply_in(reply()))
    pool = httpcore.ConnectionPool(_context(peer), network_backend=network, retries=retries)
    try:
        with map_httpcore_exceptions():
            answer = pool.handle_request(_unread(request))
    except GetThrough as through:
        mocks = through.error
    else:
        return _response(answer, ResponseStream(answer.stream))  # type: ignore[arg-type]
    if mocks is not None:
        raise mocks  # as it is: no cause, no context of ours
    return None


async def send_async(
    peer: Peer,
    request: httpx.Request,
    reply: Callable[[], Awaitable[httpx.Response]],
    *,
    retries: int = 0,
) -> httpx.Response | None:
    """As `send`, of an AsyncClient."""
    __tracebackhide__ = True
    import httpcore

    from httpx._transports.default import AsyncResponseStream
    from httpx._transports.default import map_httpcore_exceptions

    from pytest_resilience.seams.mocked_wires_async import AsyncNetwork

    async def asked() -> Reply:
        return await _reply_in_async(await reply())

    network: Any = AsyncNetwork(peer, asked)
    pool = httpcore.AsyncConnectionPool(_context(peer), network_backend=network, retries=retries)
    try:
        with map_httpcore_exceptions():
            answer = await pool.handle_async_request(_unread(request))
    except GetThrough as through:
        mocks = through.error
    else:
        return _response(answer, AsyncResponseStream(answer.stream))  # type: ignore[arg-type]
    if mocks is not None:
        raise mocks  # as it is: no cause, no context of ours
    return None


def _unread(request: httpx.Request) -> httpcore.Request:
    """The request without its body, which the mock reads."""
    import httpcore
    import httpx

    url = request.url
    return httpcore.Request(
        request.method,
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=[
            (name, value)
            for name, value in request.headers.raw
            if name.lower().decode("latin-1") not in _ABOUT_THE_BODY
        ],
        content=httpx.ByteStream(b""),
        extensions={**request.extensions, _STAGED: True},
    )


def _response(answer: httpcore.Response, stream: Any) -> httpx.Response:
    import httpx

    return httpx.Response(
        answer.status, headers=answer.headers, stream=stream, extensions=answer.extensions
    )


def _context(peer: Peer) -> ssl.SSLContext | None:
    """One that is never used: to load the default one's authorities takes its time."""
    if not peer.tls:
        return None
    import ssl

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _reply_in(response: httpx.Response) -> Reply:
    """What the mock has answered, which it and its user can still read afterwards."""
    return _reply_of(response, b"".join(response.stream))  # type: ignore[arg-type]


async def _reply_in_async(response: httpx.Response) -> Reply:
    return _reply_of(response, b"".join([part async for part in response.stream]))  # type: ignore[union-attr]


def _reply_of(response: httpx.Response, body: bytes) -> Reply:
    import httpx

    response.stream = httpx.ByteStream(body)
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw
    ]
    return Reply.of(response.status_code, response.reason_phrase, headers, body)

"""httpx, where its transports are mocked: its own way to send, with nobody at the other end.

A call that an experiment is aimed at goes through httpx's and httpcore's own code, with a
network of ours. See `mocked_requests`, which does the same for requests.
"""

from __future__ import annotations

import contextlib

from collections.abc import Awaitable
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.http_mocks.fake_stream import AsyncNetwork
from pytest_resilience.interceptors.http_mocks.fake_stream import Network
from pytest_resilience.interceptors.http_mocks.peer import GetThrough
from pytest_resilience.interceptors.http_mocks.peer import Peer
from pytest_resilience.interceptors.http_mocks.peer import Reply


if TYPE_CHECKING:
    import ssl

    import httpcore
    import httpx


__all__ = ["STAGED", "load", "peer_of", "retries_of", "send", "send_async"]

STAGED = "pytest_resilience.staged"  # among the extensions of the requests sent here
_ABOUT_THE_BODY = frozenset({"content-length", "transfer-encoding"})


def load() -> None:
    """Load what is needed to send, now and not when a loop waits for it."""
    import httpcore  # noqa: F401  # httpx itself loads it with its first transport
    import httpx._transports.default  # noqa: F401

    with contextlib.suppress(ImportError):  # not installed with httpx alone
        import anyio
        import anyio._backends._asyncio  # noqa: F401


def peer_of(engine: Engine, request: httpx.Request) -> Peer:
    """Whom a request is for."""
    return Peer(engine, request.url.scheme, request.url.host, request.url.port)


def retries_of(pool: Any) -> int:
    """How often the user's transport, or its pool, tries to connect again."""
    inner = getattr(pool, "_pool", None)  # of a transport; older pools have a list of that name
    found: int = getattr(pool, "_retries", getattr(inner, "_retries", 0))
    return found


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
        extensions={**request.extensions, STAGED: True},
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
    stream: Any = response.stream
    body = b"".join(stream)
    stream.close()  # as a client does that has read it
    return _reply_of(response, body)


async def _reply_in_async(response: httpx.Response) -> Reply:
    stream: Any = response.stream
    body = b"".join([part async for part in stream])
    await stream.aclose()
    return _reply_of(response, body)


def _reply_of(response: httpx.Response, body: bytes) -> Reply:
    import httpx

    response.stream = httpx.ByteStream(body)
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw
    ]
    return Reply.of(response.status_code, response.reason_phrase, headers, body)

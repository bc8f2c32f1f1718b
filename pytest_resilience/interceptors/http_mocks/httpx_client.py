"""httpx, where its transports are mocked: its own way to send, with nobody at the other end.

A call that an experiment is aimed at goes through httpx's and httpcore's own code, with a
fake network. See `requests_client`, which does the same for requests.
"""

from __future__ import annotations

import contextlib

from collections.abc import Awaitable
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.http_mocks.exchange import LeftToMock
from pytest_resilience.interceptors.http_mocks.exchange import MockResponse
from pytest_resilience.interceptors.http_mocks.exchange import Peer
from pytest_resilience.interceptors.http_mocks.fake_network import AsyncNetwork
from pytest_resilience.interceptors.http_mocks.fake_network import Network


if TYPE_CHECKING:
    import ssl

    import httpcore
    import httpx


__all__ = ["SENT_HERE", "load", "retries_of", "send", "send_async"]

SENT_HERE = "pytest_resilience"  # among the extensions of requests that are sent here
_ABOUT_THE_BODY = frozenset({"content-length", "transfer-encoding"})


def load() -> None:
    """Load what is needed to send, now and not when a loop waits for it."""
    import httpcore  # noqa: F401  # httpx itself loads it with its first transport
    import httpx._transports.default  # noqa: F401

    with contextlib.suppress(ImportError):  # not installed with httpx alone
        import anyio
        import anyio._backends._asyncio  # noqa: F401


def retries_of(pool: Any) -> int:
    """How often the user's transport, or its pool, tries to connect again."""
    inner = getattr(pool, "_pool", None)  # of a transport; older pools have a list of that name
    found: int = getattr(pool, "_retries", getattr(inner, "_retries", 0))
    return found


def send(
    engine: Engine,
    request: httpx.Request,
    ask_mock: Callable[[], httpx.Response],
    mock_responds: Callable[[], bool],
    retries: int,
) -> httpx.Response | None:
    """Send a request that an experiment is aimed at the way httpx does, with a fake network.

    None if it is left to the mock. Raises what a client meets, or the mock has raised.
    """
    __tracebackhide__ = True
    peer = _peer_of(engine, request)
    if not peer.is_targeted(mock_responds):
        return None
    import httpcore

    from httpx._transports.default import ResponseStream
    from httpx._transports.default import map_httpcore_exceptions

    network: Any = Network(peer, lambda: _read(ask_mock()))
    pool = httpcore.ConnectionPool(_context(peer), network_backend=network, retries=retries)
    try:
        with map_httpcore_exceptions():
            response = pool.handle_request(_without_body(request))
    except LeftToMock as left:
        error_of_mock = left.error
    else:
        return _response(response, ResponseStream(response.stream))  # type: ignore[arg-type]
    if error_of_mock is not None:
        raise error_of_mock  # as it is: no cause, no context of ours
    return None


async def send_async(
    engine: Engine,
    request: httpx.Request,
    ask_mock: Callable[[], Awaitable[httpx.Response]],
    mock_responds: Callable[[], bool],
    retries: int,
) -> httpx.Response | None:
    """As `send`, of an AsyncClient."""
    __tracebackhide__ = True
    peer = _peer_of(engine, request)
    if not peer.is_targeted(mock_responds):
        return None
    import httpcore

    from httpx._transports.default import AsyncResponseStream
    from httpx._transports.default import map_httpcore_exceptions

    async def ask() -> MockResponse:
        return await _read_async(await ask_mock())

    network: Any = AsyncNetwork(peer, ask)
    pool = httpcore.AsyncConnectionPool(_context(peer), network_backend=network, retries=retries)
    try:
        with map_httpcore_exceptions():
            response = await pool.handle_async_request(_without_body(request))
    except LeftToMock as left:
        error_of_mock = left.error
    else:
        return _response(response, AsyncResponseStream(response.stream))  # type: ignore[arg-type]
    if error_of_mock is not None:
        raise error_of_mock  # as it is: no cause, no context of ours
    return None


def _peer_of(engine: Engine, request: httpx.Request) -> Peer:
    return Peer(engine, request.url.scheme, request.url.host, request.url.port)


def _without_body(request: httpx.Request) -> httpcore.Request:
    """The request as httpcore has it, but for the body, which the mock reads."""
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
        extensions={**request.extensions, SENT_HERE: True},
    )


def _response(response: httpcore.Response, stream: Any) -> httpx.Response:
    import httpx

    return httpx.Response(
        response.status, headers=response.headers, stream=stream, extensions=response.extensions
    )


def _context(peer: Peer) -> ssl.SSLContext | None:
    """One that is never used: to load the default one's authorities takes its time."""
    if not peer.tls:
        return None
    import ssl

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _read(response: httpx.Response) -> MockResponse:
    """The mock's response, which it and its user can still read afterwards."""
    stream: Any = response.stream
    body = b"".join(stream)
    stream.close()  # as a client does that has read it
    return _kept(response, body)


async def _read_async(response: httpx.Response) -> MockResponse:
    stream: Any = response.stream
    body = b"".join([part async for part in stream])
    await stream.aclose()
    return _kept(response, body)


def _kept(response: httpx.Response, body: bytes) -> MockResponse:
    import httpx

    response.stream = httpx.ByteStream(body)
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw
    ]
    return MockResponse.of(response.status_code, response.reason_phrase, headers, body)

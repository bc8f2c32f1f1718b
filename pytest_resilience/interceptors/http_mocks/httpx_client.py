"""httpx, where its transports are mocked: its own way to send, with nobody at the other end.

What is httpx here may be httpx2, its successor, which is of the same making.

A call that an experiment is aimed at goes through httpx's and httpcore's own code, with a
fake network. See `requests_client`, which does the same for requests.
"""

from __future__ import annotations

import contextlib
import importlib
import sys

from collections.abc import Awaitable
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.interceptors.http_mocks.exchange import InProcess
from pytest_resilience.interceptors.http_mocks.exchange import LeftToMock
from pytest_resilience.interceptors.http_mocks.exchange import MockResponse
from pytest_resilience.interceptors.http_mocks.exchange import Peer
from pytest_resilience.interceptors.http_mocks.fake_network import AsyncNetwork
from pytest_resilience.interceptors.http_mocks.fake_network import Network


if TYPE_CHECKING:
    import ssl

    import httpcore
    import httpx


__all__ = [
    "SENT_HERE", "load", "peer_of", "retries_of", "send", "send_async", "targeted_peer",
]  # fmt: skip

SENT_HERE = "pytest_resilience"  # among the extensions of requests that are sent here
_ABOUT_THE_BODY = frozenset({"content-length", "transfer-encoding"})


def load(httpx: str = "httpx") -> None:
    """Load what is needed to send, now and not when a loop waits for it."""
    names = (*_names(httpx), "anyio._backends._asyncio")
    if all(name in sys.modules for name in names):  # in each test: to import takes longer
        return
    _libraries(httpx)  # httpx itself loads httpcore with its first transport
    with contextlib.suppress(ImportError):  # not installed with httpx alone
        import anyio
        import anyio._backends._asyncio  # noqa: F401


def retries_of(pool: Any) -> int:
    """How often the user's transport, or its pool, tries to connect again."""
    inner = getattr(pool, "_pool", None)  # of a transport; older pools have a list of that name
    found: int = getattr(pool, "_retries", getattr(inner, "_retries", 0))
    return found


def send(
    peer: Peer | None,
    request: httpx.Request,
    ask_mock: Callable[[], httpx.Response],
    retries: int = 0,
) -> httpx.Response | None:
    """Send a request the way httpx does, with a fake network.

    None if it is left to the mock, as all are that have no `peer`, for nothing is aimed at them.
    Raises what a client meets, or the mock has raised.
    """
    __tracebackhide__ = True
    if peer is None:
        return None
    httpx, core, default = _libraries(_library_of(request))
    network = Network(core, peer, lambda: _read(httpx, ask_mock()))
    pool = core.ConnectionPool(_context(peer), network_backend=network, retries=retries)
    try:
        with default.map_httpcore_exceptions():
            response = pool.handle_request(_without_body(httpx, core, request))
    except LeftToMock as left:
        error_of_mock = left.__cause__
    else:
        return _response(httpx, response, default.ResponseStream(response.stream))
    if error_of_mock is not None:
        raise error_of_mock  # as it is: no cause, no context of ours
    return None


async def send_async(
    peer: Peer | None,
    request: httpx.Request,
    ask_mock: Callable[[], Awaitable[httpx.Response]],
    retries: int = 0,
) -> httpx.Response | None:
    """As `send`, of an AsyncClient."""
    __tracebackhide__ = True
    if peer is None:
        return None
    httpx, core, default = _libraries(_library_of(request))

    async def ask() -> MockResponse:
        return await _read_async(httpx, await ask_mock())

    network = AsyncNetwork(core, peer, ask)
    pool = core.AsyncConnectionPool(_context(peer), network_backend=network, retries=retries)
    try:
        with default.map_httpcore_exceptions():
            response = await pool.handle_async_request(_without_body(httpx, core, request))
    except LeftToMock as left:
        error_of_mock = left.__cause__
    else:
        return _response(httpx, response, default.AsyncResponseStream(response.stream))
    if error_of_mock is not None:
        raise error_of_mock  # as it is: no cause, no context of ours
    return None


def targeted_peer(
    engine: Engine, request: httpx.Request, mock_responds: Callable[[], bool]
) -> Peer | None:
    """Whom a request is for, if an experiment is aimed at it and the mock has a response."""
    peer = peer_of(engine, request)
    return peer if peer.is_targeted(mock_responds) else None


def peer_of(engine: Engine, request: httpx.Request, caller: InProcess | None = None) -> Peer:
    """Whom a request is for; `caller`: of an application in this process."""
    url = request.url
    seen = HttpRequest.of(
        request.method, url.raw_path.decode("ascii"), request.headers.multi_items()
    )
    http = HttpDetails(request=seen)
    return Peer(engine, url.scheme, url.host, url.port, http=http, caller=caller)


def _library_of(request: object) -> str:
    return type(request).__module__.partition(".")[0]


def _names(httpx: str) -> tuple[str, str, str]:
    return httpx, httpx.replace("httpx", "httpcore"), f"{httpx}._transports.default"


def _libraries(httpx: str) -> tuple[Any, Any, Any]:
    """Give httpx and httpcore of the same making, and the module of httpx's transports."""
    httpx_module, core_module, default = map(importlib.import_module, _names(httpx))
    return httpx_module, core_module, default


def _without_body(httpx: Any, core: Any, request: httpx.Request) -> httpcore.Request:
    """The request as httpcore has it, but for the body, which the mock reads."""
    url = request.url
    plain: httpcore.Request = core.Request(
        request.method,
        core.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=[
            (name, value)
            for name, value in request.headers.raw
            if name.lower().decode("latin-1") not in _ABOUT_THE_BODY
        ],
        content=httpx.ByteStream(b""),
        extensions={**request.extensions, SENT_HERE: True},
    )
    return plain


def _response(library: Any, response: httpcore.Response, stream: Any) -> httpx.Response:
    received: httpx.Response = library.Response(
        response.status, headers=response.headers, stream=stream, extensions=response.extensions
    )
    return received


def _context(peer: Peer) -> ssl.SSLContext | None:
    """One that is never used: to load the default one's authorities takes its time."""
    if not peer.tls:
        return None
    import ssl

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _read(httpx: Any, response: httpx.Response) -> MockResponse:
    """The mock's response, which it and its user can still read afterwards."""
    stream: Any = response.stream
    body = b"".join(stream)
    stream.close()  # as a client does that has read it
    return _kept(httpx, response, body)


async def _read_async(httpx: Any, response: httpx.Response) -> MockResponse:
    stream: Any = response.stream
    body = b"".join([part async for part in stream])
    await stream.aclose()
    return _kept(httpx, response, body)


def _kept(httpx: Any, response: httpx.Response, body: bytes) -> MockResponse:
    response.stream = httpx.ByteStream(body)
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw
    ]
    return MockResponse.of(response.status_code, response.reason_phrase, headers, body)

"""respx and pytest-httpx: whoever of them is asked, httpx has its own way to send.

Of respx these are its routers, whichever of its mockers asks them, and as handlers of a transport;
of pytest-httpx it is the mock that its fixture puts in place of transports. What is httpx here may
be httpx2, its successor, which is of the same making.

A call that an experiment is aimed at goes through httpx's and httpcore's own code, with a
fake network. See `requests_mocks`, which does the same for requests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from contextvars import ContextVar
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
from pytest_resilience.patching import Patches


if TYPE_CHECKING:
    import ssl

    import httpcore
    import httpx


__all__ = [
    "install_pytest_httpx",
    "install_respx",
    "load",
    "peer_of",
    "send",
    "send_async",
]

_RETRIES: ContextVar[int] = ContextVar("retries of the transport that respx stands for", default=0)
_SENT_HERE = "pytest_resilience"  # among the extensions of requests that are sent here
_ABOUT_THE_BODY = frozenset({"content-length", "transfer-encoding"})


def install_respx(engine: Engine, patches: Patches) -> None:
    """Reach what respx mocks, until the patches are restored.

    By whichever of its mockers, and its routers as handlers of a transport.
    """
    from respx.mocks import AbstractRequestMocker
    from respx.router import Router
    from respx.transports import TryTransport

    load()
    patches.replace(AbstractRequestMocker, "_send_sync_request", _around_mocker)
    patches.replace(AbstractRequestMocker, "_send_async_request", _around_mocker)
    patches.replace(TryTransport, "handle_request", _around_transports)
    patches.replace(TryTransport, "handle_async_request", _around_transports)
    patches.replace(Router, "resolve", functools.partial(_over_router, engine))
    patches.replace(Router, "aresolve", functools.partial(_over_router_async, engine))


def _over_router(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def resolve(router: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True

        def ask() -> Any:
            return original(router, request).response

        responds = functools.partial(_has_route, router, request)
        peer = _targeted_peer(engine, request, responds)
        response = send(peer, request, ask, _RETRIES.get())
        return original(router, request) if response is None else _resolved(response)

    return resolve


def _over_router_async(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def aresolve(router: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True

        async def ask() -> Any:
            return (await original(router, request)).response

        responds = functools.partial(_has_route, router, request)
        peer = _targeted_peer(engine, request, responds)
        response = await send_async(peer, request, ask, _RETRIES.get())
        return await original(router, request) if response is None else _resolved(response)

    return aresolve


def _around_mocker(original: Any) -> Any:
    """Requests that are sent here go past the mock, which lies around httpcore's classes too."""

    def sending(cls: Any, seen: Any, /, *, target_spec: Any, instance: Any, **given: Any) -> Any:
        __tracebackhide__ = True
        if _SENT_HERE in seen.extensions:
            return target_spec(instance, **given)
        call = functools.partial(
            original.__func__, cls, seen, target_spec=target_spec, instance=instance, **given
        )
        return _with_retries_of(instance, call)

    return classmethod(sending)


def _around_transports(original: Callable[..., Any]) -> Callable[..., Any]:
    """The mocker above httpcore tries a transport that asks a router, then the user's own."""

    @functools.wraps(original)
    def handle_request(tried: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        return _with_retries_of(tried.transports[-1], functools.partial(original, tried, request))

    return handle_request


def _with_retries_of(transport: Any, call: Callable[[], Any]) -> Any:
    """The result of `call`, or a coroutine of it, with the retries of the user's transport."""
    __tracebackhide__ = True
    with _standing_for(transport):
        result = call()
    return _awaited(transport, result) if inspect.iscoroutine(result) else result


async def _awaited(transport: Any, result: Coroutine[Any, Any, Any]) -> Any:
    __tracebackhide__ = True
    with _standing_for(transport):
        return await result


@contextlib.contextmanager
def _standing_for(transport: Any) -> Iterator[None]:
    token = _RETRIES.set(_retries_of(transport))
    try:
        yield
    finally:
        _RETRIES.reset(token)


def _resolved(response: httpx.Response) -> Any:
    from respx.models import ResolvedRoute

    resolved: Any = ResolvedRoute()  # type: ignore[no-untyped-call]  # it says nothing
    resolved.response = response
    return resolved


def _has_route(router: Any, request: httpx.Request) -> bool:
    """The router has a response of its own."""
    for route in router.routes:
        if route.pattern is None or route.pattern.match(request):
            return not route.is_pass_through
    return not router._assert_all_mocked  # noqa: SLF001  # if not, it responds to all


def install_pytest_httpx(engine: Engine, patches: Patches) -> None:
    """Reach what pytest-httpx mocks, until the patches are restored."""
    from pytest_httpx._httpx_mock import HTTPXMock

    load()
    patches.replace(HTTPXMock, "_handle_request", functools.partial(_over_mock, engine))
    patches.replace(HTTPXMock, "_handle_async_request", functools.partial(_over_mock_async, engine))


def _over_mock(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def handle_request(mock: Any, transport: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        request.read()
        ask = functools.partial(original, mock, transport, request)
        responds = functools.partial(_has_callback, mock, transport, request)
        peer = _targeted_peer(engine, request, responds)
        response = send(peer, request, ask, _retries_of(transport))
        return ask() if response is None else response

    return handle_request


def _over_mock_async(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def handle_async_request(mock: Any, transport: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        await request.aread()
        ask = functools.partial(original, mock, transport, request)
        responds = functools.partial(_has_callback, mock, transport, request)
        peer = _targeted_peer(engine, request, responds)
        response = await send_async(peer, request, ask, _retries_of(transport))
        return await ask() if response is None else response

    return handle_async_request


def _has_callback(mock: Any, transport: Any, request: httpx.Request) -> bool:
    """The mock has a response left for this request."""
    known = mock._callbacks  # noqa: SLF001  # nothing public tells without using one up
    found = [each for each, _ in known if each.match(transport, request)]
    if any(not each.nb_calls for each in found):
        return True
    return bool(found) and getattr(found[-1], "is_reusable", True)  # in older versions all are


def load(httpx: str = "httpx") -> None:
    """Load what is needed to send, now and not when a loop waits for it."""
    names = (*_names(httpx), "anyio._backends._asyncio")
    if all(name in sys.modules for name in names):  # in each test: to import takes longer
        return
    _libraries(httpx)  # httpx itself loads httpcore with its first transport
    with contextlib.suppress(ImportError):  # not installed with httpx alone
        import anyio
        import anyio._backends._asyncio  # noqa: F401


def _retries_of(pool: Any) -> int:
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


def _targeted_peer(
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
        extensions={**request.extensions, _SENT_HERE: True},
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

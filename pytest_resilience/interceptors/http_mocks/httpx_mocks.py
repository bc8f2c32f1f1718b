"""respx and pytest-httpx: whoever of them is asked, httpx has its own way to send.

Of respx these are its routers, whichever of its mockers asks them, and as handlers of a transport;
of pytest-httpx it is the mock that its fixture puts in place of transports.
"""

from __future__ import annotations

import contextlib
import functools
import inspect

from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.http_mocks.httpx_client import SENT_HERE
from pytest_resilience.interceptors.http_mocks.httpx_client import load
from pytest_resilience.interceptors.http_mocks.httpx_client import retries_of
from pytest_resilience.interceptors.http_mocks.httpx_client import send
from pytest_resilience.interceptors.http_mocks.httpx_client import send_async
from pytest_resilience.interceptors.http_mocks.httpx_client import targeted_peer
from pytest_resilience.patching import Patches


if TYPE_CHECKING:
    import httpx


__all__ = ["install_pytest_httpx", "install_respx"]

_RETRIES: ContextVar[int] = ContextVar("retries of the transport that respx stands for", default=0)


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
        peer = targeted_peer(engine, request, responds)
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
        peer = targeted_peer(engine, request, responds)
        response = await send_async(peer, request, ask, _RETRIES.get())
        return await original(router, request) if response is None else _resolved(response)

    return aresolve


def _around_mocker(original: Any) -> Any:
    """Requests that are sent here go past the mock, which lies around httpcore's classes too."""

    def sending(cls: Any, seen: Any, /, *, target_spec: Any, instance: Any, **given: Any) -> Any:
        __tracebackhide__ = True
        if SENT_HERE in seen.extensions:
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
    token = _RETRIES.set(retries_of(transport))
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
        peer = targeted_peer(engine, request, responds)
        response = send(peer, request, ask, retries_of(transport))
        return ask() if response is None else response

    return handle_request


def _over_mock_async(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def handle_async_request(mock: Any, transport: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        await request.aread()
        ask = functools.partial(original, mock, transport, request)
        responds = functools.partial(_has_callback, mock, transport, request)
        peer = targeted_peer(engine, request, responds)
        response = await send_async(peer, request, ask, retries_of(transport))
        return await ask() if response is None else response

    return handle_async_request


def _has_callback(mock: Any, transport: Any, request: httpx.Request) -> bool:
    """The mock has a response left for this request."""
    known = mock._callbacks  # noqa: SLF001  # nothing public tells without using one up
    found = [each for each, _ in known if each.match(transport, request)]
    if any(not each.nb_calls for each in found):
        return True
    return bool(found) and getattr(found[-1], "is_reusable", True)  # in older versions all are

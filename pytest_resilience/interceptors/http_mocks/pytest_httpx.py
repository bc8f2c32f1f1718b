"""pytest-httpx: the mock that its fixture puts in place of transports."""

from __future__ import annotations

import functools

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.http_mocks.httpx_client import load
from pytest_resilience.interceptors.http_mocks.httpx_client import retries_of
from pytest_resilience.interceptors.http_mocks.httpx_client import send
from pytest_resilience.interceptors.http_mocks.httpx_client import send_async
from pytest_resilience.interceptors.http_mocks.httpx_client import targeted_peer
from pytest_resilience.patching import Patches


if TYPE_CHECKING:
    import httpx


__all__ = ["install"]


def install(engine: Engine, patches: Patches) -> None:
    """Reach what pytest-httpx mocks, until the patches are restored."""
    from pytest_httpx._httpx_mock import HTTPXMock

    load()
    patches.replace(HTTPXMock, "_handle_request", functools.partial(_over, engine))
    patches.replace(HTTPXMock, "_handle_async_request", functools.partial(_over_async, engine))


def _over(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def handle_request(mock: Any, transport: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        request.read()
        ask = functools.partial(original, mock, transport, request)
        responds = functools.partial(_has_response, mock, transport, request)
        peer = targeted_peer(engine, request, responds)
        response = send(peer, request, ask, retries_of(transport))
        return ask() if response is None else response

    return handle_request


def _over_async(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def handle_async_request(mock: Any, transport: Any, request: httpx.Request) -> Any:
        __tracebackhide__ = True
        await request.aread()
        ask = functools.partial(original, mock, transport, request)
        responds = functools.partial(_has_response, mock, transport, request)
        peer = targeted_peer(engine, request, responds)
        response = await send_async(peer, request, ask, retries_of(transport))
        return await ask() if response is None else response

    return handle_async_request


def _has_response(mock: Any, transport: Any, request: httpx.Request) -> bool:
    """The mock has a response left for this request."""
    known = mock._callbacks  # noqa: SLF001  # nothing public tells without using one up
    found = [each for each, _ in known if each.match(transport, request)]
    if any(not each.nb_calls for each in found):
        return True
    return bool(found) and getattr(found[-1], "is_reusable", True)  # in older versions all are

"""What a breaker for each host costs in clients of HTTP, beside the same client without."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import requests

from forms import AsyncFunc
from forms import Form
from forms import Func
from forms import aform
from requests.adapters import BaseAdapter

from pytest_resilience import HostBreakers
from pytest_resilience import aiohttp_middleware
from pytest_resilience import httpx_async_transport
from pytest_resilience import httpx_transport
from pytest_resilience import requests_adapter


__all__ = ["async_clients", "clients"]

_URL = "http://prices.internal/"


class _Responds(BaseAdapter):
    """Sends nothing: what is measured is the way there."""

    def send(self, request: Any, *_: Any, **__: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url
        response._content = b""  # noqa: SLF001  # read already
        return response

    def close(self) -> None: ...


def clients() -> dict[str, Form]:
    """Requests of clients whose transport responds at once."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    breakers = HostBreakers()
    sessions = requests.Session(), requests.Session()
    sessions[0].mount("http://", requests_adapter(breakers, _Responds()))
    sessions[1].mount("http://", _Responds())
    return {
        "httpx client with breakers / without": Form(
            _get(httpx.Client(transport=httpx_transport(breakers, transport))), None,
            _get(httpx.Client(transport=transport)),
        ),
        "requests session with breakers / without": Form(
            _get(sessions[0]), None, _get(sessions[1])
        ),
        "host breakers, breaker": Form(lambda _: breakers.breaker("prices.internal", 80)),
    }  # fmt: skip


def _get(client: Any) -> Func:
    return lambda _: client.get(_URL)


def async_clients() -> dict[str, Form]:
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    breakers = HostBreakers()
    middleware: Any = aiohttp_middleware(breakers)
    request = SimpleNamespace(url=httpx.URL(_URL))

    async def handle(_request: Any) -> Any:
        return SimpleNamespace(status=200, headers={})

    async def through(_number: int) -> Any:
        return await middleware(request, handle)

    return {
        "httpx async client with breakers / without": aform(
            _aget(httpx.AsyncClient(transport=httpx_async_transport(breakers, transport))), None,
            _aget(httpx.AsyncClient(transport=transport)),
        ),
        "aiohttp middleware": aform(through),
    }  # fmt: skip


def _aget(client: Any) -> AsyncFunc:
    async def call(_number: int) -> Any:
        return await client.get(_URL)

    return call

"""Clients that call applications in this process, and what their libraries meet for real."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import socket
import sys
import warnings

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import fastapi
import flask
import httpx
import httpx2
import pytest

from werkzeug.test import Client as WerkzeugClient

from tests.interceptors.conftest import closed_port
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.waiting import PATIENCE


__all__ = ["BODY", "STARLETTE", "WAYS", "App", "TestClient", "Way", "for_real", "met"]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient


BODY = b'{"orders": [1, 2, 3]}'
TIMEOUT = 0.2
Reply = tuple[int, bytes, dict[str, str]]
Client = Callable[..., Reply]


class App:
    """An application that counts its calls, for each of the interfaces.

    Attributes:
        calls: how often it was called.
        body: of its responses.
        media: their type.
    """

    def __init__(self, body: bytes = BODY, media: str = "application/json") -> None:
        self.calls = 0
        self.body, self.media = body, media

    def wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        self.calls += 1
        start_response("200 OK", [("Content-Type", self.media)])
        return [self.body]

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        headers = [(b"content-type", self.media.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def of_httpx(response: Any) -> Reply:
    return response.status_code, response.content, dict(response.headers)


def with_asgi(library: Any, app: App, host: str) -> Reply:
    async def ask() -> Reply:
        transport = library.ASGITransport(app.asgi)
        async with library.AsyncClient(
            transport=transport, base_url=f"http://{host}", timeout=TIMEOUT
        ) as client:
            return of_httpx(await client.get("/orders"))

    return asyncio.run(ask())


def with_wsgi(library: Any, app: App, host: str) -> Reply:
    transport = library.WSGITransport(app.wsgi)
    with library.Client(transport=transport, base_url=f"http://{host}", timeout=TIMEOUT) as client:
        return of_httpx(client.get("/orders"))


def handler_of(library: Any, app: App) -> Any:
    def handle(request: Any) -> Any:
        app.calls += 1
        return library.Response(200, content=app.body, headers={"content-type": app.media})

    return handle


def with_mock(library: Any, app: App, host: str) -> Reply:
    transport = library.MockTransport(handler_of(library, app))
    with library.Client(transport=transport, base_url=f"http://{host}", timeout=TIMEOUT) as client:
        return of_httpx(client.get("/orders"))


def with_mock_async(library: Any, app: App, host: str) -> Reply:
    async def ask() -> Reply:
        transport = library.MockTransport(handler_of(library, app))
        async with library.AsyncClient(
            transport=transport, base_url=f"http://{host}", timeout=TIMEOUT
        ) as client:
            return of_httpx(await client.get("/orders"))

    return asyncio.run(ask())


def with_starlette(library: Any, app: App, host: str) -> Reply:
    client = TestClient(app.asgi, base_url=f"http://{host}")
    client.timeout = TIMEOUT
    return of_httpx(client.get("/orders"))


def with_fastapi(library: Any, app: App, host: str) -> Reply:
    api = fastapi.FastAPI()

    @api.get("/orders")
    def orders() -> fastapi.Response:
        app.calls += 1
        return fastapi.Response(app.body, media_type=app.media)

    client = TestClient(api, base_url=f"http://{host}")
    client.timeout = TIMEOUT
    return of_httpx(client.get("/orders"))


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """What has no timeout of its own has that of all sockets."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@impatient()
def with_flask(library: Any, app: App, host: str) -> Reply:
    api = flask.Flask("app")

    @api.get("/orders")
    def orders() -> flask.Response:
        app.calls += 1
        return flask.Response(app.body, mimetype=app.media)

    response = api.test_client().get("/orders", base_url=f"http://{host}")
    return response.status_code, response.data, dict(response.headers)


@impatient()
def with_werkzeug(library: Any, app: App, host: str) -> Reply:
    response = WerkzeugClient(app.wsgi).get("/orders", base_url=f"http://{host}")
    return response.status_code, response.data, dict(response.headers)


def get(library: Any, port: int, patience: float) -> object:
    """`patience`: while it reads."""
    if library is http.client:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.connect()
            connection.sock.settimeout(patience)
            connection.request("GET", "/orders")
            with connection.getresponse() as response:
                return response.read()
    with library.Client(
        trust_env=False, timeout=library.Timeout(PATIENCE, read=patience)
    ) as client:
        return client.get(f"http://127.0.0.1:{port}/orders")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A client that calls an application.

    Attributes:
        ask: sends a request to the application by it.
        library: whose errors it raises.
        name: in messages.
        callee: in messages.
    """

    ask: Callable[[Any, App, str], Reply]
    library: Any
    name: str
    callee: str = "the application"

    def __call__(self, app: App, host: str = "shop.example") -> Reply:
        return self.ask(self.library, app, host)


STARLETTE = sys.modules["starlette.testclient"].httpx
WAYS = {
    f"{library.__name__} {kind}": Way(
        ask=ask, library=library, name=f"{library.__name__}.{kind}", callee=callee
    )
    for library in (httpx, httpx2)
    for kind, ask, callee in (
        ("ASGITransport", with_asgi, "the application"),
        ("WSGITransport", with_wsgi, "the application"),
        ("MockTransport", with_mock, "its handler"),
    )
} | {
    "httpx MockTransport awaited": Way(
        ask=with_mock_async, library=httpx, name="httpx.MockTransport", callee="its handler"
    ),
    "starlette": Way(ask=with_starlette, library=STARLETTE, name="starlette's TestClient"),
    "fastapi": Way(ask=with_fastapi, library=STARLETTE, name="starlette's TestClient"),
    "flask": Way(ask=with_flask, library=http.client, name="werkzeug's test client"),
    "werkzeug": Way(ask=with_werkzeug, library=http.client, name="werkzeug's test client"),
}


def half(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789")


def met(action: Callable[[], object]) -> tuple[type[BaseException], str]:
    with pytest.raises(Exception) as caught:
        action()
    return caught.type, str(caught.value)


@functools.cache  # the same for all ways with this library
def for_real(library: Any, accident: str) -> tuple[type[BaseException], str]:
    """What the client of a library meets of a server."""
    servers: dict[str, Callable[[], AbstractContextManager[int]]] = {
        "refuse": closed_port,
        "reset": lambda: serve(reset),
        "timeout": lambda: serve(silent),
        "truncate": lambda: serve(half),
    }
    with servers[accident]() as port:
        patience = TIMEOUT if accident == "timeout" else PATIENCE
        return met(lambda: get(library, port, patience))

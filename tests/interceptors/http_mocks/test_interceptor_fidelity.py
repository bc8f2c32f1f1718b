"""What clients of a mock meet is what they meet of a real server that does it."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
import requests
import requests_mock
import responses
import respx

from pytest_httpx import HTTPXMock

from tests.interceptors.conftest import Handler
from tests.interceptors.conftest import Timeouts
from tests.interceptors.conftest import closed_port
from tests.interceptors.conftest import full_backlog
from tests.interceptors.conftest import met
from tests.interceptors.conftest import reset
from tests.interceptors.conftest import serve
from tests.interceptors.conftest import silent
from tests.resets import reset_when_closed
from tests.waiting import PATIENCE


Inject = Callable[..., AbstractContextManager[Any]]
Client = Callable[[str, Timeouts], Any]

URL = "http://api.example.com/"
BODY = b'{"orders": [1, 2, 3]}'
HEADERS = {"Content-Type": "application/json", "Content-Length": str(len(BODY))}


def with_requests(url: str, timeouts: Timeouts) -> Any:
    return requests.get(url, timeout=timeouts)


def of_httpx(timeouts: Timeouts) -> httpx.Timeout:
    return httpx.Timeout(PATIENCE, connect=timeouts.connect, read=timeouts.read)


def with_httpx(url: str, timeouts: Timeouts) -> Any:
    with httpx.Client(trust_env=False, timeout=of_httpx(timeouts)) as client:
        return client.get(url)


def with_httpx_async(url: str, timeouts: Timeouts) -> Any:
    async def get() -> Any:
        async with httpx.AsyncClient(trust_env=False, timeout=of_httpx(timeouts)) as client:
            return await client.get(url)

    return asyncio.run(get())


@contextlib.contextmanager
def by_responses(request: pytest.FixtureRequest) -> Iterator[None]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(URL, body=BODY, headers={"Content-Length": HEADERS["Content-Length"]})
        yield


@contextlib.contextmanager
def by_requests_mock(request: pytest.FixtureRequest) -> Iterator[None]:
    with requests_mock.Mocker() as mock:
        mock.get(URL, content=BODY, headers=HEADERS)
        yield


@contextlib.contextmanager
def by_respx(request: pytest.FixtureRequest) -> Iterator[None]:
    with respx.mock(assert_all_called=False) as mock:
        mock.get(URL).respond(content=BODY, headers=HEADERS)
        yield


@contextlib.contextmanager
def by_respx_above_httpcore(request: pytest.FixtureRequest) -> Iterator[None]:
    with respx.mock(assert_all_called=False, using="httpx") as mock:
        mock.get(URL).respond(content=BODY, headers=HEADERS)
        yield


@contextlib.contextmanager
def by_pytest_httpx(request: pytest.FixtureRequest) -> Iterator[None]:
    mock: HTTPXMock = request.getfixturevalue("httpx_mock")
    mock.add_response(url=URL, content=BODY, headers=HEADERS, is_optional=True)
    yield


MOCKED = [
    (with_requests, by_responses),
    (with_requests, by_requests_mock),
    *(
        (client, mock)
        for client in (with_httpx, with_httpx_async)
        for mock in (by_respx, by_respx_above_httpcore, by_pytest_httpx)
    ),
]


def respond(*parts: bytes) -> Handler:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"".join(parts))

    return handle


def head(status: str, **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}Connection: close\r\n\r\n".encode()


def cut_off() -> AbstractContextManager[int]:
    return serve(respond(head("200 OK", Content_Length=str(len(BODY))), BODY[: len(BODY) // 2]))


def cut_off_by_a_reset() -> AbstractContextManager[int]:
    def handle(connection: socket.socket) -> None:
        respond(head("200 OK", Content_Length=str(len(BODY))), BODY[: len(BODY) // 2])(connection)
        reset_when_closed(connection)

    return serve(handle)


FAILURES: dict[str, tuple[Callable[[], AbstractContextManager[int]], dict[str, Any]]] = {
    "refuse": (closed_port, {"mode": "refuse"}),
    "reset": (lambda: serve(reset), {"mode": "reset"}),
    "close": (lambda: serve(respond()), {"mode": "close"}),
    "lose_answer": (lambda: serve(reset), {"mode": "lose_answer"}),
    "timeout while connecting": (full_backlog, {"mode": "timeout"}),
    "timeout while reading": (lambda: serve(silent), {"mode": "timeout", "from_nth": 2}),
    "truncate": (cut_off, {"mode": "truncate"}),
    "reset within a body": (cut_off_by_a_reset, {"mode": "truncate", "end": "reset"}),
    "truncate to nothing": (
        lambda: serve(respond(head("200 OK", Content_Length=str(len(BODY))))),
        {"mode": "truncate", "share": 0},
    ),
}


cases = pytest.mark.parametrize(
    ("client", "mock"), MOCKED, ids=[f"{c.__name__}-{m.__name__}" for c, m in MOCKED]
)


@cases
@pytest.mark.parametrize("event", FAILURES)
def test_the_same_exceptions_with_the_same_errno(
    event: str,
    client: Client,
    mock: Callable[..., Any],
    request: pytest.FixtureRequest,
    inject: Inject,
) -> None:
    make, parameters = FAILURES[event]
    timeouts = Timeouts.of(event)
    with make() as port:
        real = met(lambda: client(f"http://127.0.0.1:{port}/", timeouts))
    with (
        mock(request),
        inject("network_failure", rate=1, target="api.example.com", **parameters) as failure,
    ):
        assert met(lambda: client(URL, timeouts)) == real
    assert failure.hits == 1


@cases
@pytest.mark.parametrize("mode", ["dns", "dns_not_found"])
def test_the_same_exceptions_where_no_name_is_resolved(
    mode: str,
    client: Client,
    mock: Callable[..., Any],
    request: pytest.FixtureRequest,
    inject: Inject,
) -> None:
    """Which of its codes a resolver gives depends on how it is set up."""
    real = met(lambda: client("http://nobody.invalid/", Timeouts()))
    with mock(request), inject("network_failure", rate=1, mode=mode) as failure:
        mocked = met(lambda: client(URL, Timeouts()))
    assert [kind for kind, _ in mocked] == [kind for kind, _ in real]
    assert failure.hits == 1


def seen(client: Client, url: str) -> dict[str, Any]:
    """What can be seen of a response, and what asking for its sense raises."""
    found = client(url, Timeouts())
    headers = {name.lower(): value for name, value in found.headers.items()}
    return {
        "type": type(found),
        "status": found.status_code,
        "reason": getattr(found, "reason", None) or found.reason_phrase,
        "headers": headers,
        "text": found.text,
        "encoding": found.encoding,
        "json": met(found.json),
        "raised": found.status_code >= 400 and met(found.raise_for_status),
        "history": found.history,
        "request": str(found.request.url).replace(url, "URL"),
    }


ANSWERS: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "status": (
        [
            head(
                "429 Too Many Requests",
                Content_Type="text/plain; charset=utf-8",
                Retry_After="7",
                Content_Length="9",
            ),
            b"slow down",
        ],
        {"mode": "status", "status": 429, "retry_after": 7, "body": "slow down"},
    ),
    "malformed_json": (
        [head("200 OK", Content_Type="application/json", Content_Length="6"), b'{"a": '],
        {"mode": "malformed_json", "body": '{"a": '},
    ),
}


@cases
@pytest.mark.parametrize("event", ANSWERS)
def test_the_same_response(
    event: str,
    client: Client,
    mock: Callable[..., Any],
    request: pytest.FixtureRequest,
    inject: Inject,
) -> None:
    parts, parameters = ANSWERS[event]
    with serve(respond(*parts)) as port:
        real = seen(client, f"http://127.0.0.1:{port}/")
    with mock(request), inject("network_failure", rate=1, **parameters) as failure:
        assert seen(client, URL) == real
    assert failure.hits == 1

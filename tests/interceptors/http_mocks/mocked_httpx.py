"""What mocks httpx, and callers of what is mocked: by a client that blocks or one awaited."""

from __future__ import annotations

import asyncio
import contextlib

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import Protocol

import httpx
import pytest
import respx

from pytest_httpx import HTTPXMock

from pytest_resilience.clock import Clock


Handler = Callable[[httpx.Request], Any]

URL = "http://api.example.com/orders"
KINDS = ["respx httpcore", "respx httpx", "respx as handler", "pytest-httpx"]


class Mock(Protocol):
    """A started mock.

    Attributes:
        calls: how often it was asked.
        unknown: what it raises for what it has no response for.
    """

    unknown: type[Exception]

    @property
    def calls(self) -> int: ...

    def respond(self, url: str, handler: Handler) -> None:
        """Give this response to every call of `url`."""

    def transport(self, *, awaited: bool) -> Any:
        """What a client must be given to be mocked, if anything."""


class Respx:
    unknown: type[Exception] = respx.models.AllMockedAssertionError

    def __init__(self, router: respx.Router) -> None:
        self.router = router

    @property
    def calls(self) -> int:
        return len(self.router.calls)

    def respond(self, url: str, handler: Handler) -> None:
        self.router.route(url=url).mock(side_effect=handler)

    def transport(self, *, awaited: bool) -> Any:
        return None


class RespxHandler(Respx):
    """A router that a client is given as the handler of its transport."""

    def transport(self, *, awaited: bool) -> Any:
        return httpx.MockTransport(self.router.async_handler if awaited else self.router.handler)


class PytestHttpx:
    unknown: type[Exception] = httpx.TimeoutException

    def __init__(self, mock: HTTPXMock) -> None:
        self.mock = mock

    @property
    def calls(self) -> int:
        return len(self.mock.get_requests())

    def respond(self, url: str, handler: Handler) -> None:
        self.mock.add_callback(handler, url=url, is_optional=True, is_reusable=True)

    def transport(self, *, awaited: bool) -> Any:
        return None


@contextlib.contextmanager
def started(kind: str, request: pytest.FixtureRequest) -> Iterator[Mock]:
    if kind == "pytest-httpx":
        yield PytestHttpx(request.getfixturevalue("httpx_mock"))
    elif kind == "respx as handler":
        yield RespxHandler(respx.Router())
    else:
        using = kind.rpartition(" ")[2]
        with respx.mock(assert_all_called=False, using=using) as router:
            yield Respx(router)


class Caller:
    """Calls what is mocked, by a client that blocks or one that is awaited.

    Attributes:
        awaited: by which.
        mock: which mocks the calls.
        took: seconds of the last call; on a manual clock, unless they are awaited.
    """

    def __init__(self, *, awaited: bool, clock: Clock) -> None:
        self.awaited = awaited
        self.mock: Mock | None = None
        self.took = 0.0
        self._clock = clock

    def __call__(
        self,
        url: str = URL,
        *,
        method: str = "GET",
        timeout: Any = 20,
        retries: int = 0,
        **more: Any,
    ) -> httpx.Response:
        began = self._clock.monotonic()
        try:
            with self.client(timeout=timeout, retries=retries) as request:
                return request(method, url, **more)
        finally:
            self.took = self._clock.monotonic() - began

    @contextlib.contextmanager
    def client(
        self, *, retries: int = 0, **options: Any
    ) -> Iterator[Callable[..., httpx.Response]]:
        """`with caller.client() as request: request("GET", url)`: several calls by one client."""
        transport = None if self.mock is None else self.mock.transport(awaited=self.awaited)
        options["trust_env"] = False
        if not self.awaited:
            transport = transport or httpx.HTTPTransport(retries=retries, verify=False)
            with httpx.Client(transport=transport, **options) as client:
                yield client.request
            return
        transport = transport or httpx.AsyncHTTPTransport(retries=retries, verify=False)
        with asyncio.Runner() as runner:
            awaited = httpx.AsyncClient(transport=transport, **options)
            yield lambda *args, **kwargs: runner.run(awaited.request(*args, **kwargs))
            runner.run(awaited.aclose())

    def has_taken(self, seconds: float) -> bool:
        """Whether the last call took so long; a loop's own time is at least that."""
        if self.awaited:
            return self.took >= seconds
        return self.took == pytest.approx(seconds)

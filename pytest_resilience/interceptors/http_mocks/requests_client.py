"""requests, where its adapters are mocked: its own way to send, with nobody at the other end.

A call that an experiment is aimed at goes through requests' own adapter and urllib3, with
a `FakeSocket`. So they make their exceptions themselves, the retries of an adapter are tried
as in production, and an injected response is read as every other. What nothing happens to
goes to the mock as it is. A call that the mock lets pass to the network is met at its socket,
and one that it has no response for is its own affair: neither is touched here.
"""

from __future__ import annotations

import contextlib
import functools
import io
import types

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from dataclasses import field
from typing import TYPE_CHECKING
from typing import Any
from urllib.parse import urlsplit

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.http_mocks.exchange import LeftToMock
from pytest_resilience.interceptors.http_mocks.exchange import MockResponse
from pytest_resilience.interceptors.http_mocks.exchange import Peer
from pytest_resilience.interceptors.http_mocks.fake_network import FakeSocket


if TYPE_CHECKING:
    import requests

    from requests.adapters import HTTPAdapter


__all__ = ["SENT_HERE", "Sender", "peer_of"]

SENT_HERE = "_pytest_resilience"  # an attribute of the adapters of requests that are sent here


@dataclass(slots=True)
class Sender:
    """requests' own way to send one request, with nobody at the other end.

    Attributes:
        peers: whom it is for, at each try.
        request: what is sent.
        ask_mock: gives the mock's response.
        adapter: the user's own, if there is one.
        retries: those that are left.
        waiting: entered for the length of each wait.
    """

    peers: Iterator[Peer]
    request: requests.PreparedRequest
    ask_mock: Callable[[], requests.Response]
    adapter: HTTPAdapter | None = None
    retries: Any = 0
    waiting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    _response: requests.Response | None = field(default=None, init=False)  # the mock's

    def send(self, options: dict[str, Any]) -> requests.Response | None:
        """Send the request with these options of `HTTPAdapter.send`.

        None if it is left to the mock. Raises what a client meets, or the mock has raised.
        """
        __tracebackhide__ = True
        from requests import RequestException

        unread = self.request.copy()
        unread.body = None  # the mock reads it
        try:
            response = self._own_adapter().send(unread, **options)
        except RequestException as error:
            error.request = self.request
            raise
        except LeftToMock as left:
            error_of_mock = left.__cause__
        else:
            response.request = self.request
            if self._response is not None:  # has what its user or the mock has added to it
                response.cookies.update(self._response.cookies)
                vars(response).update(vars(self._response) | vars(response))
            return response
        if error_of_mock is not None:
            raise error_of_mock  # as it is: no cause, no context of ours
        return None

    def _own_adapter(self) -> HTTPAdapter:
        """One of requests' own, whose connections lead nowhere."""
        from requests.adapters import HTTPAdapter
        from urllib3.connectionpool import connection_from_url

        pool = connection_from_url(str(self.request.url))
        urlopen = pool.urlopen

        @functools.wraps(urlopen)
        def noting(
            method: str, url: str, body: Any = None, headers: Any = None, retries: Any = None,
            *args: Any, **kwargs: Any,
        ) -> Any:  # fmt: skip
            __tracebackhide__ = True
            self.retries = retries  # it calls itself for each retry
            return urlopen(method, url, body, headers, retries, *args, **kwargs)

        connection = functools.partial(self._connection, pool.ConnectionCls)
        vars(pool).update(ConnectionCls=connection, urlopen=noting)
        own = HTTPAdapter(max_retries=self.retries)
        setattr(own, SENT_HERE, True)
        vars(own).update(
            get_connection_with_tls_context=lambda *_, **__: pool,
            get_connection=lambda *_, **__: pool,  # its name in older versions
            cert_verify=lambda *_, **__: None,
        )
        if self.adapter is not None:
            vars(own)["build_response"] = self.adapter.build_response
        return own

    def _connection(self, kind: Any, *args: Any, **kwargs: Any) -> Any:
        """One of the client's connections, which leads nowhere."""
        from urllib3.connection import HTTPConnection

        # urllib3's own way to connect, which makes its exceptions of what a socket raises. It is
        # given its own names but one: to replace that in its module would be seen by all threads.
        original = HTTPConnection._new_conn  # noqa: SLF001  # where it translates what a socket raises
        to_us = types.SimpleNamespace(create_connection=self._connect)
        names = {**original.__globals__, "connection": to_us}
        new_connection = types.FunctionType(original.__code__, names, original.__name__)
        connection = kind(*args, **kwargs)
        vars(connection).update(
            _new_conn=functools.partial(new_connection, connection),
            connect=functools.partial(HTTPConnection.connect, connection),
            is_verified=True,  # in TLS: there is nobody whose certificate to check
        )
        return connection

    def _connect(self, _address: object, timeout: Any, **_options: object) -> FakeSocket:
        """In place of urllib3's `create_connection`. Raises what a socket raises."""
        __tracebackhide__ = True
        sock = FakeSocket(next(self.peers), self._ask, self.waiting)
        sock.connect(timeout if isinstance(timeout, (int, float)) else None)
        return sock

    def _ask(self) -> MockResponse:
        """The mock's response, which it and its user can still read afterwards."""
        from urllib3 import HTTPResponse

        response = self._response = self.ask_mock()
        raw: Any = response.raw
        body = raw.read(decode_content=False)
        response.raw = HTTPResponse(
            body=io.BytesIO(body),
            headers=raw.headers,
            status=response.status_code,
            reason=response.reason,
            preload_content=False,
        )
        headers = raw.headers.items()
        return MockResponse.of(response.status_code, response.reason or "", headers, body)


def peer_of(
    engine: Engine, request: requests.PreparedRequest, mock_response: object = None
) -> Peer:
    """Whom a request is for; `mock_response`: the mock's object that responds, if known."""
    parts = urlsplit(str(request.url))
    headers = [(text_of(name), text_of(value)) for name, value in request.headers.items()]
    seen = HttpRequest.of(str(request.method), request.path_url, headers)
    http = HttpDetails(request=seen, mock_response=mock_response)
    return Peer(engine, parts.scheme, parts.hostname or "", parts.port, http=http)

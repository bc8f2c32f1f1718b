"""requests, where its adapters are mocked: its own way to send, with nobody at the other end.

A call that an experiment is aimed at goes through requests' own adapter and urllib3, with
a `Wire` for a socket. So they make their exceptions themselves, the retries of an adapter
are tried as in production, and an answer that is made up is read as every other. What gets
through goes to the mock as it is. A call that the mock lets pass to the network is met at
its socket, and one that it has no answer for is its own affair: neither is touched here.
"""

from __future__ import annotations

import contextlib
import functools
import io
import types

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING
from typing import Any
from urllib.parse import urlsplit

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.http_mocks.fake_socket import Wire
from pytest_resilience.interceptors.http_mocks.peer import GetThrough
from pytest_resilience.interceptors.http_mocks.peer import Peer
from pytest_resilience.interceptors.http_mocks.peer import Reply


if TYPE_CHECKING:
    import requests
    import urllib3

    from requests.adapters import HTTPAdapter


__all__ = ["STAGED", "Stage", "peer_of"]

STAGED = "_pytest_resilience_staged"


class Stage:
    """requests' own way to send one request, with nobody at the other end.

    Attributes:
        retries: those that are left.
    """

    def __init__(
        self,
        whom: Callable[[], Peer],
        request: requests.PreparedRequest,
        reply: Callable[[], requests.Response],
        *,
        adapter: HTTPAdapter | None = None,
        retries: Any = 0,
        waiting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """`whom` it is for is asked at each try; `adapter` is the user's own, if there is one;
        `waiting` is entered for the length of each wait.
        """
        self.retries = retries
        self._whom = whom
        self._request = request
        self._reply = reply
        self._adapter = adapter
        self._waiting = waiting
        self._answer: requests.Response | None = None

    def send(self, options: dict[str, Any]) -> requests.Response | None:
        """Send the request with these options of `HTTPAdapter.send`.

        None if it is for the mock to answer. Raises what a client meets, or the mock raised.
        """
        __tracebackhide__ = True
        from requests import RequestException

        unread = self._request.copy()
        unread.body = None  # the mock reads it
        try:
            response = self._staged().send(unread, **options)
        except RequestException as error:
            error.request = self._request
            raise
        except GetThrough as through:
            mocks = through.error
        else:
            response.request = self._request
            if self._answer is not None:  # has what its user or the mock has added to it
                response.cookies.update(self._answer.cookies)
                vars(response).update(vars(self._answer) | vars(response))
            return response
        if mocks is not None:
            raise mocks  # as it is: no cause, no context of ours
        return None

    def _staged(self) -> HTTPAdapter:
        from requests.adapters import HTTPAdapter

        staged = HTTPAdapter(max_retries=self.retries)
        pool = self._pool()
        setattr(staged, STAGED, True)
        vars(staged).update(
            get_connection_with_tls_context=lambda *_, **__: pool,
            get_connection=lambda *_, **__: pool,  # its name in older versions
            cert_verify=lambda *_, **__: None,
        )
        if self._adapter is not None:
            vars(staged)["build_response"] = self._adapter.build_response
        return staged

    def _pool(self) -> urllib3.HTTPConnectionPool:
        from urllib3.connectionpool import connection_from_url

        pool = connection_from_url(str(self._request.url))
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
        return pool

    def _connection(self, kind: Any, *args: Any, **kwargs: Any) -> Any:
        """One of the client's connections, which leads nowhere."""
        from urllib3.connection import HTTPConnection

        connection = kind(*args, **kwargs)
        vars(connection).update(
            _new_conn=functools.partial(_connect, connection, self._wire),
            connect=functools.partial(HTTPConnection.connect, connection),
            is_verified=True,  # in TLS: there is nobody whose certificate to check
        )
        return connection

    def _wire(self) -> Wire:
        return Wire(self._whom(), self._ask, self._waiting)

    def _ask(self) -> Reply:
        self._answer = self._reply()
        return _reply_in(self._answer)


def _connect(connection: Any, new_wire: Callable[[], Wire]) -> Any:
    """urllib3's own way to connect, which makes its exceptions, with a wire for a socket."""
    __tracebackhide__ = True
    from urllib3.connection import HTTPConnection

    def create_connection(_address: object, timeout: Any, **_options: object) -> Wire:
        wire = new_wire()
        wire.connect(timeout if isinstance(timeout, (int, float)) else None)
        return wire

    original = HTTPConnection._new_conn  # noqa: SLF001  # where it translates what a socket raises
    # Its own names but one: to replace that one in its module would be seen by all threads.
    names = {
        **original.__globals__,
        "connection": types.SimpleNamespace(create_connection=create_connection),
    }
    return types.FunctionType(original.__code__, names, original.__name__)(connection)


def _reply_in(response: requests.Response) -> Reply:
    """What the mock has answered, which it and its user can still read afterwards."""
    from urllib3 import HTTPResponse

    raw: Any = response.raw
    body = raw.read(decode_content=False)
    response.raw = HTTPResponse(
        body=io.BytesIO(body),
        headers=raw.headers,
        status=response.status_code,
        reason=response.reason,
        preload_content=False,
    )
    return Reply.of(response.status_code, response.reason or "", raw.headers.items(), body)


def peer_of(engine: Engine, request: requests.PreparedRequest, answer: object = None) -> Peer:
    """Whom a request is for, and which object of the mock answers it, if that is known."""
    parts = urlsplit(str(request.url))
    return Peer(engine, parts.scheme, parts.hostname or "", parts.port, answer)

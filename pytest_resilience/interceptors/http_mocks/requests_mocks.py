"""requests, where its adapters are mocked: responses and requests-mock.

A call that an experiment is aimed at goes through requests' own adapter and urllib3, with
a `FakeSocket`. So they make their exceptions themselves, the retries of an adapter are tried
as in production, and an injected response is read as every other. What nothing happens to
goes to the mock as it is. A call that the mock lets pass to the network is met at its socket,
and one that it has no response for is its own affair: neither is touched here.

Those of responses are asked with the retries that are left. Of requests-mock it is the adapter that
stands for all others, mounted or put in place by a mocker: no adapter of the user's takes part, nor
the retries of one. Its mockers let one thread in at a time, but for those that wait for a fault.

Before something happens to a request, it is looked up whether the mock has a response; when nothing
has happened, the mock looks that up itself. The user's matchers are called once all the same: one
may count its calls.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import itertools
import types

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
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
from pytest_resilience.patching import Patches


if TYPE_CHECKING:
    import requests

    from requests.adapters import HTTPAdapter


__all__ = ["install_requests_mock", "install_responses"]

_SENT_HERE = "_pytest_resilience"  # an attribute of the adapters of requests that are sent here


def install_responses(engine: Engine, patches: Patches) -> None:
    """Reach what responses mocks, until the patches are restored."""
    import responses

    patches.replace(
        responses.RequestsMock, "_on_request", functools.partial(_over_responses, engine)
    )
    patches.replace(responses.BaseResponse, "_req_attr_matches", _matching_once_without_self)


def _over_responses(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def on_request(mock: Any, adapter: Any, request: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        if hasattr(adapter, _SENT_HERE):
            return mock._real_send(adapter, request, **options)  # noqa: SLF001  # what it replaced
        from urllib3.util.retry import Retry

        with _one_request():
            peers = _peers(engine, mock, request, options)
            peer = next(peers)
            if not peer.is_targeted():
                return original(mock, adapter, request, **options)
            ask_mock = functools.partial(original, mock, adapter, request)
            retries = options.pop("retries", None) or adapter.max_retries
            # The client has retries of its own, which see the mock's response.
            ask_once = functools.partial(ask_mock, retries=Retry(0), **options)
            tries = itertools.chain([peer], peers)
            sender = _Sender(tries, request, ask_once, adapter=adapter, retries=retries)
            response = sender.send(options)
            if response is not None:  # one that tells of an error is false
                return response
            return ask_mock(retries=sender.retries, **options)

    return on_request


def _peers(engine: Engine, mock: Any, request: Any, options: dict[str, Any]) -> Iterator[Peer]:
    """Whom a request is for, at each try, as the mock would respond; nobody if it would not."""
    while True:
        request.params = mock._parse_request_params(request.path_url)  # noqa: SLF001
        request.req_kwargs = {name: value for name, value in options.items() if name != "retries"}
        if hasattr(mock, "_read_filelike_body"):
            request.body = mock._read_filelike_body(request.body)  # noqa: SLF001
        twin = copy.copy(mock._registry)  # noqa: SLF001  # to find a response can use it up
        vars(twin)["_responses"] = list(mock.registered())
        with _one_request(looks_ahead=True):
            match = twin.find(request)[0]
        if match is None:
            _peer_of(engine, request).note_no_response()
        if match is None or match.passthrough:
            yield Peer.nobody(engine)
        else:
            yield _peer_of(engine, request, match)


def install_requests_mock(engine: Engine, patches: Patches) -> None:
    """Reach what requests-mock mocks, until the patches are restored."""
    from requests_mock.adapter import Adapter
    from requests_mock.adapter import _Matcher

    patches.replace(Adapter, "send", functools.partial(_over_requests_mock, engine))
    patches.replace(_Matcher, "_match_additional", _matching_once)


def _over_requests_mock(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def send(mock: Any, request: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        peer = _peer_of(engine, request)
        ask_mock = functools.partial(original, mock, request, **options)
        with _one_request():
            responds = functools.partial(_has_response, mock, request, options)
            if not peer.is_targeted(responds):
                return ask_mock()
            peers = itertools.repeat(peer)
            sender = _Sender(peers, request, ask_mock, waiting=_letting_others_in)
            response = sender.send(options)
            return ask_mock() if response is None else response

    return send


@contextlib.contextmanager
def _letting_others_in() -> Iterator[None]:
    """Without the mockers' lock: they would wait in turn, and raise after ten seconds of it.

    It guards how an adapter is chosen, which is done when one waits, and how the mock responds.
    """
    from requests_mock import mocker

    lock: Any = vars(mocker)["_send_lock"]
    if not lock._is_owned():  # noqa: SLF001  # an adapter that is mounted, or a body that is streamed
        yield
        return
    depth = lock._release_save()  # noqa: SLF001  # of redirects; the way of threading.Condition
    try:
        yield
    finally:
        lock._acquire_restore(depth)  # noqa: SLF001


def _has_response(mock: Any, request: Any, options: dict[str, Any]) -> bool:
    """The mock has a response of its own."""
    from requests_mock.adapter import _Matcher
    from requests_mock.request import _RequestObjectProxy

    case = mock._case_sensitive  # noqa: SLF001
    seen = _RequestObjectProxy(request, case_sensitive=case, **options)
    with _one_request(looks_ahead=True):
        for matcher in reversed(mock._matchers):  # noqa: SLF001
            if not isinstance(matcher, _Matcher):
                return True  # a function, which may only be asked once
            registered: Any = matcher  # its stubs leave out what is asked here
            if registered._match(seen):  # noqa: SLF001
                return not registered._real_http  # noqa: SLF001
    return False


@dataclass(frozen=True, slots=True)
class _Matches:
    """What the user's matchers have said of one request.

    Attributes:
        results: by their ids. Each is kept with what it has said, so that its id stays its own.
        looks_ahead: what they say is kept: the mock itself has not asked yet.
    """

    results: dict[int, tuple[object, Any]]
    looks_ahead: bool


_MATCHES: ContextVar[_Matches | None] = ContextVar("of this request", default=None)


@contextlib.contextmanager
def _one_request(*, looks_ahead: bool = False) -> Iterator[None]:
    """Within, this thread sends one, for which each of the user's matchers is called once.

    `looks_ahead`: it is still about the one around this.
    """
    around = _MATCHES.get() if looks_ahead else None
    token = _MATCHES.set(_Matches({} if around is None else around.results, looks_ahead))
    try:
        yield
    finally:
        _MATCHES.reset(token)


def _matching_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """Makes of the method of a matcher one that says of a request what it has said before."""

    @functools.wraps(original)
    def match(matcher: Any, request: Any) -> Any:
        matches = _MATCHES.get()
        if matches is None:
            return original(matcher, request)
        if id(matcher) not in matches.results:
            result = original(matcher, request)
            if matches.looks_ahead:
                matches.results[id(matcher)] = (matcher, result)
            return result
        kept = matches.results[id(matcher)]
        if not matches.looks_ahead:
            del matches.results[id(matcher)]
        return kept[1]

    return match


def _matching_once_without_self(original: Callable[..., Any]) -> Any:
    return staticmethod(_matching_once(original))


@dataclass(slots=True)
class _Sender:
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
        setattr(own, _SENT_HERE, True)
        # `cert_verify` prepares a pool for a certificate, of which there is none. `get_connection`
        # is what the other is in older versions.
        asked = ("get_connection_with_tls_context", "get_connection", "cert_verify")
        vars(own).update(dict.fromkeys(asked, lambda *_, **__: pool))
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
        seconds = timeout if isinstance(timeout, (int, float)) else None
        return FakeSocket(next(self.peers), self._ask, seconds, self.waiting)

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


def _peer_of(
    engine: Engine, request: requests.PreparedRequest, mock_response: object = None
) -> Peer:
    """Whom a request is for; `mock_response`: the mock's object that responds, if known."""
    parts = urlsplit(str(request.url))
    headers = [(text_of(name), text_of(value)) for name, value in request.headers.items()]
    seen = HttpRequest.of(str(request.method), request.path_url, headers)
    http = HttpDetails(request=seen, mock_response=mock_response)
    return Peer(engine, parts.scheme, parts.hostname or "", parts.port, http=http)

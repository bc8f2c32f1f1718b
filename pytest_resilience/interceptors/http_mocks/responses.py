"""responses: requests that its mocks are asked for, with the retries that are left."""

from __future__ import annotations

import copy
import functools
import itertools

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.http_mocks.exchange import Peer
from pytest_resilience.interceptors.http_mocks.requests_client import SENT_HERE
from pytest_resilience.interceptors.http_mocks.requests_client import Sender
from pytest_resilience.interceptors.http_mocks.requests_client import looking_ahead
from pytest_resilience.interceptors.http_mocks.requests_client import match_once
from pytest_resilience.interceptors.http_mocks.requests_client import matching_once
from pytest_resilience.interceptors.http_mocks.requests_client import peer_of
from pytest_resilience.patching import Patches


__all__ = ["install"]


def install(engine: Engine, patches: Patches) -> None:
    """Reach what responses mocks, until the patches are restored."""
    import responses

    patches.replace(responses.RequestsMock, "_on_request", functools.partial(_over, engine))
    patches.replace(responses.BaseResponse, "_req_attr_matches", _matching_once)


def _over(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def on_request(mock: Any, adapter: Any, request: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        if hasattr(adapter, SENT_HERE):
            return mock._real_send(adapter, request, **options)  # noqa: SLF001  # what it replaced
        from urllib3.util.retry import Retry

        with matching_once():
            peers = _peers(engine, mock, request, options)
            peer = next(peers)
            if not peer.is_targeted():
                return original(mock, adapter, request, **options)
            ask_mock = functools.partial(original, mock, adapter, request)
            retries = options.pop("retries", None) or adapter.max_retries
            # The client has retries of its own, which see the mock's response.
            ask_once = functools.partial(ask_mock, retries=Retry(0), **options)
            tries = itertools.chain([peer], peers)
            sender = Sender(tries, request, ask_once, adapter=adapter, retries=retries)
            response = sender.send(options)
            if response is not None:  # one that tells of an error is false
                return response
            return ask_mock(retries=sender.retries, **options)

    return on_request


def _peers(engine: Engine, mock: Any, request: Any, options: dict[str, Any]) -> Iterator[Peer]:
    """Whom a request is for, at each try, as the mock would respond; nobody if it would not."""
    while True:
        with looking_ahead():
            match = _match(mock, request, options)
        if match is None:
            peer_of(engine, request).note_no_response()
        if match is None or match.passthrough:
            yield Peer.nobody(engine)
        else:
            yield peer_of(engine, request, match)


def _match(mock: Any, request: Any, options: dict[str, Any]) -> Any:
    """The mock's response, if it has one, looked for in a copy: to find one can use it up."""
    request.params = mock._parse_request_params(request.path_url)  # noqa: SLF001
    request.req_kwargs = {name: value for name, value in options.items() if name != "retries"}
    if hasattr(mock, "_read_filelike_body"):
        request.body = mock._read_filelike_body(request.body)  # noqa: SLF001
    twin = copy.copy(mock._registry)  # noqa: SLF001
    vars(twin)["_responses"] = list(mock.registered())
    return twin.find(request)[0]


def _matching_once(original: Callable[..., Any]) -> Any:
    return staticmethod(functools.partial(match_once, original))

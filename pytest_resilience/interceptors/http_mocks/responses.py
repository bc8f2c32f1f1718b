"""responses: what its mocks are asked, with the retries that are left."""

from __future__ import annotations

import copy
import functools

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.http_mocks.match_cache import Verdicts
from pytest_resilience.interceptors.http_mocks.match_cache import ask_once
from pytest_resilience.interceptors.http_mocks.peer import Peer
from pytest_resilience.interceptors.http_mocks.requests_client import STAGED
from pytest_resilience.interceptors.http_mocks.requests_client import Stage
from pytest_resilience.interceptors.http_mocks.requests_client import peer_of
from pytest_resilience.interceptors.patching import Patches


__all__ = ["reach"]


def reach(engine: Engine, patches: Patches) -> None:
    """Reach what responses mocks."""
    import responses

    patches.replace(responses.RequestsMock, "_on_request", functools.partial(_over, engine))
    patches.replace(responses.BaseResponse, "_req_attr_matches", _asking_once)


def _over(engine: Engine, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def on_request(mock: Any, adapter: Any, request: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        if hasattr(adapter, STAGED):
            return mock._real_send(adapter, request, **options)  # noqa: SLF001  # what it replaced
        verdicts = Verdicts()
        with verdicts.heard():
            whom = functools.partial(_whom, engine, verdicts, mock, request, options)
            if not whom().concerns():
                return original(mock, adapter, request, **options)
            asked = functools.partial(original, mock, adapter, request)
            return _through(whom, asked, adapter, request, options)

    return on_request


def _through(
    whom: Callable[[], Peer],
    asked: Callable[..., Any],
    adapter: Any,
    request: Any,
    options: dict[str, Any],
) -> Any:
    """Send a request on its way, and ask the mock if it gets through."""
    __tracebackhide__ = True
    from urllib3.util.retry import Retry

    retries = options.pop("retries", None) or adapter.max_retries
    # The client has retries of its own, which see the reply.
    reply = functools.partial(asked, retries=Retry(0), **options)
    stage = Stage(whom, request, reply, adapter=adapter, retries=retries)
    response = stage.send(options)
    return asked(retries=stage.retries, **options) if response is None else response


def _whom(engine: Engine, verdicts: Verdicts, mock: Any, request: Any, options: Any) -> Peer:
    """Whom a request is for, as the mock would answer it now; nobody if it would not."""
    with verdicts.looking():
        match = _match(mock, request, options)
    if match is None:
        peer_of(engine, request).unanswered()
    if match is None or match.passthrough:
        return Peer.nobody(engine)
    return peer_of(engine, request, match)


def _match(mock: Any, request: Any, options: dict[str, Any]) -> Any:
    """The mock's own answer, if it has one, looked for on a twin: a find can use it up."""
    request.params = mock._parse_request_params(request.path_url)  # noqa: SLF001
    request.req_kwargs = {name: value for name, value in options.items() if name != "retries"}
    if hasattr(mock, "_read_filelike_body"):
        request.body = mock._read_filelike_body(request.body)  # noqa: SLF001
    twin = copy.copy(mock._registry)  # noqa: SLF001
    vars(twin)["_responses"] = list(mock.registered())
    return twin.find(request)[0]


def _asking_once(original: Callable[..., Any]) -> Any:
    def matches(match: Any, request: Any) -> Any:
        return ask_once(match, functools.partial(original, match, request))

    return staticmethod(matches)

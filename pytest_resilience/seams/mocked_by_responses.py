"""responses: what its mocks are asked, with the retries that are left."""

from __future__ import annotations

import copy
import functools

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.seams.mocked_requests import STAGED
from pytest_resilience.seams.mocked_requests import Stage
from pytest_resilience.seams.mocked_requests import peer_of
from pytest_resilience.seams.patching import Patches


__all__ = ["reach"]


def reach(engine: Engine, patches: Patches) -> None:
    """Reach what responses mocks."""
    import responses

    def over(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def on_request(mock: Any, adapter: Any, request: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            if hasattr(adapter, STAGED):
                return mock._real_send(adapter, request, **options)  # noqa: SLF001  # what it replaced
            peer = peer_of(engine, request)
            if not peer.concerns() or not _answered_by_responses(mock, request, options):
                return original(mock, adapter, request, **options)
            from urllib3.util.retry import Retry

            retries = options.pop("retries", None) or adapter.max_retries
            reply = functools.partial(
                original, mock, adapter, request, retries=Retry(0), **options
            )  # the client has retries of its own, which see the reply
            stage = Stage(peer, request, reply, adapter=adapter, retries=retries)
            response = stage.send(options)
            if response is not None:
                return response
            return original(mock, adapter, request, retries=stage.retries, **options)

        return on_request

    patches.replace(responses.RequestsMock, "_on_request", over)


def _answered_by_responses(mock: Any, request: Any, options: dict[str, Any]) -> bool:
    """Whether it has an answer of its own, looked for on a twin: a find can use it up."""
    request.params = mock._parse_request_params(request.path_url)  # noqa: SLF001
    request.req_kwargs = {name: value for name, value in options.items() if name != "retries"}
    if hasattr(mock, "_read_filelike_body"):
        request.body = mock._read_filelike_body(request.body)  # noqa: SLF001
    twin = copy.copy(mock._registry)  # noqa: SLF001
    vars(twin)["_responses"] = list(mock.registered())
    match, _ = twin.find(request)
    return match is not None and not match.passthrough

"""requests-mock: the adapter that stands for all others, mounted or put in place by a mocker.

Its mockers let one thread in at a time, but for those that wait for a fault. No adapter of the
user's takes part, nor the retries of one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.http_mocks.requests_client import Sender
from pytest_resilience.interceptors.http_mocks.requests_client import looking_ahead
from pytest_resilience.interceptors.http_mocks.requests_client import match_once
from pytest_resilience.interceptors.http_mocks.requests_client import matching_once
from pytest_resilience.interceptors.http_mocks.requests_client import peer_of
from pytest_resilience.patching import Patches


__all__ = ["install"]


def install(engine: Engine, patches: Patches) -> None:
    """Reach what requests-mock mocks, until the patches are restored."""
    from requests_mock.adapter import Adapter
    from requests_mock.adapter import _Matcher

    def over(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def send(mock: Any, request: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            peer = peer_of(engine, request)
            ask_mock = functools.partial(original, mock, request, **options)
            with matching_once():
                responds = functools.partial(_has_response, mock, request, options)
                if not peer.is_targeted(responds):
                    return ask_mock()
                peers = itertools.repeat(peer)
                sender = Sender(peers, request, ask_mock, waiting=_letting_others_in)
                response = sender.send(options)
                return ask_mock() if response is None else response

        return send

    patches.replace(Adapter, "send", over)
    patches.replace(_Matcher, "_match_additional", _matching_once)


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


def _matching_once(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def match_additional(matcher: Any, request: Any) -> Any:
        return match_once(original, matcher, request)

    return match_additional


def _has_response(mock: Any, request: Any, options: dict[str, Any]) -> bool:
    """The mock has a response of its own."""
    from requests_mock.adapter import _Matcher
    from requests_mock.request import _RequestObjectProxy

    case = mock._case_sensitive  # noqa: SLF001
    seen = _RequestObjectProxy(request, case_sensitive=case, **options)
    with looking_ahead():
        for matcher in reversed(mock._matchers):  # noqa: SLF001
            if not isinstance(matcher, _Matcher):
                return True  # a function, which may only be asked once
            registered: Any = matcher  # its stubs leave out what is asked here
            if registered._match(seen):  # noqa: SLF001
                return not registered._real_http  # noqa: SLF001
    return False

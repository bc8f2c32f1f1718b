"""The interceptor for mocked HTTP: there is no socket below a mock, so the fault goes in above it.

A mocking library is reached when it is there, if it was loaded before or is while an
experiment runs. It is reached in what its mocks call when they are asked, and not in what
they replace: so it does not matter which was first, the mock or the experiment, and a mock
that has been stopped is not asked.
"""

from __future__ import annotations

import functools

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.interceptors.http_mocks import pytest_httpx
from pytest_resilience.interceptors.http_mocks import requests_mock
from pytest_resilience.interceptors.http_mocks import responses
from pytest_resilience.interceptors.http_mocks import respx
from pytest_resilience.interceptors.import_hook import ImportHook
from pytest_resilience.interceptors.patching import Patches


__all__ = ["HttpMockInterceptor"]

# The module of each that holds what is reached.
_MOCKS = {
    "responses": responses.install,
    "requests_mock.adapter": requests_mock.install,
    "respx.router": respx.install,
    "pytest_httpx._httpx_mock": pytest_httpx.install,
}


class HttpMockInterceptor:
    """Intercepts what clients ask of mocks. See `chaos.engine.Interceptor`."""

    # The end of a connection is not seen, but who asks for it is told what is.
    kinds = frozenset({RESOLVE, CONNECT, RECEIVE, CLOSE})

    def __init__(self, engine: Engine) -> None:
        self._patches = Patches()
        self._import_hook = ImportHook(
            {
                name: functools.partial(install, engine, self._patches)
                for name, install in _MOCKS.items()
            }
        )
        self._installed = False

    def install(self) -> None:
        if not self._installed:
            self._installed = True
            self._import_hook.install()

    def refresh(self) -> None:
        """Nothing to do: each call asks whom the active experiments are aimed at."""

    def remove(self) -> None:
        if self._installed:
            self._installed = False
            self._import_hook.remove()
        if self._patches:
            self._patches.restore()

"""The interceptor for mocked HTTP: there is no socket below a mock, so the fault goes in above it.

Nor is there one below an application that is called in this process (see `in_process_apps`).

    requests.get, httpx.get
        |
    requests_mocks, httpx_mocks   Is the host targeted, and has the mock a response?
        |                         No: the mock is asked, as always.
        |  yes
    the same modules              The client's own code sends the request once more, so that
        |                         errors, timeouts and retries are the client's,
        |
    fake_network                  over a socket that leads nowhere,
        |
    exchange                      which decides for each name, connect and response.
        |
    the mock                      It is asked if the request gets that far.

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
from pytest_resilience.interceptors.http_mocks.httpx_mocks import install_pytest_httpx
from pytest_resilience.interceptors.http_mocks.httpx_mocks import install_respx
from pytest_resilience.interceptors.http_mocks.in_process_apps import IN_PROCESS
from pytest_resilience.interceptors.http_mocks.requests_mocks import install_requests_mock
from pytest_resilience.interceptors.http_mocks.requests_mocks import install_responses
from pytest_resilience.patching import LibraryPatches


__all__ = ["HttpMockInterceptor"]

# The module of each that holds what is reached.
_MOCKS = {
    "responses": install_responses,
    "requests_mock.adapter": install_requests_mock,
    "respx.router": install_respx,
    "pytest_httpx._httpx_mock": install_pytest_httpx,
}


class HttpMockInterceptor:
    """Intercepts what clients ask of mocks. See `chaos.engine.Interceptor`."""

    # The end of a connection is not seen, but who asks for it is told what is.
    kinds = frozenset({RESOLVE, CONNECT, RECEIVE, CLOSE})

    def __init__(self, engine: Engine) -> None:
        self._libraries = LibraryPatches(
            {
                name: functools.partial(install, engine)
                for name, install in (*_MOCKS.items(), *IN_PROCESS.items())
            }
        )

    def install(self) -> None:
        self._libraries.install()

    def refresh(self) -> None:
        """Nothing to do: each call is matched with the active experiments."""

    def remove(self) -> bool:
        return self._libraries.remove()

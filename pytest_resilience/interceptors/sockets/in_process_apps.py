"""Applications that are called in this process: no network is between them and their clients.

Nothing can happen to such calls. They are noted for experiments of the network, so that one
which never fires can say so, and where there would be a network.
"""

from __future__ import annotations

import functools
import sys

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.interceptors.import_hook import ImportHook
from pytest_resilience.interceptors.observing import Observer
from pytest_resilience.interceptors.patching import Patches
from pytest_resilience.interceptors.sockets.host_names import HostNames


__all__ = ["InProcessApps"]

_REQUEST = "http.request"
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SERVED = "serve it on 127.0.0.1 with {} and call it there"
_MOCKED = "mock with respx or pytest-httpx, whose answers faults reach, or serve it on 127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """A test client, or a transport, that calls an application.

    Attributes:
        name: for people.
        module: that has to be loaded.
        owner: the class in it.
        methods: of that, which are given a request.
        instead: what has a network in between.
        callee: what is called.
    """

    name: str
    module: str
    owner: str
    methods: tuple[str, ...]
    instead: str
    callee: str = "the application"


_UVICORN = _SERVED.format("uvicorn")
_LIVE = _SERVED.format("live_server of pytest-django, or LiveServerTestCase,")
_HTTPX = tuple(
    each
    for httpx in ("httpx", "httpx2")  # of the same making
    for each in (
        _Caller(
            name=f"{httpx}.ASGITransport",
            module=f"{httpx}._transports.asgi",
            owner="ASGITransport",
            methods=("handle_async_request",),
            instead=_UVICORN,
        ),
        _Caller(
            name=f"{httpx}.WSGITransport",
            module=f"{httpx}._transports.wsgi",
            owner="WSGITransport",
            methods=("handle_request",),
            instead=_SERVED.format("wsgiref.simple_server"),
        ),
        _Caller(
            name=f"{httpx}.MockTransport",
            module=f"{httpx}._transports.mock",
            owner="MockTransport",
            methods=("handle_request", "handle_async_request"),
            instead=_MOCKED,
            callee="its handler",
        ),
    )
)
_STARLETTE = _Caller(
    name="starlette's TestClient",
    module="starlette.testclient",
    owner="_TestClientTransport",
    methods=("handle_request",),
    instead=_UVICORN,
)
_WERKZEUG = _Caller(
    name="werkzeug's test client",
    module="werkzeug.test",
    owner="Client",
    methods=("run_wsgi_app",),
    instead=_SERVED.format("werkzeug.serving.make_server"),
)
_DJANGO = tuple(
    _Caller(
        name=f"Django's test {owner}",
        module="django.test.client",
        owner=owner,
        methods=("request",),
        instead=_LIVE,
    )
    for owner in ("Client", "AsyncClient")
)


class InProcessApps:
    """See the module.

    Attributes:
        import_hook: reaches the clients, as soon as they are loaded.
    """

    def __init__(self, engine: Engine, names: HostNames, patches: Patches) -> None:
        self._engine = engine
        self._names = names
        self._observer = Observer(patches)
        self.import_hook = ImportHook(
            {
                **{
                    each.module: functools.partial(self._watch, _of_url, each)
                    for each in (*_HTTPX, _STARLETTE)
                },
                "werkzeug.test": functools.partial(self._watch, _of_environ, _WERKZEUG),
                "django.test.client": functools.partial(self._watch, _of_fields, *_DJANGO),
            }
        )

    def _watch(self, place_of: Callable[..., tuple[str, Any]], *callers: _Caller) -> None:
        for each in callers:
            owner = getattr(sys.modules[each.module], each.owner, None)
            for method in each.methods if owner is not None else ():
                note = functools.partial(self._note, place_of, each)
                # What an application does in turn is more likely to be meant.
                self._observer.observe(owner, method, note, after=True)

    def _note(
        self,
        place_of: Callable[..., tuple[str, Any]],
        caller: _Caller,
        _client: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        names = self._names.of(*place_of(*args, **kwargs))
        self._engine.note_unmatched(
            Operation(
                kind=_REQUEST,
                target=names[0],
                names=names,
                remark=f"by {caller.name}, in this process",
                advice=(
                    f"{caller.name} called {caller.callee} in this process, so that no network "
                    f"was between them: {caller.instead}, or aim at what {caller.callee} "
                    "connects to."
                ),
            )
        )


def _of_url(request: Any) -> tuple[str, Any]:
    url = request.url
    return url.host, url.port or _PORTS.get(url.scheme, "")


def _of_environ(environ: Any, *_: Any, **__: Any) -> tuple[str, Any]:
    return environ["SERVER_NAME"], environ["SERVER_PORT"]


def _of_fields(**fields: Any) -> tuple[str, Any]:
    """Of Django's, which has a name of its own unless it is told another."""
    host, port = fields.get("server") or ("testserver", "80")
    return fields.get("SERVER_NAME", host), fields.get("SERVER_PORT", port)

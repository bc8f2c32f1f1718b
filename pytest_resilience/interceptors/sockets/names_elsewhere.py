"""Names that are resolved elsewhere than where the connection is made that they are for.

aiohttp has it done in a task of its own and trio in a thread, and both may have the answer
already. So whoever is given it is noted to have asked: names that share an address are
told apart by that.
"""

from __future__ import annotations

import functools
import sys

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.import_hook import Arrivals
from pytest_resilience.interceptors.patching import Patches
from pytest_resilience.interceptors.sockets.host_names import Names


__all__ = ["NamesElsewhere"]

_TRIO = "trio._highlevel_open_tcp_stream"  # which has it under a name of its own

Resolve = Callable[..., Awaitable[Any]]


class NamesElsewhere:
    """Watches from an install of the socket seam to its remove."""

    def __init__(self, engine: Engine, names: Names, patches: Patches) -> None:
        self._engine = engine
        self._names = names
        self._patches = patches
        self._arrivals = Arrivals(
            {
                "aiohttp.connector": self._aiohttp,
                "trio.socket": functools.partial(self._trio, "trio.socket"),
                _TRIO: functools.partial(self._trio, _TRIO),
            }
        )

    def watch(self) -> None:
        """Begin."""
        self._arrivals.watch()

    def retire(self) -> None:
        """Await no more modules; what is replaced is put back with the rest of the seam."""
        self._arrivals.forget()

    def _aiohttp(self) -> None:
        connector = sys.modules["aiohttp.connector"].TCPConnector
        if hasattr(connector, "_resolve_host"):
            self._patches.replace(connector, "_resolve_host", self._asking_aiohttp)

    def _trio(self, name: str) -> None:
        module = sys.modules[name]
        if hasattr(module, "getaddrinfo"):
            self._patches.replace(module, "getaddrinfo", self._asking_trio)

    def _asking_aiohttp(self, original: Resolve) -> Resolve:
        @functools.wraps(original)
        async def _resolve_host(connector: Any, host: str, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            found = await original(connector, host, *args, **kwargs)
            for each in list.__iter__(found) if is_a(found, list) else ():
                address = dict.get(each, "host") if is_a(each, dict) else None
                if is_a(address, str):
                    self._names.learn(host, text_of(address))
            return found

        return _resolve_host

    def _asking_trio(self, original: Resolve) -> Resolve:
        @functools.wraps(original)
        async def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            place = self._engine.place() if self._engine.has(RESOLVE) else ""
            port = args[0] if args else kwargs.get("port")
            with self._names.resolved_elsewhere(host, port, place):
                found = await original(host, *args, **kwargs)
            self._names.learn_all(host, found)
            return found

        return getaddrinfo

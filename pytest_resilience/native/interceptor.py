"""The interceptor for clients that resolve and connect in C, C++ or Rust, in this process."""

from __future__ import annotations

import functools
import sys

from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from types import ModuleType
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import ON_CONNECTIONS
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.interceptors.sockets.interceptor import SocketInterceptor
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.native.loader_tables import unsupported
from pytest_resilience.patching import Patches


__all__ = ["NativeInterceptor", "network_interceptors"]

_IS_OFF = "chaos_native is false"


class NativeInterceptor:
    """Intercepts what clients do below Python. See `chaos.engine.Interceptor`.

    Of a connection in C nothing is seen but how it is made. So where experiments are expected that
    may be about it, it is led through us from the beginning.

    Attributes:
        wanted: whether it may; if not, nothing is intercepted.
    """

    kinds = frozenset({RESOLVE, CONNECT, HANDSHAKE, SEND, RECEIVE, CLOSE, END})

    def __init__(self, engine: Engine, names: HostNames, *, wanted: bool) -> None:
        """`names`: those that Python's sockets have learned."""
        self.wanted = wanted
        self._engine = engine
        self._names = names
        self._patches = Patches()
        self._connects: Any = None
        self._slots: Any = None  # both are loaded by the first install
        self._installed = False
        self._watching = False

    def install(self) -> None:
        if self._installed or not self.wanted or (self._connects is None and unsupported()):
            return
        if self._connects is None:
            from pytest_resilience.native.connects import NativeConnects
            from pytest_resilience.native.slots import all_slots

            self._slots = all_slots()
            self._connects = NativeConnects(self._engine, self._names)
        self._installed = True
        self._slots.listen(self._connects)
        loader = sys.modules.get("ctypes")
        self._patches.again("loading", (loader,), functools.partial(self._replace_in, loader))

    def _replace_in(self, loader: ModuleType | None) -> None:
        self._patches.replace(ExtensionFileLoader, "create_module", _reaching_what_it_loads)
        if loader is not None:
            self._patches.replace(loader, "_dlopen", _reaching_what_it_loads)

    def watch(self, on: bool) -> None:
        """At the end of a session, leave the memory of others as protected as it was, too."""
        self._watching = on and self._engine.expected.can_hit(ON_CONNECTIONS)
        if self._watching:
            self.install()
        elif not on:
            self.remove()
            if self._slots is not None:
                self._slots.protect()

    def refresh(self) -> None:
        why = _why_not(wanted=self.wanted)
        for each in self._engine.active if why else ():
            if not self.kinds.isdisjoint(each.kinds):
                each.unmatched.blind_spot = f"What clients in C do is not seen: {why}. "
        if self._connects is not None:
            self._connects.redirects.refresh()

    def remove(self) -> bool:
        if self._installed:
            self._connects.redirects.remove()
            if self._watching:
                return False
            self._installed = False
            self._slots.stop(self._connects)
        if self._patches:
            self._patches.restore()
        return bool(self._patches)


def _why_not(*, wanted: bool) -> str:
    """Why clients in C are not reached; "" where they are."""
    return unsupported() if wanted else _IS_OFF


def network_interceptors(
    engine: Engine, *, native: bool
) -> tuple[SocketInterceptor, NativeInterceptor]:
    """For clients in Python, and for those in C if they are wanted: they share names of hosts."""
    sockets = SocketInterceptor(engine, out_of_reach=_why_not(wanted=native) or None)
    return sockets, NativeInterceptor(engine, sockets.names, wanted=native)


def _reaching_what_it_loads(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that loads a library, whose calls are to be reached at once."""

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        from pytest_resilience.native.slots import all_slots

        loaded = original(*args, **kwargs)
        all_slots().refresh()
        return loaded

    return load

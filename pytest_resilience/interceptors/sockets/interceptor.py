"""The socket interceptor: every client written in Python ends in the methods of sockets.

requests, urllib3, httpx, http.client and redis-py bring their own ways of connecting, but
all of them call methods of the class `socket.socket` (or `ssl.SSLSocket` on TLS), and
`socket.getaddrinfo` for names. httpx, aiohttp, redis-py and asyncpg under asyncio do too,
where what takes time is left to the loop (see `loops` and `detours`), and so do programs that
poll, as trio (see `readiness`). Sockets that a server of this process accepted, sockets that
are no TCP, and connections that no experiment is aimed at pass straight through.
"""

from __future__ import annotations

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.interceptors.patching import Patches
from pytest_resilience.interceptors.sockets.host_names import Names
from pytest_resilience.interceptors.sockets.host_names import NamesElsewhere
from pytest_resilience.interceptors.sockets.in_process_apps import InProcess
from pytest_resilience.interceptors.sockets.patches import Interception
from pytest_resilience.interceptors.sockets.unreachable import OutOfReach


__all__ = ["SocketInterceptor"]


class SocketInterceptor:
    """Intercepts what clients do with sockets. See `chaos.engine.Interceptor`."""

    kinds = frozenset({RESOLVE, CONNECT, HANDSHAKE, SEND, RECEIVE, CLOSE})

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._names = Names()
        self._patches = Patches()
        self._installed = False
        # Made by the first install, and used again by the next: most tests need the same.
        self._interception: Interception | None = None
        self._beside: tuple[NamesElsewhere | OutOfReach | InProcess, ...] = ()

    def install(self) -> None:
        if self._installed:
            return
        self._installed = True
        if self._interception is None:
            self._interception = Interception(self._engine, self._names, self._patches)
            self._beside = (
                NamesElsewhere(self._engine, self._names, self._patches),
                OutOfReach(self._engine, self._names, self._patches),
                InProcess(self._engine, self._names, self._patches),
            )
        self._interception.apply()
        for each in self._beside:
            each.watch()

    def refresh(self) -> None:
        if self._interception is not None:
            self._interception.refresh()

    def remove(self) -> None:
        if self._installed and self._interception is not None:
            self._installed = False
            self._interception.retire()
            for each in self._beside:
                each.retire()
        if self._patches:
            self._patches.restore()
            if self._patches:
                # Some of it is stuck below another tool's, and may only pass on from now on:
                # the next install puts its own on top.
                self._interception = None

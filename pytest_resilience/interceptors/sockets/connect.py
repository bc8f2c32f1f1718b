"""Connecting: resolving names, and connects that an event loop awaits.

A connect in a loop is held up first, and what happens to it is decided before it begins.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket

from collections.abc import Awaitable
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.peer_names import is_literal
from pytest_resilience.interceptors.sockets.readiness import Readiness
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import green_module
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.unresolvable_hosts import UnresolvableHosts
from pytest_resilience.interceptors.waiting import pause
from pytest_resilience.patching import Patches


__all__ = ["LoopConnects", "NameResolution", "try_on"]


class LoopConnects:
    """Connects that event loops begin and await.

    Attributes:
        decided: by the `id` of the socket, as long as they are tried.
    """

    def __init__(self, engine: Engine, connections: ConnectionTable) -> None:
        self.decided: dict[int, Effect | None] = {}
        self._engine = engine
        self._connections = connections
        self._installed = False

    def install(self) -> None:
        self._installed = True

    def remove(self) -> None:
        self._installed = False

    async def connect(
        self,
        sock: socket.socket,
        address: Any,
        *,
        proceed: Callable[[], Awaitable[None]],
        failed: str,
    ) -> None:
        """`proceed` to connect to `address`, when its delay is over.

        Past the end of a silence raises TimeoutError with the text `failed`.
        """
        __tracebackhide__ = True
        connection = or_none(self._connections.opened, sock, address) if self._installed else None
        if connection is None or connection.untargeted:
            await proceed()
            return
        effect = self._engine.decide(connection.operation(CONNECT))
        if effect is not None and effect.delay:
            await pause(effect)
            if effect.delay == float("inf") and not effect.transient:
                raise TimeoutError(errno.ETIMEDOUT, failed)
        self.decided[id(sock)] = effect
        try:
            await proceed()
        finally:
            self.decided.pop(id(sock), None)


def try_on(
    readiness: Readiness,
    sock: socket.socket,
    connection: TcpConnection,
    effect: Effect,
    address: Any,
) -> None:
    """Let the kernel go on with a connect to `address`, for which the client waits no longer.

    It ends its wait by a timeout of Python (no errno), or of the kernel (EINPROGRESS).
    """
    if not is_literal(address[0]):
        return  # to find out whose name it is may take any time
    readiness.keep_pending(sock, connection, effect)
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        with contextlib.suppress(OSError):  # it is pending
            KernelSocket.connect(kernel_socket(sock), address)
    finally:
        sock.settimeout(timeout)


_GIVEN = ("host", "port", "family", "type", "proto", "flags")
_RESOLVING = ("getaddrinfo", "gethostbyname", "gethostbyname_ex")


class NameResolution:
    """Lets names be found, or not, and remembers what was found.

    Attributes:
        unresolvable: for those that are not found, where that matters.
    """

    def __init__(self, engine: Engine, names: HostNames, patches: Patches) -> None:
        self.unresolvable = UnresolvableHosts(engine)
        self._patches = patches
        self._engine = engine
        self._names = names
        self._installed = False

    def install(self) -> None:
        self._installed = True
        green = green_module("gevent.socket")
        for module in (socket, *([] if green is None else [green])):
            self._patches.again(module, (self,), functools.partial(self._replace_in, module))

    def _replace_in(self, module: ModuleType) -> None:
        for name in _RESOLVING:
            self._patches.replace(module, name, self._resolving, mocks=True)

    def remove(self) -> None:
        self._installed = False

    def resolve(self, host: Any, port: Any) -> None:
        """A name server is about to be asked for `host`, unless that is an address."""
        __tracebackhide__ = True
        if not _is_name(host):
            return
        names = self._names.of(host, port)
        place = self._names.place_of(host, port)
        effect = self._engine.decide(
            Operation(kind=RESOLVE, target=names[0], names=names, call_site=CallSite(place=place))
        )
        if effect is None:
            return
        if effect.delay:
            effects.hold(effect, effect.delay)
        error = effect.error(names[0])
        if error is not None:
            raise error

    def _note(self, names: tuple[str, ...], error: socket.gaierror) -> None:
        """Let those that never fire tell of a name for which there is no connect."""
        self._engine.note_unmatched(
            Operation(
                kind=RESOLVE,
                target=names[0],
                names=names,
                remark="does not resolve here",
                advice=(
                    f"{names[0]} does not resolve here ({error.strerror}), so that nothing "
                    "connected: use a name that does, or an address, or a fault that needs no "
                    "server: refuse, timeout, reset, status; or, if this is what you test, "
                    "mode='dns'."
                ),
            )
        )

    def _resolving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def resolve(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if not self._installed:
                return original(*args, **kwargs)
            given = dict(zip(_GIVEN, args, strict=False)) | kwargs
            host, port = given.get("host"), given.get("port")
            asks = not _takes_addresses_only(given.get("flags"))
            if asks:
                self.resolve(host, port)
            try:
                found = original(*args, **kwargs)
            except socket.gaierror as error:
                if not asks or not _is_name(host):
                    raise
                names = self._names.of(host, port)
                try:
                    found = self.unresolvable.found(original, given, names, error)
                except socket.gaierror:
                    self._note(names, error)
                    raise
            self._names.learn_all(host, found)
            return found

        return resolve


def _is_name(host: object) -> bool:
    return is_a(host, str, bytes) and not is_literal(host)


def _takes_addresses_only(flags: Any) -> bool:
    """Whether `getaddrinfo`, given these, asks nobody: as loops find out first."""
    return is_a(flags, int) and bool(int.__and__(flags, socket.AI_NUMERICHOST))

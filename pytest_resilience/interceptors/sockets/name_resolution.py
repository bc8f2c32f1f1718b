"""Resolving names (DNS): they are found, or not, late, or in vain as experiments say.

Some do not resolve here, such as those of production; what is injected needs none. Such a name gets
an address of its own on loopback. A connect to that is refused, late or silent as experiments say.
Where one of them can respond in the host's place, both ends of the connection are made here; nobody
reads at the other. Where none does, it ends as it would: the name is not known.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket

from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Delay
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.peer_names import is_literal
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import green_module
from pytest_resilience.interceptors.sockets.tcp_connection import other_ends
from pytest_resilience.interceptors.waiting import hold
from pytest_resilience.patching import Patches


__all__ = ["NameResolution"]

_GIVEN = ("host", "port", "family", "type", "proto", "flags")
_RESOLVING = ("getaddrinfo", "gethostbyname", "gethostbyname_ex")
_TALK = frozenset({HANDSHAKE, RECEIVE})  # what follows a connect
_TCP = (0, socket.IPPROTO_TCP)  # protocols that are asked for


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
            hold(effect, effect.delay)
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


class UnresolvableHosts:
    """The addresses that stand in for names, and the connections to them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._opened: set[int] = set()
        self._errors: dict[str, socket.gaierror] = {}  # by address
        self._addresses: dict[str, str] = {}  # by name
        self._numbers = itertools.count(1)

    def found(
        self,
        resolve: Callable[..., Any],
        given: dict[str, Any],
        names: tuple[str, ...],
        error: socket.gaierror,
    ) -> Any:
        """What a function to `resolve` names, which was `given` this, finds all the same.

        Raises `error`, as it did, where nobody is to stand in.
        """
        family, kind = given.get("family", 0), given.get("type", 0)
        is_tcp = kind in (0, socket.SOCK_STREAM) and given.get("proto", 0) in _TCP
        in_v4 = family in (socket.AF_UNSPEC, socket.AF_INET)
        if not (is_tcp and in_v4 and self._faults(names)):
            raise error
        host = text_of(given["host"])
        address = self._addresses.get(host)
        if address is None:
            number = next(self._numbers)
            address = self._addresses[host] = f"127.77.{number // 256 % 256}.{number % 256}"
        self._errors[address] = error
        if resolve.__name__ == "gethostbyname":
            return address
        if resolve.__name__ == "gethostbyname_ex":
            return host, [], [address]
        return resolve(**{**given, "host": address})

    def knows(self, address: Any) -> bool:
        """Whether an address stands in for a name."""
        return bool(self._errors) and text_of(address[0]) in self._errors

    def connect(
        self,
        names: tuple[str, ...],
        number: int,
        connect: Callable[[socket.socket, Any], Any],
        sock: socket.socket,
        address: Any,
    ) -> Any:
        """Connect a socket to nobody. Raises what the resolution has raised if nobody cares."""
        __tracebackhide__ = True
        if not any(f.kinds & _TALK and not isinstance(f, Delay) for f in self._faults(names)):
            raise socket.gaierror(*self._errors[text_of(address[0])].args)
        listener: Any = KernelSocket()
        with limits_lifted(), contextlib.closing(listener):
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            try:
                return connect(sock, listener.getsockname())
            finally:
                descriptor, _ = listener._accept()  # noqa: SLF001  # what `accept` is made of
                other_ends[number] = KernelSocket(fileno=descriptor)
                self._opened.add(number)

    def close(self, number: int) -> None:
        """A connection is closed."""
        self._opened.discard(number)
        end = other_ends.pop(number, None)
        if end is not None:
            end.close()

    def close_all(self) -> None:
        """Every connection is over."""
        for number in list(self._opened):
            self.close(number)

    def _faults(self, names: tuple[str, ...]) -> list[Fault]:
        """What can happen to connections to a host that is not there."""
        connect = Operation(kind=CONNECT, target=names[0], names=names)
        now = self._engine.clock.monotonic()
        return [
            fault
            for each in self._engine.active
            if each.left(now) and each.experiment.matches_target(connect)
            for fault in each.experiment.faults
            if fault.kinds & {CONNECT, *_TALK} and not fault.needs_response
        ]

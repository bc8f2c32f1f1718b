"""Hosts whose names do not resolve here, such as those of production: what is injected needs none.

Such a name gets an address of its own on loopback. A connect to that is refused, late or silent as
experiments say. Where one of them can respond in the host's place, both ends of the connection are
made here; nobody reads at the other. Where none does, it ends as it would: the name is not known.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import socket

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Delay
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket


__all__ = ["UnresolvableHosts", "answer_nothing", "other_ends"]

_TALK = frozenset({HANDSHAKE, RECEIVE})
_TCP = (0, socket.IPPROTO_TCP)

# The other ends of connections to nobody, by the numbers of these.
other_ends: dict[int, KernelSocket] = {}


def answer_nothing(number: int, effect: Effect | None) -> None:
    """Let a response of a connection to nobody end before it begins, unless `effect` gives one."""
    if effect is None or not (effect.failure or effect.delay == math.inf):
        with contextlib.suppress(OSError):  # it is over
            other_ends[number].shutdown(socket.SHUT_WR)


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

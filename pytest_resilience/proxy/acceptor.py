"""Takes each client in and connects it through: the part of a proxy that lives in its loop."""

from __future__ import annotations

import logging
import os
import socket
import weakref

from collections.abc import Sequence
from typing import Protocol

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.proxy.addresses import Address
from pytest_resilience.proxy.addresses import Endpoint
from pytest_resilience.proxy.connect import Dial
from pytest_resilience.proxy.connection import Connection
from pytest_resilience.proxy.connection import Setting
from pytest_resilience.proxy.endpoint import Side
from pytest_resilience.proxy.event_loop import Loop
from pytest_resilience.proxy.listener import Door
from pytest_resilience.proxy.toxics.toxic import Toxic
from pytest_resilience.seeds import Stream


__all__ = ["Switchboard", "remember"]


class Holder(Protocol):
    """Something with descriptors."""

    def abandon(self) -> None:
        """Close this process's copies of them, and nothing else."""


_holders: weakref.WeakSet[Holder] = weakref.WeakSet()


def remember(holder: Holder) -> None:
    """Have it abandoned in every process that is forked from now on."""
    _holders.add(holder)


def _abandon() -> None:
    for holder in list(_holders):
        holder.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon)


_logger = logging.getLogger("pytest_resilience.proxy")
_PIECE = 256 * 1024  # bytes read at once


class Switchboard:
    """The open connections of one proxy, and its door.

    Attributes:
        upstream: where it leads to.
        enabled: whether it lets clients in, as far as its owner is concerned.
        open: the connections there are.
        accepted: how many there have been.
        unreachable: why the last connect to the server failed.
    """

    def __init__(
        self,
        upstream: Address,
        endpoints: Sequence[Endpoint],
        listen: Endpoint,
        *,
        enabled: bool,
        loop: Loop,
        engine: Engine,
        seed: int,
    ) -> None:
        self.upstream = upstream
        self.enabled = False
        self.open: dict[int, Connection] = {}
        self.accepted = 0
        self.unreachable: OSError | None = None
        self._endpoints = tuple(endpoints)
        self._loop = loop
        self._engine = engine
        self._seed = seed
        self._toxics: tuple[Toxic, ...] = ()
        self._refusals: tuple[Toxic, ...] = ()
        self._barred: set[object] = set()
        self._buffer = bytearray(_PIECE)
        self._door = Door(listen, loop, self._admit)
        self._setting = self._make_setting()
        remember(self)
        if enabled:
            try:
                self.enable(enabled=True)
            except BaseException:
                self._door.close()
                raise

    @property
    def address(self) -> Address:
        """Where clients connect to."""
        return self._door.address

    @property
    def names(self) -> tuple[str, ...]:
        """Every `host:port` that the server is known by, and the proxy's own."""
        addresses = [Address(*each.sockaddr[:2]) for each in self._endpoints]
        return tuple(dict.fromkeys(map(str, (self.upstream, *addresses, self.address))))

    def _make_setting(self) -> Setting:
        return Setting(
            loop=self._loop,
            engine=self._engine,
            names=self.names,
            seed=self._seed,
            closed=self._forget,
        )

    def enable(self, *, enabled: bool) -> None:
        """Let clients in; or refuse new ones and cut those there are."""
        if enabled:
            self._door_is(open_=not self._barred)
            self.enabled = True
        else:
            self.enabled = False
            self._door_is(open_=False)
            self._cut()

    def settle(self) -> None:
        """Take in those who have connected already: what begins now is not for their connect."""
        self._door.settle()

    def bar(self, reason: object) -> None:
        """Refuse new clients for a reason; those there are stay."""
        self._barred.add(reason)
        self._door_is(open_=False)

    def unbar(self, reason: object) -> None:
        """That reason is over; harmless when it is not known."""
        if reason in self._barred:
            self._barred.discard(reason)
            self._door_is(open_=self.enabled and not self._barred)

    def arrange(self, toxics: Sequence[Toxic]) -> None:
        """Let these toxics happen to every connection, open and new."""
        self._refusals = tuple(each for each in toxics if each.type == "refuse")
        self._toxics = tuple(each for each in toxics if each.type != "refuse")
        # Only a refusal of everybody can be the kernel's, which is told before anybody comes.
        if any(each.toxicity == 1 for each in self._refusals):
            self.bar("toxic")
        else:
            self.unbar("toxic")
        for connection in list(self.open.values()):
            connection.arrange(self._toxics)

    def move(self, upstream: Address, endpoints: Sequence[Endpoint], listen: Endpoint) -> None:
        """Lead and listen elsewhere. Raises ConfigurationError, and then nothing has changed."""
        host, port = listen.sockaddr
        if Address(host, port) != self.address:
            door = Door(listen, self._loop, self._admit)
            self._door.close()
            self._door = door
        self._cut()
        self.upstream, self._endpoints = upstream, tuple(endpoints)
        self._setting = self._make_setting()
        self._door_is(open_=self.enabled and not self._barred)

    def close(self) -> None:
        """End everything."""
        self.enabled = False
        self._door.close()
        self._cut()

    def abandon(self) -> None:
        """In a forked process: let go of everything, which stays the parent's."""
        if self._loop.closed:  # so its descriptors are somebody else's by now
            return
        self._loop.abandon()
        self._door.abandon()
        for connection in list(self.open.values()):
            connection.abandon()
        self.open.clear()

    def _forget(self, connection: Connection) -> None:
        self.open.pop(connection.number, None)

    def _door_is(self, *, open_: bool) -> None:
        if open_:
            self._door.open()
        else:
            self._door.shut()

    def _cut(self) -> None:
        for connection in list(self.open.values()):
            connection.close()

    def _admit(self, sock: socket.SocketType) -> None:
        self.accepted += 1
        connection = Connection(self.accepted, self._setting)
        self.open[connection.number] = connection
        connection.greet(Side(sock, self._loop, connection, self._buffer))
        if any(self._refuses(each, connection.number) for each in self._refusals):
            connection.reset()
        else:
            connection.gate.opening(lambda: self._dial(connection), connection.reset)

    def _refuses(self, toxic: Toxic, number: int) -> bool:
        return Stream.at(self._seed, "toxicity", toxic.name, number).draw(0) < toxic.toxicity

    def _dial(self, connection: Connection) -> None:
        if not connection.is_open:
            return

        def connected(sock: socket.SocketType) -> None:
            self.unreachable = None
            server = Side(sock, self._loop, connection, self._buffer)
            connection.begin(server, self._toxics)

        def failed(error: OSError) -> None:
            self.unreachable = error
            _logger.warning(
                "the proxy at %s cannot reach %s: %s", self.address, self.upstream, error
            )
            connection.attempt = None
            connection.reset()

        dial = Dial(self._endpoints, self._loop, connected=connected, failed=failed)
        connection.attempt = dial
        dial.start()

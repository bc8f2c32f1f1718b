"""Lets each client in and connects it to the server: the part of a proxy in its event loop."""

from __future__ import annotations

import logging
import os
import socket
import weakref

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from typing import ClassVar

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.waiting_clients import awaited_among
from pytest_resilience.proxy.addresses import Address
from pytest_resilience.proxy.addresses import Server
from pytest_resilience.proxy.addresses import SocketAddress
from pytest_resilience.proxy.connection import Connection
from pytest_resilience.proxy.connection import ConnectionSettings
from pytest_resilience.proxy.direction import is_hit
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.listener import Listener
from pytest_resilience.proxy.toxics import REFUSE
from pytest_resilience.proxy.toxics import Toxic
from pytest_resilience.proxy.transport import Connect
from pytest_resilience.proxy.transport import Transport


__all__ = ["TcpForwarder"]

_logger = logging.getLogger("pytest_resilience.proxy")
_PIECE = 256 * 1024  # bytes read at once


class TcpForwarder:
    """The open connections of one proxy, and its listener.

    Attributes:
        server: where it leads to.
        enabled: whether it lets clients in, as far as its owner is concerned.
        open: the connections there are, by number.
        accepted: how many there have been.
        unreachable: why the last connect to the server failed.
        kinds: the kinds of operation that there are.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({CONNECT, SEND, RECEIVE, CLOSE, END})

    def __init__(
        self,
        server: Server,
        listen: SocketAddress,
        *,
        enabled: bool,
        loop: EventLoop,
        engine: Engine,
        seed: int,
    ) -> None:
        self.server = server
        self.enabled = False
        self.open: dict[int, Any] = {}
        self.accepted = 0
        self.unreachable: OSError | None = None
        self._toxics: tuple[Toxic, ...] = ()
        self._refusals: set[object] = set()  # reasons to refuse everybody
        self._buffer = bytearray(_PIECE)
        self._listener: Any = self._listener_on(listen, loop)
        self._settings = ConnectionSettings(
            loop=loop, engine=engine, names=self.names, seed=seed, closed=self._closed
        )
        _forwarders.add(self)
        if enabled:
            try:
                self.enable()
            except BaseException:
                self._listener.close()
                raise

    def _listener_on(self, listen: SocketAddress, loop: EventLoop) -> Any:
        return Listener(listen, loop, self._accept)

    @property
    def address(self) -> Address:
        """Where clients connect to."""
        address: Address = self._listener.address
        return address

    @property
    def names(self) -> tuple[str, ...]:
        """Every `host:port` that the server is known by, and the proxy's own."""
        return tuple(dict.fromkeys((*self.server.names, str(self.address))))

    def enable(self) -> None:
        """Let clients in."""
        self._listen(wanted=not self._refusals)
        self.enabled = True

    def disable(self) -> None:
        """Refuse new clients, and cut those there are."""
        self.enabled = False
        self._listen(wanted=False)
        self.cut()

    def accept_waiting(self) -> None:
        """Take in those who have connected already: what begins now is not for their connect."""
        self._listener.accept_waiting()

    def strike_waiting(self) -> None:
        """An outage has begun: who waits for a response, or in this process for anything, meets it.

        Who keeps a connection for later does not.
        """
        clients = [(each, each.client) for each in self.open.values()]
        awaited = awaited_among({client for _, client in clients} - {None})
        for each, client in clients:
            each.strike_waiting(awaited=client in awaited)

    def refuse(self, reason: object) -> None:
        """Refuse new clients for a reason; those there are stay."""
        self._refusals.add(reason)
        self._listen(wanted=False)

    def refuse_no_more(self, reason: object) -> None:
        """That reason is over; harmless when it is not known."""
        if reason in self._refusals:
            self._refusals.discard(reason)
            self._listen(wanted=self.enabled and not self._refusals)

    def set_toxics(self, toxics: Sequence[Toxic]) -> None:
        """Let these toxics happen to every connection, open and new."""
        self._toxics = tuple(toxics)
        # The kernel can only refuse everybody: it has to be known before anybody connects.
        if any(each.toxicity == 1 for each in toxics if each.type == REFUSE):
            self.refuse("toxic")
        else:
            self.refuse_no_more("toxic")
        for connection in list(self.open.values()):
            connection.set_toxics(self._toxics)

    def move(self, server: Server, listen: SocketAddress) -> None:
        """Lead and listen elsewhere. Raises ConfigurationError, and then nothing has changed."""
        if Address(*listen.sockaddr) != self.address:
            listener = self._listener_on(listen, self._settings.loop)
            self._listener.close()
            self._listener = listener
        self.cut()
        self.server = server
        self._settings = replace(self._settings, names=self.names)
        self._listen(wanted=self.enabled and not self._refusals)

    def close(self) -> None:
        """End everything."""
        self.enabled = False
        self._listener.close()
        self.cut()

    def close_in_child(self) -> None:
        """In a forked process: close its copies of the descriptors, and end nothing."""
        if self._settings.loop.closed:  # so its descriptors are somebody else's by now
            return
        self._settings.loop.close_in_child()
        self._listener.close_in_child()
        for connection in list(self.open.values()):
            connection.close_in_child()
        self.open.clear()

    def _closed(self, connection: Any) -> None:
        self.open.pop(connection.number, None)

    def _listen(self, *, wanted: bool) -> None:
        if wanted:
            self._listener.open()
        else:
            self._listener.shut()

    def cut(self) -> int:
        """Close the connections that there are; returns how many."""
        found = list(self.open.values())
        for connection in found:
            connection.close()
        return len(found)

    def _accept(self, sock: socket.SocketType) -> None:
        self.accepted += 1
        connection = Connection(self.accepted, self._settings)
        self.open[connection.number] = connection
        connection.accept(Transport(sock, self._settings.loop, connection, self._buffer))
        refusals = (each for each in self._toxics if each.type == REFUSE)
        if any(is_hit(each, self._settings.seed, connection.number) for each in refusals):
            connection.reset()
        else:
            self._decide(connection)

    def _decide(self, connection: Connection) -> None:
        """Connect to the server when the experiments let it; or refuse."""
        effect = connection.decisions.decide(CONNECT)
        if effect is None:
            self._connect(connection)
            return
        loop = self._settings.loop
        started = loop.clock.monotonic()

        def over() -> None:
            if effect.delay:
                effect.add_delay(loop.clock.monotonic() - started)
            if effect.failure is None:
                self._connect(connection)
            else:
                connection.reset()

        loop.call_at_or_after(started + effect.delay, effect.left, over)

    def _connect(self, connection: Connection) -> None:
        if not connection.is_open:
            return

        def connected(sock: socket.SocketType) -> None:
            self.unreachable = None
            server = Transport(sock, self._settings.loop, connection, self._buffer)
            connection.begin(server, self._toxics)

        def failed(error: OSError) -> None:
            self.unreachable = error
            _logger.warning("the proxy at %s cannot reach %s: %s", self.address, self.server, error)
            connection.connecting = None
            connection.reset()

        connecting = Connect(self.server, self._settings.loop, connected=connected, failed=failed)
        connection.connecting = connecting
        connecting.start()


_forwarders: weakref.WeakSet[TcpForwarder] = weakref.WeakSet()


def _close_in_child() -> None:
    for forwarder in list(_forwarders):
        forwarder.close_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)

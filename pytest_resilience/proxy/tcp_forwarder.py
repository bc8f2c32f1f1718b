"""The part of a proxy in its event loop: lets each client in, and connects it to the server.

The port that clients connect to is open, or shut so that the kernel refuses.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import weakref

from collections.abc import Callable
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
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.waiting_clients import awaited_among
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.addresses import Address
from pytest_resilience.proxy.addresses import Server
from pytest_resilience.proxy.addresses import SocketAddress
from pytest_resilience.proxy.connection import Connection
from pytest_resilience.proxy.connection import ConnectionSettings
from pytest_resilience.proxy.connection import is_hit
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.toxic_types import REFUSE
from pytest_resilience.proxy.toxic_types import Toxic
from pytest_resilience.proxy.transport import Connect
from pytest_resilience.proxy.transport import Transport


__all__ = ["Listener", "TcpForwarder", "bound"]

_BACKLOG = 1024  # connections that wait to be accepted: a refusal must be meant
_PAUSE = 0.05  # seconds until another accept where there was no descriptor left
_AT_ONCE = 64  # accepts in a row, so that nobody else has to wait for long
_logger = logging.getLogger("pytest_resilience.proxy")
_PIECE = 256 * 1024  # bytes read at once


class Listener:
    """A port on loopback. Shut, it stays bound: connecting gives ECONNREFUSED, and nobody
    else is given it who asks for any port.

    Attributes:
        address: where it is, with the real port.
    """

    def __init__(
        self, listen: SocketAddress, loop: EventLoop, accepted: Callable[..., None]
    ) -> None:
        """Shut at first. `accepted`: is given the socket of each client.

        Raises ConfigurationError if the port cannot be had.
        """
        self._family = listen.family
        self._loop = loop
        self._accepted = accepted
        self._open = False
        host, port = listen.sockaddr[:2]
        if port:
            self._check_free(host, port)
        self._sock: Any = self._bound(host, port)
        self.address = Address(*self._sock.getsockname()[:2])

    def _check_free(self, host: str, port: int) -> None:
        with self._bound(host, port) as sock:
            try:
                sock.listen(_BACKLOG)  # only this fails where somebody else listens already
            except OSError as error:
                raise _unavailable(Address(host, port), error) from error

    def _bound(self, host: str, port: int) -> Any:
        with limits_lifted():
            sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        # The connections of one that was shut are still around; they do not block it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return bound(sock, host, port)

    def open(self) -> None:
        """Let clients in; harmless when it is open."""
        if not self._open:
            try:
                self._sock.listen(_BACKLOG)
            except OSError as error:
                raise _unavailable(self.address, error) from error
            self._open = True
            self._watch()

    def shut(self) -> None:
        """Refuse clients; harmless when it is shut."""
        if self._open:
            self.close()
            self._sock = self._bound(self.address.host, self.address.port)

    def close(self) -> None:
        """Give the port back; harmless when that was done."""
        if self._sock.fileno() < 0:
            return
        self._loop.watch(self._sock, 0, self._ready)
        if self._open:
            with contextlib.suppress(OSError):  # some systems do not know it of a listener
                self._sock.shutdown(socket.SHUT_RDWR)  # of a forked process's copy as well
        self._open = False
        with limits_lifted():
            self._sock.close()

    def close_in_child(self) -> None:
        """In a forked process: close its copy of the port."""
        self._open = False
        self._sock.close()

    def accept_waiting(self) -> None:
        """Accept everybody who has connected already."""
        if self._open:
            self._ready(selectors.EVENT_READ)

    def _watch(self) -> None:
        if self._open:
            self._loop.watch(self._sock, selectors.EVENT_READ, self._ready)

    def _ready(self, _events: int) -> None:
        for _ in range(_AT_ONCE):
            if not self._open:
                return
            try:
                with limits_lifted():
                    client, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # that client has left again
                    _logger.warning("%s cannot accept a client: %s", self.address, error)
                    self._loop.watch(self._sock, 0, self._ready)
                    self._loop.call_at(self._loop.clock.monotonic() + _PAUSE, self._watch)
                return
            # Below `socket.socket`: what other tools and we patch is not for this traffic.
            self._accepted(socket.SocketType(fileno=client.detach()))


def bound(sock: socket.SocketType, host: str, port: int) -> socket.SocketType:
    """It, once it is bound. Raises ConfigurationError for a port that cannot be had."""
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _unavailable(Address(host, port), error) from error
    return sock


def _unavailable(address: Address, error: OSError) -> ConfigurationError:
    """For a port that cannot be had."""
    return ConfigurationError(
        f"cannot listen on {address}: {error.strerror or error}; give another port, or port 0 "
        "for any that is free"
    )


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

"""The part of a proxy of UDP in its event loop: its port, and one session for each client.

There are no connections to accept. A client is an address that something comes from, and has a
socket of its own towards the server, so that what comes back is known to be for it.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Final

from pytest_resilience.chaos.datagram_faults import DatagramLine
from pytest_resilience.chaos.datagram_faults import datagram
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import RECEIVE_DATAGRAM
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.addresses import Server
from pytest_resilience.proxy.addresses import SocketAddress
from pytest_resilience.proxy.connection import ConnectionSettings
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.event_loop import Timer
from pytest_resilience.proxy.tcp_forwarder import Listener
from pytest_resilience.proxy.tcp_forwarder import TcpForwarder
from pytest_resilience.proxy.tcp_forwarder import bound
from pytest_resilience.proxy.toxic_types import Toxic


__all__ = ["UdpForwarder"]

_logger = logging.getLogger("pytest_resilience.proxy")
_LARGEST: Final = 65535  # bytes
_AT_ONCE = 64  # datagrams in a row, so that nobody else has to wait for long
_LOOK = 0.05  # seconds: how soon it is noticed that an experiment has ended
_MOST_SESSIONS = 1024  # the one that was opened first goes


class UdpForwarder(TcpForwarder):
    """The clients of one proxy of UDP, and its port."""

    kinds = DATAGRAMS

    def _listener_on(self, listen: SocketAddress, loop: EventLoop) -> DatagramListener:
        return DatagramListener(listen, loop, self._arrived)

    def strike_waiting(self) -> None:
        """Nothing: what has begun with an outage happens to the datagrams that come."""

    def set_toxics(self, toxics: Sequence[Toxic]) -> None:
        """Raises ConfigurationError unless there are none."""
        for each in toxics:
            raise ConfigurationError(
                f"toxic {each.name!r} is for the bytes of connections, which UDP has none of; use "
                "inject('network_latency', ...) or inject('network_failure', mode='drop')"
            )

    def _arrived(self, data: bytes, client: Any) -> None:
        session = next((each for each in self.open.values() if each.client == client), None)
        if session is None:
            session = self._opened(client)
        if session is not None:
            session.from_client(data)

    def _opened(self, client: Any) -> Session | None:
        self.accepted += 1
        while len(self.open) >= _MOST_SESSIONS:
            self.open[min(self.open)].close()
        try:
            session = Session(self.accepted, client, self.server, self._settings, self._listener)
        except OSError as error:
            self._failed(error)
            return None
        session.failed = self._failed
        self.open[session.number] = session
        return session

    def _failed(self, error: OSError) -> None:
        if self.unreachable is None:
            _logger.warning("the proxy at %s cannot reach %s: %s", self.address, self.server, error)
        self.unreachable = error


class DatagramListener(Listener):
    """A port of UDP on loopback. Shut, it stays bound, and who sends there is refused (ICMP)."""

    def __init__(
        self, listen: SocketAddress, loop: EventLoop, arrived: Callable[..., None]
    ) -> None:
        """`arrived`: is given what comes, and from whom."""
        super().__init__(listen, loop, arrived)
        self._refuse()

    def _check_free(self, host: str, port: int) -> None:
        """Nothing: whoever else has the port, it cannot be bound."""

    def _bound(self, host: str, port: int) -> socket.SocketType:
        with limits_lifted():
            sock = socket.SocketType(self._family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        return bound(sock, host, port)

    def _refuse(self) -> None:
        # Connected to itself, it is nobody's else, for whom the kernel has no such port then.
        self._sock.connect(self._sock.getsockname())

    def open(self) -> None:
        if not self._open:
            self._sock.close()  # for nothing takes its peer away again
            self._sock = self._bound(self.address.host, self.address.port)
            self._open = True
            self._watch()

    def shut(self) -> None:
        if self._open:
            self._open = False
            self._loop.watch(self._sock, 0, self._ready)
            self._refuse()

    def send(self, data: bytes, client: Any) -> None:
        """Send it to a client, unless there is no room: then it is lost."""
        if self._open:
            with contextlib.suppress(OSError):
                self._sock.sendto(data, client)

    def _ready(self, _events: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, client = self._sock.recvfrom(_LARGEST)
            except OSError:  # nothing more; or a client is gone, which says ICMP
                return
            self._accepted(data, client)


class Session:
    """What one client sends to the server, and what comes back.

    Attributes:
        number: of the client, from 1.
        client: its address.
        failed: is told when the server cannot be reached.
    """

    def __init__(
        self,
        number: int,
        client: Any,
        server: Server,
        settings: ConnectionSettings,
        listener: DatagramListener,
    ) -> None:
        """Raises OSError where there is no way to the server."""
        self.number = number
        self.client = client
        self.failed: Callable[[OSError], None] = lambda _: None
        self._settings = settings
        self._requests: DatagramLine[bytes] = DatagramLine()
        self._responses: DatagramLine[bytes] = DatagramLine()
        self._listener = listener
        self._timer: Timer | None = None
        address = server.addresses[0]
        with limits_lifted():
            self._sock = socket.SocketType(address.family, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._sock.connect(address.sockaddr)
        settings.loop.watch(self._sock, selectors.EVENT_READ, self._ready)

    def from_client(self, data: bytes) -> None:
        """The client has sent this."""
        self._pass(self._requests, SEND_DATAGRAM, data)

    def close(self) -> None:
        """Forget what is on its way."""
        self._settings.loop.watch(self._sock, 0, self._ready)
        with limits_lifted():
            self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self._settings.closed(self)

    def close_in_child(self) -> None:
        """In a forked process: close its copy of the socket."""
        self._sock.close()

    def _ready(self, _events: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                data = self._sock.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:  # it is refused, which no client can be told
                self.failed(error)
                return
            self._pass(self._responses, RECEIVE_DATAGRAM, data)

    def _pass(self, line: DatagramLine[bytes], kind: str, data: bytes) -> None:
        settings = self._settings
        effect = settings.engine.decide(datagram(kind, settings.names))
        line.put(data, effect, settings.loop.clock.monotonic())
        self._deliver()

    def _deliver(self) -> None:
        """Send on what is due, and come again when more is."""
        loop = self._settings.loop
        now = loop.clock.monotonic()
        for line, send in ((self._requests, self._send), (self._responses, self._send_back)):
            line.release_ended(now)
            while (due := line.take(now)) is not None:
                send(due)
        if self._timer is not None:
            self._timer.cancel()
        if self._requests or self._responses:
            due_at = min(self._requests.due, self._responses.due)
            self._timer = loop.call_at(min(due_at, now + _LOOK), self._deliver)

    def _send(self, data: bytes) -> None:
        try:
            self._sock.send(data)
        except OSError as error:  # of the datagram before: this one has not been sent
            self.failed(error)
            with contextlib.suppress(OSError):
                self._sock.send(data)

    def _send_back(self, data: bytes) -> None:
        self._listener.send(data, self.client)

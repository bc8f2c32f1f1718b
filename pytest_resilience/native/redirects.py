"""Connections of clients in C, led through us: each has a listener of its own on loopback.

    client in C         this process, in the thread of an event loop            server
    -----------         --------------------------------------------            ------
    connect() ------->  slots -> connects -> a redirect: connects first ------> accepts
                                                |  (refused: so is the client)
      the same     <--------------------------- |
      connect, to       listener --------- connection of a proxy ------------->
      the listener

So the client meets what a proxy can do to a connection, by the experiments of the test's engine.
"""

from __future__ import annotations

import contextlib
import math
import queue
import socket
import threading
import weakref

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Outage
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.errors import ShutdownError
from pytest_resilience.locks import fork_safe
from pytest_resilience.locks import renew_in_child
from pytest_resilience.proxy.addresses import Address
from pytest_resilience.proxy.addresses import Server
from pytest_resilience.proxy.addresses import SocketAddress
from pytest_resilience.proxy.connection import Connection
from pytest_resilience.proxy.decisions import Decisions
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.experiments import LOOK
from pytest_resilience.proxy.tcp_forwarder import TcpForwarder
from pytest_resilience.proxy.transport import Connect
from pytest_resilience.proxy.transport import Transport


__all__ = ["Asked", "Redirect", "Redirects", "is_mapped", "loopback_family"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A connection that a client asks for.

    Attributes:
        server: where to.
        operation: the connect, with the number of the connection.
        delay: what is to pass before its first byte is taken, where the connect itself cannot
            be made to wait; None for nothing.
    """

    server: SocketAddress
    operation: Operation
    delay: Effect | None = None


class Redirect(TcpForwarder):
    """Takes in one client, for whom it has connected to the server already."""

    def __init__(
        self, asked: Asked, loop: EventLoop, engine: Engine, over: Callable[[Redirect], None]
    ) -> None:
        self._asked = asked
        self._engine = engine
        self._over = over
        self._server: socket.SocketType | None = None
        self._client: Connection | None = None
        self._outcome = queue.SimpleQueue[OSError | None]()
        where, family = asked.server, loopback_family(asked.server)
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        server = Server(Address(*where.sockaddr[:2]), (where,))
        listen = SocketAddress(family, (host, 0))
        super().__init__(server, listen, enabled=True, loop=loop, engine=engine, seed=0)
        self._connecting = Connect(server, loop, connected=self._connected, failed=self._failed)
        self._connecting.start()
        self.await_begin([each for each in engine.active if each.experiment.opens_after])

    @property
    def names(self) -> tuple[str, ...]:
        return self._asked.operation.names

    @property
    def operation(self) -> Operation:
        """What the client does, for the targets of experiments."""
        return self._asked.operation

    def await_begin(self, started: Sequence[ActiveExperiment]) -> None:
        """Who waits for a response meets an outage now, or when its window begins.

        A service that is gone has closed the connections that nobody uses just now, too.
        """
        for each in started:
            if each.experiment.is_outage:
                self._await_outage(each)

    def _await_outage(self, outage: ActiveExperiment) -> None:
        clock, gone = self._settings.loop.clock, outage.experiment.ends_service

        def begin() -> None:
            if not outage.left(clock.monotonic()):
                return
            if gone and outage.matches_target(self.operation):
                fault = next(each for each in outage.experiment.faults if isinstance(each, Outage))
                for _ in self.open:  # first: the client may look at once
                    self._engine.record_fault(outage, fault, CLOSE)
                self.cut()
            else:
                self._strike_while(outage)

        self._settings.loop.call_at_or_after(
            outage.opens_at, lambda: outage.left(clock.monotonic()), begin
        )

    def _strike_while(self, outage: ActiveExperiment) -> None:
        """Strike who waits now, and who comes to wait while it lasts."""
        loop = self._settings.loop
        now, client = loop.clock.monotonic(), self._client
        if outage.left(now) and (client is None or client.is_open):
            loop.call_at(now + LOOK, lambda: self._strike_while(outage))
            self.strike_waiting()

    def connected(self, seconds: float) -> bool:
        """Whether the server has accepted, within so many seconds. Raises OSError if it refuses."""
        try:
            error = self._outcome.get(timeout=None if seconds == math.inf else seconds)
        except queue.Empty:
            return False
        if error is not None:
            raise error
        return True

    def _connected(self, sock: socket.SocketType) -> None:
        self._server = sock
        self._outcome.put(None)
        if self._client is not None:
            self._begin()

    def _failed(self, error: OSError) -> None:
        self._outcome.put(error)
        if self._client is not None:
            self._client.reset()

    def _accept(self, sock: socket.SocketType) -> None:
        self._listener.close()
        loop, asked = self._settings.loop, self._asked
        number = asked.operation.tcp.connection
        client = Connection(number, self._settings)
        client.decisions = Decisions(self._engine, self.names, number)
        self.open[client.number] = client
        client.accept(Transport(sock, loop, client, self._buffer))
        started, delay = loop.clock.monotonic(), asked.delay

        def begin() -> None:
            if delay is not None:
                delay.add_delay(loop.clock.monotonic() - started)
            self._client = client
            if self._server is not None:
                self._begin()

        if delay is None:
            begin()
        else:
            loop.call_at_or_after(started + delay.delay, delay.left, begin)

    def _begin(self) -> None:
        client, server = self._client, self._server
        assert client is not None
        assert server is not None
        if client.is_open:
            self._server = None
            client.begin(Transport(server, self._settings.loop, client, self._buffer), ())

    def _closed(self, connection: Connection) -> None:
        super()._closed(connection)
        self.close()

    def close(self) -> None:
        """End everything."""
        super().close()
        self._connecting.cancel()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._over(self)


class Redirects:
    """All of one engine. They go on while the connections do, with or without an experiment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: set[Redirect] = set()
        self._loop: EventLoop | None = None
        self._beginning = 0
        self._begun: weakref.WeakSet[ActiveExperiment] = weakref.WeakSet()
        self._lock = fork_safe(self, "_lock", threading.Lock)
        renew_in_child(self, "forget")

    def forget(self) -> None:
        """In a forked process, where the thread is not."""
        self._open.clear()
        self._loop, self._beginning = None, 0

    def begin(self, asked: Asked) -> Redirect:
        """Have a client's connect led here. Raises OSError where that cannot be done now."""
        with self._lock:
            self._beginning += 1  # or the loop might be closed before it is known to be used
            loop = self._loop
            if loop is None:
                loop = self._loop = EventLoop("clients in C", self._engine.clock)
        try:
            redirect = loop.call(lambda: Redirect(asked, loop, self._engine, self._ended))
            self._open.add(redirect)
        finally:
            with self._lock:
                self._beginning -= 1
        return redirect

    def cancel(self, redirect: Redirect) -> None:
        """The client does not come."""
        self._in_loop(redirect.close)

    def later(self, effect: Effect, then: Callable[[], None]) -> None:
        """Call `then` when the experiments behind `effect` have ended."""
        loop = self._loop
        if loop is not None:
            self._in_loop(lambda: loop.call_at_or_after(math.inf, effect.left, then))

    def refresh(self) -> None:
        """The experiments have changed: those that have begun are outages for some."""
        begun = [each for each in self._engine.active if each not in self._begun]
        self._begun.update(begun)
        if self._open and begun:
            self._in_loop(lambda: self._strike(begun))

    def _strike(self, begun: Sequence[ActiveExperiment]) -> None:
        for redirect in list(self._open):
            redirect.await_begin(begun)

    def remove(self) -> None:
        """Nothing is intercepted any more. What is connected goes on."""
        self._close_if_unused()

    def _ended(self, redirect: Redirect) -> None:
        self._open.discard(redirect)
        if not self._engine.active:
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._open or self._beginning:
                return
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.close(lambda: None)

    def _in_loop(self, action: Callable[[], object]) -> None:
        if self._loop is not None:
            with contextlib.suppress(ShutdownError):
                self._loop.call(action)


def is_mapped(address: SocketAddress) -> bool:
    """Whether it is one of IPv4, written as one of IPv6."""
    return str(address.sockaddr[0]).startswith("::ffff:")


def loopback_family(server: SocketAddress) -> socket.AddressFamily:
    """Of an address on loopback, for a socket that was about to connect to `server`."""
    is_v6 = server.family == socket.AF_INET6 and not is_mapped(server)
    return socket.AF_INET6 if is_v6 else socket.AF_INET

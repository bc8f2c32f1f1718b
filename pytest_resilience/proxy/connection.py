"""One client's connection through the proxy.

The way of the bytes:

    client              the proxy, in the thread of its event loop                      server
    ------     ---------------------------------------------------------------          ------
             +----------+      +-------- link, upstream -----------+      +----------+
      ------>|          |----->| experiments -> toxic -> toxic ... |----->|          |------>
             | endpoint |      +-----------------------------------+      | endpoint |
             | (client) |      +-------- link, downstream ---------+      | (server) |
      <------|          |<-----| ... toxic <- toxic <- experiments |<-----|          |<------
             +----------+      +-----------------------------------+      +----------+

    listener -> acceptor -> connect: before all that, lets a client in and connects to the server
    endpoint: reads and writes a socket, never blocking
    link: one direction; holds the sender up where too much is held back
    stage: delays, slices, alters, or cuts off what is written to it
    decisions: asks the engine which experiment does what to a request or a response
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.proxy.connect import Connect
from pytest_resilience.proxy.decisions import Decisions
from pytest_resilience.proxy.endpoint import Endpoint
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.link import Link
from pytest_resilience.proxy.toxics.toxic import DOWNSTREAM
from pytest_resilience.proxy.toxics.toxic import UPSTREAM
from pytest_resilience.proxy.toxics.toxic import Toxic


__all__ = ["Connection", "ConnectionSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """What all connections of a proxy share.

    Attributes:
        loop: serves them.
        engine: decides what experiments do.
        names: every `host:port` the server is known by, the best first.
        seed: decides all chance.
        closed: called when one has ended.
    """

    loop: EventLoop
    engine: Engine
    names: tuple[str, ...]
    seed: int
    closed: Callable[[Any], None]


class Connection:
    """See the module. Lives in the proxy's event loop.

    Attributes:
        number: among all of its proxy, from 1.
        decisions: what experiments do to it.
        connecting: the connect to the server, while it is under way.
        is_open: whether it has not ended.
        client_done: whether the client sends no more: most likely it has given up.
    """

    _up: Link  # these two from `begin` on
    _down: Link

    def __init__(self, number: int, settings: ConnectionSettings) -> None:
        self.number = number
        self.decisions = Decisions(settings.engine, settings.names)
        self.connecting: Connect | None = None
        self.is_open = True
        self.client_done = False
        self._settings = settings
        self._endpoints: list[Endpoint] = []  # the client's first
        self._links: tuple[Link, ...] = ()

    @property
    def loop(self) -> EventLoop:
        return self._settings.loop

    @property
    def seed(self) -> int:
        return self._settings.seed

    def accept(self, client: Endpoint) -> None:
        """The client has connected; nothing is read from it before `begin`."""
        self._endpoints.append(client)

    def begin(self, server: Endpoint, toxics: Sequence[Toxic]) -> None:
        """The server is connected too."""
        self.connecting = None
        (client,) = self._endpoints
        self._endpoints.append(server)
        self._up = Link(self, UPSTREAM, client, server)
        self._down = Link(self, DOWNSTREAM, server, client)
        self._links = (self._up, self._down)
        self.set_toxics(toxics)

    def set_toxics(self, toxics: Sequence[Toxic]) -> None:
        """Let these toxics happen to it, and no others."""
        for link in self._links:
            if self.is_open:
                link.set_toxics(toxics)

    def data_received(self, endpoint: Endpoint, data: memoryview) -> None:
        link, _ = self._links_of(endpoint)
        if link is self._up:
            self.decisions.note_request(data)
        else:
            self.decisions.note_response()
        if not link.replaced:
            link.write(data)

    def message_passed(self, stream: str) -> None:
        """Bytes of a request or a response have passed the experiments."""
        if stream == DOWNSTREAM:
            self.decisions.answered = True
        else:  # the request is on its way
            self.strike_waiting()

    def strike_waiting(self) -> None:
        """A reset or a silence need not wait for the response that the client waits for."""
        asked = self._links and self.decisions.turn and not self.decisions.answered
        if asked and self.is_open and not self._down.replaced:
            self._down.experiments.begin()

    def fail(self, stream: str) -> None:
        """A request or a response is lost, and the connection with it."""
        if stream == UPSTREAM:
            self.reset()
        else:
            self._lose_client()

    def eof_received(self, endpoint: Endpoint) -> None:
        link, _ = self._links_of(endpoint)
        if link is self._up:
            self.client_done = True
            self._down.client_gone()
        link.write_eof()

    def connection_lost(self, endpoint: Endpoint) -> None:
        """The other endpoint learns it the same way, after what was on its way."""
        link, back = self._links_of(endpoint)
        if link.broken or not self.is_open:
            return
        if link.replaced:
            self.close()
            return
        # Bytes that were sent before the reset may still be held by a stage. They are delivered
        # first, and a RST in the place of the EOF that follows them: see `finished`.
        link.broken = True
        endpoint.reset()
        back.close_after_eof()
        if not link.ended:
            self.eof_received(endpoint)
        elif link.target.is_finished:
            link.target.when_arrived(self.reset)

    def drained(self, endpoint: Endpoint) -> None:
        _, back = self._links_of(endpoint)
        back.update_reading()

    def finished(self, endpoint: Endpoint) -> None:
        link, back = self._links_of(endpoint)
        if back.broken:
            endpoint.when_arrived(self.reset)
        elif back.closes or link.target.is_finished:
            self.close()
        else:
            endpoint.shutdown_write()  # half-closed: the other direction goes on

    def _links_of(self, endpoint: Endpoint) -> tuple[Link, Link]:
        """The link that comes from an endpoint, and the other one, which goes to it."""
        from_client = endpoint is self._endpoints[0]
        return (self._up, self._down) if from_client else (self._down, self._up)

    def _lose_client(self) -> None:
        """Reset the client's end, and let the server have what was sent."""
        if not self.is_open:
            return
        self._down.close_after_eof()
        self._down.stop()
        self._endpoints[0].reset()
        self._up.close_after_eof()
        if self._up.target.is_finished:  # the server has it, and knows that no more comes
            self.close()
        else:
            self._up.write_eof()

    def reset(self) -> None:
        """Close both endpoints with RST, whatever is still on its way."""
        for endpoint in self._end():
            endpoint.reset()

    def close(self) -> None:
        """Close both endpoints now."""
        for endpoint in self._end():
            endpoint.close()

    def close_in_child(self) -> None:
        """In a forked process: close its copies of the sockets."""
        for endpoint in self._endpoints:
            endpoint.sock.close()

    def _end(self) -> list[Endpoint]:
        if not self.is_open:
            return []
        self.is_open = False
        if self.connecting is not None:
            self.connecting.cancel()
        for link in self._links:
            link.stop()
        self._settings.closed(self)
        return self._endpoints

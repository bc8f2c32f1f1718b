"""One client's connection through the proxy.

The way of the bytes:

    client             the proxy, in the thread of its event loop                     server
    ------    ------------------------------------------------------------------    ------
            +-----------+      +------- direction upstream --------+      +-----------+
      ----->|           |----->| experiments -> toxic -> toxic ... |----->|           |----->
            | transport |      +-----------------------------------+      | transport |
            | (client)  |      +------ direction downstream -------+      | (server)  |
      <-----|           |<-----| ... toxic <- toxic <- experiments |<-----|           |<-----
            +-----------+      +-----------------------------------+      +-----------+

    listener -> forwarder -> connect: before all that, lets a client in and connects to the server
    transport: reads and writes a socket, never blocking
    direction: holds the sender up where too much is held back
    filter: delays, slices, alters, or cuts off what is written to it
    decisions: asks the engine which experiment does what to a request or a response
"""

from __future__ import annotations

import contextlib

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.types.schema import DOWNSTREAM
from pytest_resilience.chaos.types.schema import UPSTREAM
from pytest_resilience.proxy.decisions import Decisions
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.toxic_effects import ToxicFilter
from pytest_resilience.proxy.toxic_effects import make_filter
from pytest_resilience.proxy.toxic_types import REFUSE
from pytest_resilience.proxy.toxic_types import Toxic
from pytest_resilience.proxy.traffic_filter import ConnectionContext
from pytest_resilience.proxy.traffic_filter import ExperimentFilter
from pytest_resilience.proxy.traffic_filter import Sink
from pytest_resilience.proxy.transport import Connect
from pytest_resilience.proxy.transport import Transport
from pytest_resilience.seeds import Stream


__all__ = ["Connection", "ConnectionSettings", "Direction", "is_hit"]

_MOST_HELD = 4 * 2**20  # bytes that filters hold back before the sender is held up
_MOST_UNSENT = 2**18  # bytes that wait for a slow reader before the sender is held up


def is_hit(toxic: Toxic, seed: int, connection: int) -> bool:
    """Decide, by its toxicity, if a toxic happens to the connection of a number."""
    # A draw of its own for each: neither another toxic nor another connection moves it.
    return Stream.at(seed, "toxicity", toxic.name, connection).draw(0) < toxic.toxicity


class Direction:
    """From one transport, through filters, to the other.

    Each filter, one of the experiments and one of each toxic, passes on to the next what is due:

        source --write--> ExperimentFilter --write--> ToxicFilter --write--> ... --write--> target

    While no experiment runs and there is no toxic, the source's bytes go to the target as they are.

    Attributes:
        stream: "upstream" or "downstream".
        source, target: its transports.
        experiments: the first filter.
        ended: whether the source sends no more.
        closes: whether the EOF that is on its way closes the whole connection.
        broken: whether the source was reset, for real or by an experiment.
        replaced: whether the source is ignored: a response has been injected in its place.
    """

    def __init__(
        self, connection: ConnectionContext, stream: str, source: Transport, target: Transport
    ) -> None:
        self.source = source
        self.target = target
        self.ended = False
        self.closes = False
        self.broken = False
        self.replaced = False
        self.connection = connection
        self.stream = stream
        self._toxics: dict[str, tuple[Toxic, ToxicFilter]] = {}
        self.experiments = ExperimentFilter(self, target)

    def close_after_eof(self) -> None:
        self.closes = True
        self.source.pause_reading()

    def reset_after_eof(self) -> None:
        self.broken = True
        self.close_after_eof()

    def replace_source(self) -> None:
        self.ended = self.replaced = True
        self.source.resume_reading()  # its data is ignored, but not that it goes away

    def write(self, data: memoryview) -> None:
        """Bytes from the source; the view is good for this call only."""
        if not self.experiments.is_open:
            self.experiments.begin()
            self.experiments.write(bytes(data))
        else:
            self.connection.message_passed(self.stream)
            if self._toxics:
                self.experiments.following.write(bytes(data))
            else:
                # What all traffic takes most of the time: no copy, and no call that can be saved.
                self.target.write(data)
                if not self.target.unsent:
                    return
        self.update_reading()

    def write_eof(self) -> None:
        """The source sends no more."""
        self.ended = True
        (self.experiments.following if self.experiments.is_open else self.experiments).write_eof()

    def update_reading(self) -> None:
        """Read on if there is room for more, else hold the sender up."""
        if self.closes or self.ended:
            return
        held = self.experiments.held + sum(each.held for _, each in self._toxics.values())
        if held < _MOST_HELD and self.target.unsent < _MOST_UNSENT:
            self.source.resume_reading()
        else:
            self.source.pause_reading()

    def set_toxics(self, toxics: Sequence[Toxic]) -> None:
        """Have a filter for each toxic that happens to this direction here, and no other."""
        if self.closes:
            return
        seed, number = self.connection.seed, self.connection.number
        # A refusal happens to a connect: see the TCP forwarder.
        here = (each for each in toxics if each.stream == self.stream and each.type != REFUSE)
        mine = [each for each in here if is_hit(each, seed, number)]
        names = {toxic.name for toxic in mine}
        for name in [name for name in self._toxics if name not in names]:
            self._toxics[name][1].remove()  # what follows is still there to take what it holds
            del self._toxics[name]
        if not self.connection.is_open:
            return  # one of them left nothing that could go on
        new = [self._filter_of(toxic) for toxic in mine]
        self._join()
        for each in filter(None, new):
            each.start()
        self.update_reading()

    def _filter_of(self, toxic: Toxic) -> ToxicFilter | None:
        """A new filter for a toxic that has none yet; None after changing the one that it has."""
        known, found = self._toxics.get(toxic.name, (None, None))
        if found is None:
            chance = Stream.at(self.connection.seed, "toxic", toxic.name, self.connection.number)
            found = make_filter(toxic.type, self, toxic.attributes, chance.random(), self.target)
            self._toxics[toxic.name] = (toxic, found)
            return found
        if known != toxic:
            self._toxics[toxic.name] = (toxic, found)
            found.change(toxic.attributes)
        return None

    def _join(self) -> None:
        """Let each filter pass on to the next."""
        following: Sink = self.target
        for _, each in reversed(self._toxics.values()):
            each.following = following
            following = each
        self.experiments.following = following

    def client_gone(self) -> None:
        """The client sends no more."""
        for _, each in list(self._toxics.values()):
            each.client_gone()

    def stop(self) -> None:
        """Forget what was to happen."""
        self.experiments.stop()
        for _, each in self._toxics.values():
            each.stop()


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

    _up: Direction  # these two from `begin` on
    _down: Direction

    def __init__(self, number: int, settings: ConnectionSettings) -> None:
        self.number = number
        self.decisions = Decisions(settings.engine, settings.names)
        self.connecting: Connect | None = None
        self.is_open = True
        self.client_done = False
        self._settings = settings
        self._transports: list[Transport] = []  # the client's first
        self._directions: tuple[Direction, ...] = ()

    @property
    def loop(self) -> EventLoop:
        return self._settings.loop

    @property
    def seed(self) -> int:
        return self._settings.seed

    def accept(self, client: Transport) -> None:
        """The client has connected; nothing is read from it before `begin`."""
        self._transports.append(client)

    def begin(self, server: Transport, toxics: Sequence[Toxic]) -> None:
        """The server is connected too."""
        self.connecting = None
        (client,) = self._transports
        self._transports.append(server)
        self._up = Direction(self, UPSTREAM, client, server)
        self._down = Direction(self, DOWNSTREAM, server, client)
        self._directions = (self._up, self._down)
        self.set_toxics(toxics)

    def set_toxics(self, toxics: Sequence[Toxic]) -> None:
        """Let these toxics happen to it, and no others."""
        for direction in self._directions:
            if self.is_open:
                direction.set_toxics(toxics)

    def data_received(self, transport: Transport, data: memoryview) -> None:
        direction, _ = self._directions_of(transport)
        if direction is self._up:
            self.decisions.note_request(data)
        else:
            self.decisions.note_response(data)
        if not direction.replaced:
            direction.write(data)

    def message_passed(self, stream: str) -> None:
        """Bytes of a request or a response have passed the experiments."""
        if stream == DOWNSTREAM:
            self.decisions.answered = True
        else:  # the request is on its way
            self.strike_waiting()

    def strike_waiting(self, *, awaited: bool = False) -> None:
        """A reset or a silence need not wait for the response that the client waits for.

        `awaited`: it is known to wait, though it has asked for nothing more.
        """
        waits = self._directions and (awaited or self.decisions.awaits_response)
        if waits and self.is_open and not self._down.replaced:
            self._down.experiments.begin()

    @property
    def client(self) -> Any:
        """The address of its client; None where that has gone again."""
        with contextlib.suppress(OSError):
            return self._transports[0].sock.getpeername()
        return None

    def fail(self, stream: str) -> None:
        """A request or a response is lost, and the connection with it."""
        if stream == UPSTREAM:
            self.reset()
        else:
            self._lose_client()

    def eof_received(self, transport: Transport) -> None:
        direction, _ = self._directions_of(transport)
        if direction is self._up:
            self.client_done = True
            self._down.client_gone()
        direction.write_eof()

    def connection_lost(self, transport: Transport) -> None:
        """The other transport learns it the same way, after what was on its way."""
        direction, back = self._directions_of(transport)
        if direction.broken or not self.is_open:
            return
        if direction.replaced:
            self.close()
            return
        # Bytes that were sent before the reset may still be held by a filter. They are delivered
        # first, and a RST in the place of the EOF that follows them: see `finished`.
        direction.broken = True
        transport.reset()
        back.close_after_eof()
        if not direction.ended:
            self.eof_received(transport)
        elif direction.target.is_finished:
            direction.target.when_arrived(self.reset)

    def drained(self, transport: Transport) -> None:
        _, back = self._directions_of(transport)
        back.update_reading()

    def finished(self, transport: Transport) -> None:
        direction, back = self._directions_of(transport)
        if back.broken:
            transport.when_arrived(self.reset)
        elif back.closes or direction.target.is_finished:
            self.close()
        else:
            transport.shutdown_write()  # half-closed: the other direction goes on

    def _directions_of(self, transport: Transport) -> tuple[Direction, Direction]:
        """The direction that comes from a transport, and the other one, which goes to it."""
        from_client = transport is self._transports[0]
        return (self._up, self._down) if from_client else (self._down, self._up)

    def _lose_client(self) -> None:
        """Reset the client's end, and let the server have what was sent."""
        if not self.is_open:
            return
        self._down.close_after_eof()
        self._down.stop()
        self._transports[0].reset()
        self._up.close_after_eof()
        if self._up.target.is_finished:  # the server has it, and knows that no more comes
            self.close()
        else:
            self._up.write_eof()

    def reset(self) -> None:
        """Close both transports with RST, whatever is still on its way."""
        for transport in self._end():
            transport.reset()

    def close(self) -> None:
        """Close both transports now."""
        for transport in self._end():
            transport.close()

    def close_in_child(self) -> None:
        """In a forked process: close its copies of the sockets."""
        for transport in self._transports:
            transport.sock.close()

    def _end(self) -> list[Transport]:
        if not self.is_open:
            return []
        self.is_open = False
        if self.connecting is not None:
            self.connecting.cancel()
        for direction in self._directions:
            direction.stop()
        self._settings.closed(self)
        return self._transports

"""One proxied connection: two sides, and between them two directions with their toxics."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.proxy.decisions import Gate
from pytest_resilience.proxy.endpoint import Side
from pytest_resilience.proxy.event_loop import Loop
from pytest_resilience.proxy.link import Flow
from pytest_resilience.proxy.toxics.toxic import DOWNSTREAM
from pytest_resilience.proxy.toxics.toxic import UPSTREAM
from pytest_resilience.proxy.toxics.toxic import Toxic


__all__ = ["Attempt", "Connection", "Setting"]


class Attempt(Protocol):
    """A connect to the server that is under way."""

    def cancel(self) -> None:
        """Give it up; harmless when it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all connections of a proxy share.

    Attributes:
        loop: who serves them.
        engine: who is asked about experiments.
        names: every `host:port` the server is known by, the best first.
        seed: decides all chance.
        closed: told when one has ended.
    """

    loop: Loop
    engine: Engine
    names: tuple[str, ...]
    seed: int
    closed: Callable[[Connection], None]


class Connection:
    """A client's connection through a proxy. Lives in the proxy's loop.

    Attributes:
        number: among all of its proxy, from 1.
        answer: the number of the server's answer that flows now, or is awaited, from 1.
        answered: whether any of that answer has passed: what the client sends next is a
            new request.
        gate: asks about experiments.
        attempt: the connect to the server, while it is under way.
        is_open: whether it has not ended.
        deserted: whether the client sends no more: most likely it has given up.
    """

    def __init__(self, number: int, setting: Setting) -> None:
        self.number = number
        self.answer = 0
        self.answered = False
        self.gate = Gate(setting.engine, setting.loop, setting.names)
        self.attempt: Attempt | None = None
        self.is_open = True
        self.deserted = False
        self._setting = setting
        self._lost = False
        self._spoken_for = False  # whether the server is not heard any more
        self._client: Side | None = None
        self._up = Flow(self, setting.loop, UPSTREAM, setting.seed)
        self._down = Flow(self, setting.loop, DOWNSTREAM, setting.seed)

    def greet(self, client: Side) -> None:
        """The client has connected; nothing is read from it before `begin`."""
        self._client = self._up.source = self._down.target = client

    def begin(self, server: Side, toxics: Sequence[Toxic]) -> None:
        """The server is connected too."""
        self.attempt = None
        self._up.target = self._down.source = server
        self.arrange(toxics)

    def arrange(self, toxics: Sequence[Toxic]) -> None:
        """Let these toxics happen to it, and no others."""
        for flow in (self._up, self._down):
            if self.is_open and flow.target is not None and flow.source is not None:
                flow.arrange(toxics)

    def arrived(self, side: Side, data: memoryview) -> None:
        """Bytes have come from one side."""
        if side is self._client:
            self._request(data)
        else:
            self._answer(data)

    def _request(self, data: memoryview) -> None:
        new = self.answered or not self.answer or self.gate.informational
        if new:
            self.answer += 1
            self.answered = False
        if new or self.gate.unasked:
            self.gate.look(data)
        if self._up.open:
            self._up.take(data)
            return
        self._up.meet(self.answer)
        self._up.lane.take(bytes(data))
        self._up.flowed()

    def _answer(self, data: memoryview) -> None:
        if self._spoken_for:
            return
        if not self.answer:
            self.answer = 1  # the server speaks first
        if self._down.open:
            self.answered = True
            self._down.take(data)
            return
        self._down.meet(self.answer)  # if experiments have begun since the request
        self._down.lane.take(bytes(data))
        self._down.flowed()

    def passed(self, stream: str) -> None:
        """Bytes of a message have been passed on."""
        if stream == DOWNSTREAM:
            self.answered = True
        elif not self.answered and not self._spoken_for:
            self._down.meet(self.answer)

    def fail(self, stream: str, fault: Fault) -> None:
        """A request or an answer fails."""
        if stream == UPSTREAM:
            self.reset()
        elif isinstance(fault, InjectedResponse):
            self._spoken_for = True
            self._down.say(fault.replacement)
        else:
            self.lose(reset=True)

    def ended(self, side: Side) -> None:
        """One side sends no more."""
        flow, _ = self._from(side)
        if side is self._client:
            self.deserted = True
            self._down.desert()
        flow.finish()

    def broken(self, side: Side) -> None:
        """One side is gone: the other learns it the same way, after what was on its way."""
        flow, back = self._from(side)
        if flow.broken or not self.is_open:
            return
        if self._spoken_for and side is not self._client:
            self.close()
            return
        flow.broken = True
        side.reset()
        back.end()
        if not flow.ended:
            self.ended(side)
        elif flow.target is not None and flow.target.is_finished:
            self.reset()

    def drained(self, side: Side) -> None:
        """There is room again on one side."""
        _, flow = self._from(side)
        flow.flowed()

    def finished(self, side: Side) -> None:
        """One side has been given everything."""
        other, flow = self._from(side)
        if flow.broken:
            self.reset()
        elif flow.ending or (other.target is not None and other.target.is_finished):
            self.close()
        else:
            side.shut()

    def _from(self, side: Side) -> tuple[Flow, Flow]:
        """The direction that comes from a side, and the other one, which goes to it."""
        return (self._up, self._down) if side is self._client else (self._down, self._up)

    def lose(self, *, reset: bool) -> None:
        """Drop the client, with or without RST, and let the server have what was sent."""
        if self._lost or not self.is_open or self._client is None:
            return
        self._lost = True
        self._down.end()
        self._down.stop()
        if reset:
            self._client.reset()
        else:
            self._client.close()
        self._up.end()
        self._up.finish()

    def reset(self) -> None:
        """Tear both sides down with RST, whatever is still under way."""
        for side in self._end():
            side.reset()

    def close(self) -> None:
        """Close both sides now."""
        for side in self._end():
            side.close()

    def abandon(self) -> None:
        """In a forked process: close its copies of the sockets."""
        for side in (self._client, self._up.target):
            if side is not None:
                side.sock.close()

    def _end(self) -> list[Side]:
        if not self.is_open:
            return []
        self.is_open = False
        if self.attempt is not None:
            self.attempt.cancel()
        for flow in (self._up, self._down):
            flow.stop()
        self._setting.closed(self)
        return [side for side in (self._client, self._up.target) if side is not None]

"""One direction of a connection: from one side, past experiments and toxics, to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.proxy.decisions import Gate
from pytest_resilience.proxy.endpoint import Side
from pytest_resilience.proxy.event_loop import Loop
from pytest_resilience.proxy.message_queue import Lane
from pytest_resilience.proxy.message_queue import Way
from pytest_resilience.proxy.toxics.effects import make_stage
from pytest_resilience.proxy.toxics.stages import Sink
from pytest_resilience.proxy.toxics.stages import Stage
from pytest_resilience.proxy.toxics.toxic import DOWNSTREAM
from pytest_resilience.proxy.toxics.toxic import UPSTREAM
from pytest_resilience.proxy.toxics.toxic import Toxic
from pytest_resilience.seeds import Stream


__all__ = ["Flow", "Whole"]

_MOST_HELD = 4 * 2**20  # bytes that toxics hold back before the sender is held up
_MOST_BACKLOG = 2**18  # bytes that wait for a slow reader before the sender is
_WAYS = {UPSTREAM: Way(SEND, END), DOWNSTREAM: Way(RECEIVE, CLOSE)}


class Whole(Protocol):
    """The connection, as its directions see it."""

    number: int
    answer: int
    answered: bool
    gate: Gate
    is_open: bool
    deserted: bool

    def reset(self) -> None:
        """Tear both sides down with RST."""

    def close(self) -> None:
        """Close both sides now."""

    def lose(self, *, reset: bool) -> None:
        """Drop the client, and let the server have what was sent."""

    def passed(self, stream: str) -> None:
        """Bytes of a message have been passed on."""

    def fail(self, stream: str, fault: Fault) -> None:
        """A message fails."""


class Flow:
    """See the module. It is what surrounds its stages and its lane, too.

    Attributes:
        loop: who serves it.
        lane: experiments at work.
        source, target: its sides, once they are connected.
        first: what data from the source goes into.
        ended: whether the source sends no more.
        ending: whether the end that is on its way closes the whole connection.
        broken: whether the source was reset.
    """

    def __init__(self, whole: Whole, loop: Loop, stream: str, seed: int) -> None:
        self.loop = loop
        self.lane = Lane(_WAYS[stream], self, loop)
        self.source: Side | None = None
        self.target: Side | None = None
        self.first: Sink | None = None
        self.ended = False
        self.ending = False
        self.broken = False
        self._whole = whole
        self._stream = stream
        self._seed = seed
        self._asked: tuple[int, tuple[ActiveExperiment, ...]] = (0, ())
        self._stages: dict[str, tuple[Toxic, Stage]] = {}

    @property
    def answer(self) -> int:
        return self._whole.answer

    @property
    def deserted(self) -> bool:
        return self._whole.deserted

    def reset(self) -> None:
        self._whole.reset()

    def close(self) -> None:
        self._whole.close()

    def lose(self, *, reset: bool) -> None:
        self._whole.lose(reset=reset)

    def end(self) -> None:
        self.ending = True
        if self.source is not None:
            self.source.read(wanted=False)

    @property
    def open(self) -> bool:
        """Whether no experiment can have to do with what comes next."""
        return self._whole.gate.quiet and self.lane.idle

    def meet(self, turn: int) -> None:
        """The message of a turn comes, or more of it: ask about each once.

        Once more where one has begun since that may be about it: not all that is sent is
        answered, and there are answers that go on for ever.
        """
        gate, (known, asked) = self._whole.gate, self._asked
        if gate.active and (turn, gate.active) != self._asked:
            self._asked = (turn, gate.active)
            if turn != known or gate.news(asked):
                self.lane.begin()

    def ask(self, kind: str, *, mid_message: bool = False) -> Effect | None:
        return self._whole.gate.ask(kind, mid_message=mid_message, begun=self._whole.answered)

    def concerns(self, kind: str, *, mid_message: bool = False) -> bool:
        return self._whole.gate.concerns(kind, mid_message=mid_message)

    def passed(self) -> None:
        self._whole.passed(self._stream)

    def fail(self, fault: Fault) -> None:
        self._whole.fail(self._stream, fault)

    def cut(self) -> None:
        self.end()
        if self.first is not None:
            self.first.finish()

    def say(self, message: bytes) -> None:
        """Pass this on in the source's place, whatever it says from now on."""
        self.lane.stop()
        self.ended = True
        if self.first is not None and self.source is not None:
            self.source.read(wanted=True)
            self.first.take(message)
            self.first.finish()

    def take(self, data: memoryview) -> None:
        """Bytes from the source, while it is `open`."""
        if self.target is None or self.first is None:
            return
        if self._stages:
            self.first.take(bytes(data))
        else:
            self.target.take(data)
        if self._stages or self.target.backlog:
            self.flowed()

    def finish(self) -> None:
        """The source sends no more."""
        self.ended = True
        if not self.open:
            self.lane.finish()
        elif self.first is not None:
            self.first.finish()

    def flowed(self) -> None:
        """Read on if there is room for more, else hold the sender up."""
        if self.source is None or self.target is None or self.ending or self.ended:
            return
        held = self.lane.held + sum(stage.held for _, stage in self._stages.values())
        self.source.read(wanted=held < _MOST_HELD and self.target.backlog < _MOST_BACKLOG)

    def arrange(self, toxics: Sequence[Toxic]) -> None:
        """Have a stage for each toxic that happens to this direction here, and no other."""
        if self.ending:
            return
        mine = [each for each in toxics if each.stream == self._stream and self._hit(each)]
        wanted = {toxic.name: toxic for toxic in mine}
        for name in [name for name in self._stages if name not in wanted]:
            self._stages[name][1].leave()  # what follows is still there to take what it holds
            del self._stages[name]
        if not self._whole.is_open:
            return  # one of them left nothing that could go on
        new = [self._place(toxic) for toxic in mine]
        self._link()
        for stage in filter(None, new):
            stage.start()
        self.flowed()

    def _hit(self, toxic: Toxic) -> bool:
        # A draw of its own for each: neither another toxic nor another connection moves it.
        drawn = Stream.at(self._seed, "toxicity", toxic.name, self._whole.number).draw(0)
        return drawn < toxic.toxicity

    def _place(self, toxic: Toxic) -> Stage | None:
        """The stage of a toxic that has none yet; one that is there is told what is new."""
        known = self._stages.get(toxic.name)
        if known is None:
            chance = Stream.at(self._seed, "toxic", toxic.name, self._whole.number).random()
            assert self.target is not None
            stage = make_stage(toxic.type, self, toxic.attributes, chance, self.target)
            self._stages[toxic.name] = (toxic, stage)
            return stage
        if known[0] != toxic:
            self._stages[toxic.name] = (toxic, known[1])
            known[1].change(toxic.attributes)
        return None

    def _link(self) -> None:
        following: Sink | None = self.target
        for _, stage in reversed(self._stages.values()):
            assert following is not None
            stage.following = following
            following = stage
        self.first = self.lane.following = following

    def desert(self) -> None:
        """The client sends no more."""
        for _, stage in list(self._stages.values()):
            stage.desert()

    def stop(self) -> None:
        """Forget what was to happen."""
        self.lane.stop()
        for _, stage in self._stages.values():
            stage.stop()

"""Experiments at work on one connection: what happens to its opening and to its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults import Latency
from pytest_resilience.chaos.faults import Refusal
from pytest_resilience.chaos.faults import Reset
from pytest_resilience.chaos.faults import Silence
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.loop import Loop
from pytest_resilience.proxy.stages import Sink


__all__ = ["Gate", "Turn", "approve"]

_DOABLE = (Latency, Silence, Refusal, Reset)


def approve(experiment: ChaosExperiment) -> None:
    """Raise ConfigurationError for what cannot be done to bytes that pass by."""
    for fault in experiment.faults:
        if not isinstance(fault, _DOABLE):
            raise ConfigurationError(
                f"experiment {experiment.name!r}: {fault} cannot happen in a proxy, which sees "
                "connections and bytes; it can do network_latency, and network_failure with "
                "mode 'refuse', 'reset' or 'timeout'"
            )


class Turn(Protocol):
    """A connection, as its gate sees it.

    Attributes:
        answer: the number of the answer that is awaited or flows, from 1.
        answered: whether any of it has passed.
    """

    answer: int
    answered: bool

    def lose(self, *, reset: bool) -> None:
        """Drop the client, and let the server have what was sent."""

    def flowed(self) -> None:
        """Something that was held has been passed on."""


class Gate:
    """Asks an engine about one connection, and holds its answers back.

    Attributes:
        held: bytes of an answer that wait.
    """

    def __init__(self, engine: Engine, loop: Loop, names: tuple[str, ...], turn: Turn) -> None:
        """`names`: every `host:port` the server is known by, the best first."""
        self.held = 0
        self.following: Sink | None = None
        self._engine = engine
        self._loop = loop
        self._names = names
        self._turn = turn
        self._queue: list[bytes] = []  # no bytes: the end
        self._holding = False
        self._asked = 0  # for which answer
        self._effect: Effect | None = None

    @property
    def idle(self) -> bool:
        """Whether everything may pass without being shown to it."""
        return not (self._engine.active or self._holding or self._effect)

    def opening(self, dial: Callable[[], None], refuse: Callable[[], None]) -> None:
        """A client has connected: `dial` the server when it may be, or `refuse`."""
        effect = self._ask(CONNECT)
        if effect is None:
            dial()
            return
        then = dial if effect.failure is None else refuse
        self._wait(effect, effect.delay, then)

    def requested(self) -> None:
        """The first bytes of a request have been passed on to the server."""
        self._effect, self._asked = self._ask(RECEIVE), self._turn.answer
        effect = self._effect
        if effect is not None and effect.failure is not None:
            self._wait(effect, effect.delay, lambda: self._fail(effect))

    def take(self, data: bytes) -> None:
        """Bytes from the server."""
        # It speaks first, or the experiments have begun since the request.
        if not self._turn.answered and self._asked != self._turn.answer:
            self._effect, self._asked = self._ask(RECEIVE), self._turn.answer
        self._meet(data)

    def finish(self) -> None:
        """The server sends no more."""
        self._meet(b"")

    def _meet(self, data: bytes) -> None:
        effect = self._effect
        if self._holding:
            self._keep(data)
        elif effect is None:
            self._pass(data)
        else:
            self._holding = True
            self._keep(data)
            then = self._open if effect.failure is None else lambda: self._fail(effect)
            self._wait(effect, effect.delay, then)

    def _keep(self, data: bytes) -> None:
        self._queue.append(data)
        self.held += len(data)

    def _pass(self, data: bytes) -> None:
        self._effect = None
        if self.following is None:
            return
        if data:
            self._turn.answered = True
            self.following.take(data)
        else:
            self.following.finish()

    def _open(self) -> None:
        """The answer may go now, with all that has come since."""
        queue, self._queue = self._queue, []
        self._holding, self.held = False, 0
        for data in queue:
            self._pass(data)
        self._turn.flowed()

    def _fail(self, effect: Effect) -> None:
        if effect.left() > 0:
            self._turn.lose(reset=True)
        elif self._holding:
            self._open()

    def _ask(self, kind: str) -> Effect | None:
        if not self._engine.active:
            return None
        target = self._names[0]
        return self._engine.ask(Operation(kind=kind, target=target, names=self._names))

    def _wait(self, effect: Effect, delay: float, then: Callable[[], None]) -> None:
        """Do `then` after a delay, or as soon as the experiments behind it have ended."""
        started = self._loop.clock.monotonic()

        def over() -> None:
            if delay:
                effect.waited(self._loop.clock.monotonic() - started)
            then()

        self._loop.hold(started + delay, effect.left, over)

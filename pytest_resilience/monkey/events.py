"""The events of a chaos monkey, and the journal that keeps them."""

from __future__ import annotations

import logging

from collections import deque
from dataclasses import dataclass
from typing import Literal

from pytest_resilience.clock import Clock
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.monkey.steady_state import Reading
from pytest_resilience.monkey.steady_state import Verdict


__all__ = [
    "ExperimentEnded",
    "ExperimentFailed",
    "ExperimentHeldBack",
    "ExperimentStarted",
    "Journal",
    "MonkeyStarted",
    "MonkeyStopped",
    "SteadyStateRead",
]

_MOST_EVENTS = 10_000  # that are kept; the oldest go first
_logger = logging.getLogger("pytest_resilience.monkey")


@dataclass(frozen=True, slots=True, kw_only=True)
class MonkeyStarted(Event):
    """A monkey has begun; `source` is its name.

    Attributes:
        interval: seconds between its ticks.
        seed: what repeats all its decisions.
    """

    interval: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MonkeyStopped(Event):
    """A monkey has ended and everything it began is undone.

    Attributes:
        verdict: what this period of chaos has shown.
        reason: why it ended, in words.
    """

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentStarted(Event):
    """An experiment runs; `source` is its name.

    Attributes:
        what: the experiment in words.
        seed: the seed it was given.
        ends_at: monotonic seconds by when it will have ended.
    """

    what: str
    seed: int
    ends_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentEnded(Event):
    """An experiment is undone.

    Attributes:
        lasted: seconds.
        reason: why it ended, in words.
    """

    lasted: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentHeldBack(Event):
    """An experiment's turn had come, and there was no room for it.

    Attributes:
        most: how many may run at once.
    """

    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentFailed(Event):
    """An experiment could not be started or undone, or the monkey itself went wrong.

    Attributes:
        doing: what failed.
        error: the exception in words.
    """

    doing: Literal["start", "stop", "decide"]
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyStateRead(Event):
    """The probes were asked; `source` is the monkey's name.

    Attributes:
        phase: when.
        readings: what each of them said.
    """

    phase: Literal["before", "during", "after"]
    readings: tuple[Reading, ...]

    @property
    def met(self) -> bool:
        """Whether all of it is tolerated."""
        return all(reading.met for reading in self.readings)


class Journal:
    """Keeps what happens to a monkey, and tells who listens.

    Attributes:
        name: the monkey's, for logs and as `source` of events about itself.
        clock: on which its times are measured.
        listeners: told of every event.
        events: the latest 10 000, the oldest first.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.listeners = Listeners()
        self.events: deque[Event] = deque(maxlen=_MOST_EVENTS)

    def record(self, event: Event) -> None:
        """Keep an event, log it and tell of it."""
        self.events.append(event)
        _logger.info("%s", event)
        self.listeners.emit(event)

"""Experiments in this process, with or without pytest: an engine and every seam there is."""

from __future__ import annotations

import functools

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_resilience.chaos.active_experiment import Activation
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import Seam
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.types.schema import Recipe
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.interceptors.databases.interceptor import DatabaseSeam
from pytest_resilience.interceptors.files.interceptor import DiskSeam
from pytest_resilience.interceptors.http_mocks.interceptor import MockedSeam
from pytest_resilience.interceptors.services import ServiceSeam
from pytest_resilience.interceptors.simulators import PointSeam
from pytest_resilience.interceptors.sockets.interceptor import SocketSeam
from pytest_resilience.monkey.active_experiments import Starter
from pytest_resilience.monkey.monkey import Monkey
from pytest_resilience.stress.caps import DEFAULT_CAPS
from pytest_resilience.stress.caps import Caps
from pytest_resilience.stress.interceptor import StressSeam


__all__ = [
    "DEFAULT_CAPS",
    "Caps",
    "ChaosMonkey",
    "Hazard",
    "Hazards",
    "NewChaosType",
    "new_engine",
    "of_this_process",
]


@dataclass(frozen=True, slots=True)
class NewChaosType:
    """A chaos type that somebody else has made.

    Attributes:
        name: as it is written in markers, flags and profiles.
        recipe: what it can be told, and which faults that makes.
        seam: makes, for an engine, what lets those faults happen.
    """

    name: str
    recipe: Recipe
    seam: Callable[[Engine], Seam]


def new_engine(
    *,
    services: Services | None = None,
    caps: Caps = DEFAULT_CAPS,
    others: Iterable[NewChaosType] = (),
    clock: Clock = SYSTEM_CLOCK,
    folder: str = "",
) -> Engine:
    """An engine with every seam there is; `caps` says how much pressure is allowed.

    Places in files below `folder` are told without it.
    """

    def seams(engine: Engine) -> list[Seam]:
        return [*_seams(engine), *(each.seam(engine) for each in others)]

    return Engine(seams, services=services, approve=caps.approve, clock=clock, folder=folder)


def _seams(engine: Engine) -> list[Seam]:
    return [
        SocketSeam(engine), MockedSeam(engine), ServiceSeam(engine), DatabaseSeam(engine),
        DiskSeam(engine), PointSeam(engine), StressSeam(engine),
    ]  # fmt: skip


class Hazard:
    """An experiment that runs in this process.

    Attributes:
        activation: its counts.
    """

    def __init__(self, engine: Engine, activation: Activation) -> None:
        self._engine = engine
        self.activation = activation

    def stop(self) -> None:
        """End it; harmless when it has ended."""
        self._engine.stop(self.activation)


class Hazards:
    """Starts experiments in this process.

    Attributes:
        engine: which decides; its listeners are told of every fault.
    """

    def __init__(
        self,
        *,
        services: Services | None = None,
        caps: Caps = DEFAULT_CAPS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.engine = new_engine(services=services, caps=caps, clock=clock)
        self.engine.rehearse()

    def start(self, experiment: ChaosExperiment, *, seed: int) -> Hazard:
        """Start an experiment for certain; its `probability` is for those who draw."""
        activation = self.engine.start(experiment, seed=seed, must_fire=False)
        return Hazard(self.engine, activation)


@functools.cache
def of_this_process() -> Hazards:
    """The same for all who ask: two engines over one socket would undo each other's work."""
    return Hazards()


class ChaosMonkey(Monkey):
    """A monkey whose experiments happen in this process, unless told otherwise.

    Example:
        >>> monkey = ChaosMonkey(seed=7, max_active=2)
        >>> monkey.register_experiment(ChaosExperiment("slow", "network_latency", 0.3, 30.0))
        >>> with monkey:
        ...     monkey.running
        True
    """

    def default_start(self) -> Starter:
        return of_this_process().start

    def default_approve(self) -> Callable[[ChaosExperiment], object]:
        return DEFAULT_CAPS.approve  # services may still become known

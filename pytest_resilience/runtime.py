"""Experiments in this process, with or without pytest: an engine and every interceptor there is."""

from __future__ import annotations

import functools
import os

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import Interceptor
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.interceptors.crash_recorder import CrashRecording
from pytest_resilience.interceptors.crash_recorder import awaiting_crashes
from pytest_resilience.interceptors.crash_recorder import recording_crashes
from pytest_resilience.interceptors.databases.interceptor import DatabaseInterceptor
from pytest_resilience.interceptors.files.interceptor import FileInterceptor
from pytest_resilience.interceptors.http_mocks.interceptor import HttpMockInterceptor
from pytest_resilience.interceptors.services import ServiceInterceptor
from pytest_resilience.interceptors.services import SimulatorInterceptor
from pytest_resilience.interceptors.trio import CancelScopeInterceptor
from pytest_resilience.monkey.monkey import Monkey
from pytest_resilience.monkey.session import Starter
from pytest_resilience.native.interceptor import network_interceptors
from pytest_resilience.stress.interceptor import StressInterceptor
from pytest_resilience.stress.stressors import DEFAULT_CAPS
from pytest_resilience.stress.stressors import Caps


if TYPE_CHECKING:
    from pytest_resilience.interceptors.children.interceptor import ChildProcesses


__all__ = [
    "DEFAULT_CAPS",
    "Caps",
    "ChaosMonkey",
    "CrashRecording",
    "DatabaseInterceptor",
    "NewChaosType",
    "Runtime",
    "awaiting_crashes",
    "child_processes",
    "default_runtime",
    "new_engine",
    "recording_crashes",
    "watched_databases",
]


@dataclass(frozen=True, slots=True)
class NewChaosType:
    """A chaos type that a plugin adds.

    Attributes:
        name: as it is written in markers, flags and profiles.
        schema: its parameters, and the faults that they make.
        interceptor: makes the interceptor of those faults for an engine.
    """

    name: str
    schema: TypeSchema
    interceptor: Callable[[Engine], Interceptor]


def new_engine(
    *,
    services: Services | None = None,
    caps: Caps = DEFAULT_CAPS,
    others: Iterable[NewChaosType] = (),
    children: ChildProcesses | None = None,
    clock: Clock = MACHINE_CLOCK,
    folder: str = "",
    native: bool = True,
    databases: DatabaseInterceptor | None = None,
) -> Engine:
    """An engine with every interceptor there is; `caps` says how much pressure is allowed.

    `children`: what is to reach those of this process. Places in files below `folder` are told
    without it. `native`: reach clients in C as well. `databases`: of `watched_databases`.
    """

    def interceptors(engine: Engine) -> list[Interceptor]:
        found = _interceptors(engine, native, databases)
        found += [each.interceptor(engine) for each in others]
        # Last: what begins in children has begun here.
        return found if children is None else [*found, children.of(engine)]

    return Engine(interceptors, services=services, approve=caps.approve, clock=clock, folder=folder)


def _interceptors(
    engine: Engine, native: bool, databases: DatabaseInterceptor | None
) -> list[Interceptor]:
    return [
        *network_interceptors(engine, native=native),
        HttpMockInterceptor(engine),
        ServiceInterceptor(engine),
        DatabaseInterceptor(engine) if databases is None else databases.serve(engine),
        FileInterceptor(engine),
        CancelScopeInterceptor(engine),
        SimulatorInterceptor(engine),
        StressInterceptor(engine),
    ]


def watched_databases() -> DatabaseInterceptor:
    """Has connections be made so that an engine reaches them which is only made later."""
    databases = DatabaseInterceptor(Engine(lambda _: []))
    databases.watch(True)
    return databases


def child_processes(folder: str, *, native: bool) -> ChildProcesses | None:
    """What reaches the children of this process, for `new_engine`; None where there is no way.

    `native`: reach clients in C there as well.
    """
    if os.name != "posix":
        return None
    from pytest_resilience.interceptors.children.interceptor import ChildProcesses

    return ChildProcesses(folder, native=native)


class Runtime:
    """Starts experiments in this process.

    Attributes:
        engine: its listeners are told of every fault.
    """

    def __init__(
        self,
        *,
        services: Services | None = None,
        caps: Caps = DEFAULT_CAPS,
        clock: Clock = MACHINE_CLOCK,
    ) -> None:
        self.engine = new_engine(services=services, caps=caps, clock=clock)
        self.engine.preload()

    def start(self, experiment: ChaosExperiment, *, seed: int) -> ActiveExperiment:
        """Start an experiment for certain; its `probability` is for those who draw.

        Raises ConfigurationError, and UnavailableError where this machine cannot do it.
        """
        return self.engine.start(experiment, seed=seed, must_fire=False)


@functools.cache
def default_runtime() -> Runtime:
    """The same for all who ask: two engines over one socket would undo each other's work."""
    return Runtime()


class ChaosMonkey(Monkey):
    """A monkey whose experiments happen in this process, unless told otherwise.

    Examples:
        >>> monkey = ChaosMonkey(seed=7, max_active=2)
        >>> monkey.register_experiment(ChaosExperiment("slow", "network_latency", 0.3, 30.0))
        >>> with monkey:
        ...     monkey.running
        True
    """

    def default_start(self) -> Starter:
        return default_runtime().start

    def default_approve(self) -> Callable[[ChaosExperiment], object]:
        return DEFAULT_CAPS.approve  # services may still become known

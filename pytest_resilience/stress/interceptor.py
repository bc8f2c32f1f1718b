"""Stressors begin and end with the experiments that ask for them."""

from __future__ import annotations

import logging
import threading

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.resources import PRESSURES
from pytest_resilience.chaos.types.resources import STRESS_NG
from pytest_resilience.chaos.types.resources import CpuLoad
from pytest_resilience.chaos.types.resources import DescriptorLimit
from pytest_resilience.chaos.types.resources import DiskFill
from pytest_resilience.chaos.types.resources import DiskLoad
from pytest_resilience.chaos.types.resources import GilLoad
from pytest_resilience.chaos.types.resources import MemoryLimit
from pytest_resilience.chaos.types.resources import MemoryLoad
from pytest_resilience.chaos.types.resources import ThreadLimit
from pytest_resilience.locks import fork_safe
from pytest_resilience.stress.process_limits import GilStressor
from pytest_resilience.stress.process_limits import descriptor_limit
from pytest_resilience.stress.process_limits import memory_limit
from pytest_resilience.stress.process_limits import thread_limit
from pytest_resilience.stress.stressors import Stressor
from pytest_resilience.stress.stressors import cpu_stressor
from pytest_resilience.stress.stressors import disk_stressor
from pytest_resilience.stress.stressors import fill_stressor
from pytest_resilience.stress.stressors import memory_stressor
from pytest_resilience.stress.stressors import stress_ng_stressor


__all__ = ["StressInterceptor"]

_logger = logging.getLogger("pytest_resilience.stress")


class StressInterceptor:
    """Starts what active experiments ask for. See `chaos.engine.Interceptor`.

    No operation of the code under test ends a stressor, so a timer does when its experiment's
    duration is over.
    """

    kinds = PRESSURES

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[ActiveExperiment, _RunningStressors] = {}

    def install(self) -> None:
        """Do nothing: `refresh` starts and stops everything."""

    def refresh(self) -> None:
        """Start what has become active and stop what is not active any more."""
        wanted = [
            each for each in self._engine.active if each.kinds & self.kinds and not each.paused
        ]
        self._stop([each for each in self._running if each not in wanted])
        for active_experiment in wanted:
            if active_experiment not in self._running:
                self._start(active_experiment)

    def remove(self) -> None:
        self._stop(list(self._running))

    def _start(self, active_experiment: ActiveExperiment) -> None:
        faults = [
            fault for fault in active_experiment.experiment.faults if fault.kinds & self.kinds
        ]
        with limits_lifted():  # sizes depend on the machine's, which are read from files
            stressors = [_stressor(fault) for fault in faults]
        running = _RunningStressors(active_experiment, stressors)
        running.start(active_experiment.left(self._engine.clock.monotonic()))
        self._running[active_experiment] = running
        for fault in faults:
            self._engine.record_fault(active_experiment, fault, min(fault.kinds))

    def _stop(self, active_experiments: list[ActiveExperiment]) -> None:
        for active_experiment in active_experiments:
            self._running.pop(active_experiment).stop()


class _RunningStressors:
    """The stressors of one experiment."""

    def __init__(self, active_experiment: ActiveExperiment, stressors: list[Stressor]) -> None:
        self._active_experiment = active_experiment
        self._stressors = stressors
        self._started: list[Stressor] = []
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._timer: threading.Timer | None = None

    def start(self, seconds: float) -> None:
        """Start them, for `seconds` at most."""
        try:
            with self._lock:  # the end comes after the beginning, however soon the timer rings
                if seconds < threading.TIMEOUT_MAX:
                    timer = threading.Timer(seconds, self.stop)
                    timer.daemon = True
                    with limits_lifted():  # another experiment may leave no threads to be had
                        timer.start()
                    self._timer = timer
                for stressor in self._stressors:
                    stressor.start()
                    self._started.append(stressor)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop them; harmless when they have stopped."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            while self._started:
                try:
                    self._active_experiment.pressure = self._started.pop().stop()
                except Exception:
                    _logger.exception(
                        "%s: cannot be measured", self._active_experiment.experiment.name
                    )
        # Until its thread has ended it keeps this, and all that happened in the test.
        if self._timer is not None and self._timer is not threading.current_thread():
            self._timer.join()


def _stressor(fault: Fault) -> Stressor:
    if getattr(fault, "engine", None) == STRESS_NG:
        assert isinstance(fault, (CpuLoad, MemoryLoad, DiskLoad))
        return stress_ng_stressor(fault)
    return _STRESSORS[type(fault)](fault)


_STRESSORS: dict[type[Fault], Callable[[Any], Stressor]] = {
    CpuLoad: cpu_stressor,
    GilLoad: GilStressor,
    MemoryLoad: memory_stressor,
    MemoryLimit: memory_limit,
    DiskLoad: disk_stressor,
    DiskFill: fill_stressor,
    DescriptorLimit: descriptor_limit,
    ThreadLimit: thread_limit,
}

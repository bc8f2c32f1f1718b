"""Where pressures begin and end with the experiments that ask for them."""

from __future__ import annotations

import logging
import threading

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.resources import PRESSURES
from pytest_resilience.chaos.faults.resources import STRESS_NG
from pytest_resilience.chaos.faults.resources import CpuLoad
from pytest_resilience.chaos.faults.resources import DescriptorLimit
from pytest_resilience.chaos.faults.resources import DiskFill
from pytest_resilience.chaos.faults.resources import DiskLoad
from pytest_resilience.chaos.faults.resources import GilLoad
from pytest_resilience.chaos.faults.resources import MemoryLimit
from pytest_resilience.chaos.faults.resources import MemoryLoad
from pytest_resilience.chaos.faults.resources import ThreadLimit
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.locks import fork_safe
from pytest_resilience.stress.process_limits import DescriptorPress
from pytest_resilience.stress.process_limits import GilPress
from pytest_resilience.stress.process_limits import MemoryLimitPress
from pytest_resilience.stress.process_limits import ThreadPress
from pytest_resilience.stress.stressors import CpuPress
from pytest_resilience.stress.stressors import DiskPress
from pytest_resilience.stress.stressors import FillPress
from pytest_resilience.stress.stressors import MemoryPress
from pytest_resilience.stress.stressors import Press
from pytest_resilience.stress.stressors import StressNgPress


__all__ = ["StressInterceptor"]

_logger = logging.getLogger("pytest_resilience.stress")


class StressInterceptor:
    """Puts on what active experiments ask for. See `chaos.engine.Interceptor`.

    A pressure ends with its experiment's duration by a timer, which goes with it.
    """

    kinds = PRESSURES

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[ActiveExperiment, _Running] = {}

    def install(self) -> None:
        """Nothing to do: everything is begun and ended by `refresh`."""

    def refresh(self) -> None:
        """Begin what has become active and end what is so no more."""
        wanted = [
            each for each in self._engine.active if each.kinds & self.kinds and not each.paused
        ]
        self._end([each for each in self._running if each not in wanted])
        for active_experiment in wanted:
            if active_experiment not in self._running:
                self._begin(active_experiment)

    def remove(self) -> None:
        self._end(list(self._running))

    def _begin(self, active_experiment: ActiveExperiment) -> None:
        faults = [
            fault for fault in active_experiment.experiment.faults if fault.kinds & self.kinds
        ]
        with limits_lifted():  # what there is is read from files
            presses = [_press(fault) for fault in faults]
        running = _Running(active_experiment, presses)
        running.start(active_experiment.left(self._engine.clock.monotonic()))
        self._running[active_experiment] = running
        for fault in faults:
            self._engine.press(active_experiment, fault, min(fault.kinds))

    def _end(self, active_experiments: list[ActiveExperiment]) -> None:
        for active_experiment in active_experiments:
            self._running.pop(active_experiment).stop()


class _Running:
    """The pressures of one experiment while they are on."""

    def __init__(self, active_experiment: ActiveExperiment, presses: list[Press]) -> None:
        self._activation = active_experiment
        self._presses = presses
        self._on: list[Press] = []
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._timer: threading.Timer | None = None

    def start(self, seconds: float) -> None:
        """Put them on, for `seconds` at most."""
        if seconds < threading.TIMEOUT_MAX:
            self._timer = threading.Timer(seconds, self.stop)
            self._timer.daemon = True
            with limits_lifted():  # another experiment may leave no threads to be had
                self._timer.start()
        try:
            with self._lock:  # the timer's end comes after the beginning, however short it is
                for press in self._presses:
                    press.start()
                    self._on.append(press)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take them off; harmless when they are."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            while self._on:
                try:
                    self._activation.pressure = self._on.pop().stop()
                except Exception:
                    _logger.exception("%s: cannot be measured", self._activation.experiment.name)


def _press(fault: Fault) -> Press:  # noqa: PLR0911  # one line for each pressure there is
    if getattr(fault, "engine", None) == STRESS_NG:
        assert isinstance(fault, (CpuLoad, MemoryLoad, DiskLoad))
        return StressNgPress(fault)
    if isinstance(fault, CpuLoad):
        return CpuPress(fault)
    if isinstance(fault, GilLoad):
        return GilPress(fault)
    if isinstance(fault, MemoryLoad):
        return MemoryPress(fault)
    if isinstance(fault, MemoryLimit):
        return MemoryLimitPress(fault)
    if isinstance(fault, DiskLoad):
        return DiskPress(fault)
    if isinstance(fault, DiskFill):
        return FillPress(fault)
    if isinstance(fault, DescriptorLimit):
        return DescriptorPress(fault)
    assert isinstance(fault, ThreadLimit)
    return ThreadPress(fault)

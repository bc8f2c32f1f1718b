"""What everybody else did to the CPUs while a pressure was on."""

from __future__ import annotations

import os
import time

from pytest_resilience.stress import machine


__all__ = ["Gauge", "cpu_seconds"]


class Gauge:
    """Measures from when it is made.

    Attributes:
        load_before: runnable processes per CPU in the minute before.
    """

    def __init__(self) -> None:
        self.load_before = machine.load_per_cpu()
        self._began = time.monotonic()
        self._busy, self._whole = _machine()
        self._own = _own()

    @property
    def seconds(self) -> float:
        """How long it has measured."""
        return time.monotonic() - self._began

    def others(self, pressure: float) -> float:
        """Share of the machine's CPUs used by neither this process nor the pressure, which
        has used `pressure` seconds of them.
        """
        busy, whole = _machine()
        taken = busy - self._busy - (_own() - self._own) - pressure
        return min(1.0, max(0.0, taken / max(whole - self._whole, 1e-9)))


def _own() -> float:
    times = os.times()
    return times.user + times.system


def _machine() -> tuple[float, float]:
    """Seconds that all CPUs together were busy, and seconds in all, since they were started."""
    import psutil

    times = psutil.cpu_times()
    whole = sum(times[:8])  # guests are counted among users too
    idle = times.idle + getattr(times, "iowait", 0.0)
    return whole - idle, whole


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time that a process and its children have used; 0 if it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(_used(each) for each in family) + sum(process.cpu_times()[2:4])
    except psutil.NoSuchProcess:
        return 0.0


def _used(process: object) -> float:
    times = process.cpu_times()  # type: ignore[attr-defined]
    return float(times.user + times.system)

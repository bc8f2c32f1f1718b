"""Processor time: of a process, and of all that are not ours."""

from __future__ import annotations

import os

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.stress import machine


__all__ = ["CpuUsage", "cpu_seconds"]


class CpuUsage:
    """The use of the machine's CPUs since this object was made.

    Attributes:
        load_before: runnable processes per CPU in the minute before.
    """

    def __init__(self) -> None:
        self.load_before = machine.load_per_cpu()
        self._began = MACHINE_CLOCK.monotonic()
        self._busy, self._whole = _machine_seconds()
        self._own = sum(os.times()[:2])

    @property
    def seconds(self) -> float:
        """The time since then."""
        return MACHINE_CLOCK.monotonic() - self._began

    def others(self, workers: float) -> float:
        """The share, 0 to 1, used by other processes than this one and its workers.

        `workers` is the processor time in seconds that these have used.
        """
        busy, whole = _machine_seconds()
        taken = busy - self._busy - (sum(os.times()[:2]) - self._own) - workers
        return min(1.0, max(0.0, taken / max(whole - self._whole, 1e-9)))


def _machine_seconds() -> tuple[float, float]:
    """Seconds that all CPUs together were busy, and busy or idle, since they were started."""
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
        used = sum(process.cpu_times()[:4])  # the last two: by children that have ended
        return used + sum(sum(each.cpu_times()[:2]) for each in process.children(recursive=True))
    except psutil.NoSuchProcess:
        return 0.0

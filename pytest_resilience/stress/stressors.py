"""Pressures by worker processes: on CPUs, memory and disks."""

from __future__ import annotations

import shutil
import tempfile

from typing import Any
from typing import Protocol

from pytest_resilience.chaos.faults.resources import CpuLoad
from pytest_resilience.chaos.faults.resources import DiskFill
from pytest_resilience.chaos.faults.resources import DiskLoad
from pytest_resilience.chaos.faults.resources import MemoryLoad
from pytest_resilience.chaos.faults.resources import PressureReading
from pytest_resilience.chaos.parsing.quantities import Amount
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.errors import UnavailableError
from pytest_resilience.stress import caps
from pytest_resilience.stress import machine
from pytest_resilience.stress.cpu_usage import Gauge
from pytest_resilience.stress.cpu_usage import cpu_seconds
from pytest_resilience.stress.worker_process import Worker


__all__ = ["CpuPress", "DiskPress", "FillPress", "MemoryPress", "Press", "StressNgPress"]

_RESERVE = Amount(share=0.1)
_LEAST_RESERVE = 64 * 2**20  # bytes


class Press(Protocol):
    """Puts one pressure on, once, and takes it off again."""

    def start(self) -> None:
        """Put it on; at full pressure when this returns, but for a ramp."""

    def stop(self) -> PressureReading:
        """Take it off, and say what came of it."""


class WorkerPress:
    """Base of those that worker processes do."""

    unit = "bytes"

    def __init__(self, jobs: list[tuple[str, dict[str, Any]]], asked: float) -> None:
        """`jobs`: for each worker what it does, see `worker_main`; `asked`: in `unit`."""
        self._jobs = jobs
        self._asked = asked
        self._workers: list[Worker] = []

    def start(self) -> None:
        try:
            with limits_lifted():  # which a worker would inherit
                for job, settings in self._jobs:
                    self._workers.append(Worker(job, **settings))
            for worker in self._workers:
                worker.wait()
            # What it took to get here is not to be measured.
            with limits_lifted():  # it is read from files
                self._used = self._cpu_seconds()
                self._gauge = Gauge()
        except BaseException:
            self._close()
            raise

    def stop(self) -> PressureReading:
        try:
            with limits_lifted():
                seconds = self._gauge.seconds
                used = self._cpu_seconds() - self._used
                others = self._gauge.others(used)
                before = self.measure(self._workers, used, seconds)
        finally:
            last = self._close()
        return PressureReading(
            asked=self._asked,
            achieved=self.final(last, before),
            unit=self.unit,
            seconds=seconds,
            others=others,
            load_before=self._gauge.load_before,
            detail="; ".join(each["detail"] for each in last if "detail" in each),
        )

    def measure(self, workers: list[Worker], used: float, seconds: float) -> float:
        """What is achieved just now; `used`: processor time in `seconds`."""
        raise NotImplementedError

    def final(self, last: list[dict[str, Any]], measured: float) -> float:
        """What was achieved, from the workers' last figures and what was measured before."""
        del last
        return measured

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(worker.pid) for worker in self._workers)

    def _close(self) -> list[dict[str, Any]]:
        workers, self._workers = self._workers, []
        return [worker.close() for worker in workers]


class CpuPress(WorkerPress):
    """A process for each core."""

    unit = "CPUs"

    def __init__(self, fault: CpuLoad) -> None:
        cores, load = caps.cores_and_load(fault)
        jobs = [("burn", {"load": load})] * (cores if load else 0)
        super().__init__(jobs, cores * load)

    def measure(self, workers: list[Worker], used: float, seconds: float) -> float:
        del workers
        return used / max(seconds, 1e-9)


class MemoryPress(WorkerPress):
    """A process that holds memory."""

    def __init__(self, fault: MemoryLoad) -> None:
        size = caps.memory_size(fault)
        wanted = (fault.reserve or _RESERVE).of(machine.available_memory())
        reserve = wanted if fault.reserve else max(wanted, _LEAST_RESERVE)
        settings = {"size": size, "ramp": fault.ramp, "reserve": reserve}
        super().__init__([("hold", settings)] if size else [], size)

    def measure(self, workers: list[Worker], used: float, seconds: float) -> float:
        del used, seconds
        return float(sum(_resident(each.pid) - each.ready.get("before", 0) for each in workers))


class DiskPress(WorkerPress):
    """A process that writes, syncs and reads; achieved is the size that its file had."""

    def __init__(self, fault: DiskLoad) -> None:
        size = caps.file_size(fault)
        settings = {"folder": caps.disk_folder(fault), "size": size}
        super().__init__([("churn", settings)] if size else [], size)

    def measure(self, workers: list[Worker], used: float, seconds: float) -> float:
        del workers, used, seconds
        return 0.0

    def final(self, last: list[dict[str, Any]], measured: float) -> float:
        return sum((each.get("size", 0) for each in last), measured)


class FillPress(WorkerPress):
    """A process that takes room on a disk."""

    def __init__(self, fault: DiskFill) -> None:
        size = caps.fill_size(fault)
        settings = {"folder": caps.disk_folder(fault), "size": size}
        super().__init__([("fill", settings)] if size else [], size)

    def measure(self, workers: list[Worker], used: float, seconds: float) -> float:
        del used, seconds
        return float(sum(each.ready.get("filled", 0) for each in workers))


class StressNgPress(WorkerPress):
    """The program stress-ng, under a worker that ends it."""

    def __init__(self, fault: CpuLoad | MemoryLoad | DiskLoad) -> None:
        program = shutil.which("stress-ng")
        if program is None:
            raise UnavailableError("engine='stress-ng': the program stress-ng is not installed")
        self._cpu = isinstance(fault, CpuLoad)
        self.unit = "CPUs" if self._cpu else "bytes"
        arguments, asked = _arguments(fault)
        folder = caps.disk_folder(fault) if isinstance(fault, DiskLoad) else tempfile.gettempdir()
        settings = {"command": [program, "--quiet", *arguments], "folder": folder}
        super().__init__([("other", settings)] if asked else [], asked)

    def measure(self, workers: list[Worker], used: float, seconds: float) -> float:
        if self._cpu:
            return used / max(seconds, 1e-9)
        return float(sum(_resident_family(worker.pid) for worker in workers))


def _arguments(fault: CpuLoad | MemoryLoad | DiskLoad) -> tuple[list[str], float]:
    """The arguments of stress-ng, and what is asked with them."""
    if isinstance(fault, CpuLoad):
        cores, load = caps.cores_and_load(fault)
        return ["--cpu", str(cores), "--cpu-load", f"{load * 100:.0f}"], cores * load
    if isinstance(fault, MemoryLoad):
        size = caps.memory_size(fault)
        return ["--vm", "1", "--vm-bytes", f"{size}", "--vm-keep", "--vm-populate"], size
    size = caps.file_size(fault)
    return ["--hdd", "1", "--hdd-bytes", f"{size}"], size


def _resident(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:  # somebody has killed it
        return 0


def _resident_family(pid: int) -> int:
    import psutil

    try:
        return max((_resident(each.pid) for each in psutil.Process(pid).children(True)), default=0)
    except psutil.NoSuchProcess:
        return 0

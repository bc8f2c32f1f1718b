"""Stress by worker processes, on CPUs, memory and disks; and how a worker is started and ended."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile

from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.parsing.quantities import Amount
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.resources import CpuLoad
from pytest_resilience.chaos.types.resources import DiskFill
from pytest_resilience.chaos.types.resources import DiskLoad
from pytest_resilience.chaos.types.resources import MemoryLoad
from pytest_resilience.chaos.types.resources import PressureReading
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.errors import UnavailableError
from pytest_resilience.stress import caps
from pytest_resilience.stress import machine
from pytest_resilience.stress.machine import CpuUsage
from pytest_resilience.stress.machine import cpu_seconds


__all__ = [
    "Stressor",
    "cpu_stressor",
    "disk_stressor",
    "fill_stressor",
    "memory_stressor",
    "stress_ng_stressor",
]

_RESERVE = Amount(share=0.1)
_LEAST_RESERVE = 64 * 2**20  # bytes
_Job = tuple[str, dict[str, Any]]  # a job of `worker_main` and its settings

_PATIENCE = 30.0  # seconds until it is ready, in the worst case
_GRACE = 1.0  # seconds from being told to end until it is killed
_ROOT = str(Path(__file__).parents[2])
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from pytest_resilience.stress import worker_main; worker_main.main()"
)


class Worker:
    """A process that does one job of `worker_main` until it is closed, or this process is gone.

    Attributes:
        pid: its process id.
        ready: what it said when it was; empty before.
    """

    def __init__(self, job: str, **settings: Any) -> None:
        """Start it; `wait` tells when it is ready."""
        command = [sys.executable, "-I", "-S", "-c", _BOOT, _ROOT, job, json.dumps(settings)]
        self._process = subprocess.Popen(  # noqa: S603  # ourselves
            [*command, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.pid = self._process.pid
        self._owner = os.getpid()
        self.ready: dict[str, Any] = {}
        self._unread = b""

    def wait(self) -> None:
        """Wait until it is at work. Raises UnavailableError if it cannot be; then close it."""
        message = self._message(_PATIENCE)
        if "ready" not in message:
            reason = message.get("error", "it ended, or did not begin in time")
            raise UnavailableError(f"a stress worker could not begin: {reason}")
        self.ready = message

    def _message(self, seconds: float) -> dict[str, Any]:
        """The next thing that it says; empty if it says nothing more."""
        assert self._process.stdout is not None
        poller = select.poll()  # `select` cannot see descriptors above 1023
        poller.register(self._process.stdout, select.POLLIN | select.POLLHUP)
        until = MACHINE_CLOCK.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(0.0, until - MACHINE_CLOCK.monotonic())
            readable = poller.poll(left * 1000)
            more = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not more:
                return {}
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> dict[str, Any]:
        """End it, once: what it said at last; empty if it had to be killed, or had ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if os.getpid() != self._owner:
            return {}  # in a forked child: the worker is its parent's
        with limits_lifted():
            self._process.stdin.close()
        last = self._message(_GRACE)
        try:
            self._process.wait(_GRACE if last else 0.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with limits_lifted():
            self._process.stdout.close()
        return last


class Stressor(Protocol):
    """Puts stress on the machine or this process, once."""

    def start(self) -> None:
        """Return when it is at its full strength, or where its ramp begins."""

    def stop(self) -> PressureReading:
        """End it, and say what was achieved."""


class WorkerStressor:
    """Stress by worker processes, one for each job.

    What is achieved is what the jobs say of themselves, and what `measure` sees from outside just
    before their end. It is given the workers, and the CPUs that they used on average.
    """

    def __init__(
        self,
        jobs: list[_Job],
        *,
        asked: float,
        unit: str = "bytes",
        measure: Callable[[list[Worker], float], float] = lambda *_: 0.0,
    ) -> None:
        self._jobs = jobs
        self._asked = asked
        self._unit = unit
        self._measure = measure
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
                self._used_before = self._cpu_seconds()
                self._cpu_usage = CpuUsage()
        except BaseException:
            self._close()
            raise

    def stop(self) -> PressureReading:
        try:
            with limits_lifted():
                seconds = self._cpu_usage.seconds
                used = self._cpu_seconds() - self._used_before
                others = self._cpu_usage.others(used)
                measured = self._measure(self._workers, used / max(seconds, 1e-9))
        finally:
            figures = self._close()
        return PressureReading(
            asked=self._asked,
            achieved=measured + sum(each.get("achieved", 0) for each in figures),
            unit=self._unit,
            seconds=seconds,
            others=others,
            load_before=self._cpu_usage.load_before,
            detail="; ".join(each["detail"] for each in figures if "detail" in each),
        )

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(worker.pid) for worker in self._workers)

    def _close(self) -> list[dict[str, Any]]:
        """End the workers. Returns the last figures of each; the first, if it had to be killed."""
        workers, self._workers = self._workers, []
        return [worker.ready | worker.close() for worker in workers]


def cpu_stressor(fault: CpuLoad) -> Stressor:
    """A process for each core."""
    cores, load = caps.cores_and_load(fault)
    jobs: list[_Job] = [("compute", {"load": load})] * (cores if load else 0)
    return WorkerStressor(jobs, asked=cores * load, unit="CPUs", measure=lambda _, cpus: cpus)


def memory_stressor(fault: MemoryLoad) -> Stressor:
    """A process that holds memory."""
    size = caps.memory_size(fault)
    wanted = (fault.reserve or _RESERVE).of(machine.available_memory())
    reserve = wanted if fault.reserve else max(wanted, _LEAST_RESERVE)
    settings = {"size": size, "ramp": fault.ramp, "reserve": reserve}

    def grown(workers: list[Worker], _: float) -> float:
        return float(sum(_resident(each.pid) - each.ready["before"] for each in workers))

    jobs: list[_Job] = [("hold_memory", settings)] if size else []
    return WorkerStressor(jobs, asked=size, measure=grown)


def disk_stressor(fault: DiskLoad) -> Stressor:
    """A process that writes, syncs and reads a file; achieved is the size it grew to."""
    return _disk_stressor("write_and_read", fault, caps.file_size(fault))


def fill_stressor(fault: DiskFill) -> Stressor:
    """A process that takes room on a disk."""
    return _disk_stressor("fill_disk", fault, caps.fill_size(fault))


def _disk_stressor(job: str, fault: DiskLoad | DiskFill, size: int) -> Stressor:
    settings = {"folder": caps.disk_folder(fault), "size": size}
    return WorkerStressor([(job, settings)] if size else [], asked=size)


def stress_ng_stressor(fault: CpuLoad | MemoryLoad | DiskLoad) -> Stressor:
    """The program stress-ng, under a worker that ends it."""
    program = shutil.which("stress-ng")
    if program is None:
        raise UnavailableError(
            "engine='stress-ng': the program stress-ng is not installed; install it, or leave the "
            "engine out"
        )
    arguments, asked = _arguments(fault)
    folder = caps.disk_folder(fault) if isinstance(fault, DiskLoad) else tempfile.gettempdir()
    settings = {"command": [program, "--quiet", *arguments], "folder": folder}
    jobs: list[_Job] = [("run_program", settings)] if asked else []
    if isinstance(fault, CpuLoad):
        return WorkerStressor(jobs, asked=asked, unit="CPUs", measure=lambda _, cpus: cpus)
    return WorkerStressor(
        jobs, asked=asked, measure=lambda workers, _: sum(_largest_child(w.pid) for w in workers)
    )


def _arguments(fault: CpuLoad | MemoryLoad | DiskLoad) -> tuple[list[str], float]:
    """The arguments of stress-ng, and how many CPUs or bytes they ask for."""
    if isinstance(fault, CpuLoad):
        cores, load = caps.cores_and_load(fault)
        return ["--cpu", str(cores), "--cpu-load", f"{load * 100:.0f}"], cores * load
    if isinstance(fault, MemoryLoad):
        size = caps.memory_size(fault)
        return ["--vm", "1", "--vm-bytes", f"{size}", "--vm-keep", "--vm-populate"], size
    size = caps.file_size(fault)
    return ["--hdd", "1", "--hdd-bytes", f"{size}"], size


def _resident(pid: int) -> int:
    """Bytes of memory; 0 if the process is gone."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:  # somebody has killed it
        return 0


def _largest_child(pid: int) -> int:
    """Bytes of memory of the child that has most."""
    import psutil

    try:
        return max((_resident(each.pid) for each in psutil.Process(pid).children(True)), default=0)
    except psutil.NoSuchProcess:
        return 0

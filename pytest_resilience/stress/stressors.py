"""Stress by worker processes, on CPUs, memory and disks: how much, and how a worker is run.

Caps say how much experiments may ask for, so that no typo brings a machine down.
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import subprocess
import sys
import tempfile

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.parsing.quantities import Amount
from pytest_resilience.chaos.parsing.quantities import amount
from pytest_resilience.chaos.parsing.quantities import format_bytes
from pytest_resilience.chaos.parsing.quantities import share
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.resources import LEAST_FLOOR
from pytest_resilience.chaos.types.resources import MOST_DISK
from pytest_resilience.chaos.types.resources import MOST_MEMORY
from pytest_resilience.chaos.types.resources import CpuLoad
from pytest_resilience.chaos.types.resources import DiskFill
from pytest_resilience.chaos.types.resources import DiskLoad
from pytest_resilience.chaos.types.resources import GilLoad
from pytest_resilience.chaos.types.resources import MemoryLoad
from pytest_resilience.chaos.types.resources import PressureReading
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import UnavailableError
from pytest_resilience.stress import machine
from pytest_resilience.stress.machine import CpuUsage
from pytest_resilience.stress.machine import cpu_seconds


__all__ = [
    "DEFAULT_CAPS", "Caps", "Stressor", "cores_and_load", "cpu_stressor", "disk_folder",
    "disk_stressor", "file_size", "fill_size", "fill_stressor", "memory_size", "memory_stressor",
    "stress_ng_stressor",
]  # fmt: skip

_LOADS = (CpuLoad, GilLoad, MemoryLoad, DiskLoad, DiskFill)
_TENTH, _HALF, _ALL = Amount(share=0.1), Amount(share=0.5), Amount(share=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """The most that experiments may ask for.

    Attributes:
        memory: of the memory that is available to this process.
        disk: of the free space on the disk concerned.
        cpu: share of the CPUs that this process may use.
    """

    memory: Amount = _HALF
    disk: Amount = _TENTH
    cpu: Amount = _ALL

    @classmethod
    def parse(cls, memory: str = "", disk: str = "", cpu: str = "") -> Caps:
        """From ini options, "" for the default. Raises ConfigurationError naming the option."""
        return cls(
            memory=amount("chaos_max_memory", memory) if memory else _HALF,
            disk=amount("chaos_max_disk", disk) if disk else _TENTH,
            cpu=Amount(share=share("chaos_max_cpu", cpu)) if cpu else _ALL,
        )

    def approve(self, experiment: ChaosExperiment) -> None:
        """Raise ConfigurationError for an experiment that asks for more."""
        loads = [each for each in experiment.faults if isinstance(each, _LOADS)]
        if loads:
            with limits_lifted():  # sizes of the machine are read from files
                for fault in loads:
                    self._approve(fault)

    def _approve(self, fault: Fault) -> None:
        if isinstance(fault, (CpuLoad, GilLoad)):
            self._approve_cpu(fault)
        elif isinstance(fault, MemoryLoad):
            most = self.memory.of(machine.available_memory())
            _compare(fault, memory_size(fault), most, f"chaos_max_memory = {self.memory}")
        elif isinstance(fault, (DiskLoad, DiskFill)):
            size = file_size(fault) if isinstance(fault, DiskLoad) else fill_size(fault)
            free, _ = machine.disk_space(disk_folder(fault))
            _compare(fault, size, self.disk.of(free), f"chaos_max_disk = {self.disk}")

    def _approve_cpu(self, fault: CpuLoad | GilLoad) -> None:
        cores, load = cores_and_load(fault)
        available = machine.cpus()
        most = (self.cpu.share or 0.0) * available
        if cores * load > most * (1 + 1e-9):
            raise ConfigurationError(
                f"{fault}: {cores * load:.3g} CPUs are more than the {most:.3g} of {available:g} "
                f"that chaos_max_cpu = {self.cpu} allows; ask for less, or raise the cap in the "
                "ini file"
            )
        # Each costs memory and a place in the scheduler's queue, however little it computes.
        if cores > max(1, math.ceil(most)):
            what = "processes" if isinstance(fault, CpuLoad) else "threads"
            raise ConfigurationError(
                f"{fault}: {cores} {what} are more than the {max(1, math.ceil(most))} that "
                f"chaos_max_cpu = {self.cpu} of {available:g} CPUs allows; ask for fewer cores"
            )


DEFAULT_CAPS = Caps()


def _compare(fault: Fault, size: int, most: int, cap: str) -> None:
    if size > most:
        raise ConfigurationError(
            f"{fault}: {format_bytes(size)} is over the cap of {format_bytes(most)} ({cap}); ask "
            "for less, or raise the cap in the ini file"
        )


def cores_and_load(fault: CpuLoad | GilLoad) -> tuple[int, float]:
    """The number of processes or threads, and the share of the time, 0 to 1, that each computes.

    Together they take `intensity` times the CPUs if neither is given.
    """
    available = machine.cpus()
    asked = fault.cores if isinstance(fault, CpuLoad) else fault.threads
    if asked is None:
        asked = max(1, -int(-fault.intensity * available // 1))  # rounded up
    load = fault.load
    if load is None:
        load = min(1.0, fault.intensity * available / asked)
    return asked, load


def memory_size(fault: MemoryLoad) -> int:
    """Bytes to hold."""
    available = machine.available_memory()
    if fault.size is None:
        return int(available * MOST_MEMORY * fault.intensity)
    return fault.size.of(available)


def disk_folder(fault: DiskLoad | DiskFill) -> str:
    """The folder to write to. Raises ConfigurationError if it is none."""
    folder = fault.path or tempfile.gettempdir()
    if not os.path.isdir(folder):
        raise ConfigurationError(f"path={folder!r} is no folder; give one that is there")
    return folder


def file_size(fault: DiskLoad) -> int:
    """Bytes of the file that is written and read."""
    free, _ = machine.disk_space(disk_folder(fault))
    return int(MOST_DISK * fault.intensity) if fault.size is None else fault.size.of(free)


def fill_size(fault: DiskFill) -> int:
    """Bytes to take so that the floor stays free; 0 at intensity 0."""
    free, whole = machine.disk_space(disk_folder(fault))
    floor = max(LEAST_FLOOR, fault.floor.of(whole))
    return max(0, free - floor) if fault.intensity else 0


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
    cores, load = cores_and_load(fault)
    jobs: list[_Job] = [("compute", {"load": load})] * (cores if load else 0)
    return WorkerStressor(jobs, asked=cores * load, unit="CPUs", measure=lambda _, cpus: cpus)


def memory_stressor(fault: MemoryLoad) -> Stressor:
    """A process that holds memory."""
    size = memory_size(fault)
    wanted = (fault.reserve or _RESERVE).of(machine.available_memory())
    reserve = wanted if fault.reserve else max(wanted, _LEAST_RESERVE)
    settings = {"size": size, "ramp": fault.ramp, "reserve": reserve}

    def grown(workers: list[Worker], _: float) -> float:
        return float(sum(_resident(each.pid) - each.ready["before"] for each in workers))

    jobs: list[_Job] = [("hold_memory", settings)] if size else []
    return WorkerStressor(jobs, asked=size, measure=grown)


def disk_stressor(fault: DiskLoad) -> Stressor:
    """A process that writes, syncs and reads a file; achieved is the size it grew to."""
    return _disk_stressor("write_and_read", fault, file_size(fault))


def fill_stressor(fault: DiskFill) -> Stressor:
    """A process that takes room on a disk."""
    return _disk_stressor("fill_disk", fault, fill_size(fault))


def _disk_stressor(job: str, fault: DiskLoad | DiskFill, size: int) -> Stressor:
    settings = {"folder": disk_folder(fault), "size": size}
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
    folder = disk_folder(fault) if isinstance(fault, DiskLoad) else tempfile.gettempdir()
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
        cores, load = cores_and_load(fault)
        return ["--cpu", str(cores), "--cpu-load", f"{load * 100:.0f}"], cores * load
    if isinstance(fault, MemoryLoad):
        size = memory_size(fault)
        return ["--vm", "1", "--vm-bytes", f"{size}", "--vm-keep", "--vm-populate"], size
    size = file_size(fault)
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

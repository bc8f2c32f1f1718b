"""Caps: how much stress experiments may ask for, so that no typo brings a machine down."""

from __future__ import annotations

import math
import os
import tempfile

from dataclasses import dataclass

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.parsing.quantities import Amount
from pytest_resilience.chaos.parsing.quantities import amount
from pytest_resilience.chaos.parsing.quantities import format_bytes
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.resources import LEAST_FLOOR
from pytest_resilience.chaos.types.resources import MOST_DISK
from pytest_resilience.chaos.types.resources import MOST_MEMORY
from pytest_resilience.chaos.types.resources import CpuLoad
from pytest_resilience.chaos.types.resources import DiskFill
from pytest_resilience.chaos.types.resources import DiskLoad
from pytest_resilience.chaos.types.resources import GilLoad
from pytest_resilience.chaos.types.resources import MemoryLoad
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.stress import machine


__all__ = [
    "DEFAULT_CAPS",
    "Caps",
    "cores_and_load",
    "disk_folder",
    "file_size",
    "fill_size",
    "memory_size",
]

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
        given = {"memory": memory, "disk": disk, "cpu": cpu}
        found = cls(
            **{name: amount(f"chaos_max_{name}", text) for name, text in given.items() if text}
        )
        if found.cpu.share is None:
            raise ConfigurationError(f"chaos_max_cpu={cpu!r}: give a share, such as '80%'")
        return found

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
                f"that chaos_max_cpu = {self.cpu} allows; ask for less"
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

"""Caps: how much stress experiments may ask for, so that no typo brings a machine down."""

from __future__ import annotations

import math
import os
import tempfile

from dataclasses import dataclass

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.resources import CpuLoad
from pytest_resilience.chaos.faults.resources import DiskFill
from pytest_resilience.chaos.faults.resources import DiskLoad
from pytest_resilience.chaos.faults.resources import GilLoad
from pytest_resilience.chaos.faults.resources import MemoryLoad
from pytest_resilience.chaos.parsing.quantities import Amount
from pytest_resilience.chaos.parsing.quantities import amount
from pytest_resilience.chaos.parsing.quantities import format_bytes
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.resources import LEAST_FLOOR
from pytest_resilience.chaos.types.resources import MOST_DISK
from pytest_resilience.chaos.types.resources import MOST_MEMORY
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


_MEMORY, _DISK, _CPU = Amount(share=0.5), Amount(share=0.1), Amount(share=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """The most that experiments may ask for.

    Attributes:
        memory: of what is available to this process.
        disk: of what is free on the disk concerned.
        cpu: share of the CPUs that this process may use.
    """

    memory: Amount = _MEMORY
    disk: Amount = _DISK
    cpu: Amount = _CPU

    @classmethod
    def parse(cls, memory: str = "", disk: str = "", cpu: str = "") -> Caps:
        """From texts, empty for the default. Raises ConfigurationError naming the option."""
        usual = cls()
        found = cls(
            memory=amount("chaos_max_memory", memory) if memory else usual.memory,
            disk=amount("chaos_max_disk", disk) if disk else usual.disk,
            cpu=amount("chaos_max_cpu", cpu) if cpu else usual.cpu,
        )
        if found.cpu.share is None:
            raise ConfigurationError(f"chaos_max_cpu={cpu!r}: give a share, such as '80%'")
        return found

    def approve(self, experiment: ChaosExperiment) -> None:
        """Raise ConfigurationError for an experiment that asks for more."""
        with limits_lifted():  # what there is is read from files
            for fault in experiment.faults:
                self._approve(fault)

    def _approve(self, fault: Fault) -> None:
        if isinstance(fault, (CpuLoad, GilLoad)):
            self._approve_cpu(fault)
        elif isinstance(fault, MemoryLoad):
            there = machine.available_memory()
            most = self.memory.of(there)
            _compare(fault, memory_size(fault), most, f"chaos_max_memory = {self.memory}")
        elif isinstance(fault, (DiskLoad, DiskFill)):
            size = file_size(fault) if isinstance(fault, DiskLoad) else fill_size(fault)
            free, _ = machine.disk_space(disk_folder(fault))
            _compare(fault, size, self.disk.of(free), f"chaos_max_disk = {self.disk}")

    def _approve_cpu(self, fault: CpuLoad | GilLoad) -> None:
        cores, load = cores_and_load(fault)
        there = machine.cpus()
        most = (self.cpu.share or 0.0) * there
        if cores * load > most * (1 + 1e-9):
            raise ConfigurationError(
                f"{fault}: {cores * load:.3g} CPUs are more than the {most:.3g} of {there:g} that "
                f"chaos_max_cpu = {self.cpu} allows"
            )
        # Each costs memory and a place in the scheduler's queue, however little it computes.
        if cores > max(1, math.ceil(most)):
            what = "processes" if isinstance(fault, CpuLoad) else "threads"
            raise ConfigurationError(
                f"{fault}: {cores} {what} are more than the {max(1, math.ceil(most))} that "
                f"chaos_max_cpu = {self.cpu} of {there:g} CPUs allows; ask for fewer cores"
            )


DEFAULT_CAPS = Caps()


def _compare(fault: Fault, size: int, most: int, cap: str) -> None:
    if size > most:
        raise ConfigurationError(
            f"{fault}: {format_bytes(size)} is over the cap of {format_bytes(most)} ({cap}); ask "
            "for less, or raise the cap in the ini file"
        )


def cores_and_load(fault: CpuLoad | GilLoad) -> tuple[int, float]:
    """How many processes or threads, and how much of the time each computes.

    Together they take `intensity` times the CPUs, where neither was said.
    """
    there = machine.cpus()
    asked = fault.cores if isinstance(fault, CpuLoad) else fault.threads
    if asked is None:
        asked = max(1, -int(-fault.intensity * there // 1))  # rounded up
    load = fault.load
    if load is None:
        load = min(1.0, fault.intensity * there / asked)
    return asked, load


def memory_size(fault: MemoryLoad) -> int:
    """Bytes to hold."""
    there = machine.available_memory()
    if fault.size is None:
        return int(there * MOST_MEMORY * fault.intensity)
    return fault.size.of(there)


def disk_folder(fault: DiskLoad | DiskFill) -> str:
    """Where to write. Raises ConfigurationError if that is no folder."""
    folder = fault.path or tempfile.gettempdir()
    if not os.path.isdir(folder):
        raise ConfigurationError(f"path={folder!r} is no folder")
    return folder


def file_size(fault: DiskLoad) -> int:
    """Bytes of the file that is written and read."""
    free, _ = machine.disk_space(disk_folder(fault))
    return int(MOST_DISK * fault.intensity) if fault.size is None else fault.size.of(free)


def fill_size(fault: DiskFill) -> int:
    """Bytes to take so that the floor is left. Nothing at intensity 0."""
    free, whole = machine.disk_space(disk_folder(fault))
    floor = max(LEAST_FLOOR, fault.floor.of(whole))
    return max(0, free - floor) if fault.intensity else 0

"""Pressure: faults that happen to no operation, but to the machine or the process.

Frozen data, as all faults are; what is None is decided where the pressure is put on, from
`intensity` and what there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from typing import Final

from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.parsing.quantities import Amount
from pytest_resilience.chaos.parsing.quantities import format_bytes
from pytest_resilience.chaos.parsing.quantities import format_seconds


__all__ = [
    "BUILT_IN", "CPU", "DESCRIPTORS", "DISK", "LIMITS", "MEMORY", "PRESSURES", "STRESS_NG",
    "THREADS", "CpuLoad", "DescriptorLimit", "DiskFill", "DiskLoad", "GilLoad", "MemoryLimit",
    "MemoryLoad", "Pressure", "PressureReading", "ThreadLimit",
]  # fmt: skip

CPU: Final = "stress.cpu"
MEMORY: Final = "stress.memory"
DISK: Final = "stress.disk"
DESCRIPTORS: Final = "stress.descriptors"
THREADS: Final = "stress.threads"
PRESSURES = frozenset({CPU, MEMORY, DISK, DESCRIPTORS, THREADS})

BUILT_IN: Final = "built-in"
STRESS_NG: Final = "stress-ng"


@dataclass(frozen=True, slots=True, kw_only=True)
class PressureReading:
    """The amount asked of a pressure, and the amount achieved, measured over its life.

    Attributes:
        asked, achieved: in `unit`.
        unit: "CPUs", "bytes", "free descriptors" or "threads".
        seconds: how long it was on.
        others: share of the machine's CPUs that others than it and this process used; None
            where CPUs have nothing to do with it.
        load_before: runnable processes per CPU in the minute before; above 1 the machine was
            busy already.
        detail: what else there is to say.
    """

    asked: float
    achieved: float
    unit: str
    seconds: float = 0.0
    others: float | None = None
    load_before: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        if self.unit == "bytes":
            text = f"asked {format_bytes(self.asked)}, got {format_bytes(self.achieved)}"
        else:
            text = f"asked {self.asked:.3g} {self.unit}, got {self.achieved:.3g}"
        if self.detail:
            text = f"{text}, {self.detail}"
        return (
            text if self.others is None else f"{text}; others used {self.others:.0%} of the machine"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure(Fault):
    """Base of all pressures.

    Attributes:
        intensity: 0 to 1; at 0, and without an amount, it is nothing at all.
        amount_field: the field that says how much in its own unit, instead of `intensity`.
    """

    intensity: float
    amount_field: ClassVar[str] = ""

    @property
    def is_nothing(self) -> bool:
        return not self.intensity and getattr(self, self.amount_field, None) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuLoad(Pressure):
    """Processes that compute, `load` (0 to 1) of the time on each of `cores`."""

    amount_field: ClassVar[str] = "load"
    kinds: ClassVar[frozenset[str]] = frozenset({CPU})
    load: float | None = None
    cores: int | None = None
    engine: str = BUILT_IN

    def __str__(self) -> str:
        return f"CPU load {_share(self.load, self.intensity)} on {_number(self.cores, 'core')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GilLoad(Pressure):
    """Threads of this process that compute: what they take is the interpreter's lock."""

    amount_field: ClassVar[str] = "load"
    kinds: ClassVar[frozenset[str]] = frozenset({CPU})
    load: float | None = None
    threads: int | None = None

    def __str__(self) -> str:
        return f"GIL load {_share(self.load, self.intensity)} in {_number(self.threads, 'thread')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLoad(Pressure):
    """A process that holds memory, every page of it touched.

    Attributes:
        size: how much, or which share of what is available to this process.
        ramp: seconds over which it grows to that.
        reserve: what it leaves to others, whatever was asked.
    """

    amount_field: ClassVar[str] = "size"
    kinds: ClassVar[frozenset[str]] = frozenset({MEMORY})
    size: Amount | None = None
    ramp: float = 0.0
    reserve: Amount | None = None
    engine: str = BUILT_IN

    def __str__(self) -> str:
        grown = f" within {format_seconds(self.ramp)}" if self.ramp else ""
        return f"memory load {_amount(self.size, self.intensity)}{grown}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit(Pressure):
    """This process can have no more than `headroom` bytes of address space in addition."""

    kinds: ClassVar[frozenset[str]] = frozenset({MEMORY})
    headroom: int

    def __str__(self) -> str:
        return f"memory limit {format_bytes(self.headroom)} above what is in use"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLoad(Pressure):
    """A process that writes, syncs and reads a file of `size` in the folder `path`."""

    amount_field: ClassVar[str] = "size"
    kinds: ClassVar[frozenset[str]] = frozenset({DISK})
    size: Amount | None = None
    path: str | None = None
    engine: str = BUILT_IN

    def __str__(self) -> str:
        return f"disk load {_amount(self.size, self.intensity)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFill(Pressure):
    """The disk with the folder `path` is full, but for `floor`."""

    kinds: ClassVar[frozenset[str]] = frozenset({DISK})
    floor: Amount
    path: str | None = None

    def __str__(self) -> str:
        return f"disk filled up to {self.floor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorLimit(Pressure):
    """This process can open no more than `leave` files and sockets in addition (EMFILE)."""

    amount_field: ClassVar[str] = "leave"
    kinds: ClassVar[frozenset[str]] = frozenset({DESCRIPTORS})
    leave: int | None = None

    def __str__(self) -> str:
        left = f"intensity {self.intensity:g}" if self.leave is None else f"{self.leave} left"
        return f"descriptors exhausted, {left}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadLimit(Pressure):
    """No thread can be started in this process any more."""

    kinds: ClassVar[frozenset[str]] = frozenset({THREADS})

    def __str__(self) -> str:
        return "threads exhausted"


LIMITS = (DescriptorLimit, MemoryLimit, ThreadLimit)
"""Those that take nothing from the machine, but allow this process less."""


def _share(share: float | None, intensity: float) -> str:
    return f"of intensity {intensity:g}" if share is None else f"{share:.3g}"


def _number(number: int | None, what: str) -> str:
    return f"as many {what}s as that takes" if number is None else f"{number} {what}(s)"


def _amount(amount: Amount | None, intensity: float) -> str:
    return f"of intensity {intensity:g}" if amount is None else str(amount)

"""The chaos types of resources: CPU, memory, disk, descriptors and threads run short.

Their faults are pressure, which happens to no operation, but to the machine or the process.
"""

from __future__ import annotations

import functools

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import ClassVar
from typing import Final

from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.parsing.quantities import Amount
from pytest_resilience.chaos.parsing.quantities import format_bytes
from pytest_resilience.chaos.parsing.quantities import format_seconds
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import one_of
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "BUILT_IN",
    "CPU_STRESS",
    "DISK_STRESS",
    "FD_EXHAUSTION",
    "LIMITS",
    "MEMORY_STRESS",
    "MOST_DISK",
    "MOST_MEMORY",
    "PRESSURES",
    "STRESS_NG",
    "THREAD_EXHAUSTION",
    "CpuLoad",
    "DescriptorLimit",
    "DiskFill",
    "DiskLoad",
    "GilLoad",
    "MemoryLimit",
    "MemoryLoad",
    "Pressure",
    "PressureReading",
    "ThreadLimit",
]

_CPU: Final = "stress.cpu"
_MEMORY: Final = "stress.memory"
_DISK: Final = "stress.disk"
_DESCRIPTORS: Final = "stress.descriptors"
_THREADS: Final = "stress.threads"
PRESSURES = frozenset({_CPU, _MEMORY, _DISK, _DESCRIPTORS, _THREADS})

BUILT_IN: Final = "built-in"
STRESS_NG: Final = "stress-ng"
MOST_MEMORY = 0.1  # share of what is available, at intensity 1
MOST_DISK = 256 * 2**20  # bytes, at intensity 1
LEAST_FLOOR = 16 * 2**20  # bytes: no disk is filled up to less
_HEADROOM = 64 * 2**20
_FLOOR = Amount(share=0.05)
_ENGINE = Parameter(
    name="engine", unit=f"{BUILT_IN}, {STRESS_NG}", default=BUILT_IN,
    parse=one_of((BUILT_IN, STRESS_NG)), help="who does it; stress-ng must be installed",
)  # fmt: skip


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
    kinds: ClassVar[frozenset[str]] = frozenset({_CPU})
    load: float | None = None
    cores: int | None = None
    engine: str = BUILT_IN

    def __str__(self) -> str:
        return f"CPU load {_share(self.load, self.intensity)} on {_number(self.cores, 'core')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GilLoad(Pressure):
    """Threads of this process that compute: what they take is the interpreter's lock."""

    amount_field: ClassVar[str] = "load"
    kinds: ClassVar[frozenset[str]] = frozenset({_CPU})
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
    kinds: ClassVar[frozenset[str]] = frozenset({_MEMORY})
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

    kinds: ClassVar[frozenset[str]] = frozenset({_MEMORY})
    headroom: int

    def __str__(self) -> str:
        return f"memory limit {format_bytes(self.headroom)} above what is in use"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLoad(Pressure):
    """A process that writes, syncs and reads a file of `size` in the folder `path`."""

    amount_field: ClassVar[str] = "size"
    kinds: ClassVar[frozenset[str]] = frozenset({_DISK})
    size: Amount | None = None
    path: str | None = None
    engine: str = BUILT_IN

    def __str__(self) -> str:
        return f"disk load {_amount(self.size, self.intensity)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFill(Pressure):
    """The disk with the folder `path` is full, but for `floor`."""

    kinds: ClassVar[frozenset[str]] = frozenset({_DISK})
    floor: Amount
    path: str | None = None

    def __str__(self) -> str:
        return f"disk filled up to {self.floor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorLimit(Pressure):
    """This process can open no more than `leave` files and sockets in addition (EMFILE)."""

    amount_field: ClassVar[str] = "leave"
    kinds: ClassVar[frozenset[str]] = frozenset({_DESCRIPTORS})
    leave: int | None = None

    def __str__(self) -> str:
        left = f"intensity {self.intensity:g}" if self.leave is None else f"{self.leave} left"
        return f"descriptors exhausted, {left}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadLimit(Pressure):
    """No thread can be started in this process any more."""

    kinds: ClassVar[frozenset[str]] = frozenset({_THREADS})

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


def _cpu(given: Mapping[str, Any], intensity: float) -> tuple[Fault, ...]:
    load, cores = given.get("load"), given.get("cores")
    if given.get("gil", False):
        _refuse(given, ("engine",), "gil=True")
        return (GilLoad(intensity=intensity, load=load, threads=cores),)
    engine = given.get("engine", BUILT_IN)
    return (CpuLoad(intensity=intensity, load=load, cores=cores, engine=engine),)


def _memory(given: Mapping[str, Any], intensity: float) -> tuple[Fault, ...]:
    if given.get("mode", "hold") == "fail":
        _refuse(given, ("size", "ramp", "reserve", "engine"), "mode='fail'")
        headroom = given.get("headroom", Amount(bytes=_HEADROOM))
        return (MemoryLimit(intensity=intensity, headroom=headroom.of(0)),)
    _refuse(given, ("headroom",), "mode='hold'")
    held = MemoryLoad(
        intensity=intensity,
        size=given.get("size"),
        ramp=given.get("ramp", 0.0),
        reserve=given.get("reserve"),
        engine=given.get("engine", BUILT_IN),
    )
    return (held,)


def _disk(given: Mapping[str, Any], intensity: float) -> tuple[Fault, ...]:
    path = given.get("path")
    if given.get("fill", False):
        _refuse(given, ("size", "engine"), "fill=True")
        return (DiskFill(intensity=intensity, floor=given.get("floor", _FLOOR), path=path),)
    _refuse(given, ("floor",), "fill=False")
    engine = given.get("engine", BUILT_IN)
    return (DiskLoad(intensity=intensity, size=given.get("size"), path=path, engine=engine),)


def _descriptors(given: Mapping[str, Any], intensity: float) -> tuple[Fault, ...]:
    return (DescriptorLimit(intensity=intensity, leave=given.get("leave")),)


def _refuse(given: Mapping[str, Any], names: tuple[str, ...], mode: str) -> None:
    wrong = [name for name in names if name in given]
    if wrong:
        raise ConfigurationError(f"{', '.join(wrong)}: means nothing with {mode}; leave it out")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name}={shortened(value)}: give a text")
    return value


def _bytes(name: str, value: Any) -> Amount:
    return Amount(bytes=quantities.size(name, value))


def _floor(name: str, value: Any) -> Amount:
    found = quantities.amount(name, value)
    if found.bytes is not None and found.bytes < LEAST_FLOOR:
        least = quantities.format_bytes(LEAST_FLOOR)
        raise ConfigurationError(
            f"{name}={shortened(value)}: no disk is filled up to less than {least}; give more"
        )
    return found


def _load(name: str, value: Any) -> float:
    return _something(name, value, quantities.share(name, value))


def _size(name: str, value: Any) -> Amount:
    found = quantities.amount(name, value)
    _something(name, value, found.bytes if found.share is None else found.share)
    return found


def _something(name: str, value: Any, amount: float | None) -> float:
    if not amount:
        raise ConfigurationError(f"{name}={value!r}: that is no stress at all; give more")
    return amount


_PATH = Parameter(
    name="path", unit="folder", default="the temporary folder", parse=_text, help="on which disk",
)  # fmt: skip


CPU_STRESS = TypeSchema(
    summary="processes compute: less of the CPUs is left",
    parameters=(
        Parameter(
            name="load", unit="0..1 or %, above 0", parse=_load,
            default="intensity x CPUs / cores", help="of each core",
        ),
        Parameter(
            name="cores", unit="count", parse=quantities.count, default="intensity x CPUs",
            help="so many processes (or threads)",
        ),
        Parameter(
            name="gil", unit="true or false", parse=quantities.switch, default="false",
            help="in threads of this process, for the interpreter's lock",
        ),
        _ENGINE,
    ),
    faults=_cpu,
)  # fmt: skip

MEMORY_STRESS = TypeSchema(
    summary="a process holds memory; or, with mode=fail, this one gets no more",
    parameters=(
        Parameter(
            name="size", unit="bytes, kB .. GiB, or %", parse=_size,
            default=f"intensity x {MOST_MEMORY:.0%}", help="held; % of what is available",
        ),
        Parameter(
            name="ramp", unit="seconds, or us, ms, s, m, h", parse=quantities.seconds,
            default="0s", help="over which it grows",
        ),
        Parameter(
            name="reserve", unit="bytes, kB .. GiB, or %", parse=quantities.amount,
            default="10%, at least 64MiB", help="left to others whatever was asked",
        ),
        Parameter(
            name="mode", unit="hold, fail", parse=one_of(("hold", "fail")), default="hold",
            help="whether memory is taken, or this process cannot get any (MemoryError)",
        ),
        Parameter(
            name="headroom", unit="bytes, kB .. GiB", parse=_bytes, default="64MiB",
            help="what this process still gets, with mode=fail",
        ),
        _ENGINE,
    ),
    faults=_memory,
)  # fmt: skip

DISK_STRESS = TypeSchema(
    summary="a process writes, syncs and reads; or fills the disk",
    parameters=(
        Parameter(
            name="size", unit="bytes, kB .. GiB, or %", parse=_size,
            default=f"intensity x {quantities.format_bytes(MOST_DISK)}",
            help="of the file; % of what is free",
        ),
        Parameter(
            name="fill", unit="true or false", parse=quantities.switch, default="false",
            help="fill the disk instead",
        ),
        Parameter(
            name="floor", unit="bytes, kB .. GiB, or %", parse=_floor, default=str(_FLOOR),
            help="left free by fill; % of the whole disk",
        ),
        _PATH,
        _ENGINE,
    ),
    faults=_disk,
)  # fmt: skip

FD_EXHAUSTION = TypeSchema(
    summary="this process cannot open files and sockets any more (EMFILE)",
    parameters=(
        Parameter(
            name="leave", unit="count, from 0", parse=functools.partial(quantities.count, least=0),
            default="(1 - intensity) x free, 4096 at most", help="how many it still can",
        ),
    ),
    faults=_descriptors,
)  # fmt: skip

THREAD_EXHAUSTION = TypeSchema(
    summary="this process cannot start threads any more (RuntimeError)",
    parameters=(),
    faults=lambda _given, intensity: (ThreadLimit(intensity=intensity),),
)

"""The chaos types of resources: CPU, memory, disk, descriptors and threads run short."""

from __future__ import annotations

import functools

from collections.abc import Mapping
from typing import Any

from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.resources import BUILT_IN
from pytest_resilience.chaos.faults.resources import STRESS_NG
from pytest_resilience.chaos.faults.resources import CpuLoad
from pytest_resilience.chaos.faults.resources import DescriptorLimit
from pytest_resilience.chaos.faults.resources import DiskFill
from pytest_resilience.chaos.faults.resources import DiskLoad
from pytest_resilience.chaos.faults.resources import GilLoad
from pytest_resilience.chaos.faults.resources import MemoryLimit
from pytest_resilience.chaos.faults.resources import MemoryLoad
from pytest_resilience.chaos.faults.resources import ThreadLimit
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.quantities import Amount
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import one_of
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "CPU_STRESS", "DISK_STRESS", "FD_EXHAUSTION", "MEMORY_STRESS", "MOST_DISK", "MOST_MEMORY",
    "THREAD_EXHAUSTION",
]  # fmt: skip

MOST_MEMORY = 0.1  # share of what is available, at intensity 1
MOST_DISK = 256 * 2**20  # bytes, at intensity 1
LEAST_FLOOR = 16 * 2**20  # bytes: no disk is filled up to less
_HEADROOM = 64 * 2**20
_FLOOR = Amount(share=0.05)


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


_ENGINE = Parameter(
    name="engine", unit=f"{BUILT_IN}, {STRESS_NG}", default=BUILT_IN,
    parse=one_of((BUILT_IN, STRESS_NG)), help="who does it; stress-ng must be installed",
)  # fmt: skip
_PATH = Parameter(
    name="path", unit="folder", default="the temporary folder", parse=_text, help="on which disk",
)  # fmt: skip


def _always(_given: Mapping[str, Any], _intensity: float) -> float:
    return 1.0


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
    rate=_always,
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
    rate=_always,
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
    rate=_always,
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
    rate=_always,
)  # fmt: skip

THREAD_EXHAUSTION = TypeSchema(
    summary="this process cannot start threads any more (RuntimeError)",
    parameters=(),
    faults=lambda _given, intensity: (ThreadLimit(intensity=intensity),),
    rate=_always,
)

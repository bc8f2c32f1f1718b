"""Stress on this process itself: its interpreter lock, and limits of the system set lower."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.chaos.shared_settings import Limit
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.resources import DescriptorLimit
from pytest_resilience.chaos.types.resources import GilLoad
from pytest_resilience.chaos.types.resources import MemoryLimit
from pytest_resilience.chaos.types.resources import PressureReading
from pytest_resilience.chaos.types.resources import ThreadLimit
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.errors import UnavailableError
from pytest_resilience.stress import stressors
from pytest_resilience.stress.machine import CpuUsage
from pytest_resilience.stress.stressors import Stressor
from pytest_resilience.stress.worker_main import compute


__all__ = ["GilStressor", "descriptor_limit", "memory_limit", "thread_limit"]

_MOST_HIDDEN = 16  # threads that wait in `accept`, with the highest numbers of all
_MOST_LEFT = 4096  # descriptors: intensity is about those that a program could come to need
# No address space has room for a stack of this size, so no thread can be had.
_IMPOSSIBLE_STACK = 2**46  # bytes


class GilStressor:
    """Threads that compute in Python; together they can never have more than one CPU."""

    def __init__(self, fault: GilLoad) -> None:
        self._threads, self._load = stressors.cores_and_load(fault)
        self._ended = threading.Event()
        self._used: list[float] = []
        self._running: list[threading.Thread] = []

    def start(self) -> None:
        with limits_lifted():
            self._cpu_usage = CpuUsage()
            for _ in range(self._threads if self._load else 0):
                thread = threading.Thread(target=self._run, daemon=True, name="GIL load")
                thread.start()
                self._running.append(thread)

    def _run(self) -> None:
        before = time.thread_time()
        compute(self._load, time.thread_time, lambda: not self._ended.is_set())
        self._used.append(time.thread_time() - before)

    def stop(self) -> PressureReading:
        seconds = self._cpu_usage.seconds
        self._ended.set()
        for thread in self._running:
            thread.join()
        with limits_lifted():
            others = self._cpu_usage.others(0.0)
        return PressureReading(
            asked=self._threads * self._load,
            achieved=sum(self._used) / max(seconds, 1e-9),
            unit="CPUs in threads",
            seconds=seconds,
            others=others,
            load_before=self._cpu_usage.load_before,
        )


Limits = tuple[int, int]  # soft and hard, as `resource` has them


def _resource_limit(
    name: str, used: Callable[[], Any], moved: Callable[[Limits, Any, Any], Limits]
) -> Limit[Limits]:
    """A resource limit of this process. Raises UnavailableError where there is none."""
    try:
        import resource

        which = getattr(resource, name)
    except (ImportError, AttributeError):
        raise UnavailableError(f"this system has no resource limit {name}") from None

    def lowest(found: Limits, wanted: list[Limits]) -> Limits:
        soft = [each for each in (found[0], found[1]) if each != resource.RLIM_INFINITY]
        return min([*soft, *(each for each, _ in wanted)]), found[1]

    return Limit(
        lambda: resource.getrlimit(which),
        lambda limits: resource.setrlimit(which, limits),
        lowest,
        used,
        moved,
    )


@functools.cache
def _descriptors() -> Limit[Limits]:
    return _resource_limit("RLIMIT_NOFILE", _descriptors_in_use, _as_many_left)


@functools.cache
def _memory() -> Limit[Limits]:
    return _resource_limit("RLIMIT_AS", _address_space, _as_much_left)


@functools.cache
def _stack_size() -> Limit[int]:
    """The size of the stacks of threads that start from now on, in bytes; 0 for the usual."""

    def read() -> int:
        size = threading.stack_size()  # which sets it to the usual one
        threading.stack_size(size)
        return size

    return Limit(read, threading.stack_size, lambda _, wanted: wanted[-1])


class _LimitStressor:
    """A limit of this process that is set lower for a while.

    `lower` sets it when this starts, and returns what was asked, what can be had in fact, and how
    to give the limit back.
    """

    def __init__(self, unit: str, lower: Callable[[], tuple[int, int, Callable[[], None]]]) -> None:
        self._unit = unit
        self._lower = lower

    def start(self) -> None:
        self._began = MACHINE_CLOCK.monotonic()
        self._asked, self._achieved, self._restore = self._lower()

    def stop(self) -> PressureReading:
        self._restore()
        return PressureReading(
            asked=self._asked,
            achieved=self._achieved,
            unit=self._unit,
            seconds=MACHINE_CLOCK.monotonic() - self._began,
        )


def _nothing_to_restore() -> None:
    """For an intensity of 0, or a limit that is lower already."""


def descriptor_limit(fault: DescriptorLimit) -> Stressor:
    """Let this process open only so many more descriptors.

    The limit is on numbers, and the lowest free one is always taken: with the limit above so
    many free numbers, exactly so many can be had, and those in use stay as they are.
    """
    limit = _descriptors()

    def lower() -> tuple[int, int, Callable[[], None]]:
        leave = fault.leave
        if leave is None and not fault.intensity:
            return 0, 0, _nothing_to_restore
        with limits_lifted():
            free = limit.read()[0] - len(open_descriptors())
            if leave is None:
                leave = int(min(free, _MOST_LEFT) * (1 - fault.intensity))
            number = None if leave > free else _number_after(leave)
        if number is None:  # there are not as many
            return leave, free, _nothing_to_restore
        return leave, leave, limit.hold((number, 0))

    return _LimitStressor("free descriptors", lower)


def _descriptors_in_use() -> frozenset[int]:
    """Those that are open, and those that nobody can have, which `_taken` passes over."""
    shown = open_descriptors()
    free = [number for number in range(max(shown) + _MOST_HIDDEN) if number not in shown]
    taken = _taken(len(free[:_MOST_LEFT]), min(shown))
    return shown | {
        number for number in free if number not in taken and number < max(taken, default=0)
    }


def _taken(count: int, descriptor: int) -> list[int]:
    """The numbers of `count` copies of a descriptor, the lowest first; fewer if there are no more.

    They are taken for a moment, for a thread that waits in `accept` has a number already that
    nothing shows: it is missing among those that are given.
    """
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            taken.extend(os.dup(descriptor) for _ in range(count))
    finally:
        for each in taken:
            os.close(each)
    return taken


def _as_many_left(wanted: Limits, before: frozenset[int], after: frozenset[int]) -> Limits:
    """Move the limit on: what was opened while it was lifted took numbers below it."""
    left = wanted[0] - sum(number < wanted[0] for number in before)
    return _number_had(left, after), wanted[1]


def _number_had(left: int, in_use: frozenset[int]) -> int:
    """The descriptor number that the next file gets, after `left` more have been opened."""
    number = left
    for each in sorted(in_use):
        number += each <= number
    return number


def _number_after(leave: int) -> int | None:
    """The descriptor number that comes after `leave` more; None if there are not so many.

    Of very many, which others may need, it is worked out.
    """
    shown = open_descriptors()
    if leave > _MOST_LEFT:
        return _number_had(leave, shown)
    taken = _taken(leave + 1, min(shown))
    return taken[-1] if len(taken) > leave else None


def memory_limit(fault: MemoryLimit) -> Stressor:
    """Let this process have only so many more bytes of address space (RLIMIT_AS)."""
    limit = _memory()

    def lower() -> tuple[int, int, Callable[[], None]]:
        if not fault.intensity:
            return fault.headroom, 0, _nothing_to_restore
        with limits_lifted():
            used = _address_space()
        return fault.headroom, fault.headroom, limit.hold((used + fault.headroom, 0))

    return _LimitStressor("bytes", lower)


def _as_much_left(wanted: Limits, before: int, after: int) -> Limits:
    """Move the limit on: what grew while it was lifted, as by a thread's stack, is not counted."""
    return wanted[0] + after - before, wanted[1]


def _address_space() -> int:
    import mmap

    try:
        file = os.open("/proc/self/statm", os.O_RDONLY | os.O_NONBLOCK)  # in a loop as well
    except FileNotFoundError:
        raise UnavailableError("memory cannot be limited without /proc") from None
    try:
        return int(os.read(file, 256).split()[0]) * mmap.PAGESIZE
    finally:
        os.close(file)


def thread_limit(fault: ThreadLimit) -> Stressor:
    """Let no thread of Python's start, by asking a stack for it that cannot be had.

    The system's own limit on processes (RLIMIT_NPROC) counts those of all programs of a user,
    and none of root's; the failure is the same: pthread_create says EAGAIN.
    """

    def lower() -> tuple[int, int, Callable[[], None]]:
        if not fault.intensity:
            return 0, 0, _nothing_to_restore
        return 0, 0, _stack_size().hold(_IMPOSSIBLE_STACK)

    return _LimitStressor("more threads", lower)

"""Pressures on this process itself: real limits of the system, set lower for a while."""

from __future__ import annotations

import functools
import os
import threading
import time

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.chaos.faults.resources import DescriptorLimit
from pytest_resilience.chaos.faults.resources import GilLoad
from pytest_resilience.chaos.faults.resources import MemoryLimit
from pytest_resilience.chaos.faults.resources import PressureReading
from pytest_resilience.chaos.faults.resources import ThreadLimit
from pytest_resilience.chaos.shared_settings import Limit
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.errors import UnavailableError
from pytest_resilience.stress import caps
from pytest_resilience.stress.cpu_usage import Gauge
from pytest_resilience.stress.worker_main import work


__all__ = ["DescriptorPress", "GilPress", "MemoryLimitPress", "ThreadPress"]

_MOST_LEFT = 4096  # descriptors: intensity is about those that a program could come to need
# No address space has room for a stack of this size, so no thread can be had.
_IMPOSSIBLE_STACK = 2**46  # bytes


class GilPress:
    """Threads that compute in Python; together they can never have more than one CPU."""

    def __init__(self, fault: GilLoad) -> None:
        self._threads, self._load = caps.cores_and_load(
            GilLoad(intensity=fault.intensity, load=fault.load, threads=fault.threads)
        )
        self._ended = threading.Event()
        self._used: list[float] = []
        self._running: list[threading.Thread] = []

    def start(self) -> None:
        with limits_lifted():
            self._gauge = Gauge()
            for _ in range(self._threads if self._load else 0):
                thread = threading.Thread(target=self._run, daemon=True, name="GIL load")
                thread.start()
                self._running.append(thread)

    def _run(self) -> None:
        before = time.thread_time()
        work(self._load, time.thread_time, lambda: not self._ended.is_set())
        self._used.append(time.thread_time() - before)

    def stop(self) -> PressureReading:
        seconds = self._gauge.seconds
        self._ended.set()
        for thread in self._running:
            thread.join()
        with limits_lifted():
            others = self._gauge.others(0.0)
        return PressureReading(
            asked=self._threads * self._load,
            achieved=sum(self._used) / max(seconds, 1e-9),
            unit="CPUs in threads",
            seconds=seconds,
            others=others,
            load_before=self._gauge.load_before,
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
    return _resource_limit("RLIMIT_NOFILE", open_descriptors, _as_many_left)


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


class DescriptorPress:
    """Lets this process open only so many more descriptors.

    The limit is on numbers, and the lowest free one is always taken: with the limit above so
    many free numbers, exactly so many can be had, and those in use stay as they are.
    """

    def __init__(self, fault: DescriptorLimit) -> None:
        self._limit = _descriptors()
        self._leave = fault.leave
        self._left = 0
        self._intensity = fault.intensity
        self._let_go: Callable[[], None] | None = None

    def start(self) -> None:
        self._began = time.monotonic()
        if self._leave is None and not self._intensity:
            self._leave = 0
            return  # nothing
        with limits_lifted():
            free = self._limit.read()[0] - len(open_descriptors())
            if self._leave is None:
                self._leave = int(min(free, _MOST_LEFT) * (1 - self._intensity))
            number = None if self._leave > free else _number_after(self._leave)
        if number is None:
            self._left = free  # there are not as many
        else:
            self._left = self._leave
            self._let_go = self._limit.hold((number, 0))

    def stop(self) -> PressureReading:
        if self._let_go is not None:
            self._let_go()
        return PressureReading(
            asked=self._leave or 0,
            achieved=self._left,
            unit="free descriptors",
            seconds=time.monotonic() - self._began,
        )


def _as_many_left(wanted: Limits, before: frozenset[int], after: frozenset[int]) -> Limits:
    """What is opened while the limit is lifted takes numbers that it had left to others."""
    left = wanted[0] - sum(number < wanted[0] for number in before)
    return _free(left, after), wanted[1]


def _free(left: int, in_use: frozenset[int]) -> int:
    """The number that is had after so many more."""
    number = left
    for each in sorted(in_use):
        number += each <= number
    return number


def _number_after(leave: int) -> int | None:
    """The number that would be had after so many more; None if there are not so many.

    Found by trying: a thread that waits in `accept` has a number already that nothing shows. Of
    very many, which others may need, it does not matter.
    """
    if leave > _MOST_LEFT:
        return _free(leave, open_descriptors())
    tried: list[int] = []
    try:
        tried.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(leave + 1))
    except OSError:
        return None
    else:
        return tried[-1]
    finally:
        for each in tried:
            os.close(each)


class MemoryLimitPress:
    """Lets this process have only so many bytes of address space more (RLIMIT_AS)."""

    def __init__(self, fault: MemoryLimit) -> None:
        self._limit = _memory()
        self._headroom = fault.headroom
        self._on = fault.intensity > 0
        self._let_go: Callable[[], None] | None = None

    def start(self) -> None:
        self._began = time.monotonic()
        if self._on:
            with limits_lifted():
                used = _address_space()
            self._let_go = self._limit.hold((used + self._headroom, 0))

    def stop(self) -> PressureReading:
        if self._let_go is not None:
            self._let_go()
        return PressureReading(
            asked=self._headroom,
            achieved=self._headroom if self._on else 0,
            unit="bytes",
            seconds=time.monotonic() - self._began,
        )


def _as_much_left(wanted: Limits, before: int, after: int) -> Limits:
    """What grows while the limit is lifted, such as by the stack of a thread, is not charged."""
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


class ThreadPress:
    """Lets no thread of Python's start, by asking a stack for it that cannot be had.

    The system's own limit on processes (RLIMIT_NPROC) counts those of all programs of a user,
    and none of root's; the failure is the same: pthread_create says EAGAIN.
    """

    def __init__(self, fault: ThreadLimit) -> None:
        self._on = fault.intensity > 0
        self._let_go: Callable[[], None] | None = None

    def start(self) -> None:
        self._began = time.monotonic()
        if self._on:
            self._let_go = _stack_size().hold(_IMPOSSIBLE_STACK)

    def stop(self) -> PressureReading:
        if self._let_go is not None:
            self._let_go()
        return PressureReading(
            asked=0, achieved=0, unit="more threads", seconds=time.monotonic() - self._began
        )

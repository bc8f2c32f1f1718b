"""Pressures on this process itself: real limits of the system, set lower for a while."""

from __future__ import annotations

import os
import threading
import time

from pytest_resilience.chaos.pressure import DescriptorLimit
from pytest_resilience.chaos.pressure import GilLoad
from pytest_resilience.chaos.pressure import MemoryLimit
from pytest_resilience.chaos.pressure import PressureReading
from pytest_resilience.chaos.pressure import ThreadLimit
from pytest_resilience.errors import UnavailableError
from pytest_resilience.stress import caps
from pytest_resilience.stress.gauge import Gauge
from pytest_resilience.stress.labour import work


__all__ = ["DescriptorPress", "GilPress", "MemoryLimitPress", "ThreadPress"]

_OPEN = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
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
        return PressureReading(
            asked=self._threads * self._load,
            achieved=sum(self._used) / max(seconds, 1e-9),
            unit="CPUs in threads",
            seconds=seconds,
            others=self._gauge.others(0.0),
            load_before=self._gauge.load_before,
        )


class _ResourceLimit:
    """A soft resource limit, lowered and put back."""

    def __init__(self, name: str) -> None:
        try:
            import resource

            self._which = getattr(resource, name)
        except (ImportError, AttributeError):
            raise UnavailableError(f"this system has no resource limit {name}") from None
        self._before: tuple[int, int] | None = None

    def lower(self, soft: int) -> None:
        import resource

        before = resource.getrlimit(self._which)
        limited = min(soft, *(each for each in before if each != resource.RLIM_INFINITY), soft)
        resource.setrlimit(self._which, (limited, before[1]))
        self._before = before

    def restore(self) -> None:
        import resource

        if self._before is not None:
            resource.setrlimit(self._which, self._before)
            self._before = None

    @property
    def soft(self) -> int:
        import resource

        return resource.getrlimit(self._which)[0]


class DescriptorPress:
    """Lets this process open only so many more descriptors.

    The limit is on numbers, and the lowest free one is always taken: with the limit above so
    many free numbers, exactly so many can be had, and those in use stay as they are.
    """

    def __init__(self, fault: DescriptorLimit) -> None:
        self._limit = _ResourceLimit("RLIMIT_NOFILE")
        self._leave = fault.leave
        self._intensity = fault.intensity

    def start(self) -> None:
        self._began = time.monotonic()
        if self._leave is None:
            free = self._limit.soft - len(os.listdir(_OPEN))
            self._leave = int(min(free, _MOST_LEFT) * (1 - self._intensity))
            if not self._intensity:
                return  # nothing
        number = _number_after(self._leave)
        if number is not None:
            self._limit.lower(number)

    def stop(self) -> PressureReading:
        self._limit.restore()
        return PressureReading(
            asked=self._leave or 0,
            achieved=self._leave or 0,
            unit="free descriptors",
            seconds=time.monotonic() - self._began,
        )


def _number_after(leave: int) -> int | None:
    """The number that would be had after so many more; None if there are not so many.

    Found by trying: a thread that waits in `accept` has a number already that nothing shows.
    """
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
        self._limit = _ResourceLimit("RLIMIT_AS")
        self._headroom = fault.headroom
        self._on = fault.intensity > 0

    def start(self) -> None:
        self._began = time.monotonic()
        if self._on:
            self._limit.lower(_address_space() + self._headroom)

    def stop(self) -> PressureReading:
        self._limit.restore()
        return PressureReading(
            asked=self._headroom,
            achieved=self._headroom if self._on else 0,
            unit="bytes",
            seconds=time.monotonic() - self._began,
        )


def _address_space() -> int:
    import mmap

    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except FileNotFoundError:
        raise UnavailableError("memory cannot be limited without /proc") from None


class ThreadPress:
    """Lets no thread of Python's start, by asking a stack for it that cannot be had.

    The system's own limit on processes (RLIMIT_NPROC) counts those of all programs of a user,
    and none of root's; the failure is the same: pthread_create says EAGAIN.
    """

    def __init__(self, fault: ThreadLimit) -> None:
        self._on = fault.intensity > 0
        self._before: int | None = None

    def start(self) -> None:
        self._began = time.monotonic()
        self._left = threading.active_count()
        if self._on:
            self._before = threading.stack_size(_IMPOSSIBLE_STACK)

    def stop(self) -> PressureReading:
        if self._before is not None:
            threading.stack_size(self._before)
            self._before = None
        return PressureReading(
            asked=0, achieved=0, unit="more threads", seconds=time.monotonic() - self._began
        )

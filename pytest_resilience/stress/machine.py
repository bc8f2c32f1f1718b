"""CPUs, memory and disk space that are available to this process, and who uses the CPUs.

Containers give less than the machine has, so control groups (version 1 and 2) are asked
too, every one from this process's own up to the root.
"""

from __future__ import annotations

import os

from collections.abc import Iterator
from pathlib import Path

from pytest_resilience.clock import MACHINE_CLOCK


__all__ = ["CpuUsage", "available_memory", "cpu_seconds", "cpus", "disk_space", "load_per_cpu"]

_CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60  # bytes; version 1 writes a number near 2**63 where there is no limit


def available_memory() -> int:
    """Bytes that this process can still get without anything being swapped or killed."""
    free = [_machine_memory(), *_free_in_groups()]
    return max(0, min(free))


def _machine_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        import psutil  # where there is no /proc

        return int(psutil.virtual_memory().available)
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _free_in_groups() -> Iterator[int]:
    for folder in _groups("memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None and limit < _NO_LIMIT:
            yield limit - used + _reclaimable(folder)


def _reclaimable(folder: Path) -> int:
    """File pages that nobody uses: they count as used and are given back when needed."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    fields = dict(line.split() for line in lines)
    return int(fields.get("total_inactive_file", fields.get("inactive_file", "0")))


def _groups(controller: str) -> Iterator[Path]:
    """This process's control groups, its own first, of version 2 and of version 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root = _CGROUPS
        elif controller in controllers.split(","):
            root = _CGROUPS / controller
        else:
            continue
        group = root / path.lstrip("/")
        while True:
            # In a container the path may be the host's; then its own group is the root.
            if group.is_dir():
                yield group
            if group == root or root not in group.parents:
                break
            group = group.parent


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max"
        return None


def cpus() -> float:
    """CPUs that this process may use: its affinity, or less by a control group's quota."""
    allowed = getattr(os, "sched_getaffinity", None)
    found = float(len(allowed(0)) if allowed else os.cpu_count() or 1)
    for folder in _groups("cpu"):
        quota = _quota(folder)
        if quota is not None:
            found = min(found, quota)
    return found


def _quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        of, per = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return of / per if of and per and of > 0 else None


def disk_space(folder: str) -> tuple[int, int]:
    """Bytes free to this user, and bytes in all, of the disk with `folder`."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def load_per_cpu() -> float:
    """Processes per CPU that ran or wanted to in the last minute."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


class CpuUsage:
    """The use of the machine's CPUs since this object was made.

    Attributes:
        load_before: runnable processes per CPU in the minute before.
    """

    def __init__(self) -> None:
        self.load_before = load_per_cpu()
        self._began = MACHINE_CLOCK.monotonic()
        self._busy, self._whole = _machine_seconds()
        self._own = sum(os.times()[:2])

    @property
    def seconds(self) -> float:
        """The time since then."""
        return MACHINE_CLOCK.monotonic() - self._began

    def others(self, workers: float) -> float:
        """The share, 0 to 1, used by other processes than this one and its workers.

        `workers` is the processor time in seconds that these have used.
        """
        busy, whole = _machine_seconds()
        taken = busy - self._busy - (sum(os.times()[:2]) - self._own) - workers
        return min(1.0, max(0.0, taken / max(whole - self._whole, 1e-9)))


def _machine_seconds() -> tuple[float, float]:
    """Seconds that all CPUs together were busy, and busy or idle, since they were started."""
    import psutil

    times = psutil.cpu_times()
    whole = sum(times[:8])  # guests are counted among users too
    idle = times.idle + getattr(times, "iowait", 0.0)
    return whole - idle, whole


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time that a process and its children have used; 0 if it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        used = sum(process.cpu_times()[:4])  # the last two: by children that have ended
        return used + sum(sum(each.cpu_times()[:2]) for each in process.children(recursive=True))
    except psutil.NoSuchProcess:
        return 0.0

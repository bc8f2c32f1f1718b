"""What a process can have: of the machine, and of the control groups it is in."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_resilience.stress import machine


MIB = 2**20


def test_on_this_machine() -> None:
    assert 0 < machine.available_memory() <= psutil.virtual_memory().total
    assert 0 < machine.cpus() <= (os.cpu_count() or 1)
    free, whole = machine.disk_space("/")
    assert 0 <= free <= whole
    assert machine.load_per_cpu() >= 0


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups."""
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_machine_memory", lambda: 8000 * MIB)
    return tmp_path


def place(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """This process's control group."""
    read_text = Path.read_text

    def fake(path: Path, *args: str, **kwargs: str) -> str:
        return line if str(path) == "/proc/self/cgroup" else read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", fake)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".", 1)).write_text(text)


def test_version_2_takes_the_least_of_all_levels(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(monkeypatch, "0::/pod/box\n")
    write(groups / "pod/box", memory__max="max\n", memory__current=f"{5 * MIB}\n")
    write(
        groups / "pod",
        memory__max=f"{512 * MIB}\n",
        memory__current=f"{200 * MIB}\n",
        memory__stat=f"anon 1\ninactive_file {50 * MIB}\n",
        cpu__max="50000 100000\n",
    )
    assert machine.available_memory() == (512 - 200 + 50) * MIB
    assert machine.cpus() == 0.5


def test_version_1(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, "5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n")
    write(
        groups / "memory/box",
        memory__limit_in_bytes=f"{100 * MIB}\n",
        memory__usage_in_bytes=f"{40 * MIB}\n",
        memory__stat=f"inactive_file 1\ntotal_inactive_file {10 * MIB}\n",
    )
    write(groups / "memory", memory__limit_in_bytes=f"{2**63 - 4096}\n")
    write(groups / "cpu/box", cpu__cfs_quota_us="25000\n", cpu__cfs_period_us="100000\n")
    write(groups / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert machine.available_memory() == 70 * MIB
    assert machine.cpus() == 0.25


def test_in_a_container_the_path_may_be_the_hosts(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(monkeypatch, "0::/somewhere/on/the/host\n")
    write(groups, memory__max=f"{64 * MIB}\n", memory__current=f"{60 * MIB}\n")
    assert machine.available_memory() == 4 * MIB


def test_a_group_that_is_over_its_limit_has_nothing_left(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(monkeypatch, "0::/\n")
    write(groups, memory__max=f"{64 * MIB}\n", memory__current=f"{65 * MIB}\n")
    assert machine.available_memory() == 0


LIMIT = 512 * MIB

GREEDY = """
import json, time
from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.parsing.quantities import amount
from pytest_resilience.runtime import Caps, Runtime
from pytest_resilience.stress import machine

before = machine.available_memory()
runtime = Runtime(caps=Caps(memory=amount("memory", "8GiB")))
running = runtime.start(ChaosExperiment("greedy", "memory_stress", size="2GiB"), seed=1)
left = machine.available_memory()
# Somebody else needs more than the reserve: the worker gives way.
need = bytearray(left - 4 * 2**20)
for page in range(0, len(need), 4096):
    need[page] = 1
running.stop()
print(json.dumps([before, left, running.pressure.achieved]))
"""


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A control group of 512 MiB, where this user may make one."""
    for parent, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = parent / f"pytest-resilience-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(LIMIT))
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no right to make a control group with a memory limit")


def test_memory_stress_never_has_anybody_killed_in_a_group_of_512_mib(limited_group: Path) -> None:
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    child = subprocess.run(
        ["sh", "-c", enter, str(limited_group), sys.executable, "-c", GREEDY],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    before, left, achieved = json.loads(child.stdout)
    assert before <= LIMIT
    assert left >= 50 * MIB  # the reserve of 64 MiB, less what this process itself has taken
    assert 0 < achieved < LIMIT
    assert _kills(limited_group) == 0


def _kills(group: Path) -> int:
    for name in ("memory.oom_control", "memory.events"):
        if (group / name).exists():
            fields = dict(line.split() for line in (group / name).read_text().splitlines())
            return int(fields.get("oom_kill", "0"))
    raise AssertionError("nobody counts")

"""Stress by worker processes: what it does to the machine, and that nothing is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience import Event
from pytest_resilience import UnavailableError
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.parsing.quantities import amount
from pytest_resilience.runtime import Caps
from pytest_resilience.runtime import Runtime
from pytest_resilience.stress import machine


MIB = 2**20
LARGE = Caps(disk=amount("disk", "100%"), memory=amount("memory", "100%"))


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    made = Runtime(caps=LARGE)
    yield made
    for active_experiment in made.engine.active:
        active_experiment.stop()
    assert workers() == []


def start(runtime: Runtime, kind: str, **parameters: Any) -> ActiveExperiment:
    return runtime.start(ChaosExperiment(kind, kind, **parameters), seed=1)


def workers(of: int | None = None) -> list[psutil.Process]:
    found = filter(lives, psutil.Process(of).children(recursive=True))
    return [each for each in found if "worker_main" in " ".join(each.cmdline())]


def lives(process: psutil.Process) -> bool:
    """Not gone, and not waiting for its parent to notice that it is."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], object]) -> None:
    """Wait for something that other processes bring about."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_core_is_loaded_by_a_process_of_its_own(runtime: Runtime) -> None:
    running = start(runtime, "cpu_stress", cores=2, load=0.5)
    found = workers()
    assert len(found) == 2
    until(lambda: all(each.cpu_times().user > 0.05 for each in found))
    running.stop()
    assert not any(each.is_running() for each in found)
    reading = running.pressure
    assert reading is not None
    assert (reading.asked, reading.unit) == (1.0, "CPUs")
    assert reading.achieved > 0
    assert reading.seconds > 0
    assert reading.others is not None
    assert 0 <= reading.others <= 1


def test_threads_that_load_the_lock_are_this_process_own(runtime: Runtime) -> None:
    before = time.process_time()
    running = start(runtime, "cpu_stress", gil=True, cores=2, load=1)
    while time.process_time() - before < 0.1:
        pass
    running.stop()
    reading = running.pressure
    assert reading is not None
    assert reading.unit == "CPUs in threads"
    assert reading.asked == 2  # whatever the lock lets them have
    assert reading.achieved > 0


def test_memory_is_held_and_given_back(runtime: Runtime) -> None:
    running = start(runtime, "memory_stress", size="64MiB")
    (worker,) = workers()
    assert worker.memory_info().rss >= 64 * MIB
    running.stop()
    assert not worker.is_running()
    reading = running.pressure
    assert reading is not None
    assert reading.asked == 64 * MIB
    assert reading.achieved == pytest.approx(64 * MIB, rel=0.02)


def test_memory_can_grow_slowly(runtime: Runtime) -> None:
    small = start(runtime, "memory_stress", size="1MiB")
    (worker,) = workers()
    interpreter = worker.memory_info().rss - MIB
    small.stop()
    running = start(runtime, "memory_stress", size="32MiB", ramp="100ms")
    (worker,) = workers()
    until(lambda: worker.memory_info().rss >= interpreter + 31 * MIB)
    running.stop()
    reading = running.pressure
    assert reading is not None
    assert reading.achieved == pytest.approx(32 * MIB, rel=0.05)


def test_a_reserve_is_left_whatever_was_asked(runtime: Runtime) -> None:
    there = machine.available_memory()
    running = start(
        runtime, "memory_stress", size=there // 2, reserve=there - 32 * MIB, duration="5m"
    )
    running.stop()
    reading = running.pressure
    assert reading is not None
    assert reading.achieved < there // 4


def test_a_disk_is_written_and_nothing_is_left(runtime: Runtime, tmp_path: Path) -> None:
    running = start(runtime, "disk_stress", size="2MiB", path=str(tmp_path))
    (worker,) = workers()
    assert list(tmp_path.iterdir()) == []  # the file has no name
    assert any(f"{tmp_path}" in os.readlink(each) for each in _links(worker.pid))
    running.stop()
    reading = running.pressure
    assert reading is not None
    assert reading.achieved <= 2 * MIB
    assert reading.detail.startswith("wrote ")
    assert "read" in reading.detail
    assert "synced" in reading.detail


def _links(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


def test_a_disk_is_filled_up_to_a_floor(runtime: Runtime) -> None:
    folder = "/dev/shm"  # a file system of its own, in memory
    if not os.access(folder, os.W_OK):
        pytest.skip("no /dev/shm to fill")
    free, _ = machine.disk_space(folder)
    size, others = 256 * MIB, 100 * MIB  # what others may take or give back meanwhile
    floor = free - size
    if floor < 2 * others:
        pytest.skip("/dev/shm is too small to fill a part of it")
    running = start(runtime, "disk_stress", fill=True, floor=floor, path=folder)
    assert machine.disk_space(folder)[0] <= floor + others
    running.stop()
    assert running.pressure is not None
    assert running.pressure.achieved == pytest.approx(size, abs=others)
    assert machine.disk_space(folder)[0] >= free - others


@pytest.mark.parametrize("kind", ["cpu_stress", "memory_stress", "disk_stress"])
def test_intensity_0_is_nothing(runtime: Runtime, kind: str) -> None:
    running = start(runtime, kind, intensity=0)
    assert workers() == []
    running.stop()
    assert (running.matched, running.hits) == (1, 0)


def test_filling_at_intensity_0_is_nothing_either(runtime: Runtime) -> None:
    running = start(runtime, "disk_stress", intensity=0, fill=True)
    assert workers() == []
    running.stop()
    assert (running.matched, running.hits) == (1, 0)


def test_it_ends_with_its_duration(runtime: Runtime) -> None:
    running = start(runtime, "cpu_stress", cores=1, load=0.1, duration="50ms")
    until(lambda: running.pressure is not None)
    assert workers() == []
    running.stop()


def test_it_ends_though_its_duration_is_over_before_it_has_begun(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine, where whoever starts it comes late."""

    class HastyTimer(threading.Timer):
        def start(self) -> None:
            super().start()
            self.join(0.05)

    monkeypatch.setattr(threading, "Timer", HastyTimer)
    running = start(runtime, "cpu_stress", cores=1, load=0.1, duration="1ms")
    until(lambda: running.pressure is not None)
    assert workers() == []
    running.stop()


def test_its_timer_has_ended_when_it_has(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the timer's thread hears of that: it would keep what happened in the test."""
    awaited, timers = threading.Event(), list[threading.Timer]()

    class LateTimer(threading.Timer):
        def run(self) -> None:
            timers.append(self)
            super().run()
            awaited.wait()

        def join(self, timeout: float | None = None) -> None:
            awaited.set()
            super().join(timeout)

    monkeypatch.setattr(threading, "Timer", LateTimer)
    start(runtime, "thread_exhaustion", duration="1h").stop()
    try:
        assert [each.is_alive() for each in timers] == [False]
    finally:
        awaited.set()


def test_it_is_told_as_an_event(runtime: Runtime) -> None:
    told: list[FaultInjected] = []

    def note(event: Event) -> None:
        assert isinstance(event, FaultInjected)
        told.append(event)

    runtime.engine.listeners.add(note)
    start(runtime, "cpu_stress", cores=1, load=0.1).stop()
    assert [(each.kind, each.fault) for each in told] == [
        ("stress.cpu", "CPU load 0.1 on 1 core(s)")
    ]


def test_two_at_once_end_each_on_its_own(runtime: Runtime) -> None:
    first = start(runtime, "cpu_stress", cores=1, load=0.1)
    (theirs,) = workers()
    second = start(runtime, "memory_stress", size="1MiB")
    assert len(workers()) == 2
    second.stop()
    assert workers() == [theirs]
    first.stop()
    assert workers() == []


def test_what_fails_to_begin_leaves_nothing(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="is no folder"):
        start(runtime, "disk_stress", path=str(tmp_path / "gone"))
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(UnavailableError, match="could not begin: it ended, or did not begin"):
        start(runtime, "cpu_stress", cores=2, load=0.1)
    assert runtime.engine.active == ()


STORY = """
import sys, time
from pytest_resilience import ChaosExperiment
from pytest_resilience.runtime import Runtime

runtime = Runtime()
runtime.start(ChaosExperiment("c", "cpu_stress", cores=1, load=0.2), seed=1)
runtime.start(ChaosExperiment("m", "memory_stress", size="8MiB"), seed=1)
runtime.start(ChaosExperiment("d", "disk_stress", size="1MiB", path=sys.argv[1]), seed=1)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_workers_end_when_their_parent_is_killed(how: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STORY, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        found = workers(parent.pid)
        assert len(found) == 3
        getattr(parent, how)()
        parent.wait(10)
        until(lambda: not any(map(lives, found)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_workers_end_even_if_a_child_holds_their_pipe(tmp_path: Path) -> None:
    """A child of the test, forked while they worked, has inherited it."""
    forked = STORY.replace("print(", "import os\nif os.fork():\n    print(")
    with subprocess.Popen(
        [sys.executable, "-c", forked, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        found = workers(parent.pid)
        assert len(found) == 3
        parent.kill()
        parent.wait(10)
        try:
            until(lambda: not any(map(lives, found)))
        finally:
            for each in family:
                if each.is_running():
                    each.kill()


@pytest.mark.skipif(shutil.which("stress-ng") is None, reason="stress-ng is not installed")
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("cpu_stress", {"cores": 1, "load": 0.5}),
        ("memory_stress", {"size": "16MiB"}),
        ("disk_stress", {"size": "4MiB"}),
    ],
)
def test_stress_ng_does_it_too(
    runtime: Runtime, tmp_path: Path, kind: str, parameters: dict[str, Any]
) -> None:
    if kind == "disk_stress":
        parameters = {**parameters, "path": str(tmp_path)}
    running = start(runtime, kind, engine="stress-ng", **parameters)
    (worker,) = workers()
    until(lambda: worker.children(recursive=True))
    family = worker.children(recursive=True)
    running.stop()
    until(lambda: not any(map(lives, family)))
    assert list(tmp_path.iterdir()) == []


def test_without_stress_ng_it_says_so(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="the program stress-ng is not installed"):
        start(runtime, "cpu_stress", engine="stress-ng")

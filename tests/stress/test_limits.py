"""Limits of this process: the real errors, and everything as before when they are lifted."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import threading

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.hazards import Hazard
from pytest_resilience.hazards import Hazards


@pytest.fixture
def hazards() -> Iterator[Hazards]:
    made = Hazards()
    yield made
    for activation in made.engine.active:
        made.engine.stop(activation)


def start(hazards: Hazards, kind: str, *, name: str = "", **parameters: Any) -> Hazard:
    return hazards.start(ChaosExperiment(name or kind, kind, **parameters), seed=1)


@pytest.mark.parametrize("leave", [0, 1, 7])
def test_exactly_so_many_files_can_be_opened(hazards: Hazards, leave: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    hazard = start(hazards, "fd_exhaustion", leave=leave)
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(leave + 1))
    finally:
        for each in opened:
            os.close(each)
        hazard.stop()
    assert caught.value.errno == errno.EMFILE
    assert len(opened) == leave
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    Path(os.devnull).read_bytes()
    reading = hazard.activation.pressure
    assert reading is not None
    assert (reading.asked, reading.achieved) == (leave, leave)


def test_open_files_stay_usable(hazards: Hazards, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w+") as file:
        hazard = start(hazards, "fd_exhaustion", leave=0)
        file.write("still here")
        file.flush()
        hazard.stop()
    assert (tmp_path / "open").read_text() == "still here"


def test_intensity_says_how_many_descriptors_are_left(hazards: Hazards) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        hazard = start(hazards, "fd_exhaustion", intensity=0.5)
        lowered = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        hazard.stop()
        assert lowered < 512
        calm = start(hazards, "fd_exhaustion", intensity=0)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(soft, 512)
        calm.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_thread_starts(hazards: Hazards) -> None:
    hazard = start(hazards, "thread_exhaustion")
    with pytest.raises(RuntimeError, match="can't start new thread"):
        threading.Thread(target=int).start()
    hazard.stop()
    thread = threading.Thread(target=int)
    thread.start()
    thread.join(10)
    calm = start(hazards, "thread_exhaustion", intensity=0)
    threading.Thread(target=int).start()
    calm.stop()


def test_no_memory_is_to_be_had(hazards: Hazards) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    hazard = start(hazards, "memory_stress", mode="fail", headroom="16MiB")
    with pytest.raises(MemoryError):
        bytearray(64 * 2**20)
    small = bytearray(2**20)
    hazard.stop()
    assert len(small) + len(bytearray(64 * 2**20)) == 65 * 2**20
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    calm = start(hazards, "memory_stress", mode="fail", intensity=0)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    calm.stop()


def test_while_it_is_paused_there_is_no_limit(hazards: Hazards) -> None:
    hazard = start(hazards, "fd_exhaustion", leave=0)
    hazard.activation.paused = True
    hazards.engine.settle()
    Path(os.devnull).read_bytes()
    hazard.activation.paused = False
    hazards.engine.settle()
    with pytest.raises(OSError, match="Too many open files"):
        os.open(os.devnull, os.O_RDONLY)
    hazard.stop()


def descriptors() -> int:
    """How many can be opened, 1000 at most."""
    opened: list[int] = []
    try:
        while len(opened) < 1000:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return len(opened)
    finally:
        for each in opened:
            os.close(each)
    return len(opened)


@pytest.mark.parametrize("ends", list(itertools.permutations(range(3))))
def test_limits_that_overlap_end_in_any_order(hazards: Hazards, ends: tuple[int, ...]) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE), threading.stack_size()
    running = [start(hazards, "fd_exhaustion", name=f"{n}", leave=n) for n in (5, 2, 9)]
    running_too = [start(hazards, "thread_exhaustion", name=f"threads {n}") for n in range(3)]
    assert descriptors() == 2
    left = {0: 5, 1: 2, 2: 9}
    for each in ends:
        running[each].stop()
        running_too[each].stop()
        del left[each]
        if left:
            assert descriptors() == min(left.values())
    assert (resource.getrlimit(resource.RLIMIT_NOFILE), threading.stack_size()) == before


def test_a_limit_that_the_test_sets_meanwhile_is_kept(hazards: Hazards) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hazard = start(hazards, "fd_exhaustion", leave=3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    hazard.stop()
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert kept == (min(soft, 300), hard)


PRESSURES: dict[str, tuple[str, dict[str, Any]]] = {
    "processes": ("cpu_stress", {"cores": 1, "load": 0.1}),
    "threads of ours": ("cpu_stress", {"cores": 1, "load": 0.1, "gil": True}),
    "memory": ("memory_stress", {"size": "1MiB"}),
    "memory limit": ("memory_stress", {"mode": "fail", "headroom": "64MiB"}),
    "disk": ("disk_stress", {"size": "1MiB"}),
    "descriptors": ("fd_exhaustion", {"leave": 0}),
    "descriptors by intensity": ("fd_exhaustion", {"intensity": 1.0}),
    "no threads": ("thread_exhaustion", {}),
}
LIMITS = ["memory limit", "descriptors", "no threads"]


@pytest.mark.parametrize("first_ends_first", [True, False])
@pytest.mark.parametrize("second", PRESSURES)
@pytest.mark.parametrize("first", LIMITS)
def test_whatever_begins_while_a_limit_is_on(
    hazards: Hazards, first: str, second: str, first_ends_first: bool
) -> None:
    before = [resource.getrlimit(each) for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)]
    running = [
        start(hazards, kind, name=name, duration=60, **parameters)
        for name, (kind, parameters) in (("1", PRESSURES[first]), ("2", PRESSURES[second]))
    ]
    if first == "descriptors":
        assert descriptors() == 0  # what the second has opened was not left to it
    for each in running if first_ends_first else running[::-1]:
        each.stop()
        reading = each.activation.pressure
        assert reading is not None
        assert each.activation.hits == 1
    now = [resource.getrlimit(each) for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)]
    assert (now, threading.stack_size()) == (before, 0)
    threading.Thread(target=int).start()

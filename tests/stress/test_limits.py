"""Limits of this process: the real errors, and everything as before when they are lifted."""

from __future__ import annotations

import errno
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


def start(hazards: Hazards, kind: str, **parameters: Any) -> Hazard:
    return hazards.start(ChaosExperiment(kind, kind, **parameters), seed=1)


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

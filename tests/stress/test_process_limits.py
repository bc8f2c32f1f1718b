"""Limits of this process: the real errors, and everything as before when they are lifted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import resource
import sys
import threading

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.descriptors import open_descriptors
from pytest_resilience.chaos.parsing.quantities import amount
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.runtime import Caps
from pytest_resilience.runtime import Runtime
from pytest_resilience.stress import machine
from pytest_resilience.stress import process_limits
from tests.free_loops import free_loops
from tests.injecting import ending


@pytest.fixture(scope="module")
def one_runtime() -> Runtime:
    return Runtime(caps=Caps(disk=amount("disk", "100%")))


@pytest.fixture
def runtime(one_runtime: Runtime) -> Iterator[Runtime]:
    with ending(one_runtime.engine):
        yield one_runtime


def start(runtime: Runtime, kind: str, *, name: str = "", **parameters: Any) -> ActiveExperiment:
    return runtime.start(ChaosExperiment(name or kind, kind, **parameters), seed=1)


def more_memory() -> int:
    """How much can be had in pieces of 64 MiB, in bytes, 4 GiB at most.

    One piece alone could be a hole that the allocator has kept: that is within any limit. And
    unlike a bytearray, bytes are not written to, so they take no memory of the machine's.
    """
    pieces: list[bytes] = []
    with contextlib.suppress(MemoryError):
        while len(pieces) < 64:
            pieces.append(bytes(64 * 2**20))
    return 64 * 2**20 * len(pieces)


@pytest.mark.parametrize("leave", [0, 1, 7])
def test_exactly_so_many_files_can_be_opened(runtime: Runtime, leave: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    running = start(runtime, "fd_exhaustion", leave=leave)
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(leave + 1))
    finally:
        for each in opened:
            os.close(each)
        running.stop()
    assert caught.value.errno == errno.EMFILE
    assert len(opened) == leave
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    Path(os.devnull).read_bytes()
    reading = running.pressure
    assert reading is not None
    assert (reading.asked, reading.achieved) == (leave, leave)


def test_open_files_stay_usable(runtime: Runtime, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w+") as file:
        running = start(runtime, "fd_exhaustion", leave=0)
        file.write("still here")
        file.flush()
        running.stop()
    assert (tmp_path / "open").read_text() == "still here"


def test_intensity_says_how_many_descriptors_are_left(runtime: Runtime) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        running = start(runtime, "fd_exhaustion", intensity=0.5)
        lowered = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        running.stop()
        assert lowered < 512
        calm = start(runtime, "fd_exhaustion", intensity=0)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(soft, 512)
        calm.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_thread_starts(runtime: Runtime) -> None:
    running = start(runtime, "thread_exhaustion")
    with pytest.raises(RuntimeError, match="can't start new thread"):
        threading.Thread(target=int).start()
    running.stop()
    thread = threading.Thread(target=int)
    thread.start()
    thread.join(10)
    calm = start(runtime, "thread_exhaustion", intensity=0)
    threading.Thread(target=int).start()
    calm.stop()


def test_no_memory_is_to_be_had(runtime: Runtime) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    running = start(runtime, "memory_stress", mode="fail", headroom="16MiB")
    assert more_memory() < 2**30
    small = bytearray(2**20)
    running.stop()
    assert len(small) == 2**20
    assert more_memory() == 4 * 2**30
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    calm = start(runtime, "memory_stress", mode="fail", intensity=0)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    calm.stop()


def test_while_it_is_paused_there_is_no_limit(runtime: Runtime) -> None:
    running = start(runtime, "fd_exhaustion", leave=0)
    running.paused = True
    runtime.engine.refresh()
    Path(os.devnull).read_bytes()
    running.paused = False
    runtime.engine.refresh()
    with pytest.raises(OSError, match="Too many open files"):
        os.open(os.devnull, os.O_RDONLY)
    running.stop()


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


def test_what_ours_give_back_is_not_left_beside_what_nothing_shows(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that waits in `accept` has a descriptor already, which poll does not know."""
    ours = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    hidden = os.open(os.devnull, os.O_RDONLY)
    shown = open_descriptors
    monkeypatch.setattr(process_limits, "open_descriptors", lambda: shown() - {hidden})
    experiment = start(runtime, "fd_exhaustion", leave=1)
    assert descriptors() == 1
    with limits_lifted():
        for each in ours:
            os.close(each)
    assert descriptors() == 1
    experiment.stop()
    os.close(hidden)


@pytest.mark.parametrize("ends", list(itertools.permutations(range(3))))
def test_limits_that_overlap_end_in_any_order(runtime: Runtime, ends: tuple[int, ...]) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE), stack_size()
    running = [start(runtime, "fd_exhaustion", name=f"{n}", leave=n) for n in (5, 2, 9)]
    running_too = [start(runtime, "thread_exhaustion", name=f"threads {n}") for n in range(3)]
    assert descriptors() == 2
    left = {0: 5, 1: 2, 2: 9}
    for each in ends:
        running[each].stop()
        running_too[each].stop()
        del left[each]
        if left:
            assert descriptors() == min(left.values())
    assert (resource.getrlimit(resource.RLIMIT_NOFILE), stack_size()) == before


def test_a_limit_that_the_test_sets_meanwhile_is_kept(runtime: Runtime) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    running = start(runtime, "fd_exhaustion", leave=3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    running.stop()
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert kept == (min(soft, 300), hard)


def test_of_very_many_descriptors_none_is_opened_to_try(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = 0
    real = os.open

    def counting(*given: Any) -> int:
        nonlocal opened
        opened += 1
        return real(*given)

    monkeypatch.setattr(os, "open", counting)
    few = start(runtime, "fd_exhaustion", name="few", leave=5000)
    lowered = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    all_of_them = start(runtime, "fd_exhaustion", name="all", leave=10**12)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (lowered, hard)
    few.stop()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    all_of_them.stop()
    assert opened < 100
    assert lowered <= soft
    assert lowered == soft or lowered >= 5000


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("fd_exhaustion", {"leave": 100}),
        ("thread_exhaustion", {}),
        ("memory_stress", {"mode": "fail", "headroom": "64MiB"}),
    ],
)
def test_to_lift_a_limit_blocks_no_loop(
    runtime: Runtime, kind: str, parameters: dict[str, Any]
) -> None:
    async def lift() -> None:
        with limits_lifted():
            pass

    with asyncio.Runner() as runner:
        start(runtime, kind, **parameters)
        with free_loops():
            runner.run(lift())


PRESSURES: dict[str, tuple[str, dict[str, Any]]] = {
    "processes": ("cpu_stress", {"cores": 1, "load": 0.1}),
    "threads of ours": ("cpu_stress", {"cores": 1, "load": 0.1, "gil": True}),
    "memory": ("memory_stress", {"size": "1MiB"}),
    "memory limit": ("memory_stress", {"mode": "fail", "headroom": "32MiB"}),
    "disk": ("disk_stress", {"size": "1MiB"}),
    "full disk": ("disk_stress", {"fill": True, "path": "/dev/shm"}),
    "descriptors": ("fd_exhaustion", {"leave": 1}),
    "descriptors by intensity": ("fd_exhaustion", {"intensity": 1.0}),
    "no threads": ("thread_exhaustion", {}),
}


def begin(runtime: Runtime, name: str) -> ActiveExperiment:
    kind, parameters = PRESSURES[name]
    if "fill" in parameters:
        free, _ = machine.disk_space(parameters["path"])
        taken = min(64 * 2**20, free // 2)  # of which others may take some meanwhile
        parameters = {**parameters, "floor": free - taken}
    running = len(runtime.engine.active)
    return start(runtime, kind, name=f"{name} {running}", duration=60, **parameters)


def effective(name: str, *others: str) -> bool:
    """Whether this process is under stress, beside the others."""
    match name:
        case "no threads":
            with pytest.raises(RuntimeError):
                threading.Thread(target=int).start()
        case "memory limit":
            assert more_memory() < 2**30
            bytearray(8 * 2**20)  # what ours have taken was not left to it
        case "descriptors":
            return descriptors() == (0 if "descriptors by intensity" in others else 1)
        case "descriptors by intensity":
            return descriptors() == 0
    return True


LIMITS = {"memory limit", "descriptors", "no threads"}
PAIRS = [pair for pair in itertools.product(PRESSURES, repeat=2) if LIMITS & {*pair}]


@pytest.mark.parametrize("first_ends_first", [True, False])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_limit_and_another_stressor_at_once(
    first: str, second: str, first_ends_first: bool, runtime: Runtime
) -> None:
    if "full disk" in {first, second} and not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm to fill")
    before = state_of_the_process()
    running = [begin(runtime, first), begin(runtime, second)]
    try:
        assert effective(first, second)
        assert effective(second, first)
        order = (0, 1) if first_ends_first else (1, 0)
        running[order[0]].stop()
        assert effective((first, second)[order[1]])
    finally:
        for each in running:
            each.stop()
    for each in running:
        reading = each.pressure
        assert reading is not None
        assert each.hits == 1
        if reading.unit == "bytes":
            assert reading.achieved > 0
    assert state_of_the_process() == before
    threading.Thread(target=int).start()


def stack_size() -> int:
    size = threading.stack_size()  # which sets it to the usual one
    threading.stack_size(size)
    return size


def state_of_the_process() -> dict[str, Any]:
    """Every setting of this process that experiments change."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: resource.getrlimit(getattr(resource, name)) for name in names} | {
        "stack": stack_size(),
        "switch": sys.getswitchinterval(),
        "environment": dict(os.environ),
    }


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("descriptors"), st.integers(0, 20)),
        st.tuples(st.just("threads"), st.none()),
        st.tuples(st.just("memory"), st.integers(64, 128)),
        st.tuples(st.just("stop"), st.integers(0, 9)),
        st.tuples(st.just("pause or go on"), st.integers(0, 9)),
        st.tuples(st.just("ours opens"), st.none()),
        st.tuples(st.just("ours closes"), st.none()),
        st.tuples(st.just("foreign files"), st.integers(600, 900)),
        st.tuples(st.just("foreign stack"), st.sampled_from([256, 512, 1024])),
    ),
    max_size=12,
)


class Limited:
    """What is to hold after each step, beside what really does."""

    def __init__(self, runtime: Runtime, files: int) -> None:
        self.runtime = runtime
        self.running: list[tuple[ActiveExperiment, int | None]] = []
        self.files, self.stack = files, 0
        self.foreign = False  # whether the limit on files is somebody else's just now
        self.ours: list[int] = []
        self.number = 0

    def take(self, step: str, given: Any) -> None:
        match step:
            case "stop" | "pause or go on" if not self.running:
                return
            case "stop":
                self.running.pop(given % len(self.running))[0].stop()
                self.foreign = False
            case "pause or go on":
                active_experiment = self.running[given % len(self.running)][0]
                active_experiment.paused = not active_experiment.paused
                self.runtime.engine.refresh()
                self.foreign = False
            case "ours opens":
                with limits_lifted():
                    self.ours.append(os.open(os.devnull, os.O_RDONLY))
                self.foreign = False
            case "ours closes" if self.ours:
                with limits_lifted():
                    os.close(self.ours.pop())
                self.foreign = False
            case "foreign files":
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
                self.files, self.foreign = given, True
            case "foreign stack":
                threading.stack_size(given * 1024)
                self.stack = given * 1024
            case "descriptors":
                self.start("fd_exhaustion", given, leave=given)
            case "threads":
                self.start("thread_exhaustion", None)
            case "memory":
                self.start("memory_stress", None, mode="fail", headroom=f"{given}MiB")

    def start(self, kind: str, left: int | None, **parameters: Any) -> None:
        self.number += 1
        running = start(self.runtime, kind, name=str(self.number), **parameters)
        self.running.append((running, left))
        self.foreign = False

    def check(self) -> None:
        left = [n for each, n in self.running if n is not None and not each.paused]
        if left and not self.foreign:
            assert descriptors() == min(left)
        elif not left:
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == self.files

    def end(self) -> None:
        for each, _ in self.running:
            each.stop()
        for number in self.ours:
            os.close(number)


@settings(deadline=None)  # the machine may be busy
@given(steps=STEPS)
def test_any_nesting_and_order_of_ends_leaves_everything_as_it_was_found(
    one_runtime: Runtime, steps: list[tuple[str, Any]]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    before = state_of_the_process()
    limited = Limited(one_runtime, 500)
    try:
        for step, given in steps:
            limited.take(step, given)
            limited.check()
    finally:
        limited.end()
        found = state_of_the_process()
        threading.stack_size(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    files = (limited.files, hard)  # OFILE: another name for the same
    assert found == before | {
        "RLIMIT_NOFILE": files,
        "RLIMIT_OFILE": files,
        "stack": limited.stack,
    }

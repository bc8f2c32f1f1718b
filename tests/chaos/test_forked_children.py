"""What forked children meet counts in the process that forked them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos import forked_children
from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.active_experiment import SharedCounts
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.forked_children import Pages
from pytest_resilience.runtime import Runtime


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Runtime().engine
    yield made
    for each in made.active:
        each.stop()


def refuse(engine: Engine) -> ActiveExperiment:
    return engine.start(ChaosExperiment("x", "network_failure", rate=1), seed=1)


def connect() -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 9), timeout=5)


def in_child(do: Callable[[], object]) -> int:
    """The exit status of a forked child that does it; -n for a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            do()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_children_match_and_hit_counts(engine: Engine) -> None:
    running = refuse(engine)
    connect()
    for _ in range(3):
        assert in_child(connect) == 0
    assert (running.matched, running.hits) == (4, 4)
    connect()
    assert (running.matched, running.hits) == (5, 5)


def test_children_of_children_count(engine: Engine) -> None:
    running = refuse(engine)

    def twice() -> None:
        connect()
        assert in_child(connect) == 0

    assert in_child(twice) == 0
    assert (running.matched, running.hits) == (2, 2)


def test_a_child_sees_what_it_met_itself_once(engine: Engine) -> None:
    running = refuse(engine)
    connect()

    def look() -> None:
        connect()
        assert (running.matched, running.hits) == (2, 2)

    assert in_child(look) == 0
    assert (running.matched, running.hits) == (2, 2)


@contextlib.contextmanager
def a_child_that_asks(running: ActiveExperiment) -> Iterator[Callable[[], bool]]:
    """A forked child that lives for the block: whether the experiment has an effect in it."""
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        here.close()  # or the end of the parent would not end what it waits for
        while there.recv(1):
            there.sendall(b"1" if running.left(time.monotonic()) else b"0")
        os._exit(0)

    def ask() -> bool:
        here.sendall(b"?")
        return here.recv(1) == b"1"

    with here, there:
        there.close()
        yield ask
    os.waitpid(child, 0)


def test_an_experiment_that_has_ended_has_ended_in_children_that_live_on(engine: Engine) -> None:
    running = refuse(engine)
    with a_child_that_asks(running) as has_effect:
        assert has_effect()
        running.stop()
        assert not has_effect()


def test_one_that_is_paused_is_paused_in_children(engine: Engine) -> None:
    running = refuse(engine)
    running.paused = True
    with a_child_that_asks(running) as has_effect:
        assert not has_effect()
        running.paused = False
        assert has_effect()


def test_one_that_is_killed_has_counted(engine: Engine) -> None:
    running = refuse(engine)

    def die() -> None:
        connect()
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    assert (running.matched, running.hits) == (1, 1)


def test_one_that_ends_its_experiments_ends_none_of_its_parent(engine: Engine) -> None:
    pressed = engine.start(ChaosExperiment("cpu", "cpu_stress", cores=1, load=0.1), seed=1)
    running = refuse(engine)

    def leave() -> None:
        pressed.stop()
        running.stop()

    assert in_child(leave) == 0
    connect()
    pressed.stop()
    assert pressed.pressure is not None
    assert pressed.pressure.seconds > 0


def test_no_lock_of_a_thread_that_is_not_there_stays_held(engine: Engine) -> None:
    running = refuse(engine)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with engine._lock, running.counts._lock:
            held.set()
            over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)

    def do() -> None:
        connect()
        running.stop()

    try:
        signal.alarm(60)
        assert in_child(do) == 0
    finally:
        signal.alarm(0)
        over.set()
        thread.join()
    assert running.matched == 1


def test_who_is_stopped_while_it_takes_a_number_keeps_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked_children, "_TRIES", 100)
    path = str(tmp_path / "counts")
    pages = Pages.make(path)
    counts = SharedCounts(in_total=True)
    counts.share(pages.at(1))
    other = SharedCounts(in_total=True)
    other.join(pages.at(1))
    assert [counts.add(matched=1), other.add(matched=1), counts.add(matched=1)] == [1, 2, 3]
    with open(path) as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        assert counts.add(matched=1) == 4
    Path(path).unlink()  # whose folder it was has gone
    assert other.add(matched=1) == 5
    assert counts.matched == 5

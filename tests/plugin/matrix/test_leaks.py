from __future__ import annotations

import _thread
import gc
import os
import socket
import threading

from collections import Counter
from pathlib import Path

import pytest

from pytest_resilience.plugin.matrix import leaks
from pytest_resilience.plugin.matrix.leaks import LeakedResources
from pytest_resilience.plugin.matrix.leaks import Snapshot
from pytest_resilience.plugin.matrix.leaks import threads_let_go
from tests.forks import in_fork


def test_a_thread_that_is_just_being_started_counts_and_cannot_be_joined() -> None:
    before = Snapshot()
    thread = threading.Thread(target=len)
    # As `Thread.start` does it, until the thread runs: it is listed, and cannot be joined.
    threading._limbo[thread] = thread  # type: ignore[attr-defined]
    try:
        assert thread in threading.enumerate()
        assert before.leaked().threads == 1
    finally:
        del threading._limbo[thread]  # type: ignore[attr-defined]
    assert before.leaked().threads == 0


def test_a_thread_that_c_has_started_is_none_of_the_tests() -> None:
    """Nobody can join it, and Python lists it for ever."""
    before, listed, over = Snapshot(), threading.Event(), threading.Event()

    def runs() -> None:
        threading.current_thread()
        listed.set()
        over.wait(10)

    _thread.start_new_thread(runs, ())
    assert listed.wait(10)
    assert before.leaked() == LeakedResources()
    over.set()


def test_a_thread_that_never_ends_keeps_no_process_from_its_end() -> None:
    over = threading.Event()
    with threads_let_go():
        thread = threading.Thread(target=over.wait)
        thread.start()
    try:
        assert thread.daemon
        with pytest.raises(RuntimeError, match="only be started once"):
            thread.start()
    finally:
        over.set()
    after = threading.Thread(target=len, args=[()])
    after.start()
    after.join()
    assert not after.daemon


def test_sockets_and_files_are_told_apart(tmp_path: Path) -> None:
    before = Snapshot()
    with socket.socket(), (tmp_path / "one").open("w"), (tmp_path / "two").open("w"):
        assert before.leaked() == LeakedResources(sockets=1, files=2)
    assert before.leaked() == LeakedResources()


def test_a_file_that_was_open_before_is_no_leak_by_another_name(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w"):
        before = Snapshot()
        (tmp_path / "log").rename(tmp_path / "log.1")
        assert before.leaked() == LeakedResources()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # others have left threads
def test_what_was_left_by_the_run_before_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not os.stat("/proc/self/fd").st_size:
        pytest.skip("this kernel does not tell how many descriptors are open")
    looked_at = Counter[int]()
    usual = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        looked_at[descriptor] += 1
        return usual(descriptor)

    def story() -> int:
        first = Snapshot()
        with (tmp_path / "one").open("w") as kept:
            first.leaked()
            monkeypatch.setattr(os, "fstat", fstat)
            second = Snapshot(first)
            assert second.leaked() == LeakedResources()
            assert looked_at == Counter()
            assert second.leaked(LeakedResources()) == LeakedResources()
            assert looked_at[kept.fileno()] == 1
        return 0

    # A thread that accepts has a descriptor which counts and is not open yet. Here are no others.
    assert in_fork(story) == 0


def test_what_begins_and_ends_between_two_runs_is_none_of_theirs(tmp_path: Path) -> None:
    ended = socket.socket()
    runs = [Snapshot()]
    runs[-1].leaked()
    ended.close()
    runs.append(Snapshot(runs[-1]))
    assert runs[-1].leaked() == LeakedResources()
    with socket.socket(), (tmp_path / "one").open("w"):
        runs.append(Snapshot(runs[-1]))
        assert runs[-1].leaked() == LeakedResources()
        with socket.socket():
            assert runs[-1].leaked() == LeakedResources(sockets=1)
        runs.append(Snapshot(runs[-1]))
        with (tmp_path / "two").open("w"):
            assert runs[-1].leaked() == LeakedResources(files=1)


def test_one_for_another_is_no_leak(tmp_path: Path) -> None:
    """As a pool that a fixture keeps has it, when a connection of its died."""
    first, second = socket.socket(), (tmp_path / "one").open("w")
    before = Snapshot()
    first.close()
    second.close()
    with (tmp_path / "two").open("w"), socket.socket():
        assert before.leaked(LeakedResources()) == LeakedResources()
        with socket.socket():
            assert before.leaked(LeakedResources()) == LeakedResources(sockets=1)


def test_what_is_closed_of_others_hides_nothing_of_the_run_that_others_are_held_against() -> None:
    first = socket.socket()
    before = Snapshot()
    first.close()
    with socket.socket():
        calm = before.leaked()
        assert calm == LeakedResources(sockets=1)
        before = Snapshot()
        with socket.socket():
            assert not before.leaked(calm).more_than(calm)


def test_what_a_cycle_holds_hides_no_leak_of_the_next_run() -> None:
    class Client:
        def __init__(self) -> None:
            self.me, self.socket = self, socket.socket()

        def __del__(self) -> None:
            self.socket.close()

    gc.disable()
    try:
        before = Snapshot()
        Client()
        assert before.leaked() == LeakedResources()
        before = Snapshot()
        gc.collect()
        with socket.socket():
            assert before.leaked() == LeakedResources(sockets=1)
    finally:
        gc.enable()


def test_what_an_earlier_run_has_closed_may_be_opened_again() -> None:
    with socket.socket():
        calm = Snapshot().leaked()
    before = Snapshot()
    with socket.socket():
        assert before.leaked(calm) == LeakedResources()
        with socket.socket():
            assert before.leaked(calm) == LeakedResources(sockets=1)


def test_a_socket_that_another_thread_is_about_to_close_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ClosingClock:
        def sleep(self, seconds: float) -> None:
            accepted.close()

    monkeypatch.setattr(leaks, "MACHINE_CLOCK", ClosingClock())
    over = threading.Event()
    server = threading.Thread(target=over.wait)
    server.start()
    before = Snapshot()
    with socket.socket() as accepted:
        found = before.leaked()
    over.set()
    server.join()
    assert found == LeakedResources()


@pytest.mark.parametrize("by_the_project", [False, True])
def test_old_objects_are_left_out_only_for_a_while(by_the_project: bool) -> None:
    gc.unfreeze()
    if by_the_project:
        gc.freeze()
    try:
        with leaks.old_objects_kept():
            assert gc.get_freeze_count() > 0
        assert (gc.get_freeze_count() > 0) is by_the_project
    finally:
        gc.freeze()

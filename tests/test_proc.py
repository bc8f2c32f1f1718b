from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading

import pytest

from pytest_resilience import proc


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


def test_nothing_is_said_of_what_is_not_there() -> None:
    assert proc.read("/proc/self/fdinfo/999999") == b""
    assert proc.system_call_of(None) is None  # a thread that has not begun
    assert list(proc.polled_by(999999)) == []


def test_a_part_of_a_file() -> None:
    assert proc.read("/proc/self/comm", size=2, at=1) == proc.read("/proc/self/comm")[1:3] != b""


def test_a_thread_that_waits_is_in_one() -> None:
    ours, its = os.pipe()
    thread = threading.Thread(target=os.read, args=(ours, 1), name="waits")
    thread.start()
    try:
        found = None
        while found is None or found[1][0] != ours:
            found = proc.system_call_of(thread.native_id)
        assert len(found[1]) == 3
        assert found[1][2] == 1  # byte
    finally:
        os.write(its, b"x")
        thread.join()
        os.close(ours)
        os.close(its)


def test_what_an_epoll_object_polls() -> None:
    ours, its = os.pipe()
    with contextlib.closing(select.epoll()) as epoll:
        epoll.register(ours, select.EPOLLIN)
        epoll.register(its, select.EPOLLOUT)
        found = dict(proc.polled_by(epoll.fileno()))
    os.close(ours)
    os.close(its)
    assert found.keys() == {ours, its}
    assert found[ours] & select.EPOLLIN
    assert not found[its] & select.EPOLLIN


def test_a_program_is_told_from_those_before_and_after_it() -> None:
    code = "import os, sys; print(flush=True); input(); os.execv(sys.executable, sys.argv[1:])"
    ends = [sys.executable, "-c", "print(flush=True); input()"]
    command = [sys.executable, "-c", code, *ends]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        found = []
        for _ in range(2):
            process.stdout.readline()
            found += [proc.program_of(process.pid), proc.program_of(process.pid)]
            process.stdin.write(b"\n")
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert proc.program_of(process.pid) == ""  # nobody has asked how it ended
    first, same, second, same_again = found
    assert first == same != second == same_again != ""
    assert first.split()[0] == second.split()[0]
    assert proc.program_of(process.pid) == ""

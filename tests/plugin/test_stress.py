"""Pressure asked for in a suite: by marker, fixture, flag; capped, reported, ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

from pathlib import Path

import psutil
import pytest


def workers(of: int) -> list[psutil.Process]:
    found = psutil.Process(of).children(recursive=True)
    return [each for each in found if lives(each) and "labour" in " ".join(each.cmdline())]


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_by_marker_fixture_and_flag(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import os
        import threading

        import psutil
        import pytest

        def workers():
            return [
                each for each in psutil.Process().children(recursive=True)
                if "labour" in " ".join(each.cmdline())
            ]

        @pytest.mark.chaos("memory_stress", size="4MiB")
        def test_marked():
            assert len(workers()) == 2  # that of the flag, too

        def test_parts(chaos):
            with chaos.cpu_stress(load=0.1, cores=1) as stress:
                assert len(workers()) == 2
            assert len(workers()) == 1
            assert stress.pressure.asked == 0.1
            with chaos.disk_stress(size="1MiB"):
                pass
            with chaos.memory_stress(mode="fail", headroom="8MiB"), pytest.raises(MemoryError):
                bytearray(64 * 2**20)
            with chaos.thread_exhaustion(), pytest.raises(RuntimeError):
                threading.Thread(target=int).start()
            with chaos.fd_exhaustion(leave=0), pytest.raises(OSError):
                open(os.devnull)
            assert [event.kind for event in chaos.events] == [
                "stress.disk", "stress.cpu", "stress.disk", "stress.memory", "stress.threads",
                "stress.descriptors",
            ]

        @pytest.mark.no_chaos
        def test_calm():
            assert workers() == []
    """)
    result = pytester.runpytest("--chaos=disk_stress:size=1MiB")
    result.assert_outcomes(passed=3)
    lines = result.stdout.str()
    assert re.search(
        r"disk_stress: disk load 1 MiB \[flag\] - 2 tests, asked 1 MiB, got .* of the machine "
        r"\(the last of 2\)",
        lines,
    )
    assert re.search(r"memory load 4 MiB \[marker\] - 1 test, asked 4 MiB, got 4.*MiB; oth", lines)
    assert re.search(r"cpu_stress: CPU load 0.1 on 1 core\(s\) \[fixture\] - 1 test, asked", lines)


def test_caps_come_from_the_ini_file(pytester: pytest.Pytester) -> None:
    pytester.makeini("""
        [pytest]
        chaos_max_memory = 1MiB
        chaos_max_cpu = 10%
    """)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.chaos("memory_stress", size="2MiB")
        @pytest.mark.chaos("cpu_stress", cores=1, load=1)
        def test_it():
            pass
    """)
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    where = "*test_caps_come_from_the_ini_file.py"
    over = "memory load 2 MiB: 2 MiB is over the cap of 1 MiB (chaos_max_memory = 1 MiB)"
    result.stderr.fnmatch_lines_random([
        f"{where}:3: {over}*",
        f"{where}:4: CPU load 1 on 1 core(s): 1 CPUs are more than *",
    ])  # fmt: skip
    flag = pytester.runpytest("--chaos=memory_stress:size=2MiB", "--no-chaos")
    flag.stderr.fnmatch_lines(["ERROR: --chaos=memory_stress:size=2MiB: * over the cap *"])
    pytester.makeini("[pytest]\nchaos_max_disk = some")
    bad = pytester.runpytest()
    bad.stderr.fnmatch_lines(["ERROR: chaos_max_disk='some' is no quantity; *"])


def test_what_the_machine_cannot_do_is_a_skip(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.chaos("cpu_stress", load=0.1, cores=1, engine="stress-ng")
        def test_it():
            pass
    """)
    monkeypatch.setenv("PATH", str(pytester.path))
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    reason = "engine='stress-ng': the program stress-ng is not installed"
    result.stdout.fnmatch_lines([f"SKIPPED * chaos experiment 'cpu_stress': {reason}"])


STORY = """
import os
import time

import pytest

@pytest.mark.chaos("cpu_stress", load=0.1, cores=1)
@pytest.mark.chaos("memory_stress", size="4MiB")
def test_it():
    with open(os.environ["STARTED"], "w") as file:
        file.write(str(os.getpid()))
    {end}
"""


def until_started(path: Path, process: subprocess.Popen[bytes]) -> int:
    """The process id of whoever runs the test."""
    while process.poll() is None:
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.01)
    raise AssertionError("it ended")


@pytest.mark.parametrize("arguments", [[], ["-p", "xdist", "-n", "1"]], ids=["alone", "xdist"])
def test_nothing_outlives_a_run_that_is_killed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    started = pytester.path / "started"
    monkeypatch.setenv("STARTED", str(started))
    pytester.makepyfile(STORY.format(end="time.sleep(600)"))
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", *arguments], stdout=subprocess.DEVNULL
    ) as process:
        runner = until_started(started, process)
        found = workers(runner)
        assert len(found) == 2
        process.kill()
        process.wait()
    if arguments:  # a worker of xdist ends when it notices; what presses must not wait for that
        os.kill(runner, signal.SIGKILL)
    end = time.monotonic() + 30
    while any(map(lives, found)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nothing_outlives_a_worker_of_xdist_that_crashes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARTED", str(pytester.path / "started"))
    pytester.makepyfile(STORY.format(end="os._exit(3)"))
    result = pytester.runpytest_subprocess("-p", "xdist", "-n", "1", "--max-worker-restart=0")
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed while running*"])
    end = time.monotonic() + 30
    while any(str(pytester.path) in _folder(each) for each in psutil.process_iter()):
        assert time.monotonic() < end
        time.sleep(0.01)


def _folder(process: psutil.Process) -> str:
    try:
        return process.cwd() if "labour" in " ".join(process.cmdline()) else ""
    except psutil.Error:
        return ""

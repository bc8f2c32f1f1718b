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

from tests.ahead import runs


def workers(of: int) -> list[psutil.Process]:
    found = psutil.Process(of).children(recursive=True)
    return [each for each in found if lives(each) and "worker_main" in " ".join(each.cmdline())]


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
                if "worker_main" in " ".join(each.cmdline())
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
                # One could fit in a hole, or come while the limit is lifted for the package's own.
                [bytearray(64 * 2**20) for _ in range(20)]
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


BIG = """
[profiles.big]
services = {shop = "127.0.0.1"}
experiments = [
    {name = "small", chaos_type = "memory_stress", size = "1MiB"},
    {name = "large", PARAMETERS},
]
"""


@pytest.mark.parametrize(
    "flags",
    [
        ["--chaos-profile=big.toml:big"],
        ["--chaos-monkey=big.toml:big"],
        ["--chaos-profile=big.toml:big", "--chaos-matrix"],
        ["--chaos-profile=big.toml:big", "--chaos-matrix", "--chaos-experiment=large"],
        ["--chaos-profile=big.toml:big", "--chaos-experiment=large"],
        ["--chaos-profile=big.toml:big", "--chaos-intensity=0.1", "--no-chaos"],
        ["--chaos-profile=big.toml:big", "-p", "xdist", "-n", "1"],
        ["--chaos-monkey=big.toml:big", "-p", "xdist", "-n", "1"],
        ["--chaos-profile=big.toml:big", "--collect-only"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        (
            'chaos_type = "memory_stress", size = "3MiB"',
            "memory load 3 MiB: 3 MiB is over the cap of 2 MiB (chaos_max_memory = 2 MiB)*",
        ),
        ('chaos_type = "cpu_stress", cores = 200, load = "0.1%"', "*200 processes are more than *"),
        (
            'chaos_type = "service_failure", target_services = ["shop", "ghost"]',
            "*unknown service 'ghost'*",
        ),
    ],
    ids=["memory", "processes", "services"],
)
def test_a_profile_is_checked_when_it_is_read_whoever_is_to_start_it(
    pytester: pytest.Pytester, flags: list[str], parameters: str, why: str
) -> None:
    pytester.makeini("[pytest]\nchaos_max_memory = 2MiB")
    pytester.makefile(".toml", big=BIG.replace("PARAMETERS", parameters))
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest(*flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: profile 'big': experiment 'large': {why}"])


def test_what_was_not_chosen_of_a_profile_need_not_fit(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nchaos_max_memory = 2MiB")
    large = 'chaos_type = "memory_stress", size = "3MiB"'
    pytester.makefile(".toml", big=BIG.replace("PARAMETERS", large))
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest("--chaos-profile=big.toml:big", "--chaos-experiment=small")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("small: memory load 1 MiB [[]profile] - 1 test, asked 1 MiB, *")


LENIENT = """
from pytest_resilience.stress.stressors import Caps

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        Caps.approve = lambda *_: None
"""


@runs(
    *("--chaos-profile=big.toml:big", "-p", "xdist", "-n1"),
    conftest=LENIENT,
    test_it="def test_it(): pass",
    others={
        "pytest.ini": "[pytest]\nchaos_max_memory = 2MiB",
        "big.toml": BIG.replace("PARAMETERS", 'chaos_type = "memory_stress", size = "3MiB"'),
    },
)
def test_a_worker_of_xdist_tells_the_test_what_has_become_too_much(ran: pytest.RunResult) -> None:
    """Its controller has found that it fits, and a moment later it may not."""
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines("chaos experiment 'large': memory load 3 MiB: 3 MiB is over the cap *")


def test_a_monkey_refuses_what_it_could_never_start(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nchaos_max_memory = 2MiB")
    pytester.makepyfile("""
        import pytest

        from pytest_resilience import ChaosExperiment
        from pytest_resilience import ChaosMonkey
        from pytest_resilience import ConfigurationError

        def test_its_own(chaos_monkey):
            chaos_monkey.register_experiment(ChaosExperiment("s", "memory_stress", size="2MiB"))
            with pytest.raises(ConfigurationError, match="over the cap of 2 MiB"):
                chaos_monkey.register_experiment(ChaosExperiment("m", "memory_stress", size="3MiB"))
            assert list(chaos_monkey.experiments) == ["s"]

        def test_without_pytest():
            with pytest.raises(ConfigurationError, match="10000 processes are more than"):
                ChaosMonkey().register_experiment(
                    ChaosExperiment("c", "cpu_stress", cores=10_000, load=1e-6)
                )
            ChaosMonkey(start=print).register_experiment(  # who starts it knows what can be
                ChaosExperiment("c", "cpu_stress", cores=10_000, load=1e-6)
            )
    """)
    pytester.runpytest().assert_outcomes(passed=2)


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
    reason = "engine='stress-ng': the program stress-ng is not installed; *"
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
        return process.cwd() if "worker_main" in " ".join(process.cmdline()) else ""
    except psutil.Error:
        return ""

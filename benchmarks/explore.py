"""What the exploration costs: `python benchmarks/explore.py`. Takes a minute.

A run beside the same test in pytest alone; the recording, which is a run without faults, beside it
as well; 200 runs of a test of 5 ms; and how many runs twelve failing schedules of five faults take
to become their pairs. Times are of the CPU, and the ways take turns, so that a busy machine tells
much the same.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile

from pathlib import Path


SAVES = """
import time
import pytest

def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

@pytest.mark.parametrize("number", range({times}))
def test_saves(tmp_path, number):
    busy({own})
    for number in range({files}):
        try:
            with open(tmp_path / f"{{number}}.txt", "w") as file:
                file.write("x")
        except (OSError, MemoryError):
            pass
"""
PAIRS = """
import pytest

def is_saved(path):
    try:
        path.write_text("x")
        return True
    except OSError:
        return False

@pytest.mark.parametrize(("pair", "fault"), {cases})
def test_pair(tmp_path, pair, fault):
    failed = {{name for name in {names!r} if not is_saved(tmp_path / name)}}
    assert not failed >= set(pair)
"""
CONFTEST = """
import json
import time
import pytest

spent, tests = [], []

def pytest_configure(config):
    if config.pluginmanager.has_plugin("resilience"):
        from pytest_resilience.plugin.exploration.runs import ExploredRuns
        usual = ExploredRuns.run

        def run(self, item, schedule, *args, **kwargs):
            began = time.process_time()
            ran = usual(self, item, schedule, *args, **kwargs)
            spent.append((item.name, len(schedule), time.process_time() - began))
            return ran

        ExploredRuns.run = run

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    began = time.process_time()
    result = yield
    tests.append((item.name, 0, time.process_time() - began))
    return result

def pytest_unconfigure():
    with open("spent.json", "w") as file:
        json.dump(spent or tests, file)
"""
OWN, FILES, RUNS, TURNS = 0.005, 8, 200, 3
NAMES = "abcde"
FAULTS = ("disk_full", "permission_denied")

Spent = list[tuple[str, int, float]]


def spent(code: str, *arguments: str, kept: str = "") -> tuple[Spent, str]:
    """Of each run, or of each test without any: whose it is, its faults, and its seconds."""
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_it.py").write_text(code)
        Path(folder, "conftest.py").write_text(CONFTEST)
        Path(folder, "kept.txt").write_text(kept)
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment, check=False, capture_output=True, text=True
        )
        found = [tuple(each) for each in json.loads(Path(folder, "spent.json").read_text())]
    return found, done.stdout


def medians() -> tuple[float, float, float, float]:
    """Of a test in pytest alone, of runs without and with a fault; and those together."""
    alone, calm, faulted = [], [], []
    for _ in range(TURNS):
        plain, _ = spent(SAVES.format(own=OWN, files=FILES, times=RUNS))
        alone.append(statistics.median(seconds for *_, seconds in plain))
        explored, _ = spent(
            SAVES.format(own=OWN, files=FILES, times=20),
            "-p", "resilience", "--chaos-explore", f"--chaos-explore-budget={RUNS // 20}",
        )  # fmt: skip
        calm.append(statistics.median(seconds for _, faults, seconds in explored if not faults))
        faulted.append([seconds for _, faults, seconds in explored if faults])
    together = min(map(sum, faulted)) * RUNS / len(faulted[0])
    return min(alone), min(calm), min(map(statistics.median, faulted)), together


def shrinking() -> dict[str, int]:
    """The runs that it takes to make each of twelve schedules smaller; -1 for one that stays."""
    pairs = ["".join(pair) for pair in itertools.combinations(NAMES, 2)]
    cases = [*((pair, FAULTS[0]) for pair in pairs), *((pair, FAULTS[1]) for pair in pairs[:2])]
    kept = "".join(
        f"test_it.py::test_pair[{pair}-{fault}]  {_schedule(NAMES, fault)}\n"
        for pair, fault in cases
    )
    runs, out = spent(
        PAIRS.format(cases=cases, names=NAMES), "-p", "resilience", "--chaos-explore",
        "--chaos-explore-budget=1", "--chaos-schedules=kept.txt", kept=kept,
    )  # fmt: skip
    found = {}
    for pair, fault in cases:
        name = f"test_pair[{pair}-{fault}]"
        simplest = _schedule(pair, FAULTS[0])  # which fails in the same way
        first = f"pytest 'test_it.py::{name}' --chaos-replay='{simplest}'"
        number = sum(test == name and faults > 0 for test, faults, _ in runs) - 1  # itself
        found[name] = number if first in out else -1
    return found


def _schedule(names: str, fault: str) -> str:
    return ", ".join(f"create(tmp_path/{name})@test_it.is_saved#1={fault}" for name in names)


def main() -> None:
    alone, calm, faulted, together = medians()
    print(f"a test of {OWN * 1e3:g} ms that saves {FILES} files, {2 * FILES} operations:")
    print(f"  in pytest alone {alone * 1e3:.2f} ms")
    print(f"  recorded {calm * 1e3:.2f} ms, {100 * (calm / alone - 1):.0f} % more (5 asked)")
    print(f"  a run {faulted * 1e3:.2f} ms, {1e3 * (faulted - alone):.2f} ms more (2 asked)")
    print(f"  {RUNS} runs {together:.2f} s (2 asked)")
    found = shrinking()
    smaller = [runs for runs in found.values() if runs >= 0]
    print(f"{len(smaller)} of {len(found)} schedules of {len(NAMES)} faults become their pair")
    print(f"  in {max(smaller, default=0)} runs at most (12 asked)")


if __name__ == "__main__":
    main()

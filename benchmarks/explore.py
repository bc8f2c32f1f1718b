"""What the exploration costs: `python benchmarks/explore.py`. Takes half a minute.

A run beside the test's own time; the recording beside the test without it; 200 runs of a test of
5 ms; and how many runs twelve failing schedules of five faults take to become their pairs. Times
are of the CPU, so that a busy machine tells the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from pathlib import Path


TEST = """
import time

def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def test_saves(tmp_path):
    busy({own})
    for number in range({files}):
        try:
            with open(tmp_path / f"{{number}}.txt", "w") as file:
                file.write("x")
        except (OSError, MemoryError):
            pass
"""
CONFTEST = """
import json
import time
from pytest_resilience.plugin.exploration.runs import ExploredRuns

spent = []
usual = ExploredRuns.run

def run(self, item, schedule, *args, **kwargs):
    began = time.process_time()
    ran = usual(self, item, schedule, *args, **kwargs)
    spent.append((len(schedule), time.process_time() - began))
    return ran

ExploredRuns.run = run

def pytest_unconfigure():
    with open("spent.json", "w") as file:
        json.dump(spent, file)
"""
OWN, FILES, RUNS = 0.005, 8, 200


def spent(own: float, files: int, *arguments: str) -> list[tuple[int, float]]:
    """The seconds of each run, with the number of its faults."""
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_it.py").write_text(TEST.format(own=own, files=files))
        Path(folder, "conftest.py").write_text(CONFTEST)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "resilience", "--chaos-explore"]
        subprocess.run(
            [*command, *arguments], cwd=folder, env=environment, check=False, capture_output=True
        )
        found: list[tuple[int, float]] = json.loads(Path(folder, "spent.json").read_text())
    return found


def main() -> None:
    runs = spent(OWN, FILES, f"--chaos-explore-budget={RUNS}")
    faulted = sorted(seconds for faults, seconds in runs if faults)
    median = faulted[len(faulted) // 2]
    print(f"{len(faulted)} runs of a test of {OWN * 1e3:g} ms with {3 * FILES} operations:")
    print(f"  median {median * 1e3:.2f} ms, {1e3 * (median - OWN):.2f} ms over its own (2 asked)")
    print(f"  together {sum(faulted):.2f} s (2 asked for {RUNS})")


if __name__ == "__main__":
    main()

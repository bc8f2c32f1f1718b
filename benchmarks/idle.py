"""What the plugin costs a run that does not use it: `python benchmarks/idle.py`.

Two virtual environments are made in a temporary directory: pytest alone, and pytest with
this checkout and its dependencies installed. Everything is a comparison of the two, in
turns on one core. Wall time on a shared machine resolves a few per cent, which the line
"without / without" shows; instructions are counted by valgrind where it is installed, and
repeat to about 0.3 %. Takes six minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv

from pathlib import Path

from figures import Figure
from figures import pin
from figures import show


ROOT = Path(__file__).parents[1]
PAIRS = 41

IMPORT = """
import time, pytest
began = time.perf_counter()
import pytest_resilience.plugin
print(time.perf_counter() - began)
"""


class Side:
    """An environment with pytest, and how runs in it go."""

    def __init__(self, path: Path, *packages: str) -> None:
        venv.create(path, with_pip=True, symlinks=True)
        self._python = str(path / "bin" / "python")
        self.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)

    def run(self, *args: str, under: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            [*under, self._python, *args],
            env={**environment, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=True,
        )

    def wall(self, *args: str) -> float:
        began = time.perf_counter()
        self.run(*args)
        return time.perf_counter() - began

    def instructions(self, *args: str) -> int:
        valgrind = ("valgrind", "--tool=cachegrind", "--cache-sim=no")
        shown = self.run(*args, under=(*valgrind, "--cachegrind-out-file=/dev/null")).stderr
        [count] = re.findall(r"I +refs: +([\d,]+)", shown)
        return int(count.replace(",", ""))


VIRTUAL = "def test_virtual(virtual_clock):\n    virtual_clock.advance(60)\n\n\n"


def suite(path: Path, tests: int, first: str = "") -> str:
    path.mkdir()
    functions = (
        f"def test_{number}():\n    assert {number} == {number}\n" for number in range(tests)
    )
    (path / "test_plain.py").write_text(first + "\n\n".join(functions))
    return str(path)


def collect(directory: str) -> tuple[str, ...]:
    return ("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", directory)


def plain(directory: str) -> tuple[str, ...]:
    return ("-m", "pytest", "-q", "-p", "no:cacheprovider", directory)


def wall_figures(without: Side, with_plugin: Side, directory: str) -> list[Figure]:
    imports, ratios, noise = [], [], []
    args = collect(directory)
    for _ in range(PAIRS):
        first, ours, second = without.wall(*args), with_plugin.wall(*args), without.wall(*args)
        ratios.append(ours / statistics.fmean([first, second]))
        noise.append(first / second)
        imports.append(float(with_plugin.run("-c", IMPORT).stdout) * 1e3)
    return [
        Figure(
            what="import of the entry module after pytest",
            value=statistics.median(imports),
            target=3.0,
            unit="ms",
        ),
        Figure(
            what="pytest --collect-only, wall, with / without",
            value=statistics.median(ratios),
            target=1.02,
            unit="x",
        ),
        Figure(
            what="pytest --collect-only, wall, without / without",
            value=statistics.median(noise),
            target=None,
            unit="x",
        ),
    ]


def instruction_figures(without: Side, with_plugin: Side, work: Path) -> list[Figure]:
    one, few, many = suite(work / "one", 1), suite(work / "few", 100), suite(work / "many", 400)
    collecting, per_test = [], []
    for side in (without, with_plugin):
        for warm_up in (one, few, many):
            side.run(*plain(warm_up))
        collecting.append(side.instructions(*collect(one)))
        per_test.append((side.instructions(*plain(many)) - side.instructions(*plain(few))) / 300)
    switched_off = with_plugin.instructions(*collect(one), "-p", "no:resilience")
    return [
        Figure(
            what="pytest --collect-only, instructions, with / without",
            value=collecting[1] / collecting[0],
            target=1.05,
            unit="x",
        ),
        # pytest reads the list of files of every distribution that has a plugin.
        Figure(
            what="    installed but switched off (-p no:resilience) / without",
            value=switched_off / collecting[0],
            target=None,
            unit="x",
        ),
        Figure(
            what="an unmarked test, instructions, with / without",
            value=per_test[1] / per_test[0],
            target=1.005,
            unit="x",
        ),
    ]


def of_a_test(side: Side, work: Path, first: str = "") -> float:
    """The instructions of an unmarked test, after the one that is `first`."""
    counts = []
    for tests in (100, 400):
        args = plain(suite(work / f"{tests} {bool(first)}", tests, first))
        side.run(*args)
        counts.append(side.instructions(*args))
    return (counts[1] - counts[0]) / 300


def main() -> int:
    pin()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        without = Side(work / "without", "pytest")
        version = without.run("-c", "import pytest; print(pytest.__version__)").stdout.strip()
        with_plugin = Side(work / "with", f"pytest=={version}", str(ROOT))
        print(f"Python {sys.version.partition(' ')[0]}, pytest {version}")
        directory = suite(work / "collected", 1)
        for side in (without, with_plugin):
            side.run(*collect(directory))
        figures = wall_figures(without, with_plugin, directory)
        if shutil.which("valgrind"):
            figures += instruction_figures(without, with_plugin, work)
            # Two hooks are registered then; the unmarked tests of other runs are the line above.
            clock = Side(work / "clock", f"pytest=={version}", f"{ROOT}[clock]")
            figures.append(
                Figure(
                    what="an unmarked test, instructions, after one with virtual time / without it",
                    value=of_a_test(clock, work, VIRTUAL) / of_a_test(clock, work),
                    target=None,
                    unit="x",
                )
            )
        else:
            print("valgrind is not installed: no instructions are counted")
        return show(figures)


if __name__ == "__main__":
    sys.exit(main())

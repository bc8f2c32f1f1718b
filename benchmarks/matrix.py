"""What the matrix costs: `python benchmarks/matrix.py`. Takes half a minute.

A cell beside the test's own time, in one session; a unit test that no experiment is applicable
to, watched for every family of operations, beside the same test without the matrix; and 400 tests
of 20 ms by one process and by two workers of pytest-xdist.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from pathlib import Path

from figures import Figure
from figures import show


PROFILE = """
[tool.pytest_resilience.profiles.{name}]
seed = 1
"""
EXPERIMENT = """
[[tool.pytest_resilience.profiles.{name}.experiments]]
name = "calm {number}"
chaos_type = "service_failure"
target_services = ["nobody"]
rate = 1

"""
FAMILIES = """
[[tool.pytest_resilience.profiles.{name}.experiments]]
name = "{kind}"
chaos_type = "{kind}"
"""
KINDS = ("network_failure", "database_failure", "disk_failure")
UNITS = 400
TESTS = 100
CELLS = 8  # of each test
SLOW = 400
NAP = 0.02  # seconds


def suite(folder: Path, name: str, experiments: int, tests: int, body: str) -> None:
    tables = "".join(EXPERIMENT.format(name=name, number=number) for number in range(experiments))
    services = f'[tool.pytest_resilience.profiles.{name}.services]\nnobody = "shop:nobody"\n'
    (folder / "pyproject.toml").write_text(PROFILE.format(name=name) + tables + services)
    (folder / "shop.py").write_text("def nobody():\n    return 1\n")
    functions = "".join(f"def test_{number}():\n    {body}\n\n" for number in range(tests))
    (folder / "test_shop.py").write_text(
        f"import contextlib\nimport time\nimport shop\n\n{functions}"
    )


def seconds(folder: Path, *arguments: str) -> float:
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(folder)}
    began = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "resilience", "-p", "no:cacheprovider"]
    subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, check=True
    )
    return time.perf_counter() - began


def overhead(folder: Path) -> Figure:
    """Milliseconds of a cell over those of the same test run alone, without chaos."""
    call = "with contextlib.suppress(Exception):\n        shop.nobody()"
    suite(folder, "p", CELLS, TESTS, call)
    flags = ("--chaos-matrix", "--chaos-profile=p")
    least = {
        "none": min(seconds(folder, *flags, "--chaos-experiment=calm 0") for _ in range(3)),
        "all": min(seconds(folder, *flags) for _ in range(3)),
    }
    value = (least["all"] - least["none"]) / (TESTS * (CELLS - 1)) * 1000
    return Figure(what="a cell, over the test's own time", value=value, target=2.0, unit="ms")


def unit_tests(folder: Path) -> Figure:
    """Milliseconds that the matrix adds to a test that it has nothing for."""
    suite(folder, "p", 1, UNITS, "assert sum(range(10)) == 45")
    with (folder / "pyproject.toml").open("a") as file:
        file.write("".join(FAMILIES.format(name="p", kind=kind) for kind in KINDS))
    few = ("-k", "test_1")  # so that what each run costs once is in both
    flags = ("--chaos-matrix", "--chaos-profile=p", "--resilience-report-only")
    usual = min(seconds(folder) for _ in range(3)) - min(seconds(folder, *few) for _ in range(3))
    matrix = min(seconds(folder, *flags) for _ in range(3)) - min(
        seconds(folder, *flags, *few) for _ in range(3)
    )
    chosen = sum(str(number).startswith("1") for number in range(UNITS))
    value = (matrix - usual) / (UNITS - chosen) * 1000
    what = "a unit test, watched for every family, over the test alone"
    return Figure(what=what, value=value, target=2.0, unit="ms")


def scaling(folder: Path) -> Figure:
    """How long two workers take beside one process; 1/1.7 at most."""
    nap = f"time.sleep({NAP})\n    with contextlib.suppress(Exception):\n        shop.nobody()"
    suite(folder, "p", 1, SLOW, nap)
    flags = ("-p", "xdist", "--chaos-matrix", "--chaos-profile=p")
    one = min(seconds(folder, *flags, "-n", "0") for _ in range(2))
    two = min(seconds(folder, *flags, "-n", "2") for _ in range(2))
    return Figure(
        what=f"{SLOW} tests of {NAP * 1000:g} ms, -n 2 beside -n 0 (at most 1/1.7)",
        value=two / one,
        target=1 / 1.7,
        unit="x",
    )


def main() -> int:
    figures = []
    for measure in (overhead, unit_tests, scaling):
        with tempfile.TemporaryDirectory() as name:
            figures.append(measure(Path(name)))
    return show(figures)


if __name__ == "__main__":
    raise SystemExit(main())

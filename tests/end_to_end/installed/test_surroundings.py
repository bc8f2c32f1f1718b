"""Every fixture and chaos type, where users run pytest in other ways than usual."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ahead import runs_job
from tests.end_to_end.installed.outside import Outside
from tests.end_to_end.installed.outside import Project
from tests.end_to_end.installed.outside import Runs
from tests.end_to_end.installed.outside import assert_passed
from tests.end_to_end.installed.outside import shown
from tests.end_to_end.installed.test_fixtures import FIXTURES
from tests.end_to_end.installed.test_fixtures import NEEDS
from tests.end_to_end.installed.test_markers import INI
from tests.end_to_end.installed.test_markers import SHOP
from tests.end_to_end.installed.test_markers import TYPES
from tests.end_to_end.installed.test_markers import source_of


ALL = Project(
    files={
        "pytest.ini": INI,
        "shop.py": SHOP,
        **{f"test_{name}_fixture.py": source for name, source in FIXTURES.items()},
        **{f"test_{name}_marker.py": source_of(name) for name in TYPES},
    }
)

# How Python is called, and pytest.
WAYS = {
    "without asserts and docstrings": (["-OO"], ["--import-mode=append"]),
    "isolated": (["-I"], ["--import-mode=importlib"]),
    "with every warning an error": (["-X", "dev", "-W", "error"], ["-W", "error"]),
}


TWICE = ("--disable-plugin-autoload", *("-p", "pytest_resilience.plugin") * 2)

WITHOUT = """
    import sys

    def test_it():
        assert [name for name in sys.modules if "resilience" in name] == []
"""


def everything(outside: Outside, folder: Path) -> dict[str, pytest.RunResult]:
    # Its name has to be quoted, and is not ASCII.
    project = folder / "m\u00f6n projekt \u2603"
    project.mkdir()
    ALL.write(project)
    having = outside.having(*NEEDS.values())
    ways = {
        way: outside.run(*python, outside.command, *args, *having, cwd=project)
        for way, (python, args) in WAYS.items()
    }
    but_files = ("-k", "not disk_failure")  # the one that writes where it is run
    nowhere = outside.run(
        outside.command, project, *but_files, *having, cwd=Path("/proc"), HOME=None
    )
    asked = outside.forks(
        {
            "twice": Project(files={"test_it.py": FIXTURES["chaos"]}, args=TWICE),
            "without": Project(files={"test_it.py": WITHOUT}, args=("-p", "no:resilience")),
        }
    )
    return {**ways, "nowhere": nowhere, **asked}


pytestmark = runs_job(Runs(module=__name__))


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_call_python(way: str, runs: dict[str, pytest.RunResult]) -> None:
    assert_passed(runs[way], tests=len(FIXTURES) + len(TYPES))


def test_nowhere_to_write_and_no_home(runs: dict[str, pytest.RunResult]) -> None:
    every = len(FIXTURES) + len(TYPES)
    shown(runs["nowhere"]).assert_outcomes(passed=every - 1, deselected=1)


@pytest.mark.parametrize("asked", ["twice", "without"])
def test_the_plugin_asked_for_twice_and_not_at_all(
    asked: str, runs: dict[str, pytest.RunResult]
) -> None:
    assert_passed(runs[asked])

"""Every fixture and chaos type, where users run pytest in other ways than usual."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.installed.conftest import Outside
from tests.end_to_end.installed.conftest import Project
from tests.end_to_end.installed.conftest import assert_passed
from tests.end_to_end.installed.test_fixtures import FIXTURES
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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """In a folder whose name has to be quoted, and is not ASCII."""
    folder = tmp_path / "m\u00f6n projekt \u2603"
    folder.mkdir()
    return ALL.write(folder)


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_call_python(way: str, outside: Outside, project: Path) -> None:
    python, args = WAYS[way]
    result = outside.run(*python, outside.command, *args, cwd=project)
    assert_passed(result, tests=len(FIXTURES) + len(TYPES))


def test_nowhere_to_write_and_no_home(outside: Outside, project: Path) -> None:
    but_files = ("-k", "not disk_failure")  # the one that writes where it is run
    result = outside.run(outside.command, project, *but_files, cwd=Path("/proc"), HOME=None)
    result.assert_outcomes(passed=len(FIXTURES) + len(TYPES) - 1, deselected=1)


def test_the_plugin_asked_for_twice_and_not_at_all(outside: Outside) -> None:
    twice = ("--disable-plugin-autoload", *("-p", "pytest_resilience.plugin") * 2)
    without = """
        import sys

        def test_it():
            assert [name for name in sys.modules if "resilience" in name] == []
    """
    runs = outside.forks(
        {
            "twice": Project(files={"test_it.py": FIXTURES["chaos"]}, args=twice),
            "without": Project(files={"test_it.py": without}, args=("-p", "no:resilience")),
        }
    )
    for result in runs.values():
        assert_passed(result)

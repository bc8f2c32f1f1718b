"""What is built, and what it says of itself."""

from __future__ import annotations

import configparser
import email.message
import email.parser
import re
import tarfile
import tomllib
import zipfile

from pathlib import Path
from typing import Any

import pytest
import trove_classifiers


ROOT = Path(__file__).parents[1]

DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="session")
def wheel(dist: Path) -> dict[str, bytes]:
    [path] = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="session")
def metadata(wheel: dict[str, bytes]) -> email.message.Message:
    [text] = [data for name, data in wheel.items() if name.endswith(".dist-info/METADATA")]
    return email.parser.Parser().parsestr(text.decode())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: dict[str, bytes]) -> None:
    stem = f"pytest_resilience-{PROJECT['version']}.dist-info"
    assert {name.partition("/")[0] for name in wheel} == {"pytest_resilience", stem}
    shipped = {name for name in wheel if name.startswith("pytest_resilience/")}
    package = ROOT / "pytest_resilience"
    sources = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    assert shipped == sources | {
        "pytest_resilience/__init__.pyi",
        "pytest_resilience/chaos/profile.schema.json",
        "pytest_resilience/plugin/profiles.toml",
        "pytest_resilience/py.typed",
        "pytest_resilience/report/page.css",
        "pytest_resilience/report/page.html",
        "pytest_resilience/report/page.js",
        "pytest_resilience/report/report.schema.json",
    }
    assert f"{stem}/licenses/LICENSE" in wheel


def test_the_sdist_can_be_built_and_tested(dist: Path) -> None:
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {*DOCUMENTS, "pyproject.toml", "tox.ini", ".ci/run"}
    for path in (ROOT / "tests").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in names
    tops = {name.partition("/")[0] for name in names}
    assert tops <= {
        *(".ci", "benchmarks", "docs", "examples", "pytest_resilience", "tests"),
        *(*DOCUMENTS, "mkdocs.yml", "pyproject.toml", "tox.ini"),
        *("PKG-INFO", ".gitignore"),  # what hatchling adds
    }


def test_pytest_finds_the_plugin_under_one_name(wheel: dict[str, bytes]) -> None:
    [text] = [data for name, data in wheel.items() if name.endswith("/entry_points.txt")]
    points = configparser.ConfigParser()
    points.read_string(text.decode())
    assert {name: dict(points[name]) for name in points.sections()} == {
        "pytest11": {"resilience": "pytest_resilience.plugin"}
    }


def test_what_users_get_installed_along(metadata: email.message.Message) -> None:
    required = [
        re.split(r"[ <>=!~]", requirement)[0]
        for requirement in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in requirement
    ]
    assert sorted(required) == ["pluggy", "psutil", "pytest", "requests", "responses"]
    assert "pytest>=8.4" in metadata.get_all("Requires-Dist", [])
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Provides-Extra") == [
        *("aiohttp", "chaostoolkit", "clock", "docs", "httpx", "redis", "report", "test")
    ]


def test_what_the_index_is_told(metadata: email.message.Message) -> None:
    classifiers = metadata.get_all("Classifier", [])
    assert {"Framework :: Pytest", "Typing :: Typed"} <= set(classifiers)
    assert set(classifiers) <= trove_classifiers.classifiers
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"]
    assert metadata["Summary"] == PROJECT["description"]
    urls = dict(each.split(", ") for each in metadata.get_all("Project-URL", []))
    assert urls.keys() >= {"Documentation", "Changelog"}
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_tox_runs_every_python_that_is_promised() -> None:
    promised = re.findall(r"Python :: (3)\.(\d+)", " ".join(PROJECT["classifiers"]))
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    [factors] = re.findall(r"py\{([\d,]+)\}-pytest\{84,latest\}", tox["tox"]["env_list"])
    assert factors.split(",") == ["".join(version) for version in promised]


def test_the_newest_changes_are_on_top() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", PROJECT["version"])
    assert len(headings) == len(set(headings))

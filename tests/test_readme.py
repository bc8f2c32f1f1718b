"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex
import tomllib

from pathlib import Path

import pytest

from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.errors import DOCUMENTATION


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST = 9000  # characters: what is longer nobody reads to its end


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def same_everywhere(lines: list[str]) -> list[str]:
    """Without what differs from run to run: times, and how wide the terminal is."""
    joined = "\n".join(lines).strip()
    joined = re.sub(r"in \d+\.\d+s", "in 0s", joined)
    joined = re.sub(r"={3,}", "===", joined)
    joined = re.sub(r" +\[100%\]", " [100%]", joined)
    return re.sub(r"(?m)^((?:FAILED|ERROR) .{60}).*$", r"\1", joined).splitlines()


def test_the_example_fails_and_then_is_mended(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    sources, consoles = blocks("python"), blocks("console")
    assert len(sources) == len(consoles) == 2
    for source, console, failed in zip(sources, consoles, (1, 0), strict=True):
        name = source.partition("\n")[0].removeprefix("# ")
        (pytester.path / name).write_text(source, encoding="utf-8")
        command, _, shown = console.partition("\n")
        program, *args = shlex.split(command.removeprefix("$ "))
        assert program == "pytest"
        result = pytester.runpytest_subprocess(*args)
        result.assert_outcomes(failed=failed, passed=1 - failed)
        assert same_everywhere(result.outlines) == same_everywhere(shown.splitlines())


def test_it_is_short() -> None:
    assert len(README) <= MOST


def test_every_type_has_its_line() -> None:
    table = "\n".join(re.findall(r"^\| `.*", README, re.MULTILINE))
    assert [kind.value for kind in SCHEMAS if f"`{kind.value}`" not in table] == []


def page_of(link: str) -> Path:
    """The file that the site shows under an address."""
    path = link.removeprefix(DOCUMENTATION)
    if not path.endswith("/"):
        return ROOT / "docs" / path
    page = path.rstrip("/")
    if page in {"changelog", "contributing"}:  # which docs/reference.py takes from the root
        return ROOT / f"{page.upper()}.md"
    candidates = (ROOT / "docs" / page / "index.md", ROOT / "docs" / f"{page}.md")
    return next((each for each in candidates if each.exists()), candidates[-1])


def test_its_links_lead_to_the_site_so_that_they_work_where_it_is_shown_alone() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert len(links) >= 10
    assert [link for link in links if not link.startswith(DOCUMENTATION)] == []
    assert [link for link in links if not page_of(link).exists()] == []


def test_the_site_is_where_the_metadata_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert DOCUMENTATION.startswith(project["urls"]["Documentation"])
    assert f"site_url: {DOCUMENTATION}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

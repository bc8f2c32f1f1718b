"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex

from pathlib import Path

import pytest


README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def same_everywhere(lines: list[str]) -> list[str]:
    """Without what differs from run to run: times, and how wide the terminal is."""
    joined = "\n".join(lines).strip()
    joined = re.sub(r"in \d+\.\d+s", "in 0s", joined)
    joined = re.sub(r"={3,}", "===", joined)
    joined = re.sub(r" +\[100%\]", " [100%]", joined)
    return re.sub(r"(?m)^((?:FAILED|ERROR) .{60}).*$", r"\1", joined).splitlines()


def test_the_first_example_prints_what_it_shows(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in blocks("python")[:2]:
        name = source.partition("\n")[0].removeprefix("# ")
        (pytester.path / name).write_text(source, encoding="utf-8")
    command, _, shown = blocks("console")[0].partition("\n")
    monkeypatch.setenv("COLUMNS", "100")
    program, *args = shlex.split(command.removeprefix("$ "))
    assert program == "pytest"
    result = pytester.runpytest_subprocess(*args)
    assert same_everywhere(result.outlines) == same_everywhere(shown.splitlines())


def test_every_flag_is_there(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest("--help").stdout.str()
    flags = re.findall(r"^\| `(--[a-z-]+)", README, re.MULTILINE)
    assert len(flags) == 12
    for flag in flags:
        assert f"{flag}," in shown or f"{flag} " in shown or f"{flag}=" in shown


def test_the_files_for_ci_use_flags_that_there_are(pytester: pytest.Pytester) -> None:
    files = blocks("yaml")
    assert len(files) == 2
    shown = pytester.runpytest("-p", "xdist", "--help").stdout.str()
    for source in files:
        [command] = re.findall(r"pytest -n .*", source)
        for flag in re.findall(r"--[a-z]+(?:-[a-z]+)*", command):
            assert re.search(rf"{flag}[ =,]", shown), flag
        assert "pytest-resilience[report]" in source

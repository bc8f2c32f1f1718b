"""Whatever a flag or an ini option is told: it is taken, or the run ends with one sentence."""

from __future__ import annotations

import copy

import pytest

from pytest_resilience.plugin.options import VALUES
from pytest_resilience.plugin.settings import _read
from pytest_resilience.plugin.settings import settings_of
from tests.values import ANY
from tests.values import one_sentence


# What can stand on a command line, and what only flags have a use for.
TEXTS = {name: each for name, each in ANY.items() if isinstance(each, str) and "\0" not in each} | {
    "minus": "-1", "zero": "0", "over a hundred": "101", "half a part": "1/", "part 0": "0/3",
    "part 4 of 3": "4/3", "parts": "9" * 5000 + "/" + "9" * 5000, "folder": ".",
    "device": "/dev/zero",
    "no file": "none.toml:ci", "colons": "::", "exponent": "1e9999",
}  # fmt: skip
PROFILE = """
    [tool.pytest_resilience.profiles.ci]
    [[tool.pytest_resilience.profiles.ci.experiments]]
    chaos_type = "network_latency"
"""
TAKEN = {
    "chaos": set(),
    "chaos-profile": set(),
    "chaos-monkey": set(),
    "chaos-explore": set(),
    "chaos-explore-budget": {"over a hundred"},
    "chaos-replay": set(),
    "chaos-experiment": set(),
    "chaos-seed": {"zero", "over a hundred"},
    "chaos-intensity": {"zero"},
    "chaos-probability": {"zero"},
    "resilience-gate": {"zero"},
    "resilience-shard": set(),
    "chaos_services": {"empty", "space"},
    "chaos_max_cpu": {"empty"},
    "chaos_max_memory": {"empty", "zero", "over a hundred", "arabic"},
    "chaos_max_disk": {"empty", "zero", "over a hundred", "arabic"},
}
# Tried where they are read.
ELSEWHERE = {"resilience-report", "resilience-baseline", "chaos-schedules", "chaos-list"}


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyprojecttoml(PROFILE)
    return pytester


def problem(project: pytest.Pytester, *arguments: str) -> str:
    """How the run would end at once; "" if it would not."""
    try:
        config = project.parseconfig("-p", "no:ordeal", *arguments)
        try:
            settings_of(config)
        finally:
            config._ensure_unconfigure()
    except pytest.UsageError as error:
        return str(error)
    return ""


def problem_with(config: pytest.Config, argument: str) -> str:
    """How the run of `config` would end if it were told that, too; "" if it would not."""
    before, config.option = config.option, copy.copy(config.option)
    del config.option.file_or_dir  # which the parser expects to find by itself
    try:
        config._parser.parse([argument], config.option)
        _read(config)
    except pytest.UsageError as error:
        return str(error)
    finally:
        config.option = before
    return ""


@pytest.mark.parametrize("flag", [name for name in VALUES if name not in ELSEWHERE])
def test_every_flag(project: pytest.Pytester, flag: str) -> None:
    config = project.parseconfig("-p", "no:ordeal", "--chaos-profile=ci", "--chaos-matrix")
    taken = set()
    for name, text in TEXTS.items():
        said = problem_with(config, f"--{flag}={text}")
        assert not said or one_sentence(said), (name, said[:300])
        if not said:
            taken.add(name)
    assert taken == TAKEN[flag]


@pytest.mark.parametrize("option", [name for name in TAKEN if "_" in name])
def test_every_ini_option(project: pytest.Pytester, option: str) -> None:
    taken = set()
    for name, text in TEXTS.items():
        said = problem(project, "--chaos=network_latency", "-o", f"{option}={text}")
        assert not said or one_sentence(said), (name, said[:300])
        if not said:
            taken.add(name)
    assert taken == TAKEN[option]


@pytest.mark.parametrize(
    "text", ["²", "\x1b[31m", "::error::x", "x" * 1000, "9" * 5000, "network_latency:delay=\x1b[2J"]
)
def test_what_is_typed_does_nothing_to_the_terminal(
    project: pytest.Pytester, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    project.makepyfile("def test(): pass")
    flags = (
        "chaos", "chaos-list", "chaos-profile", "chaos-seed", "resilience-baseline",
        "resilience-gate",
    )  # fmt: skip
    for flag in flags:
        result = project.runpytest(
            "-p", "no:ordeal", "--chaos-profile=ci", "--chaos-matrix", f"--{flag}={text}"
        )
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        said = capsys.readouterr().err
        assert said.startswith("ERROR: ")
        assert "Traceback" not in said
        assert all(line.isprintable() for line in said.split("\n"))

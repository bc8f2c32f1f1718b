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
    "chaos_max_cpu": {"empty", "zero"},
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


# Who overrules whom: a test for each row of `docs/settings.md`.

PROFILES = """
[tool.pytest.ini_options]
chaos_services = ["stock = shop:stock"]
chaos_max_memory = "1MiB"

[tool.pytest_resilience.profiles.one]
seed = 11
intensity = 0.001
probability = 1
gate = 50

[tool.pytest_resilience.profiles.one.services]
price = "shop:price"

[[tool.pytest_resilience.profiles.one.experiments]]
name = "lag"
chaos_type = "network_latency"

[tool.pytest_resilience.profiles.two]
seed = 12
intensity = 0.002
gate = 70
"""


@pytest.fixture
def shop(suite: pytest.Pytester) -> pytest.Pytester:
    suite.makepyprojecttoml(PROFILES)
    suite.makepyfile(shop="def stock(): return 3\ndef price(): return 4")
    suite.syspathinsert()
    suite.makepyfile("""
        import pytest
        import requests
        import shop

        def test_it(url):
            requests.get(url, timeout=5)

        @pytest.mark.chaos("network_latency", intensity=0.004, name="marked")
        def test_marked(url):
            requests.get(url, timeout=5)

        def test_services(chaos):
            chaos.service("tea", "shop:stock")
            for name in ("tea", "price", "stock"):
                chaos.service_failure(name, must_fire=False)  # it is known, or this raises

        @pytest.mark.no_chaos
        def test_calm(url):
            requests.get(url, timeout=5)
    """)
    return suite


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--chaos-profile=one", "-k", "test_it"], "lag: latency 2ms, *"),
        (["--chaos-profile=one", "--chaos-profile=two", "-k", "test_it"], "lag: latency 4ms, *"),
        (["--chaos-profile=one", "--chaos-intensity=0.003", "-k", "it"], "lag: latency 6ms, *"),
        (["--chaos-intensity=0.003", "-k", "marked"], "marked: latency 8ms, *"),
        (["--chaos-profile=one", "-k", "test_it"], "*chaos (seed 11)*"),
        (["--chaos-profile=one", "--chaos-profile=two", "-k", "test_it"], "*chaos (seed 12)*"),
        (["--chaos-profile=one", "--chaos-seed=13", "-k", "test_it"], "*chaos (seed 13)*"),
        (["--chaos-profile=one", "--chaos-matrix", "-k", "it"], "*passed: 100 %, 50 asked*"),
        (
            ["--chaos-profile=one", "--chaos-profile=two", "--chaos-matrix", "-k", "it"],
            "*70 asked*",
        ),
        (["--chaos-profile=one", "--chaos-matrix", "--resilience-gate=5", "-k", "it"], "*5 asked*"),
        (["--chaos-profile=one", "-k", "services", "-p", "no:randomly"], "* 1 passed*"),
        (
            ["--chaos=network_latency:delay=1ms", "--no-chaos", "-k", "marked"],
            "chaos: none (--no-chaos)",
        ),
        (["--chaos=network_latency:delay=1ms", "-k", "calm"], "*1 passed*"),
    ],
)
def test_row(shop: pytest.Pytester, arguments: list[str], line: str) -> None:
    result = shop.runpytest(*arguments)
    result.stdout.fnmatch_lines([line])
    assert result.ret == 0


def test_probability(shop: pytest.Pytester) -> None:
    profile = shop.runpytest("--chaos-profile=one", "-k", "test_it")
    profile.stdout.fnmatch_lines(["lag: * - 1 test, *"])
    never = shop.runpytest("--chaos-profile=one", "--chaos-probability=0", "-k", "test_it")
    never.stdout.fnmatch_lines(["lag: *not started in 1 (chance)*"])
    marked = shop.runpytest("--chaos-probability=0", "-k", "marked")
    marked.stdout.fnmatch_lines(["marked: *not started in 1 (chance)*"])  # it names none
    flag = shop.runpytest("--chaos=network_latency", "--chaos-probability=0", "-k", "test_it")
    flag.stdout.fnmatch_lines(["network_latency: *not started in 1 (chance)*"])


def test_caps(shop: pytest.Pytester) -> None:
    result = shop.runpytest("--chaos=memory_stress:size=2MiB")
    result.stderr.fnmatch_lines(["ERROR: *over the cap of 1 MiB (chaos_max_memory = 1 MiB)*"])

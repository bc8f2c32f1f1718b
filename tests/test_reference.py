"""The reference in `docs/` lists all there is."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import re
import sys
import tomllib

from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_resilience

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience import HostBreakers
from pytest_resilience import assertions
from pytest_resilience import http_middleware
from pytest_resilience import patterns
from pytest_resilience import plugin
from pytest_resilience import proxy
from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.possible_faults import CRASHES
from pytest_resilience.chaos.possible_faults import CRASHING
from pytest_resilience.chaos.possible_faults import possible_faults
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.network import NETWORK_FAILURE
from pytest_resilience.exploration.schedule import kind_name
from pytest_resilience.plugin import newhooks
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.virtual_time.clock import check_surroundings


ROOT = Path(__file__).parents[1]


@functools.cache
def pages() -> dict[str, str]:
    """Those that the hook of MkDocs writes."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written: Callable[[], dict[str, str]] = module.pages
    return written()


def listed(page: str) -> set[str]:
    """The names that mkdocstrings is to show on a page."""
    return set(re.findall(r"^::: [\w.]+\.(\w+)$", pages()[f"reference/{page}.md"], re.MULTILINE))


def headings(page: str) -> set[str]:
    return set(re.findall(r"^##+ (.+)$", pages()[f"reference/{page}.md"], re.MULTILINE))


def test_every_marker(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest("--markers").stdout.str()
    ours = {each.partition(": ")[0] for each in plugin._MARKERS}
    assert headings("markers") == {each.partition("(")[0] for each in ours}
    for signature in ours:
        assert f"@pytest.mark.{signature}: " in shown
        assert f"`@pytest.mark.{signature}`" in pages()["reference/markers.md"]


def test_every_fixture(pytester: pytest.Pytester) -> None:
    """In a list that says of each in one line what it is for, with what one would write."""
    shown = pytester.runpytest("--fixtures", "-q").stdout.lines
    ours = re.compile(r"(\w+).* -- .*pytest_resilience\S*\.py:\d+")
    told = {
        found[1]: shown[number + 1 : shown.index("", number)]
        for number, line in enumerate(shown)
        if (found := ours.fullmatch(line))
    }
    assert told.keys() == headings("fixtures") & told.keys() > {"chaos", "stub_server"}
    assert not [name for name in told if name.startswith("_")]
    for name, lines in told.items():
        assert len(lines) == 1, name
        assert len(lines[0]) <= 100, name
        assert re.search(r"[.!]$|see the guide", lines[0]), name


def test_every_flag_and_ini_option(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest("--help").stdout.str()
    _, _, group = shown.partition("chaos and resilience:\n")
    flags = re.findall(r"^  (?:--\S+, )?(--[a-z-]+)", group.partition("\n\n")[0], re.MULTILINE)
    assert len(flags) > 15
    page = pages()["reference/options.md"]
    for flag in flags:
        assert re.search(rf"`{flag}[ `]", page), flag
    ini = re.findall(r"^  (chaos_\w+) \(", shown, re.MULTILINE)
    assert len(ini) > 4
    for name in ini:
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("kind", SCHEMAS, ids=lambda kind: kind.value)
def test_every_type_with_parameters_units_and_defaults(kind: object) -> None:
    value = kind.value  # type: ignore[attr-defined]
    assert f"types/{value}.md" in pages()["reference/types.md"]
    page = pages()[f"reference/types/{value}.md"]
    for parameter in SCHEMAS[kind].shown:  # type: ignore[index]
        cells = (parameter.unit, parameter.default)
        row = " | ".join(cell.replace("|", "\\|") for cell in (f"`{parameter.name}`", *cells))
        assert f"| {row} | " in page


def test_every_mode() -> None:
    [mode] = [each for each in NETWORK_FAILURE.parameters if each.name == "mode"]
    page = pages()["reference/types/network_failure.md"]
    modes = mode.unit.split(", ")
    assert len(modes) > 15
    for each in modes:
        assert re.search(rf"^\| `{each}` \| \w.* \| \w.* \| `network\.", page, re.MULTILINE), each
    for name, least in (("service_failure", 7), ("database_failure", 11), ("disk_failure", 11)):
        table = pages()[f"reference/types/{name}.md"].partition("## Parameters")[0]
        assert len(re.findall(r"^\| `\w+` \|", table, re.MULTILINE)) >= least


def test_every_parameter_of_every_type() -> None:
    page = pages()["reference/markers.md"]
    signature = inspect.signature(ChaosExperiment)
    for name in ("name", "intensity", "probability", "duration"):
        assert name in signature.parameters
        assert f"| {name} |" in page
    experiment = ChaosExperiment("x", "cpu_stress")
    assert f"| intensity | 0..1 or % | {experiment.intensity:g} |" in page
    assert f"| duration | seconds, or us, ms, s, m, h | {experiment.duration:g}s |" in page


def test_every_profile_and_key() -> None:
    text = (ROOT / "pytest_resilience/plugin/profiles.toml").read_text(encoding="utf-8")
    page = pages()["reference/profiles.md"]
    for name, table in tomllib.loads(text)["profiles"].items():
        assert name in headings("profiles")
        for experiment in table["experiments"]:
            assert f"| {experiment['name']} |" in page
    from pytest_resilience.chaos.profile import Profile

    for field in dataclasses.fields(Profile):
        assert field.name == "name" or f"| `{field.name}` |" in page


def test_every_verdict() -> None:
    for verdict in CellVerdict:
        assert f"| {verdict.words} | `{verdict.letter}` |" in pages()["reference/verdicts.md"]


def test_every_operation_fault_and_verdict_of_the_exploration() -> None:
    page = (ROOT / "docs" / "reference" / "exploration.md").read_text(encoding="utf-8")
    for kind in KINDS:
        if possible_faults(kind):
            names = " ".join(f"`{each.name}`" for each in possible_faults(kind))
            crashes = "yes" if kind in CRASHING else ""
            assert f"| `{kind_name(kind)}` | {names} | {crashes} |" in page
    assert all(f"`{each}`" in page for each in CRASHES)
    table = page[page.index("## Verdicts") : page.index("## Invariants")]
    told = re.findall(r"^\| (\w+) \|", table, re.MULTILINE)[1:]
    severe_first = sorted(map(CellVerdict, told), key=lambda each: -each.severity)
    assert list(map(CellVerdict, told)) == severe_first
    assert {each for each in CellVerdict if each.bad} <= set(severe_first)


def test_every_assertion() -> None:
    assert listed("assertions") == set(assertions.__all__)


def test_every_hook() -> None:
    assert listed("hooks") == {name for name in vars(newhooks) if name.startswith("pytest_")}


def test_every_error() -> None:
    assert listed("errors") == set(pytest_resilience.errors.__all__)


def test_every_public_name_once() -> None:
    places = ("patterns", "errors", "fixtures", "api")
    everything = {*pytest_resilience.__all__, *patterns.__all__, *proxy.__all__}
    assert set().union(*map(listed, places)) >= everything
    whole = "\n".join(pages().values())
    assert [name for name in everything if len(re.findall(rf"::: \S+\.{name}\n", whole)) != 1] == []


def test_every_command() -> None:
    page = pages()["reference/commands.md"]
    for word in ("merge", "gate", "report", "baseline", "--protocol", "--experiment", "--control"):
        assert word in page


def test_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = pages()["reference/extras.md"]
    for name, libraries in project["optional-dependencies"].items():
        assert (f"| `{name}` | " in page) == (name not in {"docs", "test"})
        assert name in {"docs", "test"} or all(f"`{each}`" in page for each in libraries)


@pytest.mark.parametrize(
    ("library", "extra", "use"),
    [
        ("httpx", "httpx", lambda: http_middleware.httpx_transport(HostBreakers())),
        ("httpx", "httpx", lambda: http_middleware.httpx_async_transport(HostBreakers())),
        ("aiohttp", "aiohttp", lambda: http_middleware.aiohttp_middleware(HostBreakers())),
        ("redis", "redis", lambda: patterns.RedisStore("redis://localhost")),
        ("time_machine", "clock", check_surroundings),
    ],
)
def test_where_an_extra_is_missing_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch, library: str, extra: str, use: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    command = re.escape(f"; pip install 'pytest-resilience[{extra}]'")
    with pytest.raises(ConfigurationError, match=f"(?m)^[^;]+ needs [^;]+{command}$"):
        use()

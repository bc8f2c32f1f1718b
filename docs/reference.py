"""The pages of `docs/reference/`, written from the code when the site is built.

A hook of MkDocs: nothing of these pages is kept in a file, so none of them can be out of date.
What has a docstring is left to mkdocstrings, by a line `::: module.name`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import tomllib

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest_resilience

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience import assertions
from pytest_resilience import patterns
from pytest_resilience import plugin
from pytest_resilience import proxy
from pytest_resilience import toolkit_actions
from pytest_resilience.__main__ import main as report_command
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.plugin import newhooks
from pytest_resilience.plugin import options
from pytest_resilience.plugin.fixtures import stub_server
from pytest_resilience.proxy.__main__ import main as proxy_command
from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.cell import CellVerdict


__all__ = ["on_config", "on_files", "pages"]

PACKAGE = Path(pytest_resilience.__file__).parent
ROOT = Path(__file__).parents[1]


def on_config(config: Any) -> Any:
    """Put the page of each chaos type into the navigation."""
    [reference] = [each["Reference"] for each in config.nav if "Reference" in each]
    [types] = [each["Chaos types"] for each in reference if "Chaos types" in each]
    types += [{kind.value: f"reference/types/{kind.value}.md"} for kind in SCHEMAS]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those that MkDocs has found."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Each page by its path below `docs/`."""
    return {
        "reference/markers.md": _markers(),
        "reference/fixtures.md": _fixtures(),
        "reference/options.md": _options(),
        "reference/types.md": _types(),
        **{f"reference/types/{kind.value}.md": _type(kind) for kind in ChaosType},
        "reference/profiles.md": _profiles(),
        "reference/verdicts.md": _verdicts(),
        "reference/extras.md": _extras(),
        "reference/commands.md": _commands(),
        "reference/assertions.md": _assertions(),
        "reference/patterns.md": _patterns(),
        "reference/errors.md": _errors(),
        "reference/hooks.md": _hooks(),
        "reference/api.md": _api(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    }


class _Recorder:
    """Stands for pytest's config and parser, and keeps what the plugin tells them."""

    def __init__(self) -> None:
        self.ini: list[tuple[str, dict[str, Any]]] = []
        self.markers: list[str] = []
        self.pluginmanager = self.hook = self

    def addini(self, name: str, help: str, **rest: Any) -> None:  # noqa: A002  # as pytest says
        self.ini.append((name, {"help": help, **rest}))

    def addinivalue_line(self, _name: str, line: str) -> None:
        self.markers.append(line)

    def get_plugin(self, _name: str) -> None:
        return None

    def getoption(self, _name: str, otherwise: str) -> str:
        return otherwise


def _markers() -> str:
    seen = _Recorder()
    plugin.pytest_configure(seen)  # type: ignore[arg-type]
    lines = [
        "# Markers",
        "",
        "The same text is printed by `pytest --markers`. `pytest.mark` takes anything, so editors",
        "and type checkers know nothing of it. `mark` is the same object, with types:",
        "",
        "```python",
        "from pytest_resilience import mark",
        "",
        "",
        '@mark.chaos("network_failure", mode="refuse", first=1)',
        "def test_order() -> None: ...",
        "```",
        "",
    ]
    for each in seen.markers:
        signature, _, meaning = each.partition(": ")
        name = signature.partition("(")[0]
        meaning = " ".join(meaning.split())
        lines += [f"## {name}", "", f"`@pytest.mark.{signature}`", "", _sentence(meaning), ""]
    lines += [
        "The parameters of `chaos` are those of the [chaos type](types.md), and these, which every",
        "type takes:",
        "",
        *_table(("parameter", "unit", "default", "meaning"), _OF_EVERY_TYPE),
    ]
    return _page(lines)


_OF_EVERY_TYPE = (
    ("name", "text", "the type's name", "what events, reports and error messages call it"),
    ("intensity", "0..1 or %", "0.5", "how strong it is; each type says what it makes of it"),
    ("probability", "0..1 or %", "1", "whether it starts in a test at all"),
    (
        "duration",
        "seconds, or us, ms, s, m, h",
        "60s",
        "how long it lasts at most, once it has started",
    ),
    (
        "must_fire",
        "true or false",
        "true for markers and fixtures",
        "whether a test is an error in which it never fired",
    ),
    (
        "include_setup",
        "true or false",
        "false",
        "of the marker: whether it begins with the set-up of the test's fixtures",
    ),
)


def _fixtures() -> str:
    lines = ["# Fixtures", "", "The same text is printed by `pytest --fixtures`.", ""]
    for name, (function, scope) in sorted(_fixture_functions()):
        lines += [f"## {name}", ""]
        if scope != "function":
            lines += [f"Scope: {scope}.", ""]
        lines += [_sentence(inspect.getdoc(function) or ""), ""]
        made = _annotation(function)
        if made:
            lines += [f"It is a `{made}`.", ""]
    lines += [
        "## What the fixtures give",
        "",
        *_members(*_GIVEN),
    ]
    return _page(lines)


_GIVEN = (
    "pytest_resilience.plugin.fixtures.chaos.Chaos",
    "pytest_resilience.chaos.active_experiment.ActiveExperiment",
    "pytest_resilience.proxy.proxy.ChaosProxy",
    "pytest_resilience.plugin.fixtures.responses.ChaosResponses",
    "pytest_resilience.plugin.exploration.faults.ChaosSchedules",
    "pytest_resilience.plugin.fixtures.databases.SqliteChaos",
    "pytest_resilience.plugin.fixtures.databases.PostgresChaos",
    "pytest_resilience.plugin.fixtures.chaos.ProxyFactory",
    "pytest_resilience.interceptors.crash_recorder.CrashRecording",
    "pytest_resilience.chaos.crash_states.CrashState",
    *(f"pytest_resilience.plugin.fixtures.stub_server.{name}" for name in stub_server.__all__),
    "pytest_resilience.plugin.fixtures.patterns.BreakerFactory",
    "pytest_resilience.plugin.fixtures.patterns.RetryFactory",
    "pytest_resilience.patterns.retry.config.RetryTesting",
)


def _fixture_functions() -> Iterator[tuple[str, tuple[Callable[..., Any], str]]]:
    from _pytest.fixtures import FixtureFunctionDefinition

    for name, value in vars(plugin).items():
        if isinstance(value, FixtureFunctionDefinition):
            marker = value._fixture_function_marker  # noqa: SLF001  # pytest offers no other way
            yield marker.name or name, (value._fixture_function, str(marker.scope))  # noqa: SLF001


def _annotation(function: Callable[..., Any]) -> str:
    """What a fixture gives, as it is written: of `Iterator[X]` the `X`."""
    text = str(function.__annotations__.get("return", ""))
    return re.sub(r"^Iterator\[(.*)\]$", r"\1", text)


def _options() -> str:
    seen = _Recorder()
    plugin.pytest_addoption(seen)  # type: ignore[arg-type]
    flags = []
    for flag, meaning in options.FLAGS.items():
        value = options.VALUES.get(flag)
        names = dict.fromkeys((f"--{flag}", _long(flag)))
        flags.append(
            (", ".join(f"`{each}{f' {value}' if value else ''}`" for each in names), meaning)
        )
    ini = [
        (
            f"`{name}`",
            str(rest.get("type", "string")),
            _code(rest.get("default")),
            rest["help"],
        )
        for name, rest in seen.ini
    ]
    return _page(
        [
            "# Flags and ini options",
            "",
            "## Flags",
            "",
            "Each flag has a second name that begins with `--resilience-`. Where another plugin",
            "has taken the first name, only the second is there. The header of the run says so.",
            "",
            *_table(("flag", "meaning"), flags),
            "",
            "## Ini options",
            "",
            "They stand in `pytest.ini`, in `tox.ini`, or under `[tool.pytest.ini_options]` of",
            "`pyproject.toml`.",
            "",
            *_table(("option", "kind", "default", "meaning"), ini),
            "",
            "[Who overrules whom](../settings.md) says which of them wins.",
        ]
    )


def _long(flag: str) -> str:
    return f"--{flag}" if flag.startswith("resilience") else f"--resilience-{flag}"


def _types() -> str:
    rows = [(f"[`{kind.value}`](types/{kind.value}.md)", SCHEMAS[kind].summary) for kind in SCHEMAS]
    return _page(
        [
            "# Chaos types",
            "",
            "`pytest --chaos-list` prints the same. The parameters that every type takes, such as",
            "`duration`, stand with [the marker](markers.md#chaos).",
            "",
            *_table(("type", "what happens"), rows),
        ]
    )


def _type(kind: ChaosType) -> str:
    schema = SCHEMAS[kind]
    lines = [f"# {kind.value}", "", _sentence(schema.summary), ""]
    modes = _modes(kind)
    if modes:
        lines += [
            "## Modes",
            "",
            *_table(("mode", "what happens", "as reports name it", "operations"), modes),
            "",
        ]
    if schema.shown:
        rows = [
            (f"`{each.name}`", each.unit, each.default, _sentence(each.help))
            for each in schema.shown
        ]
        lines += ["## Parameters", "", *_table(("name", "unit", "default", "meaning"), rows)]
    else:
        lines += ["It has no parameters but those that every type takes."]
    return _page(lines)


def _modes(kind: ChaosType) -> list[tuple[str, str, str, str]]:
    """Each mode with the faults that it makes, as their classes describe them."""
    return [
        (
            f"`{mode}`",
            " ".join(dict.fromkeys(_first_line(fault) for fault in faults)),
            ", ".join(str(fault) for fault in faults),
            ", ".join(f"`{each}`" for each in sorted({k for f in faults for k in f.kinds})),
        )
        for mode, faults in _faults_of_modes(kind)
    ]


def _faults_of_modes(kind: ChaosType) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for parameter in SCHEMAS[kind].parameters:
        if parameter.name == "mode":
            for mode in _choices(parameter):
                needed = {**_NEEDED.get(kind, {}), "mode": mode}
                yield mode, ChaosExperiment("example", kind, **needed).faults


_NEEDED: dict[ChaosType, dict[str, Any]] = {
    ChaosType.SERVICE_FAILURE: {"target_services": ["a service"]}
}


def _choices(parameter: Parameter) -> list[str]:
    """The words among which a parameter chooses."""
    found = []
    for word in parameter.unit.split(", "):
        with contextlib.suppress(ConfigurationError):
            parameter.parse(parameter.name, word)
            found.append(word)
    return found


def _first_line(fault: object) -> str:
    return " ".join((inspect.getdoc(fault) or "").partition("\n\n")[0].split())


def _profiles() -> str:
    tables = tomllib.loads((PACKAGE / "plugin" / "profiles.toml").read_text(encoding="utf-8"))
    lines = [
        "# Profiles",
        "",
        "A profile is a table `[tool.pytest_resilience.profiles.NAME]` of `pyproject.toml`, or",
        "`[profiles.NAME]` of a TOML file. [Profiles](../how-to/profiles.md) shows one.",
        "`pytest '--chaos-profile=?'` lists those that a run can use.",
        "",
        "## Keys",
        "",
        *_table(
            ("key", "meaning"), [(f"`{k}`", v) for k, v in _attributes(Profile) if k != "name"]
        ),
        "",
        "## Profiles that come with the package",
        "",
    ]
    for name, table in tables["profiles"].items():
        rows = [
            (
                each["name"],
                f"`{each['chaos_type']}`",
                ", ".join(
                    f"`{key} = {value!r}`"
                    for key, value in each.items()
                    if key not in {"name", "chaos_type"}
                ),
            )
            for each in table["experiments"]
        ]
        lines += [f"### {name}", "", _sentence(table["description"]), ""]
        lines += [*_table(("experiment", "type", "parameters"), rows), ""]
    return _page(lines)


def _attributes(cls: type) -> list[tuple[str, str]]:
    """The section `Attributes:` of a docstring."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    found: list[tuple[str, str]] = []
    for line in section.splitlines():
        match = re.match(r"    (\w+): (.*)", line)
        if match:
            found.append((match[1], match[2]))
        elif line.startswith("        "):
            name, text = found[-1]
            found[-1] = (name, f"{text} {line.strip()}")
        elif line.strip():
            break
    return found


def _verdicts() -> str:
    rows = [
        (
            each.words,
            f"`{each.letter}`",
            "good" if each.good else "bad" if each.bad else "no proof" if each.fails else "not run",
            _sentence(each.meaning),
        )
        for each in CellVerdict
    ]
    return _page(
        [
            "# Verdicts of the matrix",
            "",
            INTRODUCTION,
            "",
            *_table(("verdict", "letter", "counts as", "meaning"), rows),
            "",
            "[Scores and gates](../explanation/scores.md) says what follows from each.",
        ]
    )


_NEEDS_EXTRA = {
    "chaostoolkit": "[experiments of Chaos Toolkit](../how-to/monkey.md)",
    "clock": "[virtual time](../virtual-time.md)",
    "report": "[reports](../how-to/ci.md#reports) as HTML pages",
    "aiohttp": "`aiohttp_middleware`, of [the patterns](../patterns.md)",
    "httpx": "`httpx_transport` and `httpx_async_transport`, of [the patterns](../patterns.md)",
    "redis": "`RedisStore`, of [the patterns](../patterns.md)",
}


def _extras() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brings = project["optional-dependencies"]
    developers = {"docs", "test"}
    rows = [
        (f"`{name}`", ", ".join(f"`{each}`" for each in brings[name]), _NEEDS_EXTRA[name])
        for name in brings
        if name not in developers
    ]
    return _page(
        [
            "# Extras",
            "",
            "The package needs " + ", ".join(f"`{each}`" for each in project["dependencies"]) + ".",
            "What else some of its parts need comes with an extra:",
            '`pip install "pytest-resilience[report,clock]"`.',
            "Where one is missing, the error names it.",
            "",
            *_table(("extra", "brings", "what needs it"), rows),
            "",
            "Clients, drivers and frameworks are reached in the version that you have.",
            "They are no extras.",
        ]
    )


def _commands() -> str:
    lines = ["# Commands", ""]
    for title, main, calls in (
        (
            "python -m pytest_resilience",
            report_command,
            ((), ("merge",), ("gate",), ("report",), ("baseline",)),
        ),
        ("python -m pytest_resilience.proxy", proxy_command, ((),)),
    ):
        lines += [f"## {title}", ""]
        for words in calls:
            lines += ["```text", _help(main, words), "```", ""]
    return _page(lines)


def _help(main: Callable[[list[str]], object], words: tuple[str, ...]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return out.getvalue().rstrip()


def _assertions() -> str:
    return _page(
        [
            "# Assertions",
            "",
            "They are plain functions of `pytest_resilience.assertions`, with or without pytest.",
            "[Assert what must hold](../how-to/assertions.md) shows them in use.",
            "",
            *_members(*(_path_of(assertions, name) for name in assertions.__all__)),
        ]
    )


def _patterns() -> str:
    return _page(
        [
            "# Patterns",
            "",
            "All of them are in `pytest_resilience.patterns`; those that are used most are in",
            "`pytest_resilience` too. Times are in seconds.",
            "",
            *_members(
                *(
                    _path_of(patterns, name)
                    for name in patterns.__all__
                    if not _is_error(getattr(patterns, name))
                )
            ),
        ]
    )


def _errors() -> str:
    return _page(
        [
            "# Errors",
            "",
            "An injected fault raises what the real event raises: [fidelity](../fidelity.md) lists",
            "it. These are the errors that the package raises of its own.",
            "",
            *_members(*(f"pytest_resilience.errors.{name}" for name in _error_names())),
        ]
    )


def _error_names() -> list[str]:
    return list(import_module("pytest_resilience.errors").__all__)


def _hooks() -> str:
    names = [name for name in vars(newhooks) if name.startswith("pytest_")]
    return _page(
        [
            "# Hooks",
            "",
            "A `conftest.py` or another plugin implements them.",
            "",
            *_members(*(f"pytest_resilience.plugin.newhooks.{name}" for name in names)),
        ]
    )


def _api() -> str:
    elsewhere = {*patterns.__all__, *_error_names(), *(each.rpartition(".")[2] for each in _GIVEN)}
    homes = pytest_resilience._homes()  # noqa: SLF001  # what the package offers
    names = [name for name in pytest_resilience.__all__ if name not in elsewhere]
    return _page(
        [
            "# Everything else",
            "",
            "What `pytest_resilience` offers beside the patterns and the errors. What",
            "`pytest_resilience.proxy` offers. The actions for experiment files of Chaos Toolkit.",
            "",
            *_members(
                *(f"pytest_resilience.{homes[name]}.{name}" for name in names),
                *(
                    _path_of(proxy, name)
                    for name in proxy.__all__
                    if name not in pytest_resilience.__all__
                ),
                *(f"pytest_resilience.toolkit_actions.{n}" for n in toolkit_actions.__all__),
            ),
        ]
    )


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, pytest_resilience.ResilienceError)


def _path_of(module: Any, name: str) -> str:
    """Where a name is at home, for mkdocstrings."""
    value = getattr(module, name)
    home = getattr(value, "__module__", None)
    if getattr(value, "__qualname__", "") == name:
        return f"{home}.{name}"
    for other in sorted(PACKAGE.rglob("*.py")):
        text = other.read_text(encoding="utf-8")
        if re.search(rf"^{name}\b.* = ", text, re.MULTILINE):
            dotted = ".".join(other.relative_to(PACKAGE.parent).with_suffix("").parts)
            return f"{dotted.removesuffix('.__init__')}.{name}"
    raise LookupError(name)


def _members(*paths: str) -> list[str]:
    return [line for path in paths for line in (f"::: {path}", "")]


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        cells = [" ".join(str(each).replace("|", "\\|").split()) for each in row]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":", "`")) else ".")


def _code(value: object) -> str:
    return "" if value in (None, "") else f"`{str(value).lower()}`"


def _page(lines: Iterable[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    for written, page in pages().items():
        print(f"<!-- {written} -->\n{page}")  # noqa: T201  # to look at without building the site

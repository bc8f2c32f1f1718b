"""Everything that this plugin uses of pytest without its being public."""

from __future__ import annotations

import inspect
import os
import warnings

from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import ExitStack
from contextlib import contextmanager
from contextlib import nullcontext
from typing import Any

import pytest


__all__ = [
    "Progress",
    "captured_throughout",
    "check_markers",
    "count_in_last_line",
    "first_of_function_scope",
    "fixture_files",
    "fixtures_of",
    "has_markers",
    "has_set_up_functions",
    "run_once",
    "taken_options",
    "tear_down",
    "temporary_folder",
    "values_of_function_fixtures",
    "write_lines",
]

_LOGREPORT = "pytest_runtest_logreport"
_LIVE_LOGS = "log_cli_handler"

_PROGRESS = "resilience-progress"
_LEAST_ROOM = 15  # columns in which it says something
_IN_CI = ("CI", "BUILD_NUMBER")  # variables by which pytest knows it as well
# As every terminal understands them: keep the place of the cursor, clear what stands behind it,
# and go back to it.
_KEEP_PLACE, _REST_OF_LINE, _BACK = "\x1b7", "\x1b[K", "\x1b8"


def taken_options(parser: pytest.Parser) -> set[str]:
    """Every option string registered so far.

    The public way is to add an option and see whether that raises, but depending on the
    version it raises only later, when the run is lost already.
    """
    groups = [*parser._groups, parser._anonymous]  # noqa: SLF001
    return {name for group in groups for option in group.options for name in option.names()}


def fixtures_of(item: pytest.Item) -> Sequence[str]:
    """The fixtures of a test that runs, those that others have asked for by name included."""
    request = getattr(item, "_request", None)
    names: Sequence[str] = getattr(request or item, "fixturenames", ())
    return names


def first_of_function_scope(item: pytest.Function, names: Sequence[str]) -> int:
    """Where among the fixtures of a test, in the order of their set-up, its own begin."""
    definitions = item._fixtureinfo.name2fixturedefs  # noqa: SLF001
    scopes = [definitions[name][-1].scope if name in definitions else "" for name in names]
    return scopes.index("function") if "function" in scopes else len(names)


def fixture_files(item: pytest.Item) -> set[str]:
    """The files in which the fixtures of a test are written."""
    info: Any = getattr(item, "_fixtureinfo", None)
    found = set()
    for definitions in () if info is None else info.name2fixturedefs.values():
        for each in definitions:
            code = getattr(inspect.unwrap(each.func), "__code__", None)
            found |= {"" if code is None else code.co_filename}
    return found


def has_set_up_functions(item: pytest.Item) -> bool:
    """Whether its module or class has what pytest calls as fixtures of its own, by their names."""
    info: Any = getattr(item, "_fixtureinfo", None)
    names = () if info is None else info.name2fixturedefs
    return any(name.startswith("_xunit_setup_") for name in names)


def values_of_function_fixtures(item: pytest.Item) -> list[object]:
    """What the fixtures of a test have given that are made anew for each, while it runs.

    And what has been made the attributes of the test's own `self`.
    """
    info: Any = getattr(item, "_fixtureinfo", None)
    definitions = () if info is None else info.name2fixturedefs.values()
    made = (each for several in definitions for each in several if each.scope == "function")
    given = [each.cached_result[0] for each in made if each.cached_result is not None]
    return [*given, *getattr(getattr(item, "instance", None), "__dict__", {}).values()]


def write_lines(config: pytest.Config, text: str) -> None:
    """Print as pytest prints, before it runs: what the terminal cannot show is escaped."""
    from _pytest.config import create_terminal_writer

    writer = create_terminal_writer(config)
    for line in text.splitlines():
        writer.line(line)


class Progress:
    """How far a run is: on a terminal, behind what pytest has written in its line.

    It is no part of that line, which pytest goes on with: it is taken away before.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._text = ""

    @classmethod
    def of(cls, config: pytest.Config) -> Progress:
        """That of this run."""
        found = config.pluginmanager.get_plugin(_PROGRESS)
        if found is None:
            found = cls(config)
            config.pluginmanager.register(found, _PROGRESS)
        assert isinstance(found, cls)
        return found

    @staticmethod
    def is_wanted(config: pytest.Config) -> bool:
        """Whether somebody looks at a terminal: not under -q, nor in CI, which may have one."""
        terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
        return (
            terminal is not None
            and terminal.isatty
            and config.option.verbose >= 0
            and not any(map(os.environ.get, _IN_CI))
        )

    def show(self, text: str) -> None:
        """Show this in place of what is shown, as far as there is room."""
        if not text and not self._text:
            return
        self._text = text
        manager: Any = self._config.pluginmanager.get_plugin("capturemanager")
        with nullcontext() if manager is None else manager.global_and_fixture_disabled():
            self._write(text)

    def _write(self, text: str) -> None:
        writer = self._config.get_terminal_writer()
        room = writer.fullwidth - writer.width_of_current_line - 3
        text = text[:room] if room >= _LEAST_ROOM else ""
        # Not by the writer: it counts what it writes as part of the line.
        writer._file.write(f"{_KEEP_PLACE}  {text}{_REST_OF_LINE}{_BACK}")  # noqa: SLF001
        writer.flush()

    def _take_away(self) -> None:
        self.show("")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self._take_away()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self) -> None:
        self._take_away()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._take_away()


def temporary_folder(config: pytest.Config) -> str:
    """The folder below which tests have their temporary ones; "" without the plugin of those."""
    factory: Any = getattr(config, "_tmp_path_factory", None)
    return "" if factory is None else str(factory.getbasetemp())


def run_once(item: pytest.Item, *, counts: bool) -> list[pytest.TestReport]:
    """Set up, call and tear down a test; the reports, which no hook has seen.

    Fixtures of functions are made anew; those of classes, modules and the session are kept, as
    between tests. A run that does not count as the test's own has no tracebacks, which cost
    more than most tests, and neither its warnings nor its live logs are shown.
    """
    from _pytest.runner import runtestprotocol

    item._report_sections.clear()  # noqa: SLF001
    for name in ("_instance", "_obj"):  # else methods share one `self`
        vars(item).pop(name, None)
    properties = list(item.user_properties)
    option = item.config.option
    style = option.tbstyle
    with ExitStack() as stack:
        stack.callback(item.user_properties.__setitem__, slice(None), properties)
        if not counts:
            option.tbstyle = "no"
            stack.callback(setattr, option, "tbstyle", style)
            stack.enter_context(_subtests_forgotten(item.config))
            stack.enter_context(warnings.catch_warnings(record=True))
            stack.enter_context(_live_logs_dropped(item.config))
            stack.callback(_restore, item, dict(vars(item)))
        of_subtests = stack.enter_context(_captured_reports(item.config))
        parent: Any = item.parent  # typed as an item, but any node does
        setup, *rest = runtestprotocol(item, log=False, nextitem=parent)
    return [setup, *of_subtests, *rest]


def _restore(item: pytest.Item, attributes: dict[str, Any]) -> None:
    """Let go of what plugins have kept at a test, such as an exception with all its frames."""
    kept = vars(item)
    for name in kept.keys() - attributes.keys():
        del kept[name]
    kept.update(attributes)


def tear_down(
    item: pytest.Item, nextitem: pytest.Item | pytest.Session | None
) -> pytest.TestReport | None:
    """Tear down the fixtures that the next test does not need; a report if that failed."""
    node: Any = nextitem  # typed as an item, but any node does
    call = pytest.CallInfo.from_call(
        lambda: item.session._setupstate.teardown_exact(node),  # noqa: SLF001
        when="teardown",
    )
    if call.excinfo is None:
        return None
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    return report


class _CaptureResumed:
    """Goes on with pytest's capture where a phase of a test has ended it."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def _phase(self) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            self._manager.resume_global_capture()

    pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _phase


@contextmanager
def captured_throughout(config: pytest.Config) -> Iterator[None]:
    """Capture in the block what is written between the phases of tests too, and drop that.

    A server in a thread of the test tells of connections that faults break, whenever it notices.
    """
    manager: Any = config.pluginmanager.get_plugin("capturemanager")
    if manager is None:
        yield
        return
    resumed = _CaptureResumed(manager)
    config.pluginmanager.register(resumed)
    manager.resume_global_capture()
    try:
        yield
    finally:
        config.pluginmanager.unregister(resumed)
        manager.suspend_global_capture()
        manager.read_global_capture()


@contextmanager
def _captured_reports(config: pytest.Config) -> Iterator[list[pytest.TestReport]]:
    """Keep reports from all hooks: subtests send theirs whatever `log` is."""
    captured: list[pytest.TestReport] = []

    def keep(report: pytest.TestReport) -> None:
        captured.append(report)

    # pytest 8 has a proxy before the hooks, which remembers those that it was asked for.
    places = [vars(config.pluginmanager.hook), vars(config.hook)]
    before = [place.get(_LOGREPORT) for place in places]
    for place in places:
        place[_LOGREPORT] = keep
    try:
        yield captured
    finally:
        for place, found in zip(places, before, strict=True):
            if found is None:
                place.pop(_LOGREPORT, None)
            else:
                place[_LOGREPORT] = found


@contextmanager
def _subtests_forgotten(config: pytest.Config) -> Iterator[None]:
    """Let no subtest that fails in the block count in the test's outcome."""
    try:
        from _pytest.subtests import failed_subtests_key
    except ImportError:  # pytest 8 has none of its own
        yield
        return
    counts: Any = config.stash[failed_subtests_key]
    before = dict(counts)
    try:
        yield
    finally:
        counts.clear()
        counts.update(before)


@contextmanager
def _live_logs_dropped(config: pytest.Config) -> Iterator[None]:
    """Show on the terminal no log of what runs in the block, also with `log_cli`."""
    handler: Any = getattr(config.pluginmanager.get_plugin("logging-plugin"), _LIVE_LOGS, None)
    if handler is None:
        yield
        return

    def drop(_record: object) -> bool:
        return False

    handler.addFilter(drop)
    try:
        yield
    finally:
        handler.removeFilter(drop)


def count_in_last_line(terminal: Any, what: str, items: Sequence[object], *, failed: bool) -> None:
    """Have pytest's last line say `2 what`, and be red where the run has failed."""
    terminal._add_stats(what, items)  # noqa: SLF001  # `stats` alone is seen only at times
    if failed:
        terminal._add_stats("failed", [])  # noqa: SLF001  # as above


def check_markers(expression: str) -> None:
    """Raise ConfigurationError for what `-m` would not take either."""
    _compiled(expression)


def has_markers(item: pytest.Item, expression: str) -> bool:
    """True if `-m expression` would select the item."""
    from _pytest.mark import MarkMatcher

    return bool(_compiled(expression).evaluate(MarkMatcher.from_markers(item.iter_markers())))


def _compiled(expression: str) -> Any:
    from _pytest.mark import expression as marks

    from pytest_resilience.errors import ConfigurationError

    try:
        return marks.Expression.compile(expression)
    except (SyntaxError, getattr(marks, "ParseError", SyntaxError)) as error:  # of pytest 9, 8
        what = getattr(error, "msg", error)
        raise ConfigurationError(f"markers={expression!r}: {what}") from None

"""Chaos in the process that runs the tests; registered when somebody asks for some."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import contextmanager
from typing import TYPE_CHECKING
from typing import Any

import pytest

from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.plugin.experiment_request import Requested
from pytest_resilience.plugin.experiment_request import from_mark
from pytest_resilience.plugin.fixtures.chaos import Chaos
from pytest_resilience.plugin.fixtures.patterns import clock_of
from pytest_resilience.plugin.marker_location import mark_location
from pytest_resilience.plugin.options import SESSION
from pytest_resilience.plugin.profiles import selects
from pytest_resilience.plugin.scope import ChaosScope
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.plugin.settings import others_of
from pytest_resilience.plugin.settings import settings_of
from pytest_resilience.plugin.summary import RECORD
from pytest_resilience.plugin.summary import ChaosSummary
from pytest_resilience.plugin.xdist import hand_over
from pytest_resilience.report.terminal import timeline
from pytest_resilience.runtime import new_engine


if TYPE_CHECKING:
    from pytest_resilience.plugin.fixtures.monkey import SessionMonkeys
    from pytest_resilience.plugin.fixtures.responses import ChaosResponses
    from pytest_resilience.proxy.proxy import ChaosProxy
    from pytest_resilience.runtime import ChaosMonkey


__all__ = ["ChaosSession", "session_of"]

# Of an item while it runs, and no longer: what a run keeps of each test adds up.
_SCOPE = pytest.StashKey[ChaosScope]()
_REQUESTED = pytest.StashKey[tuple[Requested, ...]]()
_MORE = pytest.StashKey[Requested]()

_MOST_MARKS = 256  # remembered as read; with `parametrize` one is that of many tests


def session_of(config: pytest.Config) -> ChaosSession:
    """The session of this run, begun if need be. Raises `pytest.UsageError` for bad flags."""
    session = config.pluginmanager.get_plugin(SESSION)
    if session is None:
        settings = settings_of(config)
        session = ChaosSession(config, settings)
        config.pluginmanager.register(session, SESSION)
        if not hasattr(config, "workerinput"):  # a worker of xdist has no terminal
            ChaosSummary.register(config, settings)
        if settings.matrix:
            from pytest_resilience.plugin.matrix import protocol

            protocol.register(config, session, settings)
    assert isinstance(session, ChaosSession)
    return session


class ChaosSession:
    """Runs the experiments of each test around it, and undoes them whatever happens."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._monkeys: SessionMonkeys | None = None
        self._marks: dict[int, tuple[pytest.Mark, Requested]] = {}
        self._last: tuple[pytest.Item, ChaosScope] | None = None
        self._rehearsed = False
        self._engine = new_engine(
            services=settings.services,
            caps=settings.caps,
            others=others_of(config),
            folder=str(config.invocation_params.dir),
        )

    def check(self, items: list[pytest.Item]) -> None:
        """Read the markers of all items. Raises `pytest.UsageError` naming each bad one."""
        problems: dict[str, None] = {}
        for item in items:
            for node, mark in _chaos_marks(item):
                try:
                    requested = self._asked_by(mark)
                    if not self._may_declare(item, requested):
                        self._engine.check(requested.experiment)
                except ConfigurationError as error:
                    problems[f"{mark_location(node, mark)}: {error}"] = None
        if problems and hasattr(self._config, "workerinput"):
            hand_over(self._config, items, list(problems))
        elif problems:
            raise pytest.UsageError(printable("\n".join(problems)))

    def _may_declare(self, item: pytest.Item, requested: Requested) -> bool:
        """Whether a fixture may declare what `requested` names, before it starts."""
        names = requested.experiment.target_services
        return (
            not requested.include_setup
            and "chaos" in getattr(item, "fixturenames", ())
            and not all(name in self._engine.services for name in names)
        )

    def _asked_by(self, mark: pytest.Mark) -> Requested:
        """What a chaos mark asks for. Raises ConfigurationError."""
        known = self._marks.get(id(mark))
        if known is None:  # it is kept with its mark, for whose time the id is its own
            known = mark, from_mark(mark, self._settings.defaults)
            if len(self._marks) >= _MOST_MARKS:
                self._marks.clear()
            self._marks[id(mark)] = known
        return known[1]

    def _requested(self, item: pytest.Item) -> tuple[Requested, ...]:
        """Every experiment that `item` is to be put under."""
        if item.get_closest_marker("no_chaos") is not None:
            return ()
        requested = [*self._settings.experiments]
        if not self._settings.matrix:
            requested += _selected(self._settings, item)
        requested += [self._asked_by(mark) for _, mark in _chaos_marks(item)]
        return (*requested, item.stash[_MORE]) if _MORE in item.stash else tuple(requested)

    @contextmanager
    def running(self, item: pytest.Item, requested: Requested) -> Iterator[None]:
        """Put every run of `item` in the block under one experiment more."""
        item.stash[_MORE] = requested
        try:
            yield
        finally:
            del item.stash[_MORE]

    @contextmanager
    def watching(self, requests: Iterable[Requested]) -> Iterator[Recorder]:
        """Note what is done in the block that these could hit."""
        recorder = Recorder(each.experiment.bind(self._engine.services) for each in requests)
        with self._engine.recording(recorder):
            yield recorder

    def noting(self) -> AbstractContextManager[None]:
        """What is done in the block is what the test itself does."""
        return self._engine.recording_test()

    def last(self, item: pytest.Item) -> ChaosScope | None:
        """What was chaotic about the last run of `item`, if no other item has run since."""
        return self._last[1] if self._last is not None and self._last[0] is item else None

    def fixture(self, item: pytest.Item) -> Chaos:
        """What the `chaos` fixture of `item` is."""
        if not self._rehearsed:
            self._rehearsed = True
            self._engine.preload()
        return Chaos(self._scope(item), self._settings.defaults)

    def monkey(self, request: pytest.FixtureRequest) -> AbstractContextManager[ChaosMonkey]:
        """What the `chaos_monkey` fixture of a test is."""
        from pytest_resilience.plugin.fixtures.monkey import monkey_of_a_test

        clock = clock_of(request)
        manual = clock is not SYSTEM_CLOCK
        return monkey_of_a_test(
            self._scope(request.node),
            clock,
            approve=self._settings.caps.approve,
            manual=manual,
        )

    def proxies(self, item: pytest.Item) -> AbstractContextManager[Callable[..., ChaosProxy]]:
        """What the `chaos_proxy` fixture of a test is."""
        from pytest_resilience.plugin.fixtures.proxy import proxies_of_a_test

        return proxies_of_a_test(self._scope(item), self._settings.defaults)

    def replies(self, item: pytest.Item) -> ChaosResponses:
        """What the `chaos_responses` fixture of a test is, not yet started."""
        from pytest_resilience.plugin.fixtures.responses import ChaosResponses

        return ChaosResponses(self._scope(item), self._settings.defaults)

    def _scope(self, item: pytest.Item) -> ChaosScope:
        scope = item.stash.get(_SCOPE, None)
        if scope is None:
            scope = item.stash[_SCOPE] = ChaosScope(
                self._engine, item.nodeid, self._settings.seed, calm=self._settings.calm
            )
            if item.config.hook.pytest_resilience_fault_injected.get_hookimpls():
                scope.tell = item.config.hook.pytest_resilience_fault_injected
        return scope

    def _roll(self, item: pytest.Item, *, include_setup: bool) -> None:
        scope = self._scope(item)  # from now on it listens
        if _REQUESTED not in item.stash:
            item.stash[_REQUESTED] = self._requested(item)
        for requested in item.stash[_REQUESTED]:
            if requested.include_setup == include_setup:
                try:
                    scope.roll(requested)
                except ConfigurationError as error:  # known no sooner: see `_may_declare`
                    name = requested.experiment.name
                    pytest.fail(f"chaos experiment {name!r}: {error}", pytrace=False)

    # The innermost wrapper of each phase: what pytest and other plugins do around the
    # test is not under test.

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Let the monkeys of the flags in, in the process that runs the tests."""
        settings, config = self._settings, session.config
        elsewhere = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
        if settings.monkeys and not (settings.calm or elsewhere or config.option.collectonly):
            from pytest_resilience.plugin.fixtures.monkey import SessionMonkeys

            self._monkeys = SessionMonkeys(self._engine, settings.monkeys, settings.seed)
            config.pluginmanager.register(self._monkeys, f"{SESSION}-monkeys")

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            self._roll(item, include_setup=True)
            return (yield)
        except BaseException:
            self._scope(item).stop_all()
            raise

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            self._roll(item, include_setup=False)
            return (yield)
        finally:
            self._scope(item).stop_all()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """End the chaos before fixtures are torn down; then see whether it did anything."""
        scope = self._scope(item)
        try:
            scope.stop_all()
            result = yield
        finally:
            scope.close()
        if scope.outcome == "passed":
            scope.raise_never_fired()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        scope = item.stash.get(_SCOPE, None)
        if scope is None:
            return report
        if call.excinfo is not None and isinstance(call.excinfo.value, NeverFiredError):
            # Neither skip nor xfail excuses a test that has proved nothing.
            report.outcome = "failed"
            report.longrepr = call.excinfo.getrepr(style="value")
            vars(report).pop("wasxfail", None)
        if call.when == "call":
            excused = report.passed or hasattr(report, "wasxfail")
            scope.outcome = "passed" if excused else report.outcome
        if report.failed:
            told = [timeline(scope.timeline())] if scope.events else []
            if call.when == "call":  # what it failed by may be that nothing was injected
                told += [*map(str, scope.never_fired()), *scope.spared()]
            report.sections += [("chaos", "\n".join(told))] * bool(told)
        if call.when == "teardown":
            monkeys = [] if self._monkeys is None else self._monkeys.records(iter(scope.events))
            record = scope.record(monkeys)
            if record.experiments:
                vars(report)[RECORD] = record.to_json()
            del item.stash[_SCOPE]  # a re-run of the item starts afresh
            if _REQUESTED in item.stash:
                del item.stash[_REQUESTED]
            if self._settings.matrix:
                self._last = item, scope
        return report

    def pytest_unconfigure(self) -> None:
        """Undo what an interrupt or another plugin's patch kept from being undone."""
        for active_experiment in self._engine.active:
            active_experiment.stop()
        self._engine.refresh()


def _selected(settings: Settings, item: pytest.Item) -> list[Requested]:
    """The experiments of all profiles that select a test."""
    return [
        requested
        for profile, experiments in settings.profiles
        if selects(profile, item)
        for requested in experiments
    ]


def _chaos_marks(item: pytest.Item) -> list[tuple[Any, pytest.Mark]]:
    """The chaos marks of an item with where they stand, outermost first."""
    return list(item.iter_markers_with_node("chaos"))[::-1]

"""Experiments around the tests of this process; registered when somebody asks for some.

Before that, in a run that is known to have chaos, connections of databases are watched which
conftest files open while pytest loads them.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import contextmanager
from typing import TYPE_CHECKING
from typing import Any

import pytest

from pytest_resilience.chaos.cancelling import in_own_scope
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.operation import ON_CONNECTIONS
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin.experiment_requests import ExperimentRequest
from pytest_resilience.plugin.experiment_requests import RunMode
from pytest_resilience.plugin.experiment_requests import from_mark
from pytest_resilience.plugin.experiment_requests import selects
from pytest_resilience.plugin.experiment_requests import usual_requests
from pytest_resilience.plugin.fixtures.chaos import Chaos
from pytest_resilience.plugin.fixtures.chaos import ProxyFactory
from pytest_resilience.plugin.fixtures.chaos import SessionMonkeys
from pytest_resilience.plugin.fixtures.chaos import monkey_of_a_test
from pytest_resilience.plugin.fixtures.chaos import proxies_of_a_test
from pytest_resilience.plugin.fixtures.patterns import clock_of
from pytest_resilience.plugin.scope import ChaosScope
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.plugin.settings import custom_types
from pytest_resilience.plugin.settings import report_files
from pytest_resilience.plugin.settings import runs_tests
from pytest_resilience.plugin.terminal import RECORD
from pytest_resilience.plugin.xdist_workers import is_worker
from pytest_resilience.report.chaos_record import timeline
from pytest_resilience.runtime import DatabaseInterceptor
from pytest_resilience.runtime import child_processes
from pytest_resilience.runtime import new_engine
from pytest_resilience.runtime import recording_crashes
from pytest_resilience.stacks import end_at_caller


if TYPE_CHECKING:
    from pytest_resilience.plugin.exploration.faults import ChaosSchedules
    from pytest_resilience.plugin.fixtures.responses import ChaosResponses
    from pytest_resilience.runtime import ChaosMonkey
    from pytest_resilience.runtime import CrashRecording


__all__ = ["ChaosSession"]

# On an item while it runs, and no longer: what a run keeps of each test adds up.
_SCOPE = pytest.StashKey[ChaosScope]()
_REQUESTS = pytest.StashKey[tuple[ExperimentRequest, ...]]()
_IN_MATRIX = pytest.StashKey[ExperimentRequest]()

_MISTAKES = (ConfigurationError, DuplicateNameError, UnknownNameError)  # in what was written
_STARTING = frozenset({"chaos", "chaos_monkey", "chaos_responses"})  # fixtures
_SCHEDULING = frozenset({"chaos_schedules"})
_EXPLORING = ("chaos_explore", "chaos_replay")  # marks
# What may begin where nobody knows yet what.
_ANY = ChaosExperiment.observing("any", ON_CONNECTIONS)
_MOST_MARKS = 256  # remembered as read; with `parametrize` one is that of many tests


class ChaosSession:
    """Runs the experiments of each test around it, and undoes them whatever happens."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        *,
        native: bool,
        databases: DatabaseInterceptor | None = None,
    ) -> None:
        """`native`: whether clients that connect in C are reached. `databases`: those watched."""
        self.settings = settings
        self._monkeys: SessionMonkeys | None = None
        self._marks: dict[int, tuple[pytest.Mark, ExperimentRequest]] = {}
        self._last: tuple[pytest.Item, ChaosScope] | None = None
        self._preloaded = False
        self._reports = bool(report_files(config))
        folder = str(config.invocation_params.dir)
        idle = settings.mode is RunMode.NOTHING
        self._children = None if idle else child_processes(folder, native=native)
        self._engine = new_engine(
            services=settings.services,
            caps=settings.caps,
            others=custom_types(config),
            children=self._children,
            folder=folder,
            native=native,
            databases=databases,
        )
        self._runs_here = _runs_here(config)
        self._by_flags = [*_expected_by_flags(settings)] if self._runs_here else []
        self._engine.watch(not idle, expected=self._by_flags)

    def expect_anything(self) -> None:
        """Let experiments reach what modules make while they are imported: none is known yet."""
        if self.settings.mode is not RunMode.NOTHING and self._runs_here:
            self._engine.watch(True, expected=[_ANY])

    @property
    def engine(self) -> Engine:
        """The one of this process."""
        return self._engine

    def check_mark(self, item: pytest.Item, mark: pytest.Mark) -> None:
        """Raise ConfigurationError for a chaos mark that makes no sense."""
        if mark.name == "chaos":
            request = self._request_of(mark)
            if not self._may_declare(item, request):
                self._engine.expected.extend([self._engine.check(request.experiment)])

    def _may_declare(self, item: pytest.Item, request: ExperimentRequest) -> bool:
        """True if a fixture may declare the services of an experiment before it starts."""
        names = request.experiment.target_services
        return (
            not request.include_setup
            and "chaos" in getattr(item, "fixturenames", ())
            and not all(name in self._engine.services for name in names)
        )

    def _request_of(self, mark: pytest.Mark) -> ExperimentRequest:
        """The experiment of a chaos mark. Raises ConfigurationError."""
        known = self._marks.get(id(mark))
        if known is None:  # it is kept with its mark, for whose time the id is its own
            known = mark, from_mark(mark, self.settings.defaults)
            if len(self._marks) >= _MOST_MARKS:
                self._marks.clear()
            self._marks[id(mark)] = known
        return known[1]

    def _requests_of(self, item: pytest.Item) -> tuple[ExperimentRequest, ...]:
        """Every experiment around `item`: of flags, profiles, markers, and the matrix."""
        if item.get_closest_marker("no_chaos") is not None:
            return ()
        requests = [*self.settings.experiments]
        if self.settings.matrix is None:
            for profile, experiments in self.settings.profiles:
                if selects(profile, item):
                    requests += experiments
        # Outermost first: those of the module, then the class, then the function.
        requests += map(self._request_of, reversed(list(item.iter_markers("chaos"))))
        if _IN_MATRIX in item.stash:
            requests.append(item.stash[_IN_MATRIX])
        fixtures = getattr(item, "fixturenames", ())
        if self.settings.mode is RunMode.COUNT and not requests and "chaos" not in fixtures:
            requests += usual_requests()
        return tuple(requests)

    @contextmanager
    def matrix_experiment(self, item: pytest.Item, request: ExperimentRequest) -> Iterator[None]:
        """Put every run of `item` in the block under one experiment more."""
        item.stash[_IN_MATRIX] = request
        try:
            yield
        finally:
            del item.stash[_IN_MATRIX]

    @contextmanager
    def record(self, requests: Iterable[ExperimentRequest]) -> Iterator[Recorder]:
        """Record the operations in the block that these experiments could hit."""
        recorder = Recorder(each.experiment.bind(self._engine.services) for each in requests)
        with self._engine.recording(recorder):
            yield recorder

    def record_test(self) -> AbstractContextManager[None]:
        """Operations in the block are those of the test itself."""
        return self._engine.recording_test()

    def last_scope(self, item: pytest.Item) -> ChaosScope | None:
        """The chaos of the last run of `item`, if no other item has run since."""
        return self._last[1] if self._last is not None and self._last[0] is item else None

    def chaos(self, item: pytest.Item) -> Chaos:
        """The fixture `chaos` of `item`."""
        if not self._preloaded:
            self._preloaded = True
            self._engine.preload()
        return Chaos(self._scope(item), self.settings.defaults)

    def monkey(self, request: pytest.FixtureRequest) -> AbstractContextManager[ChaosMonkey]:
        """The fixture `chaos_monkey` of a test."""
        return monkey_of_a_test(
            self._scope(request.node),
            clock_of(request),
            approve=self.settings.caps.approve,
        )

    def proxies(self, item: pytest.Item) -> AbstractContextManager[ProxyFactory]:
        """The fixture `chaos_proxy` of a test."""
        return proxies_of_a_test(self._scope(item), self.settings.defaults)

    def record_crashes(
        self, folder: str | os.PathLike[str]
    ) -> AbstractContextManager[CrashRecording]:
        """What the fixture `crash_recorder` is."""
        return recording_crashes(self._engine, folder)

    def responses(self, item: pytest.Item) -> ChaosResponses:
        """The fixture `chaos_responses` of a test, not yet started."""
        from pytest_resilience.plugin.fixtures.responses import ChaosResponses

        return ChaosResponses(self._scope(item), self.settings.defaults)

    def schedules(self, item: pytest.Item) -> ChaosSchedules:
        """The fixture `chaos_schedules` of a test."""
        from pytest_resilience.plugin.exploration.faults import ChaosSchedules

        return ChaosSchedules(self._scope(item), self._engine, item.config)

    def _scope(self, item: pytest.Item) -> ChaosScope:
        scope = item.stash.get(_SCOPE, None)
        if scope is None:
            scope = item.stash[_SCOPE] = ChaosScope(
                self._engine, item.nodeid, self.settings.seed, mode=self.settings.mode
            )
            notify = item.config.hook.pytest_resilience_fault_injected
            scope.faults.notify = notify if notify.get_hookimpls() else None
            scope.faults.children = self._children
        return scope

    def _await_chaos(self, awaited: bool) -> None:
        """Whether processes that are started now may meet experiments which begin later."""
        if self._children is not None and self._children.awaited != awaited:
            self._children.awaited = awaited
            self._engine.refresh(self._children)

    def _end_chaos(self, item: pytest.Item) -> None:
        """End the experiments of a test, and await no more."""
        if self._children is not None:
            self._children.awaited = False
        self._scope(item).stop_all()
        if self._children is not None:
            self._engine.refresh(self._children)  # nothing may have been active

    def _has_chaos(self, item: pytest.Item) -> bool:
        """Whether experiments may begin while the test runs."""
        fixtures = getattr(item, "fixturenames", ())
        return bool(item.stash[_REQUESTS]) or not _STARTING.isdisjoint(fixtures)

    def _start(self, item: pytest.Item, *, include_setup: bool) -> None:
        """Start those experiments of a test that begin now, each by its probability."""
        scope = self._scope(item)  # from now on it listens
        if _REQUESTS not in item.stash:
            item.stash[_REQUESTS] = self._requests_of(item)
        for request in item.stash[_REQUESTS]:
            if request.include_setup == include_setup:
                try:
                    scope.start_by_chance(request)
                except ConfigurationError as error:  # known no sooner: see `_may_declare`
                    name = request.experiment.name
                    told = with_page(error.within(f"chaos experiment {name!r}"))
                else:
                    continue
                pytest.fail(told, pytrace=False)  # here, or what is handled would be told as well

    # The innermost wrapper of each phase: what pytest and other plugins do around the
    # test is not under test.

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Know what is to come, and let the monkeys of the flags in, where the tests are run."""
        settings, config = self.settings, session.config
        runs = self._runs_here
        if runs and session.items and self._children is not None:
            self._children.prepare()
        if runs and settings.mode is not RunMode.NOTHING:
            asks = any(map(_asks_while_it_runs, session.items))
            self._engine.expected.withdraw(_ANY)
            self._engine.watch(True, expected=[*self._by_flags, *[_ANY] * asks])
        here = settings.mode is RunMode.INJECT and runs
        if settings.monkeys and here:
            self._monkeys = SessionMonkeys(self._engine, settings.monkeys, settings.seed)
            config.pluginmanager.register(self._monkeys, "resilience-monkeys")

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        __tracebackhide__ = True
        try:
            self._await_chaos(True)
            self._start(item, include_setup=True)
            result = yield
        except BaseException:
            self._end_chaos(item)
            raise
        self._await_chaos(self._has_chaos(item))
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        __tracebackhide__ = True
        try:
            self._start(item, include_setup=False)
            _before_cleaning_up(item, functools.partial(self._end_chaos, item))
            return (yield)
        finally:
            self._end_chaos(item)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Let a test that trio runs be cancelled alone, and not with who runs it."""
        __tracebackhide__ = True
        test = pyfuncitem.obj
        if "trio" not in sys.modules or not inspect.iscoroutinefunction(test):
            return (yield)
        pyfuncitem.obj = in_own_scope(test)
        try:
            return (yield)
        finally:
            pyfuncitem.obj = test

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """End the chaos before fixtures are torn down; then see whether it did anything."""
        __tracebackhide__ = True
        scope = self._scope(item)
        try:
            scope.stop_all()
            result = yield
        finally:
            scope.close()
            if self._children is not None:  # a fixture may have put back what it had found
                self._engine.refresh(self._children)
        if scope.outcome == "passed":
            scope.experiments.raise_never_fired()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        error = None if call.excinfo is None else call.excinfo.value
        if isinstance(error, _MISTAKES) and not item.config.getoption("fulltrace", default=False):
            end_at_caller(error.__traceback__)
        report = yield
        scope = item.stash.get(_SCOPE, None)
        if scope is None:
            return report
        if call.excinfo is not None and isinstance(error, NeverFiredError):
            # Neither skip nor xfail excuses a test that has proved nothing.
            report.outcome = "failed"
            report.longrepr = call.excinfo.getrepr(style="value")
            # For the line of the test in the short summary, where there is room for little.
            crash = getattr(report.longrepr, "reprcrash", None)
            if crash is not None:
                crash.message = f"never fired: {error.why.value}"
            vars(report).pop("wasxfail", None)
        if call.when == "call":
            excused = report.passed or hasattr(report, "wasxfail")
            scope.outcome = "passed" if excused else report.outcome
        if report.failed:
            _add_section(report, scope)
        if call.when == "teardown":
            self._finish(item, report, scope)
        return report

    def _finish(self, item: pytest.Item, report: pytest.TestReport, scope: ChaosScope) -> None:
        """Hand what is reported of a test to the summary, and forget the test."""
        faults = scope.faults.faults
        monkeys = [] if self._monkeys is None else self._monkeys.records(faults)
        record = scope.experiments.record(item.nodeid, monkeys)
        if record.experiments:
            vars(report)[RECORD] = record.to_json()
        del item.stash[_SCOPE]  # a re-run of the item starts afresh
        if _REQUESTS in item.stash:
            del item.stash[_REQUESTS]
        if self.settings.matrix is not None or self._reports:
            self._last = item, scope

    def pytest_unconfigure(self) -> None:
        self.close()

    def close(self) -> None:
        """Undo what an interrupt or another plugin's patch kept from being undone."""
        for active_experiment in self._engine.active:
            active_experiment.stop()
        self._engine.refresh()
        self._engine.watch(False)
        if self._children is not None:
            self._children.close()


def _runs_here(config: pytest.Config) -> bool:
    """Whether tests are run in this process."""
    elsewhere = config.getoption("dist", "no") != "no" and not is_worker(config)
    return not elsewhere and runs_tests(config)


def _asks_while_it_runs(item: pytest.Item) -> bool:
    """Whether a test says only then which experiments begin."""
    fixtures = getattr(item, "fixturenames", ())
    return not (_STARTING | _SCHEDULING).isdisjoint(fixtures) or any(
        item.get_closest_marker(name) is not None for name in _EXPLORING
    )


def _expected_by_flags(settings: Settings) -> Iterator[ChaosExperiment]:
    """What is put around tests whatever they ask for."""
    if settings.mode is RunMode.COUNT or (settings.matrix is not None and settings.matrix.explores):
        yield _ANY
    for request in settings.experiments:
        yield request.experiment.bind(settings.services)
    for _, requests in settings.profiles:
        for request in requests:
            yield request.experiment.bind(settings.services)
    for monkey in settings.monkeys:
        for each in monkey.experiments:
            yield each.make().bind(settings.services)


def _before_cleaning_up(item: pytest.Item, end: Callable[[], None]) -> None:
    """Call `end` before a test case of Django puts its databases in order, which it does itself.

    Pytest knows nothing of that, and takes it for a part of the test.
    """
    django = sys.modules.get("django.test.testcases")
    case: Any = getattr(item, "instance", None)
    if django is not None and isinstance(case, django.SimpleTestCase):
        cleaning_up = case._post_teardown  # noqa: SLF001

        def end_and_clean_up() -> None:
            end()
            cleaning_up()

        case._post_teardown = end_and_clean_up  # noqa: SLF001


def _add_section(report: pytest.TestReport, scope: ChaosScope) -> None:
    """Show with a failure what was injected, or that nothing was."""
    lines = [timeline(scope.faults.timeline())] if scope.faults.faults else []
    if report.when == "call":
        lines += [*map(with_page, scope.experiments.never_fired()), *scope.experiments.by_chance()]
    if lines:
        report.sections.append(("chaos", "\n".join(lines)))

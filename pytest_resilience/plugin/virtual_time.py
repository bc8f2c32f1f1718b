"""The tests whose time is virtual: which they are, and the clock of each."""

from __future__ import annotations

import random

from collections.abc import Generator
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_resilience.chaos.parsing.messages import inline
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin.markers import check_marks
from pytest_resilience.plugin.markers import raise_problems
from pytest_resilience.plugin.options import given
from pytest_resilience.plugin.options import option_name
from pytest_resilience.plugin.pytest_internals import first_of_function_scope
from pytest_resilience.plugin.settings import settings_of
from pytest_resilience.seeds import Stream
from pytest_resilience.virtual_time.clock import VirtualClock
from pytest_resilience.virtual_time.clock import check_installed
from pytest_resilience.virtual_time.clock import start_of
from pytest_resilience.virtual_time.locks import install_locks
from pytest_resilience.virtual_time.members import Order
from pytest_resilience.virtual_time.patches import Patches


__all__ = ["ORDER", "clock_of_a_test", "prepare"]

ORDER = pytest.StashKey[Order]()
"""Of a test: where all others of its threads and tasks go first."""

_INTERRUPTED = pytest.StashKey[bool]()
_FIXTURE = "virtual_clock"
_MARK = "virtual_time"
_PLUGIN = "resilience-virtual-time"
_CLOCK = pytest.StashKey[VirtualClock]()
_SEES_LOCKS = pytest.StashKey[Patches]()
_SHOWN = 20  # wakes with a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What a marker asks for.

    Attributes:
        start: nanoseconds since 1970; None for now.
        seeded: whether chance chooses who runs next.
    """

    start: int | None
    seeded: bool


def _request_of(mark: pytest.Mark) -> _Request:
    """Raises ConfigurationError for a mark that makes no sense."""
    unknown = ", ".join(sorted(mark.kwargs.keys() - {"start", "schedule"}))
    if mark.args or unknown:
        given_ = unknown or ", ".join(map(inline, map(repr, mark.args)))
        raise ConfigurationError(
            f"virtual_time: {given_}; it takes start='2030-01-01T00:00Z' and schedule='seeded'"
        )
    schedule = mark.kwargs.get("schedule")
    if schedule not in (None, "seeded"):
        raise ConfigurationError(
            f"virtual_time: schedule={inline(repr(schedule))}; write schedule='seeded', or nothing "
            "for threads that run as they like"
        )
    start = mark.kwargs.get("start")
    return _Request(start=None if start is None else start_of(start), seeded=schedule == "seeded")


def _check(_item: pytest.Item, mark: pytest.Mark) -> None:
    if mark.name == _MARK:
        _request_of(mark)
    elif mark.name == "no_virtual_time" and (mark.args or mark.kwargs):
        raise ConfigurationError(
            "no_virtual_time takes nothing; write @pytest.mark.no_virtual_time"
        )


def see_locks(config: pytest.Config) -> None:
    """Let locks that are made from now on be such as virtual time sees.

    As those that a module makes when it is imported, which are older than any clock. Harmless when
    repeated.
    """
    if _SEES_LOCKS in config.stash:
        return
    patches = config.stash[_SEES_LOCKS] = Patches()
    config.add_cleanup(patches.remove)
    install_locks(patches)


def prepare(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test that has virtual time its clock before its other fixtures.

    But after those of wider scopes: what they start lives longer than the clock.
    """
    check_marks(config, items, _check)
    every = config.getini(_MARK) or bool(given(config, "virtual-time"))
    having = [
        item
        for item in items
        if isinstance(item, pytest.Function) and _has_virtual_time(item, every)
    ]
    _check_installed(config, items, having)
    for item in having:
        names = [name for name in item.fixturenames if name != _FIXTURE]
        names.insert(first_of_function_scope(item, names), _FIXTURE)
        item.fixturenames = names
    if not config.pluginmanager.has_plugin(_PLUGIN):
        config.pluginmanager.register(_VirtualTime(config), _PLUGIN)


def _check_installed(
    config: pytest.Config, items: list[pytest.Item], having: list[pytest.Function]
) -> None:
    """Raise `pytest.UsageError`, once for all tests, where virtual time cannot be had."""
    if not having:
        return
    try:
        check_installed()
    except ConfigurationError as error:
        if given(config, "virtual-time"):
            asked = option_name(config, "virtual-time")
        elif config.getini(_MARK):
            asked = f"the ini option {_MARK}"
        else:
            more = f" and {len(having) - 1} more" if len(having) > 1 else ""
            asked = f"{having[0].nodeid}{more}"
        raise_problems(config, items, [with_page(error.within(asked))])


def _has_virtual_time(item: pytest.Function, every: bool) -> bool:
    if _FIXTURE in item.fixturenames:
        return True
    if item.get_closest_marker("no_virtual_time") is not None:
        return False
    return every or item.get_closest_marker(_MARK) is not None


@contextmanager
def clock_of_a_test(request: pytest.FixtureRequest) -> Iterator[VirtualClock]:
    """The fixture `virtual_clock` of a test."""
    item = request.node
    mark = item.get_closest_marker(_MARK)
    asked = _Request(start=None, seeded=False) if mark is None else _request_of(mark)
    chance: random.Random | None = None
    if asked.seeded:
        seed = settings_of(request.config).seed
        chance = Stream.at(seed, item.nodeid, "virtual time").random()
    order = item.stash.get(ORDER, None)
    with suppress(_Interrupted), VirtualClock(asked.start, chance=chance, order=order) as clock:
        item.stash[_CLOCK] = clock
        yield clock
        if request.config.stash.get(_INTERRUPTED, False):  # nobody waits for what is left
            raise _Interrupted


class _Interrupted(KeyboardInterrupt):
    """The run is over, in the middle of a test."""


class _VirtualTime:
    """Registered when a test has virtual time."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_keyboard_interrupt(self) -> None:
        """Before the fixtures of the test that was interrupted are torn down."""
        self._config.stash[_INTERRUPTED] = True

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """What a fixture of a wider scope starts keeps real time: it outlives the test."""
        __tracebackhide__ = True
        item = getattr(request, "_pyfuncitem", None)
        clock = None if item is None else item.stash.get(_CLOCK, None)
        if clock is None or fixturedef.scope == "function":
            return (yield)
        with clock.absent():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show with a failure which waits came before, and how to repeat them."""
        report = yield
        clock = item.stash.get(_CLOCK, None)
        if clock is not None and report.failed and call.when == "call":
            lines = [f"{clock.elapsed:.9g} s have passed in {clock.jumps} jumps"]
            mark = item.get_closest_marker(_MARK)
            if mark is not None and _request_of(mark).seeded:
                flag, seed = option_name(item.config, "chaos-seed"), settings_of(item.config).seed
                lines.append(f"the order of its threads repeats with {flag}={seed}")
            lines += map(str, clock.timeline()[-_SHOWN:])
            report.sections.append(("virtual time", "\n".join(lines)))
        if call.when == "teardown" and clock is not None:
            del item.stash[_CLOCK]
        return report

"""When the chaos of a run begins: by a flag, by what a module says, or by the tests that there are.

Connections are such as experiments reach only where that is known when they are made. So what a
module says is looked at before it is imported, and what it makes then is reached by what is started
later, when the tests are known.

An idle run does without this module. It is a plugin where a flag may be typed, or a module says so.
"""

from __future__ import annotations

import argparse

from copy import copy
from typing import TYPE_CHECKING
from typing import Any

import pytest

from pytest_resilience.plugin import options
from pytest_resilience.plugin.options import given
from pytest_resilience.plugin.xdist_workers import is_worker


if TYPE_CHECKING:
    from pytest_resilience.plugin.session import ChaosSession
    from pytest_resilience.runtime import DatabaseInterceptor


__all__ = [
    "add_flags", "begin_if_asked", "expect_anything", "prepare", "session_of", "watch_databases",
]  # fmt: skip

# The names under which parts are registered with pytest where they are needed.
_SESSION = "resilience-chaos"
_OPTIONS = "resilience-options"

_EXPLORE = frozenset({"--chaos-explore", "--resilience-chaos-explore"})
_DEPTH = 2  # of an exploration that names none
_EXPLORING = frozenset({"chaos_explore", "chaos_replay"})
_OWN_CHAOS = frozenset(  # the fixtures with which a test has some
    {"chaos", "chaos_monkey", "chaos_proxy", "chaos_responses", "chaos_schedules"}
)
_CLOCK = "virtual_clock"
_CLOCK_FLAG = "virtual-time"

# What the engine of the run is made with, once all is known of it.
_EARLY_DATABASES: pytest.StashKey[DatabaseInterceptor] = pytest.StashKey()
_MADE: pytest.StashKey[ChaosSession] = pytest.StashKey()


def add_flags(config: pytest.Config, parser: pytest.Parser, args: list[str]) -> argparse.Namespace:
    """Add the flags, and let what conftest files make be reached by what they ask for.

    Returns what was typed.
    """
    # Its value may be left out. What stands behind it is a file to collect, and no value.
    args[:] = [f"{arg}={_DEPTH}" if arg in _EXPLORE else arg for arg in args]

    config.pluginmanager.register(options, _OPTIONS)
    # Until now the values of our flags were taken for files to collect.
    known = parser.parse_known_args(args, namespace=copy(config.option))
    config.known_args_namespace.file_or_dir = known.file_or_dir
    if options.may_inject(known):
        watch_databases(config)
    if known.resilience_virtual_time:
        from pytest_resilience.plugin.virtual_time import see_locks

        see_locks(config)
    return known


def watch_databases(config: pytest.Config) -> None:
    """From now on connections are such as experiments of this run reach. Harmless when repeated."""
    if _EARLY_DATABASES not in config.stash:
        from pytest_resilience.runtime import watched_databases

        databases = config.stash[_EARLY_DATABASES] = watched_databases()
        config.add_cleanup(lambda: databases.watch(False))


def begin_if_asked(config: pytest.Config) -> None:
    """Start the session if a flag asks for chaos."""
    if any(given(config, flag) for flag in options.FLAGS.keys() - {_CLOCK_FLAG}):
        session_of(config)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Answer --chaos-list and --chaos-profile=?."""
    if "?" in given(config, "chaos-profile"):
        from pytest_resilience.plugin.terminal import list_profiles

        return list_profiles(config)
    if not given(config, "chaos-list"):
        return None
    from pytest_resilience.plugin.terminal import list_types

    return list_types(config)


def expect_anything(config: pytest.Config) -> None:
    """Let what modules make at import be reached by whatever begins later."""
    if _MADE not in config.stash:
        try:
            _made(config).expect_anything()
        except pytest.UsageError:
            return  # it is told when all is collected


def prepare(
    config: pytest.Config, items: list[pytest.Item], names: set[str], fixtures: set[str]
) -> None:
    """Check what collected tests ask for, and start what they need.

    `names`: of their marks, and `fixtures`: those of ours that they use. Raises
    `pytest.UsageError`.
    """
    from pytest_resilience.plugin.markers import check_expectation
    from pytest_resilience.plugin.markers import check_marks
    from pytest_resilience.plugin.markers import raise_problems

    if not names.isdisjoint({"resilience", "no_chaos"}):
        check_marks(config, items, check_expectation)
    # Flags have started it already, and may choose among the tests.
    if config.pluginmanager.has_plugin(_SESSION) or "chaos" in names or fixtures - {_CLOCK}:
        check_marks(config, items, session_of(config).check_mark)
    if not _EXPLORING.isdisjoint(names):
        from pytest_resilience.plugin.exploration.protocol import check_mark
        from pytest_resilience.plugin.exploration.protocol import register

        check_marks(config, items, check_mark)
        register(config, session_of(config), own_chaos=_OWN_CHAOS)
    if "chaos_explore" not in names and config.pluginmanager.has_plugin(_SESSION):
        from pytest_resilience.plugin.exploration.settings import ignored_flags

        raise_problems(config, items, ignored_flags(config))
    adapters: list[Any] = getattr(config.hook, "pytest_resilience_adapters", list)()
    if adapters:
        from pytest_resilience.plugin.newhooks import add_readers

        add_readers(config, adapters)
    every = config.getini("virtual_time") or given(config, _CLOCK_FLAG)
    if _CLOCK in fixtures or "virtual_time" in names or every:
        from pytest_resilience.plugin.virtual_time import prepare as prepare_clocks

        prepare_clocks(config, items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let nothing be reached where the tests that asked for chaos are not among those to run."""
    config = session.config
    if _MADE in config.stash and not config.pluginmanager.has_plugin(_SESSION):
        config.stash[_MADE].close()


def session_of(config: pytest.Config) -> ChaosSession:
    """The session of this run, started if need be, with what belongs to it.

    Raises `pytest.UsageError` for flags that make no sense.
    """
    session: ChaosSession | None = config.pluginmanager.get_plugin(_SESSION)
    if session is not None:
        return session
    from pytest_resilience.plugin.experiment_requests import RunMode
    from pytest_resilience.plugin.exploration.settings import explores
    from pytest_resilience.plugin.settings import report_files
    from pytest_resilience.plugin.terminal import ChaosSummary

    session = _made(config)
    settings = session.settings
    config.pluginmanager.register(session, _SESSION)
    if not is_worker(config):
        ChaosSummary.register(config, settings)
    if settings.matrix is not None and not settings.matrix.explores:
        from pytest_resilience.plugin.matrix.protocol import register

        register(config, session)
    elif settings.matrix is None and settings.mode is RunMode.INJECT and report_files(config):
        from pytest_resilience.plugin.chaos_report import report_on

        report_on(config, session)
    if explores(config):
        from pytest_resilience.plugin.exploration.protocol import register as explore

        explore(config, session, own_chaos=_OWN_CHAOS)
    return session


def _made(config: pytest.Config) -> ChaosSession:
    """The session, which does nothing before it is started. Raises as `session_of` does."""
    session = config.stash.get(_MADE, None)
    if session is None:
        from pytest_resilience.plugin.session import ChaosSession
        from pytest_resilience.plugin.settings import settings_of

        session = config.stash[_MADE] = ChaosSession(
            config,
            settings_of(config),
            native=options.is_on(config, "chaos_native"),
            databases=config.stash.get(_EARLY_DATABASES, None),
        )
        config.add_cleanup(session.close)
    return session

"""When the chaos of a run begins: by a flag, by what a module says, or by the tests that there are.

Connections are such as experiments reach only where that is known when they are made. So what a
module says is looked at before it is imported, and what it makes then is reached by what is started
later, when the tests are known.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import pytest

from pytest_resilience.plugin.experiment_request import RunMode
from pytest_resilience.plugin.session import ChaosSession
from pytest_resilience.plugin.settings import report_files
from pytest_resilience.plugin.settings import settings_of
from pytest_resilience.plugin.summary import ChaosSummary
from pytest_resilience.runtime import DatabaseInterceptor
from pytest_resilience.runtime import watched_databases


__all__ = ["expect_anything", "expect_nothing", "start", "watch_databases"]

# What the engine of the run is made with, once all is known of it.
_EARLY_DATABASES = pytest.StashKey[DatabaseInterceptor]()
_MADE = pytest.StashKey[ChaosSession]()


def watch_databases(config: pytest.Config) -> None:
    """From now on connections are such as experiments of this run reach."""
    databases = config.stash[_EARLY_DATABASES] = watched_databases()
    config.add_cleanup(lambda: databases.watch(False))


def expect_anything(config: pytest.Config, *, native: bool) -> None:
    """Let what modules make at import be reached by whatever begins later. Raises as `start`."""
    _made(config, native=native).expect_anything()


def expect_nothing(config: pytest.Config) -> None:
    """No test is left that has chaos."""
    if _MADE in config.stash:
        config.stash[_MADE].close()


def start(
    config: pytest.Config, name: str, *, native: bool, own_chaos: AbstractSet[str]
) -> ChaosSession:
    """Start the session, under this name of a plugin, and what belongs to it.

    `native`: whether clients that connect in C are reached. `own_chaos`: the fixtures of tests
    that have chaos of their own. Raises `pytest.UsageError` for flags that make no sense.
    """
    session = _made(config, native=native)
    settings = session.settings
    config.pluginmanager.register(session, name)
    if not hasattr(config, "workerinput"):  # a worker of xdist has no terminal
        ChaosSummary.register(config, settings)
    if settings.matrix is not None and not settings.matrix.explores:
        from pytest_resilience.plugin.matrix.protocol import register

        register(config, session)
    elif settings.matrix is None and settings.mode is RunMode.INJECT and report_files(config):
        from pytest_resilience.plugin.chaos_report import report_on

        report_on(config, session)
    from pytest_resilience.plugin.exploration.settings import explores

    if explores(config):
        from pytest_resilience.plugin.exploration.protocol import register as explore

        explore(config, session, own_chaos=own_chaos)
    return session


def _made(config: pytest.Config, *, native: bool) -> ChaosSession:
    """The session, which does nothing before it is started. Raises as `start` does."""
    session = config.stash.get(_MADE, None)
    if session is None:
        session = config.stash[_MADE] = ChaosSession(
            config,
            settings_of(config),
            native=native,
            databases=config.stash.get(_EARLY_DATABASES, None),
        )
        config.add_cleanup(session.close)
    return session

"""The database interceptor: the drivers that there are, where their users meet them."""

from __future__ import annotations

import contextlib
import functools

from collections.abc import Callable
from typing import Protocol

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.databases.driver import DATABASE_KINDS
from pytest_resilience.interceptors.databases.driver import Gate
from pytest_resilience.interceptors.import_hook import Arrivals
from pytest_resilience.interceptors.patching import Patches


__all__ = ["DatabaseInterceptor"]


class Driver(Protocol):
    """One library."""

    def apply(self, patches: Patches) -> None:
        """Replace what its users call."""


class DatabaseInterceptor:
    """Intercepts what clients do with databases. See `chaos.engine.Interceptor`.

    A driver is reached when it is there, if it was loaded before or is while an experiment
    runs. To load all that are installed would take long, and an event loop may be waiting.
    """

    kinds = DATABASE_KINDS

    def __init__(self, engine: Engine) -> None:
        self._patches = Patches()
        # One for all time: connections outlive experiments, and each gate has classes of its own.
        self._gate = Gate(engine)
        self._installed = False
        self._drivers: dict[str, Driver] = {}  # each made once
        self._engine = engine
        self._arrivals = Arrivals({name: functools.partial(self._reach, name) for name in _MAKERS})

    def install(self) -> None:
        if not self._installed:
            self._installed = True
            self._arrivals.watch()

    def refresh(self) -> None:
        self._gate.refresh()

    def remove(self) -> None:
        if self._installed:
            self._installed = False
            self._arrivals.forget()
            self._gate.refresh()  # nothing is active: from now on it only lets pass
        if self._patches:
            self._patches.restore()

    def _reach(self, name: str) -> None:
        # What is broken, or of another version, is for who loads it to find out.
        with contextlib.suppress(ImportError, AttributeError):
            if name not in self._drivers:
                self._drivers[name] = _MAKERS[name](self._gate)
            self._drivers[name].apply(self._patches)
            if name == "sqlite3":
                _opened_before(self._engine, self._patches)


def _opened_before(engine: Engine, patches: Patches) -> None:
    from pytest_resilience.interceptors.databases.opened_before import OpenedBefore

    OpenedBefore(engine).apply(patches)


def _sqlite(gate: Gate) -> Driver:
    from pytest_resilience.interceptors.databases.sqlite import SqliteDriver

    return SqliteDriver(gate)


def _psycopg(gate: Gate) -> Driver:
    from pytest_resilience.interceptors.databases.psycopg import PsycopgDriver

    return PsycopgDriver(gate)


def _psycopg2(gate: Gate) -> Driver:
    from pytest_resilience.interceptors.databases.psycopg2 import Psycopg2Driver

    return Psycopg2Driver(gate)


def _asyncpg(gate: Gate) -> Driver:
    from pytest_resilience.interceptors.databases.asyncpg import AsyncpgDriver

    return AsyncpgDriver(gate)


def _redis(gate: Gate) -> Driver:
    from pytest_resilience.interceptors.databases.redis import RedisDriver

    return RedisDriver(gate)


def _sqlalchemy(gate: Gate) -> Driver:
    from pytest_resilience.interceptors.databases.pools import SqlalchemyPools

    return SqlalchemyPools(gate)


def _psycopg_pool(gate: Gate) -> Driver:
    from pytest_resilience.interceptors.databases.pools import PsycopgPools

    return PsycopgPools(gate)


# By the module whose arrival means that what is replaced is there.
_MAKERS: dict[str, Callable[[Gate], Driver]] = {
    "sqlite3": _sqlite,
    "psycopg": _psycopg,
    "psycopg_pool": _psycopg_pool,
    "psycopg2": _psycopg2,
    "asyncpg": _asyncpg,
    "redis": _redis,
    "sqlalchemy": _sqlalchemy,
}

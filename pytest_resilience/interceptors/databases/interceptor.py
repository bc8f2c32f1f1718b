"""The database interceptor: the drivers that there are, where their users meet them."""

from __future__ import annotations

import functools
import pkgutil

from typing import Protocol

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.databases.driver import DATABASE_KINDS
from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.interceptors.import_hook import LibraryPatches
from pytest_resilience.interceptors.patching import Patches


__all__ = ["DatabaseInterceptor"]

# By the module whose import means that what is replaced is there: where its driver is.
_FOLDER = "pytest_resilience.interceptors.databases"
_DRIVERS = {
    "sqlite3": f"{_FOLDER}.sqlite:SqliteDriver",
    "psycopg": f"{_FOLDER}.psycopg:PsycopgDriver",
    "psycopg_pool": f"{_FOLDER}.pools:PsycopgPools",
    "psycopg2": f"{_FOLDER}.psycopg2:Psycopg2Driver",
    "asyncpg": f"{_FOLDER}.asyncpg:AsyncpgDriver",
    "redis": f"{_FOLDER}.redis:RedisDriver",
    "sqlalchemy": f"{_FOLDER}.pools:SqlalchemyPools",
}


class Driver(Protocol):
    """One library."""

    def install(self, patches: Patches) -> None:
        """Replace what its users call, until the patches are restored."""


class DatabaseInterceptor:
    """Intercepts what clients do with databases. See `chaos.engine.Interceptor`.

    A driver is reached when it is there, if it was loaded before or is while an experiment
    runs. To load all that are installed would take long, and an event loop may be waiting.
    """

    kinds = DATABASE_KINDS

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # One for all time: connections outlive experiments, and their classes hold its hooks.
        self._hooks = DriverHooks(engine)
        self._drivers: dict[str, Driver] = {}  # each made once
        self._libraries = LibraryPatches(
            {name: functools.partial(self._install_one, name) for name in _DRIVERS}
        )

    def install(self) -> None:
        self._libraries.install()

    def refresh(self) -> None:
        self._hooks.refresh()

    def remove(self) -> None:
        self._libraries.remove()
        self._hooks.refresh()  # nothing is active: from now on everything passes

    def _install_one(self, name: str, patches: Patches) -> None:
        if name not in self._drivers:
            self._drivers[name] = pkgutil.resolve_name(_DRIVERS[name])(self._hooks)
        self._drivers[name].install(patches)
        if name == "sqlite3":
            from pytest_resilience.interceptors.databases.opened_before import OpenedBefore

            OpenedBefore(self._engine).install(patches)

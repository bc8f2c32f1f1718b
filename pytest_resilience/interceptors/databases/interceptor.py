"""The database interceptor: the drivers that there are, where their users meet them."""

from __future__ import annotations

import functools
import pkgutil

from collections.abc import Callable
from collections.abc import Mapping
from typing import Protocol

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.interceptors.databases.driver import DATABASE_KINDS
from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.patching import LibraryPatches
from pytest_resilience.patching import Patches


__all__ = ["DatabaseInterceptor"]

# By the module whose import means that what is replaced is there: where its driver is.
_FOLDER = "pytest_resilience.interceptors.databases"
_IN_C = {  # of which connections are reached that are made while this is in place
    "sqlite3": f"{_FOLDER}.sqlite:SqliteDriver",
    "psycopg2": f"{_FOLDER}.psycopg2:Psycopg2Driver",
}
_DRIVERS = {
    "psycopg": f"{_FOLDER}.postgres:PsycopgDriver",
    "psycopg_pool": f"{_FOLDER}.pools:PsycopgPools",
    "asyncpg": f"{_FOLDER}.postgres:AsyncpgDriver",
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
        # One for all time: connections outlive experiments, and their classes hold its hooks.
        self._hooks = DriverHooks(engine)
        self._drivers: dict[str, Driver] = {}  # each made once
        self._in_c = LibraryPatches(self._installers(_IN_C))
        noting = {"sqlite3": self._note_opened_before}
        self._libraries = LibraryPatches({**self._installers(_DRIVERS), **noting})

    def serve(self, engine: Engine) -> DatabaseInterceptor:
        """Let experiments of `engine` reach what is made from now on, and what was before.

        Only while no other one's are active.
        """
        self._hooks.engine = engine
        return self

    def watch(self, on: bool) -> None:
        """From now on connections are made so that experiments reach them later, or not any more.

        Those of drivers in C cannot be changed any more when they are there.
        """
        self._hooks.watching = on
        if on:
            self._in_c.install()
        else:
            self.remove()

    def install(self) -> None:
        self._in_c.install()
        self._libraries.install()

    def refresh(self) -> None:
        self._hooks.refresh()

    def remove(self) -> bool:
        is_left = self._libraries.remove()
        if not self._hooks.watching:
            is_left |= self._in_c.remove()
        self._hooks.refresh()  # nothing is active: from now on everything passes
        return is_left

    def _installers(self, drivers: Mapping[str, str]) -> dict[str, Callable[[Patches], None]]:
        return {
            name: functools.partial(self._install_one, place) for name, place in drivers.items()
        }

    def _install_one(self, place: str, patches: Patches) -> None:
        if place not in self._drivers:
            self._drivers[place] = pkgutil.resolve_name(place)(self._hooks)
        self._drivers[place].install(patches)

    def _note_opened_before(self, patches: Patches) -> None:
        from pytest_resilience.interceptors.databases.sqlite import OpenedBefore

        OpenedBefore(self._hooks.engine).install(patches)

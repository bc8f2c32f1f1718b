"""The database seam: the drivers that there are, where their users meet them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import Protocol

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.seams.gate import DATABASE_KINDS
from pytest_resilience.seams.gate import Gate
from pytest_resilience.seams.patching import Patches


__all__ = ["DatabaseSeam"]


class Driver(Protocol):
    """One library."""

    def apply(self, patches: Patches) -> None:
        """Replace what its users call."""


class DatabaseSeam:
    """Intercepts what clients do with databases. See `chaos.engine.Seam`.

    Drivers that are installed are loaded when the first experiment needs them: what is not
    replaced before it is used is not reached.
    """

    kinds = DATABASE_KINDS

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._patches = Patches()
        # Always the same: connections outlive the experiments under which they were opened.
        self._gate = Gate(engine)
        self._installed = False
        self._drivers: tuple[Driver, ...] | None = None  # made by the first install

    def install(self) -> None:
        if not self._installed:
            self._installed = True
            if self._drivers is None:
                self._drivers = tuple(_drivers(self._gate))
            for driver in self._drivers:
                driver.apply(self._patches)
            _opened_before(self._engine, self._patches)

    def refresh(self) -> None:
        self._gate.refresh()

    def remove(self) -> None:
        if self._installed:
            self._installed = False
            self._gate.refresh()  # nothing is active, so it only lets pass
        if self._patches:
            self._patches.restore()


def _opened_before(engine: Engine, patches: Patches) -> None:
    from pytest_resilience.seams.opened_before import OpenedBefore

    OpenedBefore(engine).apply(patches)


def _sqlite(gate: Gate) -> Driver:
    from pytest_resilience.seams.sqlite import SqliteDriver

    return SqliteDriver(gate)


def _psycopg(gate: Gate) -> Driver:
    import psycopg  # noqa: F401  # whether it is there

    from pytest_resilience.seams.psycopg3 import PsycopgDriver

    return PsycopgDriver(gate)


def _psycopg2(gate: Gate) -> Driver:
    from pytest_resilience.seams.psycopg2_driver import Psycopg2Driver

    return Psycopg2Driver(gate)


def _asyncpg(gate: Gate) -> Driver:
    import asyncpg  # noqa: F401  # whether it is there

    from pytest_resilience.seams.asyncpg_driver import AsyncpgDriver

    return AsyncpgDriver(gate)


def _redis(gate: Gate) -> Driver:
    import redis  # noqa: F401  # whether it is there

    from pytest_resilience.seams.redis_driver import RedisDriver

    return RedisDriver(gate)


def _sqlalchemy(gate: Gate) -> Driver:
    import sqlalchemy  # noqa: F401  # whether it is there

    from pytest_resilience.seams.pools import SqlalchemyPools

    return SqlalchemyPools(gate)


def _psycopg_pool(gate: Gate) -> Driver:
    import psycopg_pool  # noqa: F401  # whether it is there

    from pytest_resilience.seams.pools import PsycopgPools

    return PsycopgPools(gate)


_MAKERS: tuple[Callable[[Gate], Driver], ...] = (
    _sqlite, _psycopg, _psycopg_pool, _psycopg2, _asyncpg, _redis, _sqlalchemy,
)  # fmt: skip


def _drivers(gate: Gate) -> Iterator[Driver]:
    """Those of the libraries that are installed and can be loaded."""
    for make in _MAKERS:
        try:
            yield make(gate)
        except ImportError:  # not installed, or broken: then nobody can use it either
            continue

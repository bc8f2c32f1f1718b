"""Pools of connections that are exhausted: SQLAlchemy's and psycopg's.

The client is told at once: how long it would have waited is the pool's own setting.
"""

from __future__ import annotations

import functools

from typing import Any

from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.interceptors.databases.driver import Injection
from pytest_resilience.interceptors.databases.driver import hooked
from pytest_resilience.interceptors.databases.driver import hooked_async
from pytest_resilience.patching import Patches


__all__ = ["PsycopgPools", "SqlalchemyPools"]


class SqlalchemyPools:
    """Queue pools, of sync and async engines: those with a limit."""

    def __init__(self, hooks: DriverHooks) -> None:
        self._hooks = hooks

    def install(self, patches: Patches) -> None:
        from sqlalchemy.pool import QueuePool

        patches.replace(QueuePool, "_do_get", functools.partial(hooked, self._before))

    def _before(self, pool: Any) -> Injection | None:
        from sqlalchemy import exc

        def fail(_failure: DatabaseFailure) -> BaseException:
            return exc.TimeoutError(
                f"QueuePool limit of size {pool.size()} overflow {pool._max_overflow} reached, "  # noqa: SLF001
                f"connection timed out, timeout {pool.timeout():.2f}",
                code="3o7r",
            )

        return self._hooks.before_checkout("pool", fail)


class PsycopgPools:
    """Pools of psycopg_pool, sync and async."""

    def __init__(self, hooks: DriverHooks) -> None:
        self._hooks = hooks

    def install(self, patches: Patches) -> None:
        from psycopg_pool import AsyncConnectionPool
        from psycopg_pool import ConnectionPool

        patches.replace(ConnectionPool, "getconn", functools.partial(hooked, self._before))
        patches.replace(
            AsyncConnectionPool, "getconn", functools.partial(hooked_async, self._before)
        )

    def _before(self, pool: Any, timeout: float | None = None) -> Injection | None:
        import psycopg_pool

        def fail(_failure: DatabaseFailure) -> BaseException:
            waited = pool.timeout if timeout is None else timeout
            return psycopg_pool.PoolTimeout(f"couldn't get a connection after {waited:.2f} sec")

        return self._hooks.before_checkout(pool.name, fail)

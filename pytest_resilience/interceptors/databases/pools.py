"""Pools of connections that are exhausted: SQLAlchemy's and psycopg's.

The client is told at once: how long it would have waited is the pool's own setting.
"""

from __future__ import annotations

import functools

from collections.abc import Callable
from typing import Any

from pytest_resilience.interceptors.databases.driver import Gate
from pytest_resilience.interceptors.databases.driver import hold_up
from pytest_resilience.interceptors.databases.driver import hold_up_async
from pytest_resilience.interceptors.patching import Patches


__all__ = ["PsycopgPools", "SqlalchemyPools"]


class SqlalchemyPools:
    """Queue pools, of sync and async engines: those with a limit."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def apply(self, patches: Patches) -> None:
        from sqlalchemy.pool import QueuePool

        patches.replace(QueuePool, "_do_get", self._checking_out)

    def _checking_out(self, original: Callable[..., Any]) -> Callable[..., Any]:
        from sqlalchemy import exc

        @functools.wraps(original)
        def check_out(pool: Any) -> Any:
            __tracebackhide__ = True
            effect = self._gate.checking_out(("pool",))
            if effect is not None and hold_up(effect) is not None:
                raise exc.TimeoutError(
                    f"QueuePool limit of size {pool.size()} overflow {pool._max_overflow} reached, "  # noqa: SLF001
                    f"connection timed out, timeout {pool.timeout():.2f}",
                    code="3o7r",
                )
            return original(pool)

        return check_out


class PsycopgPools:
    """Pools of psycopg_pool, sync and async."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def apply(self, patches: Patches) -> None:
        import psycopg_pool

        patches.replace(psycopg_pool.ConnectionPool, "getconn", self._getting)
        patches.replace(psycopg_pool.AsyncConnectionPool, "getconn", self._getting_async)

    def _getting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def get(pool: Any, timeout: float | None = None) -> Any:
            __tracebackhide__ = True
            effect = self._gate.checking_out((pool.name,))
            if effect is not None and hold_up(effect) is not None:
                raise _timeout(pool, timeout)
            return original(pool, timeout)

        return get

    def _getting_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def get(pool: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            effect = self._gate.checking_out((pool.name,))
            if effect is not None and await hold_up_async(effect) is not None:
                raise _timeout(pool, *args, **kwargs)
            return await original(pool, *args, **kwargs)

        return get


def _timeout(pool: Any, timeout: float | None = None) -> Exception:
    import psycopg_pool

    waited = pool.timeout if timeout is None else timeout
    return psycopg_pool.PoolTimeout(f"couldn't get a connection after {waited:.2f} sec")

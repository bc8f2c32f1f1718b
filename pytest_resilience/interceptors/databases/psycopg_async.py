"""psycopg 3, awaited: the wrappers of its cursors, connections and transactions."""

from __future__ import annotations

import functools

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import LOST
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases import postgres
from pytest_resilience.interceptors.databases.driver import Gate
from pytest_resilience.interceptors.databases.driver import pass_through_async
from pytest_resilience.interceptors.databases.psycopg_session import asked
from pytest_resilience.interceptors.databases.psycopg_session import asked_to_commit
from pytest_resilience.interceptors.databases.psycopg_session import outermost
from pytest_resilience.interceptors.databases.psycopg_session import session_of


__all__ = ["AsyncDoors"]


class AsyncDoors:
    """As `psycopg3.Doors`, of those that are awaited."""

    def __init__(self, gate: Gate, cursor: Any) -> None:
        self._gate = gate
        self._execute = cursor.execute

    def executing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def execute(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, cursor, query, *args, **kwargs)
            effect = asked(self._gate, cursor, query)
            if effect is None:
                return await proceed()
            fail = functools.partial(self._fail, cursor, False)
            return await pass_through_async(effect, proceed, fail)

        return execute

    def fetching(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def fetch(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, cursor, *args, **kwargs)
            if not self._gate.fetches:
                return await proceed()
            effect = self._gate.fetching(session_of(cursor.connection))
            fail = functools.partial(self._fail, cursor, False)
            return await pass_through_async(effect, proceed, fail)

        return fetch

    def committing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def commit(connection: Any) -> Any:
            __tracebackhide__ = True
            effect = asked_to_commit(self._gate, connection)
            fail = functools.partial(self._fail, connection.cursor(), True)
            return await pass_through_async(effect, functools.partial(original, connection), fail)

        return commit

    def leaving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The end of a block of a transaction."""

        @functools.wraps(original)
        async def leave(transaction: Any, kind: Any, error: Any, traceback: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, transaction, kind, error, traceback)
            if kind is not None or transaction.force_rollback or not outermost(transaction):
                return await proceed()
            connection = transaction.connection
            effect = asked_to_commit(self._gate, connection)

            async def fail(failure: DatabaseFailure) -> BaseException | None:
                found = await self._fail(connection.cursor(), True, failure)
                if found is not None and failure.moment != AFTER:
                    await original(transaction, type(found), found, None)
                return found

            return await pass_through_async(effect, proceed, fail)

        return leave

    async def _fail(
        self, cursor: Any, committing: bool, failure: DatabaseFailure
    ) -> BaseException | None:
        connection = cursor.connection
        if failure.condition == LOST:
            postgres.cut(connection.fileno(), failure.moment)
            later = failure.moment == AFTER
            return await self._error(connection, "SELECT 1") if later else None
        statement = postgres.raising(failure.condition)
        if not committing:
            return await self._error(connection, statement)
        await self._execute(connection.cursor(), "ROLLBACK")
        error = await self._error(connection, statement)
        await self._execute(connection.cursor(), "ROLLBACK")
        return error

    async def _error(self, connection: Any, statement: str) -> BaseException | None:
        import psycopg

        try:
            await self._execute(connection.cursor(), statement)
        except psycopg.Error as error:
            return error
        return None

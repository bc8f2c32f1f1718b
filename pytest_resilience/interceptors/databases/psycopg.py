"""psycopg 3, sync and async: its classes are Python's, also where libpq does the work.

Every connection is reached, those that were open before as well.
"""

from __future__ import annotations

import functools

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import LOST
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases import postgres
from pytest_resilience.interceptors.databases.driver import Gate
from pytest_resilience.interceptors.databases.driver import hold_up
from pytest_resilience.interceptors.databases.driver import hold_up_async
from pytest_resilience.interceptors.databases.driver import pass_through
from pytest_resilience.interceptors.databases.psycopg_async import AsyncDoors
from pytest_resilience.interceptors.databases.psycopg_session import asked
from pytest_resilience.interceptors.databases.psycopg_session import asked_to_commit
from pytest_resilience.interceptors.databases.psycopg_session import outermost
from pytest_resilience.interceptors.databases.psycopg_session import session_of
from pytest_resilience.interceptors.patching import Patches


__all__ = ["PsycopgDriver"]

_FETCHING = ("fetchone", "fetchmany", "fetchall")


class PsycopgDriver:
    """See the module."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def apply(self, patches: Patches) -> None:
        import psycopg

        patches.replace(psycopg, "connect", self._connecting)
        patches.replace(
            psycopg.Connection, "connect", lambda found: staticmethod(self._connecting(found))
        )
        patches.replace(
            psycopg.AsyncConnection,
            "connect",
            lambda found: staticmethod(self._connecting_async(found)),
        )
        sync, later = (
            Doors(self._gate, psycopg.Cursor),
            AsyncDoors(self._gate, psycopg.AsyncCursor),
        )
        for doors, cursors, connection, transaction in (
            (sync, (psycopg.Cursor, psycopg.ServerCursor), psycopg.Connection, psycopg.Transaction),
            (
                later,
                (psycopg.AsyncCursor, psycopg.AsyncServerCursor),
                psycopg.AsyncConnection,
                psycopg.AsyncTransaction,
            ),
        ):
            for cursor in cursors:
                patches.replace(cursor, "execute", doors.executing)
                patches.replace(cursor, "executemany", doors.executing)
                for name in _FETCHING:
                    patches.replace(cursor, name, doors.fetching)
            patches.replace(connection, "commit", doors.committing)
            leaving = "__exit__" if connection is psycopg.Connection else "__aexit__"
            patches.replace(transaction, leaving, doors.leaving)

    def _connecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def connect(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            effect, parts = self._opening(args, kwargs)
            failure = None if effect is None else hold_up(effect)
            if failure is not None:
                raise _refused(failure, parts)
            return original(*args, **kwargs)

        return connect

    def _connecting_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def connect(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            effect, parts = self._opening(args, kwargs)
            failure = None if effect is None else await hold_up_async(effect)
            if failure is not None:
                raise _refused(failure, parts)
            return await original(*args, **kwargs)

        return connect

    def _opening(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Effect | None, dict[str, Any]]:
        """What happens to a connect, and where it goes to."""
        from psycopg import ProgrammingError
        from psycopg import conninfo

        try:
            parts = conninfo.conninfo_to_dict(args[0] if args else kwargs.get("conninfo", ""))
        except ProgrammingError:
            return None, {}  # the driver will say so
        parts |= {name: kwargs[name] for name in ("host", "port", "dbname") if name in kwargs}
        host, port = parts.get("host") or "localhost", parts.get("port") or 5432
        names = (str(parts.get("dbname") or "postgres"), f"{host}:{port}", str(host))
        return self._gate.opening(names), {"host": str(host), "port": port}


def _refused(failure: DatabaseFailure, parts: dict[str, Any]) -> Exception:
    import psycopg

    text = postgres.refusal(failure.condition, parts["host"], parts["port"])
    return psycopg.OperationalError(f"connection failed: {text}")


class Doors:
    """The wrappers of blocking cursors, connections and transactions."""

    def __init__(self, gate: Gate, cursor: Any) -> None:
        self._gate = gate
        self._execute = cursor.execute  # as found, for what is not to be seen

    def executing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def execute(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, cursor, query, *args, **kwargs)
            effect = asked(self._gate, cursor, query)
            if effect is None:
                return proceed()
            return pass_through(effect, proceed, functools.partial(self._fail, cursor, False))

        return execute

    def fetching(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def fetch(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, cursor, *args, **kwargs)
            if not self._gate.fetches:
                return proceed()
            effect = self._gate.fetching(session_of(cursor.connection))
            return pass_through(effect, proceed, functools.partial(self._fail, cursor, False))

        return fetch

    def committing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def commit(connection: Any) -> Any:
            __tracebackhide__ = True
            effect = asked_to_commit(self._gate, connection)
            fail = functools.partial(self._fail, connection.cursor(), True)
            return pass_through(effect, functools.partial(original, connection), fail)

        return commit

    def leaving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The end of a block of a transaction."""

        @functools.wraps(original)
        def leave(transaction: Any, kind: Any, error: Any, traceback: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, transaction, kind, error, traceback)
            if kind is not None or transaction.force_rollback or not outermost(transaction):
                return proceed()
            connection = transaction.connection
            effect = asked_to_commit(self._gate, connection)

            def fail(failure: DatabaseFailure) -> BaseException | None:
                found = self._fail(connection.cursor(), True, failure)
                if (
                    found is not None and failure.moment != AFTER
                ):  # the block has ended all the same
                    original(transaction, type(found), found, None)
                return found

            return pass_through(effect, proceed, fail)

        return leave

    def _fail(
        self, cursor: Any, committing: bool, failure: DatabaseFailure
    ) -> BaseException | None:
        connection = cursor.connection
        if failure.condition == LOST:
            postgres.cut(connection.fileno(), failure.moment)
            # Done already, so another statement has to find out.
            return self._error(connection, "SELECT 1") if failure.moment == AFTER else None
        statement = postgres.raising(failure.condition)
        if not committing:
            return self._error(connection, statement)
        self._execute(connection.cursor(), "ROLLBACK")
        error = self._error(connection, statement)
        self._execute(connection.cursor(), "ROLLBACK")
        return error

    def _error(self, connection: Any, statement: str) -> BaseException | None:
        import psycopg

        try:
            self._execute(connection.cursor(), statement)
        except psycopg.Error as error:
            return error
        return None

"""psycopg 3, blocking and awaited: its classes are Python's, also where libpq does the work.

Every connection is reached, those that were open before as well.
"""

from __future__ import annotations

import functools
import inspect

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases import postgres
from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.interceptors.databases.driver import Injection
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.driver import Steps
from pytest_resilience.interceptors.databases.driver import hooked
from pytest_resilience.interceptors.databases.driver import hooked_async
from pytest_resilience.patching import Patches


__all__ = ["PsycopgDriver"]

_FETCHING = ("fetchone", "fetchmany", "fetchall")


class PsycopgDriver:
    """See the module."""

    def __init__(self, hooks: DriverHooks) -> None:
        self._hooks = hooks

    def install(self, patches: Patches) -> None:
        import psycopg

        patches.replace(psycopg, "connect", functools.partial(hooked, self._before_connect))
        for owner, wrap in (
            (psycopg.Connection, hooked),
            (psycopg.AsyncConnection, hooked_async),
        ):
            patches.replace(owner, "connect", functools.partial(self._connecting, owner, wrap))
        blocking = _Statements(self._hooks, psycopg.Cursor.execute)
        awaited = _Statements(self._hooks, psycopg.AsyncCursor.execute)
        for statements, wrap, cursors, connection, transaction, leave in (
            (
                blocking, hooked, (psycopg.Cursor, psycopg.ServerCursor),
                psycopg.Connection, psycopg.Transaction, "__exit__",
            ),
            (
                awaited, hooked_async, (psycopg.AsyncCursor, psycopg.AsyncServerCursor),
                psycopg.AsyncConnection, psycopg.AsyncTransaction, "__aexit__",
            ),
        ):  # fmt: skip
            for cursor in cursors:
                for name in ("execute", "executemany"):
                    patches.replace(
                        cursor, name, functools.partial(wrap, statements.before_execute)
                    )
                for name in _FETCHING:
                    patches.replace(cursor, name, functools.partial(wrap, statements.before_fetch))
            patches.replace(connection, "commit", functools.partial(wrap, statements.before_commit))
            patches.replace(transaction, leave, functools.partial(statements.leaving, wrap))

    def _connecting(self, owner: Any, wrap: Callable[..., Any], original: Any) -> Any:
        """The class method `connect`, which makes connections of the class it is called on."""
        found = inspect.getattr_static(owner, "connect")

        @functools.wraps(original)
        def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            return wrap(self._before_connect, found.__get__(None, cls))(*args, **kwargs)

        return classmethod(connect)

    def _before_connect(self, conninfo: str = "", **kwargs: Any) -> Injection | None:
        from psycopg import OperationalError
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            parts = conninfo_to_dict(conninfo)
        except ProgrammingError:
            return None  # the driver will say so
        parts |= {name: kwargs[name] for name in ("host", "port", "dbname") if name in kwargs}
        host, port = str(parts.get("host") or "localhost"), parts.get("port") or 5432

        def fail(failure: DatabaseFailure) -> BaseException:
            text = postgres.refusal(failure.condition, host, port)
            return OperationalError(f"connection failed: {text}")

        names = (str(parts.get("dbname") or "postgres"), f"{host}:{port}", host)
        return self._hooks.before_connect(names, fail)


class _Statements:
    """The hooks of cursors, connections and transactions, blocking ones or awaited ones."""

    def __init__(self, hooks: DriverHooks, execute: Callable[..., Any]) -> None:
        """`execute` is the cursor's method as it was found, for what is not to be seen."""
        self._hooks = hooks
        self._execute = execute

    def before_execute(self, cursor: Any, query: Any, *_: Any, **__: Any) -> Injection | None:
        connection = cursor.connection
        text = postgres.statement_in(query, connection)
        if not text or text in self._hooks.unmatched or connection.closed:
            return None
        return self._hooks.before_execute(
            _session_of(connection),
            text,
            _in_transaction(connection),
            functools.partial(self._fail, connection, text),
        )

    def before_fetch(self, cursor: Any, *_: Any, **__: Any) -> Injection | None:
        if not self._hooks.fetches:
            return None
        connection = cursor.connection
        fail = functools.partial(self._fail, connection, "")
        return self._hooks.before_fetch(_session_of(connection), fail)

    def before_commit(self, connection: Any) -> Injection | None:
        if not self._hooks.commits or connection.closed or not _in_transaction(connection):
            return None
        fail = functools.partial(self._fail, connection, "COMMIT")
        return self._hooks.before_commit(_session_of(connection), fail)

    def leaving(self, wrap: Callable[..., Any], original: Callable[..., Any]) -> Any:
        """The end of a `with connection.transaction()`, which commits unless it is nested."""

        def before(transaction: Any, kind: Any, _error: Any, _traceback: Any) -> Injection | None:
            # The end of a nested block releases a savepoint, which is no COMMIT.
            nested = not getattr(transaction, "_outer_transaction", True)
            if kind is not None or transaction.force_rollback or nested:
                return None
            injection = self.before_commit(transaction.connection)
            if injection is None:
                return None
            return Injection(injection.effect, functools.partial(fail, transaction))

        def fail(transaction: Any, failure: DatabaseFailure) -> Steps:
            error = yield from self._fail(transaction.connection, "COMMIT", failure)
            if error is not None and failure.moment != AFTER:
                # The block has ended all the same.
                yield functools.partial(original, transaction, type(error), error, None)
            return error

        return wrap(before, original)

    def _fail(self, connection: Any, statement: str, failure: DatabaseFailure) -> Steps:
        import psycopg

        def execute(text: str) -> Any:
            return self._execute(connection.cursor(), text)

        server = postgres.Server(
            descriptor=connection.fileno,
            execute=execute,
            # Not `connection.rollback`, which is forbidden within `connection.transaction()`.
            rollback=functools.partial(execute, "ROLLBACK"),
            errors=(psycopg.Error,),
        )
        return postgres.fail(server, statement, failure)


def _session_of(connection: Any) -> Session:
    """The state of a connection, kept on it: also of one that was open before."""
    session: Session | None = vars(connection).get("chaos_session")
    if session is None:
        info = connection.info
        session = Session((info.dbname, f"{info.host}:{info.port}", info.host))
        connection.chaos_session = session
    return session


def _in_transaction(connection: Any) -> bool:
    return bool(connection.info.transaction_status)  # 0 is IDLE

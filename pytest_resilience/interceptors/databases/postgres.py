"""PostgreSQL: what its drivers share, and those whose classes are Python's, psycopg 3 and asyncpg.

Of these every connection is reached, those that were open before as well. For the one in C see
`psycopg2`.

A failure of the server is not imitated: in place of the statement the server is asked to
raise the error by its code, and driver, transaction and connection do what they do then. A
lost connection is lost: its socket is shut down, and the driver finds out by itself.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import socket
import urllib.parse
import weakref

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.parsing.targets import control_word
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import DURING
from pytest_resilience.chaos.types.database import LOST
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.interceptors.databases.driver import Injection
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.driver import Steps
from pytest_resilience.interceptors.databases.driver import hooked
from pytest_resilience.interceptors.databases.driver import hooked_async
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.patching import Patches


__all__ = [
    "AsyncpgDriver",
    "PsycopgDriver",
    "Server",
    "fail",
    "refusal",
    "statement_in",
]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_ERRORS = {
    "locked": ("55P03", "could not obtain lock on relation"),
    "deadlock": ("40P01", "deadlock detected"),
    "serialization_failure": ("40001", "could not serialize access due to concurrent update"),
    "statement_timeout": ("57014", "canceling statement due to statement timeout"),
    "read_only": ("25006", "cannot execute this statement in a read-only transaction"),
    "disk_full": ("53100", "could not extend file: No space left on device"),
    "constraint": ("23505", "duplicate key value violates unique constraint"),
}

_TOO_MANY = "sorry, too many clients already"
_FETCHING = ("fetchone", "fetchmany", "fetchall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server as one connection reaches it. What is awaited may return awaitables.

    Attributes:
        descriptor: gives the descriptor of the connection's socket.
        execute: executes a statement, with no hook before it.
        rollback: ends a transaction, and does nothing where there is none.
        errors: what the driver raises.
    """

    descriptor: Callable[[], int]
    execute: Callable[[str], Any]
    rollback: Callable[[], Any]
    errors: tuple[type[BaseException], ...]


def fail(server: Server, statement: str, failure: DatabaseFailure) -> Steps:
    """Bring about a failure of a statement, of a fetch of its rows, or of a COMMIT."""
    if failure.condition == LOST:
        _shut_down(server.descriptor(), failure.moment)
        # After the statement nothing is left to fail, so another one has to find out.
        return (yield from _error(server, "SELECT 1")) if failure.moment == AFTER else None
    failing = _raising(failure.condition)
    if control_word(statement) != "commit":
        return (yield from _error(server, failing))
    # A COMMIT that fails has rolled back, and leaves no transaction open.
    yield server.rollback
    error = yield from _error(server, failing)
    yield server.rollback
    return error


def _error(server: Server, statement: str) -> Steps:
    try:
        yield lambda: server.execute(statement)
    except server.errors as error:
        return error
    return None


def _raising(condition: str) -> str:
    """The statement that makes the server fail with this condition."""
    try:
        code, message = _ERRORS[condition]
    except KeyError:
        known = ", ".join(map(repr, _ERRORS))
        raise ConfigurationError(
            f"PostgreSQL knows no {condition!r} of a statement; give one of {known}"
        ) from None
    return (
        f"DO $chaos$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = '{message}'; "
        "END $chaos$"
    )


def _shut_down(descriptor: int, moment: str) -> None:
    """Lose a connection: in both directions, or only the response to what is sent DURING it."""
    with contextlib.suppress(OSError), limits_lifted():
        connection = socket.socket(fileno=os.dup(descriptor))
        with connection:
            connection.shutdown(socket.SHUT_RD if moment == DURING else socket.SHUT_RDWR)


def refusal(condition: str, host: str, port: Any) -> str:
    """The text of libpq for a connect that fails with this condition."""
    if host.startswith("/"):
        where = f'connection to server on socket "{host}/.s.PGSQL.{port}" failed: '
        locally = "locally and accepting connections on that socket?"
    else:
        where = f'connection to server at "{host}", port {port} failed: '
        locally = "on that host and accepting TCP/IP connections?"
    if condition == "too_many_connections":
        return f"{where}FATAL:  {_TOO_MANY}"
    return f"{where}Connection refused\n\tIs the server running {locally}"


def statement_in(query: Any, connection: Any) -> str:
    """The text of what psycopg is given to execute: text, bytes, or composed; "" of others."""
    if is_a(query, bytes):
        return bytes.decode(query, errors="replace")
    if hasattr(type(query), "as_string"):
        query = or_none(query.as_string, connection)
    return text_of(query) if is_a(query, str) else ""


class PsycopgDriver:
    """psycopg 3, blocking and awaited, also where libpq does the work."""

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
            text = refusal(failure.condition, host, port)
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
        text = statement_in(query, connection)
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

        server = Server(
            descriptor=connection.fileno,
            execute=execute,
            # Not `connection.rollback`, which is forbidden within `connection.transaction()`.
            rollback=functools.partial(execute, "ROLLBACK"),
            errors=(psycopg.Error,),
        )
        return fail(server, statement, failure)


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


class AsyncpgDriver:
    """asyncpg, pools too. A statement brings its rows along, so there is no fetch to be late."""

    def __init__(self, hooks: DriverHooks) -> None:
        import asyncpg

        self._hooks = hooks
        self._sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()
        self._execute = asyncpg.Connection.execute  # as found, for what is not to be seen

    def install(self, patches: Patches) -> None:
        import asyncpg

        from asyncpg import connect_utils
        from asyncpg.prepared_stmt import PreparedStatement

        for owner, name, before in (
            (connect_utils, "_connect", self._before_connect),
            (asyncpg.Connection, "execute", self._before_execute_alone),
            (asyncpg.Connection, "_execute", self._before_execute),
            (asyncpg.Connection, "_executemany", self._before_execute),
            (PreparedStatement, "_PreparedStatement__bind_execute", self._before_prepared),
        ):
            patches.replace(owner, name, functools.partial(hooked_async, before))

    def _before_connect(self, *_: Any, **given: Any) -> Injection | None:
        return self._hooks.before_connect(_names(given), _refused)

    def _before_execute_alone(
        self, connection: Any, query: Any, *args: Any, **_: Any
    ) -> Injection | None:
        """A statement with arguments comes back through `_execute`."""
        return None if args else self._before_execute(connection, query)

    def _before_prepared(self, statement: Any, *_: Any, **__: Any) -> Injection | None:
        connection = statement._connection  # noqa: SLF001  # the only way to it
        return self._before_execute(connection, statement.get_query())

    def _before_execute(self, connection: Any, query: Any, *_: Any, **__: Any) -> Injection | None:
        query = text_of(query) if is_a(query, str) else ""
        if not query or query in self._hooks.unmatched or connection.is_closed():
            return None
        session = self._sessions.get(connection)
        if session is None:
            session = self._sessions[connection] = Session(_names_of(connection))
        fail = functools.partial(self._fail, connection, query)
        in_transaction = connection.is_in_transaction()
        return self._hooks.before_execute(session, query, in_transaction, fail)

    def _fail(self, connection: Any, statement: str, failure: DatabaseFailure) -> Steps:
        import asyncpg

        async def rollback() -> None:
            if connection.is_in_transaction():
                await self._execute(connection, "ROLLBACK")

        server = Server(
            descriptor=functools.partial(_descriptor_of, connection),
            execute=functools.partial(self._execute, connection),
            rollback=rollback,
            errors=(asyncpg.PostgresError, asyncpg.InterfaceError, OSError),
        )
        return fail(server, statement, failure)


def _refused(failure: DatabaseFailure) -> BaseException:
    import asyncpg

    if failure.condition == "too_many_connections":
        error: BaseException = asyncpg.TooManyConnectionsError(_TOO_MANY)
        return error
    return ConnectionRefusedError(111, "Connection refused")


def _descriptor_of(connection: Any) -> int:
    transport = connection._transport  # noqa: SLF001  # nothing public leads to the socket
    descriptor: int = transport.get_extra_info("socket").fileno()
    return descriptor


def _names(given: dict[str, Any]) -> tuple[str, ...]:
    """The names of the database that a connect asks for."""
    url = urllib.parse.urlsplit(given.get("dsn") or "")
    asked = dict(urllib.parse.parse_qsl(url.query))
    host = str(given.get("host") or url.hostname or asked.get("host") or "localhost")
    port = given.get("port") or url.port or 5432
    return (str(given.get("database") or url.path[1:] or "postgres"), f"{host}:{port}", host)


def _names_of(connection: Any) -> tuple[str, ...]:
    address = connection._addr  # noqa: SLF001  # as above
    name = connection._params.database or "postgres"  # noqa: SLF001
    host, port = address if isinstance(address, tuple) else (str(address), "")
    return (name, f"{host}:{port}", host)

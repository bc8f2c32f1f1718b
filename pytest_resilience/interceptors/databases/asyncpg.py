"""asyncpg: every connection, those that were open before as well; pools too."""

from __future__ import annotations

import functools
import urllib.parse
import weakref

from typing import Any

from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases import postgres
from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.interceptors.databases.driver import Injection
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.driver import Steps
from pytest_resilience.interceptors.databases.driver import hooked_async
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.patching import Patches


__all__ = ["AsyncpgDriver"]


class AsyncpgDriver:
    """See the module. A statement brings its rows along, so there is no fetch to be late."""

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

        server = postgres.Server(
            descriptor=functools.partial(_descriptor_of, connection),
            execute=functools.partial(self._execute, connection),
            rollback=rollback,
            errors=(asyncpg.PostgresError, asyncpg.InterfaceError, OSError),
        )
        return postgres.fail(server, statement, failure)


def _refused(failure: DatabaseFailure) -> BaseException:
    import asyncpg

    if failure.condition == "too_many_connections":
        error: BaseException = asyncpg.TooManyConnectionsError(postgres.TOO_MANY)
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

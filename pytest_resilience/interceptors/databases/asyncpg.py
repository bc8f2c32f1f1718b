"""asyncpg: every connection, those that were open before as well; pools too."""

from __future__ import annotations

import functools
import urllib.parse
import weakref

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.parsing.sql import control_word
from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import DURING
from pytest_resilience.chaos.types.database import LOST
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases import postgres
from pytest_resilience.interceptors.databases.driver import Gate
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.driver import hold_up_async
from pytest_resilience.interceptors.databases.driver import pass_through_async
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.patching import Patches


__all__ = ["AsyncpgDriver"]


class AsyncpgDriver:
    """See the module. A statement brings its rows along, so there is no fetch to be late."""

    def __init__(self, gate: Gate) -> None:
        import asyncpg

        self._gate = gate
        self._sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()
        self._execute = asyncpg.Connection.execute  # as found, for what is not to be seen

    def apply(self, patches: Patches) -> None:
        import asyncpg

        from asyncpg import connect_utils
        from asyncpg import prepared_stmt

        patches.replace(connect_utils, "_connect", self._connecting)
        patches.replace(asyncpg.Connection, "execute", self._executing_plainly)
        for name in ("_execute", "_executemany"):
            patches.replace(asyncpg.Connection, name, self._executing)
        patches.replace(
            prepared_stmt.PreparedStatement,
            "_PreparedStatement__bind_execute",
            self._executing_prepared,
        )

    def _connecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def connect(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            effect = self._gate.opening(_names(kwargs))
            failure = None if effect is None else await hold_up_async(effect)
            if failure is not None:
                raise _refused(failure)
            return await original(*args, **kwargs)

        return connect

    def _executing_plainly(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Of a statement without arguments; one with them comes back through `_execute`."""

        @functools.wraps(original)
        async def execute(connection: Any, query: str, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, connection, query, *args, **kwargs)
            if args:
                return await proceed()
            return await self._pass(connection, query, proceed)

        return execute

    def _executing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def execute(connection: Any, query: str, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, connection, query, *args, **kwargs)
            return await self._pass(connection, query, proceed)

        return execute

    def _executing_prepared(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def execute(statement: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            proceed = functools.partial(original, statement, *args, **kwargs)
            connection = statement._connection  # noqa: SLF001  # the only way to it
            return await self._pass(connection, statement.get_query(), proceed)

        return execute

    async def _pass(self, connection: Any, query: str, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        effect = self._asked(connection, query)
        if effect is None:
            return await proceed()
        committing = control_word(query) == "commit"
        fail = functools.partial(self._fail, connection, committing)
        return await pass_through_async(effect, proceed, fail)

    def _asked(self, connection: Any, query: str) -> Effect | None:
        query = text_of(query) if is_a(query, str) else ""
        if not query or query in self._gate.passing or connection.is_closed():
            return None
        session = self._sessions.get(connection)
        if session is None:
            session = self._sessions[connection] = Session(_names_of(connection))
        return self._gate.executing(session, query, connection.is_in_transaction())

    async def _fail(
        self, connection: Any, committing: bool, failure: DatabaseFailure
    ) -> BaseException | None:
        if failure.condition == LOST:
            _cut(connection, failure.moment)
            return await self._error(connection, "SELECT 1") if failure.moment == AFTER else None
        statement = postgres.raising(failure.condition)
        if committing:
            await self._execute(connection, "ROLLBACK")
        return await self._error(connection, statement)

    async def _error(self, connection: Any, statement: str) -> BaseException | None:
        import asyncpg

        try:
            await self._execute(connection, statement)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            return error
        return None


def _refused(failure: DatabaseFailure) -> Exception:
    import asyncpg

    if failure.condition == "too_many_connections":
        error: Exception = asyncpg.TooManyConnectionsError("sorry, too many clients already")
        return error
    return ConnectionRefusedError(111, "Connection refused")


def _cut(connection: Any, moment: str) -> None:
    transport = connection._transport  # noqa: SLF001  # nothing public leads to the socket
    descriptor = transport.get_extra_info("socket").fileno()
    # The loop itself reads; whatever it has not read yet is lost either way.
    postgres.cut(descriptor, moment if moment == DURING else AFTER)


def _names(given: dict[str, Any]) -> tuple[str, ...]:
    """What a database is called by what is given to connect to it."""
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

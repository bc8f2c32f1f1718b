"""psycopg2: its classes are C's, so connections from now on are made of derived ones."""

from __future__ import annotations

import functools

from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.extensions

from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases import postgres
from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.interceptors.databases.driver import Fail
from pytest_resilience.interceptors.databases.driver import HookedConnection
from pytest_resilience.interceptors.databases.driver import HookedCursor
from pytest_resilience.interceptors.databases.driver import Steps
from pytest_resilience.interceptors.databases.driver import hooked_class
from pytest_resilience.interceptors.databases.driver import inject
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.patching import Patches


__all__ = ["Psycopg2Driver"]

_connection: Any = psycopg2.extensions.connection
_cursor: Any = psycopg2.extensions.cursor


class Psycopg2Driver:
    """See the module."""

    def __init__(self, hooks: DriverHooks) -> None:
        self._hooks = hooks

    def install(self, patches: Patches) -> None:
        patches.replace(psycopg2, "connect", self._connecting)

    def _connecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        @functools.wraps(original)
        def connect(
            dsn: Any = None, connection_factory: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            __tracebackhide__ = True

            def proceed() -> Any:
                factory = connection_factory
                if not hooks.only_recording:
                    factory = hooked_class(hooks, _Connection, factory or _connection)
                return original(dsn, factory, *args, **kwargs)

            names = _names(dsn, **kwargs)
            injection = hooks.before_connect(names, functools.partial(_refused, names))
            return inject(injection, proceed)

        return connect


def _names(dsn: Any, **given: Any) -> tuple[str, ...]:
    """The names of the database that a connect asks for."""
    parts = (or_none(psycopg2.extensions.parse_dsn, dsn) if is_a(dsn, str) else None) or {}
    parts |= given
    host, port = str(parts.get("host", "localhost")), parts.get("port", 5432)
    name = str(parts.get("dbname") or parts.get("database") or "postgres")
    return (name, f"{host}:{port}", host)


def _refused(names: tuple[str, ...], failure: DatabaseFailure) -> BaseException:
    _, address, host = names
    text = postgres.refusal(failure.condition, host, address.removeprefix(f"{host}:"))
    error: BaseException = psycopg2.OperationalError(f"{text}\n")
    return error


# `with connection` needs no hook: in C it calls the method `commit`, which is hooked.
class _Connection(HookedConnection, _connection):  # type: ignore[misc]  # the classes are C's
    def cursor(
        self, name: Any = None, cursor_factory: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        base = cursor_factory or self.cursor_factory or _cursor
        factory = hooked_class(self.chaos_hooks, _Cursor, base)
        return super().cursor(name, factory, *args, **kwargs)

    @staticmethod
    def chaos_names(database: Any) -> tuple[str, ...]:
        return _names(database)

    def chaos_in_transaction(self) -> bool:
        return not self.closed and bool(self.get_transaction_status())  # 0 is idle

    def chaos_failing(self, statement: str) -> Fail:
        return functools.partial(_fail, self, statement)


class _Cursor(HookedCursor, _cursor):  # type: ignore[misc]  # as above
    def chaos_text(self, sql: Any) -> str:
        connection: Any = self.connection
        return "" if connection.closed else postgres.statement_in(sql, connection)


def _fail(connection: Any, statement: str, failure: DatabaseFailure) -> Steps:
    def execute(text: str) -> None:
        # Not by way of the hooked methods, nor of those of a class of the user's.
        _cursor.execute(_connection.cursor(connection), text)

    server = postgres.Server(
        descriptor=connection.fileno,
        execute=execute,
        # Not by a statement: the driver would believe itself in a transaction afterwards.
        rollback=connection.rollback,
        errors=(psycopg2.Error,),
    )
    return postgres.fail(server, statement, failure)

"""sqlite3: its types are immutable, so connections are made of derived ones.

What is derived does in Python what the originals do in C, where those would not come back to
it: `with connection` commits, and a commit is what one wants to see fail.
"""

from __future__ import annotations

import functools
import os
import re
import sqlite3

from collections.abc import Callable
from types import TracebackType
from typing import Any

from pytest_resilience.chaos.parsing.sql import plain_text
from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases.driver import Gate
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.driver import hold_up
from pytest_resilience.interceptors.databases.driver import pass_through
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import looked
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.interceptors.patching import Patches


__all__ = ["SqliteDriver"]

_FACTORY = 4  # its place among the positional arguments after the database
_CHANGES = re.compile(r"(?:insert|update|delete|replace)\b")
_TABLE = re.compile(r"(?:insert (?:or \w+ )?into|replace into|update|delete from) ([\w.]+)")

# What the engine says, and what it calls that: https://www.sqlite.org/rescode.html
_BUSY = (sqlite3.OperationalError, "database is locked", "SQLITE_BUSY")
_ERRORS: dict[str, tuple[type[sqlite3.Error], str, str]] = {
    "lost": (sqlite3.OperationalError, "disk I/O error", "SQLITE_IOERR"),
    "refused": (sqlite3.OperationalError, "unable to open database file", "SQLITE_CANTOPEN"),
    "locked": _BUSY,
    "deadlock": _BUSY,
    "serialization_failure": (_BUSY[0], _BUSY[1], "SQLITE_BUSY_SNAPSHOT"),
    "statement_timeout": (sqlite3.OperationalError, "interrupted", "SQLITE_INTERRUPT"),
    "read_only": (
        sqlite3.OperationalError,
        "attempt to write a readonly database",
        "SQLITE_READONLY",
    ),
    "disk_full": (sqlite3.OperationalError, "database or disk is full", "SQLITE_FULL"),
    "constraint": (
        sqlite3.IntegrityError,
        "UNIQUE constraint failed",
        "SQLITE_CONSTRAINT_UNIQUE",
    ),
    "too_many_connections": (
        sqlite3.OperationalError,
        "unable to open database file",
        "SQLITE_CANTOPEN",
    ),
}
# Of a statement that changes something these roll the whole transaction back.
_ROLLING_BACK = frozenset({"lost", "disk_full", "statement_timeout"})


class SqliteDriver:
    """Connections of sqlite3 from now on; those of SQLAlchemy and aiosqlite are such ones."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def apply(self, patches: Patches) -> None:
        for module in (sqlite3, sqlite3.dbapi2):
            patches.replace(module, "connect", self._connecting)

    def _connecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        gate = self._gate

        @functools.wraps(original)
        def connect(database: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            names = _names(database)
            effect = gate.opening(names)
            failure = None if effect is None else hold_up(effect)
            if failure is not None:
                raise _error(failure.condition, "")
            given = args[_FACTORY] if len(args) > _FACTORY else kwargs.get("factory", _PLAIN)
            if gate.aside or not _is_class(given, _PLAIN):
                return original(database, *args, **kwargs)
            own = _connection_class(gate, given)
            if len(args) > _FACTORY:
                args = (*args[:_FACTORY], own, *args[_FACTORY + 1 :])
            else:
                kwargs["factory"] = own
            connection = original(database, *args, **kwargs)
            connection.chaos_session = Session(names)
            return connection

        return connect


class _Guarded:
    """What derived connections have in common.

    Attributes:
        chaos_gate: of the class.
        chaos_session: what is known of the connection.
    """

    chaos_gate: Gate
    chaos_session: Session


_PLAIN = sqlite3.Connection
_new_cursor: Callable[..., Any] = sqlite3.Connection.cursor
_execute: Callable[..., Any] = sqlite3.Cursor.execute


class _Connection(_Guarded, sqlite3.Connection):
    chaos_cursor: type[sqlite3.Cursor]  # of the class: what its own methods use

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        known = _is_class(factory, sqlite3.Cursor)
        return super().cursor(_cursor_class(self.chaos_gate, factory) if known else factory)

    # As in C, these do not go by way of `cursor`, which a derived class may have changed.

    def execute(self, sql: str, *args: Any) -> Any:
        __tracebackhide__ = True
        cursor = _new_cursor(self, self.chaos_cursor)
        if type(sql) is str and sql in self.chaos_gate.passing:
            return _execute(cursor, sql, *args)
        return cursor.execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> Any:
        __tracebackhide__ = True
        return _new_cursor(self, self.chaos_cursor).executemany(sql, *args)

    def executescript(self, sql: str) -> Any:
        __tracebackhide__ = True
        return _new_cursor(self, self.chaos_cursor).executescript(sql)

    def commit(self) -> None:
        __tracebackhide__ = True
        gate = self.chaos_gate
        effect = (
            gate.committing(self.chaos_session) if gate.commits and self.in_transaction else None
        )
        if effect is None:
            super().commit()
        else:
            pass_through(effect, super().commit, functools.partial(_fail, self, "COMMIT"))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        __tracebackhide__ = True
        if kind is not None or getattr(self, "autocommit", None) is True:
            return super().__exit__(kind, error, traceback)
        try:
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return False


class _Cursor(_Guarded, sqlite3.Cursor):
    connection: _Connection

    def execute(self, sql: str, *args: Any) -> Any:
        if type(sql) is str and sql in self.chaos_gate.passing:
            return super().execute(sql, *args)
        __tracebackhide__ = True
        return self._pass(sql, functools.partial(super().execute, sql, *args))

    def executemany(self, sql: str, *args: Any) -> Any:
        __tracebackhide__ = True
        return self._pass(sql, functools.partial(super().executemany, sql, *args))

    def executescript(self, sql: str) -> Any:
        __tracebackhide__ = True
        return self._pass(sql, functools.partial(super().executescript, sql))

    def fetchone(self) -> Any:
        __tracebackhide__ = True
        return self._fetch(super().fetchone) if self.chaos_gate.fetches else super().fetchone()

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self._fetch(functools.partial(super().fetchmany, *args, **kwargs))

    def fetchall(self) -> Any:
        __tracebackhide__ = True
        return self._fetch(super().fetchall)

    def __iter__(self) -> Any:
        __tracebackhide__ = True
        return self._fetch(super().__iter__)

    def _pass(self, sql: Any, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        if not is_a(sql, str):
            return proceed()
        sql = text_of(sql)
        connection = self.connection
        effect = self.chaos_gate.executing(connection.chaos_session, sql, connection.in_transaction)
        return pass_through(effect, proceed, functools.partial(_fail, connection, sql))

    def _fetch(self, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        gate, connection = self.chaos_gate, self.connection
        effect = gate.fetching(connection.chaos_session) if gate.fetches else None
        return pass_through(effect, proceed, functools.partial(_fail, connection, ""))


@functools.lru_cache(maxsize=256)
def _connection_class(gate: Gate, base: type[sqlite3.Connection]) -> type[sqlite3.Connection]:
    found = _derived(_Connection, sqlite3.Connection, gate, base)
    found.chaos_cursor = _cursor_class(gate, sqlite3.Cursor)  # type: ignore[attr-defined]
    return found


@functools.lru_cache(maxsize=256)
def _cursor_class(gate: Gate, base: type[sqlite3.Cursor]) -> type[sqlite3.Cursor]:
    return _derived(_Cursor, sqlite3.Cursor, gate, base)


def _derived(guarded: type, original: type, gate: Gate, base: type) -> type:
    """`base`, guarded; called what it was called."""
    bases = (guarded,) if base is original else (guarded, base)
    return type(base.__name__, bases, {"chaos_gate": gate, "__module__": base.__module__})


def _fail(connection: _Connection, sql: str, failure: DatabaseFailure) -> sqlite3.Error:
    """Leave the connection as the engine would, and say what the engine would say."""
    text = plain_text(sql)
    changes = _CHANGES.match(text) is not None
    if changes and not connection.in_transaction and connection.isolation_level is not None:
        # Before a change the module begins a transaction, which stays.
        sqlite3.Cursor(connection).execute(f"BEGIN {connection.isolation_level}")
    whole = failure.condition in _ROLLING_BACK and (changes or sql == "COMMIT")
    if whole and connection.in_transaction and failure.moment != AFTER:
        sqlite3.Cursor(connection).execute("ROLLBACK")
    return _error(failure.condition, text)


def _error(condition: str, text: str) -> sqlite3.Error:
    kind, message, name = _ERRORS[condition]
    table = _TABLE.match(text)
    if condition == "constraint" and table is not None:
        message = f"{message}: {table[1]}"
    error = kind(message)
    error.sqlite_errorname = name
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


def _is_class(factory: Any, above: type) -> bool:
    """Whether what it makes can be guarded; a factory may also be any function."""
    return is_a(factory, type) and issubclass(factory, above)


def _names(database: Any) -> tuple[str, ...]:
    path = text_of(looked(os.fsdecode, database))
    return (path or ":memory:", os.path.basename(path) or path or ":memory:")

"""sqlite3: its classes are immutable, so connections from now on are made of derived ones.

Those that were open before anybody watched are made in C, and not reached. But Django and
SQLAlchemy send their statements in Python. There those are noted, so that an experiment of
databases which never fires can say so.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sqlite3
import sys

from collections.abc import Callable
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails
from pytest_resilience.chaos.parsing.targets import control_word
from pytest_resilience.chaos.parsing.targets import plain_text
from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.clock import IdlingClock
from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.interceptors.databases.driver import Fail
from pytest_resilience.interceptors.databases.driver import HookedConnection
from pytest_resilience.interceptors.databases.driver import HookedCursor
from pytest_resilience.interceptors.databases.driver import hooked_class
from pytest_resilience.interceptors.databases.driver import inject
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.foreign_objects import text_of
from pytest_resilience.patching import Observer
from pytest_resilience.patching import Patches


__all__ = ["OpenedBefore", "SqliteDriver"]

_FACTORY = 4  # its place among the positional arguments after the database
_TIMEOUT = 5.0  # seconds that it waits for others who have the lock, unless told how many
_CHANGES = re.compile(r"(?:insert|update|delete|replace)\b")
_LOCKS = re.compile(r"begin (?:immediate|exclusive)\b")
_TABLE = re.compile(r"(?:insert (?:or \w+ )?into|replace into|update|delete from) ([\w.]+)")

# The message of each failure, and the name of its code: https://www.sqlite.org/rescode.html
_OPERATIONAL = sqlite3.OperationalError
_ERRORS: dict[str, tuple[type[sqlite3.Error], str, str]] = {
    "lost": (_OPERATIONAL, "disk I/O error", "SQLITE_IOERR"),
    "refused": (_OPERATIONAL, "unable to open database file", "SQLITE_CANTOPEN"),
    "locked": (_OPERATIONAL, "database is locked", "SQLITE_BUSY"),
    "deadlock": (_OPERATIONAL, "database is locked", "SQLITE_BUSY"),
    "serialization_failure": (_OPERATIONAL, "database is locked", "SQLITE_BUSY_SNAPSHOT"),
    "statement_timeout": (_OPERATIONAL, "interrupted", "SQLITE_INTERRUPT"),
    "read_only": (_OPERATIONAL, "attempt to write a readonly database", "SQLITE_READONLY"),
    "disk_full": (_OPERATIONAL, "database or disk is full", "SQLITE_FULL"),
    "constraint": (sqlite3.IntegrityError, "UNIQUE constraint failed", "SQLITE_CONSTRAINT_UNIQUE"),
    "too_many_connections": (_OPERATIONAL, "unable to open database file", "SQLITE_CANTOPEN"),
}
# These roll the whole transaction back, if the statement changes something.
_ROLLING_BACK = frozenset({"lost", "disk_full", "statement_timeout"})


class SqliteDriver:
    """Connections of sqlite3 from now on; those of SQLAlchemy and aiosqlite are such ones."""

    def __init__(self, hooks: DriverHooks) -> None:
        self._hooks = hooks

    def install(self, patches: Patches) -> None:
        for module in (sqlite3, sqlite3.dbapi2):
            patches.replace(module, "connect", self._connecting)

    def _connecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        hooks = self._hooks

        @functools.wraps(original)
        def connect(database: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True

            def proceed() -> Any:
                if hooks.only_recording:
                    return original(database, *args, **kwargs)
                first, named = _timed(hooks.engine.clock, args, kwargs)
                if len(args) > _FACTORY:
                    own = hooked_class(hooks, _Connection, args[_FACTORY])
                    return original(
                        database, *first[:_FACTORY], own, *first[_FACTORY + 1 :], **named
                    )
                given = kwargs.get("factory", sqlite3.Connection)
                own = hooked_class(hooks, _Connection, given)
                return original(database, *first, **{**named, "factory": own})

            def fail(failure: DatabaseFailure) -> sqlite3.Error:
                return _error(failure.condition, "")

            return inject(hooks.before_connect(_names(database), fail), proceed)

        return connect


def _timed(
    clock: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a connection that waits for others no longer than the clock lets it."""
    given = args[0] if args else kwargs.get("timeout", _TIMEOUT)
    if not isinstance(clock, IdlingClock) or type(given) not in {int, float}:
        return args, kwargs
    seconds = clock.locked(given)
    return ((seconds, *args[1:]), kwargs) if args else (args, {**kwargs, "timeout": seconds})


_new_cursor: Callable[..., Any] = sqlite3.Connection.cursor
_execute: Callable[..., Any] = sqlite3.Cursor.execute


class _Connection(HookedConnection, sqlite3.Connection):
    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        # Looked up once: `execute` may add no more than a microsecond to a statement.
        self.chaos_cursor = hooked_class(self.chaos_hooks, _Cursor, sqlite3.Cursor)
        super().__init__(database, *args, **kwargs)

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        return super().cursor(hooked_class(self.chaos_hooks, _Cursor, factory))

    # As in C, these do not go by way of `cursor`, which a derived class may have changed.

    def execute(self, sql: str, *args: Any) -> Any:
        __tracebackhide__ = True
        cursor = _new_cursor(self, self.chaos_cursor)
        if type(sql) is str and sql in self.chaos_hooks.unmatched:
            return _execute(cursor, sql, *args)
        return cursor.execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> Any:
        __tracebackhide__ = True
        return _new_cursor(self, self.chaos_cursor).executemany(sql, *args)

    def executescript(self, sql: str) -> Any:
        __tracebackhide__ = True
        return _new_cursor(self, self.chaos_cursor).executescript(sql)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        """As in C, where it would not come back to `commit`."""
        __tracebackhide__ = True
        if kind is not None or getattr(self, "autocommit", None) is True:
            return super().__exit__(kind, error, traceback)
        try:
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return False

    @staticmethod
    def chaos_names(database: Any) -> tuple[str, ...]:
        return _names(database)

    def chaos_in_transaction(self) -> bool:
        return self.in_transaction

    def chaos_failing(self, statement: str) -> Fail:
        return functools.partial(_fail, self, statement)


class _Cursor(HookedCursor, sqlite3.Cursor):
    def executescript(self, sql: str) -> Any:
        __tracebackhide__ = True
        return self.chaos_execute(sql, functools.partial(super().executescript, sql))

    def __iter__(self) -> Any:
        __tracebackhide__ = True
        return self.chaos_fetch(super().__iter__)

    def chaos_text(self, sql: Any) -> str:
        return text_of(sql) if is_a(sql, str) else ""

    def chaos_execute(self, sql: Any, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        with _reset_by_errors(self):
            text = self.chaos_text(sql)
            if not _LOCKS.match(plain_text(text)) or self.connection.in_transaction:
                return super().chaos_execute(sql, proceed)
            session, fail = self.connection.chaos_session, self.connection.chaos_failing(text)
            return inject(self.chaos_hooks.before_locking(session, text, fail), proceed)

    def chaos_fetch(self, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        with _reset_by_errors(self):
            return super().chaos_fetch(proceed)


@contextlib.contextmanager
def _reset_by_errors(cursor: _Cursor) -> Iterator[None]:
    """A statement that fails is over: it must not go on to lock the database for others."""
    try:
        yield
    except (sqlite3.Error, MemoryError):
        with contextlib.suppress(sqlite3.Error):
            sqlite3.Cursor.fetchall(cursor)
        raise


def _fail(connection: _Connection, sql: str, failure: DatabaseFailure) -> sqlite3.Error:
    """The error of SQLite; leaves the connection in the state that SQLite leaves it in."""
    text = plain_text(sql)
    changes = _CHANGES.match(text) is not None
    if changes and not connection.in_transaction and connection.isolation_level is not None:
        # Before a change the module begins a transaction, which stays.
        sqlite3.Cursor(connection).execute(f"BEGIN {connection.isolation_level}")
    whole = failure.condition in _ROLLING_BACK and (changes or control_word(sql) == "commit")
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


def _names(database: Any) -> tuple[str, ...]:
    given = text_of(or_none(os.fsdecode, database))
    path = _path_in(given)
    names = (path or ":memory:", os.path.basename(path) or path or ":memory:")
    return names if path == given else (*names, given)


def _path_in(given: str) -> str:
    """The path of a URI, https://sqlite.org/uri.html, or what is none as it is."""
    if not given.startswith("file:"):
        return given
    path = re.split("[?#]", given.removeprefix("file:"), maxsplit=1)[0]
    if path.startswith("//"):  # with an authority, which is empty or `localhost`
        path = path[path.find("/", 2) :]
    return unquote(path)


_DJANGO = (
    "by Django, before this run was known to have chaos. Ask for it by a flag such as "
    "--chaos-seed; or, outside of a transaction (django_db(transaction=True)), call "
    "django.db.connections[{alias!r}].connect() in the test, which opens another to the same "
    "database; say with match= which statements are meant, for Django sends some of its own then."
)
_SQLALCHEMY = (
    "by SQLAlchemy, before this run was known to have chaos. Ask for it by a flag such as "
    "--chaos-seed; or make the engine in a fixture or the test, or call engine.dispose() there, "
    "after which it opens others."
)


class OpenedBefore:
    """Notes statements on connections that were opened before. See `interceptor.Driver`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def install(self, patches: Patches) -> None:
        """Watch what is loaded: what is loaded later has no connection yet."""
        # By the modules that are there: to import Django or SQLAlchemy for it takes long.
        observer = Observer(patches)
        django = getattr(sys.modules.get("django.db.backends.utils"), "CursorWrapper", None)
        dialect = getattr(sys.modules.get("sqlalchemy.engine.default"), "DefaultDialect", None)
        for owner, names, note in (
            (django, ("_execute", "_executemany"), self._django),
            (dialect, ("do_execute", "do_executemany"), self._sqlalchemy),
        ):
            for name in names if owner is not None else ():
                observer.observe(owner, name, note)

    def _django(self, cursor: Any, sql: str, *_: Any) -> None:
        database = cursor.db
        if _is_out_of_reach(database.connection):
            name = str(database.settings_dict["NAME"])
            self._note(name, sql, _DJANGO.format(alias=database.alias))

    def _sqlalchemy(
        self, _dialect: Any, cursor: Any, sql: str, _parameters: Any, context: Any = None
    ) -> None:
        if _is_out_of_reach(getattr(cursor, "connection", None)):
            self._note(context.engine.url.database or ":memory:", sql, _SQLALCHEMY)

    def _note(self, database: str, sql: str, otherwise: str) -> None:
        self._engine.note_unmatched(
            Operation(
                kind=EXECUTE,
                target=database,
                names=(database, os.path.basename(database)),
                sql=SqlDetails(statement=sql),
                remark="on a connection opened before",
                advice=(
                    f"The connection of sqlite3 to {database} is not reached: it was opened before "
                    f"the experiment began, {otherwise}"
                ),
            )
        )


def _is_out_of_reach(connection: Any) -> bool:
    return isinstance(connection, sqlite3.Connection) and not hasattr(connection, "chaos_session")

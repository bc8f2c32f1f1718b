"""psycopg2: its types are C's, so connections from now on are made of derived ones."""

from __future__ import annotations

import functools

from collections.abc import Callable
from types import TracebackType
from typing import Any

import psycopg2
import psycopg2.extensions

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import LOST
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.interceptors.databases import postgres
from pytest_resilience.interceptors.databases.driver import Gate
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.driver import hold_up
from pytest_resilience.interceptors.databases.driver import pass_through
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import looked
from pytest_resilience.interceptors.patching import Patches


__all__ = ["Psycopg2Driver"]

_connection: Any = psycopg2.extensions.connection
_cursor: Any = psycopg2.extensions.cursor


class Psycopg2Driver:
    """See the module."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def apply(self, patches: Patches) -> None:
        patches.replace(psycopg2, "connect", self._connecting)

    def _connecting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        gate = self._gate

        @functools.wraps(original)
        def connect(
            dsn: Any = None,
            connection_factory: Any = None,
            cursor_factory: Any = None,
            **kwargs: Any,
        ) -> Any:
            __tracebackhide__ = True
            told = looked(psycopg2.extensions.parse_dsn, dsn) if is_a(dsn, str) else None
            parts = (told or {}) | kwargs
            host, port = str(parts.get("host", "localhost")), parts.get("port", 5432)
            name = str(parts.get("dbname") or parts.get("database") or "postgres")
            names = (name, f"{host}:{port}", host)
            effect = gate.opening(names)
            failure = None if effect is None else hold_up(effect)
            if failure is not None:
                text = postgres.refusal(failure.condition, host, port)
                raise psycopg2.OperationalError(f"{text}\n")
            if gate.aside:
                return original(dsn, connection_factory, cursor_factory, **kwargs)
            factory = _connection_class(gate, connection_factory or _connection)
            made = original(
                dsn, connection_factory=factory, cursor_factory=cursor_factory, **kwargs
            )
            made.chaos_session = Session(names)
            return made

        return connect


class _Guarded:
    """What derived types have in common.

    Attributes:
        chaos_gate: of the class.
        chaos_session: what is known of the connection.
    """

    chaos_gate: Gate
    chaos_session: Session


class _Connection(_Guarded, _connection):  # type: ignore[misc]  # the types are C's
    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        place = dict(enumerate(args)).get(1) or kwargs.pop("cursor_factory", None)
        base = place or self.cursor_factory or _cursor
        if len(args) > 1:
            args = (args[0], *args[2:])
        own = _cursor_class(self.chaos_gate, base)
        return super().cursor(*args, cursor_factory=own, **kwargs)

    def commit(self) -> None:
        __tracebackhide__ = True
        gate = self.chaos_gate
        wanted = gate.commits and not self.closed and _in_transaction(self)
        effect = gate.committing(self.chaos_session) if wanted else None
        pass_through(effect, super().commit, functools.partial(_fail, self, True))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if kind is None:
            self.commit()
        else:
            self.rollback()


class _Cursor(_Guarded, _cursor):  # type: ignore[misc]
    def execute(self, query: Any, *args: Any) -> Any:
        __tracebackhide__ = True
        proceed = functools.partial(super().execute, query, *args)
        return pass_through(self._asked(query), proceed, self._failing())

    def executemany(self, query: Any, *args: Any) -> Any:
        __tracebackhide__ = True
        proceed = functools.partial(super().executemany, query, *args)
        return pass_through(self._asked(query), proceed, self._failing())

    def fetchone(self) -> Any:
        __tracebackhide__ = True
        return self._fetch(super().fetchone)

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self._fetch(functools.partial(super().fetchmany, *args, **kwargs))

    def fetchall(self) -> Any:
        __tracebackhide__ = True
        return self._fetch(super().fetchall)

    def _asked(self, query: Any) -> Effect | None:
        connection = self.connection
        text = postgres.statement_in(query, connection)
        if not text or text in self.chaos_gate.passing or connection.closed:
            return None
        return self.chaos_gate.executing(
            connection.chaos_session, text, _in_transaction(connection)
        )

    def _fetch(self, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        gate = self.chaos_gate
        effect = gate.fetching(self.connection.chaos_session) if gate.fetches else None
        return pass_through(effect, proceed, self._failing())

    def _failing(self) -> Callable[[DatabaseFailure], BaseException | None]:
        return functools.partial(_fail, self.connection, False)


@functools.lru_cache(maxsize=256)
def _connection_class(gate: Gate, base: type) -> type:
    return _derived(_Connection, _connection, gate, base)


@functools.lru_cache(maxsize=256)
def _cursor_class(gate: Gate, base: type) -> type:
    return _derived(_Cursor, _cursor, gate, base)


def _derived(guarded: type, original: type, gate: Gate, base: type) -> type:
    """`base`, guarded; called what it was called."""
    bases = (guarded,) if base is original else (guarded, base)
    return type(base.__name__, bases, {"chaos_gate": gate, "__module__": base.__module__})


def _in_transaction(connection: Any) -> bool:
    return bool(connection.get_transaction_status())  # 0 is idle


def _fail(connection: Any, committing: bool, failure: DatabaseFailure) -> BaseException | None:
    if failure.condition == LOST:
        postgres.cut(connection.fileno(), failure.moment)
        # Done already, so another statement has to find out.
        return _error(connection, "SELECT 1") if failure.moment == AFTER else None
    statement = postgres.raising(failure.condition)
    if not committing:
        return _error(connection, statement)
    connection.rollback()
    error = _error(connection, statement)
    connection.rollback()
    return error


def _error(connection: Any, statement: str) -> BaseException | None:
    try:
        _cursor.execute(_connection.cursor(connection), statement)
    except psycopg2.Error as error:
        found: BaseException = error
        return found
    return None

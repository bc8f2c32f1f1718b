"""Connections and cursors of drivers written in C, whose classes cannot be changed.

`sqlite3` and `psycopg2` can be told which class to make a connection of. They are given one
derived from the class that they would have used, with these methods in front of its own.
"""

from __future__ import annotations

import functools

from collections.abc import Callable
from typing import Any

from pytest_resilience.interceptors.databases.driver import DriverHooks
from pytest_resilience.interceptors.databases.driver import Fail
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.driver import inject
from pytest_resilience.interceptors.foreign_objects import is_a


__all__ = ["HookedConnection", "HookedCursor", "hooked_class"]

_Base: Any = object  # what follows in the method resolution order: a class of the driver


class HookedConnection(_Base):  # type: ignore[misc]  # see above
    """The methods of a connection.

    Attributes:
        chaos_hooks: of the class.
        chaos_session: what is known of the connection.
    """

    chaos_hooks: DriverHooks
    chaos_session: Session

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        # First of all: a class of the user's may execute statements when it is made.
        self.chaos_session = Session(self.chaos_names(database))
        super().__init__(database, *args, **kwargs)

    def commit(self) -> None:
        __tracebackhide__ = True
        hooks, injection = self.chaos_hooks, None
        if hooks.commits and self.chaos_in_transaction():
            injection = hooks.before_commit(self.chaos_session, self.chaos_failing("COMMIT"))
        inject(injection, super().commit)

    @staticmethod
    def chaos_names(database: Any) -> tuple[str, ...]:
        """The names of a database, the best first."""
        raise NotImplementedError

    def chaos_in_transaction(self) -> bool:
        """The connection is open, and has begun a transaction."""
        raise NotImplementedError

    def chaos_failing(self, statement: str) -> Fail:
        """How a failure of a statement is brought about here; "" for that of a fetch."""
        raise NotImplementedError


class HookedCursor(_Base):  # type: ignore[misc]  # see above
    """The methods of a cursor."""

    chaos_hooks: DriverHooks
    connection: HookedConnection

    def execute(self, sql: Any, *args: Any) -> Any:
        # Before all else: this is what a statement costs at which no experiment is aimed.
        if type(sql) is str and sql in self.chaos_hooks.unmatched:
            return super().execute(sql, *args)
        __tracebackhide__ = True
        return self.chaos_execute(sql, functools.partial(super().execute, sql, *args))

    def executemany(self, sql: Any, *args: Any) -> Any:
        __tracebackhide__ = True
        return self.chaos_execute(sql, functools.partial(super().executemany, sql, *args))

    def fetchone(self) -> Any:
        __tracebackhide__ = True
        return (
            self.chaos_fetch(super().fetchone) if self.chaos_hooks.fetches else super().fetchone()
        )

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self.chaos_fetch(functools.partial(super().fetchmany, *args, **kwargs))

    def fetchall(self) -> Any:
        __tracebackhide__ = True
        return self.chaos_fetch(super().fetchall)

    def chaos_text(self, sql: Any) -> str:
        """The text of what is to be executed; "" for what the driver will refuse."""
        raise NotImplementedError

    def chaos_execute(self, sql: Any, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        hooks, connection, text = self.chaos_hooks, self.connection, self.chaos_text(sql)
        if not text or text in hooks.unmatched:
            return proceed()
        injection = hooks.before_execute(
            connection.chaos_session,
            text,
            connection.chaos_in_transaction(),
            connection.chaos_failing(text),
        )
        return inject(injection, proceed)

    def chaos_fetch(self, proceed: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        hooks, connection = self.chaos_hooks, self.connection
        if not hooks.fetches:
            return proceed()
        injection = hooks.before_fetch(connection.chaos_session, connection.chaos_failing(""))
        return inject(injection, proceed)


def hooked_class(hooks: DriverHooks, mixin: type, factory: Any) -> Any:
    """A class with the methods of `mixin` in front of those of the class `factory`.

    `mixin` derives from one of the driver's classes; what is no such class, as a factory may
    be any function, is returned as it is. So is a class with the hooks of another engine that is
    in use: it was asked after this one, and is the nearest to the code under test.
    """
    if not (is_a(factory, type) and issubclass(factory, mixin.__bases__[-1])):
        return factory
    others: DriverHooks = getattr(factory, "chaos_hooks", hooks)
    return factory if others is not hooks and others.in_use else _derived(hooks, mixin, factory)


@functools.lru_cache(maxsize=512)
def _derived(hooks: DriverHooks, mixin: type, base: type) -> type:
    if issubclass(base, mixin):  # the class of another hooked connection
        bases: tuple[type, ...] = (base,)
    else:
        bases = (mixin,) if base in mixin.__bases__ else (mixin, base)
    return type(base.__name__, bases, {"chaos_hooks": hooks, "__module__": base.__module__})

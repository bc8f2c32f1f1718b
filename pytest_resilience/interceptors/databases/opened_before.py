"""Connections of sqlite3 that were open before anybody watched: made in C, they are not reached.

Django and SQLAlchemy send their statements in Python. There those are noted, so that an
experiment of databases which never fires can say so.
"""

from __future__ import annotations

import os
import sqlite3
import sys

from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails
from pytest_resilience.interceptors.observing import Observer
from pytest_resilience.patching import Patches


__all__ = ["OpenedBefore"]

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

"""SQLite in trouble for real: what the fixture `sqlite_chaos` gives a test."""

from __future__ import annotations

import contextlib
import sqlite3

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self


__all__ = ["SqliteChaos"]

_PAGES = 2**30  # more than any database has


class SqliteChaos:
    """Brings the engine itself into each state, and out of it when a block ends."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def locked(self, path: str | Path) -> Iterator[sqlite3.Connection]:
        """Another connection holds the lock: SQLITE_BUSY, once the client's timeout is over."""
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as rival:
            self._stack.callback(rival.close)
            rival.execute("BEGIN EXCLUSIVE")
            try:
                yield rival
            finally:
                rival.execute("ROLLBACK")

    @contextlib.contextmanager
    def full(self, connection: sqlite3.Connection, *, more: int = 0) -> Iterator[None]:
        """The database may grow by `more` pages only: SQLITE_FULL."""
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + more}")
        try:
            yield
        finally:
            connection.execute(f"PRAGMA max_page_count = {_PAGES}")

    @contextlib.contextmanager
    def interrupted(self, connection: sqlite3.Connection, *, after: int = 1) -> Iterator[None]:
        """Each statement is interrupted `after` so many steps of it: SQLITE_INTERRUPT."""
        connection.set_progress_handler(lambda: 1, after)
        try:
            yield
        finally:
            connection.set_progress_handler(None, 0)

    @contextlib.contextmanager
    def read_only(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Nothing can be written on this connection: SQLITE_READONLY."""
        connection.execute("PRAGMA query_only = 1")
        try:
            yield
        finally:
            connection.execute("PRAGMA query_only = 0")

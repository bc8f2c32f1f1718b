"""SQLite in trouble for real: what the fixture `sqlite_chaos` gives a test."""

from __future__ import annotations

import contextlib
import sqlite3

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pytest_resilience.chaos.contexts import dual_context
from pytest_resilience.chaos.shared_setting import SharedSetting
from pytest_resilience.chaos.shared_setting import limits_lifted
from pytest_resilience.plugin.scope import over


__all__ = ["SqliteChaos"]

_strictest: dict[str, Callable[[int, list[int]], int]] = {
    "max_page_count": lambda found, wanted: min(found, *wanted),
    "query_only": lambda _, wanted: max(wanted),
    "progress": lambda _, wanted: min(wanted),
}


class SqliteChaos:
    """Brings the engine itself into each state, and out of it when a block ends."""

    def __init__(self, owner: str = "") -> None:
        """`owner`: the id of the test that it is for."""
        self._owner = owner
        self._closed = False
        self._stack = contextlib.ExitStack()
        # Each keeps its connection, so that no other one can have its id.
        self._settings: dict[tuple[int, str], SharedSetting[int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._stack.close()

    def _check_open(self) -> None:
        if self._closed:
            raise over(self._owner)

    @dual_context
    def locked(self, path: str | Path) -> Iterator[sqlite3.Connection]:
        """Another connection holds the lock: SQLITE_BUSY, once the client's timeout is over."""
        self._check_open()
        with limits_lifted():
            rival = sqlite3.connect(path, isolation_level=None)
        self._stack.callback(rival.close)
        try:
            with limits_lifted():  # it makes a file, too
                rival.execute("BEGIN EXCLUSIVE")
            yield rival
        finally:
            with limits_lifted():
                rival.close()  # which rolls back

    @dual_context
    def full(self, connection: sqlite3.Connection, *, more: int = 0) -> Iterator[None]:
        """The database may grow by `more` pages only: SQLITE_FULL."""
        self._check_open()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        with self._pragma(connection, "max_page_count", pages + more):
            yield

    @dual_context
    def interrupted(self, connection: sqlite3.Connection, *, after: int = 1) -> Iterator[None]:
        """Each statement is interrupted `after` so many steps of it: SQLITE_INTERRUPT.

        A progress handler that the connection had before is gone: nobody can ask for it.
        """
        self._check_open()
        steps = 0

        def write(wanted: int) -> None:
            nonlocal steps
            steps = wanted
            connection.set_progress_handler((lambda: 1) if wanted else None, wanted)

        with self._shared(connection, "progress", after, lambda: steps, write):
            yield

    @dual_context
    def read_only(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Nothing can be written on this connection: SQLITE_READONLY."""
        self._check_open()
        with self._pragma(connection, "query_only", 1):
            yield

    @contextlib.contextmanager
    def _pragma(self, connection: sqlite3.Connection, name: str, value: int) -> Iterator[None]:
        """Have a setting of a connection for a while, also while another block has it."""
        read = f"PRAGMA {name}"
        with self._shared(
            connection,
            name,
            value,
            lambda: int(connection.execute(read).fetchone()[0]),
            lambda wanted: connection.execute(f"{read} = {wanted}"),
        ):
            yield

    @contextlib.contextmanager
    def _shared(
        self,
        connection: sqlite3.Connection,
        name: str,
        value: int,
        read: Callable[[], int],
        write: Callable[[int], object],
    ) -> Iterator[None]:
        key = (id(connection), name)
        setting = self._settings.get(key)
        if setting is None:
            setting = self._settings[key] = SharedSetting(read, write, _strictest[name])
        let_go = setting.hold(value)
        try:
            yield
        finally:
            let_go()

"""A PostgreSQL server in trouble for real: what the fixture `postgres_chaos` gives a test."""

from __future__ import annotations

import contextlib
import functools
import os
import threading

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from pytest_resilience.chaos.contexts import dual_context
from pytest_resilience.chaos.shared_setting import SharedSetting
from pytest_resilience.chaos.shared_setting import limits_lifted
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.plugin.scope import over


__all__ = ["PostgresChaos", "servers"]

_NEVER = "1h"  # until the rival itself looks for a deadlock: the client is to be the victim
_PATIENCE = 30.0  # seconds for the rival to end


_context = functools.partial(dual_context, blocks=True)


class PostgresChaos:
    """Brings a server into each state, and out of it when a block ends. Needs psycopg.

    What concerns sessions that begin from now on is set for the database; most of it a
    superuser or the database's owner can do.
    """

    def __init__(self, url: str, owner: str = "") -> None:
        """`url`: as psycopg takes it; `owner`: the id of the test that it is for.

        Raises ConfigurationError without psycopg.
        """
        __tracebackhide__ = True
        try:
            import psycopg
        except ImportError as error:  # not installed, or without its libpq
            told = str(error).partition("\n")[0]
            raise ConfigurationError(
                f"postgres_chaos needs psycopg 3 ({told}); pip install 'psycopg[binary]'"
            ) from None

        self._url = url
        self._owner = owner
        with limits_lifted():
            self._connection = psycopg.connect(url, autocommit=True)
        self._settings: dict[str, SharedSetting[str | None]] = {}

    @property
    def closed(self) -> bool:
        """Whether it has let go of the server."""
        return bool(self._connection.closed)

    def _check_open(self) -> None:
        if self.closed:
            raise over(self._owner)

    def close(self) -> None:
        """Let go of the server."""
        self._connection.close()

    def terminate(self, pid: int) -> None:
        """End the session of this backend (`pg_backend_pid()`); returns when it is gone."""
        self._check_open()
        self._connection.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))

    @_context
    def statement_timeout(self, timeout: str = "10ms") -> Iterator[None]:
        """Statements of new sessions are cancelled after it: SQLSTATE 57014."""
        self._check_open()
        with self._setting("statement_timeout", timeout):
            yield

    @_context
    def read_only(self) -> Iterator[None]:
        """New sessions cannot write: SQLSTATE 25006."""
        self._check_open()
        with self._setting("default_transaction_read_only", "on"):
            yield

    @contextlib.contextmanager
    def _setting(self, name: str, value: str) -> Iterator[None]:
        """Have a setting of the database for a while, also while another block has it."""
        if name not in self._settings:
            self._settings[name] = SharedSetting(
                functools.partial(self._read, name), functools.partial(self._write, name)
            )
        let_go = self._settings[name].hold(value)
        try:
            yield
        finally:
            let_go()

    def _read(self, name: str) -> str | None:
        """What the database has set for its sessions; None where it leaves that to the server."""
        found = self._connection.execute(
            "SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_database ON setdatabase = "
            "pg_database.oid WHERE datname = current_database() AND setrole = 0"
        )
        return dict(row[0].split("=", 1) for row in found).get(name)

    def _write(self, name: str, value: str | None) -> None:
        from psycopg import sql

        alter = sql.SQL("ALTER DATABASE {} ").format(sql.Identifier(self._connection.info.dbname))
        setting = sql.Identifier(name)
        if value is None:
            change = sql.SQL("RESET {}").format(setting)
        else:
            change = sql.SQL("SET {} = {}").format(setting, sql.Literal(value))
        self._connection.execute(alter + change)

    @_context
    def locked(self, statement: str) -> Iterator[None]:
        """Another session has done `statement`, and holds its locks, until the block ends."""
        self._check_open()
        import psycopg

        with limits_lifted():
            rival = psycopg.connect(self._url)
        with rival:
            rival.execute(statement)
            yield
            rival.rollback()

    @_context
    def deadlock(self, first: str, second: str) -> Iterator[None]:
        """A rival has done `first`, and wants to do `second` as soon as the block begins.

        When the client holds what `second` needs and asks for what `first` holds, the client is
        the victim, after its own `deadlock_timeout`: SQLSTATE 40P01.
        """
        import psycopg

        self._check_open()
        with limits_lifted():
            rival = psycopg.connect(self._url)
        with rival:
            rival.execute("SELECT set_config('deadlock_timeout', %s, true)", (_NEVER,))
            rival.execute(first)

            def go_on() -> None:
                with contextlib.suppress(psycopg.Error):
                    rival.execute(second)

            thread = threading.Thread(target=go_on, daemon=True)
            with limits_lifted():
                thread.start()
            self._until_waiting(rival.info.backend_pid)
            try:
                yield
            finally:
                rival.cancel_safe()
                thread.join(_PATIENCE)
                rival.rollback()

    def _until_waiting(self, pid: int) -> None:
        """Return when the rival waits for a lock, as `pg_locks` says."""
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)"
        while not _first(self._connection.execute(waiting, (pid,))):
            pass

    @_context
    def exhausted(self) -> Iterator[int]:
        """The server takes no connection more (SQLSTATE 53300); gives how many that took.

        Raises OSError if this process can open fewer than the server would take.
        """
        import psycopg

        self._check_open()
        with contextlib.ExitStack() as stack:
            taken = 0
            with limits_lifted():
                while True:
                    try:
                        connection = psycopg.connect(self._url)
                    except psycopg.OperationalError:
                        os.close(os.open(os.devnull, os.O_RDONLY))  # it was not this process
                        break
                    stack.callback(connection.close)
                    taken += 1
            yield taken


def _first(cursor: Any) -> Any:
    return cursor.fetchone()[0]


@contextlib.contextmanager
def servers(owner: str = "") -> Iterator[Callable[[str], PostgresChaos]]:
    """A maker of them for the test `owner`; closes them all at the end, and makes no more."""
    over_now = False
    made: dict[str, PostgresChaos] = {}
    with contextlib.ExitStack() as stack:

        def of(url: str) -> PostgresChaos:
            __tracebackhide__ = True
            if over_now:
                raise over(owner)
            if url not in made or made[url].closed:  # one that is asked for twice is the same
                made[url] = PostgresChaos(url, owner)
                stack.callback(made[url].close)
            return made[url]

        try:
            yield of
        finally:
            over_now = True

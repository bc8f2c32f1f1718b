"""What all drivers of PostgreSQL share.

A failure of the server is not imitated: in place of the statement the server is asked to
raise the error by its code, and driver, transaction and connection do what they do then. A
lost connection is lost: its socket is shut down, and the driver finds out by itself.
"""

from __future__ import annotations

import contextlib
import os
import socket

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_resilience.chaos.parsing.targets import control_word
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.database import AFTER
from pytest_resilience.chaos.types.database import DURING
from pytest_resilience.chaos.types.database import LOST
from pytest_resilience.chaos.types.database import DatabaseFailure
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.interceptors.databases.driver import Steps
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.foreign_objects import text_of


__all__ = ["TOO_MANY", "Server", "fail", "refusal", "statement_in"]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_ERRORS = {
    "locked": ("55P03", "could not obtain lock on relation"),
    "deadlock": ("40P01", "deadlock detected"),
    "serialization_failure": ("40001", "could not serialize access due to concurrent update"),
    "statement_timeout": ("57014", "canceling statement due to statement timeout"),
    "read_only": ("25006", "cannot execute this statement in a read-only transaction"),
    "disk_full": ("53100", "could not extend file: No space left on device"),
    "constraint": ("23505", "duplicate key value violates unique constraint"),
}

TOO_MANY = "sorry, too many clients already"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server as one connection reaches it. What is awaited may return awaitables.

    Attributes:
        descriptor: gives the descriptor of the connection's socket.
        execute: executes a statement, with no hook before it.
        rollback: ends a transaction, and does nothing where there is none.
        errors: what the driver raises.
    """

    descriptor: Callable[[], int]
    execute: Callable[[str], Any]
    rollback: Callable[[], Any]
    errors: tuple[type[BaseException], ...]


def fail(server: Server, statement: str, failure: DatabaseFailure) -> Steps:
    """Bring about a failure of a statement, of a fetch of its rows, or of a COMMIT."""
    if failure.condition == LOST:
        _shut_down(server.descriptor(), failure.moment)
        # After the statement nothing is left to fail, so another one has to find out.
        return (yield from _error(server, "SELECT 1")) if failure.moment == AFTER else None
    failing = _raising(failure.condition)
    if control_word(statement) != "commit":
        return (yield from _error(server, failing))
    # A COMMIT that fails has rolled back, and leaves no transaction open.
    yield server.rollback
    error = yield from _error(server, failing)
    yield server.rollback
    return error


def _error(server: Server, statement: str) -> Steps:
    try:
        yield lambda: server.execute(statement)
    except server.errors as error:
        return error
    return None


def _raising(condition: str) -> str:
    """The statement that makes the server fail with this condition."""
    try:
        code, message = _ERRORS[condition]
    except KeyError:
        known = ", ".join(map(repr, _ERRORS))
        raise ConfigurationError(
            f"PostgreSQL knows no {condition!r} of a statement; give one of {known}"
        ) from None
    return (
        f"DO $chaos$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = '{message}'; "
        "END $chaos$"
    )


def _shut_down(descriptor: int, moment: str) -> None:
    """Lose a connection: in both directions, or only the response to what is sent DURING it."""
    with contextlib.suppress(OSError), limits_lifted():
        connection = socket.socket(fileno=os.dup(descriptor))
        with connection:
            connection.shutdown(socket.SHUT_RD if moment == DURING else socket.SHUT_RDWR)


def refusal(condition: str, host: str, port: Any) -> str:
    """The text of libpq for a connect that fails with this condition."""
    if host.startswith("/"):
        where = f'connection to server on socket "{host}/.s.PGSQL.{port}" failed: '
        locally = "locally and accepting connections on that socket?"
    else:
        where = f'connection to server at "{host}", port {port} failed: '
        locally = "on that host and accepting TCP/IP connections?"
    if condition == "too_many_connections":
        return f"{where}FATAL:  {TOO_MANY}"
    return f"{where}Connection refused\n\tIs the server running {locally}"


def statement_in(query: Any, connection: Any) -> str:
    """The text of what psycopg is given to execute: text, bytes, or composed; "" of others."""
    if is_a(query, bytes):
        return bytes.decode(query, errors="replace")
    if hasattr(type(query), "as_string"):
        query = or_none(query.as_string, connection)
    return text_of(query) if is_a(query, str) else ""

"""What all drivers of PostgreSQL have in common.

A failure of the server is not imitated: in place of the statement the server is asked to
raise the error by its code, and driver, transaction and connection do what they do then. A
lost connection is lost: its socket is shut down, and the driver finds out by itself.
"""

from __future__ import annotations

import contextlib
import os
import socket

from typing import Any

from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.database import DURING
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import looked
from pytest_resilience.interceptors.foreign_objects import text_of


__all__ = ["TOO_MANY", "cut", "raising", "refusal", "statement_in"]

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

TOO_MANY = "FATAL:  sorry, too many clients already"


def raising(condition: str) -> str:
    """The statement that makes the server fail with this condition."""
    try:
        code, message = _ERRORS[condition]
    except KeyError:
        raise ConfigurationError(f"PostgreSQL knows no {condition!r} of a statement") from None
    return (
        f"DO $chaos$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = '{message}'; "
        "END $chaos$"
    )


def refusal(condition: str, host: str, port: Any) -> str:
    """What libpq says of a connect that fails so."""
    if host.startswith("/"):
        where = f'connection to server on socket "{host}/.s.PGSQL.{port}" failed: '
        locally = "locally and accepting connections on that socket?"
    else:
        where = f'connection to server at "{host}", port {port} failed: '
        locally = "on that host and accepting TCP/IP connections?"
    if condition == "too_many_connections":
        return f"{where}{TOO_MANY}"
    return f"{where}Connection refused\n\tIs the server running {locally}"


def cut(descriptor: int, moment: str) -> None:
    """Lose a connection: in both directions, or only the answers of what is sent DURING it."""
    with contextlib.suppress(OSError), limits_lifted():
        connection = socket.socket(fileno=os.dup(descriptor))
        with connection:
            connection.shutdown(socket.SHUT_RD if moment == DURING else socket.SHUT_RDWR)


def statement_in(query: Any, connection: Any) -> str:
    """What psycopg is given to execute: a text, bytes, or something composed; "" of others."""
    if is_a(query, bytes):
        return bytes.decode(query, errors="replace")
    if hasattr(type(query), "as_string"):
        query = looked(query.as_string, connection)
    return text_of(query) if is_a(query, str) else ""

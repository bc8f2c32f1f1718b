"""What sync and async connections of psycopg 3 have in common."""

from __future__ import annotations

from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.interceptors.databases.driver import Gate
from pytest_resilience.interceptors.databases.driver import Session
from pytest_resilience.interceptors.databases.postgres import statement_in


__all__ = ["asked", "asked_to_commit", "outermost", "session_of"]


def outermost(transaction: Any) -> bool:
    """Whether its end is a COMMIT, and not that of a savepoint."""
    return bool(getattr(transaction, "_outer_transaction", True))


def session_of(connection: Any) -> Session:
    """What is known of a connection, kept on it."""
    found = vars(connection).get("chaos_session")
    if found is None:
        info = connection.info
        names = (info.dbname, f"{info.host}:{info.port}", info.host)
        found = connection.chaos_session = Session(names)
    assert isinstance(found, Session)
    return found


def _in_transaction(connection: Any) -> bool:
    return bool(connection.info.transaction_status)  # 0 is IDLE


def asked(gate: Gate, cursor: Any, query: Any) -> Effect | None:
    """What happens to a query: a text, bytes, or something composed."""
    text = statement_in(query, cursor.connection)
    if not text or text in gate.passing or cursor.connection.closed:
        return None
    return gate.executing(session_of(cursor.connection), text, _in_transaction(cursor.connection))


def asked_to_commit(gate: Gate, connection: Any) -> Effect | None:
    """What happens to a commit; nothing where there is none to make."""
    wanted = gate.commits and not connection.closed and _in_transaction(connection)
    assert isinstance(wanted, bool)
    return gate.committing(session_of(connection)) if wanted else None

"""An assertion about a database: no transaction was written by half."""

from __future__ import annotations

import inspect

from typing import Any


__all__ = ["assert_no_partial_write"]

_MOST_SHOWN = 10  # rows that anybody reads


def assert_no_partial_write(connection: Any, query: str) -> Any:
    """Assert that `query` finds nothing: it looks for what only half a transaction leaves.

    For example orders without items, or accounts that do not add up. `connection` is one of a
    DB-API driver or of SQLAlchemy; with one whose methods are awaited (asyncpg, aiosqlite,
    async psycopg and SQLAlchemy) await the assertion too. The query runs on that connection,
    in its transaction if it has begun one; what it began itself is rolled back.
    """
    __tracebackhide__ = True
    if _is_async(connection):
        return _assert_async(connection, query)
    # A query begins a transaction with most drivers; its locks are not to outlive this.
    before = _begun(connection)
    rows = _rows(connection, query)
    if before is False and _begun(connection):
        connection.rollback()
    return _check(rows, query)


async def _assert_async(connection: Any, query: str) -> None:
    __tracebackhide__ = True
    before = _begun(connection)
    if hasattr(connection, "fetch"):  # asyncpg
        rows = await connection.fetch(query)
    else:
        run = getattr(connection, "exec_driver_sql", None) or connection.execute
        result = await run(query)
        rows = result.fetchall()
        if inspect.isawaitable(rows):
            rows = await rows
    if before is False and _begun(connection):
        await connection.rollback()
    _check(rows, query)


def _is_async(connection: Any) -> bool:
    method = getattr(connection, "fetch", None) or getattr(connection, "execute", None)
    return inspect.iscoroutinefunction(method) or type(connection).__module__ == "aiosqlite.core"


def _rows(connection: Any, query: str) -> list[Any]:
    if hasattr(connection, "exec_driver_sql"):  # SQLAlchemy
        return list(connection.exec_driver_sql(query).fetchall())
    cursor = connection.cursor()
    try:
        cursor.execute(query)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _begun(connection: Any) -> bool | None:
    """True in a transaction, False outside; None if the driver does not say."""
    for name in ("in_transaction", "is_in_transaction"):
        found = getattr(connection, name, None)
        if found is not None:
            return bool(found() if callable(found) else found)
    status = getattr(getattr(connection, "info", None), "transaction_status", None)
    return None if status is None else bool(status)


def _check(rows: list[Any], query: str) -> None:
    __tracebackhide__ = True
    if not rows:
        return
    shown = "\n".join(f"  {tuple(row)!r}" for row in rows[:_MOST_SHOWN])
    more = f"\n  … and {len(rows) - _MOST_SHOWN} more" if len(rows) > _MOST_SHOWN else ""
    raise AssertionError(f"half of something was written; found by {query}:\n{shown}{more}")

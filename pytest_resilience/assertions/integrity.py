"""Assertions about what was being written when a fault came: a file, or a transaction."""

from __future__ import annotations

import inspect
import os

from collections.abc import Callable
from typing import Any

from pytest_resilience.errors import ConfigurationError


__all__ = ["assert_file_intact", "assert_no_partial_write"]

_CONTEXT = 16  # bytes of a file that a message shows
_MOST_SHOWN = 10  # rows that anybody reads
_Versions = dict[str, bytes]  # by the name of the parameter: before, after


def assert_file_intact(
    path: str | os.PathLike[str],
    *,
    before: bytes | str | None = None,
    after: bytes | str | None = None,
    valid: Callable[[bytes], object] | None = None,
    missing_ok: bool = False,
    encoding: str = "utf-8",
) -> bytes:
    """Raise AssertionError unless a file is whole: never torn, mixed, or empty by accident.

    Everything that is given must hold. Without `before`, `after` and `valid` the file has to be
    there and not empty.

    Args:
        path: the file.
        before: its content before the write, which it may still have.
        after: the content that was to be written. It may have this one, whole.
        valid: called with the content; raises or returns False if it is broken: `json.loads`.
        missing_ok: whether the file may be missing, as before it was first written.
        encoding: of texts in `before` and `after`. Line ends are compared as they are.

    Returns the content; b"" if the file is missing. Raises ConfigurationError if `before` and
    `after` are the same.
    """
    __tracebackhide__ = True
    versions = _versions(before, after, encoding)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        if missing_ok:
            return b""
        problem = "it is not there"
    else:
        problem = _problem(content, versions, valid)
        if not problem:
            return content
    raise AssertionError(f"expected {os.fspath(path)} to be intact, but {problem}")


def _versions(before: bytes | str | None, after: bytes | str | None, encoding: str) -> _Versions:
    versions = {
        name: text.encode(encoding) if isinstance(text, str) else bytes(text)
        for name, text in (("before", before), ("after", after))
        if text is not None
    }
    if len(versions) == 2 and versions["before"] == versions["after"]:
        raise ConfigurationError("before and after are the same; give what the write changes")
    return versions


def _problem(content: bytes, versions: _Versions, valid: Callable[[bytes], object] | None) -> str:
    """Say how the content is broken; "" if it is not."""
    if versions and content not in versions.values():
        return _difference(content, versions)
    if not content and not versions and valid is None:
        return "it is empty"
    return "" if valid is None else _invalid(content, valid)


def _invalid(content: bytes, valid: Callable[[bytes], object]) -> str:
    try:
        verdict: Any = valid(content)
    except Exception as error:
        return f"its {len(content)} bytes are not valid: {type(error).__name__}: {error}"
    if verdict is False:
        return f"its {len(content)} bytes are not valid: {_shown(content)}"
    return ""


def _difference(content: bytes, versions: _Versions) -> str:
    """Say how the content differs from each of the versions."""
    if not content:
        return "it is empty"
    for name, version in versions.items():
        if version.startswith(content):
            return f"it is torn: the first {len(content)} of the {len(version)} bytes of {name}="
    shared = {
        name: len(os.path.commonprefix([content, version]))  # noqa: RUF071  # byte by byte
        for name, version in versions.items()
    }
    if len(versions) == 2:
        # What a write in place leaves when it is broken off.
        written = shared["after"]
        if 0 < written < len(content) and content[written:] == versions["before"][written:]:
            return (
                f"it is a mixture: {written} of the {len(versions['after'])} bytes of after=, and "
                "then the rest of before="
            )
    name = max(shared, key=lambda each: shared[each])
    at = shared[name]
    others = "neither" if len(versions) == 2 else "not"
    return (
        f"it is {others} {' nor '.join(f'{each}=' for each in versions)}: {len(content)} bytes, "
        f"which differ from the {len(versions[name])} of {name}= at byte {at}: "
        f"{_shown(content[at:])}"
    )


def _shown(content: bytes) -> str:
    more = "..." if len(content) > _CONTEXT else ""
    return f"{content[:_CONTEXT]!r}{more}"


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

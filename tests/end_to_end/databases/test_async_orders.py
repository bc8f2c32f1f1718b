"""The same shop with drivers that are awaited."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.assertions import assert_no_partial_write
from tests.end_to_end.databases.conftest import Chaos
from tests.end_to_end.databases.orders import HALF_ORDERS
from tests.end_to_end.databases.orders import SCHEMA
from tests.end_to_end.databases.orders import TEA
from tests.end_to_end.databases.orders import Items
from tests.end_to_end.databases.orders import order_of
from tests.end_to_end.databases.test_orders import FAULTS


@dataclass(frozen=True)
class Driver:
    """One library, in the words of the shop.

    Attributes:
        connect: a new connection.
        run: a statement with parameters.
        rows: what a query finds.
        transaction: a block that is committed at its end.
        mark: the n-th parameter in SQL, from 0.
        error: the base of all errors; `transient`: those that may go away.
    """

    connect: Callable[[], Awaitable[Any]]
    run: Callable[[Any, str, Any], Awaitable[Any]]
    rows: Callable[[Any, str], Awaitable[Any]]
    transaction: Callable[[Any], contextlib.AbstractAsyncContextManager[Any]]
    mark: str
    error: tuple[type[Exception], ...]
    transient: tuple[type[Exception], ...]


def with_asyncpg(url: str, _: Path) -> Driver:
    import asyncpg

    gone = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)
    busy = (
        asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.QueryCanceledError,
        asyncpg.LockNotAvailableError, asyncpg.TooManyConnectionsError, asyncpg.DiskFullError,
    )  # fmt: skip
    return Driver(
        connect=lambda: asyncpg.connect(url),
        run=lambda connection, sql, values: connection.execute(_numbered(sql), *values),
        rows=lambda connection, sql: connection.fetch(sql),
        transaction=lambda connection: connection.transaction(),
        mark="?",
        error=(asyncpg.PostgresError, asyncpg.InterfaceError, OSError),
        transient=(*gone, *busy),
    )


def with_psycopg(url: str, _: Path) -> Driver:
    import psycopg

    async def rows(connection: Any, sql: str) -> Any:
        return await (await connection.execute(sql)).fetchall()

    return Driver(
        connect=lambda: psycopg.AsyncConnection.connect(url),
        run=lambda connection, sql, values: connection.execute(sql, values),
        rows=rows,
        transaction=lambda connection: connection.transaction(),
        mark="%s",
        error=(psycopg.Error,),
        transient=(psycopg.OperationalError,),
    )


def with_aiosqlite(_: str, tmp_path: Path) -> Driver:
    import aiosqlite

    async def connect() -> Any:
        before = set(threading.enumerate())
        try:
            return await aiosqlite.connect(tmp_path / "shop.db", timeout=0)
        except aiosqlite.Error:
            for thread in set(threading.enumerate()) - before:  # it still has to tell the loop
                await asyncio.to_thread(thread.join, 5)
            raise

    @contextlib.asynccontextmanager
    async def transaction(connection: Any) -> Any:
        try:
            yield
            await connection.commit()
        except BaseException:
            await connection.rollback()
            raise

    return Driver(
        connect=connect,
        run=lambda connection, sql, values: connection.execute(sql, values),
        rows=lambda connection, sql: connection.execute_fetchall(sql),
        transaction=transaction,
        mark="?",
        error=(aiosqlite.Error,),
        transient=(aiosqlite.OperationalError,),
    )


def with_sqlalchemy(url: str, _: Path) -> Driver:
    import asyncpg
    import sqlalchemy.exc

    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    host = url.partition("host=")[2]
    engine = create_async_engine(
        f"postgresql+asyncpg://postgres@/postgres?host={host}", poolclass=NullPool
    )

    @contextlib.asynccontextmanager
    async def transaction(connection: Any) -> Any:
        try:
            yield
            await connection.commit()
        except BaseException:
            with contextlib.suppress(sqlalchemy.exc.DBAPIError, asyncpg.InterfaceError):
                await connection.rollback()
            raise

    async def rows(connection: Any, sql: str) -> Any:
        return [tuple(row) for row in (await connection.exec_driver_sql(sql)).fetchall()]

    return Driver(
        connect=lambda: engine.connect().start(),
        run=lambda connection, sql, values: connection.exec_driver_sql(_numbered(sql), values),
        rows=rows,
        transaction=transaction,
        mark="?",
        error=(sqlalchemy.exc.DBAPIError, asyncpg.PostgresError, OSError),
        transient=(sqlalchemy.exc.DBAPIError, asyncpg.PostgresConnectionError, OSError),
    )


def _numbered(sql: str) -> str:
    """With `$1`, `$2` … for each `?`."""
    parts = sql.split("?")
    return parts[0] + "".join(f"${number}{part}" for number, part in enumerate(parts[1:], 1))


class AsyncOrders:
    """Takes orders: each once, whole or not at all."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def place(self, key: str, items: Items, attempts: int = 4) -> None:
        for attempt in range(1, attempts + 1):
            try:
                connection = await self._driver.connect()
                try:
                    await self._place_once(connection, key, items)
                finally:
                    await close(connection)
            except self._driver.transient:
                if attempt == attempts:
                    raise
            else:
                return

    async def _place_once(self, connection: Any, key: str, items: Items) -> None:
        driver = self._driver
        async with driver.transaction(connection):
            if await driver.rows(connection, f"SELECT id FROM orders WHERE id = '{key}'"):
                return
            for sql, values in order_of(driver.mark, key, "Ada", items):
                await driver.run(connection, sql, values)


class NaiveAsyncOrders(AsyncOrders):
    """Tries again with a number of its own for every try."""

    async def _place_once(self, connection: Any, key: str, items: Items) -> None:
        del key
        for sql, values in order_of(self._driver.mark, str(uuid.uuid4()), "Ada", items):
            async with self._driver.transaction(connection):
                await self._driver.run(connection, sql, values)


async def close(connection: Any) -> None:
    with contextlib.suppress(Exception):  # it may be gone
        await asyncio.wait_for(connection.close(), 5)


@pytest.fixture(params=["aiosqlite", "psycopg", "asyncpg", "sqlalchemy"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """Each driver in turn, with the tables of the shop."""
    pytest.importorskip(request.param)
    url = "" if request.param == "aiosqlite" else request.getfixturevalue("postgres")
    make = {
        "aiosqlite": with_aiosqlite,
        "asyncpg": with_asyncpg,
        "psycopg": with_psycopg,
        "sqlalchemy": with_sqlalchemy,
    }[request.param]
    found = make(url, tmp_path)
    asyncio.run(run(found, *SCHEMA))
    yield found
    asyncio.run(run(found, "DROP TABLE items", "DROP TABLE orders"))


async def run(driver: Driver, *statements: str) -> None:
    connection = await driver.connect()
    async with driver.transaction(connection):
        for statement in statements:
            await driver.run(connection, statement, ())
    await connection.close()


def found_by(driver: Driver, query: str) -> list[tuple[Any, ...]]:
    async def story() -> Any:
        connection = await driver.connect()
        try:
            await assert_no_partial_write(connection, HALF_ORDERS)
            return await driver.rows(connection, query)
        finally:
            await connection.close()

    return [tuple(row) for row in asyncio.run(story())]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(map(str, fault.values())))
def test_an_order_is_placed_once_and_whole(
    driver: Driver, chaos_on_databases: Chaos, fault: dict[str, Any]
) -> None:
    passing = fault if "nth" in fault else {**fault, "first": 1}
    experiment = chaos_on_databases("database_failure", **passing)
    placed = True
    try:
        asyncio.run(AsyncOrders(driver).place("k1", TEA))
    except driver.error:  # one that is not transient, for this driver
        placed = False
    experiment.stop()
    assert experiment.hits == 1
    found = found_by(driver, "SELECT id, total FROM orders")
    assert found == [("k1", 31)] or not placed


def test_the_naive_one_charges_twice(driver: Driver, chaos_on_databases: Chaos) -> None:
    experiment = chaos_on_databases("database_failure", after="commit", nth=4)
    asyncio.run(NaiveAsyncOrders(driver).place("k1", TEA))
    experiment.stop()
    assert len(found_by(driver, "SELECT id FROM orders")) == 2


def test_the_naive_one_leaves_half_an_order(driver: Driver, chaos_on_databases: Chaos) -> None:
    experiment = chaos_on_databases(
        "database_failure", before="execute", match="INSERT INTO items*", nth=2
    )
    asyncio.run(NaiveAsyncOrders(driver).place("k1", TEA))
    experiment.stop()
    with pytest.raises(AssertionError, match="half of something was written"):
        found_by(driver, "SELECT id FROM orders")

"""Pools that have no connection left."""

from __future__ import annotations

import asyncio
import contextlib

from pathlib import Path

import pytest

from tests.end_to_end.databases.conftest import Chaos


def test_sqlalchemy(tmp_path: Path, chaos_on_databases: Chaos) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")

    def outcome(engine: object) -> tuple[str, str | None]:
        with pytest.raises(sqlalchemy.exc.TimeoutError) as caught:
            engine.connect()  # type: ignore[attr-defined]
        return str(caught.value), caught.value.code

    engine = sqlalchemy.create_engine(
        f"sqlite:///{tmp_path}/shop.db", pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    with engine.connect():
        real = outcome(engine)
    experiment = chaos_on_databases("database_failure", mode="pool_exhausted")
    assert outcome(engine) == real
    experiment.stop()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()


def test_psycopg(postgres: str, chaos_on_databases: Chaos) -> None:
    psycopg_pool = pytest.importorskip("psycopg_pool")
    with psycopg_pool.ConnectionPool(postgres, min_size=1, max_size=1, timeout=0.05) as pool:

        def outcome() -> str:
            with pytest.raises(psycopg_pool.PoolTimeout) as caught, pool.connection():
                pass
            return str(caught.value)

        with pool.connection():
            real = outcome()
        experiment = chaos_on_databases("database_failure", mode="pool_exhausted")
        assert outcome() == real
        experiment.stop()
        with pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_psycopg_awaited(postgres: str, chaos_on_databases: Chaos) -> None:
    psycopg_pool = pytest.importorskip("psycopg_pool")

    async def story() -> None:
        pool = psycopg_pool.AsyncConnectionPool(postgres, min_size=1, open=False)
        async with contextlib.AsyncExitStack() as stack:
            await pool.open()
            stack.push_async_callback(pool.close)
            experiment = chaos_on_databases("database_failure", mode="pool_exhausted")
            with pytest.raises(psycopg_pool.PoolTimeout, match="couldn't get a connection after"):
                await pool.getconn(timeout=2)
            experiment.stop()
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")

    asyncio.run(story())

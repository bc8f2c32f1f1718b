"""Markers that cancel, in suites whose coroutines a plugin runs."""

from __future__ import annotations

import pytest

from tests.ahead import runs
from tests.suites import SERVER


@runs(
    "-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin",
    conftest=SERVER,
    test_it="""
        import asyncio

        import anyio
        import httpx
        import pytest
        import trio

        async def get(url):
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(url)).text

        @pytest.fixture(params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        at_each = pytest.mark.parametrize("at", ["connect", "receive"])

        @at_each
        @pytest.mark.asyncio
        async def test_a_task(url, chaos, at):
            with chaos.cancellation(at=at, nth=1):
                task = asyncio.create_task(get(url))
                await asyncio.wait([task])
                assert task.cancelled()
                assert await get(url) == "ok"

        @pytest.mark.chaos("cancellation", at="receive")
        @pytest.mark.asyncio
        @pytest.mark.xfail(raises=asyncio.CancelledError, strict=True)
        async def test_the_test_itself(url):
            await get(url)

        @at_each
        @pytest.mark.parametrize("anyio_backend", ["trio"])
        @pytest.mark.anyio
        async def test_a_scope(url, chaos, at, anyio_backend):
            with chaos.cancellation(at=at, nth=1), anyio.move_on_after(60) as scope:
                await get(url)
            assert scope.cancelled_caught
            assert await get(url) == "ok"

        @pytest.mark.chaos("cancellation", at="receive")
        @pytest.mark.anyio
        @pytest.mark.xfail(raises=(asyncio.CancelledError, trio.Cancelled), strict=True)
        async def test_the_test_itself_in_anyio(url):
            await get(url)

        @pytest.mark.anyio
        async def test_and_who_runs_it_goes_on(url):
            assert await get(url) == "ok"

        @pytest.mark.chaos("cancellation", at="execute|receive")
        @pytest.mark.asyncio
        async def test_nobody_awaits_it(tmp_path):
            import sqlite3

            sqlite3.connect(":memory:").execute("SELECT 1").connection.close()
    """,
)  # fmt: skip
def test_cancellation(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=7, xfailed=3, errors=1)
    ran.stdout.fnmatch_lines(["*Cancelled is who awaits an operation, and nobody awaited one*"])

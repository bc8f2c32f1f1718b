"""Markers around code that brings asyncio along."""

from __future__ import annotations

import sys

import pytest


def test_a_marker_delays_and_silences_an_async_client(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import time

        import pytest

        def get(url, timeout):
            import asyncio  # after the experiment has begun
            import httpx

            async def main():
                async with httpx.AsyncClient(trust_env=False, timeout=timeout) as client:
                    return (await client.get(url)).status_code

            return asyncio.run(main())

        @pytest.mark.chaos("network_latency", delay="50ms")
        def test_late(url):
            started = time.monotonic()
            assert get(url, timeout=5) == 200
            assert time.monotonic() - started >= 0.1

        @pytest.mark.chaos("network_failure", mode="timeout", intensity=1)
        def test_silent(url):
            import httpx

            with pytest.raises(httpx.ConnectTimeout):
                get(url, timeout=0.1)

        @pytest.mark.chaos("network_failure", mode="timeout", from_nth=2, intensity=1)
        def test_silent_when_asked(url):
            import httpx

            with pytest.raises(httpx.ReadTimeout):
                get(url, timeout=0.1)
    """)
    suite.runpytest_subprocess().assert_outcomes(passed=3)


def test_an_async_client_aimed_at_by_name(suite: pytest.Pytester) -> None:
    """Its names are resolved by another thread."""
    suite.makepyfile("""
        import asyncio

        import aiohttp
        import pytest

        @pytest.mark.parametrize("target", ["localhost", "localhost:*", "elsewhere"])
        def test_by_name(url, target, chaos):
            async def main():
                async with aiohttp.ClientSession() as session:
                    async with session.get(url.replace("127.0.0.1", "localhost")) as response:
                        await response.read()

            with chaos.network_latency(delay=0.001, target=target, name=target):
                asyncio.run(main())
    """)
    suite.runpytest_subprocess().assert_outcomes(passed=3, errors=1)


PLACES = """
    import asyncio
    import unittest

    import aiohttp
    import httpx
    import pytest

    slow = pytest.mark.chaos("network_latency", delay="1ms")

    @slow
    @pytest.mark.asyncio
    async def test_aiohttp(url, expected):
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as response:  # here
                pass

    @slow
    @pytest.mark.asyncio
    async def test_httpx(url, expected):
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(url)  # here

    @slow
    @pytest.mark.anyio
    async def test_httpx_and_anyio(url, expected):
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(url)  # here

    @slow
    def test_a_loop_of_its_own(url, expected):
        async def main():
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(url)  # here

        asyncio.run(main())

    @slow
    @pytest.mark.asyncio
    async def test_a_thread(url, expected):
        await asyncio.to_thread(httpx.get, url)  # here

    class TestUnittest(unittest.IsolatedAsyncioTestCase):
        @pytest.fixture(autouse=True)
        def prepare(self, url, expected):
            self.url = url

        @slow
        async def test_httpx(self):
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(self.url)  # here
"""


def test_a_place_is_the_line_that_awaits(suite: pytest.Pytester) -> None:
    """Whoever runs the loop, and whatever program has started pytest."""
    conftest = (suite.path / "conftest.py").read_text()
    suite.makeconftest(f"""{conftest}
import inspect

seen = {{}}

def pytest_resilience_fault_injected(nodeid, event):
    seen.setdefault(nodeid, set()).add(event.place.partition(" ")[0])

@pytest.fixture
def anyio_backend(request):
    return "asyncio"

@pytest.fixture
def expected(request):
    yield
    lines, first = inspect.getsourcelines(request.function)
    [number] = [at for at, line in enumerate(lines, first) if line.endswith("# here\\n")]
    assert seen[request.node.nodeid] == {{f"test_places.py:{{number}}"}}
""")
    suite.makepyfile(test_places=PLACES)
    (suite.path / "bin").mkdir()
    program = suite.path / "bin" / "pytest"
    program.write_text(
        "import sys, pytest\nif __name__ == '__main__':\n    sys.exit(pytest.main())\n"
    )
    result = suite.run(
        sys.executable, program, "-p", "asyncio", "-p", "anyio.pytest_plugin", "-W", "ignore"
    )
    result.assert_outcomes(passed=6)

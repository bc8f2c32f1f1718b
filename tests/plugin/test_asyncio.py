"""Markers around code that brings asyncio along."""

from __future__ import annotations

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

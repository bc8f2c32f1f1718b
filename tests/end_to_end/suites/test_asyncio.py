"""Markers around code that brings asyncio along."""

from __future__ import annotations

import sys

import pytest

from tests.ahead import runs
from tests.suites import SERVER
from tests.suites import WITH_FREE_LOOPS


@runs(
    conftest=SERVER,
    test_it="""
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
                get(url, timeout=httpx.Timeout(60, connect=0.1))

        @pytest.mark.chaos("network_failure", mode="timeout", from_nth=2, intensity=1)
        def test_silent_when_asked(url):
            import httpx

            with pytest.raises(httpx.ReadTimeout):
                get(url, timeout=httpx.Timeout(60, read=0.1))
    """,
)
def test_a_marker_delays_and_silences_an_async_client(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=3)


@runs(
    loaded=(),
    conftest=WITH_FREE_LOOPS,
    test_it="""
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
    """,
)
def test_an_async_client_aimed_at_by_name(ran: pytest.RunResult) -> None:
    """Its names are resolved by another thread."""
    ran.assert_outcomes(passed=3, errors=1)


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


def test_a_place_is_the_line_that_awaits(with_free_loops: pytest.Pytester) -> None:
    """Whoever runs the loop, and whatever program has started pytest."""
    conftest = (with_free_loops.path / "conftest.py").read_text()
    with_free_loops.makeconftest(f"""{conftest}
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
    with_free_loops.makepyfile(test_places=PLACES)
    (with_free_loops.path / "bin").mkdir()
    program = with_free_loops.path / "bin" / "pytest"
    program.write_text(
        "import sys, pytest\nif __name__ == '__main__':\n    sys.exit(pytest.main())\n"
    )
    result = with_free_loops.run(
        sys.executable, program, "-p", "asyncio", "-p", "anyio.pytest_plugin", "-W", "ignore"
    )
    result.assert_outcomes(passed=6)


IN_A_LOOP = """
    import asyncio

    import pytest

    pytestmark = pytest.mark.asyncio

    async def get(url):
        _, _, port = url.rstrip("/").rpartition(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        answer = await reader.read()
        writer.close()
        return answer

    async def test_every_type_of_the_network(url, chaos):
        for mode in ("latency", "bandwidth", "dribble", "slow_close", "slow_dns"):
            given = {} if mode == "latency" else {"mode": mode}
            given |= {"bandwidth": "1MB"} if mode == "bandwidth" else {"delay": "1ms"}
            with chaos.network_latency(must_fire=False, **given):
                assert (await get(url)).endswith(b"ok")
        for mode in (
            "refuse", "reset", "lose_answer", "timeout", "partition", "dns", "dns_not_found",
            "truncate", "corrupt", "status", "malformed_json",
        ):
            with chaos.network_failure(mode=mode, rate=1, must_fire=False, duration="20ms"):
                try:
                    await get(url)
                except OSError:
                    pass

    async def test_a_partition_that_ends_with_its_block(url, chaos):
        _, _, port = url.rstrip("/").rpartition(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        with chaos.network_failure(mode="partition"):
            writer.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            await asyncio.sleep(0.01)
            writer.close()
        with pytest.raises(OSError):
            await writer.wait_closed()
            raise OSError

    async def test_what_is_polled_and_held_when_a_block_ends(url, chaos):
        import socket

        loop = asyncio.get_running_loop()
        _, _, port = url.rstrip("/").rpartition(":")
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", int(port)))
            with chaos.network_latency(delay=3600) as late:
                await loop.sock_sendall(sock, b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
                answer = asyncio.create_task(loop.sock_recv(sock, 1000))
                while not late.hits:
                    assert not answer.done(), answer
                    await asyncio.sleep(0.001)
                assert not answer.done(), answer
            assert (await answer).startswith(b"HTTP/1.1 200")

    async def test_services_and_databases(chaos, tmp_path):
        chaos.service("join", "shlex:join")
        import shlex

        with chaos.service_failure("join", exception=KeyError, rate=1), pytest.raises(KeyError):
            shlex.join([])
        with chaos.database_failure(must_fire=False), chaos.database_slowdown(must_fire=False):
            pass

    async def test_a_proxy(url, chaos_proxy):
        proxy = chaos_proxy(url.removeprefix("http://").rstrip("/"))
        assert (await get(proxy.listen)).endswith(b"ok")
        with proxy.inject("network_failure", mode="truncate", rate=1):
            assert not (await get(proxy.listen)).endswith(b"ok")
        with proxy.having("latency", latency=1):
            assert (await get(proxy.listen)).endswith(b"ok")
        proxy.close()

    async def test_a_monkey(url, chaos_monkey):
        from pytest_resilience import ChaosExperiment

        chaos_monkey.register_experiment(ChaosExperiment("slow", "network_latency", 1, delay=0.001))
        chaos_monkey.start_chaos_monkey()
        assert (await get(url)).endswith(b"ok")
        chaos_monkey.stop_chaos_monkey()
"""


@runs(
    *("-p", "asyncio", "-W", "ignore", "-x"),
    loaded=(),
    conftest=WITH_FREE_LOOPS,
    test_it=IN_A_LOOP,
)
def test_nothing_of_ours_blocks_a_loop(ran: pytest.RunResult) -> None:
    """In a process of its own, where nothing has been loaded before."""
    ran.assert_outcomes(passed=6)

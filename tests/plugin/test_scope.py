"""What a test is given serves that test alone, by `with` and by `async with`."""

from __future__ import annotations

import pytest


# What is tried when the test is over, and what it was given for that.
LATE = {
    "chaos": "with late.network_failure(mode='refuse'): pass",
    "chaos, asked for before": "with late.asked: pass",
    "chaos.inject": "late.inject('network_failure')",
    "chaos.service": "late.service('bank', '127.0.0.1:1')",
    "chaos.cpu_stress": "with late.cpu_stress(load=0.1, cores=1): pass",
    "chaos_proxy": "late('127.0.0.1:1')",
    "chaos_proxy.inject": "late.proxy.inject('network_failure')",
    "chaos_proxy.inject, asked for before": "with late.asked: pass",
    "chaos_proxy.add": "late.proxy.add('latency', latency=1)",
    "chaos_proxy.having": "with late.proxy.having('latency', latency=1): pass",
    "chaos_proxy.down": "with late.proxy.down(): pass",
    "chaos_proxy.in_environment": "with late.proxy.in_environment(): pass",
    "chaos_monkey": "late.start_chaos_monkey()",
    "chaos_monkey.register": "late.register_experiment(ChaosExperiment('x', 'network_latency'))",
    "chaos_responses": "late.get('http://a.test/', chaos='network_failure:mode=refuse')",
    "sqlite_chaos.locked": "with late.locked('shop.db'): pass",
    "sqlite_chaos.full": "with late.full(late.connection): pass",
    "sqlite_chaos.interrupted": "with late.interrupted(late.connection): pass",
    "sqlite_chaos.read_only": "with late.read_only(late.connection): pass",
    "postgres_chaos": "late('postgresql://127.0.0.1:1/app')",
}


@pytest.mark.parametrize("what", LATE)
def test_what_begins_after_its_test_is_refused(suite: pytest.Pytester, what: str) -> None:
    fixture = what.replace(",", ".").partition(".")[0]
    suite.makepyfile(f"""
        import sqlite3
        import types

        import pytest
        import requests

        from pytest_resilience import ChaosExperiment
        from pytest_resilience import ShutdownError

        kept = []

        def test_one({fixture}):
            given = {fixture}
            if "{what}" == "chaos, asked for before":
                given = types.SimpleNamespace(
                    asked=chaos.network_failure(mode="refuse", must_fire=False)
                )
            if "{what}".startswith("chaos_proxy."):
                proxy = {fixture}("127.0.0.1:1")
                asked = proxy.inject("network_failure", must_fire=False)
                given = types.SimpleNamespace(proxy=proxy, asked=asked)
            if "{fixture}" == "sqlite_chaos":
                given.connection = sqlite3.connect(":memory:")
            kept.append(given)

        def test_another(url, pytestconfig):
            (late,) = kept
            with pytest.raises(ShutdownError) as caught:
                {LATE[what]}
            assert "the chaos of {{}} is over".format(
                "test_what_begins_after_its_test_is_refused.py::test_one"
            ) in str(caught.value)
            requests.get(url, timeout=5)
            if "{fixture}" == "sqlite_chaos":
                late.connection.close()
    """)
    suite.runpytest().assert_outcomes(passed=2)


def test_a_thread_that_is_left_over_hits_nobody(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import threading

        import requests

        from pytest_resilience import ShutdownError

        over = threading.Event()
        caught = []

        def late(chaos):
            over.wait(60)
            try:
                with chaos.network_failure(mode="refuse", must_fire=False):
                    over.wait(60)
            except ShutdownError as error:
                caught.append(error)

        thread = None

        def test_one(chaos):
            global thread
            thread = threading.Thread(target=late, args=(chaos,))
            thread.start()

        def test_another(url):
            over.set()
            thread.join(60)
            requests.get(url, timeout=5)
            assert len(caught) == 1
    """)
    suite.runpytest().assert_outcomes(passed=2)


def test_every_context_is_for_async_with_too(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import asyncio
        import os
        import socket
        import sqlite3

        import pytest

        async def ask(url):
            host, port = url.removeprefix("http://").strip("/").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.close()

        def test_chaos(url, chaos):
            async def main():
                async with chaos.network_failure(mode="refuse") as refusal:
                    with pytest.raises(ConnectionRefusedError):
                        await ask(url)
                assert refusal.hits == 1
                await ask(url)
                async with chaos.network_latency(delay="1ms"), chaos.inject(
                    "network_failure", mode="dns", must_fire=False
                ):
                    await ask(url)
                async with chaos.cpu_stress(load=0.1, cores=1) as busy:
                    assert busy.hits == 1
                async with chaos.fd_exhaustion(leave=0), chaos.thread_exhaustion():
                    with pytest.raises(OSError, match="Too many open files"):
                        os.open(os.devnull, os.O_RDONLY)

            asyncio.run(main())

        def test_proxy(url, chaos_proxy, monkeypatch):
            monkeypatch.setenv("SHOP_URL", url)

            async def main():
                proxy = chaos_proxy(url.removeprefix("http://").strip("/"))
                async with proxy.inject("network_failure", mode="refuse", must_fire=False):
                    pass
                async with proxy.having("latency", latency=1), proxy.in_environment("SHOP_URL"):
                    assert os.environ["SHOP_URL"].endswith(f"{proxy.port}/")
                async with proxy.down():
                    assert not proxy.enabled
                async with proxy:
                    pass

            asyncio.run(main())

        def test_sqlite(sqlite_chaos, tmp_path):
            async def main():
                connection = sqlite3.connect(tmp_path / "shop.db", timeout=0)
                async with sqlite_chaos.read_only(connection), sqlite_chaos.full(connection):
                    pass
                async with sqlite_chaos.locked(tmp_path / "shop.db"):
                    with pytest.raises(sqlite3.OperationalError, match="locked"):
                        connection.execute("CREATE TABLE t (a)")
                connection.close()

            asyncio.run(main())

        def test_monkey(chaos_monkey):
            async def main():
                async with chaos_monkey as monkey:
                    assert monkey.running
                assert not monkey.running

            asyncio.run(main())
    """)
    suite.runpytest("-Werror").assert_outcomes(passed=4)


def test_an_environment_that_leads_to_a_proxy_ends_with_it(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import os

        kept = []

        def test_one(chaos_proxy):
            kept.append(chaos_proxy("127.0.0.1:1").in_environment())
            kept[0].__enter__()  # and what would leave it is left over
            assert os.environ["PGHOST"] == "127.0.0.1"

        def test_another():
            assert "PGHOST" not in os.environ
            kept[0].__exit__(None, None, None)
            assert "PGHOST" not in os.environ
    """)
    suite.runpytest().assert_outcomes(passed=2)


def test_the_traceback_of_a_set_up_that_fails_is_that_of_the_user(suite: pytest.Pytester) -> None:
    suite.makeconftest("""
        import pytest

        @pytest.fixture
        def broken():
            raise OSError("no server")
    """)
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("network_failure")
        def test_one(broken):
            pass
    """)
    result = suite.runpytest("--tb=short")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["conftest.py:5: in broken", "E   OSError: no server"])
    result.stdout.no_fnmatch_line("*pytest_resilience/plugin*")

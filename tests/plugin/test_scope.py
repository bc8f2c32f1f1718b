"""What a test is given serves that test alone, by `with` and by `async with`."""

from __future__ import annotations

import pytest

from tests.ahead import runs


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


def test_a_marker_that_matched_nothing_is_an_error(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.chaos("network_failure", mode="reset", target="payments.internal:443")
        def test_elsewhere(url):
            requests.get(url, timeout=5)
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*target payments.internal:443) never fired: nothing went to its target, so this *",
            "  The code did:",
            "    network.connect 127.0.0.1:*",
            "  It hits network.handshake, network.receive. Correct the target or the fault, or *",
        ]
    )


def test_a_trigger_that_chose_none_is_an_error_with_what_there_was_to_choose(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        def ask(url):
            with requests.Session() as session:
                for _ in range(3):
                    session.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", mode="reset", nth=5)
        def test_marker(url):
            ask(url)

        def test_fixture(url, chaos):
            with chaos.network_latency(delay=1, between=(3600, 3601), duration=7200):
                ask(url)

        def test_reply(chaos_responses):
            chaos_responses.get(
                "http://shop/", chaos="network_failure:mode=refuse,nth=2", body="ok"
            )
            assert requests.get("http://shop/", timeout=5).text == "ok"

        @pytest.mark.chaos("network_failure", mode="reset", nth=5, must_fire=False)
        @pytest.mark.chaos("network_failure", mode="reset", rate=0)
        @pytest.mark.chaos("network_latency", intensity=0, nth=5)
        def test_allowed(url):
            ask(url)
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=4, errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "*never fired: its trigger chose none of the operations that matched (number 5), so *",
            "  It counted:",
            "    1-3 network.receive 127.0.0.1:*",
            "  Choose some of these, which pytest --chaos-operations shows for any test, or say *",
            "    1 network.connect 127.0.0.1:* at 0.??? s",
            "    2-4 network.receive 127.0.0.1:* at 0.???..0.??? s",
            "    1 network.connect shop:80#1 GET /*",
            "network_failure: reset, number 5, target any [[]marker] - 2 tests, matched 6, hit 0",
        ]
    )


def test_a_flag_whose_trigger_chose_none_is_no_error(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import requests

        def test_request(url):
            requests.get(url, timeout=5)
    """)
    result = suite.runpytest("--chaos=network_failure:mode=refuse,nth=9")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["network_failure: *, number 9, * - 1 test, matched 1, hit 0"])


def test_a_test_without_any_operation_is_told_so(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("network_latency")
        def test_nothing():
            pass
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*never fired: the code did nothing that this fault could hit, so this test proves *",
            "See https://*/messages/#the-code-did-nothing-that-this-fault-could-hit",
            "ERROR *::test_nothing - never fired: the code did nothing that this fault could hit",
        ]
    )


def test_a_fixture_that_matched_nothing_is_an_error(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        def test_nothing(chaos):
            with chaos.network_latency(delay=1):
                pass
    """)
    suite.runpytest().assert_outcomes(passed=1, errors=1)


def test_a_context_that_nobody_entered_is_an_error(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        def test_forgotten(chaos):
            chaos.network_latency(delay=1)
            chaos.network_latency(delay=1, must_fire=False)
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "* never fired: it was asked for, and no with entered it, so this test proves nothing.",
            "  Write `with` before it, around what it is to happen to.",
        ]
    )
    suite.runpytest("--no-chaos").assert_outcomes(passed=1)


def test_a_proxys_context_that_nobody_entered_is_an_error(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        def test_forgotten(chaos_proxy, url):
            proxy = chaos_proxy(url.split("/")[2])
            proxy.inject("network_failure", mode="reset")
            proxy.inject("network_failure", mode="reset", must_fire=False)
            with proxy.inject("network_failure", mode="refuse", rate=1):
                pass
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["* never fired: it was asked for, and no with entered it, *"])
    suite.runpytest("--no-chaos").assert_outcomes(passed=1)


def test_a_failed_test_is_told_what_never_fired(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        def test_retries(url, chaos):
            with chaos.network_failure(mode="reset", target="payments.internal"):
                with pytest.raises(requests.ConnectionError):
                    requests.get(url, timeout=5)
    """)
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Failed: DID NOT RAISE*",
            "*- chaos -*",
            "chaos experiment 'network_failure' (*target payments.internal) never fired: *",
            "    network.connect 127.0.0.1:*",
        ]
    )


@pytest.mark.parametrize("decorators", ["@pytest.mark.xfail(strict=True)", "@pytest.mark.xfail"])
def test_xfail_is_no_excuse(suite: pytest.Pytester, decorators: str) -> None:
    """It failed as expected, but not for the expected reason."""
    suite.makepyfile(f"""
        import pytest

        {decorators}
        @pytest.mark.chaos("network_latency")
        def test_wrong_reason():
            raise AssertionError
    """)
    suite.runpytest().assert_outcomes(xfailed=1, errors=1)


def test_must_fire_false_allows_it(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("network_latency", must_fire=False)
        def test_marker(chaos):
            with chaos.network_failure(must_fire=False):
                pass
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_a_failed_or_skipped_test_is_not_blamed_twice(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("network_latency")
        def test_failed():
            raise AssertionError

        @pytest.mark.chaos("network_latency")
        def test_skipped():
            pytest.skip("not today")
    """)
    suite.runpytest().assert_outcomes(failed=1, skipped=1)


def test_a_flag_that_matched_nothing_is_a_line_in_the_summary(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_nothing(): pass")
    result = suite.runpytest("--chaos", "network_latency:target=nowhere")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["network_latency: * target nowhere * never fired: nothing matched"]
    )


def test_several_that_never_fired_are_all_named(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("network_latency", name="one")
        @pytest.mark.chaos("network_failure", name="two")
        def test_nothing():
            pass
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines_random(["*'one' * never fired*", "*'two' * never fired*"])


FAR_AWAY = """
    import DRIVER
    import pytest

    @pytest.mark.chaos("network_latency", delay="1ms")
    def test_far_away():
        with pytest.raises(DRIVER.OperationalError):  # nobody is there
            DRIVER.connect("postgresql://app@127.0.0.1:9/app?connect_timeout=5")
"""


WITHOUT = ("-o", "chaos_native=false")


@pytest.mark.parametrize(
    "driver",
    [
        pytest.param(each, marks=runs(*WITHOUT, test_it=FAR_AWAY.replace("DRIVER", each)))
        for each in ("psycopg", "psycopg2")
    ],
)
def test_a_connection_made_in_c_is_told_of_the_proxy(driver: str, ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1, errors=1)
    ran.stdout.fnmatch_lines(
        [
            "*'network_latency' (*target any) never fired: the client connects in C, *",
            "  The code did:",
            f"    network.connect 127.0.0.1:9 (by {driver} through libpq, which is C)",
            f"  {driver} connected to 127.0.0.1:9 * (chaos_native is false): *chaos_proxy(*",
        ]
    )

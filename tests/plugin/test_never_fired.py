from __future__ import annotations

import pytest

from tests.ahead import runs


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

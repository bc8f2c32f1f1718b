"""The fixture `chaos_proxy` in a suite."""

from __future__ import annotations

import pytest


def test_a_proxy_for_a_test(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import threading

        import pytest
        import requests

        def get(proxy):
            return requests.get(f"http://{proxy.host}:{proxy.port}/", timeout=5).text

        def test_faults_on_the_way(chaos_proxy, chaos, url):
            proxy = chaos_proxy(url.removeprefix("http://").rstrip("/"))
            assert get(proxy) == "ok"
            with proxy.inject("network_failure", mode="reset", rate=1) as lost:
                with pytest.raises(requests.ConnectionError):
                    get(proxy)
            assert lost.hits >= 1
            assert [event.source for event in chaos.events]
            assert get(proxy) == "ok"

        def test_all_are_closed():
            assert not any("proxy" in thread.name for thread in threading.enumerate())
    """)
    result = suite.runpytest("-p", "no:randomly")
    result.assert_outcomes(passed=2)


def test_services_of_the_test_can_be_named(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import requests

        def test_busy(chaos_proxy, chaos, url):
            upstream = url.removeprefix("http://").rstrip("/")
            chaos.service("prices", upstream)
            proxy = chaos_proxy(upstream)
            with proxy.inject(
                "service_failure", target_services="prices", mode="status", status=429, rate=1
            ):
                answer = requests.get(f"http://{proxy.listen}/", timeout=5)
            assert answer.status_code == 429
            assert [event.fault for event in chaos.events] == ["status 429"]
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_a_calm_run_starts_no_experiment(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import requests

        def test_refused(chaos_proxy, url):
            proxy = chaos_proxy(url.removeprefix("http://").rstrip("/"))
            with proxy.inject("network_failure", mode="refuse", rate=1):
                assert requests.get(f"http://{proxy.listen}/", timeout=5).text == "ok"
    """)
    suite.runpytest("--no-chaos").assert_outcomes(passed=1)
    suite.runpytest().assert_outcomes(failed=1)


def test_one_that_never_fires_fails_where_it_ends(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        def test_nothing(chaos_proxy):
            with chaos_proxy("127.0.0.1:9").inject("network_latency"):
                pass
    """)
    result = suite.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("chaos experiment 'network_latency' (*, target any) never fired: *")


def test_proxies_of_workers_do_not_meet(suite: pytest.Pytester) -> None:
    """Each test has its own, on a port of its own, closed with the test whatever happened."""
    suite.makepyfile("""
        import os
        import socket
        import threading

        import pytest
        import requests

        @pytest.mark.parametrize("number", range(8))
        def test_own(chaos_proxy, url, number):
            proxy = chaos_proxy(url.removeprefix("http://").rstrip("/"))
            proxy.add("latency", latency=1)
            requests.get(f"http://{proxy.listen}/", timeout=20)
            assert proxy.accepted == 1
            if number % 2:
                raise AssertionError("and nobody closes it")

        def test_interrupted(chaos_proxy):
            chaos_proxy("127.0.0.1:9").disable()
            pytest.skip("enough")
    """)
    pytest.importorskip("xdist")
    result = suite.runpytest_subprocess("-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=4, failed=4, skipped=1)


def test_an_interrupted_run_ends(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import socket

        def test_interrupted(chaos_proxy):
            proxy = chaos_proxy("127.0.0.1:9")
            client = socket.create_connection(proxy.address)
            with proxy.inject("network_failure", mode="timeout", rate=1, must_fire=False):
                raise KeyboardInterrupt
    """)
    result = suite.runpytest_subprocess(timeout=60)
    assert result.ret == pytest.ExitCode.INTERRUPTED

from __future__ import annotations

import pytest


def test_faults_for_parts_of_a_test(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import time

        import pytest
        import requests

        from pytest_resilience import ChaosExperiment, ChaosType

        def test_parts(url, chaos):
            session = requests.Session()
            session.get(url, timeout=5)
            with chaos.network_failure(mode="reset", rate=1) as lost:
                with pytest.raises(requests.ConnectionError):
                    session.get(url, timeout=5)
            assert session.get(url, timeout=5).text == "ok"
            with chaos.network_latency(delay=0.02) as slow:
                started = time.monotonic()
                session.get(url, timeout=5)
                assert time.monotonic() - started >= 0.02
            gone = ChaosExperiment("gone", ChaosType.NETWORK_FAILURE, probability=0, rate=1)
            with chaos.inject(gone), pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)  # injected for certain, whatever its probability
            with chaos.inject("network_latency", delay="1ms"):
                session.get(url, timeout=5)

            assert (lost.matched, lost.hits, slow.matched, slow.hits) == (1, 1, 1, 1)
            assert chaos.matched == chaos.hits == 4
            assert [event.source for event in chaos.events] == [
                "network_failure", "network_latency", "gone", "network_latency"
            ]
            first = chaos.events[0]
            assert (first.kind, first.fault, first.number) == ("network.receive", "reset", 1)
            assert "test_faults_for_parts_of_a_test.py" in first.place
            session.close()
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_contexts_nest_and_overlap(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import requests

        def test_overlap(url, chaos):
            with requests.Session() as session:
                session.get(url, timeout=5)
                one, two = chaos.network_latency(delay=0.001), chaos.network_latency(delay=0.002)
                first = one.__enter__()
                session.get(url, timeout=5)
                second = two.__enter__()
                session.get(url, timeout=5)
                one.__exit__(None, None, None)
                session.get(url, timeout=5)
                two.__exit__(None, None, None)
                session.get(url, timeout=5)
                assert (first.hits, second.hits) == (2, 2)
                assert [event.delay for event in chaos.events] == [0.001, 0.001, 0.002, 0.002]
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_nonsense_is_refused_before_anything_starts(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        from pytest_resilience import ChaosExperiment, ConfigurationError

        def test_refused(chaos, chaos_responses):
            with pytest.raises(ConfigurationError, match="must_fire='no': give True or False"):
                chaos.network_latency(must_fire="no")
            with pytest.raises(ConfigurationError, match="must_fire=0: give True or False"):
                chaos_responses.get("http://x.test/", chaos="network_latency", must_fire=0)
            with pytest.raises(ConfigurationError, match="did you mean 'delay'"):
                chaos.network_latency(dely=1)
            with pytest.raises(ConfigurationError, match="has its own"):
                chaos.inject(ChaosExperiment("x", "network_latency"), delay=1)
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_asked_for_by_getfixturevalue(suite: pytest.Pytester) -> None:
    """No item asks for chaos at collection, and yet it works and is undone."""
    suite.makepyfile("""
        import socket

        import pytest
        import requests

        before = dict(vars(socket.socket))

        def test_late(url, request):
            chaos = request.getfixturevalue("chaos")
            with chaos.network_failure(rate=1), pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)

        def test_undone():
            assert dict(vars(socket.socket)) == before
    """)
    suite.runpytest().assert_outcomes(passed=2)


def test_a_calm_run_gives_contexts_that_do_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import requests

        def test_calm(url, chaos):
            with chaos.network_failure(rate=1) as failure:
                assert requests.get(url, timeout=5).text == "ok"
            assert failure.hits == chaos.hits == 0
    """)
    suite.runpytest("--no-chaos").assert_outcomes(passed=1)


def test_a_traceback_shows_nothing_of_ours(suite: pytest.Pytester) -> None:
    """Neither of what is injected nor of what really fails while something is."""
    suite.makepyfile("""
        import pytest
        import socket

        @pytest.fixture
        def nobody():
            with socket.create_server(("127.0.0.1", 0)) as server:
                address = server.getsockname()
            return address

        def test_real(chaos, nobody):
            with chaos.network_latency(delay="1ms"):
                socket.create_connection(nobody)

        def test_injected(chaos, nobody):
            with chaos.network_failure(rate=1):
                socket.create_connection(nobody)
    """)
    result = suite.runpytest()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["E *ConnectionRefusedError: *"])
    result.stdout.no_fnmatch_line("*pytest_resilience/*")

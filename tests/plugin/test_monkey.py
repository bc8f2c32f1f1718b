from __future__ import annotations

import pytest


PROFILE = """
[profiles.wild]
seed = 5
interval = 3600

[[profiles.wild.experiments]]
name = "outage"
chaos_type = "network_failure"
rate = 1
probability = {chance}
duration = "1h"
"""


def test_a_monkey_for_one_test(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        from pytest_resilience import ChaosExperiment

        def test_outage(chaos, chaos_monkey, manual_clock, url):
            chaos_monkey.register_experiment(
                ChaosExperiment("outage", "network_failure", 1.0, 30.0, 1.0)
            )
            assert requests.get(url, timeout=5).text == "ok"
            chaos_monkey.start_chaos_monkey(60)
            chaos_monkey.tick()
            assert list(chaos_monkey.get_active_experiments()) == ["outage"]
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
            manual_clock.advance(31)
            chaos_monkey.tick()
            assert requests.get(url, timeout=5).text == "ok"
            assert [event.source for event in chaos.events] == ["outage"]
            manual_clock.advance(30)
            chaos_monkey.tick()
            assert chaos_monkey.running

        def test_it_has_ended(url):
            assert requests.get(url, timeout=5).text == "ok"

        def test_its_thread_too(chaos_monkey):
            chaos_monkey.start_chaos_monkey(60)

        def test_is_gone():
            import threading

            for thread in threading.enumerate():
                if "monkey" in thread.name:
                    thread.join(10)
                    assert not thread.is_alive()
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines("outage: refusal, *[[]monkey]*matched 1, hit 1*")


def test_the_same_seed_makes_the_same_monkey(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        def test_seed(chaos_monkey):
            print("its seed:", chaos_monkey.seed)
            assert 0
    """)

    def seeds(seed: int) -> list[str]:
        lines = suite.runpytest(f"--chaos-seed={seed}").outlines
        return [line for line in lines if line.startswith("its seed: ")]

    assert seeds(1) == seeds(1) != seeds(2)


def test_calm_runs_have_none(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import requests

        from pytest_resilience import ChaosExperiment

        def test_outage(chaos_monkey, manual_clock, url):
            chaos_monkey.register_experiment(
                ChaosExperiment("outage", "network_failure", 1.0, 30.0, 1.0)
            )
            chaos_monkey.start_chaos_monkey(60)
            chaos_monkey.tick()
            assert requests.get(url, timeout=5).text == "ok"
    """)
    suite.runpytest("--no-chaos").assert_outcomes(passed=1)


SUITE = """
    import pytest
    import requests

    @pytest.fixture
    def before(url):
        assert requests.get(url, timeout=5).text == "ok"
        yield
        assert requests.get(url, timeout=5).text == "ok"

    def test_first(before, url):
        requests.get(url, timeout=5)

    def test_second(before, url):
        requests.get(url, timeout=5)
"""


@pytest.mark.parametrize("workers", [[], ["-n1"]])
def test_monkeys_of_the_run_hit_the_tests_and_not_their_fixtures(
    suite: pytest.Pytester, workers: list[str]
) -> None:
    suite.makefile(".toml", chaos=PROFILE.format(chance=1))
    suite.makepyfile(SUITE)
    if workers:
        pytest.importorskip("xdist")
        workers += ["-p", "xdist"]
    result = suite.runpytest("--chaos-monkey=chaos.toml:wild", *workers)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "outage: refusal, always, target any [[]monkey] - 2 tests, matched 2, hit 2",
            "repeat: pytest *::test_first --chaos-seed=5 --chaos-monkey=chaos.toml:wild",
        ]
    )


def test_what_chance_does_not_start_hits_nobody(suite: pytest.Pytester) -> None:
    suite.makefile(".toml", chaos=PROFILE.format(chance=0))
    suite.makepyfile(SUITE)
    result = suite.runpytest("--chaos-monkey=chaos.toml:wild")
    result.assert_outcomes(passed=2)
    suite.runpytest("--chaos-monkey=chaos.toml:wild", "--collect-only").assert_outcomes()

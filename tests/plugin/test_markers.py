"""What tests ask for by markers; and `mark` is `pytest.mark`, with types that know each."""

from __future__ import annotations

import inspect
import re

import pytest

from pytest_resilience import mark
from pytest_resilience.plugin.exploration import settings
from pytest_resilience.plugin.markers import Marks
from tests.suites import SERVER


NAMES = {name for name in vars(Marks) if not name.startswith("_")} | Marks.__annotations__.keys()


def test_latency_holds_up_connecting_and_each_answer(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import time

        import pytest
        import requests

        @pytest.mark.chaos("network_latency", delay="40ms", target="127.0.0.1:*")
        def test_slow(url):
            started = time.monotonic()
            assert requests.get(url, timeout=5).text == "ok"
            assert time.monotonic() - started >= 0.08

        @pytest.mark.chaos("network_latency", delay="10m")
        def test_the_clients_own_timeout_fires(url):
            started = time.monotonic()
            with pytest.raises(requests.exceptions.ConnectTimeout):
                requests.get(url, timeout=0.05)
            assert 0.05 <= time.monotonic() - started < 600
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "network_latency: latency 40ms, always, target 127.0.0.1:* 1 test, matched 2, hit 2, *",
        ]
    )


@pytest.mark.parametrize(
    ("marker", "error"),
    [
        ('"network_failure", mode="refuse", rate=1', "requests.exceptions.ConnectionError"),
        ('ChaosType.NETWORK_FAILURE, mode="reset", intensity=1.0', "requests.ConnectionError"),
        ('"network_failure", mode="timeout", rate="100%"', "requests.exceptions.ConnectTimeout"),
        (
            'ChaosExperiment("gone", ChaosType.NETWORK_FAILURE, probability=1, rate=1)',
            "requests.ConnectionError",
        ),
    ],
)
def test_every_way_to_write_it(suite: pytest.Pytester, marker: str, error: str) -> None:
    suite.makepyfile(f"""
        import pytest
        import requests

        from pytest_resilience import ChaosExperiment, ChaosType

        @pytest.mark.chaos({marker})
        def test_fails(url):
            with pytest.raises({error}):
                requests.get(url, timeout=0.1)
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_on_functions_classes_and_modules_and_stacked(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        pytestmark = pytest.mark.chaos("network_latency", delay="1ms", name="module")

        @pytest.mark.chaos("network_latency", delay="2ms", name="class")
        class TestStacked:
            @pytest.mark.chaos("network_latency", delay="3ms", name="upper")
            @pytest.mark.chaos("network_latency", delay="4ms", name="lower")
            def test_all(self, url, chaos):
                requests.get(url, timeout=5)
                connect = [event.source for event in chaos.events if "connect" in event.kind]
                assert connect == ["module", "class", "upper", "lower"]
                assert chaos.matched == chaos.hits == 8
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_active_in_the_call_phase_alone(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.fixture
        def around(url):
            requests.get(url, timeout=5)
            yield
            requests.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", rate=1)
        def test_call(url, around):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_include_setup_widens_it_to_the_fixtures(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.fixture
        def around(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
            yield
            requests.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", rate=1, include_setup=True)
        def test_setup_and_call(url, around, chaos):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
            assert chaos.hits == 2
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_no_chaos_exempts_a_test(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        pytestmark = pytest.mark.chaos("network_failure", rate=1)

        @pytest.mark.no_chaos
        def test_calm(url):
            assert requests.get(url, timeout=5).text == "ok"
    """)
    result = suite.runpytest("--chaos", "network_failure:rate=1")
    result.assert_outcomes(passed=1)


def test_an_experiment_starts_with_its_probability(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        from pytest_resilience import ChaosExperiment, ChaosType

        never = ChaosExperiment("never", ChaosType.NETWORK_FAILURE, probability=0)
        off = ChaosExperiment("off", ChaosType.NETWORK_FAILURE, probability=1, enabled=False)

        @pytest.mark.chaos(never)
        @pytest.mark.chaos(off)
        def test_calm():
            pass  # and nothing has to fire that did not start
    """)
    result = suite.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["never: refusal, * - 0 tests, not started in 1 (chance), *"])


def test_async_and_unittest_tests_are_covered(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import unittest

        import pytest
        import requests

        @pytest.mark.chaos("network_failure", rate=1)
        class TestOld(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _url(self, url):
                self.url = url

            def test_refused(self):
                with self.assertRaises(requests.ConnectionError):
                    requests.get(self.url, timeout=5)
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_markers_are_described(pytester: pytest.Pytester) -> None:
    """In a list whose first lines say what for; what each can be given stands below."""
    shown = pytester.runpytest("--markers").stdout.lines
    ours = re.compile(r"@pytest\.mark\.((no_)?chaos|resilience|(no_)?virtual_time)")
    first = [line for line in shown if ours.match(line)]
    assert len(first) == 7
    for line in first:
        signature, _, meaning = line.partition(": ")
        assert meaning.endswith((".", "; stackable.")), line
        assert len(meaning) <= 80, line
        below = shown[shown.index(line) + 1]
        assert below.startswith("    ") is ("(" in signature), line


def test_markers_are_known_to_strict_runs(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("network_failure", must_fire=False)
        @pytest.mark.no_chaos
        def test_known():
            pass
    """)
    suite.runpytest("--strict-markers").assert_outcomes(passed=1)


def test_marks_that_a_conftest_adds_count(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        conftest=SERVER
        + """
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.chaos("network_failure", rate=1))
"""
    )
    suite.makepyfile("""
        import pytest
        import requests

        def test_refused(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
    """)
    suite.runpytest().assert_outcomes(passed=1)


def test_deselected_markers_leave_the_run_quiet(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.chaos("network_failure")
        def test_chaotic():
            pass

        def test_plain():
            pass
    """)
    result = suite.runpytest("-k", "plain")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.no_fnmatch_line("*chaos*")


def test_doctests_run_under_the_flags(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def connect(port):
            '''
            >>> connect(1)  # whoever listens there
            'refused'
            '''
            import socket
            try:
                socket.create_connection(("127.0.0.1", port))
            except ConnectionRefusedError:
                return "refused"
    """)
    result = pytester.runpytest("--doctest-modules", "--chaos=network_failure:rate=1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["* 1 test, matched 1, hit 1"])


def test_mark_is_that_of_pytest() -> None:
    assert mark is pytest.mark


def test_every_marker_has_its_type(pytestconfig: pytest.Config) -> None:
    lines = [re.split(r"\W", line, maxsplit=1)[0] for line in pytestconfig.getini("markers")]
    ours = {name for name in lines if name.removeprefix("no_") in NAMES or "chaos" in name}
    assert ours == NAMES


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("chaos_explore", set(settings._EXPLORE_KEYS)),
        ("resilience", {"allowed", "deadline", "own_chaos"}),
        ("virtual_time", {"start", "schedule"}),
    ],
)
def test_the_keywords_of_a_type_are_those_that_are_read(name: str, keywords: set[str]) -> None:
    assert inspect.signature(getattr(Marks, name)).parameters.keys() - {"self"} == keywords

"""What tests ask for by markers; and `mark` is `pytest.mark`, with types that know each."""

from __future__ import annotations

import inspect
import re

import pytest

from pytest_resilience import mark
from pytest_resilience.plugin.exploration import settings
from pytest_resilience.plugin.markers import Marks
from tests.ahead import runs
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


XDIST = ("-p", "xdist", "-n2")

MARKED = """\
import pytest

def test_innocent():
    pytest.exit("a test ran")

@pytest.mark.{marker}
def test_marked():
    pass
"""


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('chaos("network_latncy")', "unknown chaos type 'network_latncy' (did you mean *"),
        ('chaos("network_latency", dely=1)', "unknown parameter 'dely' (did you mean 'delay'?)*"),
        ('chaos("network_latency", delay="5 parsecs")', "*'parsecs' is no unit of time*"),
        (
            'chaos("network_latency", delay=-1)',
            "delay=-1: a duration is finite and not negative; *",
        ),
        ('chaos("network_latency", delay=float("nan"))', "delay=nan: a duration is finite*"),
        ('chaos("network_failure", rate=1.5)', "rate=1.5 is outside 0..1; *"),
        ('chaos("network_failure", mode="refused")', "*(did you mean 'refuse'?)*"),
        ('chaos("network_failure", target="http://x/")', "*cannot match anything: a URL; *"),
        ('chaos("network_failure", must_fire=1)', "must_fire=1: give True or False"),
        ("chaos()", "chaos takes one chaos type or ChaosExperiment, *not 0 arguments; *"),
        ("chaos", "chaos takes one chaos type or ChaosExperiment, *not 0 arguments; *"),
        ("chaos('network_latency', target={'a': 1})", "target {'a': 1} is not a text*"),
        ("chaos('disk_failure', path={'a': 1})", "path={'a': 1}: give a glob*"),
        ("chaos('service_failure', target_services={'a': 1})", "target_services={'a': 1}: give*"),
        ("chaos('cpu_stress', load=0)", "load=0: that is no stress at all; give more"),
        ("chaos('network_latency', delay=10**5000)", "delay=*: a duration is finite*"),
        ("chaos('network_failure', nth=10**5000)", "nth=*"),
        (
            "chaos('network_latency', name='a\\nb')",
            "name='a\\nb': an experiment has*",
        ),
        (
            "resilience(1)",
            "resilience takes allowed=, deadline= and own_chaos=, each by its name, not 1",
        ),
        ("resilience(allow=[])", "resilience takes allowed=, deadline= and own_chaos=, not allow"),
        ('resilience(own_chaos="yes")', "own_chaos='yes': give True or False"),
        ("resilience(allowed=[1])", "allowed=[[]1]: give exception types in a list"),
        ("resilience(deadline='soon')", "deadline='soon' is no quantity; *"),
        ("resilience(deadline=0)", "deadline=0: give more than nothing*"),
        ("no_chaos(1)", "no_chaos takes nothing; write @pytest.mark.no_chaos"),
        ("no_chaos(reason='slow')", "no_chaos takes nothing; write @pytest.mark.no_chaos"),
    ],
)
def test_a_bad_marker_ends_the_run_before_any_test(
    pytester: pytest.Pytester, marker: str, message: str
) -> None:
    pytester.makepyfile(MARKED.format(marker=marker))
    result = pytester.runpytest()
    assert_ended_before_any_test(result)
    result.stderr.fnmatch_lines([f"*.py:6: {message}"])


@runs(*XDIST, test_it=MARKED.format(marker="no_chaos(1)"))
def test_bad_markers_that_start_no_chaos_end_a_run_under_xdist_too(ran: pytest.RunResult) -> None:
    assert_ended_before_any_test(ran)
    ran.stdout.fnmatch_lines(["ERROR: *.py:6: no_chaos takes nothing; *"])


@runs(*XDIST, test_it=MARKED.format(marker='chaos("network_latency", dely=1)'))
def test_a_bad_marker_ends_a_run_under_xdist(ran: pytest.RunResult) -> None:
    assert_ended_before_any_test(ran)
    ran.stdout.fnmatch_lines(["ERROR: *.py:6: unknown parameter 'dely' *"])


def assert_ended_before_any_test(result: pytest.RunResult) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [*result.outlines, *result.errlines]
    assert not any("Traceback" in line or "INTERNALERROR" in line for line in lines)


def test_every_bad_marker_is_named_with_its_own_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        pytestmark = [
            pytest.mark.chaos("network_latency"),
            pytest.mark.chaos("network_latency", delay="1y"),
        ]

        @pytest.mark.chaos("network_latency", rate=2)
        @pytest.mark.chaos("network_latency", rate=3)
        class TestA:
            pytestmark = pytest.mark.chaos("network_latency", rate=4)

            @pytest.mark.parametrize("x", [1, 2])
            @pytest.mark.chaos("network_latency", rate=5)
            def test_a(self, x):
                pass

            @pytest.mark.chaos("network_latency", rate=6)
            @pytest.mark.chaos("network_latency")
            @pytest.mark.chaos("network_latency", rate=7)
            async def test_b(self):
                pass
    """)
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    places = sorted(
        (int(line.split(":")[1]), line.split(": ", 1)[1].split(" is ")[0].split(":")[0])
        for line in "\n".join(result.errlines).replace("ERROR: ", "").splitlines()
        if ".py:" in line
    )
    assert places == [
        (5, "delay='1y'"),
        (8, "rate=2"),
        (9, "rate=3"),
        (11, "rate=4"),
        (14, "rate=5"),
        (18, "rate=6"),
        (20, "rate=7"),
    ]


def test_a_mark_made_elsewhere_is_placed_at_what_it_marks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        slow = pytest.mark.chaos("network_latency", rate=2)

        @slow
        def test_a():
            pass
    """)
    result = pytester.runpytest()
    result.stderr.fnmatch_lines(["*test_a_mark_made_elsewhere*.py:5: rate=2 is outside 0..1*"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chaos=nope"], "--chaos=nope: unknown chaos type 'nope'; known: network_latency, *"),
        (["--chaos", ":delay=1"], "--chaos=:delay=1: * names no chaos type*"),
        (["--chaos=network_latency,delay=1s"], "* names no chaos type; write it as 'network_la*"),
        (["--chaos=network_latency delay=1s"], "* names no chaos type; write it as 'network_la*"),
        (["--chaos=network_latency:delay"], "*'delay' is not name=value*"),
        (["--chaos=network_latency:delay=1,delay=2"], "*'delay' is given twice; keep one"),
        (["--chaos=network_failure:rate=2"], "*rate='2' is outside 0..1*"),
        (["--chaos-seed=x"], "--chaos-seed='x': give a whole number from 0 to *"),
        (["--chaos-seed=-1"], "--chaos-seed='-1': give a whole number from 0 to *"),
        (["--chaos-seed=" + "1" * 5000], "--chaos-seed=*: give a whole number from 0 to *"),
        ([f"--chaos-seed={2**64}"], "--chaos-seed=*: give a whole number from 0 to *"),
        (["--chaos-seed=1", "--chaos-seed", "2"], "--chaos-seed is given more than once, as 1, 2*"),
        (["--chaos-intensity=nan"], "--chaos-intensity='nan' is outside 0..1*"),
        (["--chaos-probability=-0.5"], "--chaos-probability='-0.5' is outside 0..1*"),
    ],
)
def test_a_bad_flag_ends_the_run(pytester: pytest.Pytester, flags: list[str], message: str) -> None:
    pytester.makepyfile("raise AssertionError('not even collected')")
    result = pytester.runpytest(*flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert not any("Traceback" in line for line in [*result.outlines, *result.errlines])


def test_the_same_flag_twice_with_one_meaning_is_fine(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest("--chaos-seed=1", "--chaos-seed=01").assert_outcomes(passed=1)


def test_a_mistake_in_a_test_is_shown_where_it_was_made(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_it(chaos):
            with chaos.network_latency(dealy="1s"):
                pass
    """)
    shown = pytester.runpytest()
    shown.stdout.fnmatch_lines([">       with chaos.network_latency(dealy=*", "E *mean 'delay'?*"])
    shown.stdout.no_fnmatch_line("*schema.py*")
    pytester.runpytest("--full-trace").stdout.fnmatch_lines(["*schema.py:*: ConfigurationError"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("latency", "chaos has no 'latency' (did you mean 'network_latency'?); *"),
        ("lost_mail", "chaos has no 'lost_mail'; a chaos type of a plugin is chaos.inject(*"),
    ],
)
def test_the_fixture_knows_what_was_meant(pytester: pytest.Pytester, name: str, told: str) -> None:
    pytester.makepyfile(f"""
        def test_it(chaos):
            assert not hasattr(chaos, "{name}")
            with chaos.{name}(delay="1s"):
                pass
    """)
    shown = pytester.runpytest()
    shown.stdout.fnmatch_lines([f">       with chaos.{name}(*", f"E *AttributeError: {told}"])
    shown.stdout.no_fnmatch_line("*fixtures/chaos.py*")

from __future__ import annotations

import pytest

from tests.ahead import runs


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
        ("resilience(deadline=0)", "deadline=0: give more than nothing"),
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

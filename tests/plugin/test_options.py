from __future__ import annotations

import re

import pytest

from tests.ahead import runs_each
from tests.suites import SERVER


REQUEST = """
    import requests

    def test_request(url):
        assert requests.get(url, timeout=5).text == "ok"
"""


def test_a_flag_puts_every_selected_test_under_chaos(suite: pytest.Pytester) -> None:
    suite.makepyfile(REQUEST)
    result = suite.runpytest("--chaos", "network_failure:mode=reset,rate=1", "--chaos-seed", "7")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "chaos: seed 7",
            "  network_failure: reset, always, target any",
            "*= chaos (seed 7) =*",
            "network_failure: reset, always, target any [[]flag] - 1 test, matched 1, hit 1",
        ]
    )


def test_flags_can_be_repeated_and_stack(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import requests

        def test_request(url, chaos):
            requests.get(url, timeout=5)
            assert [event.delay for event in chaos.events] == [0.001, 0.002, 0.001, 0.002]
    """)
    specs = ("--chaos=network_latency:delay=1ms", "--chaos=network_latency:delay=2ms,name=b")
    suite.runpytest(*specs).assert_outcomes(passed=1)


def test_intensity_and_probability_hold_for_those_that_name_none(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.chaos("network_latency", name="default")
        @pytest.mark.chaos("network_latency", intensity=0.001, name="own")
        def test_request(url, chaos):
            requests.get(url, timeout=5)
            assert {event.source: event.delay for event in chaos.events} == {
                "default": 0.004, "own": 0.002
            }
    """)
    suite.runpytest("--chaos-intensity", "0.002").assert_outcomes(passed=1)
    suite.makepyfile(REQUEST)
    flags = ("--chaos=network_failure:rate=1", "--chaos-probability=0")
    suite.runpytest(*flags).assert_outcomes(passed=1)


def test_no_chaos_starts_no_experiment_of_markers_and_flags(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.chaos("network_failure", rate=1)
        def test_request(url):
            assert requests.get(url, timeout=5).text == "ok"
    """)
    result = suite.runpytest("--no-chaos", "--chaos", "network_failure:rate=1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["chaos: none (--no-chaos)"])


@runs_each(
    {"one": (), "xdist": ("-p", "xdist", "-n2")},
    "--chaos-operations",
    conftest=SERVER,
    test_it="""
        import pytest
        import requests

        @pytest.fixture
        def port(url):
            return url.rpartition(":")[2]

        @pytest.mark.chaos("network_failure", mode="reset", nth=5, probability=0)
        @pytest.mark.chaos("network_failure", target="elsewhere:1")
        @pytest.mark.chaos("memory_stress", size="1kB")
        def test_marker(url):
            with requests.Session() as session:
                for _ in range(3):
                    assert session.get(url, timeout=5).text == "ok"

        def test_plain(url, tmp_path):
            assert requests.get(url, timeout=5).text == "ok"
            (tmp_path / "written").write_text("x")

        def test_fixture(url, chaos):
            with chaos.network_latency(delay="1h", nth=2):
                assert requests.get(url, timeout=5).text == "ok"

        def test_pure():
            pass

        @pytest.mark.no_chaos
        def test_exempt(url):
            assert requests.get(url, timeout=5).text == "ok"
    """,
)
def test_chaos_operations_shows_the_numbers_of_each_test(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=5)
    begin = next(at for at, line in enumerate(ran.outlines) if "= chaos operations =" in line)
    shown = [re.sub(r"127.0.0.1:\d+|/\S+/", "", line) for line in ran.outlines[begin + 1 : -1]]
    tests = re.findall(r"^\S+::(\w+)(.*\n(?:  .*\n)*)", "\n".join([*shown, ""]), re.MULTILINE)
    assert dict(tests) == {
        "test_marker": (
            "\n  network_failure: reset, target any [marker]"
            "\n    1-3 network.receive #1 GET /"
            "\n  network_failure: refusal, target elsewhere:1 [marker]: nothing\n"
        ),
        "test_plain": (
            "\n  network_failure:mode=refuse: refusal, target any [usual]"
            "\n    1 network.connect #1"
            "\n  network_failure:mode=reset: reset, target any [usual]"
            "\n    1 network.receive #1 GET /"
            "\n  network_latency: latency 1s, target any [usual]"
            "\n    1 network.connect #1"
            "\n    2 network.receive #1 GET /"
            "\n  disk_failure: ENOSPC at write, target any [usual]"
            "\n    1 file.write written\n"
        ),
        "test_fixture": (
            "\n  network_latency: latency 3600s, target any [fixture]"
            "\n    1 network.connect #1"
            "\n    2 network.receive #1 GET /\n"
        ),
        "test_pure": ": nothing that a fault could hit\n",
    }


def test_chaos_operations_runs_no_matrix(suite: pytest.Pytester) -> None:
    suite.makepyfile(REQUEST)
    suite.makepyprojecttoml(
        "[[tool.pytest_resilience.profiles.ci.experiments]]\n"
        'name = "third"\nchaos_type = "network_failure"\nnth = 3'
    )
    flags = ("--chaos-profile=ci", "--chaos-matrix", "--chaos-operations")
    result = suite.runpytest(*flags)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["chaos: operations are counted, and nothing is injected (--chaos-operations)",
         "  third: refusal, target any [[]profile]", "    1 network.connect 127.0.0.1:*"]
    )  # fmt: skip
    refused = suite.runpytest(*flags, "--resilience-gate=90")
    refused.stderr.fnmatch_lines(["*resilience-gate cannot be with --chaos-operations: *"])


def test_chaos_list_shows_types_parameters_units_and_defaults(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    pytester.makepyfile("raise AssertionError('not collected')")
    result = pytester.runpytest("--chaos-list")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "network_latency: *",
            "  delay * seconds, *; default intensity x 2s (dribble: x 20ms) - added to *",
            "  target * host, host:port, *; !excluded, *; default every client connection - *",
            "  rate * 0..1 or %; default 1 - share *",
            "network_failure: *",
            "  mode * refuse, reset, *; default refuse - *",
            "  rate * default 1 in a test; by flag or profile intensity (partition: 1) - *",
            "cpu_stress*",
            "every type",
            "  duration * default 60s - ends by itself *",
        ]
    )
    monkeypatch.setenv("COLUMNS", "40")  # as narrow as no line is
    narrow = pytester.runpytest("--chaos-list").outlines
    assert max(len(line) for line in narrow if line.startswith("  ")) == 79
    assert " ".join(map(str.strip, narrow)) == " ".join(map(str.strip, result.outlines))


def test_the_list_of_one_type(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--chaos-list", "thread_exhaustion", "--chaos-list=cpu_stress")
    assert result.ret == 0
    heads = [line.partition(":")[0] for line in result.outlines if line and line[0] != " "]
    assert heads[-3:] == ["thread_exhaustion", "cpu_stress", "every type"]
    wrong = pytester.runpytest("--chaos-list", "cpu_stres")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    wrong.stderr.fnmatch_lines(
        [
            "ERROR: --chaos-list: unknown chaos type 'cpu_stres' (did you mean 'cpu_stress'?); *",
            "See https://*/messages/#configurationerror",
        ]
    )


def test_how_much_is_said_of_a_run(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.parametrize("number", range(1, 8))
        def test_request(url, chaos, number):
            with chaos.network_failure(mode="refuse", nth=number, must_fire=False):
                requests.get(url, timeout=5)
            assert number < 0
    """)
    usual, whole, quiet = (
        suite.runpytest("--tb=no", "-p", "no:randomly", *args).stdout
        for args in ((), ("-v",), ("-qq",))
    )
    usual.fnmatch_lines(
        [
            "*, number 1, target any, and 6 more with other numbers *] - 7 tests, matched 7, hit 1",
            "repeat: pytest *[[]1]' *",
            "… and 2 more to repeat: -v shows them",
        ]
    )
    usual.no_fnmatch_line("repeat: *[[]6]*")
    whole.fnmatch_lines(["network_failure: *, number 7, target any *", "repeat: pytest *[[]7]' *"])
    quiet.no_fnmatch_line("*chaos (seed*")
    quiet.no_fnmatch_line("repeat: *")


def test_chance_repeats_with_the_seed(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.parametrize("number", range(12))
        @pytest.mark.chaos("network_failure", rate=0.5)
        def test_request(url, number):
            requests.get(url, timeout=5)
    """)

    def failures(*args: str) -> set[str]:
        result = suite.runpytest("-rf", "--tb=no", *args)
        return set(re.findall(r"^FAILED (\S+)", result.stdout.str(), re.MULTILINE))

    first = failures("--chaos-seed", "11")
    assert 0 < len(first) < 12
    assert failures("--chaos-seed", "11") == first
    assert failures("--chaos-seed", "12") != first
    alone = min(first)
    assert failures("--chaos-seed", "11", alone) == {alone}


def test_each_failure_prints_the_line_that_repeats_it(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.parametrize("name", ["plain", "with space"])
        def test_request(url, name):
            requests.get(url, timeout=5)
    """)
    # With this seed both are hit.
    result = suite.runpytest(
        "--chaos", "network_failure:rate=0.9", "--chaos-intensity=0.9", "--chaos-seed=1"
    )
    lines = [line for line in result.outlines if line.startswith("repeat: ")]
    assert len(lines) == result.parseoutcomes()["failed"] == 2
    import shlex

    for line in lines:
        words = shlex.split(line.removeprefix("repeat: "))
        assert words[0] == "pytest"
        again = suite.runpytest(*words[1:])
        again.assert_outcomes(failed=1)
        again.stdout.fnmatch_lines([line.replace("[", "[[]")])


def test_the_repeat_line_works_where_pytest_was_started(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]")
    suite.makepyfile(**{"sub/test_it": REQUEST})
    (suite.path / "sub" / "inner").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(suite.path / "sub" / "inner")
        result = suite.runpytest("--chaos=network_failure:rate=1", "..")
    result.stdout.fnmatch_lines(["repeat: pytest ../test_it.py::test_request --chaos-seed=*"])


def test_typed_flags_overrule_addopts(suite: pytest.Pytester) -> None:
    suite.makepyfile(REQUEST)
    suite.makeini("[pytest]\naddopts = --chaos-seed=1 --chaos network_latency:delay=1ms")
    suite.runpytest("--chaos-seed=2").stdout.fnmatch_lines(["chaos: seed 2"])
    suite.runpytest().stdout.fnmatch_lines(["chaos: seed 1"])


def test_a_spec_is_not_taken_for_a_file(suite: pytest.Pytester) -> None:
    """`--chaos SPEC` leaves `testpaths`, and the conftest there, as they are."""
    suite.makeini("[pytest]\ntestpaths = here")
    suite.makepyfile(
        **{
            "here/conftest": "def pytest_addoption(parser): parser.addoption('--theirs')",
            "here/test_it": "def test_it(): pass",
        }
    )
    result = suite.runpytest("--chaos", "network_latency:delay=1ms", "--theirs=x")
    result.assert_outcomes(passed=1)


def test_long_names_always_work(suite: pytest.Pytester) -> None:
    suite.makepyfile(REQUEST)
    flags = ("--resilience-chaos", "network_failure:rate=1", "--resilience-chaos-seed=3")
    result = suite.runpytest(*flags)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["chaos: seed 3"])


def test_help_names_each_flag_once(suite: pytest.Pytester) -> None:
    shown = re.findall(
        r"^  (--resilience-\w+=.*)$", suite.runpytest("--help").stdout.str(), re.MULTILINE
    )
    assert len(shown) == 4
    assert not [line for line in shown if "," in line]


def test_quiet_when_nothing_is_on(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_chaos(): pass")
    result = suite.runpytest("-v")
    result.assert_outcomes(passed=1)
    own = [line for line in result.outlines if "seed" in line or "resilience:" in line]
    assert own == []

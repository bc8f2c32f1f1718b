"""Verdicts where the experiment did not start, or did nothing, and where the test is spared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.plugin.matrix.results_and_exit_status import MATRIX_FAILED
from tests.ahead import ALONE_AND_XDIST
from tests.ahead import runs_each
from tests.cells import cells_of
from tests.plugin.matrix.test_protocol import verdicts
from tests.suites import SERVER


MATRIX = ("--chaos-matrix", "--chaos-profile=ci", "--resilience-report=out.json")
EXPERIMENT = """
[[tool.pytest_resilience.profiles.ci.experiments]]
name = "trouble"
"""
REFUSED = 'chaos_type = "network_failure"\nrate = 1'
GHOST = """
[tool.pytest_resilience.profiles.ci.services]
ghost = "json:no_such_function"
"""

EMPTY_TEST = "def test_it(tea):\n    pass\n"
REQUESTS = """
    import requests

    def test_it(url):
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError:
            pass
"""


def profile(suite: pytest.Pytester, experiment: str, more: str = "") -> None:
    suite.makepyprojecttoml(f"{more}{EXPERIMENT}{experiment}\n")


def matrix(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest(*MATRIX, *arguments)


def only_cell(folder: Path) -> dict[str, Any]:
    [cell] = cells_of(folder / "out.json")
    return cell


def matrix_runs(
    experiment: str, more: str = "", test_it: str = REQUESTS, conftest: str = ""
) -> pytest.MarkDecorator:
    """Ahead, alone and under xdist."""
    files = {"pyproject.toml": f"{more}{EXPERIMENT}{experiment}\n"}
    conftest = f"{SERVER}{conftest}"
    return runs_each(ALONE_AND_XDIST, *MATRIX, conftest=conftest, test_it=test_it, others=files)


@matrix_runs('chaos_type = "service_failure"\ntarget_services = ["ghost"]\nrate = 1', GHOST)
def test_a_service_that_is_not_there_is_told(ran: pytest.RunResult, ran_in: Path) -> None:
    ran.assert_outcomes(passed=1)
    assert only_cell(ran_in)["verdict"] == "not_started"
    ran.stdout.fnmatch_lines([
        "trouble: 1 not started",
        "not started: *::test_it under 'trouble'",
        "    the experiment could not begin: *service ghost: no json:no_such_function: *",
    ])  # fmt: skip
    ran.stdout.no_fnmatch_line("*INTERNALERROR*")


SINKING = """
from pytest_resilience.stress.stressors import Caps

usual, running = Caps.approve, []

def approve(caps, experiment):
    if running:
        usual(caps, experiment)

Caps.approve = approve

def pytest_collection_finish():
    running.append(1)
"""


@matrix_runs('chaos_type = "memory_stress"\nsize = "1000000GiB"', conftest=SINKING)
def test_a_cap_that_has_sunk_since_the_profile_was_read_is_told(
    ran: pytest.RunResult, ran_in: Path
) -> None:
    ran.assert_outcomes(passed=1)
    assert only_cell(ran_in)["verdict"] == "not_started"
    reason = "    the experiment could not begin: *is over the cap of *chaos_max_memory = 50%*"
    ran.stdout.fnmatch_lines([reason])


@matrix_runs(f"{REFUSED}\nenabled = false")
def test_a_disabled_experiment_is_not_run(ran: pytest.RunResult, ran_in: Path) -> None:
    ran.stdout.fnmatch_lines(["trouble: 1 not run"])
    cell = only_cell(ran_in)
    assert cell["verdict"] == "not_run"
    assert cell["reason"] == "the experiment is disabled: enabled = false"


def test_what_this_machine_cannot_do_is_not_started(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(suite.path))
    profile(suite, 'chaos_type = "cpu_stress"\nengine = "stress-ng"')
    suite.makepyfile(REQUESTS)
    matrix(suite)
    cell = only_cell(suite.path)
    assert cell["verdict"] == "not_started"
    assert cell["reason"].startswith("the test was skipped before the experiment began: chaos exp")
    assert "stress-ng" in cell["reason"]


FIXTURE = """
    import pytest
    import requests

    runs = []

    @pytest.fixture
    def shop(url):
        runs.append(url)
        if len(runs) > 1:
            {ends}
        return url

    def test_it(shop):
        requests.get(shop, timeout=5)
"""


@matrix_runs(REFUSED, test_it=FIXTURE.format(ends='raise OSError("no port")'))
def test_a_fixture_that_fails_first_leaves_the_experiment_not_started(
    ran: pytest.RunResult, ran_in: Path
) -> None:
    ran.assert_outcomes(passed=1)
    cell = only_cell(ran_in)
    reason = "its set-up failed this time, and the experiment begins after it: OSError: no port"
    assert (cell["verdict"], cell["reason"]) == ("not_started", reason)


@matrix_runs(REFUSED, test_it=FIXTURE.format(ends='pytest.skip("no port is left")'))
def test_a_fixture_that_skips_the_test_first_leaves_the_experiment_not_started(
    ran: pytest.RunResult, ran_in: Path
) -> None:
    ran.assert_outcomes(passed=1)
    cell = only_cell(ran_in)
    reason = "its set-up was skipped before the experiment began: no port is left"
    assert (cell["verdict"], cell["reason"]) == ("not_started", reason)


def test_a_plugin_that_calls_no_test_function_leaves_the_experiment_not_started(
    suite: pytest.Pytester,
) -> None:
    profile(suite, REFUSED)
    suite.makepyfile(
        conftest=(suite.path / "conftest.py").read_text()
        + """
runs = []

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    runs.append(item)
    if len(runs) > 1:
        raise LookupError("no licence is left")
    return (yield)
""",
        test_it=REQUESTS,
    )
    matrix(suite)
    cell = only_cell(suite.path)
    assert cell["verdict"] == "not_started"
    assert cell["reason"] == "the experiment could not begin: LookupError: no licence is left"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('pytest.skip("the shop is closed")', "it was skipped under the experiment: the shop *"),
        ('pytest.xfail("the shop is closed")', "it was skipped under the experiment: the shop *"),
    ],
)
def test_a_test_that_skips_itself_under_chaos_proves_nothing(
    suite: pytest.Pytester, body: str, reason: str
) -> None:
    profile(suite, REFUSED)
    suite.makepyfile(f"""
        import pytest
        import requests

        def test_it(url):
            try:
                requests.get(url, timeout=5)
            except requests.ConnectionError:
                {body}
    """)
    matrix(suite).stdout.fnmatch_lines(["invalid: *::test_it under 'trouble'", f"    {reason}"])


def test_chaos_of_the_tests_own_that_has_no_chance_proves_nothing(suite: pytest.Pytester) -> None:
    profile(suite, REFUSED)
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.resilience(own_chaos=True)
        @pytest.mark.chaos("network_failure", mode="reset", rate=1)
        def test_it(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
    """)
    matrix(suite).assert_outcomes(passed=1)
    cell = only_cell(suite.path)
    assert cell["verdict"] == "invalid"
    assert cell["reason"].startswith("the chaos of the test's own had no chance under it: chaos ex")


@pytest.mark.parametrize(
    ("marker", "body", "reason"),
    [
        (
            "allowed=[KeyError]",
            'raise KeyError("x")',
            "it failed although nothing was injected: KeyError: 'x'",
        ),
        (
            "deadline=0.3",
            'threading.Event().wait(60); open("over", "w").close()',
            "it failed although nothing was injected: it was still running after 0.3 s",
        ),
    ],
    ids=["degraded", "hang"],
)
def test_what_ends_so_without_a_fault_proves_nothing(
    suite: pytest.Pytester, marker: str, body: str, reason: str
) -> None:
    profile(suite, f'{REFUSED}\ntarget = "elsewhere.example:*"')
    suite.makepyfile(
        test_it=f"""
        import threading
        import pytest
        import requests

        runs = []

        @pytest.mark.resilience({marker})
        def test_it(url):
            runs.append(url)
            if len(runs) > 1:
                {body}
            requests.get(url, timeout=5)
    """
    )
    matrix(suite)
    cell = only_cell(suite.path)
    place = "at test_it.py:11 in test_it"
    assert (cell["verdict"], cell["reason"]) == ("invalid", f"{reason}\n{place}")
    assert not (suite.path / "over").exists()  # each run is ended


def test_what_only_the_first_run_of_a_test_does_is_not_of_the_test(suite: pytest.Pytester) -> None:
    """The client of a fixture is connected by then, as it is for the tests after this one."""
    profile(suite, REFUSED)
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.fixture(scope="module")
        def session():
            with requests.Session() as session:
                yield session

        def test_it(session, url):
            session.get(url, timeout=5)
    """)
    assert matrix(suite).ret == MATRIX_FAILED  # for there is nothing else
    cell = only_cell(suite.path)
    assert cell["verdict"] == "not_applicable"
    assert cell["reason"].startswith("no operation matched any; the code did: network.receive ")
    assert "a fixture of narrower scope" in cell["reason"]


def test_a_response_without_a_body_cannot_be_cut_off(suite: pytest.Pytester) -> None:
    profile(suite, f'{REFUSED}\nmode = "truncate"')
    suite.makepyfile("""
        import requests

        def test_it(stub_server):
            requests.put(stub_server.respond("/tea", method="PUT", status=204).url, timeout=5)
    """)
    assert matrix(suite).ret == MATRIX_FAILED  # for there is nothing else
    cell = only_cell(suite.path)
    assert cell["verdict"] == "not_applicable"
    assert "had nothing to cut off" in cell["reason"]


def test_a_response_that_was_not_chosen_could_have_been_cut_off(suite: pytest.Pytester) -> None:
    profile(suite, 'chaos_type = "network_failure"\nmode = "truncate"\nnth = 2')
    suite.makepyfile("""
        import requests

        def test_it(url, stub_server):
            requests.get(url, timeout=5)
            requests.put(stub_server.respond("/tea", method="PUT", status=204).url, timeout=5)
    """)
    matrix(suite)
    cell = only_cell(suite.path)
    assert cell["verdict"] == "never_fired"
    assert cell["reason"].startswith("it matched 1 operation and hit none: 1 network.receive ")


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ('skip(reason="not today")', "the test is skipped without any experiment: not today"),
        ('xfail(reason="a bug")', "the test is expected to fail without any experiment: a bug"),
    ],
)
@pytest.mark.parametrize("passes", [True, False])
def test_a_test_that_is_not_to_pass_without_chaos_is_not_run(
    suite: pytest.Pytester, mark: str, reason: str, passes: bool
) -> None:
    profile(suite, REFUSED)
    suite.makepyfile(f"""
        import pytest

        @pytest.mark.{mark}
        def test_it():
            assert {passes}
    """)
    result = matrix(suite)
    assert result.parseoutcomes().keys() <= {"skipped", "xfailed", "xpassed", "cell", "left"}
    cell = only_cell(suite.path)
    assert (cell["verdict"], cell["reason"]) == ("not_run", reason)


def test_no_cell_is_run_after_a_baseline_run_that_failed(suite: pytest.Pytester) -> None:
    profile(suite, REFUSED)
    suite.makepyfile("def test_it():\n    assert 0")
    assert matrix(suite).ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(suite.path / "out.json") == {"test_it": ("invalid",)}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "def test_it(tmp_path):\n    assert 0, 'no tea'",
            "failed in call: AssertionError: no tea\nassert 0\nat test_it.py:2 in test_it",
        ),
        (
            "import pytest\n@pytest.fixture\ndef tea():\n    raise OSError(5, 'cold')\n"
            + EMPTY_TEST,
            "failed in setup: OSError: [Errno 5] cold\nat test_it.py:4 in tea",
        ),
    ],
)
def test_a_test_that_fails_without_chaos_says_how_and_where(
    suite: pytest.Pytester, body: str, reason: str
) -> None:
    profile(suite, REFUSED)
    suite.makepyfile(test_it=body)
    shown = matrix(suite)
    assert only_cell(suite.path)["reason"] == f"the test, without any experiment, {reason}"
    shown.stdout.fnmatch_lines([f"    {line}" for line in reason.splitlines()[-1:]])

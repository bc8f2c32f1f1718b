"""What a run of the matrix says in the end: exit status, last line, JUnit file."""

from __future__ import annotations

import textwrap

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.chaos.parsing.messages import counted
from pytest_resilience.plugin.matrix.results_and_exit_status import Grid
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from tests.ahead import ALONE_AND_XDIST
from tests.ahead import runs_each
from tests.plugin.matrix.test_protocol import GOOD
from tests.plugin.matrix.test_protocol import PROFILE
from tests.plugin.matrix.test_protocol import TESTS
from tests.plugin.matrix.test_protocol import matrix
from tests.suites import SERVER


BAD = ("-k", "fails or survives")


def matrix_runs(
    *arguments: str, ways: Mapping[str, tuple[str, ...]] = ALONE_AND_XDIST
) -> pytest.MarkDecorator:
    """The shop's, ahead, in each way: what workers find is told by another process."""
    flags = ("--chaos-matrix", "--chaos-profile=ci", *arguments)
    files = {"pyproject.toml": PROFILE}
    return runs_each(ways, *flags, conftest=SERVER, test_shop=TESTS, others=files)


@pytest.fixture
def shop(suite: pytest.Pytester) -> pytest.Pytester:
    suite.makepyprojecttoml(PROFILE)
    suite.makepyfile(test_shop=TESTS)
    return suite


@matrix_runs(*BAD)
def test_bad_cells_fail_a_run_without_a_gate(ran: pytest.RunResult) -> None:
    assert ran.ret == 10
    ran.stdout.fnmatch_lines([
        "resilience gate FAILED: 66.6 %, coverage 100 %",
        "  - 1 bad cell that no baseline accepts: 1 failed",
    ])  # fmt: skip


@matrix_runs(*GOOD)
def test_good_cells_fail_no_run(ran: pytest.RunResult) -> None:
    assert ran.ret == 0


@pytest.mark.parametrize("flags", [[], ["-q"], ["--no-header"], ["-q", "--tb=line"]])
def test_the_seed_is_told_also_where_no_header_is(shop: pytest.Pytester, flags: list[str]) -> None:
    result = matrix(shop, "-k", "survives", "--chaos-seed=7", *flags)
    assert result.outlines.count("chaos: seed 7") == 1


def test_what_proves_nothing_fails_a_run_without_a_gate(shop: pytest.Pytester) -> None:
    shop.makepyprojecttoml(PROFILE.replace("rate = 1", 'rate = 1\ntarget = "10.0.0.1:*"'))
    result = matrix(shop, "-k", "survives")
    assert result.ret == 10
    result.stdout.fnmatch_lines(["  - 1 cell proves nothing: 1 never fired"])


def test_a_run_that_only_reports_fails_for_no_cell(shop: pytest.Pytester) -> None:
    result = matrix(shop, *BAD, "--resilience-report-only", "--resilience-report=out.md")
    assert result.ret == 0
    result.stdout.fnmatch_lines([
        "resilience gate FAILED: 66.6 %, coverage 100 %",
        "reported only: this fails no run",
    ])  # fmt: skip
    assert "❌ failed: 66.6 %" in (shop.path / "out.md").read_text()


def test_a_run_that_only_reports_fails_for_its_tests_and_its_reports(
    shop: pytest.Pytester,
) -> None:
    only = ("--resilience-report-only",)
    assert matrix(shop, "-k", "broken or survives", *only).ret == pytest.ExitCode.TESTS_FAILED
    shop.makeconftest("""
        import pathlib
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionstart():
            pathlib.Path("out.md").mkdir()
    """)
    shop.makepyfile(
        test_shop="import socket\ndef test_it():\n    socket.gethostbyname('localhost')"
    )
    result = matrix(shop, *only, "--resilience-report=out.md")
    assert result.ret == 10
    result.stdout.fnmatch_lines(["ERROR: out.md was not written: *"])


@pytest.mark.parametrize(
    ("addopts", "typed", "status"),
    [
        ("--resilience-gate=95", "--resilience-report-only", 0),
        ("--resilience-report-only", "--resilience-gate=95", 10),
    ],
)
def test_of_a_gate_and_no_gate_what_is_typed_holds(
    shop: pytest.Pytester, addopts: str, typed: str, status: int
) -> None:
    shop.makeini(f"[pytest]\naddopts = {addopts}")
    assert matrix(shop, *BAD, typed).ret == status


def test_a_run_that_only_reports_heeds_no_gate_of_a_profile(shop: pytest.Pytester) -> None:
    table = "[tool.pytest_resilience.profiles.ci]\n"
    shop.makepyprojecttoml(PROFILE.replace(table, f"{table}gate = 95\n"))
    assert matrix(shop, *BAD).ret == 10
    assert matrix(shop, *BAD, "--resilience-report-only").ret == 0


@matrix_runs(ways=ALONE_AND_XDIST | {"xdist": ("-p", "xdist", "-n2")})
def test_the_last_line_counts_tests_and_cells(ran: pytest.RunResult) -> None:
    last = ran.outlines[-1]
    cells = "16 cells (7 good, 3 bad, 2 proving nothing, 4 left out)"
    assert f"1 failed, 7 passed, 1 skipped, {cells} in " in last
    ran.assert_outcomes(passed=7, failed=1, skipped=1)


def test_the_last_line_is_red_when_cells_fail_the_run_and_counts_them_if_that_was_cut_short(
    shop: pytest.Pytester,
) -> None:
    failed = matrix(shop, *BAD, "--color=yes")
    assert failed.outlines[-1].startswith("\x1b[31m")
    shop.makepyfile(test_shop="def test_broken():\n    assert 0\n\ndef test_later():\n    pass")
    cut = matrix(shop, "-x", "-p", "no:randomly")
    assert "1 failed, 4 cells (2 proving nothing, 2 left out) in " in cut.outlines[-1]


def cases(path: Path) -> tuple[dict[str, str], dict[str, ElementTree.Element]]:
    """The suites' names with their numbers of tests, and the cells by name."""
    suites = list(ElementTree.parse(path).getroot())
    numbers = {each.get("name", ""): each.get("tests", "") for each in suites}
    found = {
        f"{case.get('classname')}.{case.get('name')}": case for case in suites[-1].iter("testcase")
    }
    return numbers, found


@matrix_runs("--junitxml=out/junit.xml", "--junitprefix=ci")
def test_a_junit_file_has_the_cells_as_test_cases_in_a_suite_of_their_own(
    ran: pytest.RunResult, ran_in: Path
) -> None:
    ran.assert_outcomes(passed=7, failed=1, skipped=1)
    numbers, found = cases(ran_in / "out/junit.xml")
    assert numbers == {"pytest": "9", "resilience matrix": "16"}
    failed = found["ci.test_shop.test_fails[chaos: refused]"]
    assert float(failed.get("time", "")) > 0
    [failure] = failed
    assert failure.tag == "failure"
    assert failure.get("message", "").startswith("failed: ConnectionError: ")
    assert "repeat: pytest test_shop.py::test_fails " in (failure.text or "")
    assert found["ci.test_shop.test_survives[chaos: refused]"].find("failure") is None


def test_cells_are_named_as_pytest_names_their_tests(shop: pytest.Pytester) -> None:
    folder = shop.mkpydir("shop")
    (folder / "test_names.py").write_text("""
import pytest
import requests

class TestShop:
    class TestInner:
        @pytest.mark.parametrize("item", ["a::b", "c/d.py", "[e]"])
        def test_it(self, item, url):
            try:
                requests.get(url, timeout=5)
            except requests.ConnectionError:
                pass
""")
    matrix(shop, "shop", "--junitxml=junit.xml")
    root = ElementTree.parse(shop.path / "junit.xml").getroot()
    tests, cells = (
        {(case.get("classname"), case.get("name")) for case in each.iter("testcase")}
        for each in root
    )
    assert len(tests) == 3
    assert {(above, str(name).replace("[chaos: refused]", "")) for above, name in cells} >= tests
    assert len(cells) == 6


def test_a_junit_file_that_cannot_be_read_again_is_said_and_fails(shop: pytest.Pytester) -> None:
    shop.makeconftest(
        (shop.path / "conftest.py").read_text()
        + """
import pathlib

@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    pathlib.Path("junit.xml").write_text("<")
"""
    )
    result = matrix(shop, *GOOD, "--junitxml=junit.xml")
    assert result.ret == 10
    result.stdout.fnmatch_lines(["ERROR: */junit.xml did not get the cells: *"])


FIRST = "failed: test_shop.py::test_fails under 'refused'"
SUMMARY = ["slow: 1 survived", FIRST]  # a line of progress is like the second alone
PLACE = "    at test_shop.py:8 in test_fails"
REPEAT = "    repeat: pytest test_shop.py::test_fails *"


@matrix_runs("-k", "fails", "--tb=short")
def test_a_bad_cell_is_told_with_its_error_its_place_and_how_to_repeat_it(
    ran: pytest.RunResult,
) -> None:
    told = [*SUMMARY, "    ConnectionError: *", PLACE, REPEAT]
    ran.stdout.fnmatch_lines(told, consecutive=True)


@matrix_runs("-k", "fails", "--tb=line")
def test_tb_line_tells_error_and_place(ran: pytest.RunResult) -> None:
    ran.stdout.fnmatch_lines(
        [*SUMMARY, "    ConnectionError: *", PLACE, "resilience gate *"], consecutive=True
    )


@matrix_runs("-k", "fails", "--tb=no")
def test_tb_no_tells_which_cell_is_bad_and_no_more(ran: pytest.RunResult) -> None:
    ran.stdout.fnmatch_lines([*SUMMARY, "resilience gate *"], consecutive=True)


@matrix_runs("-k", "hangs or leaks")
def test_what_hangs_and_what_leaks_has_a_place_too(ran: pytest.RunResult) -> None:
    ran.stdout.fnmatch_lines(["hang: *", "    at test_shop.py:* in test_hangs"])
    ran.stdout.fnmatch_lines(["leak: *", "    at test_shop.py:* in test_leaks"])


@matrix_runs("-k", "fails or elsewhere", "-q")
def test_a_quiet_run_explains_nothing_and_draws_no_grid(ran: pytest.RunResult) -> None:
    ran.stdout.no_fnmatch_line("A cell is one test*")
    ran.stdout.fnmatch_lines(["refused: 1 not applicable, 1 failed", FIRST])


@matrix_runs("-k", "fails or elsewhere", "-qq")
def test_a_run_quieter_yet_counts_no_experiments(ran: pytest.RunResult) -> None:
    ran.stdout.no_fnmatch_line("refused: *")
    ran.stdout.fnmatch_lines([FIRST, "resilience gate FAILED: *"])


@matrix_runs("-k", "elsewhere", "-v")
def test_a_verbose_run_says_why_cells_were_left_out(ran: pytest.RunResult) -> None:
    ran.stdout.fnmatch_lines(
        ["not applicable: test_shop.py::test_elsewhere under 'refused': it hits network.connect, *"]
    )


ON_A_TERMINAL = """
    def pytest_collection_finish(session):
        session.config.pluginmanager.get_plugin("terminalreporter").isatty = True
"""


def test_a_terminal_shows_a_grid_of_tests_and_experiments(shop: pytest.Pytester) -> None:
    shop.makeconftest(SERVER + textwrap.dedent(ON_A_TERMINAL))
    result = matrix(shop, "-k", "fails or elsewhere", "--color=yes")
    result.stdout.fnmatch_lines([
        "test_shop.py::test_fails    *31m F*32m S*",
        "test_shop.py::test_elsewhere · ·",
        "                             1 2",
        "1 refused",
        "2 slow",
        "· not applicable, S survived, F failed",
    ])  # fmt: skip


def test_a_quiet_run_on_a_terminal_draws_no_grid(shop: pytest.Pytester) -> None:
    shop.makeconftest(SERVER + textwrap.dedent(ON_A_TERMINAL))
    matrix(shop, "-k", "fails", "-q").stdout.no_fnmatch_line("1 refused")


@given(
    st.integers(1, 120),
    st.lists(
        st.tuples(st.text("ab:é", min_size=1, max_size=80), st.text("xyz", min_size=1, max_size=2)),
        min_size=1,
        max_size=80,
        unique=True,
    ),
)
def test_a_grid_is_cut_to_the_width_and_says_what_it_left_out(
    width: int, keys: list[tuple[str, str]]
) -> None:
    cells = [Cell(test=test, experiment=name, verdict=CellVerdict.FAILED) for test, name in keys]
    grid = Grid(cells, width)
    columns = len(grid.rows[0][1])
    left_tests = len({test for test, _ in keys}) - len(grid.rows)
    left_columns = len({name for _, name in keys}) - columns
    assert columns
    lines = [label + "".join(text for _, text in row) for label, row in grid.rows]
    assert {len(line) for line in lines} == {len(grid.legend[0])}
    if width >= 8:
        assert len(lines[0]) < width
    told = f"not shown: {counted(left_tests, 'test')}, {counted(left_columns, 'experiment')}"
    assert (told in grid.legend) == bool(left_tests or left_columns)

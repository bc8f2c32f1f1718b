"""The report of a run that is no matrix: what was injected into each test, and how it ended."""

from __future__ import annotations

import json

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.ahead import ALONE_AND_XDIST
from tests.ahead import runs
from tests.ahead import runs_each
from tests.cells import cells_of
from tests.report.conftest import SCHEMA
from tests.suites import SERVER


FILES = [f"--resilience-report=out.{suffix}" for suffix in ("json", "md", "html")]

TESTS = """
import pytest
import requests

def get(url):
    requests.get(url, timeout=5)

@pytest.mark.chaos("network_failure", mode="refuse")
def test_fails(url):
    get(url)

@pytest.mark.chaos("network_failure", mode="refuse")
def test_survives(url):
    with pytest.raises(requests.ConnectionError):
        get(url)

@pytest.mark.chaos("network_failure", mode="refuse")
@pytest.mark.xfail
def test_is_known_to_fail(url):
    get(url)

@pytest.mark.chaos("network_failure", mode="refuse")
def test_never_fires():
    pass

@pytest.mark.chaos("network_failure", mode="refuse", probability=0.0)
def test_is_not_chosen(url):
    get(url)

@pytest.mark.chaos("network_failure", mode="refuse")
def test_is_wrong():
    assert 0

@pytest.mark.chaos("network_failure", mode="refuse")
def test_is_skipped(url):
    pytest.skip("not today")

def test_with_a_fixture(url, chaos, retry_handler):
    with chaos.network_failure(mode="refuse", first=1):
        retry_handler(base_delay=0, jitter=False)(get)(url)

@pytest.mark.chaos("network_latency", delay=0.001)
def test_fails_in_teardown(url, request):
    get(url)
    request.addfinalizer(lambda: 1 / 0)

def test_without_chaos():
    pass
"""

EXPECTED = {
    "test_fails": "failed",
    "test_survives": "survived",
    "test_is_known_to_fail": "degraded",
    "test_never_fires": "never_fired",
    "test_is_not_chosen": "not_run",
    "test_is_wrong": "invalid",
    "test_is_skipped": "invalid",
    "test_with_a_fixture": "survived",
    "test_fails_in_teardown": "failed",
}


def cells(path: Path) -> dict[str, dict[str, Any]]:
    """By the name of the test."""
    data = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(data, SCHEMA)
    return {cell["test"].partition("::")[2]: cell for cell in data["cells"]}


shop = runs_each(ALONE_AND_XDIST, "--chaos-seed=1", *FILES, conftest=SERVER, test_shop=TESTS)


@shop
def test_each_test_with_chaos_has_its_outcome(ran: pytest.RunResult, ran_in: Path) -> None:
    found = cells(ran_in / "out.json")
    assert {name: cell["verdict"] for name, cell in found.items()} == EXPECTED
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    ran.stdout.fnmatch_lines(["report: out.json", "report: out.md", "report: out.html"])


@shop
def test_a_cell_says_what_happened_why_it_is_bad_and_how_to_repeat_it(
    ran: pytest.RunResult, ran_in: Path
) -> None:
    found = cells(ran_in / "out.json")
    failed = found["test_fails"]
    assert failed["what"] == "network_failure: refusal, always, target any"
    assert "ConnectionError" in failed["reason"]
    assert failed["repeat"] == "pytest test_shop.py::test_fails --chaos-seed=1"
    assert found["test_fails_in_teardown"]["reason"].startswith("in teardown: ")
    assert found["test_is_skipped"]["reason"].endswith("not today")
    assert "refusal on network.connect" in failed["timeline"][0]["text"]
    assert failed["duration"] > 0


@shop
def test_the_timeline_has_faults_and_what_patterns_did(ran: pytest.RunResult, ran_in: Path) -> None:
    timeline = cells(ran_in / "out.json")["test_with_a_fixture"]["timeline"]
    assert [entry["kind"] for entry in timeline][:2] == ["fault", "retry"]


@shop
def test_other_formats_have_the_same(ran: pytest.RunResult, ran_in: Path) -> None:
    markdown = (ran_in / "out.md").read_text(encoding="utf-8")
    assert "| failed | `test_shop.py::test_fails` |" in markdown
    assert "test_shop.py::test_fails" in (ran_in / "out.html").read_text(encoding="utf-8")


TWICE = """
import pytest
import requests

@pytest.mark.chaos("network_latency", delay=0.001)
@pytest.mark.chaos("network_latency", delay=0.002)
def test_get(url):
    requests.get(url, timeout=5)

def test_elsewhere():
    pass
"""


@runs(
    *("--chaos=network_latency:delay=1ms,rate=1", "--resilience-report=out.json"),
    conftest=SERVER,
    test_shop=TWICE,
)
def test_experiments_of_one_name_are_told_apart(ran: pytest.RunResult, ran_in: Path) -> None:
    found = [(cell["experiment"], cell["verdict"]) for cell in cells_of(ran_in / "out.json")]
    slow = "network_latency: latency {}ms, always, target any"
    assert sorted(found) == sorted([
        (slow.format(1) + " [flag]", "survived"),
        (slow.format(1) + " [marker]", "survived"),
        (slow.format(2), "survived"),
        (slow.format(1), "not_applicable"),
    ])  # fmt: skip
    assert ran.ret == 0


EXPLORED = """
import pytest
import requests

@pytest.mark.chaos_explore(depth=1, faults=["refuse"])
def test_get(url):
    try:
        requests.get(url, timeout=5)
    except requests.ConnectionError:
        raise KeyError("price") from None
"""


@runs("--resilience-report=out.json", conftest=SERVER, test_shop=EXPLORED)
def test_what_a_marked_test_explores_is_reported(ran: pytest.RunResult, ran_in: Path) -> None:
    found = cells_of(ran_in / "out.json")
    assert "failed" in {cell["verdict"] for cell in found}


@runs("--resilience-report=out.json", test_calm="def test_nothing(): pass")
def test_a_run_without_chaos_has_an_empty_report(ran: pytest.RunResult, ran_in: Path) -> None:
    assert ran.ret == 0
    assert cells(ran_in / "out.json") == {}


@runs("-x", "--resilience-report=out.json", conftest=SERVER, test_shop=TESTS)
def test_a_run_that_was_cut_short_says_so(ran: pytest.RunResult, ran_in: Path) -> None:
    data = json.loads((ran_in / "out.json").read_text())
    assert data["interrupted"] == "stopping after 1 failures"
    assert len(data["cells"]) == 1


@runs("--resilience-report=out.pdf", test_calm="def test_nothing(): pass")
def test_a_file_that_could_not_be_written_is_refused_before_any_test(ran: pytest.RunResult) -> None:
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["ERROR: out.pdf: .pdf is no kind of report; *"])


SPOILT = """
import pathlib

def test_that_puts_a_folder_where_the_report_is_to_be():
    pathlib.Path("out.json").mkdir()
"""


@runs("--resilience-report=out.json", test_calm=SPOILT)
def test_a_file_that_cannot_be_written_any_more_fails_the_run(ran: pytest.RunResult) -> None:
    assert ran.ret == 10
    ran.stdout.fnmatch_lines(["ERROR: out.json was not written: IsADirectoryError: *"])


@runs("--no-chaos", "--resilience-report=out.json", test_calm="def test_nothing(): pass")
def test_without_any_chaos_a_report_is_refused(ran: pytest.RunResult) -> None:
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["ERROR: --resilience-report cannot be with --no-chaos: *"])


@runs("-qq", "--resilience-report=out.json", conftest=SERVER, test_shop=TWICE)
def test_it_is_silent_under_qq(ran: pytest.RunResult) -> None:
    ran.stdout.no_fnmatch_line("report: *")

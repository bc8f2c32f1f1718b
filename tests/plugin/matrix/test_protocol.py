"""The matrix in a suite: every verdict, the gate, reports, shards, and what is refused."""

from __future__ import annotations

import json

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_resilience.__main__ import main
from tests.ahead import runs
from tests.cells import cells_of
from tests.report.conftest import SCHEMA
from tests.suites import SERVER


PROFILE = """
[tool.pytest_resilience.profiles.ci]
seed = 3

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "refused"
chaos_type = "network_failure"
rate = 1
weight = 2

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "slow"
chaos_type = "network_latency"
delay = "1ms"
probability = 0.01
"""

TESTS = """
import socket
import time
import pytest
import requests

def test_fails(url):
    requests.get(url, timeout=5)

@pytest.mark.resilience(allowed=[requests.ConnectionError])
def test_degrades(url):
    requests.get(url, timeout=5)

def test_survives(url):
    try:
        requests.get(url, timeout=5)
    except requests.ConnectionError:
        pass

@pytest.mark.resilience(deadline="1s")  # in which it holds without chaos on a busy machine
def test_hangs(url):
    try:
        requests.get(url, timeout=5)
    except requests.ConnectionError:
        while True:
            time.sleep(60)

@pytest.fixture(scope="module")
def kept():
    found = []
    yield found
    for each in found:
        each.close()

def test_leaks(url, kept):
    try:
        requests.get(url, timeout=5)
    except requests.ConnectionError:
        kept.append(socket.socket())

def test_elsewhere():
    pass

def test_broken():
    assert 0

@pytest.mark.no_chaos
def test_exempt(url):
    requests.get(url, timeout=5)

def test_skipped():
    pytest.skip("not today")
"""

EXPECTED = {
    "test_fails": ("failed", "survived"),
    "test_degrades": ("degraded", "survived"),
    "test_survives": ("survived", "survived"),
    "test_hangs": ("hang", "survived"),
    "test_leaks": ("leak", "survived"),
    "test_elsewhere": ("not_applicable", "not_applicable"),
    "test_broken": ("invalid", "invalid"),
    "test_skipped": ("not_run", "not_run"),
}


@pytest.fixture
def shop(suite: pytest.Pytester) -> pytest.Pytester:
    suite.makepyprojecttoml(PROFILE)
    suite.makepyfile(test_shop=TESTS)
    return suite


def matrix(shop: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return shop.runpytest("--chaos-matrix", "--chaos-profile=ci", *arguments)


def verdicts(path: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for cell in cells_of(path):
        name = cell["test"].rpartition("::")[2]
        found[name] = (*found.get(name, ()), cell["verdict"])
    return found


def test_what_comes_once_is_no_leak(shop: pytest.Pytester) -> None:
    """As of a pool that grows, since a connection that was in use has died."""
    once = "    except requests.ConnectionError:\n        if not kept:\n            kept.append("
    tests = TESTS.replace("    except requests.ConnectionError:\n        kept.append(", once)
    assert tests != TESTS
    shop.makepyfile(test_shop=tests)
    matrix(shop, "-k", "survives or leaks", "--resilience-report=out.json")
    assert verdicts(shop.path / "out.json")["test_leaks"] == ("survived", "survived")


OPENED = """
import socket
import pytest
import requests

@pytest.fixture(scope="session")
def opened():
    found = [socket.socket()]
    yield found
    for each in found:
        each.close()

def test_it(url, opened):
    {always}
    try:
        requests.get(url, timeout=5)
    except requests.ConnectionError:
        {under_faults}
"""


@pytest.mark.parametrize(
    ("always", "under_faults", "verdict"),
    [("pass", "opened.append(socket.socket())", "leak"),
     ("opened.append(socket.socket())", "pass", "survived")],
)  # fmt: skip
def test_what_is_opened_for_all_hides_no_leak_of_the_first_test(
    shop: pytest.Pytester, always: str, under_faults: str, verdict: str
) -> None:
    """What a test leaves without any fault is none."""
    shop.makepyfile(test_shop=OPENED.format(always=always, under_faults=under_faults))
    matrix(shop, "--resilience-report=out.json")
    assert verdicts(shop.path / "out.json")["test_it"] == (verdict, "survived")


def test_every_verdict(shop: pytest.Pytester) -> None:
    result = matrix(shop, "--resilience-report=out.json")
    result.assert_outcomes(passed=7, failed=1, skipped=1)
    document: dict[str, Any] = json.loads((shop.path / "out.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert verdicts(shop.path / "out.json") == EXPECTED
    # good: 2 + 2 of "refused", 5 of "slow"; bad: three of "refused", which counts twice
    assert document["score"] == 60.0
    assert (document["seed"], document["complete"]) == (3, True)
    cells = {(cell["test"], cell["experiment"]): cell for cell in document["cells"]}
    failed = cells["test_shop.py::test_fails", "refused"]
    assert failed["reason"].startswith("ConnectionError: ")
    assert failed["repeat"] == (
        "pytest test_shop.py::test_fails --chaos-seed=3 --chaos-profile=ci "
        "--chaos-experiment=refused"
    )
    assert failed["timeline"][0]["kind"] == "fault"
    assert "is skipped" in cells["test_shop.py::test_skipped", "slow"]["reason"]
    assert cells["test_shop.py::test_leaks", "refused"]["reason"].startswith(
        "it left 1 socket behind\nat test_shop.py:"
    )
    result.stdout.fnmatch_lines([
        "refused: 1 not run, 1 not applicable, 1 survived, 1 degraded, 1 leak, 1 failed, *",
        "slow: 1 not run, 1 not applicable, 5 survived, 1 invalid",
        "resilience gate FAILED: 60 %, coverage 71.4 %",
    ])  # fmt: skip


def test_a_cell_can_be_repeated_alone(shop: pytest.Pytester) -> None:
    result = shop.runpytest(
        "test_shop.py::test_fails", "--chaos-profile=ci", "--chaos-experiment=refused"
    )
    result.assert_outcomes(failed=1)
    line = "repeat: pytest test_shop.py::test_fails --chaos-seed=3 --chaos-profile=ci "
    result.stdout.fnmatch_lines(
        ["*Connection refused*", "refused: refusal*hit 1", f"{line}--chaos-experiment=refused"]
    )


def test_a_baseline_run_that_failed_is_repeated_as_one(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_own="""
        import pytest
        import requests

        @pytest.mark.chaos("network_failure", rate=1)
        def test_fails_by_its_own_chaos(url):
            requests.get(url, timeout=5)
    """
    )
    result = shop.runpytest("test_own.py", "--chaos-profile=ci", "--chaos-matrix")
    result.assert_outcomes(failed=1)
    line = "repeat: pytest test_own.py::test_fails_by_its_own_chaos --chaos-seed=3 "
    result.stdout.fnmatch_lines([f"{line}--chaos-profile=ci --chaos-matrix"])


GOOD = ("-k", "degrades or survives")


def test_where_a_mark_makes_no_sense_there_is_nothing_to_judge(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_shop="""
        import pytest

        @pytest.mark.chaos("network_failure", mode="refused")
        def test_it():
            pass
    """
    )
    refused = matrix(shop)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines("*mode='refused' (did you mean 'refuse'?)*")
    refused.stdout.no_fnmatch_line("*gate*")


def test_the_gate(shop: pytest.Pytester) -> None:
    passed = matrix(shop, *GOOD, "--resilience-gate=100")
    assert passed.ret == 0
    passed.stdout.fnmatch_lines([
        "A cell is one test under one experiment; the matrix runs each test without chaos first. *",
        "resilience gate passed: 100 %, 100 asked, coverage 100 %",
    ])  # fmt: skip
    failed = matrix(shop, "-k", "fails or survives", "--resilience-gate=70")
    assert failed.ret == 10
    failed.stdout.fnmatch_lines([
        "failed: test_shop.py::test_fails under 'refused'",
        "    ConnectionError: *",
        "    repeat: pytest test_shop.py::test_fails --chaos-seed=3 --chaos-profile=ci *",
        "resilience gate FAILED: 66.6 %, 70 asked, coverage 100 %",
        "  - the score is 66.6 %, below the 70 asked",
        "  - 1 bad cell that no baseline accepts: 1 failed",
    ])  # fmt: skip
    nothing = matrix(shop, "-k", "exempt", "--resilience-gate=0")
    assert nothing.ret == 10
    nothing.stdout.fnmatch_lines(["  - nothing was run: *"])
    idle = matrix(shop, "-k", "elsewhere or survives", "--resilience-gate=100")
    assert idle.ret == 0
    idle.stdout.fnmatch_lines(["resilience gate passed: 100 %, 100 asked, coverage 100 %"])


def test_a_baseline_lists_what_may_break(shop: pytest.Pytester) -> None:
    chosen = ("-k", "fails or survives")
    matrix(shop, *chosen, "--resilience-report=out.json")
    assert main(["baseline", str(shop.path / "out.json"), "-o", str(shop.path / "known")]) == 0
    known = matrix(shop, *chosen, "--resilience-baseline=known", "--resilience-report=out.json")
    assert known.ret == 0
    known.stdout.fnmatch_lines([
        "note: 1 bad cell is accepted by the baseline, and out of the score",
        "resilience gate passed: 100 %, coverage 100 %",
        "* 2 passed, 7 deselected, 4 cells (3 good, 1 accepted) in *",
    ])  # fmt: skip
    assert json.loads((shop.path / "out.json").read_text())["score"] == 100.0
    new = matrix(shop, "-k", "fails or leaks", "--resilience-baseline=known")
    assert new.ret == 10
    new.stdout.fnmatch_lines(
        ["leak: test_shop.py::test_leaks under 'refused', not in the baseline"]
    )
    other = matrix(shop, "--chaos-experiment=slow", "--resilience-baseline=known")
    assert other.ret == pytest.ExitCode.USAGE_ERROR
    other.stderr.fnmatch_lines(["ERROR: known:*: configuration * is not that of this run, *"])


def test_reports_of_every_kind(shop: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = shop.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    files = [f"--resilience-report=out/report.{kind}" for kind in ("json", "md", "html")]
    result = matrix(shop, *GOOD, *files, "--junitxml=junit.xml")
    assert result.ret == 0
    assert "<!DOCTYPE html>" in (shop.path / "out/report.html").read_text()
    assert "| refused |" in (shop.path / "out/report.md").read_text() + summary.read_text()
    assert "[chaos: refused]" in (shop.path / "junit.xml").read_text()


def test_shards_are_merged(shop: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    whole = matrix(shop, "--resilience-report=whole.json")
    for index in (1, 2):
        part = f"--resilience-shard={index}/2"
        matrix(shop, part, f"--resilience-report=part{index}.json")
    parts = [str(shop.path / f"part{index}.json") for index in (1, 2)]
    merged = shop.path / "all.json"
    assert main(["merge", *parts, "-o", str(merged)]) == 0
    assert whole.ret == 1
    assert verdicts(merged) == verdicts(shop.path / "whole.json")
    assert main(["gate", str(merged), "--score", "50"]) == 1
    assert main(["report", str(merged), "-o", str(shop.path / "all.md")]) == 0
    capsys.readouterr()
    assert main(["merge", parts[0], "-o", str(merged)]) == 2
    assert "error: " in capsys.readouterr().err


@runs(
    *("--chaos-matrix", "--chaos-profile=ci", "--resilience-report=out.json"),
    *("-p", "xdist", "-n2"),
    conftest=SERVER,
    test_shop=TESTS,
    others={"pyproject.toml": PROFILE},
)
def test_under_xdist_it_is_the_same(ran: pytest.RunResult, ran_in: Path) -> None:
    ran.stdout.fnmatch_lines(["resilience gate FAILED: 60 %, coverage 71.4 %"])
    assert verdicts(ran_in / "out.json") == EXPECTED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chaos-matrix"], "--chaos-matrix needs --chaos-profile: a profile says which *"),
        (["--chaos-profile=ci", "--resilience-gate", "95"], "--resilience-gate needs --chaos-mat*"),
        (
            ["--resilience-report-only"],
            "--resilience-report-only needs --chaos-matrix or --chaos-explore: without them *",
        ),
        (
            [
                *("--chaos-matrix", "--chaos-profile=ci"),
                *("--resilience-gate=90", "--resilience-report-only"),
            ],
            "--resilience-gate fails runs and --resilience-report-only fails none; give one of *",
        ),
        (
            ["--chaos-matrix", "--chaos-profile=ci", "--no-chaos", "--resilience-gate=1"],
            "--resilience-gate cannot be with --no-chaos: without chaos there is nothing to judge",
        ),
        (["--chaos-experiment=x"], "--chaos-experiment needs --chaos-profile: it chooses among *"),
        (
            ["--chaos-profile=ci", "--chaos-experiment=x"],
            "--chaos-experiment=x: the profiles have *; give one of these",
        ),
        (
            ["--chaos-matrix", "--chaos-profile=ci", "--resilience-gate=101"],
            "*outside 0..100; give a number between",
        ),
        (["--chaos-matrix", "--chaos-profile=ci", "--resilience-gate=most"], "*give a number*"),
        (["--chaos-matrix", "--chaos-profile=ci", "--resilience-shard=3/2"], "*such as 1/3"),
        (
            ["--chaos-matrix", "--chaos-profile=ci", "--resilience-report=a.pdf"],
            "*a.pdf: .pdf is *",
        ),
        (
            ["--chaos-matrix", "--chaos-profile=ci", "--resilience-report=/proc/a/b.md"],
            "*cannot be *",
        ),
        (
            ["--chaos-matrix", "--chaos-profile=ci", "--resilience-baseline=no"],
            "*no is not there; * writes a baseline *",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_test_runs(
    shop: pytest.Pytester, arguments: list[str], message: str
) -> None:
    result = shop.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_a_plain_run_may_have_in_addopts_what_the_matrix_heeds(shop: pytest.Pytester) -> None:
    shop.makeini("[pytest]\naddopts = --resilience-report=out.json --resilience-gate=95")
    shop.runpytest("-k", "survives").assert_outcomes(passed=1, deselected=8)


@pytest.mark.parametrize("flag", ["--collect-only", "--setup-plan", "--setup-only", "--no-chaos"])
def test_a_run_without_tests_or_chaos_has_nothing_to_judge(
    shop: pytest.Pytester, flag: str
) -> None:
    shop.makeini("[pytest]\naddopts = --resilience-report=out.json --resilience-gate=95")
    result = matrix(shop, "-k", "survives", flag)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*resilience matrix*")
    assert not (shop.path / "out.json").exists()


def test_bad_expectations_are_refused(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest

        @pytest.mark.resilience(allowed=["ConnectionError"])
        def test_it():
            pass
    """)
    result = matrix(shop)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *: allowed=?'ConnectionError'?: give exception types *"])


def test_profiles_are_listed(shop: pytest.Pytester) -> None:
    result = shop.runpytest("--chaos-list")
    result.stdout.fnmatch_lines(["profile ci", "  refused: refusal, *", "  slow: latency 1ms, *"])

"""`python -m pytest_resilience`: what it says, and the status that it ends with."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_resilience.__main__ import main
from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.report_files import write_report
from tests.report.conftest import cell
from tests.report.conftest import report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "all.json"
    bad = cell("failed", "b", reason="OSError: 1", repeat="pytest b")
    write_report(found, report(cell("survived", "a"), bad, cell("never_fired", "c")))
    return found


def test_the_gate_names_each_reason_and_explains_its_words(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", str(path), "--score", "80"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        INTRODUCTION,
        "never fired: c under 'slow'",
        "failed: b under 'slow'",
        "    OSError: 1",
        "    repeat: pytest b",
        "resilience gate FAILED: 50 %, 80 asked, coverage 100 %",
        "  - the score is 50 %, below the 80 asked",
        "  - 1 bad cell that no baseline accepts: 1 failed",
        "  - 1 cell proves nothing: 1 never fired",
    ]


def test_a_baseline_takes_what_it_lists_out_of_the_score(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "known.txt"
    assert main(["baseline", str(path), "-o", str(known)]) == 0
    assert main(["gate", str(path), "--score", "80", "--baseline", str(known)]) == 1
    assert capsys.readouterr().out.endswith(
        "note: 1 bad cell is accepted by the baseline, and out of the score\n"
        "resilience gate FAILED: 100 %, 80 asked, coverage 100 %\n"
        "  - 1 cell proves nothing: 1 never fired\n"
    )


@pytest.mark.parametrize("command", ["merge", "report"])
def test_a_report_that_is_written_explains_its_words(
    path: Path, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "written.md"
    assert main([command, str(path), "-o", str(written)]) == 0
    assert capsys.readouterr().out == f"{written}: 3 cells, score 50 %\n{INTRODUCTION}\n"
    assert INTRODUCTION in written.read_text()


@pytest.mark.parametrize(
    "arguments", [["gate", "none.json"], ["gate", "{path}", "--score", "101"], ["merge", "none"]]
)
def test_bad_usage_has_a_status_of_its_own(
    path: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each.format(path=path) for each in arguments]
    output = ["-o", str(tmp_path / "out.json")] if arguments[0] == "merge" else []
    assert main([*given, *output]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_cells_that_fail_alike_are_told_in_one_unless_each_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "alike.json"
    alike = [cell("failed", "a", name, reason="OSError: 1") for name in ("refuse", "reset")]
    write_report(path, report(*alike))
    assert main(["gate", str(path)]) == 1
    told = capsys.readouterr().out
    assert "failed: a under 'refuse'\n    OSError: 1\n    also under: reset\n" in told
    assert main(["gate", str(path), "-v"]) == 1
    whole = capsys.readouterr().out
    assert "also under" not in whole
    assert "failed: a under 'reset'\n" in whole


def test_how_much_is_said_of_a_bad_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "alike.json"
    reason = "OSError: 1\nits cause\nat shop.py:2 in price"
    write_report(path, report(*(cell("failed", "a", name, reason=reason) for name in ("x", "y"))))

    def told(style: str) -> list[str]:
        assert main(["gate", str(path), f"--tb={style}"]) == 1
        return capsys.readouterr().out.partition(f"{INTRODUCTION}\n")[2].splitlines()[:4]

    assert told("auto")[:3] == ["failed: a under 'x'", "    OSError: 1", "    its cause"]
    assert told("line") == [
        "failed: a under 'x'", "    OSError: 1", "    at shop.py:2 in price", "    also under: y",
    ]  # fmt: skip
    assert told("no")[:2] == ["failed: a under 'x'", "failed: a under 'y'"]

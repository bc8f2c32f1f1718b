"""`python -m pytest_resilience`: what it says, and the status that it ends with."""

from __future__ import annotations

import copy
import json
import resource

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.__main__ import main
from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.report_files import write_report
from pytest_resilience.report.run_report import Report
from tests.report.conftest import cell
from tests.report.conftest import report
from tests.values import one_sentence


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


REPORT = Report(
    cells=(
        Cell(
            test="a.py::a",
            experiment="e",
            verdict=CellVerdict.FAILED,
            timeline=(TimelineEntry(at=1.0, kind=EntryKind.LOG, source="s", text="t"),),
        ),
    ),
    configuration="c0ffee",
    profiles=("p",),
    seed=1,
    started_at="2026-01-01T00:00:00+00:00",
).to_json()
BASELINE = "# configuration: c0ffee\nfailed  e  a.py::a\n"


def places(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a document is."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*above, key))


VALUES = {
    "null": "null", "true": "true", "negative": "-1", "a part": "-0.5", "zero": "0",
    "huge": "1" + "0" * 400, "digits": "9" * 5000, "NaN": "NaN", "Infinity": "Infinity",
    "infinite": "1e999", "large": "1e308", "empty": '""', "text": '"x"', "lines": '"a\\nb"',
    "escapes": '"\\u001b[31m\\u0007\\n::error::x"', "surrogate": '"\\ud800"', "NUL": '"\\u0000"',
    "list": "[]", "numbers": "[1]", "lists": '[["a"]]', "object": "{}", "other": '{"a": 1}',
    "deep": "[" * 100_000 + "]" * 100_000, "nested": '{"a":' * 900 + "1" + "}" * 900,
    "long": '"' + "x" * 100_000 + '"', "none": None,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("good.json").write_text(json.dumps(REPORT))
    Path("known.txt").write_text(BASELINE)
    return tmp_path


COMMANDS = (
    ("gate", "{}"),
    ("gate", "{}", "--baseline", "known.txt"),
    ("report", "{}", "-o", "out.md"),
    ("report", "{}", "-o", "out.html"),
    ("report", "{}", "-o", "out.json"),
    ("merge", "{}", "-o", "merged.json"),
    ("baseline", "{}", "-o", "new.txt"),
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> int:
    """Run a command; its status, once what it said has been looked at."""
    try:
        status = main(arguments)
    except SystemExit as ended:  # by argparse, with its usage
        capsys.readouterr()
        return int(str(ended.code))
    said = capsys.readouterr()
    assert status in {0, 1, 2}
    if status == 2:
        assert one_sentence(said.err[:-1]), (arguments, said.err[:400])
        assert said.err.startswith("error: ")
    else:
        assert said.err == ""
        lines = said.out.split("\n")
        assert all(line.isprintable() for line in lines)
        assert not any(line.lstrip().startswith(("::", "##[")) for line in lines)
    return status


def try_all(capsys: pytest.CaptureFixture[str], name: str) -> set[int]:
    return {run(capsys, *(each.format(name) for each in command)) for command in COMMANDS}


def with_value(place: tuple[Any, ...], value: str | None) -> str:
    """The report as a text, with something else in one place, or without it."""
    data = copy.deepcopy(REPORT)
    at: Any = data
    for step in place[:-1]:
        at = at[step]
    if value is None:
        del at[place[-1]]
        return json.dumps(data)
    at[place[-1]] = "here"
    return json.dumps(data).replace('"here"', value)


@pytest.mark.parametrize("place", list(places(REPORT)), ids=lambda place: ".".join(map(str, place)))
def test_every_value_of_a_report(
    folder: Path, capsys: pytest.CaptureFixture[str], place: tuple[Any, ...]
) -> None:
    for value in VALUES.values():
        Path("r.json").write_text(with_value(place, value))
        try_all(capsys, "r.json")


FILES = {
    "empty": b"", "UTF-16": json.dumps(REPORT).encode("utf-16"), "binary": bytes(range(256)),
    "zeros": b"\0" * 100, "a list": b"[]", "half": json.dumps(REPORT).encode()[:-5],
    "more": json.dumps(REPORT).encode() + b"x", "deep": b'{"a":' * 100_000,
    "Latin-1": json.dumps(REPORT).replace("a.py", "ä.py").encode("latin-1")[:50],
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_report(
    folder: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    Path("r.json").write_bytes(FILES[what])
    assert try_all(capsys, "r.json") == {2}


@pytest.mark.parametrize("name", [".", "none.json", "/dev/null", "/dev/zero", "x" * 300])
def test_places_without_a_report(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert try_all(capsys, name) == {2}


def test_a_report_with_a_byte_order_mark(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(REPORT).encode())
    assert 2 not in try_all(capsys, "r.json")


HEAD = "# configuration: c0ffee"
LINES = {
    "nothing": [""],
    "no configuration": ["failed  e  a"],
    "two configurations": [HEAD, "# configuration: 0ddba11"],
    "a configuration of escapes": ["# configuration: \x1b[31m"],
    "one space": [HEAD, "failed e a"],
    "half a surrogate": [HEAD, 'failed  "e\\ud800"  a'],
    "brackets": [HEAD, 'failed  "' + "[" * 10_000 + '"  a'],
    "no text": [HEAD, 'failed  "\\x"  a'],
    "backslashes": [HEAD, 'failed  "' + "\\" * 20_001],
    "another verdict": [HEAD, "\x1b[31m  e  a"],
    "a good verdict": [HEAD, "survived  e  a"],
    "no day": [HEAD, "failed  e  a  # x; until 2026-13-45"],
    "foreign digits": [HEAD, "failed  e  a  # x; until ٢٠٢٦-01-01"],
    "year 0": [HEAD, "failed  e  a  # x; until 0000-00-00"],
    "half a waiver": [HEAD, "failed  e  a  #" + " " * 20_000 + ";until"],
    "a long line": [HEAD, "x" * 300_000],
    "spaces": [HEAD, "failed  " + "a " * 20_000 + "\x01"],
    "a line twice": [HEAD, "failed  e  a", "failed  e  a"],
}
TAKEN = {"half a surrogate", "brackets"}  # strange names, but names


@pytest.mark.parametrize("what", LINES)
def test_every_line_of_a_baseline(
    folder: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    Path("b.txt").write_text("\n".join(LINES[what]), encoding="utf-8")
    status = run(capsys, "gate", "good.json", "--baseline", "b.txt")
    assert (status != 2) is (what in TAKEN)
    run(capsys, "baseline", "good.json", "-o", "b.txt")


@pytest.mark.parametrize("data", [bytes(range(256)), "x".encode("utf-16")])
def test_files_that_are_no_baseline(
    folder: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    Path("b.txt").write_bytes(data)
    assert run(capsys, "gate", "good.json", "--baseline", "b.txt") == 2
    assert run(capsys, "baseline", "good.json", "-o", "b.txt") == 2
    assert Path("b.txt").read_bytes() == data


SCORES = ["nan", "-1", "101", "inf", "x", "1e999", "9" * 5000, "", "²", "0x10", "-0", "50"]


@pytest.mark.parametrize("score", SCORES)
def test_every_score(folder: Path, capsys: pytest.CaptureFixture[str], score: str) -> None:
    status = run(capsys, "gate", "good.json", f"--score={score}")
    assert status == (1 if score in {"-0", "50"} else 2)


@pytest.mark.parametrize("path", [".", "/dev/null", "/dev/full", "/proc/x", "good.json/x", "", "d"])
def test_nothing_but_files_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """A device would be replaced by a file, where the rights are there for it."""
    Path("d").mkdir()
    before = Path(path).stat().st_mode if Path(path).exists() else None
    for command in ("report", "merge", "baseline"):
        assert run(capsys, command, "good.json", "-o", path) == 2
    assert (Path(path).stat().st_mode if Path(path).exists() else None) == before


def test_a_report_may_claim_to_be_of_many_parts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory for a list of those that are missing would be more than there is."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    Path("r.json").write_text(with_value(("shard", "count"), "1000000000"))
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, limits[1]))
    try:
        assert main(["merge", "r.json", "-o", "all.json"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    said = capsys.readouterr().err
    assert said.startswith("error: shard 2, 3, 4, ")
    assert "21, … of 1000000000 is missing" in said


def test_the_same_part_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "merge", "good.json", "good.json", "-o", "all.json") == 2

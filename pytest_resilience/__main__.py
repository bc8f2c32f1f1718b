"""`python -m pytest_resilience`: what is done with reports when the tests are over."""

from __future__ import annotations

import argparse
import datetime
import functools
import sys

from collections.abc import Sequence
from pathlib import Path

from pytest_resilience.chaos.parsing.messages import counted
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.gate import baseline_of
from pytest_resilience.report.gate import judge
from pytest_resilience.report.gate import problem_texts
from pytest_resilience.report.gate import read_baseline
from pytest_resilience.report.report_files import check_place
from pytest_resilience.report.report_files import check_writable
from pytest_resilience.report.report_files import read_report
from pytest_resilience.report.report_files import write_report
from pytest_resilience.report.report_files import write_text
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import merge


__all__ = ["main"]

PASSED, FAILED, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 passed, 1 the gate did not, 2 it makes no sense."""
    given = _parser().parse_args(arguments)
    try:
        status: int = given.run(given)
    except (ConfigurationError, OSError) as error:
        print(printable(f"error: {with_page(error)}"), file=sys.stderr)  # noqa: T201  # as below
        return USAGE
    return status


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_resilience", description="Works on reports of the chaos matrix."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    merging = commands.add_parser("merge", help="make one report of those of all shards")
    merging.add_argument("reports", nargs="+", type=Path, metavar="REPORT.json")
    merging.add_argument("-o", "--output", required=True, type=Path, help="where to write it")
    merging.set_defaults(run=_merge)

    gate = commands.add_parser("gate", help="fail if a report is not good enough")
    gate.add_argument("report", type=Path, metavar="REPORT.json")
    gate.add_argument("--score", type=float, default=None, help="the least that passes, 0 to 100")
    gate.add_argument("--baseline", type=Path, help="the cells that are known to break")
    gate.add_argument(
        "-v", "--verbose", action="store_true", help="show each cell, also those that fail alike"
    )
    gate.add_argument(
        "--tb",
        choices=("auto", "line", "no"),
        default="auto",
        help="of each bad cell all, its error and place, or its name alone",
    )
    gate.set_defaults(run=_gate)

    report = commands.add_parser("report", help="write a report in another form")
    report.add_argument("report", type=Path, metavar="REPORT.json")
    report.add_argument(
        "-o", "--output", required=True, type=Path, help="its suffix decides: .json, .md, .html"
    )
    report.set_defaults(run=_report)

    baseline = commands.add_parser("baseline", help="write down what a report says is broken")
    baseline.add_argument("report", type=Path, metavar="REPORT.json")
    baseline.add_argument("-o", "--output", required=True, type=Path, help="the baseline")
    baseline.set_defaults(run=_baseline)
    return parser


def _say(what: object) -> None:
    print(printable(str(what)))  # noqa: T201  # it is what a command is for


def _merge(given: argparse.Namespace) -> int:
    check_writable(given.output)
    merged = merge([(str(path), read_report(path)) for path in given.reports])
    return _write(merged, given.output)


def _report(given: argparse.Namespace) -> int:
    check_writable(given.output)
    return _write(read_report(given.report), given.output)


def _write(report: Report, path: Path) -> int:
    write_report(path, report)
    _say(f"{path}: {counted(len(report.cells), 'cell')}, score {report.score}")
    _say(INTRODUCTION)
    return PASSED


def _gate(given: argparse.Namespace) -> int:
    if given.score is not None and not 0 <= given.score <= 100:
        raise ConfigurationError(
            f"--score={given.score:g} is outside 0..100; give a number between"
        )
    result = judge(
        read_report(given.report),
        threshold=given.score,
        baseline=None if given.baseline is None else read_baseline(given.baseline),
        today=datetime.datetime.now(datetime.UTC).date(),
    )
    _say(INTRODUCTION)
    for text in problem_texts(result.problems, whole=given.verbose, style=given.tb):
        _say(text)
    for note in result.notes:
        _say(f"note: {note}")
    _say(result)
    return PASSED if result.passed else FAILED


def _baseline(given: argparse.Namespace) -> int:
    check_place(given.output)
    earlier = read_baseline(given.output) if given.output.exists() else None
    baseline = baseline_of(read_report(given.report), earlier)
    write_text(given.output, baseline.text())
    _say(f"{given.output}: {counted(len(baseline.known), 'cell')}, each a test under an experiment")
    return PASSED


if __name__ == "__main__":
    # What the terminal cannot show is escaped, as on stderr and by pytest.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    raise SystemExit(main())

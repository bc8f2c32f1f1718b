"""Cells in a JUnit file: test cases of their own, in a suite of their own.

The suite of the tests that pytest has written stays as it is. A cell is named after its test,
so that dashboards show both together: `tests.test_shop.test_pay` and, below it,
`tests.test_shop.test_pay[chaos: slow payments]`.
"""

from __future__ import annotations

import platform
import re

from collections import Counter
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from pytest_resilience.report.cell import Cell
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.run_report import Report


__all__ = ["add_suite", "suite_of"]

_NAME: Final = "resilience matrix"
# What XML 1.0 cannot hold, however it is escaped.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def add_suite(path: Path, report: Report, gate: GateResult, *, prefix: str | None = None) -> None:
    """Add the cells to the JUnit file that pytest has written.

    `prefix` is what pytest puts before class names. Raises OSError and
    `xml.etree.ElementTree.ParseError`.
    """
    document = ElementTree.parse(path)  # noqa: S314  # what pytest has just written
    document.getroot().append(suite_of(report, gate, prefix=prefix))
    document.write(path, encoding="utf-8", xml_declaration=True)


def suite_of(report: Report, gate: GateResult, *, prefix: str | None = None) -> ElementTree.Element:
    """The `testsuite`; bad cells that the baseline accepts count as skipped, as xfail does."""
    accepted = {cell.key for cell in gate.accepted}
    tags = [_tag(cell, cell.key in accepted) for cell in report.cells]
    counts = Counter(tags)
    suite = ElementTree.Element(
        "testsuite",
        name=_NAME,
        errors=str(counts["error"]),
        failures=str(counts["failure"]),
        skipped=str(counts["skipped"]),
        tests=str(len(tags)),
        time=f"{sum(cell.duration for cell in report.cells):.3f}",
        timestamp=_legal(report.started_at),
        hostname=_legal(platform.node()),
    )
    for cell, tag in zip(report.cells, tags, strict=True):
        classname, name = _names(cell.test, prefix)
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_legal(classname),
            name=_legal(f"{name}[chaos: {cell.experiment}]"),
            time=f"{cell.duration:.3f}",
        )
        if tag:
            message = _legal(f"{_label(cell, tag)}{cell.reason or cell.verdict.meaning}")
            found = ElementTree.SubElement(case, tag, type=cell.verdict.value, message=message)
            found.text = _legal(_details(cell))
        else:
            ElementTree.SubElement(case, "system-out").text = _legal(_details(cell))
    return suite


def _tag(cell: Cell, accepted: bool) -> str:
    """The element that says how a cell ended; "" for one that is good."""
    if cell.verdict.good:
        return ""
    if cell.verdict.proves_nothing:
        return "error"
    return "failure" if cell.verdict.bad and not accepted else "skipped"


def _label(cell: Cell, tag: str) -> str:
    known = "accepted by the baseline, " if cell.verdict.bad and tag == "skipped" else ""
    return f"{known}{cell.verdict.words}: "


def _names(test: str, prefix: str | None) -> tuple[str, str]:
    """Class name and name of a test, as pytest writes them for its id."""
    # As `_pytest.junitxml.mangle_test_address` does it, which is private.
    address, bracket, parameters = test.partition("[")
    path, *names = address.split("::")
    module = re.sub(r"\.py$", "", path.replace("/", "."))
    *above, name = [module, *names]
    return ".".join([*([prefix] if prefix else []), *above]), name + bracket + parameters


def _details(cell: Cell) -> str:
    """Everything about a cell, for the text of its element."""
    lines = [f"{cell.verdict.words}: {cell.verdict.meaning}"]
    lines += ["flaky: several runs of it disagreed"] * cell.flaky
    lines += [f"experiment: {cell.what or cell.experiment}", f"weight: {cell.weight:g}"]
    lines += cell.reason.splitlines()
    lines += [f"repeat: {cell.repeat}"] * bool(cell.repeat)
    lines += [f"+{each.at:.3f}s {each.source}: {each.text}" for each in cell.timeline]
    return "\n".join(lines)


def _legal(text: str) -> str:
    return _ILLEGAL.sub(lambda found: f"#x{ord(found[0]):02X}", text)

"""What the JSON report of a run says of its cells, for tests that have let one be written."""

from __future__ import annotations

import json

from collections.abc import Iterable
from pathlib import Path
from typing import Any


Cell = tuple[str, str]  # the test, and its experiment


def cells_of(report: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(report.read_text())["cells"]
    return found


def verdicts_of(cells: Iterable[dict[str, Any]]) -> dict[Cell, str]:
    return {(each["test"], each["experiment"]): each["verdict"] for each in cells}

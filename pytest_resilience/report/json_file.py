"""Reports as JSON files: written a cell a line, read with file, line and key of what is wrong."""

from __future__ import annotations

import json
import re

from pathlib import Path
from typing import Any
from typing import NoReturn

from pytest_resilience.chaos.parsing.texts import read_text
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.json_reader import MisfitError
from pytest_resilience.report.run_report import Report


__all__ = ["json_text", "read_report"]

_SPACE = re.compile(r"[ \t\r\n]*")


def json_text(report: Report, gate: GateResult | None = None) -> str:
    """The document, one cell a line, so that two reports can be compared by line; ASCII only."""
    data = report.to_json(gate.score if gate else None)
    cells = [_line(cell) for cell in data.pop("cells")]
    head = "".join(f'  "{key}": {_line(value)},\n' for key, value in data.items())
    rows = ",\n".join(f"    {cell}" for cell in cells)
    return f'{{\n{head}  "cells": [\n{rows}\n  ]\n}}\n'


def read_report(path: Path) -> Report:
    """The report in a file. Raises ConfigurationError with file, line and key."""
    text = read_text(path)
    try:
        return Report.from_json(json.loads(text, parse_constant=_refuse))
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{path}:{error.lineno}: no JSON: {error.msg} at column {error.colno}"
        ) from None
    except MisfitError as error:
        raise ConfigurationError(f"{path}:{_line_of(text, error.path)}: {error}") from None
    except (RecursionError, ValueError) as error:  # too deep; a number of too many digits
        raise ConfigurationError(f"{path} cannot be read: {error}") from None


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _line_of(text: str, path: tuple[str | int, ...]) -> int:
    """The line on which a value stands, or the nearest to it that is there."""
    at = _skip(text, 0)
    for step in path:
        found = _member(text, at, step)
        if found is None:
            break
        at = found
    return text.count("\n", 0, at) + 1


def _member(text: str, at: int, step: str | int) -> int | None:
    """The position at which the value `step` of the object or list at `at` begins."""
    decoder = json.JSONDecoder()  # it says where a value ends, which is all that is needed here
    at = _skip(text, at + 1)
    number = 0
    found = None
    while text[at] not in "]}":
        key: str | int = number
        if isinstance(step, str):
            key, at = decoder.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # over the colon
        if key == step:
            found = at  # of equal keys the last one holds
        _, at = decoder.raw_decode(text, at)
        at = _skip(text, at)
        at = _skip(text, at + 1) if text[at] == "," else at
        number += 1
    return found


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at

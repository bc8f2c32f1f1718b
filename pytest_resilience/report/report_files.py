"""Reports as files: by suffix, checked before the tests run, and never half written.

JSON is written a cell a line, and read with file, line and key of what is wrong.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tempfile

from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from typing import NoReturn

from pytest_resilience.chaos.parsing.experiment_specs import read_text
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import missing_extra
from pytest_resilience.report.formats import markdown_text
from pytest_resilience.report.formats import page_text
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.json_reader import MisfitError
from pytest_resilience.report.run_report import Report


__all__ = [
    "SUFFIXES", "append_summary", "check_place", "check_writable", "json_text", "read_report",
    "write_report", "write_reports", "write_text",
]  # fmt: skip

_SPACE = re.compile(r"[ \t\r\n]*")


def check_writable(path: Path) -> None:
    """Raises ConfigurationError now for what `write_report` could not write later.

    Directories that are missing are made: who may make them is known only by trying.
    """
    _writer(path)
    if path.suffix == ".html" and importlib.util.find_spec("jinja2") is None:
        raise missing_extra(f"{path}: an HTML report", "Jinja2", "report")
    check_place(path)


def check_place(path: Path) -> None:
    """Raises ConfigurationError now if `write_text` could not write a file there later."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"{path} is no file; give the path of a file")
        if path.exists():
            path.open("ab").close()  # asks for the right to write, and changes nothing
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from None


def write_report(path: Path, report: Report, gate: GateResult | None = None) -> None:
    """Write a report as its suffix says; a reader sees all of it, or what was there before.

    Raises ConfigurationError for an unknown suffix, and OSError.
    """
    write_text(path, _writer(path)(report, gate))


def write_reports(
    paths: Iterable[Path], report: Report, gate: GateResult | None = None
) -> list[str]:
    """Write each; a line for each that could not be. One that fails keeps no other back."""
    failures = []
    for path in paths:
        try:
            write_report(path, report, gate)
        except Exception as error:
            failures.append(f"{path} was not written: {type(error).__name__}: {error}")
    return failures


def append_summary(path: Path, report: Report, gate: GateResult | None = None) -> None:
    """Add the Markdown to a file that others write to as well, as `$GITHUB_STEP_SUMMARY` is.

    Raises OSError.
    """
    with path.open("ab") as file:
        file.write(_encoded(f"\n{markdown_text(report, gate)}"))


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step. Raises OSError."""
    target = Path(os.path.realpath(path))  # a link stays one
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile: its files are for their owner's eyes only.
    # Beside the target: a file is replaced in one step within one file system alone.
    half = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        half.write_bytes(_encoded(text))
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)


def _encoded(text: str) -> bytes:
    # Names of files that are no UTF-8 come as lone surrogates.
    return text.encode(errors="backslashreplace")


def _writer(path: Path) -> Callable[[Report, GateResult | None], str]:
    if path.suffix not in SUFFIXES:
        known = ", ".join(sorted(SUFFIXES))
        raise ConfigurationError(
            f"{path}: {path.suffix or 'no suffix'} is no kind of report; known: {known}"
        )
    return SUFFIXES[path.suffix]


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


SUFFIXES: dict[str, Callable[[Report, GateResult | None], str]] = {
    ".html": page_text,
    ".json": json_text,
    ".md": markdown_text,
}

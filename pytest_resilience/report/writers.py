"""Reports as files, by suffix: checked before the tests run, never half written."""

from __future__ import annotations

import importlib.util
import os
import tempfile

from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import missing_extra
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.json_file import json_text
from pytest_resilience.report.markdown import markdown_text
from pytest_resilience.report.run_report import Report


__all__ = [
    "SUFFIXES",
    "append_summary",
    "check_place",
    "check_writable",
    "write_report",
    "write_reports",
    "write_text",
]


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


def _html(report: Report, gate: GateResult | None) -> str:
    from pytest_resilience.report.page import page_text

    return page_text(report, gate)


SUFFIXES: dict[str, Callable[[Report, GateResult | None], str]] = {
    ".html": _html,
    ".json": json_text,
    ".md": markdown_text,
}

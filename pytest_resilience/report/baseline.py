"""The baseline: cells that are known to break, committed beside the code, a line each."""

from __future__ import annotations

import datetime
import json
import re

from dataclasses import dataclass
from pathlib import Path

from pytest_resilience.chaos.parsing.texts import read_text
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.run_report import Report


__all__ = ["Baseline", "KnownCell", "baseline_of", "read_baseline"]

_HEADING = "# pytest-resilience baseline: what is known to break"
_SHAPE = "verdict  experiment  test  # reason; until 2026-12-31"
_BARE = r'(?!["#])\S+(?: (?!#)\S+)*'  # a field as it is: two spaces end it, " #" does too
_FIELD = rf'("(?:[^"\\]|\\.)*"|{_BARE})'
# Names may hold single spaces, so two of them, or a tab, are what separates fields.
_GAP = r"(?:\t|  )\s*"
_LINE = re.compile(rf"{_FIELD}{_GAP}{_FIELD}{_GAP}{_FIELD}(?:\s+#(.*))?")
_CONFIGURATION = re.compile(r"#\s*configuration:\s*(\S+)")
_WAIVER = re.compile(r"(.*\S)\s*;\s*until\s+(\d{4}-\d{2}-\d{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCell:
    """A cell that may be bad; with `reason` and `until`, a waiver that ends.

    Attributes:
        verdict: as bad as this, and no worse.
        experiment: the experiment's name.
        test: pytest's id of the test.
        reason: why it is waived; "" if it is only known.
        until: the last day on which it is.
    """

    verdict: CellVerdict
    experiment: str
    test: str
    reason: str = ""
    until: datetime.date | None = None

    def allows(self, cell: Cell) -> bool:
        """True if a bad cell is no worse than this one."""
        return cell.verdict.severity <= self.verdict.severity

    def expired(self, today: datetime.date) -> bool:
        """True after the last day."""
        return self.until is not None and today > self.until

    def __str__(self) -> str:
        line = "  ".join(map(_field, (self.verdict.value, self.experiment, self.test)))
        return f"{line}  # {self.reason}; until {self.until}" if self.until else line


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """All that is known to break under one configuration.

    Attributes:
        configuration: the fingerprint of the experiments it was made with.
        known: the cells, each once.
        place: where the configuration is written, as `file:line`, for messages.
    """

    configuration: str
    known: tuple[KnownCell, ...] = ()
    place: str = "baseline"

    def check(self, report: Report) -> None:
        """Raises ConfigurationError if the report comes from other experiments."""
        if self.configuration != report.configuration:
            raise ConfigurationError(
                f"{self.place}: configuration {self.configuration} is not that of this run, "
                f"{report.configuration}: experiments or their parameters have changed, so "
                "nothing can be compared; look at what breaks now and write the baseline anew"
            )

    def by_key(self) -> dict[tuple[str, str], KnownCell]:
        """The known cells by `Cell.key`."""
        return {(each.test, each.experiment): each for each in self.known}

    def text(self) -> str:
        """The file: the lines in the order of `sort`, below a heading."""
        # In an order of their own, so that two branches conflict only where both changed a line.
        lines = sorted(map(str, self.known))
        head = [_HEADING, f"# {_SHAPE}", f"# configuration: {self.configuration}"]
        return "\n".join([*head, *lines]) + "\n"


def baseline_of(report: Report, earlier: Baseline | None = None) -> Baseline:
    """Make a baseline of a report's bad cells; waivers of `earlier` are kept where they hold."""
    before = earlier.by_key() if earlier else {}
    found = []
    for cell in report.cells:
        if cell.verdict.bad:
            known = before.get(cell.key)
            if known is None or not known.allows(cell):
                known = KnownCell(verdict=cell.verdict, experiment=cell.experiment, test=cell.test)
            found.append(known)
    return Baseline(configuration=report.configuration, known=tuple(found))


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file. Raises ConfigurationError with file, line and what is wrong."""
    lines = read_text(path).split("\n")
    configuration, place = "", ""
    known: dict[tuple[str, str], KnownCell] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        where = f"{path}:{number}"
        if heading := _CONFIGURATION.fullmatch(line):
            configuration, place = heading[1], where
        elif line and not line.startswith("#"):
            cell = _parse(line, where)
            if (cell.test, cell.experiment) in known:
                raise ConfigurationError(
                    f"{where}: {cell.test} under {cell.experiment!r} is listed already; one line "
                    "a cell"
                )
            known[cell.test, cell.experiment] = cell
    if not configuration:
        raise ConfigurationError(f"{path}:1: the line '# configuration: …' is missing")
    return Baseline(configuration=configuration, known=tuple(known.values()), place=place)


def _field(text: str) -> str:
    bare = text.isprintable() and re.fullmatch(_BARE, text)
    return text if bare else json.dumps(text)


def _parse(line: str, where: str) -> KnownCell:
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise ConfigurationError(
            f"{where}: {shortened(line)} is no line of a baseline; write: {_SHAPE} (two spaces "
            "between)"
        )
    verdict, experiment, test = (_unquoted(parts[number], where) for number in (1, 2, 3))
    if not any(each.bad and each == verdict for each in CellVerdict):
        allowed = ", ".join(each for each in CellVerdict if each.bad)
        raise ConfigurationError(
            f"{where}: verdict {shortened(verdict)}: what can be known is {allowed}"
        )
    reason, until = _waiver(parts[4], where)
    return KnownCell(
        verdict=CellVerdict(verdict), experiment=experiment, test=test, reason=reason, until=until
    )


def _unquoted(field: str, where: str) -> str:
    if not field.startswith('"'):
        return field
    try:
        return str(json.loads(field))
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{where}: {shortened(field)} is no text in quotes") from None


def _waiver(comment: str | None, where: str) -> tuple[str, datetime.date | None]:
    if comment is None:
        return "", None
    # Half a waiver, or a misspelt one, would hold for ever.
    parts = _WAIVER.fullmatch(comment.strip())
    if parts is None:
        raise ConfigurationError(
            f"{where}: {shortened(comment.strip())} is no waiver; write: # reason; until 2026-12-31"
        )
    try:
        return parts[1].strip(), datetime.date.fromisoformat(parts[2])
    except ValueError as error:
        raise ConfigurationError(f"{where}: until {parts[2]}: {error}") from None

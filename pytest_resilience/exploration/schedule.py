"""Schedules: which operations of a test have which faults, as a text in one line.

    connect(payments:443)@shop.pay#1=refuse, write(config.json)@shop.save#2+=disk_full

Each step is a kind of operation, its target, the function that does it, its number among those of
the same kind, target and function, and the fault. `later` is none: who does the operation goes on
after all other threads and tasks. `cancel_woken` happens to another task, which is cancelled when
it has just been woken after the operation, before it goes on, and `cancel_waiting` to one that
waits for others as the operation begins. Without `@…` it is the number among those of all
functions. `+` says from there on: the fault stays for this kind and target, whoever asks. Steps are
separated by commas. What is not plain stands in double quotes, as in JSON.
"""

from __future__ import annotations

import json
import re

from collections.abc import Iterable
from typing import Final
from typing import NamedTuple

from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.operation import TURNS
from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.possible_faults import CRASHES
from pytest_resilience.chaos.possible_faults import LATER
from pytest_resilience.chaos.possible_faults import OF_OTHERS
from pytest_resilience.chaos.possible_faults import fault_names
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "Point", "Schedule", "ScheduleError", "Site", "Step", "format_schedule", "kind_name",
    "parse_schedule",
]  # fmt: skip

_EXAMPLE: Final = "connect(payments:443)#1=refuse"
_MOST_DIGITS = 9  # of a number
_KIND = re.compile(r"[a-z_]+(?:\.[a-z_]+)?")
_PLAIN_TARGET = re.compile(r'[^"()\\\s](?:[^"()\\]*[^"()\\\s])?')
_PLAIN_FUNCTION = re.compile(r'[^"#=,@\\()\s]+')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(r"[0-9]+")
_FAULT = re.compile(r"[a-z0-9_]+")
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[\w.]+|.", re.DOTALL)  # as much as an error shows


class ScheduleError(ConfigurationError):
    """A text that is no schedule.

    Attributes:
        column: where in the text, from 1.
    """

    def __init__(self, text: str, column: int, expected: str) -> None:
        self.column = column
        word = _WORD.match(text, column - 1)
        found = "the end" if word is None else shortened(word[0])
        super().__init__(
            f"{shortened(text)}, column {column}: found {found}, expected {expected}; "
            f"write it as {_EXAMPLE!r}"
        )


def _kind_names() -> dict[str, str]:
    """Each kind by its short name: without what comes before the dot, where that is clear."""
    kinds = sorted(_explored())
    found = {kind.partition(".")[2]: kind for kind in kinds}
    return found | {kind.partition(".")[2]: kind for kind in kinds if kind.startswith("network.")}


def _explored() -> list[str]:
    return [kind for kind in KINDS | TURNS if fault_names(kind)]


_BY_NAME: Final = _kind_names()
_NAMES: Final = {kind: name for name, kind in _BY_NAME.items()}


def kind_name(kind: str) -> str:
    """A kind of operation as it is written: `connect`, `execute`, `database.connect`."""
    return _NAMES.get(kind, kind)


class Site(NamedTuple):
    """Where operations are done, named so that it stays the same when lines are moved.

    Attributes:
        kind: of operation.
        target: the peer, database, file or service, as in every run of the test.
        function: of the user's code, as `module.function`; of a response, the one that asked for
            it; "" for any.
    """

    kind: str
    target: str
    function: str = ""

    def __str__(self) -> str:
        target = _quoted(self.target, _PLAIN_TARGET)
        function = f"@{_quoted(self.function, _PLAIN_FUNCTION)}" if self.function else ""
        return f"{kind_name(self.kind)}({target}){function}"


class Point(NamedTuple):
    """One operation: the `number`th at its site, from 1."""

    site: Site
    number: int

    def __str__(self) -> str:
        return f"{self.site}#{self.number}"


class Step(NamedTuple):
    """A fault at one operation, or from it on.

    Attributes:
        point: the operation.
        fault: the name of a fault that its kind can have.
        lasts: whether it stays for all later operations of the kind on the target.
    """

    point: Point
    fault: str
    lasts: bool = False

    @property
    def cell(self) -> str:
        """Site, fault and mode: what is told of all numbers together."""
        return f"{self.point.site}{'+' * self.lasts}={self.fault}"

    @property
    def is_order(self) -> bool:
        """Whether nothing happens but that all others go first."""
        return self.fault == LATER

    @property
    def is_of_others(self) -> bool:
        """Whether nothing happens to the operation itself."""
        return self.fault in OF_OTHERS

    @property
    def is_crash(self) -> bool:
        """Whether nobody lives to see it."""
        return self.fault in CRASHES

    def __str__(self) -> str:
        return f"{self.point}{'+' * self.lasts}={self.fault}"


Schedule = tuple[Step, ...]


def format_schedule(schedule: Iterable[Step]) -> str:
    """The text that `parse_schedule` reads back."""
    return ", ".join(map(str, schedule))


def parse_schedule(text: str) -> Schedule:
    """The steps of a text, of which there is at least one. Raises ScheduleError."""
    reader = _Reader(text)
    steps = [_step(reader)]
    while not reader.ended:
        reader.expect(",", "a comma, or the end")
        steps.append(_step(reader))
    points = [each.point for each in steps]
    for number, point in enumerate(points):
        if point in points[:number]:
            raise ConfigurationError(f"{shortened(text)}: {point} has two faults; keep one")
    crash = next((each for each in steps[:-1] if each.is_crash), None)
    if crash is not None:
        raise ConfigurationError(
            f"{shortened(text)}: {crash} is a crash, after which nothing happens; put it last"
        )
    return tuple(steps)


class _Reader:
    """A text, and how far it is read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.space()

    @property
    def ended(self) -> bool:
        self.space()
        return self._at >= len(self._text)

    def space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def error(self, expected: str, back: int = 0) -> ScheduleError:
        return ScheduleError(self._text, self._at - back + 1, expected)

    def take(self, pattern: re.Pattern[str], expected: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self.error(expected)
        self._at = found.end()
        return found[0]

    def has(self, literal: str) -> bool:
        there = self._text.startswith(literal, self._at)
        self._at += len(literal) * there
        return there

    def expect(self, literal: str, expected: str) -> None:
        if not self.has(literal):
            raise self.error(expected)

    def text(self, plain: re.Pattern[str], expected: str) -> str:
        """Plain, or in quotes."""
        if not self._text.startswith('"', self._at):
            return self.take(plain, expected)
        quoted = self.take(_QUOTED, "a closing double quote")
        try:
            value = str(json.loads(quoted))
        except ValueError:
            raise self.error(f"{expected} in quotes as JSON has it", len(quoted)) from None
        if not value:
            raise self.error(expected, len(quoted))
        return value


def _step(reader: _Reader) -> Step:
    reader.space()
    kind = _kind(reader)
    reader.expect("(", "( and the target")
    target = reader.text(_PLAIN_TARGET, "a target such as host:port")
    reader.expect(")", ") behind the target")
    function = ""
    if reader.has("@"):
        function = reader.text(_PLAIN_FUNCTION, "a function such as shop.pay")
    reader.expect("#", "# and a number")
    digits = reader.take(_NUMBER, "a number from 1")
    if not int(digits[: _MOST_DIGITS + 1]) or len(digits) > _MOST_DIGITS:
        raise reader.error("a number from 1", len(digits))
    lasts = reader.has("+")
    reader.expect("=", "= and a fault")
    fault = reader.take(_FAULT, "a fault")
    names = fault_names(kind)
    if fault not in names:
        known = f"a fault of {kind_name(kind)}{nearest(fault, names)}: {', '.join(names)}"
        raise reader.error(known, len(fault))
    if lasts and (fault in CRASHES or fault in OF_OTHERS):
        raise reader.error("a fault that stays, as + says", len(fault))
    point = Point(Site(kind, target, function), int(digits))
    return Step(point, fault, lasts)


def _kind(reader: _Reader) -> str:
    name = reader.take(_KIND, "a kind of operation")
    kind = _BY_NAME.get(name, name)
    if not fault_names(kind):
        known = ", ".join(sorted(_NAMES.get(each, each) for each in _explored()))
        raise reader.error(
            f"a kind of operation{nearest(name, [*_BY_NAME, *KINDS])}: {known}", len(name)
        )
    return kind


def _quoted(text: str, plain: re.Pattern[str]) -> str:
    bare = plain.fullmatch(text) and text.isprintable() and "  " not in text
    return text if bare else json.dumps(text)

"""Names of the operations of one run: kind, target, function, and number within these."""

from __future__ import annotations

import functools
import os

from collections.abc import Sequence
from typing import NamedTuple
from typing import TypeAlias

from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import MESSAGES
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.possible_faults import OF_HTTP
from pytest_resilience.chaos.possible_faults import names_unawaited
from pytest_resilience.exploration.schedule import Point
from pytest_resilience.exploration.schedule import Site
from pytest_resilience.exploration.target_names import TargetNames


__all__ = ["Noted", "NotedFile", "Numbering", "Seen"]

_new = tuple.__new__


class Noted(NamedTuple):
    """An operation that has no name yet.

    Attributes:
        operation: itself.
        place: where in the user's code, `file:line in function`.
        faults: the names of those that it can have; a server that speaks first has less.
        at: monotonic seconds.
    """

    operation: Operation
    place: str
    faults: tuple[str, ...]
    at: float


NotedFile: TypeAlias = tuple[str, str, str, float]
"""What is done with a file, which nobody awaits: kind, target, place, and monotonic seconds."""


class Seen(NamedTuple):
    """One operation of a run.

    Attributes:
        point: its name.
        overall: its number among those of its kind and target, whichever function does them.
        place: where in the user's code, `file:line in function`.
        faults: the names of those that it can have.
        at: monotonic seconds.
    """

    point: Point
    overall: int
    place: str
    faults: tuple[str, ...]
    at: float


class Numbering:
    """Names and numbers the operations of one run."""

    def __init__(self, names: TargetNames) -> None:
        self._names = names
        self._numbers: dict[tuple[str, ...], int] = {}
        self._asking: dict[int, str] = {}  # by connection, for the response that comes next
        self._opened: dict[int, str] = {}  # by connection
        self._spoken: set[int] = set()  # the connections on which something was sent
        self._seen: list[Seen] = []

    def all(self, noted: Sequence[Noted | NotedFile]) -> list[Seen]:
        """Those of a run, in order, of which some may have their names already."""
        seen = self._seen
        for each in noted[len(seen) :]:
            if isinstance(each, Noted):
                seen.append(self._of(*each))
            else:
                kind, target, place, at = each
                point, overall = self._next(kind, target, _function(place))
                seen.append(_new(Seen, (point, overall, place, names_unawaited(kind), at)))
        return seen

    def _of(self, operation: Operation, place: str, faults: tuple[str, ...], at: float) -> Seen:
        kind, function = operation.kind, _function(place)
        if self._is_unasked(operation):
            faults = tuple(each for each in faults if each not in OF_HTTP)
        if kind in MESSAGES:
            function = self._who_asks(operation, function)
        elif kind == CONNECT:
            self._opened[operation.tcp.connection] = function
        point, overall = self._next(kind, operation.target, function)
        return Seen(point, overall, place, faults, at)

    def _next(self, kind: str, target: str, function: str) -> tuple[Point, int]:
        """The next point, and its number among those of its kind and target."""
        target, numbers = self._names.of(kind, target), self._numbers
        site = kind, target
        number = overall = numbers[site] = numbers.get(site, 0) + 1
        if function:
            here = kind, target, function
            number = numbers[here] = numbers.get(here, 0) + 1
        return _point(kind, target, function, number), overall

    def _is_unasked(self, operation: Operation) -> bool:
        """Whether a server speaks first, which one of HTTP does not."""
        connection = operation.tcp.connection
        return (
            operation.kind == RECEIVE
            and operation.http.request is None
            and connection in self._opened
            and connection not in self._spoken
        )

    def _who_asks(self, operation: Operation, function: str) -> str:
        """Who sends; of a response, who has asked for it.

        Who receives it is not known in every run: silence begins before anybody can receive, and
        what a server says unasked, as a greeting, comes to a loop before or after somebody waits.
        """
        connection = operation.tcp.connection
        if operation.kind == RECEIVE:
            if connection and operation.call_site.loop_objects:
                function = self._opened.get(connection, function)
            return self._asking.pop(connection, function)
        if not operation.tcp.partial:  # else it is that which comes next, whoever sends meanwhile
            self._asking.setdefault(connection, function)
        self._spoken.add(connection)
        return function


@functools.lru_cache(maxsize=4096)
def _point(kind: str, target: str, function: str, number: int) -> Point:
    """The same object in every run, which takes less to find than to make."""
    return Point(Site(kind, target, function), number)


@functools.lru_cache(maxsize=4096)
def _function(place: str) -> str:
    """`shop.pay` of `src/shop.py:12 in pay`."""
    file, _, function = place.rpartition(" in ")
    if not file:
        return ""
    module = os.path.basename(file.rpartition(":")[0]).removesuffix(".py")
    return f"{module}.{function}"

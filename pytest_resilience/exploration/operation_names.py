"""Names of the operations of one run, the same in every run: kind, target, function, and number."""

from __future__ import annotations

import datetime
import functools
import os
import re
import tempfile
import threading

from collections import Counter
from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Final
from typing import NamedTuple
from typing import TypeAlias

from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import MESSAGES
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.possible_faults import OF_HTTP
from pytest_resilience.chaos.possible_faults import names_unawaited
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.exploration.schedule import Point
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Site


__all__ = [
    "Noted",
    "NotedFile",
    "Numbering",
    "Seen",
    "TargetNames",
    "may_be_random",
    "patterns_in",
    "renamed",
    "varying",
]

_EPHEMERAL: Final = 32768  # ports from here on are given by the system, and differ each time
_ADDRESS = re.compile(r"(127\.\d+\.\d+\.\d+|localhost|::1|\[::1\]):(\d+)")
_TEMPORARY = re.compile(r"tmp[a-z0-9_]{8}(?![a-z0-9_])")
_TEMPORARY_NAME = "tmp*"
_NUMBERED = re.compile(r"([^\W\d][\w-]*?)\d+")  # such as a pool is given by its library
_RANDOM = re.compile(r"\d{4}|(?=[a-f]*\d)[0-9a-f]{8}")
_NUMBER = re.compile(r"(?<!\d)\d+(?!\d)")
_SECONDS_OF_A_DAY: Final = 86400
_DIGITS_OF_A_YEAR: Final = 4
_DIGITS_OF_SECONDS: Final = 10  # since 1970; milliseconds and so on have more
_WORD_AT_END, _WORD_AT_START = re.compile(r"[^\W_]*$"), re.compile(r"^[^\W_]*")


class TargetNames:
    """Names of targets that are the same in every run, whatever ports and folders it is given.

    Ports that the system gives are numbered in the order in which they are met. Of files, the
    folder that is made for a test is left out, and what `tempfile` adds to a name.
    """

    def __init__(
        self, *, temporary: str = "", project: str = "", patterns: Iterable[Site] = ()
    ) -> None:
        """`temporary`: the folder below which each test has one of its own.

        `patterns`: kinds of operation, each with the name of files that it is done to, where `*`
        is in the place of what is another in each run.
        """
        self._folders = tuple(map(_as_folder, (temporary, tempfile.gettempdir(), project)))
        self._patterns: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
        for each in sorted(patterns, key=str):
            known = self._patterns.setdefault(each.kind, [])
            known.append((each.target, _expression(each.target)))
        self._ports: dict[str, int] = {}
        self._known: dict[str, str] = {}
        self._varying: dict[str, str] = {}  # also for what is done to them under faults alone

    def of(self, kind: str, target: str) -> str:
        """The name of the target of an operation of a kind."""
        name = self._known.get(target)
        if name is None:
            name = self._known[target] = self._of_target(target)
        if not self._patterns:
            return name
        pattern = self.pattern_of(kind, name) if _may_vary(target) else ""
        if pattern:
            self._varying[name] = pattern
        return pattern or self._varying.get(name, name)

    def pattern_of(self, kind: str, name: str) -> str:
        """The pattern that fits a name; "" for none."""
        known = self._patterns.get(kind, ())
        return next((pattern for pattern, each in known if each.fullmatch(name)), "")

    def _of_target(self, target: str) -> str:
        if target.startswith("/"):
            return self._of_path(target)
        address = _ADDRESS.fullmatch(target)
        return target if address is None else self._of_port(address[1], address[2])

    def _of_port(self, host: str, port: str) -> str:
        if int(port) < _EPHEMERAL:
            return f"{host}:{port}"
        number = self._ports.setdefault(port, len(self._ports) + 1)
        return f"localhost:port{number}"

    def _of_path(self, path: str) -> str:
        temporary, machine, project = self._folders
        if temporary and path.startswith(temporary):
            path = "tmp_path/" + path[len(temporary) :].partition("/")[2]
        elif path.startswith(machine):
            path = "tmp/" + path[len(machine) :]
        elif project and path.startswith(project):
            path = path[len(project) :]
        name, numbers, has_long = _without_random(path)
        if not numbers:
            return name
        own = has_long or os.getpid() in numbers or threading.get_native_id() in numbers
        return _without_momentary(name) if own else name


@functools.lru_cache(maxsize=4096)
def _without_random(path: str) -> tuple[str, frozenset[int], bool]:
    """The path, its numbers, and whether one is as long as that of a year, or of a time."""
    path = _TEMPORARY.sub(_TEMPORARY_NAME, path)
    found = _NUMBER.findall(path)
    has_long = any(len(each) >= _DIGITS_OF_A_YEAR for each in found)
    return path, frozenset(map(int, found)), has_long


def _without_momentary(path: str) -> str:
    """Without what another session has differently: numbers of the process, and the time."""
    main = threading.main_thread()  # what it has done may be named by another one
    process, thread, ident = os.getpid(), threading.get_native_id(), threading.get_ident()
    own = {process, thread, ident, main.ident, main.native_id}
    now = MACHINE_CLOCK.time()
    days = (datetime.datetime.fromtimestamp(now, zone) for zone in (None, datetime.UTC))

    def numbered(found: re.Match[str]) -> str:
        number, digits = int(found[0]), len(found[0])
        seconds = number / 10 ** (digits - _DIGITS_OF_SECONDS)
        is_time = digits >= _DIGITS_OF_SECONDS and abs(seconds - now) < _SECONDS_OF_A_DAY
        return "*" if is_time or number in own else found[0]

    for day in {each.date() for each in days}:
        path = _dated(day).sub("*", path)
    return _NUMBER.sub(numbered, path)


@functools.lru_cache(maxsize=8)
def _dated(day: datetime.date) -> re.Pattern[str]:
    """Finds that day, with the time that follows it."""
    year, month, number = f"{day:%Y %m %d}".split()
    return re.compile(
        rf"(?<!\d){year}(?P<sign>[-_.]?){month}(?P=sign){number}(?:[-T_:. ]?\d{{2,}})*(?!\d)"
    )


def may_be_random(site: Site) -> bool:
    """Whether it may be a file whose name is another in each run: a long number, or a digest."""
    return "/" in site.target and _RANDOM.search(site.target) is not None


def varying(first: Iterable[Site], second: Iterable[Site]) -> frozenset[Site]:
    """Patterns of names that two runs of one test do not share: files' that are random, or
    numbered ones, as of pools.

    A function that does as much of a kind to files of the one run as to files of the other is
    taken to do the same with them, in the same order.
    """
    one, other = [*first], [*second]
    alone = _by_function(one, other), _by_function(other, one)
    found = set()
    for kind, function in alone[0].keys() & alone[1].keys():
        targets = alone[0][kind, function], alone[1][kind, function]
        if len(targets[0]) == len(targets[1]):
            patterns = {_pattern(*pair) for pair in zip(*targets, strict=True)}
            found |= {Site(kind, each) for each in patterns if each}
    return frozenset(found)


def patterns_in(schedule: Schedule) -> frozenset[Site]:
    """Those that its steps are about, where it was found in another session."""
    sites = {Site(step.point.site.kind, step.point.site.target) for step in schedule}
    return frozenset(each for each in sites if "*" in each.target.replace(_TEMPORARY_NAME, ""))


def _by_function(run: list[Site], other: list[Site]) -> dict[tuple[str, str], list[str]]:
    """The targets that the `other` run has not, by the kind of operation and its function."""
    left = Counter(run) - Counter(other)
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for site in run:
        if left[site]:
            left[site] -= 1
            found[site.kind, site.function].append(site.target)
    return found


def _pattern(one: str, other: str) -> str:
    """Of two paths that have as many parts, or of two words with a number; "" for what are none."""
    parts = [*zip(one.split("/"), other.split("/"), strict=False)]
    if len(parts) < 2:
        return _pattern_of_numbered(one, other)
    if one.count("/") != other.count("/"):
        return ""
    return "/".join(a if a == b else _pattern_of_part(a, b) for a, b in parts)


def _pattern_of_numbered(one: str, other: str) -> str:
    words = _NUMBERED.fullmatch(one), _NUMBERED.fullmatch(other)
    alike = words[0] is not None and words[1] is not None and words[0][1] == words[1][1]
    return f"{words[0][1]}*" if words[0] is not None and alike else ""


def _may_vary(target: str) -> bool:
    return target.startswith("/") or _NUMBERED.fullmatch(target) is not None


def _pattern_of_part(one: str, other: str) -> str:
    """What begins and ends both, in whole words: letters can be the same by chance."""
    start = _WORD_AT_END.sub("", os.path.commonprefix([one, other]))  # noqa: RUF071  # letters
    rests = one[len(start) :], other[len(start) :]
    shared = os.path.commonprefix([each[::-1] for each in rests])[::-1]  # noqa: RUF071
    # Behind a sign: the word before that is another in each.
    end = _WORD_AT_START.sub("", shared)
    return f"{start}*{end}"


def _expression(pattern: str) -> re.Pattern[str]:
    pieces = pattern.split(_TEMPORARY_NAME)
    return re.compile(
        re.escape(_TEMPORARY_NAME).join(
            "[^/]*".join(map(re.escape, piece.split("*"))) for piece in pieces
        )
    )


@functools.lru_cache(maxsize=16)
def _as_folder(path: str) -> str:
    return f"{path.rstrip('/')}/" if path else ""


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


def renamed(run: Iterable[Seen], patterns: Iterable[Site]) -> Iterator[Seen]:
    """What a run did before patterns were known, by the names that it would have had with them."""
    names, numbers = TargetNames(patterns=patterns), Counter[Site]()
    for each in run:
        kind, target, function = each.point.site
        site = Site(kind, names.pattern_of(kind, target) or target, function)
        numbers[site] += 1
        yield each._replace(point=Point(site, numbers[site]))


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

"""The operations of one run, each by a name that is the same in every run; how many are a storm."""

from __future__ import annotations

import threading

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Protocol

from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import EXPECTANT
from pytest_resilience.chaos.operation import FETCH
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import OPEN_TO_WRITE
from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import TURNS
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.possible_faults import CANCEL
from pytest_resilience.chaos.possible_faults import CANCEL_WAITING
from pytest_resilience.chaos.possible_faults import CANCELS
from pytest_resilience.chaos.possible_faults import LATER
from pytest_resilience.chaos.possible_faults import OF_OTHERS
from pytest_resilience.chaos.possible_faults import fault_names
from pytest_resilience.chaos.possible_faults import possible_names
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import in_a_loop
from pytest_resilience.exploration.operation_names import Noted
from pytest_resilience.exploration.operation_names import NotedFile
from pytest_resilience.exploration.operation_names import Numbering
from pytest_resilience.exploration.operation_names import Seen
from pytest_resilience.exploration.operation_names import TargetNames
from pytest_resilience.exploration.schedule import Point
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Site
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.locks import fork_safe
from pytest_resilience.seeds import Stream


__all__ = [
    "AtStep",
    "CallLimit",
    "OperationLog",
    "Others",
    "StormError",
    "Watch",
    "calls_by_line",
    "differences",
    "is_at",
    "only_in",
    "opened_before",
    "shared",
]

_MAIN = threading.main_thread().ident
_MOST_SHOWN = 3
_OPENING = frozenset({CONNECT, OPEN_CONNECTION, OPEN, OPEN_TO_WRITE, CREATE})
_ON_WHAT_IS_OPEN = frozenset({RECEIVE, EXECUTE, COMMIT, FETCH, READ, WRITE})


class Others(Protocol):
    """The threads and tasks beside that which does an operation.

    Attributes:
        in_vain: the steps that let them go first, of whom none has done anything.
    """

    in_vain: set[Step]

    def is_possible(self, operation: Operation) -> bool:
        """Whether there are others who could go first."""

    @property
    def may_go_first(self) -> Callable[[], object]:
        """Tells whether there may be any who could, whatever is done here."""

    def begin(self, operation: Operation, step: Step) -> None:
        """Let them, as a step says."""

    def watch(self, operation: Operation, number: int) -> None:
        """A task awaits an operation, the `number`th of those that are seen, from 0.

        `OperationLog.cancels` is to be asked of a task that waits for others then, and from now
        on of those that others wake.
        """


class OperationLog:
    """Notes the operations of one run as they are about to happen, and says which have a fault.

    They are named when that is asked for: of a run without faults, when it is over.

    Attributes:
        schedule: the faults of this run.
        noted: the operations so far, in order.
        is_open: whether the test runs; what is done before and after is not its own doing.
    """

    def __init__(
        self,
        names: TargetNames,
        place_of: Callable[[Operation], str],
        *,
        schedule: Schedule = (),
        limit: CallLimit | None = None,
        others: Others | None = None,
    ) -> None:
        """Past the `limit` StormError is raised."""
        self.schedule = schedule
        self.noted: list[Noted | NotedFile] = []
        self.is_open = False
        self._numbering = Numbering(names)
        self._place_of = place_of
        self._limit = limit
        self._met: dict[Step, int] = {}
        self._others = others
        self._current = threading.local()
        self._lock = fork_safe(self, "_lock", threading.Lock)

    @property
    def seen(self) -> list[Seen]:
        """The operations so far, by name and in order."""
        with self._lock:
            return self._numbering.all(self.noted)

    def let_go(self) -> None:
        """Name all that has no name yet, and keep nothing open that operations were done with."""
        with self._lock:
            self._numbering.all(self.noted)
            self.noted.clear()

    def note_file(self, kind: str, names: tuple[str, ...], place: str) -> None:
        """As `observe`, of what is done with a file, where nothing can happen to that for now.

        `place`: where in the user's code.
        """
        if not (self.is_open and fault_names(kind)):
            return
        others = self._others
        if self._names_at_once or (others is not None and others.may_go_first()) or in_a_loop():
            self.observe(Operation(kind, names[0], names), place)
        else:  # nobody awaits it
            self.noted.append((kind, names[0], place, MACHINE_CLOCK.monotonic()))

    def observe(self, operation: Operation | None, place: str | None = None) -> None:
        """An operation is about to be decided on; None for one that has been observed before.

        `place`: where in the user's code, if that is known.
        """
        is_turn = operation is not None and operation.kind in TURNS
        if self.schedule and not is_turn:  # else one of ours, in the middle of what is decided on
            self._current.seen = None
        if operation is None or not (self.is_open and _is_explored(operation)):
            return
        others = self._others
        overtaken = others is not None and others.is_possible(operation)
        if is_turn and not overtaken:
            return
        faults = () if is_turn else possible_names(operation)
        if overtaken:
            faults = (*faults, LATER)
        if place is None:
            place = self._place_of(operation)
        noted = Noted(operation, place, faults, MACHINE_CLOCK.monotonic())
        if self._names_at_once:
            self._meet(noted, overtaken=overtaken)
        else:
            self.noted.append(noted)
        if others is not None and _may_be_awaited(operation, faults):
            others.watch(operation, self._number_of(noted))

    @property
    def _names_at_once(self) -> bool:
        """Whether an operation here needs its name when it is noted."""
        is_asked = bool(self.schedule) or self._limit is not None
        return is_asked or threading.get_ident() != _MAIN

    def _number_of(self, noted: Noted) -> int:
        """Among those that are noted: other threads note at the same time."""
        return next(at for at in reversed(range(len(self.noted))) if self.noted[at] is noted)

    def _meet(self, noted: Noted, *, overtaken: bool) -> None:
        """Note and name it, which may have to do with its thread, and the steps that have come."""
        with self._lock:
            self.noted.append(noted)
            number = self._number_of(noted)
            named = self._numbering.all(self.noted)
            seen = named[number]
            if noted.operation.kind not in TURNS:
                self._current.seen = seen
            for step in self.schedule:
                if is_at(step, seen) and (not step.is_of_others or (overtaken and step.is_order)):
                    self._met.setdefault(step, number)
        if self._limit is not None and seen.overall > self._limit.most:
            self._limit.check(named[: number + 1])
        if overtaken and self._others is not None:
            for step in self.schedule:
                if step.is_order and is_at(step, seen):
                    self._others.begin(noted.operation, step)

    def cancels(self, fault: str, number: int) -> bool:
        """Whether a task is to be cancelled that does not do the operation, as a fault says."""
        if not self.is_open:
            return False
        with self._lock:
            named = self._numbering.all(self.noted)
            seen = named[number]
            if fault not in seen.faults:
                named[number] = seen._replace(faults=(*seen.faults, fault))
            for step in self.schedule:
                if step.fault == fault and step not in self._met and is_at(step, seen):
                    self._met[step] = number
                    return True
        return False

    def strikes(self, step: Step) -> bool:
        """Whether the operation that is being decided on in this thread is one of a step."""
        seen: Seen | None = getattr(self._current, "seen", None)
        if seen is None or step not in self._met:
            return False
        site = seen.point.site
        if step.lasts:
            return (site.kind, site.target) == (step.point.site.kind, step.point.site.target)
        return is_at(step, seen)

    @property
    def of_others(self) -> frozenset[Step]:
        """The steps that have happened to others than who does the operation."""
        return frozenset(step for step in self._met if step.is_of_others)

    @property
    def in_vain(self) -> frozenset[Step]:
        """Those of them after which nobody has gone first."""
        return frozenset() if self._others is None else frozenset(self._others.in_vain)

    @property
    def cancelled_nobody(self) -> bool:
        """Whether one of the steps would cancel another task, and there was none to cancel."""
        return any(step.is_of_others and step.fault in CANCELS for step in self.unmet)

    @property
    def unmet(self) -> tuple[Step, ...]:
        """The steps whose operation has not come."""
        return tuple(step for step in self.schedule if step not in self._met)

    @property
    def needed(self) -> str:
        """What those of them need that happen to others, for people; "" for none."""
        names = {step.fault for step in self.unmet}
        return "".join(f"; `{each}` needs {OF_OTHERS[each]}" for each in OF_OTHERS if each in names)

    @property
    def positions(self) -> tuple[tuple[Step, int], ...]:
        """For each step that has come, how many operations came before it."""
        return tuple(self._met.items())


class Watch(Recorder):
    """Lets logs see what is done, as a recorder of the engine.

    Attributes:
        log: that of the run that goes on; None between runs.
    """

    def __init__(self, outer: Recorder | None = None) -> None:
        """`outer`: the recorder whose place it takes, which is told of all the same."""
        super().__init__(())
        self.log: OperationLog | None = None
        self._outer = outer
        if outer is not None:
            self.kinds, self.services = outer.kinds, outer.services

    def forked(self) -> None:
        if self._outer is not None:
            self._outer.forked()

    def assume_called(self, service: str) -> None:
        if self._outer is not None:
            self._outer.assume_called(service)

    def lacks(self, kinds: frozenset[str]) -> bool:
        return self._outer is not None and self._outer.lacks(kinds)

    def note(self, operation: Operation, *, again: bool = False) -> None:
        if self._outer is not None:
            self._outer.note(operation, again=again)
        if self.log is not None:
            self.log.observe(None if again else operation)

    def note_file(self, kind: str, names: tuple[str, ...], place: str) -> None:
        if self._outer is not None:
            self._outer.note_file(kind, names, place)
        if self.log is not None:
            self.log.note_file(kind, names, place)


@dataclass(frozen=True, slots=True)
class AtStep:
    """The trigger of a step's experiment: it hits where the log says so."""

    log: OperationLog
    step: Step

    def hits(self, number: int, elapsed: float, stream: Stream) -> bool:  # noqa: ARG002
        return self.log.strikes(self.step)

    def __str__(self) -> str:
        return str(self.step.point)


def is_at(step: Step, seen: Seen) -> bool:
    """Whether it is the operation of a step."""
    site, wanted = seen.point.site, step.point.site
    if (site.kind, site.target) != (wanted.kind, wanted.target):
        return False
    if not wanted.function:
        return seen.overall == step.point.number
    return site.function == wanted.function and seen.point.number == step.point.number


def _is_explored(operation: Operation) -> bool:
    """Whether a run may meet it again, as a whole: no part of a message, nothing out of reach."""
    if operation.advice or not operation.names:
        return False  # without a name it is for no fault, as the connect to a socket of files
    if not operation.is_plain:
        tcp = operation.tcp
        is_rest = tcp.partial and operation.kind == RECEIVE
        if tcp.mid_message or is_rest or tcp.form == EXPECTANT or tcp.unseen:
            return False
        if operation.http.in_process:
            return False
    return bool(fault_names(operation.kind))


def _may_be_awaited(operation: Operation, faults: tuple[str, ...]) -> bool:
    """Whether a task may await it: one that can be cancelled, or a library's own, for which others
    may wait.
    """
    return CANCEL in faults or (CANCEL_WAITING in fault_names(operation.kind) and in_a_loop())


def differences(first: Iterable[Seen], second: Iterable[Seen]) -> str:
    """What two runs did not do alike, in words; "" if they are alike.

    Not in which order: threads that do the same have an order of their own each time. And not how
    often what nobody of the test asks for is done, if at all: a client's own threads keep a
    connection up.
    """
    first, second = list(first), list(second)
    found = (("first", only_in(first, second)), ("second", only_in(second, first)))
    return "; ".join(f"only the {which} did {missing}" for which, missing in found if missing)


def only_in(run: Iterable[Seen], other: Iterable[Seen]) -> str:
    """What one run did, and another did not, in words and as of `differences`; "" if nothing."""
    one, two = (Counter(each.point for each in seen) for seen in (run, other))
    both, only = one & two, one - two
    missing = [each for each in only if each.site.function or Point(each.site, 1) not in both]
    shown = ", ".join(map(str, missing[:_MOST_SHOWN]))
    more = len(missing) - _MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def shared(first: Iterable[Seen], second: Iterable[Seen]) -> list[Seen]:
    """What the second did, as far as the first did it too."""
    points = {each.point for each in first}
    return [each for each in second if each.point in points]


def opened_before(run: Iterable[Seen]) -> bool:
    """Whether a run uses a connection or a file that was open before it, and so outlives it."""
    used, opened = set[str](), set[str]()
    for each in run:
        kind, target, _ = each.point.site
        if kind in _OPENING:
            opened.add(target)
        elif kind in _ON_WHAT_IS_OPEN:
            used.add(target)
    return not used <= opened


class StormError(BaseException):
    """Too many operations. Not an Exception: code that survives anything would catch it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimit:
    """How many operations of one kind on one target may be done.

    Attributes:
        most: in all.
        tries: of one line more are allowed than `most`: as many for each operation that it does
            without faults. Who asks twice, and tries each ten times, makes no storm. 0 for none.
        usual: operations without faults, by target and line, of the kind of which it does most.
    """

    most: int
    tries: int = 0
    usual: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def check(self, done: Sequence[Seen]) -> None:
        """There are more than `most` of the kind and target of the last. Raises StormError."""
        (kind, target, _), line = done[-1].point.site, done[-1].place
        most = self.most
        if self.tries:
            most = max(most, self.tries * self._usually(target, line))
            alike = (each for each in done if each.place == line)
            if sum(each.point.site[:2] == (kind, target) for each in alike) <= most:
                return
        raise StormError(f"more than {most} operations: {Site(kind, target)}")

    def _usually(self, target: str, line: str) -> int:
        """Operations of a line without faults. One that faults alone lead to may do as many as any.

        It may be a fallback, in the same loop.
        """
        here = self.usual.get((target, line))
        if here is not None:
            return here
        return max((each for (name, _), each in self.usual.items() if name == target), default=1)


def calls_by_line(done: Iterable[Seen]) -> dict[tuple[str, str], int]:
    """For each target and line the most operations of one kind."""
    found: dict[tuple[str, str], int] = {}
    numbers = Counter((each.point.site.kind, each.point.site.target, each.place) for each in done)
    for (_, target, line), number in numbers.items():
        found[target, line] = max(number, found.get((target, line), 0))
    return found

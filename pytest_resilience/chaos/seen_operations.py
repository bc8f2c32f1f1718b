"""The operations that an experiment saw: those that it counted, and those it did not match."""

from __future__ import annotations

import difflib
import threading

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.operation import BODILESS
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import FRAMED
from pytest_resilience.chaos.operation import PROCESS_START
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import HttpRequest
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.targets import Target
from pytest_resilience.locks import fork_safe


__all__ = [
    "NOTHING_CAME", "OVERTAKEN", "UNALTERABLE", "UNALTERABLE_REQUEST", "UNSEEN", "URGENT",
    "ConnectionNumbers", "CountedOperations", "UnmatchedOperation", "UnmatchedOperations",
]  # fmt: skip

NOTHING_CAME: Final = -1
OVERTAKEN: Final = "another experiment's fault happened in its place"
UNALTERABLE: Final = "its response had nothing to cut off, damage or drop"
UNALTERABLE_REQUEST: Final = "its request had nothing to cut off or damage"
UNSEEN: Final = "by no method of its socket"
URGENT: Final = "urgent data"
_LONGEST = 80  # characters of a statement
_COMPARED = 200  # characters: comparing takes the square of the length
_MOST_NEAREST = 8  # lines of "the code did" that anybody reads
_MOST_KEPT = 100  # of which those are shown that are most like the targets
_MOST_DIFFERENT = 1000  # after which none is kept any more: comparing takes time
_MOST_COUNTED: Final = 1000  # operations with a number of their own
_MOST_SHOWN = 20  # lines of them that anybody reads


class ConnectionNumbers:
    """Numbers the connections of each target, in the order in which an experiment meets them.

    Those of one process. With the second of each worker of a pool the same happens in every run;
    which of all workers comes second is left to chance.
    """

    def __init__(self, experiment: ChaosExperiment) -> None:
        self._numbered = [each for each in experiment.targets if each.connections is not None]
        self._numbers: dict[Target | str, dict[int, int]] = {}
        self._lock = fork_safe(self, "_lock", threading.Lock)

    def meet(self, operation: Operation) -> None:
        """Give its connection its numbers, if it has none yet: as shown, and of each target."""
        connection = operation.tcp.connection
        if not connection or connection in self._numbers.get(operation.target, ()):
            return
        about: list[Target | str] = [operation.target]
        about += [each for each in self._numbered if any(map(each.matches, operation.names))]
        with self._lock:
            for target in about:
                numbers = self._numbers.setdefault(target, {})
                numbers.setdefault(connection, len(numbers) + 1)

    def forget(self) -> None:
        """Begin at 1, as in a child, which may have connections of its parent."""
        self._numbers.clear()

    def of(self, target: Target | str, operation: Operation) -> int:
        """The number of the connection among those of `target`; 0 if it has none."""
        return self._numbers.get(target, {}).get(operation.tcp.connection, 0)

    @property
    def totals(self) -> dict[Target, int]:
        """How many connections each target had that is one of them."""
        return {each: len(self._numbers.get(each, ())) for each in self._numbered}


class _CountedOperation(NamedTuple):
    kind: str
    target: str
    what: HttpRequest | str
    elapsed: float

    @property
    def text(self) -> str:
        """For people, who read few of very many."""
        what = str(self.what)[:_LONGEST]
        return f"{self.kind} {self.target} {what}" if what else f"{self.kind} {self.target}"


class CountedOperations:
    """The operations that an experiment matched, by the numbers that its trigger goes by.

    Attributes:
        connections: the numbers of theirs; None where nothing goes by these.
        tell: called with each number and what `adopt` takes for it, in a child process; with
            nothing for one that is given back.
    """

    def __init__(self, connections: ConnectionNumbers | None) -> None:
        self.connections = connections
        self.tell: Callable[[int, Sequence[Any]], object] | None = None
        self._by_number: dict[int, _CountedOperation] = {}
        self._conversations = set[tuple[str, int]]()

    def goes_on(self, operation: Operation) -> bool:
        """Whether it is more of a conversation that was met before."""
        conversation = operation.kind, operation.tcp.connection
        was_met = conversation in self._conversations
        self._conversations.add(conversation)
        return was_met and operation.tcp.in_conversation

    def note(self, number: int, operation: Operation, elapsed: float) -> None:
        """Keep an operation; `elapsed`: seconds since the experiment began."""
        if number <= _MOST_COUNTED:
            target, connections = operation.target, self.connections
            if connections is not None and (connection := connections.of(target, operation)):
                target = f"{target}#{connection}"
            what = operation.http.request or operation.sql.statement[:_LONGEST]
            self._by_number[number] = _CountedOperation(operation.kind, target, what, elapsed)
            if self.tell is not None:
                self.tell(number, (operation.kind, target, str(what), elapsed))

    def forget(self, number: int) -> None:
        """Give a number back: the next operation has it."""
        self._by_number.pop(number, None)
        if self.tell is not None:
            self.tell(number, ())

    def adopt(self, number: int, *told: Any) -> None:
        """Keep what a child process has noted."""
        if told:
            self._by_number[number] = _CountedOperation(*told)
        else:
            self._by_number.pop(number, None)

    def lines(self, matched: int, *, with_times: bool = False) -> tuple[str, ...]:
        """Those kept, for people, of `matched`: like ones that follow each other share a line."""
        runs: list[list[int]] = []
        for number, each in sorted(self._by_number.items()):
            last = self._by_number.get(number - 1)
            if runs and last is not None and last.text == each.text:
                runs[-1].append(number)
            else:
                runs.append([number])
        shown = runs[:_MOST_SHOWN]
        hidden = matched - sum(map(len, shown))
        more = (f"and {hidden} more",) if hidden > 0 else ()
        return (*(self._line(run, with_times=with_times) for run in shown), *more)

    def _line(self, numbers: list[int], *, with_times: bool) -> str:
        first, last = numbers[0], numbers[-1]
        which = str(first) if first == last else f"{first}-{last}"
        text, began = self._by_number[first].text, self._by_number[first].elapsed
        if not with_times:
            return f"{which} {text}"
        ended = "" if first == last else f"..{self._by_number[last].elapsed:.3f}"
        return f"{which} {text} at {began:.3f}{ended} s"


class UnmatchedOperation(NamedTuple):
    """An operation without references to objects of the code under test.

    Attributes:
        statement: the beginning of the SQL text.
        unwritable: why nobody but the peer can write a response in HTTP.
        request: of HTTP, for experiments that are aimed at some: None where such a one would have
            to know it, and does not.
        others: as in `Operation` and its details.
    """

    kind: str
    target: str
    statement: str
    remark: str
    blocking: bool
    encrypted: bool
    unwritable: str
    multiplexed: bool
    conditions: frozenset[str] | None
    request: str | None

    @property
    def subject(self) -> str:
        """Target and statement, which are compared with the patterns of the targets."""
        return " ".join(filter(None, (self.target, self.statement, self.request or "")))


class UnmatchedOperations:
    """Keeps different operations, and of very many those that are most like the targets.

    Attributes:
        advice: how to reach an operation that was out of reach and may have been meant.
        certainty: how sure that is: 2 if it is one of the targets, 1 if it is but for a request
            that was not made, else 0.
        blind_spot: what may have been done that is not seen here; "" for nothing.
        refused_by: the parameters that are about others than operations that would be meant.
        met_target: whether something was done with a target, though nothing that can be hit.
        furthest: the most that came of a response to which nothing happened, in what the fault
            counts, items or bytes; `NOTHING_CAME` if none did.
        tell: called with this and each operation that is kept, in a child process.
    """

    def __init__(self, experiment: ChaosExperiment) -> None:
        self.advice = ""
        self.certainty = 0
        self.blind_spot = ""
        self.refused_by: dict[str, None] = {}
        self.met_target = False
        self.furthest = NOTHING_CAME
        self.tell: Callable[[UnmatchedOperations, UnmatchedOperation], object] | None = None
        self._experiment = experiment
        self._kept: dict[UnmatchedOperation, None] = {}
        self._rest = _MOST_DIFFERENT  # that may still be kept

    @property
    def all(self) -> tuple[UnmatchedOperation, ...]:
        """Those that are kept, in order."""
        return tuple(self._kept)

    @property
    def is_elsewhere(self) -> bool:
        """Whether there are targets, and nothing was done with one of them."""
        experiment = self._experiment
        return bool(experiment.target_patterns or experiment.targets) and not self.met_target

    def note(self, operation: Operation) -> None:
        """Keep an operation."""
        if operation.advice and not self._take_advice(operation):
            return
        if self._rest <= 0:
            return
        remark, tcp = operation.remark, operation.tcp
        request: str | None = ""
        if self._experiment.filters or tcp.form == BODILESS:
            remark, request = self._remark_on(operation), self._request_of(operation)
        unwritable = "more of a response" if tcp.partial else "no HTTP" * tcp.other
        found = UnmatchedOperation(
            operation.kind,
            operation.target,
            operation.sql.statement[:_LONGEST],
            remark,
            operation.blocking,
            tcp.encrypted,
            unwritable if operation.kind == RECEIVE else "",
            tcp.form == FRAMED,
            operation.sql.conditions,
            request,
        )
        if found not in self._kept:
            self.met_target = self.met_target or self._experiment.matches_target(operation)
            self._keep(found)
            if self.tell is not None:
                self.tell(self, found)

    def _keep(self, found: UnmatchedOperation) -> None:
        self._rest -= 1
        self._kept[found] = None
        self._forget()

    def adopt(
        self,
        found: UnmatchedOperation,
        advice: str,
        certainty: int,
        refused_by: Iterable[str],
        met_target: bool,
    ) -> None:
        """Keep what a child process did, with what it knows of it."""
        self.met_target = self.met_target or met_target
        if found not in self._kept and self._rest > 0:
            self._keep(found)
        self.refused_by.update(dict.fromkeys(refused_by))
        if advice:
            self.advise(advice, certainty)

    def advise(self, advice: str, certainty: int = 0) -> None:
        """Keep advice, if it is surer than what there is."""
        if not self.advice or certainty > self.certainty:
            self.advice, self.certainty = advice, certainty

    def _remark_on(self, operation: Operation) -> str:
        refusing = self._experiment.refusing(operation)
        if not refusing:
            needs_body = any(each.needs_body for each in self._experiment.faults)
            return (
                UNALTERABLE if needs_body and operation.tcp.form == BODILESS else operation.remark
            )
        self.refused_by.update(dict.fromkeys(refusing))
        refused = f"not {', '.join(refusing)}"
        return f"{operation.remark}; {refused}" if operation.remark else refused

    def _request_of(self, operation: Operation) -> str | None:
        """For an `UnmatchedOperation`."""
        experiment, request = self._experiment, operation.http.request
        if request is not None:
            return str(request)[:_LONGEST] if experiment.aims_at_requests else ""
        hidden = experiment.aims_at_requests and operation.kind in experiment.kinds
        return None if hidden and experiment.matches_target(operation, ahead=True) else ""

    def _take_advice(self, operation: Operation) -> bool:
        """Keep what to do about it; False if the experiment is not about such operations at all."""
        if not self._is_about(operation):
            return False
        in_process = operation.http.in_process
        if in_process and self._experiment.targets:
            if self._experiment.matches_target(operation):
                self.advise(operation.advice, 2)
            return True  # or they are elsewhere
        certainty = 0
        if operation.names and not in_process:
            if not self._experiment.matches_target(operation, ahead=True):
                return True
            certainty = 2 if self._experiment.matches_target(operation) else 1
        self.advise(operation.advice, certainty)
        return True

    def _is_about(self, operation: Operation) -> bool:
        """Whether it is about the network, or about databases, as the operation is.

        What a process that is started does is not known.
        """
        if operation.kind == PROCESS_START:
            return True
        family = "database." if operation.kind.startswith("database.") else "network."
        kinds = self._experiment.kinds - {CHECK_OUT, RESOLVE}  # these are seen all the same
        return any(kind.startswith(family) for kind in kinds)

    def _forget(self) -> None:
        """Keep those that are nearest to the targets; without targets, the first."""
        targets = self._experiment.target_patterns
        if not targets and len(self._kept) >= _MOST_KEPT:
            self._rest = 0
        elif targets and len(self._kept) >= 2 * _MOST_KEPT:
            self._kept = dict.fromkeys(_nearest(tuple(self._kept), targets, _MOST_KEPT, _by_end))

    def nearest(self) -> UnmatchedOperation | None:
        """That which is most like the targets; None where there is none."""
        targets = self._experiment.target_patterns
        if not targets or not self._kept:
            return None
        return _nearest(self.all, targets, 1, _likeness)[0]

    def few(self) -> tuple[UnmatchedOperation, ...]:
        """The few that are most like the targets, the nearest first; if all are few, in order."""
        targets = self._experiment.target_patterns
        if not targets or len(self._kept) <= _MOST_NEAREST:
            return self.all[:_MOST_NEAREST]
        return _nearest(self.all, targets, _MOST_NEAREST, _likeness)


def _nearest(
    kept: Sequence[UnmatchedOperation],
    targets: Sequence[str],
    most: int,
    likeness: Callable[[str, str], float],
) -> tuple[UnmatchedOperation, ...]:
    scores = {each: max(likeness(each.subject, target) for target in targets) for each in kept}
    return tuple(sorted(kept, key=scores.__getitem__, reverse=True)[:most])


def _likeness(one: str, other: str) -> float:
    """From 0 to 1, of the whole texts or of their ends, whichever is more."""
    whole = difflib.SequenceMatcher(None, one[-_COMPARED:], other[-_COMPARED:]).ratio()
    return max(whole, _by_end(one, other))


def _by_end(one: str, other: str) -> float:
    """As `_likeness`, of what follows the last `/`: faster, and mostly what a typo spares."""
    ends = one.rpartition("/")[2], other.rpartition("/")[2]
    return difflib.SequenceMatcher(None, ends[0][-_COMPARED:], ends[1][-_COMPARED:]).ratio()

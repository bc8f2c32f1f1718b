"""An experiment while it runs: its counts, and what it decides for each operation."""

from __future__ import annotations

import difflib
import math
import threading

from collections.abc import Callable
from dataclasses import dataclass

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.resources import PressureReading
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.forked_children import SharedState
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.triggers import is_left_to_chance
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.locks import fork_safe
from pytest_resilience.seeds import Stream


__all__ = ["ActiveExperiment", "Hit", "never_entered"]

_LONGEST = 80  # signs of a statement
_COMPARED = 200  # signs: comparing takes the square of the length
_MOST_TOLD = 8  # lines of "what the code did instead" that anybody reads
_MOST_KEPT = 100  # lines, of which those are told that are nearest to what was meant
_MOST_SEEN = 1000  # after which nothing is nearer: comparing takes time
_SEALED = "encrypted above the socket"
_POLLED = "begun without blocking, in no loop of asyncio or trio"
_FRAMED = "HTTP/2"
_UNKNOWN = "which knows but"


@dataclass(frozen=True, slots=True)
class Hit:
    """An experiment's fault that happens to an operation.

    Attributes:
        active experiment: the experiment that runs.
        fault: what happens.
        number: the operation's number among those the experiment matched, from 1.
    """

    active_experiment: ActiveExperiment
    fault: Fault
    number: int


class ActiveExperiment:
    """One run of an experiment.

    Attributes:
        experiment: what runs.
        must_fire: whether matching nothing is an error.
        started_at, ends_at: monotonic seconds.
        delay: seconds by which it held callers up, all together.
        pressure: what came of a pressure, once it is off.
    """

    def __init__(
        self,
        experiment: ChaosExperiment,
        *,
        seed: int,
        started_at: float,
        must_fire: bool = True,
        on_stop: Callable[[ActiveExperiment], None] = lambda _: None,
    ) -> None:
        """`on_stop` is called by `stop`: an engine takes it out of its active experiments."""
        self.experiment = experiment
        self.must_fire = must_fire
        self._on_stop = on_stop
        self.begin(started_at)
        self.kinds = experiment.kinds
        self._matched = 0
        self._hits = 0
        self._number = 0  # of the latest operation it matched, in this process
        self._shared: SharedState | None = None  # with forked children, once there are some
        self._is_copy = False  # whether this process is such a child
        self.delay = 0.0
        self._stopped = False
        self._paused = False
        self.pressure: PressureReading | None = None
        self._idle = all(fault.is_nothing for fault in experiment.faults)
        self._stream = Stream(seed)
        self._delays = Stream.at(seed, "delays")
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._seen: dict[str, str] = {}  # lines, and what each was about
        self._number_seen = 0  # of different ones
        self._remarks: set[str] = set()
        self._cure = ""
        self._certain = False  # whether that is about what it was aimed at

    @property
    def matched(self) -> int:
        """Operations it was aimed at and could have hit, of forked children too."""
        return self._matched + (0 if self._shared is None else self._shared.counts[0])

    @property
    def hits(self) -> int:
        """Operations it hit, of forked children too."""
        return self._hits + (0 if self._shared is None else self._shared.counts[1])

    @property
    def stopped(self) -> bool:
        """Whether it was ended before its time; in a forked child, by the parent too."""
        return self._stopped or (self._is_copy and self._shared is not None and self._shared.ended)

    @property
    def paused(self) -> bool:
        """Whether it has no effect for now; its time goes on."""
        if self._is_copy and self._shared is not None:
            return self._shared.paused
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self._tell_children()

    def stop(self) -> None:
        """End it, in forked children as well; harmless when it has ended. A child ends its copy."""
        self._stopped = True
        self._tell_children()
        self._on_stop(self)

    def _tell_children(self) -> None:
        if self._shared is not None and not self._is_copy:
            self._shared.say(ended=self._stopped, paused=self._paused)

    def before_fork(self) -> None:
        """Have something to share with a child that is about to be made."""
        if self._shared is None:
            self._shared = SharedState()
            self._tell_children()

    def after_fork(self) -> None:
        """In the child: count for the parent."""
        self._is_copy = self._shared is not None

    def begin(self, now: float) -> None:
        """Let its time begin; again, when what it needs is in place at last."""
        self.started_at = now
        self.ends_at = now + self.experiment.duration

    def left(self, now: float) -> float:
        """Seconds until it ends; 0 when it has, by its duration or by being stopped.

        Also 0 while it is paused: nobody waits for it then.
        """
        return 0.0 if self.stopped or self.paused else max(0.0, self.ends_at - now)

    def decide(self, operation: Operation, now: float) -> tuple[Hit, ...]:
        """What happens to `operation`; counts it if it was meant."""
        faults = [
            fault
            for fault in self.experiment.faults
            if operation.kind in fault.kinds and fault.can_happen_to(operation)
        ]
        if not faults or not self.experiment.matches_target(operation):
            self.saw(operation)
            return ()
        with self._lock:
            number = self._number + 1
            hit = not self._idle and self.experiment.trigger.hits(
                number, now - self.started_at, self._stream
            )
            self._count(1, hit)
        if not hit:
            return ()
        share = self._delays.draw(number)
        return tuple(Hit(self, fault.drawn(share), number) for fault in faults)

    def _count(self, matched: int, hits: int) -> None:
        self._number += matched
        if self._is_copy and self._shared is not None:
            self._shared.add(matched, hits)
        else:
            self._matched += matched
            self._hits += hits

    def pressed(self, *, hit: bool) -> None:
        """Count a fault that answers to no operation; `hit`: whether it is anything at all."""
        with self._lock:
            self._count(1, hit)

    def spared(self) -> None:
        """Do not count the operation that was hit last: it had nothing to be hit in."""
        with self._lock:
            self._count(-1, -1)

    def saw(self, operation: Operation) -> None:
        """Remember that the code did this, which the experiment was not aimed at."""
        if operation.advice:
            of_databases = operation.kind.startswith("database.")
            if not (self._in_databases if of_databases else self._on_the_wire):
                return  # what is out of the network's reach is not out of a database's
            self._take_advice(operation)
        if len(self._seen) < 2 * _MOST_KEPT and self._number_seen < _MOST_SEEN:
            remark = self._remark(operation)
            self._remarks.add(remark)
            text = f" {operation.sql.statement}"[:_LONGEST].rstrip()
            more = f" ({remark})" if remark else ""
            line = f"{operation.kind} {operation.target}{text}{more}"
            if line not in self._seen:
                self._number_seen += 1
                self._seen[line] = f"{operation.target}{text}"
                self._forget_the_farthest()

    def _forget_the_farthest(self) -> None:
        """Keep no more than are told of, and some to choose among."""
        meant = self.experiment.aims
        if len(self._seen) < 2 * _MOST_KEPT and (meant or len(self._seen) < _MOST_KEPT):
            return
        if not meant:
            self._number_seen = _MOST_SEEN  # then one is as good as another
            return
        seen = dict(self._seen)
        likeness = {
            line: max(_likeness_of_ends(about, each) for each in meant)
            for line, about in seen.items()
        }
        nearest = sorted(seen, key=likeness.__getitem__, reverse=True)[:_MOST_KEPT]
        self._seen = {line: seen[line] for line in nearest}

    @property
    def _on_the_wire(self) -> bool:
        return any(kind.startswith("network.") and kind != RESOLVE for kind in self.kinds)

    @property
    def _in_databases(self) -> bool:
        return any(kind.startswith("database.") and kind != CHECK_OUT for kind in self.kinds)

    def _take_advice(self, operation: Operation) -> None:
        """Keep what to do about it, if it may have been meant; what was for certain wins."""
        certain = bool(operation.names)
        if certain and not self.experiment.matches_target(operation):
            return
        if not self._cure or (certain and not self._certain):
            self._cure, self._certain = operation.advice, certain

    def _remark(self, operation: Operation) -> str:
        if operation.remark:
            return operation.remark
        makes_up = any(isinstance(each, InjectedResponse) for each in self.experiment.faults)
        if operation.tcp.encrypted and makes_up:
            return _SEALED
        if operation.tcp.partial and makes_up:
            return "more of an answer"
        if operation.tcp.multiplexed:
            return _FRAMED
        possible = (fault.can_happen_to(operation) for fault in self.experiment.faults)
        if operation.sql.conditions is not None and not all(possible):
            known = ", ".join(map(repr, sorted(operation.sql.conditions)))
            return f"{_UNKNOWN} {known}"
        return "" if operation.blocking else _POLLED

    def by_chance(self) -> list[str]:
        """A line about what chance, and nothing else, kept it from hitting; none if nothing."""
        matched, missed = self.matched, self.matched - self.hits
        if not missed or not is_left_to_chance(self.experiment.trigger):
            return []
        which = f"{missed} of {matched} operations ({self.experiment.trigger})"
        return [f"{self.experiment.name}: by chance it spared {which}; rate=1 hits them all"]

    def delayed(self, seconds: float) -> None:
        """Add to `delay`."""
        with self._lock:
            self.delay += seconds

    def never_fired(self) -> NeverFiredError:
        """The error to raise when it matched nothing."""
        return NeverFiredError(
            self.experiment.name,
            fault=self.experiment.deed,
            target=self.experiment.aim,
            seen=self._nearest(),
            advice=self._advice(),
        )

    def _nearest(self) -> tuple[str, ...]:
        """What the code did; if that is much, what is most like what was meant."""
        meant = self.experiment.aims
        if not meant or len(self._seen) <= _MOST_TOLD:
            return tuple(self._seen)[:_MOST_TOLD]
        likeness = {
            line: max(_likeness(about, each) for each in meant)
            for line, about in self._seen.items()
        }
        return tuple(sorted(self._seen, key=likeness.__getitem__, reverse=True)[:_MOST_TOLD])

    def _advice(self) -> str:
        if self._cure and self._certain:
            return self._cure
        if _SEALED in self._remarks:
            return (
                "Answers over TLS are encrypted: to a proxy always, in asyncio where it was open "
                "before the experiment."
            )
        if _FRAMED in self._remarks:
            return "Answers in HTTP/2 are not told apart: use HTTP/1.1, or a fault of connections."
        if _POLLED in self._remarks:
            return (
                "This fault makes callers wait, and nobody waits for what begins without blocking."
            )
        return self._cure or self._correction()

    def _correction(self) -> str:
        kinds = ", ".join(sorted(self.kinds))
        return (
            f"{self._likely}It hits {kinds}. Correct the target or the fault, or say "
            "must_fire=False if firing is not what you test."
        )

    @property
    def _likely(self) -> str:
        """Why it was so, as far as what the code did tells."""
        if any(remark.startswith(_UNKNOWN) for remark in self._remarks):
            return "Connections of redis are lost and refused by network_failure. "
        did = {line.partition(" ")[0] for line in self._seen}
        if any(each.startswith("file.") for each in self.kinds) and self.experiment.is_relative:
            return (
                "A relative path begins at the current folder; with **/ in front it begins "
                "anywhere. "
            )
        if any(kind.startswith("database.") for kind in self.kinds):
            return "Of sqlite3 and psycopg2, connections that were open before are not reached. "
        if did and self.kinds == {RESOLVE} and RESOLVE not in did:
            return "Where an address is given, no name is resolved. "
        if did and self.kinds == {CONNECT} and CONNECT not in did:
            return "A connection that was open before is not made again. "
        return ""

    def __repr__(self) -> str:
        until = "inf" if math.isinf(self.ends_at) else f"{self.ends_at:.3f}"
        return (
            f"<ActiveExperiment {self.experiment.name!r} matched={self.matched} hits={self.hits} "
            f"until={until}>"
        )


def _likeness(one: str, other: str) -> float:
    """From 0 to 1, of the whole or of what they end with, whichever is more."""
    whole = difflib.SequenceMatcher(None, one[-_COMPARED:], other[-_COMPARED:]).ratio()
    return max(whole, _likeness_of_ends(one, other))


def _likeness_of_ends(one: str, other: str) -> float:
    ends = one.rpartition("/")[2], other.rpartition("/")[2]
    return difflib.SequenceMatcher(None, ends[0][-_COMPARED:], ends[1][-_COMPARED:]).ratio()


def never_entered(experiment: ChaosExperiment) -> NeverFiredError:
    """The error for a context that somebody asked for, and left at that."""
    return NeverFiredError(
        experiment.name,
        fault=experiment.deed,
        target=experiment.aim,
        seen=("ask for it, and never enter what it was given",),
        advice="Write `with` before it, around what it is to happen to.",
    )

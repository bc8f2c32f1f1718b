"""An experiment while it runs: its counts, what it decides for each operation, and its end.

Those who wait for it are told of an end, or a pause: there may be less to wait for. Whoever looks
every so often needs none of it. But in virtual time each look is a jump.
"""

from __future__ import annotations

import math
import os
import threading

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.network import RECEIVED
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.forked_children import PAUSED
from pytest_resilience.chaos.forked_children import STOPPED
from pytest_resilience.chaos.forked_children import Page
from pytest_resilience.chaos.operation import FRAMED
from pytest_resilience.chaos.operation import MESSAGES
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.seen_operations import OVERTAKEN
from pytest_resilience.chaos.seen_operations import UNALTERABLE
from pytest_resilience.chaos.seen_operations import UNALTERABLE_REQUEST
from pytest_resilience.chaos.seen_operations import ConnectionNumbers
from pytest_resilience.chaos.seen_operations import CountedOperations
from pytest_resilience.chaos.seen_operations import UnmatchedOperations
from pytest_resilience.chaos.triggers import chooses
from pytest_resilience.chaos.triggers import goes_by_number
from pytest_resilience.chaos.triggers import is_left_to_chance
from pytest_resilience.chaos.types.callers import CallerFault
from pytest_resilience.chaos.types.resources import PressureReading
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.locks import fork_safe
from pytest_resilience.seeds import Stream


__all__ = [
    "ActiveExperiment", "ActiveExperiments", "ExpectedExperiments", "Hit", "SharedCounts",
    "ends_watched", "tell_of_ends", "unwatch_ends", "watch_ends",
]  # fmt: skip


class SharedCounts:
    """Counts and state of an experiment, for the process that started it and its children.

    Children count in a `Page`, and this process in its own memory.

    Attributes:
        state: whether it is `STOPPED`, whether it is `PAUSED`, by these; read at every operation.
        has_hit: whether it has hit an operation of this process, and the latest counts.
    """

    def __init__(self, *, in_total: bool) -> None:
        """`in_total`: number operations through all processes, and not in each from 1."""
        self._in_total = in_total
        self._here = [0, 0, 0, 0.0]  # as in a cell; of this process, if it is no child
        self._number = 0  # of the latest operation that this process matched
        self.state: bytearray | memoryview = bytearray(2)
        self._page: Page | None = None  # shared, once there are children
        self._in_child = False
        self.has_hit = False
        self._lock = fork_safe(self, "_lock", threading.Lock)

    @property
    def matched(self) -> int:
        """Operations matched, of children too."""
        return int(self._total(0))

    @property
    def chosen(self) -> int:
        """Operations that the trigger chose, hit in the end or not, of children too."""
        return int(self._total(1))

    @property
    def hits(self) -> int:
        """Operations hit, of children too."""
        return int(self._total(2))

    @property
    def delay(self) -> float:
        """Seconds of waiting, of children too."""
        return self._total(3)

    def _total(self, which: int) -> float:
        here = self._here[which]
        return here if self._page is None else here + self._page.total(which)

    def set_state(self, which: int, value: bool) -> None:
        """Let it be `STOPPED` or `PAUSED`, or not, in children as well; a child does so alone."""
        if self._in_child:
            self.state = bytearray(self.state[:2])
        self.state[which] = value

    def share(self, page: Page) -> None:
        """Have this page to share with children that are no forks."""
        # Filled before it is put in place: other threads read the state meanwhile.
        page.begin(bytes(self.state[:2]), self._number)
        self.state, self._page = page.memory, page

    def join(self, page: Page) -> None:
        """Count for the process whose page it is."""
        self.state, self._page = page.memory, page
        self._in_child = True

    def settle(self) -> None:
        """Take in what children have counted so far, and share no page any more."""
        self._here = [self.matched, self.chosen, self.hits, self.delay]
        self.state, self._page = bytearray(self.state[:2]), None

    def before_fork(self) -> None:
        """Have something to share with a child that is about to be made."""
        if self._page is None:
            self.share(Page.of_fork())

    def after_fork(self) -> None:
        """In the child: count for the parent."""
        self._in_child = self._page is not None

    def add(self, *, matched: int = 0, chosen: int = 0, hits: int = 0, delay: float = 0.0) -> int:
        """Count operations and a wait; returns the number of the operation that was matched.

        With -1 the latest one is not counted after all.
        """
        with self._lock:
            page = self._page
            self.has_hit = hits > 0 if hits else self.has_hit  # with -1 it was none after all
            if matched and self._in_total and page is not None and page.path:
                self._number = page.take_number(matched)
            else:
                self._number += matched
            if not self._in_child:
                here = self._here
                here[0] += matched
                here[1] += chosen
                here[2] += hits
                here[3] += delay
            elif page is not None:  # else this child goes on as if it were the parent
                page.count(matched, chosen, hits, delay)
            return self._number


@dataclass(frozen=True, slots=True)
class Hit:
    """An experiment's fault that happens to an operation.

    Attributes:
        active_experiment: the experiment that runs.
        fault: what happens.
        number: the operation's number among those the experiment matched, from 1.
        operation: which that is.
        awaits: what bytes have to be before it has happened: see `Fault`.
    """

    active_experiment: ActiveExperiment
    fault: Fault
    number: int
    operation: Operation
    awaits: str = ""


class ActiveExperiment:
    """One run of an experiment, which `stop` ends.

    Attributes:
        experiment: what runs.
        must_fire: whether it is an error if nothing happens to anything.
        started_at: seconds, by `monotonic` of its clock.
        counts: what engines and their child processes count of it.
        counted: what it matched, where trigger or targets go by numbers; or until it has hit
            anything, where what is matched may not come to where the fault happens; else None.
        unmatched: what the code did that the experiment did not match.
        pressure: what a pressure achieved, once it is off.
    """

    def __init__(
        self,
        experiment: ChaosExperiment,
        *,
        seed: int,
        started_at: float,
        must_fire: bool = True,
        clock: Clock = MACHINE_CLOCK,
        on_stop: Callable[[ActiveExperiment], None] = lambda _: None,
    ) -> None:
        """`on_stop` is called by `stop`: an engine takes it out of its active experiments."""
        self.experiment = experiment
        self.must_fire = must_fire
        self.started_at = started_at
        numbered = experiment.names_connections or chooses(experiment.triggers)
        connections = ConnectionNumbers(experiment) if numbered else None
        shown = numbered or experiment.awaits
        self.counted = CountedOperations(connections) if shown else None
        self.unmatched = UnmatchedOperations(experiment)
        self.pressure: PressureReading | None = None
        self.counts = SharedCounts(in_total=goes_by_number(experiment.triggers))
        self._clock = clock
        self._on_stop = on_stop
        self._draws = Stream(seed)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of operation that it can happen to."""
        return self.experiment.kinds

    @property
    def seed(self) -> int:
        """Of what it draws."""
        return self._draws.seed

    def after_fork(self) -> None:
        """This process is a child that was forked."""
        self.counts.after_fork()
        if self.counted is not None and self.counted.connections is not None:
            self.counted.connections.forget()

    def reseed(self, seed: int) -> None:
        """Draw from another seed from now on: this process is a child, and has its own."""
        self._draws = Stream(seed)

    @property
    def matched(self) -> int:
        """Operations that it could have hit, in child processes too."""
        return self.counts.matched

    @property
    def hits(self) -> int:
        """Operations that it hit, in child processes too."""
        return self.counts.hits

    @property
    def proves_nothing(self) -> bool:
        """Whether nothing has happened: it matched nothing, its trigger chose none of that, or
        nothing came that it could happen to.

        Where chance may have spared all, or its faults are nothing, it is as it was asked for.
        """
        if not self.matched:
            return True
        experiment = self.experiment
        by_chance = is_left_to_chance(experiment.triggers)
        return not (self.hits or experiment.is_nothing or by_chance)

    @property
    def delay(self) -> float:
        """Seconds by which it held callers up, all together, in child processes too."""
        return self.counts.delay

    @property
    def ends_at(self) -> float:
        """When its duration is over, as `started_at`; infinite when it has none."""
        return self.started_at + self.experiment.duration

    @property
    def opens_at(self) -> float:
        """When its window begins, as `started_at`; that itself when it has none."""
        return self.started_at + self.experiment.opens_after

    @property
    def closes_at(self) -> float:
        """When it is over, or its window, as `started_at`; infinite when that never comes."""
        return min(self.ends_at, self.started_at + self.experiment.closes_after)

    @property
    def ended(self) -> bool:
        """Whether it is over, by its duration or by `stop`."""
        return self.stopped or self._clock.monotonic() >= self.ends_at

    @property
    def stopped(self) -> bool:
        """Whether it was ended before its time; in a child process, by the parent too."""
        return bool(self.counts.state[STOPPED])

    @property
    def paused(self) -> bool:
        """Whether it has no effect for now; its time goes on."""
        return bool(self.counts.state[PAUSED])

    @paused.setter
    def paused(self, paused: bool) -> None:
        self.counts.set_state(PAUSED, paused)
        tell_of_ends()

    def stop(self) -> None:
        """End it, in child processes as well; harmless when it has ended. A child ends its copy."""
        # First: a thread that decides about an operation just now reads it without a lock.
        self.counts.set_state(STOPPED, True)
        tell_of_ends()
        self._on_stop(self)

    def left(self, now: float, *, transient: bool = False) -> float:
        """Seconds until it ends; 0 when it has, by its duration or by `stop`.

        Also 0 while it is paused, so that nobody waits for it. `transient`: for what is over with
        the window of its trigger, when all gets through, as a partition.
        """
        state = self.counts.state
        if state[STOPPED] or state[PAUSED]:
            return 0.0
        ends = self.closes_at if transient else self.started_at + self.experiment.duration
        return max(0.0, ends - now)

    def decide(self, operation: Operation, now: float) -> Sequence[Hit]:
        """The faults that happen to `operation`: all or none of the experiment's.

        Counts it if it is matched, and notes it if it is not, until something was hit. What awaits
        bytes is counted as a hit when it happens: see `Effect`.
        """
        experiment, counted, kind = self.experiment, self.counted, operation.kind
        if not self.left(now):
            return ()
        numbers = None if counted is None else counted.connections
        if numbers is not None:
            numbers.meet(operation)
        faults = [f for f in experiment.faults if kind in f.kinds and f.can_happen_to(operation)]
        is_shared = experiment.is_of_stream or operation.tcp.form == FRAMED or operation.http.stream
        possible = self._narrowed(faults, operation) if is_shared else faults
        if possible is None:
            return ()
        if not possible or not experiment.matches_target(operation, numbers):
            if not self.counts.has_hit:  # else nobody asks why it never fires
                self.unmatched.note(operation)
            return ()
        number = self.counts.add(matched=1)
        elapsed = now - self.started_at
        if counted is not None and (numbers is not None or not self.counts.has_hit):
            counted.note(number, operation, elapsed)
        chosen = all(each.hits(number, elapsed, self._draws) for each in experiment.triggers)
        if experiment.is_nothing or not chosen:
            return ()
        if experiment.varies:
            # A stream of its own: which operations are hit does not depend on how long delays are.
            share = Stream.at(self._draws.seed, "delays").draw(number)
            possible = [each.drawn(share) for each in possible]
        hits = []
        for each in possible:
            awaits = each.awaits if kind in MESSAGES else ""
            if operation.http.stream and each.delay < math.inf:  # of silence nobody is told
                awaits = awaits or RECEIVED  # it has happened when the client is told
            hits.append(Hit(self, each, number, operation, awaits))
        self.counts.add(chosen=1, hits=0 if all(hit.awaits for hit in hits) else 1)
        return hits

    def _narrowed(self, possible: list[Fault], operation: Operation) -> list[Fault] | None:
        """Those that happen to it in HTTP/2, and in a conversation.

        None if it is more of what these have been asked.
        """
        if operation.tcp.form == FRAMED or operation.http.stream:
            possible = [each for each in possible if not self._is_elsewhere(each, operation)]
        counted = self.counted if self.experiment.is_of_stream else None
        if counted is None or not counted.goes_on(operation):
            return possible
        # More of a conversation, about which it was asked when that began.
        return [each for each in possible if not each.is_of_stream] or None

    def _is_elsewhere(self, fault: Fault, operation: Operation) -> bool:
        """Whether it happens to the connection that an HTTP/2 response is on, or the reverse.

        What resets, silences or delays a connection does so unless some requests are meant.
        """
        aimed = self.experiment.aims_at_requests
        if operation.tcp.form == FRAMED:
            return aimed
        return operation.http.stream and not aimed and not fault.is_of_response

    def matches_target(self, operation: Operation, *, ahead: bool = False) -> bool:
        """As `ChaosExperiment.matches_target`, of a connection whose number may be known."""
        numbers = None if self.counted is None else self.counted.connections
        return self.experiment.matches_target(operation, numbers, ahead=ahead)

    def uncount(self, hit: Hit) -> None:
        """Do not count the latest operation that was matched.

        It was a response, or a request, of which nothing could be altered.
        """
        remark = UNALTERABLE_REQUEST if hit.operation.kind == SEND else UNALTERABLE
        self.unmatched.note(hit.operation._replace(remark=remark))
        self.counts.add(matched=-1, chosen=-1)
        if self.counted is not None:
            self.counted.forget(hit.number)

    def overtaken(self, hit: Hit) -> None:
        """Do not count this as a hit: what another experiment does happens in its place."""
        self.unmatched.note(hit.operation._replace(remark=OVERTAKEN))
        if not hit.awaits:
            self.counts.add(hits=-1)

    def came(self, passed: int) -> None:
        """So much of a response has come, and nothing has happened to it yet."""
        self.unmatched.furthest = max(self.unmatched.furthest, passed)

    def __repr__(self) -> str:
        until = "inf" if math.isinf(self.ends_at) else f"{self.ends_at:.3f}"
        return (
            f"<ActiveExperiment {self.experiment.name!r} matched={self.matched} hits={self.hits} "
            f"until={until}>"
        )


class ActiveExperiments(tuple[ActiveExperiment, ...]):
    """Those that run at the same time, and what is asked of them at every operation.

    Attributes:
        kinds: the kinds of operation that one of them can happen to.
        strikes_waiting: one of them happens to who waits for a response, though none may come.
        strikes_callers: one of them happens to who calls, which only a call can meet.
        silences: one of them lets a peer be silent, and its connections lost with that.
    """

    kinds: frozenset[str]
    strikes_waiting: bool
    strikes_callers: bool
    silences: bool

    def __new__(cls, those: Iterable[ActiveExperiment] = ()) -> Self:
        made = super().__new__(cls, those)
        made.kinds = frozenset[str]().union(*(each.kinds for each in made))
        made.strikes_waiting = any(each.experiment.strikes_waiting for each in made)
        faults = [fault for each in made for fault in each.experiment.faults]
        made.strikes_callers = any(isinstance(each, CallerFault) for each in faults)
        made.silences = any(each.delay == math.inf and not each.transient for each in faults)
        return made


class ExpectedExperiments:
    """Those that may begin later: of many with the same targets and kinds, one."""

    def __init__(self) -> None:
        # Replaced, never changed in place: it is read without a lock.
        self._all: dict[tuple[str, frozenset[str]], ChaosExperiment] = {}

    def extend(self, experiments: Iterable[ChaosExperiment]) -> None:
        """Expect these as well."""
        self._all = self._all | {(each.target_text, each.kinds): each for each in experiments}

    def withdraw(self, experiment: ChaosExperiment) -> None:
        """Expect it no more."""
        self._all = {key: each for key, each in self._all.items() if each is not experiment}

    def can_hit(self, kinds: frozenset[str]) -> bool:
        """Whether one of them happens to operations of these kinds."""
        return any(not kinds.isdisjoint(each.kinds) for each in self._all.values())

    def may_match(self, operation: Operation, kinds: frozenset[str]) -> bool:
        """Whether one of them happens to these kinds, and its target is that of `operation`."""
        return any(
            not kinds.isdisjoint(each.kinds) and each.matches_target(operation, ahead=True)
            for each in self._all.values()
        )


_watchers: dict[object, Callable[[], None]] = {}


def tell_of_ends() -> None:
    """Let all who wait look again."""
    for look in [*_watchers.values()]:  # a copy: other threads come and go
        look()


def watch_ends(who: object, look: Callable[[], None]) -> None:
    """Call `look` from now on, in whatever thread; it must not wait."""
    _watchers[who] = look


def unwatch_ends(who: object) -> None:
    """Do so no more; harmless where nobody does."""
    _watchers.pop(who, None)


@contextmanager
def ends_watched(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` while in the block."""
    who = object()
    watch_ends(who, look)
    try:
        yield
    finally:
        unwatch_ends(who)


if hasattr(os, "register_at_fork"):  # nobody waits in a child
    os.register_at_fork(after_in_child=_watchers.clear)

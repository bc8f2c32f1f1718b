"""Which schedules are tried, in which order, and how small one that fails can be made.

First each operation under each fault, once and from there on; then pairs, where the run under the
first fault came to operations after it: crashes, then those that are new. Never two orders of the
same pair, never more faults than a schedule that failed already. The order does not depend on the
budget, so that a larger one goes on where a smaller one ends.

Left out, for it is known what would come of it: a fault that stays, where the run in which it
happened once did nothing more of the kind on the target. It would be the same run. And what would
come together with an order in which nobody has gone first. And, once it was tried, a fault that
its operation cannot have, such as the cut of a response without a body.

That a fault was survived, and the run went on as without it, leaves out nothing: what counts
failures, as a circuit breaker does, has changed all the same.
"""

from __future__ import annotations

import itertools

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import TYPE_CHECKING

from pytest_resilience.chaos.parsing.messages import counted
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.possible_faults import CRASHES
from pytest_resilience.chaos.possible_faults import fault_named
from pytest_resilience.chaos.possible_faults import possible_faults
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.operation_names import Seen
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.outcome import Signature
from pytest_resilience.exploration.schedule import Point
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.report.cell import CellVerdict


if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


__all__ = ["Budget", "Search", "fault_schedules", "shrink", "singles"]

_MOST_SIMPLER = 2  # faults that are tried in place of one


@dataclass(slots=True)
class Budget:
    """How much may still be tried.

    Attributes:
        runs: so many at most; None for any number.
        seconds: begin none after so many; None for any.
        clock: tells the time.
        spent: the runs so far.
    """

    runs: int | None
    seconds: float | None
    clock: Callable[[], float]
    spent: int = 0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def is_over(self) -> bool:
        """Whether no run may begin any more."""
        return self.is_late or (self.runs is not None and self.spent >= self.runs)

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return self.seconds is not None and self.clock() - self.began >= self.seconds

    def spend(self) -> None:
        """A run begins."""
        self.spent += 1

    def left(self) -> str:
        """For people."""
        parts = []
        if self.runs is not None:
            parts.append(counted(max(0, self.runs - self.spent), "run"))
        if self.seconds is not None:
            parts.append(f"{max(0.0, self.seconds - (self.clock() - self.began)):.0f} s")
        return " and ".join(parts) or "no end"


class Search:
    """Tries the schedules of one test.

    Attributes:
        outcomes: of all that were tried, in order.
        unexplored: schedules of which it is known that there was no budget for them.
        pruned: schedules that were left out for it is known what would come of them, or that
            turned out to be impossible.
        gone: schedules of which an operation does not come any more, or cannot have the fault;
            each with whether it had come after the first fault alone.
    """

    def __init__(
        self,
        faultless: Sequence[Seen],
        attempt: Callable[[Schedule], Outcome | None],
        *,
        depth: int = 2,
        prune: bool = True,
        meant: Callable[[str], bool] = lambda _: True,
        wanted: Callable[[Step], bool] = lambda _: True,
    ) -> None:
        """`attempt` gives None for a run that may not begin. `meant`: the faults to try, `wanted`:
        the first steps of schedules.
        """
        self.outcomes: dict[Schedule, Outcome] = {}
        self.unexplored: list[Schedule] = []
        self.pruned = 0
        self.gone: dict[Schedule, bool] = {}
        self._faultless = faultless
        self._attempt = attempt
        self._depth = depth
        self._prune = prune
        self._meant = meant
        self._wanted = wanted

    def run(self, crash: Callable[[Schedule, Outcome], object] = lambda *_: None) -> None:
        """Try all that there is budget for.

        `crash` looks at crashes after a schedule that was survived.
        """
        frontier: list[Schedule] = [
            schedule
            for schedule in ((step,) for step in singles(self._faultless) if self._wanted(step))
            if self._is_new(schedule)
        ]
        for depth in range(1, self._depth + 1):
            tried = [each for each in frontier if self._try(each) and self._keep_if_steady(each)]
            if depth == self._depth:
                return
            parents = [schedule for schedule in tried if self.outcomes[schedule].verdict.good]
            for each in parents:
                crash(each, self.outcomes[each])
            frontier = self._extended(parents)

    def try_first(self, schedules: Iterable[Schedule]) -> None:
        """Try these before all others, as they failed the last time; since then code may change."""
        for schedule in schedules:
            if not self._is_new(schedule):
                continue
            if self._try(schedule) and self.outcomes[schedule].verdict is CellVerdict.STALE:
                del self.outcomes[schedule]
                self.gone[schedule] = False

    def _is_new(self, schedule: Schedule) -> bool:
        return schedule not in self.outcomes and schedule not in self.gone

    def _try(self, schedule: Schedule) -> bool:
        if schedule in self.outcomes:
            return True
        if self._prune and self._is_known(schedule):
            self.pruned += 1
            return False
        outcome = self._attempt(schedule)
        if outcome is None:
            self.unexplored.append(schedule)
            return False
        if self._prune and outcome.impossible and outcome.verdict is CellVerdict.STALE:
            self.pruned += 1
            self.gone[schedule] = False
            return False
        self.outcomes[schedule] = outcome
        return True

    @property
    def unsteady(self) -> int:
        """The pairs after whose first fault the test does not do the same each time."""
        return sum(self.gone.values())

    def _keep_if_steady(self, schedule: Schedule) -> bool:
        """Forget what came of it if its second operation has not come again; false if forgotten."""
        if not schedule[1:] or self.outcomes[schedule].verdict is not CellVerdict.STALE:
            return True
        del self.outcomes[schedule]
        self.gone[schedule] = True
        return False

    def _is_known(self, schedule: Schedule) -> bool:
        """Whether another run was the same."""
        *before, last = schedule
        if not last.lasts:
            return False
        once = self.outcomes.get((*before, Step(last.point, last.fault)))
        return once is not None and not once.comes_again(last)

    def _extended(self, parents: Iterable[Schedule]) -> list[Schedule]:
        """Each schedule with one fault more, at an operation that comes after its last one."""
        known = {each.point for each in self._faultless}
        found: dict[Schedule, tuple[bool, int]] = {}
        for order, parent in enumerate(parents):
            if self._prune and parent[-1] in self.outcomes[parent].in_vain:
                continue
            for step in singles(self.outcomes[parent].after(parent[-1])):
                if self._meant(step.fault) and not any(
                    _covers(each, step.point) for each in parent
                ):
                    found.setdefault((*parent, step), (step.point in known, order))
        # Sorting is stable: those of one parent stay in the order of `singles`.
        return [schedule for schedule, _ in sorted(found.items(), key=lambda each: each[1])]


def singles(seen: Iterable[Seen]) -> Iterator[Step]:
    """Each operation under each fault that it can have, once and from there on, in order.

    The first of each site first, under all faults: later ones of a loop come last. The simplest
    faults first. What lets others go first comes after all faults.
    """
    found: dict[Step, tuple[bool, int, int, bool]] = {}
    for each in seen:
        for rank, name in enumerate(each.faults):
            once = Step(each.point, name)
            found.setdefault(once, (once.is_order, each.point.number, rank, False))
            if once.is_of_others:
                continue
            if fault_named(each.point.site.kind, name).lasts:
                lasting = Step(each.point, name, lasts=True)
                found.setdefault(lasting, (False, each.point.number, rank, True))
    yield from sorted(found, key=found.__getitem__)


def _covers(step: Step, point: Point) -> bool:
    """Whether the operation has a fault already."""
    site, other = point.site, step.point.site
    if step.lasts:
        return (site.kind, site.target) == (other.kind, other.target)
    return point == step.point


class _Drawn(Schedule):
    """A schedule that is shown as its text, which can be written in its place."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(format_schedule(self))


def fault_schedules(
    recording: OperationLog | Iterable[Seen], *, least: int = 1, most: int = 2
) -> SearchStrategy[Schedule]:
    """A strategy of Hypothesis: schedules of `least` to `most` faults, each at another operation.

    It shrinks as `shrink` does: to fewer faults, earlier operations, simpler faults that go away.
    What it draws is shown as its text, which `chaos_schedules.faults` takes as well.

    `recording`: the operations of a run without faults, as a log or as what is `seen` by one.
    Raises ConfigurationError if it is none, if none of them can have a fault, for numbers that
    leave nothing, or without Hypothesis.
    """
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise ConfigurationError(
            f"fault_schedules needs Hypothesis ({error}); pip install hypothesis"
        ) from error
    seen = recording.seen if isinstance(recording, OperationLog) else tuple(recording)
    if not all(isinstance(each, Seen) for each in seen):
        raise ConfigurationError(
            f"{shortened(recording)} is no recording; give what chaos_schedules.recording() gives"
        )
    steps = list(singles(seen))
    if not steps:
        raise ConfigurationError(
            "the recording has no operation that can have a fault; record one on a socket, a "
            "database, a file or a service"
        )
    if not 0 <= least <= most:
        raise ConfigurationError(f"least={least}, most={most}: give 0 <= least <= most")
    points = len({step.point for step in steps})
    chosen = strategies.lists(
        strategies.sampled_from(steps),
        min_size=min(least, points),
        max_size=min(most, points),
        unique_by=lambda step: step.point,
    )
    return chosen.map(lambda drawn: _Drawn(sorted(drawn, key=steps.index)))


def shrink(
    schedule: Schedule,
    outcome: Outcome,
    attempt: Callable[[Schedule], Outcome | None],
    *,
    meant: Callable[[str], bool] = lambda _: True,
) -> tuple[Schedule, Outcome]:
    """Leave out what is not needed, then take what is simpler; with what comes of the result.

    Two failures are the same where verdict, type of the exception and the project's own function
    are: else a schedule would shrink to another bug than the one that was found.

    What never happened is left out without a run. `attempt` gives None when no run may begin any
    more: then the smallest so far is the result. `meant`: the faults that may stand for others.
    """
    wanted = outcome.signature
    smallest = tuple(step for step in schedule if step in outcome.hit) or schedule
    removed = 0
    while removed < len(smallest) and len(smallest) > 1:
        without = (*smallest[:removed], *smallest[removed + 1 :])
        found = _same(attempt(without), wanted)
        if found is None:
            removed += 1
        else:
            smallest, outcome = without, found
    for number, step in enumerate(smallest):
        for simpler in _simpler(step, meant):
            changed = (*smallest[:number], simpler, *smallest[number + 1 :])
            found = _same(attempt(changed), wanted)
            if found is not None:
                smallest, outcome = changed, found
                break
    return smallest, outcome


def _same(outcome: Outcome | None, wanted: Signature) -> Outcome | None:
    return outcome if outcome is not None and outcome.signature == wanted else None


def _simpler(step: Step, meant: Callable[[str], bool]) -> Iterator[Step]:
    """What could stand for a step, the simplest first: a fault that goes away, a plainer one."""
    if step.is_of_others:
        return
    if step.is_crash:
        names = list(CRASHES)
    else:
        names = [each.name for each in possible_faults(step.point.site.kind)]
    if step.lasts:
        yield Step(step.point, step.fault)
    simpler = filter(meant, names[: names.index(step.fault)])
    for name in itertools.islice(simpler, _MOST_SIMPLER):
        yield Step(step.point, name, step.lasts)

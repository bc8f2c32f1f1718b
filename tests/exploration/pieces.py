"""Made-up runs: systems of which it is known under which faults they fail."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.possible_faults import possible_faults
from pytest_resilience.exploration.operation_names import Seen
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.outcome import Signature
from pytest_resilience.exploration.schedule import Point
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Site
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.report.cell import CellVerdict


NAMES = frozenset({"refuse", "timeout", "reset", "close"})


def seen(target: str, number: int = 1, kind: str = CONNECT) -> Seen:
    names = tuple(name for each in possible_faults(kind) if (name := each.name) in NAMES)
    point = Point(Site(kind, target, "shop.pay"), number)
    return Seen(point=point, overall=number, place="shop.py:1 in pay", faults=names, at=0.0)


def request(target: str, number: int = 1) -> list[Seen]:
    return [seen(target, number), seen(target, number, RECEIVE)]


def is_struck(step: Step, operation: Seen, struck: Sequence[Step]) -> bool:
    if step.lasts and step in struck:
        return (step.point.site.kind, step.point.site.target) == (
            operation.point.site.kind,
            operation.point.site.target,
        )
    return step.point == operation.point


class System:
    """Does operations one after the other; a fault at the first leads to those of a fallback.

    `fails` is told of the faults that have happened, by target.
    """

    def __init__(
        self,
        operations: Sequence[Seen],
        fails: Callable[[frozenset[tuple[str, str]]], bool],
        fallback: Sequence[Seen] = (),
    ) -> None:
        self.faultless = list(operations)
        self.runs: list[Schedule] = []
        self._fails = fails
        self._fallback = list(fallback)

    def run(self, schedule: Schedule) -> Outcome:
        self.runs.append(schedule)
        todo, done = list(self.faultless), list[Seen]()
        struck: list[Step] = []
        fallback = list(self._fallback)
        met: dict[Step, int] = {}
        happened = set()
        while todo:
            operation = todo.pop(0)
            done.append(operation)
            for step in schedule:
                if is_struck(step, operation, struck):
                    met.setdefault(step, len(done) - 1)
                    struck.append(step)
                    happened.add((operation.point.site.target, step.fault))
            if struck:
                todo, fallback = [*fallback, *todo], []
        bad = self._fails(frozenset(happened))
        verdict = CellVerdict.FAILED if bad else CellVerdict.SURVIVED
        return Outcome(
            verdict=verdict,
            signature=Signature(verdict=verdict),
            seen=tuple(done),
            positions=tuple(met.items()),
            hit=frozenset(struck),
        )

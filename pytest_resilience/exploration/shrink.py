"""The smallest schedule that fails in the same way as a larger one.

Two failures are the same where verdict, type of the exception and the project's own function are:
else a schedule would shrink to another bug than the one that was found.
"""

from __future__ import annotations

import itertools

from collections.abc import Callable
from collections.abc import Iterator

from pytest_resilience.chaos.possible_faults import CRASHES
from pytest_resilience.chaos.possible_faults import possible_faults
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.outcome import Signature
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Step


__all__ = ["shrink"]

_MOST_SIMPLER = 2  # faults that are tried in place of one


def shrink(
    schedule: Schedule,
    outcome: Outcome,
    attempt: Callable[[Schedule], Outcome | None],
    *,
    meant: Callable[[str], bool] = lambda _: True,
) -> tuple[Schedule, Outcome]:
    """Leave out what is not needed, then take what is simpler; with what comes of the result.

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

"""What happens to one operation: the hits of all experiments together."""

from __future__ import annotations

import contextlib
import math

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import Final

from pytest_resilience.chaos.active_experiment import Hit
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.chaos.faults.response import Pace
from pytest_resilience.chaos.faults.response import Together
from pytest_resilience.chaos.types.callers import CallerFault
from pytest_resilience.clock import Clock


__all__ = ["Effect", "together"]

_ENDLESS: Final = math.inf  # seconds of delay: silence


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The plan for one operation: wait, then maybe fail, or change its response.

    Attributes:
        clock: on which to wait.
        delay: seconds to wait, the sum of all, for latencies add up; infinite for silence.
        failure: how it fails after the wait; None if it does not.
        pace: how fast a response comes; None if it comes at once.
        transient: whether what waits for ever goes on when the experiments have ended.
        hits: what each experiment does to it, the oldest experiment first.
        pending: those of them that await bytes, and are neither counted nor told of yet.
        tell: tells of hits; None where nobody listens.
    """

    clock: Clock
    delay: float = 0.0
    failure: Fault | None = None
    pace: Pace | None = None
    transient: bool = True
    hits: Sequence[Hit] = ()
    pending: list[Hit] = field(default_factory=list)
    tell: Callable[[Sequence[Hit]], None] | None = None

    @classmethod
    def of(
        cls,
        hits: Sequence[Hit],
        clock: Clock,
        tell: Callable[[Sequence[Hit]], None] | None = None,
    ) -> Effect:
        """Several hits that happen `together`: delays add up."""
        delay, transient = 0.0, True
        failures: list[Fault] = []
        pace: Pace | None = None
        for hit in hits:
            fault = hit.fault
            delay += fault.delay
            if fault.delay == _ENDLESS and not fault.transient:
                transient = False
            if not (fault.waits or fault in failures):
                failures.append(fault)
            if pace is None and isinstance(fault, Pace):
                pace = fault
        failure = next(iter(failures), None)
        if len(failures) > 1:
            failure = Together(faults=tuple(failures))
        return cls(
            clock=clock, delay=delay, failure=failure, pace=pace, transient=transient, hits=hits,
            pending=[hit for hit in hits if hit.awaits], tell=tell,
        )  # fmt: skip

    @property
    def passes(self) -> bool:
        """Whether a connection goes on when it is over: a silence is too long for that."""
        return self.transient or self.delay < _ENDLESS

    @property
    def is_of_stream(self) -> bool:
        """Whether something happens once in all that comes in a conversation."""
        return any(hit.fault.is_of_stream for hit in self.hits) and self.left() > 0

    def followed_by(self, later: Effect | None) -> Effect:
        """What happens to more of a conversation: that of `later`, and what `is_of_stream`.

        What ends the connection comes first. What is of the stream is told of by this one.
        """
        kept = [hit for hit in self.hits if hit.fault.is_of_stream]
        going_on = replace(Effect.of(kept, self.clock), pending=[])
        if later is None:
            return going_on
        ends = later.failure is not None and (later.failure.resets or later.failure.closes)
        return replace(
            later,
            failure=later.failure if ends else going_on.failure or later.failure,
            pace=going_on.pace or later.pace,
            hits=(*kept, *later.hits),
        )

    def error(self, target: str) -> Exception | None:
        """The exception that the call raises after the wait; None if it does not raise."""
        return None if self.failure is None else self.failure.error(target)

    def happen(self, what: str | Fault) -> None:
        """Count those pending hits that await bytes to be that, as they are now, and tell of them.

        `what`: as `Fault.awaits`, or the fault that has changed them. An operation counts once,
        though several faults of an experiment can happen to it.
        """
        happening = [hit for hit in self.pending if what in (hit.awaits, hit.fault)]
        if not happening:
            return
        counted = set()
        for hit in self.hits:
            if hit not in self.pending:
                counted.add((hit.active_experiment, hit.number))
        for hit in happening:
            with contextlib.suppress(ValueError):  # another thread was faster
                self.pending.remove(hit)
            operation = hit.active_experiment, hit.number
            if operation not in counted:
                counted.add(operation)
                hit.active_experiment.counts.add(hits=1)
        if self.tell is not None:
            self.tell(happening)

    def uncount(self, fault: Fault | None = None) -> None:
        """Do not count what was to alter a response: there was nothing in it to alter.

        `fault`: which of several that is.
        """
        for hit in [hit for hit in self._pending_of(fault) if isinstance(hit.fault, Alteration)]:
            self.pending.remove(hit)
            hit.active_experiment.uncount(hit)

    def came(self, passed: int, fault: Fault | None = None) -> None:
        """So much of the response has come, in what its pending hits, or that of `fault`, count."""
        for hit in self._pending_of(fault):
            hit.active_experiment.came(passed)

    def _pending_of(self, fault: Fault | None) -> list[Hit]:
        return [hit for hit in self.pending if fault is None or hit.fault == fault]

    def left(self) -> float:
        """Seconds until every experiment behind it has ended, so that nothing waits any more.

        Silence ends when those that ask for it do, whatever else is late.
        """
        now, longest = self.clock.monotonic(), 0.0
        for hit in self.hits:
            if self.delay < _ENDLESS or hit.fault.delay == _ENDLESS:
                transient = hit.fault.transient
                longest = max(longest, hit.active_experiment.left(now, transient=transient))
        return longest

    def add_delay(self, seconds: float) -> None:
        """Book a wait on the experiments that caused it, in proportion to what they asked for.

        A pace asks for no delay of its own: where nothing else does, it has caused all of it.
        """
        asked = []
        for hit in self.hits:
            delay = hit.fault.delay
            asked.append(float(delay == _ENDLESS) if self.delay == _ENDLESS else delay)
        if not any(asked):
            asked = [float(hit.fault.waits) for hit in self.hits]
        total = sum(asked)
        for hit, part in zip(self.hits, asked, strict=True):
            if part:
                hit.active_experiment.counts.add(delay=seconds * part / total)


def together(hits: Sequence[Hit]) -> Sequence[Hit]:
    """Those hits of one operation that can happen together; the others are not counted.

    In silence nobody hears that a connection has ended. What refuses, resets, closes or answers
    leaves nothing of a response to change, and of several that do so it is the oldest
    experiment's. Nor is there more than one pace. The same happens for all that ask for it.
    """
    failing = [hit for hit in hits if not (hit.fault.waits or isinstance(hit.fault, CallerFault))]
    at_once = [hit for hit in failing if not hit.fault.needs_response]
    lost = [hit for hit in failing if not hit.fault.needs_body]
    paces = [hit for hit in hits if isinstance(hit.fault, Pace)]
    is_silent = any(each.fault.delay == _ENDLESS and not each.fault.transient for each in hits)
    happening = [] if is_silent else at_once[:1] or lost[:1] or failing
    faults = [hit.fault for hit in (*happening, *paces[:1])]  # each for all that ask for the same
    others = [hit for hit in (*failing, *paces) if hit.fault not in faults]
    if not others:
        return hits
    left = [hit for hit in hits if hit not in others]
    counted = [hit.active_experiment for hit in left]
    for hit in others:
        if hit.active_experiment not in counted:
            hit.active_experiment.overtaken(hit)
    return left

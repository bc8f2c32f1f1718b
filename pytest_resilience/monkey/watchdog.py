"""Says when chaos must not begin and when it has to end: stop conditions and steady state."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import Literal

from pytest_resilience.monkey.events import Journal
from pytest_resilience.monkey.events import SteadyStateRead
from pytest_resilience.monkey.steady_state import Probe
from pytest_resilience.monkey.steady_state import Reading
from pytest_resilience.monkey.steady_state import SteadyState
from pytest_resilience.monkey.steady_state import Verdict
from pytest_resilience.monkey.stop_conditions import StopCondition
from pytest_resilience.monkey.stop_conditions import parse_conditions
from pytest_resilience.monkey.stop_conditions import reason_of


__all__ = ["Watchdog"]


class Watchdog:
    """Looks at the stop conditions and the steady state of one monkey.

    Raises ConfigurationError for conditions and probes that are none.
    """

    def __init__(
        self,
        conditions: Iterable[StopCondition | Callable[[], Any]],
        probes: Iterable[Probe],
        journal: Journal,
    ) -> None:
        self._conditions = parse_conditions(conditions)
        self._steady_state = SteadyState(probes)
        self._journal = journal

    def __bool__(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._conditions or self._steady_state)

    # Conditions are asked first each time: they are cheap, and a probe may take seconds.

    def check_before(self) -> None:
        """Raise SteadyStateError if the system is not well to begin with."""
        if self._steady_state:
            self._steady_state.require(self._read("before"))

    def begin(self, alarm: Callable[[], None]) -> None:
        """The chaos begins; conditions call `alarm` to be looked at at once."""
        for condition in self._conditions:
            condition.begin(alarm)

    def end(self) -> None:
        """The chaos has ended."""
        for condition in self._conditions:
            condition.end()

    def check_conditions(self) -> tuple[Verdict, str] | None:
        """The verdict and the reason of a stop condition that wants the chaos to end."""
        for condition in self._conditions:
            reason = reason_of(condition)
            if reason:
                return Verdict.ABORTED, reason
        return None

    def check(self, is_over: Callable[[], bool]) -> tuple[Verdict, str] | None:
        """Why the chaos has to end; None if it has not, or `is_over` meanwhile."""
        stop = self.check_conditions()
        if stop is not None or not self._steady_state or is_over():
            return stop
        readings = self._steady_state.read()
        if is_over():  # the answers may be about what came after
            return None
        self._record("during", readings)
        problems = _problems(readings)
        return (Verdict.DEVIATED, problems) if problems else None

    def check_after(self) -> str:
        """The problems of the steady state after all is undone; '' if there are none."""
        return _problems(self._read("after")) if self._steady_state else ""

    def _read(self, phase: Literal["before", "after"]) -> tuple[Reading, ...]:
        readings = self._steady_state.read()
        self._record(phase, readings)
        return readings

    def _record(
        self, phase: Literal["before", "during", "after"], readings: tuple[Reading, ...]
    ) -> None:
        journal = self._journal
        now = journal.clock.monotonic()
        journal.record(SteadyStateRead(at=now, source=journal.name, phase=phase, readings=readings))


def _problems(readings: Iterable[Reading]) -> str:
    return "; ".join(each.problem for each in readings if not each.met)

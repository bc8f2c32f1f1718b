"""What watches over a monkey: its stop conditions, and the steady state of the system."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import Literal

from pytest_resilience.clock import Clock
from pytest_resilience.events import Event
from pytest_resilience.monkey.events import SteadyStateRead
from pytest_resilience.monkey.steady_state import Probe
from pytest_resilience.monkey.steady_state import Reading
from pytest_resilience.monkey.steady_state import SteadyState
from pytest_resilience.monkey.steady_state import Verdict
from pytest_resilience.monkey.stop_conditions import StopCondition
from pytest_resilience.monkey.stop_conditions import parse_conditions
from pytest_resilience.monkey.stop_conditions import reason_of


__all__ = ["Guard"]


class Guard:
    """Says when chaos must not begin and when it has to end.

    Raises ConfigurationError for conditions and probes that are none.
    """

    def __init__(
        self,
        conditions: Iterable[StopCondition | Callable[[], Any]],
        probes: Iterable[Probe],
        *,
        source: str,
        clock: Clock,
        tell: Callable[[Event], None],
    ) -> None:
        """`source` and `tell` are for its events."""
        self._conditions = parse_conditions(conditions)
        self._steady_state = SteadyState(probes)
        self._source = source
        self._clock = clock
        self._tell = tell

    def __bool__(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self._conditions or self._steady_state)

    def before(self) -> None:
        """Raise SteadyStateError if the system is not well to begin with."""
        if self._steady_state:
            readings = self._steady_state.read()
            self._note("before", readings)
            self._steady_state.require(readings)

    def begin(self, alarm: Callable[[], None]) -> None:
        """The chaos begins; conditions call `alarm` to be looked at at once."""
        for condition in self._conditions:
            condition.begin(alarm)

    def end(self) -> None:
        """The chaos has ended."""
        for condition in self._conditions:
            condition.end()

    def alarmed(self) -> tuple[Verdict, str] | None:
        """Which stop condition wants the chaos to end, if one does."""
        for condition in self._conditions:
            reason = reason_of(condition)
            if reason:
                return Verdict.ABORTED, reason
        return None

    def look(self, over: Callable[[], bool]) -> tuple[Verdict, str] | None:
        """Why the chaos has to end, if it has to; None as well when it is `over` meanwhile."""
        alarmed = self.alarmed()
        if alarmed is not None:
            return alarmed
        if self._steady_state and not over():
            readings = self._steady_state.read()
            if not over():  # else the answers are about what came after
                self._note("during", readings)
                missed = _missed(readings)
                return (Verdict.DEVIATED, missed) if missed else None
        return None

    def after(self) -> str:
        """What is not well now that everything is undone; '' if nothing is."""
        if not self._steady_state:
            return ""
        readings = self._steady_state.read()
        self._note("after", readings)
        return _missed(readings)

    def _note(
        self, phase: Literal["before", "during", "after"], readings: tuple[Reading, ...]
    ) -> None:
        now = self._clock.monotonic()
        self._tell(SteadyStateRead(at=now, source=self._source, phase=phase, readings=readings))


def _missed(readings: Iterable[Reading]) -> str:
    return "; ".join(each.problem for each in readings if not each.met)

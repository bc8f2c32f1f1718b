"""Stop conditions, which end the chaos early, and who looks at them and at the steady state."""

from __future__ import annotations

import threading

from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import Literal
from typing import Protocol
from typing import runtime_checkable

from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe
from pytest_resilience.monkey.events import Journal
from pytest_resilience.monkey.events import SteadyStateRead
from pytest_resilience.monkey.steady_state import Probe
from pytest_resilience.monkey.steady_state import Reading
from pytest_resilience.monkey.steady_state import SteadyState
from pytest_resilience.monkey.steady_state import Verdict


__all__ = [
    "BreakerOpens",
    "ErrorBudget",
    "StopCondition",
    "Watchdog",
    "When",
    "reason_of",
]

_OPEN = frozenset({"open", "forced_open", "forced-open"})


@runtime_checkable
class StopCondition(Protocol):
    """Something that can end the chaos."""

    def begin(self, alarm: Callable[[], None]) -> None:  # noqa: ARG002  # for those that call it
        """The chaos begins; who calls `alarm` is asked at once, and not at the next look."""
        return

    def reason(self) -> str:
        """Why the chaos has to end now, in words; '' while it has not."""

    def end(self) -> None:
        """The chaos has ended."""
        return


def reason_of(condition: StopCondition) -> str:
    """Its reason. One that cannot be asked is a reason itself: nobody would be watching."""
    try:
        return condition.reason()
    except Exception as error:
        return f"its stop condition cannot be asked: {describe(error)}"


class When(StopCondition):
    """When a function returns something true."""

    def __init__(self, alarmed: Callable[[], Any], name: str = "") -> None:
        if not callable(alarmed):
            raise ConfigurationError(
                f"{alarmed!r} is no stop condition; give a function, BreakerOpens or ErrorBudget"
            )
        self.name = name or getattr(alarmed, "__qualname__", repr(alarmed))
        self._alarmed = alarmed

    def reason(self) -> str:
        answer = self._alarmed()
        if not answer:
            return ""
        return f"{self.name}: {answer}" if isinstance(answer, str) else f"{self.name} is true"


class BreakerOpens(StopCondition):
    """When a circuit breaker opens, of this package or of another.

    A breaker with `listeners` is noticed the moment it opens, even if it closes before anybody
    looks. Of any other the `state` (or `current_state`) is read at each look.
    Raises ConfigurationError for what has neither.
    """

    def __init__(self, breaker: Any) -> None:
        self.name = str(getattr(breaker, "name", "") or type(breaker).__name__)
        self._breaker = breaker
        self._opened = False  # a breaker may close again before anybody looks
        self._forget: Callable[[], None] = lambda: None
        self._state()

    def _state(self) -> Any:
        for name in ("current_state", "state"):
            if hasattr(self._breaker, name):
                return getattr(self._breaker, name)
        raise ConfigurationError(
            f"{self._breaker!r} has no state, so nobody can see it open; give a circuit breaker"
        )

    def begin(self, alarm: Callable[[], None]) -> None:
        self._opened = False
        add = getattr(getattr(self._breaker, "listeners", None), "add", None)
        if add is None:
            return

        def notice(event: object) -> None:
            if _is_open(getattr(event, "new", "")):
                self._opened = True
                alarm()

        forget = add(notice)
        self._forget = forget if callable(forget) else lambda: None

    def reason(self) -> str:
        return f"{self.name} has opened" if self._opened or _is_open(self._state()) else ""

    def end(self) -> None:
        self._forget()


def _is_open(state: Any) -> bool:
    """Whether a text, an Enum or an object with a name says OPEN."""
    for text in (state, getattr(state, "value", ""), getattr(state, "name", "")):
        if isinstance(text, str) and text.lower() in _OPEN:
            return True
    return False


class ErrorBudget(StopCondition):
    """When more calls fail than may, of those in a sliding window of time.

    It has to be told of calls, from any thread: `record(failed=…)`.

    Examples:
        >>> budget = ErrorBudget(share="5%", calls=20, window="1m")
        >>> budget.record(failed=True)
        >>> budget.reason()
        ''
    """

    _PARTS = 10  # the window slides by tenths of its length

    def __init__(
        self,
        share: float | str = 0.05,
        *,
        calls: int = 20,
        window: float | str = 60.0,
        clock: Clock = MACHINE_CLOCK,
    ) -> None:
        """`share` of calls may fail; nothing is said of fewer `calls` in the `window`."""
        self.share = quantities.share("share", share)
        self.calls = quantities.count("calls", calls)
        self.window = quantities.seconds("window", window)
        if not self.window:
            raise ConfigurationError(
                f"window={window!r}: a window is longer than nothing; give '60s', say"
            )
        self._clock = clock
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._alarm: Callable[[], None] = lambda: None
        # Of each tenth: its number, calls, failed calls. Counts, for calls come by the thousand.
        self._parts: deque[list[int]] = deque()

    def record(self, *, failed: bool) -> None:
        """A call has ended."""
        number = int(self._clock.monotonic() / self.window * self._PARTS)
        with self._lock:
            self._forget(number)
            if not self._parts or self._parts[-1][0] < number:
                self._parts.append([number, 0, 0])
            self._parts[-1][1] += 1
            self._parts[-1][2] += failed
        if failed and self.reason():
            self._alarm()

    def _forget(self, number: int) -> None:
        while self._parts and self._parts[0][0] <= number - self._PARTS:
            self._parts.popleft()

    def begin(self, alarm: Callable[[], None]) -> None:
        self._alarm = alarm

    def reason(self) -> str:
        with self._lock:
            self._forget(int(self._clock.monotonic() / self.window * self._PARTS))
            calls = sum(part[1] for part in self._parts)
            failed = sum(part[2] for part in self._parts)
        if calls < self.calls or failed <= self.share * calls:
            return ""
        return f"{failed} of {calls} calls failed, and {self.share:.3g} of them may"

    def end(self) -> None:
        self._alarm = lambda: None


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
        self._conditions = [
            each if isinstance(each, StopCondition) else When(each) for each in conditions
        ]
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

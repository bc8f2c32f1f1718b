"""Stop conditions, which end the chaos early: a function, an open breaker, a spent budget."""

from __future__ import annotations

import threading

from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import Protocol
from typing import runtime_checkable

from pytest_resilience.chaos.parsing.quantities import count
from pytest_resilience.chaos.parsing.quantities import seconds
from pytest_resilience.chaos.parsing.quantities import share
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe


__all__ = ["BreakerOpens", "ErrorBudget", "StopCondition", "When", "parse_conditions", "reason_of"]

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


def parse_conditions(given: Iterable[StopCondition | Callable[[], Any]]) -> list[StopCondition]:
    """Conditions and functions as conditions. Raises ConfigurationError."""
    return [each if isinstance(each, StopCondition) else When(each) for each in given]


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
        self.share = _share(share)
        self.calls = count("calls", calls)
        self.window = seconds("window", window)
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


def _share(value: float | str) -> float:
    return share("share", value)

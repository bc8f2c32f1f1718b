"""The steady state of a system: probes that are read before, during and after chaos."""

from __future__ import annotations

import inspect
import re
import threading

from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import SteadyStateError
from pytest_resilience.events import describe


__all__ = ["Matches", "OneOf", "Probe", "Reading", "SteadyState", "Verdict", "Within"]


class Verdict(Enum):
    """The result of a period of chaos, the gravest first.

    DEVIATED: the system left its steady state, which is a finding about the system.
    FAILED: the chaos itself did not go as it should: it was not steady before, or an
    experiment could not be started or undone. ABORTED: a stop condition ended it.
    """

    DEVIATED = "deviated"
    FAILED = "failed"
    ABORTED = "aborted"
    PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Within:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float

    def __post_init__(self) -> None:
        try:
            ascending = self.low <= self.high
        except TypeError:  # they cannot even be compared
            ascending = False
        if not ascending:
            raise ConfigurationError(
                f"nothing is within {shortened(self.low)} and {shortened(self.high)}; give two "
                "numbers, the lower one first"
            )

    def __call__(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any of several values."""

    values: tuple[Any, ...]

    def __call__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return " or ".join(map(repr, self.values))


@dataclass(frozen=True, slots=True)
class Matches:
    """Texts in which a regular expression is found; the text of anything else."""

    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except (re.error, TypeError, RecursionError, OverflowError) as error:
            raise ConfigurationError(
                f"{shortened(self.pattern)} is no regular expression: {error}"
            ) from error

    def __call__(self, value: Any) -> bool:
        text = value if isinstance(value, str) else str(value)
        return re.search(self.pattern, text) is not None

    def __str__(self) -> str:
        return f"text with {self.pattern!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The value that a probe returned, and whether it is tolerated.

    Attributes:
        probe: its name.
        value: its answer; None if it failed.
        met: whether that is tolerated.
        problem: what is wrong, in words; '' if it is met.
    """

    probe: str
    value: Any
    met: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question to the system, and the answers that are tolerated.

    Attributes:
        name: what events and reports call it.
        ask: a function without arguments, or such a coroutine function. An exception is
            an answer that is never tolerated: under chaos it is what a deviation looks like.
        tolerance: a value, or a function that says of an answer whether it is tolerated,
            such as `Within(0, 0.5)`.
    """

    name: str
    ask: Callable[[], Any]
    tolerance: Any = True

    def __post_init__(self) -> None:
        name: object = self.name
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(f"name={name!r}: a probe needs a name; give a text")
        if not callable(self.ask):
            raise ConfigurationError(
                f"probe {self.name!r}: {self.ask!r} cannot be called; give a function"
            )

    def read(self) -> Reading:
        """Ask now. Never raises an `Exception`."""
        try:
            value: Any = self.ask()
            if inspect.iscoroutine(value):
                value = _awaited(value)
        except Exception as error:  # under chaos this is a finding, and no error of the monkey
            problem = f"{self.name} failed with {describe(error)}"
            return Reading(probe=self.name, value=None, met=False, problem=problem)
        problem = self._problem(value)
        return Reading(probe=self.name, value=value, met=not problem, problem=problem)

    def _problem(self, value: Any) -> str:
        try:
            tolerance = self.tolerance
            if tolerance(value) if callable(tolerance) else tolerance == value:
                return ""
            why = f"is not tolerated ({_expected(self.tolerance)})"
        except Exception as error:  # an answer of a kind its tolerance knows nothing of
            why = f"cannot be judged: {describe(error)}"
        return f"{self.name} says {describe(value)}, which {why}"


def _expected(tolerance: Any) -> str:
    name = getattr(tolerance, "__qualname__", "")
    if name:
        return f"by {name}"
    return str(tolerance) if callable(tolerance) else f"expected {describe(tolerance)}"


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, in a thread of its own: this one may run a loop already."""
    with limits_lifted():
        import asyncio

    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with limits_lifted():
                runner = asyncio.Runner()
                runner.get_loop()  # made now: its descriptors may be the last that are to be had
            try:
                results.append(runner.run(coroutine))
            finally:
                with limits_lifted():
                    runner.close()
        except BaseException as error:  # raised again in the thread that has asked
            errors.append(error)

    thread = threading.Thread(target=run, name="steady state probe", daemon=True)
    with limits_lifted():
        thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class SteadyState:
    """The probes that together say whether a system is well.

    Raises DuplicateNameError for two probes of one name.
    """

    def __init__(self, probes: Iterable[Probe]) -> None:
        self.probes = tuple(probes)
        names = set()
        for probe in self.probes:
            if not isinstance(probe, Probe):
                raise ConfigurationError(
                    f"{probe!r} is no probe; write Probe(name, function, tolerance)"
                )
            if probe.name in names:
                raise DuplicateNameError("probe", probe.name)
            names.add(probe.name)

    def __bool__(self) -> bool:
        return bool(self.probes)

    def read(self) -> tuple[Reading, ...]:
        """Ask every probe, in order."""
        return tuple(probe.read() for probe in self.probes)

    def require(self, readings: Iterable[Reading]) -> None:
        """Raise SteadyStateError unless all are met."""
        missed = {each.probe: each.problem for each in readings if not each.met}
        if missed:
            raise SteadyStateError(missed)

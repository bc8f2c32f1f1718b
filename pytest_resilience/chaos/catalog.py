"""The chaos types there are, what each can be told, and what faults it makes.

`intensity` (0 to 1) is the one knob every type has. A recipe translates it into the
type's own physical parameters, each of which can always be given instead.
"""

from __future__ import annotations

import difflib

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pytest_resilience.chaos import quantities
from pytest_resilience.chaos import triggers
from pytest_resilience.chaos.faults import Fault
from pytest_resilience.chaos.faults import Latency
from pytest_resilience.chaos.faults import Refusal
from pytest_resilience.chaos.faults import Reset
from pytest_resilience.chaos.faults import ResolutionFailure
from pytest_resilience.chaos.faults import Silence
from pytest_resilience.chaos.target import parse_targets
from pytest_resilience.errors import ConfigurationError


__all__ = ["RECIPES", "ChaosType", "Parameter", "Recipe", "chaos_type", "nearest", "recipe_of"]

MOST_LATENCY = 2.0  # seconds at intensity 1


class ChaosType(Enum):
    """What kind of trouble."""

    NETWORK_LATENCY = "network_latency"
    NETWORK_FAILURE = "network_failure"
    CPU_STRESS = "cpu_stress"
    MEMORY_STRESS = "memory_stress"
    DISK_STRESS = "disk_stress"
    SERVICE_FAILURE = "service_failure"
    DATABASE_SLOWDOWN = "database_slowdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """Something a chaos type can be told.

    Attributes:
        name: as it is written in markers, flags and profiles.
        unit: what its values are, for people.
        default: what holds when it is not given, for people.
        help: what it does, in one phrase.
        parse: `(name, value) -> value`; raises ConfigurationError.
    """

    name: str
    unit: str
    default: str
    help: str
    parse: Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a chaos type becomes faults.

    Attributes:
        summary: what it does, in one phrase.
        parameters: what it can be told.
        faults: `(given parameters, intensity) -> faults`.
        rate: `intensity -> share of the matching operations hit` when no rate is given.
    """

    summary: str
    parameters: tuple[Parameter, ...]
    faults: Callable[[Mapping[str, Any], float], tuple[Fault, ...]]
    rate: Callable[[float], float]

    def parse(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters given, checked. Raises ConfigurationError for the first bad one."""
        known = {parameter.name: parameter for parameter in self.parameters}
        parsed = {}
        for name, value in given.items():
            if name not in known:
                allowed = ", ".join(sorted(known))
                raise ConfigurationError(
                    f"unknown parameter {name!r}{nearest(name, known)}; allowed: {allowed}"
                )
            parsed[name] = known[name].parse(name, value)
        return parsed

    def trigger(self, given: Mapping[str, Any], intensity: float) -> triggers.Trigger:
        """Which operations are hit, from parsed parameters."""
        rate = given.get("rate", self.rate(intensity))
        chosen: list[triggers.Trigger] = [] if rate == 1 else [triggers.Rate(rate)]
        chosen += [make(given[name]) for name, make in _COUNTED.items() if name in given]
        if "between" in given:
            chosen.append(triggers.Between(*given["between"]))
        if len(chosen) > 1:
            return triggers.All(tuple(chosen))
        return chosen[0] if chosen else triggers.Always()


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean …?)' or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_COUNTED: dict[str, Callable[[int], triggers.Trigger]] = {
    "nth": triggers.Nth,
    "first": triggers.First,
    "from_nth": triggers.From,
    "every": triggers.Every,
}

_TARGETED = (
    Parameter(
        name="target",
        unit="host, host:port, globs, several between |",
        default="every client connection",
        help="whose operations are meant",
        parse=lambda _name, value: parse_targets(value),
    ),
)


def _triggered(rate: str) -> tuple[Parameter, ...]:
    number = "operation number, from 1"
    return (
        Parameter(
            name="rate", unit="0..1 or %", default=rate, parse=quantities.share,
            help="share of the matching operations hit",
        ),
        Parameter(
            name="nth", unit=number, default="any", parse=quantities.count,
            help="only the operation of this number",
        ),
        Parameter(
            name="first", unit="operations", default="all", parse=quantities.count,
            help="only the first so many: the fault goes away",
        ),
        Parameter(
            name="from_nth", unit=number, default="1", parse=quantities.count,
            help="only from this one on: the fault stays",
        ),
        Parameter(
            name="every", unit="operations", default="1", parse=quantities.count,
            help="only one in so many, at fixed steps",
        ),
        Parameter(
            name="between", unit="seconds..seconds", default="always", parse=quantities.interval,
            help="only in this window since the experiment began",
        ),
    )  # fmt: skip


_MODES: dict[str, Fault] = {
    "refuse": Refusal(),
    "reset": Reset(),
    "timeout": Silence(),
    "dns": ResolutionFailure(),
}


def _mode(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in _MODES:
        modes = ", ".join(map(repr, _MODES))
        guess = nearest(str(value), _MODES)
        raise ConfigurationError(f"{name}={value!r}{guess}: give one of {modes}")
    return value


def _latency(given: Mapping[str, Any], intensity: float) -> tuple[Fault, ...]:
    return (Latency(delay=given.get("delay", intensity * MOST_LATENCY)),)


def _failure(given: Mapping[str, Any], _intensity: float) -> tuple[Fault, ...]:
    return (_MODES[given.get("mode", "refuse")],)


RECIPES: dict[ChaosType, Recipe] = {
    ChaosType.NETWORK_LATENCY: Recipe(
        summary="the peer is further away: connecting and every answer take longer",
        parameters=(
            Parameter(
                name="delay", unit="seconds, or us, ms, s, m, h", parse=quantities.seconds,
                default=f"intensity x {MOST_LATENCY:g}s", help="added to each round trip",
            ),
            *_TARGETED,
            *_triggered(rate="1"),
        ),
        faults=_latency,
        rate=lambda _intensity: 1.0,
    ),
    ChaosType.NETWORK_FAILURE: Recipe(
        summary="the peer cannot be reached, or goes away",
        parameters=(
            Parameter(
                name="mode", unit=", ".join(_MODES), default="refuse", parse=_mode,
                help="connection refused, reset while an answer is awaited, silence until a "
                "timeout, or name resolution failure",
            ),
            *_TARGETED,
            *_triggered(rate="intensity"),
        ),
        faults=_failure,
        rate=lambda intensity: intensity,
    ),
}  # fmt: skip


def chaos_type(value: Any) -> ChaosType:
    """The type meant by a `ChaosType` or its name. Raises ConfigurationError."""
    if isinstance(value, ChaosType):
        return value
    names = [each.value for each in ChaosType]
    if isinstance(value, str) and value.strip().lower() in names:
        return ChaosType(value.strip().lower())
    guess = nearest(value, names) if isinstance(value, str) else ""
    raise ConfigurationError(f"unknown chaos type {value!r}{guess}; known: {', '.join(names)}")


def recipe_of(kind: ChaosType) -> Recipe:
    """Its recipe. Raises ConfigurationError for a type that cannot be injected yet."""
    try:
        return RECIPES[kind]
    except KeyError:
        available = ", ".join(each.value for each in RECIPES)
        raise ConfigurationError(
            f"chaos type {kind.value!r} cannot be injected by this version; available: {available}"
        ) from None

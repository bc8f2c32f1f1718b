"""Profiles: the experiments that a system must survive, as a table of a TOML file."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import Final

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.experiment_specs import check_name
from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.parsing.quantities import Budget
from pytest_resilience.chaos.parsing.quantities import MaxCalls
from pytest_resilience.chaos.parsing.quantities import read_budget
from pytest_resilience.chaos.parsing.quantities import read_depth
from pytest_resilience.chaos.parsing.quantities import read_max_calls
from pytest_resilience.chaos.types.catalog import chaos_type
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.errors import ConfigurationError


__all__ = ["ExploreTable", "Profile", "ProfileExperiment", "parse_gate"]

_HIGHEST_GATE = 100
_MOST = 1e300  # of a weight: sums of them are numbers, too
_KEYS = (
    "description", "experiments", "explore", "gate", "intensity", "interval", "markers",
    "max_active", "paths", "probability", "seed", "services",
)  # fmt: skip
_OF_EXPLORE: Final[dict[str, Callable[[str, Any], Any]]] = {
    "depth": read_depth,
    "budget": read_budget,
    "deadline": quantities.deadline,
    "max_calls": read_max_calls,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileExperiment:
    """An experiment of a profile.

    Attributes:
        kind: the chaos type's name.
        parameters: all others of its table.
        weight: how much it counts in the score.
    """

    kind: str
    parameters: dict[str, Any]
    weight: float

    @classmethod
    def parse(cls, table: Any) -> ProfileExperiment:
        """From its table. Raises ConfigurationError."""
        if not isinstance(table, Mapping):
            raise ConfigurationError(
                f"{shortened(table)} is no table; write [[…experiments]], then chaos_type = …"
            )
        given = dict(table)
        kind = given.pop("chaos_type", None)
        if kind is None:
            alike = [name for name in given if nearest(name, ["chaos_type"])]
            instead = f", instead of {shortened(alike[0])}" if alike else ""
            raise ConfigurationError(
                f"chaos_type is missing; give one, such as chaos_type = 'network_latency'{instead}"
            )
        weight = given.pop("weight", 1)
        if (
            isinstance(weight, bool)
            or not isinstance(weight, (int, float))
            or not 0 < weight < _MOST
        ):
            raise ConfigurationError(f"weight={shortened(weight)}: give a number above 0")
        given.setdefault("name", chaos_type(kind).value)
        experiment = cls(kind=kind, parameters=given, weight=float(weight))
        experiment.make()
        return experiment

    @property
    def name(self) -> str:
        """Its name in events and reports."""
        return str(self.parameters["name"])

    def make(self) -> ChaosExperiment:
        """The experiment as a monkey takes it. Raises ConfigurationError."""
        parameters = dict(self.parameters)
        return ChaosExperiment(parameters.pop("name"), self.kind, **parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploreTable:
    """How tests are explored, where neither flags nor marks say it; None for the usual.

    Attributes:
        depth: how many faults at once.
        budget: of each test.
        deadline: seconds after which a run hangs.
        max_calls: how many operations are no storm.
    """

    depth: int | None = None
    budget: Budget | None = None
    deadline: float | None = None
    max_calls: MaxCalls | None = None

    @classmethod
    def parse(cls, key: str, table: Any) -> ExploreTable:
        """From its table. Raises ConfigurationError."""
        if not isinstance(table, Mapping) or not table:
            raise ConfigurationError(
                f"{key}={shortened(table)}: write a table with {', '.join(_OF_EXPLORE)}, or some "
                "of them"
            )
        for each in table:
            if each not in _OF_EXPLORE:
                raise ConfigurationError(
                    f"{key}: unknown key {each!r}{nearest(each, _OF_EXPLORE)}; known: "
                    f"{', '.join(_OF_EXPLORE)}"
                )
        try:
            return cls(**{each: _OF_EXPLORE[each](each, value) for each, value in table.items()})
        except ConfigurationError as error:
            raise error.within(key) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One profile, checked.

    Attributes:
        name: its key in the file.
        description: what it is for, in a line.
        experiments: the faults that are injected.
        services: those that the experiments can name.
        markers: a marker expression that chooses the tests; empty for all.
        paths: globs of test files, or of folders with all below, one of which has to match; empty
            for all.
        seed: of all chance; None for a new one each run.
        intensity: of experiments that name none; None for the usual.
        probability: that one that names none starts in a test; None for the usual.
        gate: the least score that passes, 0 to 100; None for no gate.
        interval: seconds between the ticks of a monkey.
        max_active: how many experiments a monkey runs at once; None for any number.
        explore: how tests are explored: a table with `depth`, `budget` (runs, a time such as
            `"30s"`, or a list of both), `deadline` and `max_calls`.
    """

    name: str
    description: str = ""
    experiments: tuple[ProfileExperiment, ...] = ()
    services: tuple[Service, ...] = ()
    markers: str = ""
    paths: tuple[str, ...] = ()
    seed: int | None = None
    intensity: float | None = None
    probability: float | None = None
    gate: float | None = None
    interval: float = 30.0
    max_active: int | None = None
    explore: ExploreTable = ExploreTable()

    def only(self, names: Collection[str]) -> Profile:
        """With the experiments of these names alone; with all if there are no names."""
        chosen = tuple(each for each in self.experiments if not names or each.name in names)
        return replace(self, experiments=chosen)

    @classmethod
    def parse(cls, name: str, table: Any) -> Profile:
        """From its table. Raises ConfigurationError naming profile and key."""
        try:
            return cls._parse(name, table)
        except ConfigurationError as error:
            raise error.within(f"profile {shortened(name)}") from None

    @classmethod
    def _parse(cls, name: str, table: Any) -> Profile:
        check_name("a profile", name)
        if not isinstance(table, Mapping):
            raise ConfigurationError(
                f"{shortened(table)} is no table; write each experiment as [[…experiments]]"
            )
        if not table:
            raise ConfigurationError("it says nothing; write each experiment as [[…experiments]]")
        for key in table:
            if key not in _KEYS:
                raise ConfigurationError(
                    f"unknown key {shortened(key)}{nearest(key, _KEYS)}; allowed: "
                    + ", ".join(_KEYS)
                )

        def optional(key: str, parse: Any) -> Any:
            return parse(key, table[key]) if key in table else None

        names = optional("experiments", _experiments)
        return cls(
            name=name,
            description=optional("description", _text) or "",
            experiments=names or (),
            services=optional("services", _services) or (),
            markers=optional("markers", _text) or "",
            paths=optional("paths", _texts) or (),
            seed=optional("seed", quantities.seed),
            intensity=optional("intensity", quantities.share),
            probability=optional("probability", quantities.share),
            gate=optional("gate", parse_gate),
            interval=optional("interval", quantities.period) or 30.0,
            max_active=optional("max_active", quantities.count),
            explore=optional("explore", ExploreTable.parse) or ExploreTable(),
        )


def _experiments(_key: str, tables: Any) -> tuple[ProfileExperiment, ...]:
    if not isinstance(tables, Sequence) or isinstance(tables, str):
        raise ConfigurationError("experiments: write each as [[…experiments]]")
    found = []
    for number, table in enumerate(tables, 1):
        try:
            found.append(ProfileExperiment.parse(table))
        except ConfigurationError as error:
            raise error.within(f"experiment {number}") from None
        except TypeError as error:
            raise ConfigurationError(f"experiment {number}: {error}") from None
    names = [each.parameters["name"] for each in found]
    for each in names:
        if names.count(each) > 1:
            raise ConfigurationError(f"two experiments are named {each!r}; give each its own name")
    return tuple(found)


def _services(key: str, table: Any) -> tuple[Service, ...]:
    if not isinstance(table, Mapping):
        raise ConfigurationError(
            f"{key}={shortened(table)}: write payment = 'payments.internal:443'"
        )
    return tuple(Service.at(name, _texts(name, places)) for name, places in table.items())


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{key}={shortened(value)}: give a text")
    return value


def _texts(key: str, value: Any) -> tuple[str, ...]:
    """One text, or a list of them."""
    if not isinstance(value, Sequence):
        raise ConfigurationError(f"{key}={shortened(value)}: give a text, or a list of them")
    if not value:
        raise ConfigurationError(f"{key}={shortened(value)}: give at least one, or leave it out")
    return tuple(_text(key, each) for each in ([value] if isinstance(value, str) else value))


def parse_gate(key: str, value: Any) -> float:
    """The least score that passes, 0 to 100. Raises ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(
            f"{key}={shortened(value)}: give a number from 0 to {_HIGHEST_GATE}"
        )
    if not 0 <= value <= _HIGHEST_GATE:
        raise ConfigurationError(
            f"{key}={shortened(value)} is outside 0..{_HIGHEST_GATE}; give a number between"
        )
    return float(value)

"""An experiment as somebody asked for it: marker, fixture or flag, made into one thing."""

from __future__ import annotations

import enum

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import Literal

import pytest

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing.texts import parse_spec
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.types.catalog import chaos_type
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "Defaults",
    "ExperimentRequest",
    "RequestedBy",
    "RunMode",
    "from_mark",
    "from_parameters",
    "usual_requests",
]

# One of each way in which operations are numbered, for tests that ask for none.
_USUAL = (
    "network_failure:mode=refuse",
    "network_failure:mode=reset",
    "network_failure:mode=dns",
    "network_latency",
    "database_failure",
    "disk_failure",
)

RequestedBy = Literal["marker", "fixture", "flag", "profile", "matrix", "monkey", "usual"]


class RunMode(enum.Enum):
    """What becomes of the experiments of a run: they are run, only count, or are not started."""

    INJECT = enum.auto()
    COUNT = enum.auto()
    NOTHING = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """For experiments that do not say it themselves; None: the default of the chaos type."""

    intensity: float | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRequest:
    """An experiment, and how it was asked for.

    Attributes:
        experiment: what to run.
        requested_by: who asked for it.
        must_fire: whether it is an error if nothing happens to anything.
        include_setup: whether it is active from the set-up on.
    """

    experiment: ChaosExperiment
    requested_by: RequestedBy
    must_fire: bool = True
    include_setup: bool = False

    def for_certain(self) -> ExperimentRequest:
        """This one with probability 1, and with `rate=1` where no rate or intensity is given."""
        return replace(self, experiment=self.experiment.starting_always().hitting_all())


def from_parameters(
    kind: Any,
    parameters: Mapping[str, Any],
    defaults: Defaults,
    *,
    requested_by: RequestedBy,
    must_fire: bool = True,
    include_setup: bool = False,
) -> ExperimentRequest:
    """From a chaos type and its parameters, or an experiment. Raises ConfigurationError.

    Who asks for a type by name wants it to happen, so its probability is 1, unlike that of
    a `ChaosExperiment`, which may be one of many of a monkey. Who asks in a test wants it to
    happen every time, unless `rate` or `intensity` says how often.
    """
    _check_switch("must_fire", must_fire)
    _check_switch("include_setup", include_setup)
    if isinstance(kind, ChaosExperiment):
        if parameters:
            raise ConfigurationError(
                f"{', '.join(parameters)}: a ChaosExperiment has its own; change it there"
            )
        experiment = kind
    else:
        given = dict(parameters)
        if defaults.intensity is not None:
            given.setdefault("intensity", defaults.intensity)
        given.setdefault(
            "probability", 1.0 if defaults.probability is None else defaults.probability
        )
        experiment = ChaosExperiment(given.pop("name", chaos_type(kind).value), kind, **given)
    in_the_test = requested_by in ("marker", "fixture")
    return ExperimentRequest(
        experiment=experiment.hitting_all() if in_the_test else experiment,
        requested_by=requested_by,
        must_fire=must_fire and in_the_test,
        include_setup=include_setup,
    )


def usual_requests() -> list[ExperimentRequest]:
    """Experiments to count the operations of a test that asks for none."""
    requests = []
    for spec in _USUAL:
        kind, parameters = parse_spec(spec)
        named = {"name": spec, **parameters}
        requests.append(from_parameters(kind, named, Defaults(), requested_by="usual"))
    return requests


def from_mark(mark: pytest.Mark, defaults: Defaults) -> ExperimentRequest:
    """From `@pytest.mark.chaos(...)`. Raises ConfigurationError."""
    if len(mark.args) != 1:
        raise ConfigurationError(
            "chaos takes one chaos type or ChaosExperiment, then keywords, not "
            f"{len(mark.args)} arguments; e.g. @pytest.mark.chaos('network_latency', delay='200ms')"
        )
    parameters = dict(mark.kwargs)
    switches = {
        name: parameters.pop(name) for name in ("must_fire", "include_setup") if name in parameters
    }
    return from_parameters(mark.args[0], parameters, defaults, requested_by="marker", **switches)


def _check_switch(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={shortened(value)}: give True or False")

"""Experiments as somebody asked for them: marker, fixture, flag or profile, made into one thing.

Profiles are found in `pyproject.toml`, in a TOML file of their own, or among ours.
"""

from __future__ import annotations

import enum
import fnmatch
import os
import tomllib

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any
from typing import Literal

import pytest

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing.experiment_specs import check_flag
from pytest_resilience.chaos.parsing.experiment_specs import parse_spec
from pytest_resilience.chaos.parsing.experiment_specs import read_text
from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.types.catalog import chaos_type
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin.pytest_internals import check_markers
from pytest_resilience.plugin.pytest_internals import has_markers


__all__ = [
    "Check", "Defaults", "ExperimentRequest", "RequestedBy", "RunMode", "all_profiles",
    "check_experiments", "find_profile", "from_mark", "from_parameters", "requests_of", "selects",
    "usual_requests",
]  # fmt: skip

# One of each way in which operations are numbered, for tests that ask for none.
_USUAL = (
    "network_failure:mode=refuse",
    "network_failure:mode=reset",
    "network_failure:mode=dns",
    "network_latency",
    "database_failure",
    "disk_failure",
)

_TABLE = "pytest_resilience"  # below `tool`
_OURS = Path(__file__).with_name("profiles.toml")

RequestedBy = Literal["marker", "fixture", "flag", "profile", "matrix", "monkey", "usual"]
Check = Callable[[ChaosExperiment], object]
"""Raises ConfigurationError for an experiment that cannot be started in this run."""


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
    check_flag("must_fire", must_fire)
    check_flag("include_setup", include_setup)
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


def find_profile(config: pytest.Config, text: str) -> Profile:
    """The profile that `NAME` or `FILE.toml:NAME` stands for.

    In `pyproject.toml` it is the table `[tool.pytest_resilience.profiles.NAME]`, in a file of
    its own `[profiles.NAME]`. A NAME that `pyproject.toml` does not have can be one of ours.
    Raises ConfigurationError naming the file.
    """
    file, colon, name = text.rpartition(":")
    path = config.invocation_params.dir / file if colon else config.rootpath / "pyproject.toml"
    known = _profiles_in(path) if colon or path.exists() else {}
    if not colon:
        known = {**_profiles_in(_OURS), **known}
    try:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            how = ""
            if name.endswith(".toml") and not colon:
                how = f"; of a file give one of its profiles, as {name}:NAME"
            elif not known:
                how = "; in a file of its own a profile is a table [profiles.NAME]"
            elif not colon:
                how = "; one of your own is a table [tool.pytest_resilience.profiles.NAME]"
                if not path.exists():  # pytest takes another rootdir than the user
                    how += " of this file, which is not there; in another it is FILE.toml:NAME"
            raise ConfigurationError(
                f"no profile {shortened(name)}{nearest(name, known)}; known: {names}{how}"
            )
        return Profile.parse(name, known[name])
    except ConfigurationError as error:
        raise error.within(str(path)) from None


def all_profiles(config: pytest.Config) -> list[Profile]:
    """Those of `pyproject.toml`, and ours. Raises `pytest.UsageError`."""
    path = config.rootpath / "pyproject.toml"
    try:
        found = _profiles_in(path) if path.exists() else {}
        ours = {name: table for name, table in _profiles_in(_OURS).items() if name not in found}
        return [*_parsed(path, found), *_parsed(_OURS, ours)]
    except ConfigurationError as error:
        raise pytest.UsageError(printable(with_page(error))) from None


def _parsed(path: Path, tables: dict[str, Any]) -> list[Profile]:
    try:
        return [Profile.parse(name, table) for name, table in tables.items()]
    except ConfigurationError as error:
        raise error.within(str(path)) from None


def requests_of(profile: Profile, defaults: Defaults) -> tuple[ExperimentRequest, ...]:
    """The experiments of a profile for a test that it selects. Raises ConfigurationError."""
    if profile.markers:
        check_markers(profile.markers)
    return tuple(
        from_parameters(each.kind, each.parameters, defaults, requested_by="profile")
        for each in profile.experiments
    )


def check_experiments(
    profile: Profile, experiments: Iterable[ChaosExperiment], check: Check
) -> None:
    """Raise ConfigurationError naming the first of a profile that `check` raises it for."""
    for each in experiments:
        try:
            check(each)
        except ConfigurationError as error:
            place = f"profile {profile.name!r}: experiment {each.name!r}"
            raise error.within(place) from None


def selects(profile: Profile, item: pytest.Item) -> bool:
    """True if the profile's `markers` and `paths` select the test."""
    path = os.path.relpath(item.path, item.config.rootpath).replace(os.sep, "/")
    globs = [glob for each in profile.paths for glob in (each, f"{each.rstrip('/')}/*")]
    if globs and not any(fnmatch.fnmatch(path, each) for each in globs):
        return False
    return not profile.markers or has_markers(item, profile.markers)


def _profiles_in(path: Path) -> dict[str, Any]:
    document = _read(path)
    if path.name == "pyproject.toml":
        tools = _table(document, "tool")
        alike = [each for each in tools if each.casefold().replace("-", "_") == _TABLE]
        _check_keys(path, "tool", alike, _TABLE)
        document = _table(tools, _TABLE)
        _check_keys(path, f"tool.{_TABLE}", document, "profiles")
    return _table(document, "profiles")


def _check_keys(path: Path, table: str, keys: Iterable[str], known: str) -> None:
    """Raise ConfigurationError for a key that nobody would read."""
    for key in keys:
        if key != known:
            raise ConfigurationError(
                f"{path}: [{table}] has an unknown key {shortened(key)}; a profile is a table "
                f"[tool.{_TABLE}.profiles.NAME]"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except RecursionError:
        raise ConfigurationError(f"{path} cannot be read: it is nested too deeply") from None
    except ConfigurationError:
        raise
    except ValueError as error:  # no TOML, a number of too many digits
        raise ConfigurationError(f"{path} cannot be read: {error}") from None


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    below = table.get(key, {})
    return below if isinstance(below, dict) else {}

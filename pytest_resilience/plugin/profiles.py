"""Where profiles are found: in `pyproject.toml`, in a TOML file of their own, or among ours."""

from __future__ import annotations

import fnmatch
import os
import tomllib

from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.chaos.parsing.texts import read_text
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.types.schema import nearest
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin.experiment_request import Defaults
from pytest_resilience.plugin.experiment_request import ExperimentRequest
from pytest_resilience.plugin.experiment_request import from_parameters
from pytest_resilience.plugin.pytest_internals import check_markers
from pytest_resilience.plugin.pytest_internals import has_markers


__all__ = ["Check", "all_profiles", "check_experiments", "find_profile", "requests_of", "selects"]

_OURS = Path(__file__).with_name("profiles.toml")

Check = Callable[[ChaosExperiment], object]
"""Raises ConfigurationError for an experiment that cannot be started in this run."""


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
        return [Profile.parse(name, table) for name, table in [*found.items(), *ours.items()]]
    except ConfigurationError as error:
        raise pytest.UsageError(printable(with_page(error.within(str(path))))) from None


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
    if profile.paths and not any(fnmatch.fnmatch(path, each) for each in profile.paths):
        return False
    return not profile.markers or has_markers(item, profile.markers)


def _profiles_in(path: Path) -> dict[str, Any]:
    document = _read(path)
    if path.name == "pyproject.toml":
        document = _table(_table(document, "tool"), "pytest_resilience")
    return _table(document, "profiles")


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

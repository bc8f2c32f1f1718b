"""The flags, ini options and profiles of this run, read and checked once."""

from __future__ import annotations

import shlex

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.experiment_specs import parse_spec
from pytest_resilience.chaos.parsing.messages import inline
from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.profile import ExploreTable
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.profile import parse_gate
from pytest_resilience.chaos.types.catalog import add_type
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin.experiment_requests import Check
from pytest_resilience.plugin.experiment_requests import Defaults
from pytest_resilience.plugin.experiment_requests import ExperimentRequest
from pytest_resilience.plugin.experiment_requests import RunMode
from pytest_resilience.plugin.experiment_requests import check_experiments
from pytest_resilience.plugin.experiment_requests import find_profile
from pytest_resilience.plugin.experiment_requests import from_parameters
from pytest_resilience.plugin.experiment_requests import requests_of
from pytest_resilience.plugin.exploration.settings import read_settings
from pytest_resilience.plugin.newhooks import describe
from pytest_resilience.plugin.newhooks import gathered
from pytest_resilience.plugin.options import given
from pytest_resilience.plugin.options import option_name
from pytest_resilience.plugin.options import times_typed
from pytest_resilience.plugin.xdist_workers import handed_seed
from pytest_resilience.plugin.xdist_workers import is_worker
from pytest_resilience.runtime import Caps
from pytest_resilience.runtime import NewChaosType
from pytest_resilience.seeds import new_seed


__all__ = [
    "MatrixSettings",
    "Repeat",
    "Settings",
    "custom_types",
    "report_files",
    "runs_tests",
    "settings_of",
]


_Value = TypeVar("_Value")
_CUSTOM_TYPES = pytest.StashKey[tuple[NewChaosType, ...]]()
_SETTINGS = pytest.StashKey["Settings"]()
_WITHOUT_CHAOS = ("no-chaos", "chaos-operations")  # the flags under which nothing is injected
_JUDGING = tuple(f"resilience-{name}" for name in ("gate", "report-only", "baseline", "shard"))
_RUNNING_NOTHING = ("collectonly", "setuponly", "setupplan")
_MOST_DIGITS = 9  # of a number of shards: int() of very many raises


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """The command that gives a test the same faults again.

    Attributes:
        flags: those of the seed and the experiments.
        only: the experiments of the profiles that were chosen; empty where all are meant.
        choose: the option that chooses an experiment.
        matrix: the option that runs the matrix; "" where this run is none.
    """

    flags: tuple[str, ...]
    only: tuple[str, ...]
    choose: str
    matrix: str

    def command(self, nodeid: str, experiment: str | None = None) -> str:
        """The command for one test under all of its experiments, or under one of them alone."""
        only = self.only if experiment is None else (experiment,)
        words = ["pytest", nodeid, *self.flags, *(f"{self.choose}={name}" for name in only)]
        if self.matrix and experiment is None:
            words.append(self.matrix)
        return shlex.join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSettings:
    """How the matrix is run and judged.

    Attributes:
        explores: whether its cells are operations under faults, and not the profiles' experiments.
        gate: the least score that passes, 0 to 100; None if any does.
        report_only: whether the run passes whatever the score is.
        baseline: the file of cells that are known to break.
        reports: files to write reports to.
        shard: which part of the tests to run: index from 1, and how many parts there are.
    """

    explores: bool
    gate: float | None
    report_only: bool
    baseline: Path | None
    reports: tuple[Path, ...]
    shard: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The flags, ini options and profiles, checked.

    Attributes:
        seed: of all chance in this run.
        mode: what becomes of the experiments.
        defaults: for experiments that do not say it themselves.
        experiments: those around every test.
        profiles: each with the experiments around the tests that it selects.
        monkeys: the profiles whose experiments come and go by chance.
        services: those of the ini option `chaos_services` and of the profiles.
        caps: how much stress experiments may ask for.
        matrix: None where this run is none of the matrix.
        repeat: the command that repeats a test.
    """

    seed: int
    mode: RunMode
    defaults: Defaults
    experiments: tuple[ExperimentRequest, ...]
    profiles: tuple[tuple[Profile, tuple[ExperimentRequest, ...]], ...]
    monkeys: tuple[Profile, ...]
    services: Services
    caps: Caps
    matrix: MatrixSettings | None
    repeat: Repeat


def settings_of(config: pytest.Config) -> Settings:
    """The settings of this run. Raises `pytest.UsageError` for a flag that makes no sense."""
    settings = config.stash.get(_SETTINGS, None)
    if settings is None:
        settings = config.stash[_SETTINGS] = _read(config)
    return settings


def _read(config: pytest.Config) -> Settings:
    try:
        custom_types(config)  # so that flags and profiles can name them
        return _checked(config)
    except (ConfigurationError, DuplicateNameError) as error:
        raise pytest.UsageError(printable(with_page(error))) from None


def custom_types(config: pytest.Config) -> tuple[NewChaosType, ...]:
    """The chaos types that other plugins have given; known until the run ends.

    Raises `pytest.UsageError`.
    """
    found = config.stash.get(_CUSTOM_TYPES, None)
    if found is None:
        describe(config.pluginmanager)
        results = config.hook.pytest_resilience_chaos_types()
        found = config.stash[_CUSTOM_TYPES] = tuple(
            gathered("chaos_types", results, lambda each: isinstance(each, NewChaosType))
        )
        try:
            for each in found:
                config.add_cleanup(add_type(each.name, each.schema))
        except DuplicateNameError as error:
            raise pytest.UsageError(printable(with_page(error))) from None
    return found


def _checked(config: pytest.Config) -> Settings:
    """Raises ConfigurationError or DuplicateNameError; where several could be, for the first."""
    profiles = [find_profile(config, name) for name in given(config, "chaos-profile")]
    monkeys = [find_profile(config, name) for name in given(config, "chaos-monkey")]
    defaults = _defaults(config, profiles)
    seed = _seed(config, [*profiles, *monkeys])
    services = _services(config, [*profiles, *monkeys])
    caps = Caps.parse(
        memory=config.getini("chaos_max_memory"),
        disk=config.getini("chaos_max_disk"),
        cpu=config.getini("chaos_max_cpu"),
    )
    check = _check(config, services, caps)
    for group in ([] if _explores(config, profiles) else profiles, *([each] for each in monkeys)):
        _check_not_empty(group)
    for monkey in monkeys:
        check_experiments(monkey, (each.make() for each in monkey.experiments), check)
    return Settings(
        seed=seed,
        mode=_mode(config),
        defaults=defaults,
        experiments=tuple(
            _experiment(config, spec, defaults, check) for spec in given(config, "chaos")
        ),
        profiles=_requested(config, profiles, defaults, check),
        monkeys=tuple(monkeys),
        services=services,
        caps=caps,
        matrix=_matrix(config, profiles),
        repeat=_repeat(config, seed),
    )


def _defaults(config: pytest.Config, profiles: list[Profile]) -> Defaults:
    return Defaults(
        intensity=_first(
            _one(config, "chaos-intensity", quantities.share),
            *(each.intensity for each in reversed(profiles)),
        ),
        probability=_first(
            _one(config, "chaos-probability", quantities.share),
            *(each.probability for each in reversed(profiles)),
        ),
    )


def _mode(config: pytest.Config) -> RunMode:
    if given(config, "no-chaos"):
        return RunMode.NOTHING
    return RunMode.COUNT if given(config, "chaos-operations") else RunMode.INJECT


def _seed(config: pytest.Config, profiles: list[Profile]) -> int:
    """That of the flag, a profile, xdist's controller, or a new one."""
    chosen = _first(
        _one(config, "chaos-seed", quantities.seed), *(each.seed for each in reversed(profiles))
    )
    if chosen is not None:
        return chosen
    handed = handed_seed(config)
    return new_seed() if handed is None else handed


def _services(config: pytest.Config, profiles: Iterable[Profile]) -> Services:
    """Those of all; two profiles may say the same of one."""
    try:
        found = list(map(Service.parse, config.getini("chaos_services")))
    except ConfigurationError as error:
        raise error.within("ini option chaos_services") from None
    for profile in profiles:
        found += [service for service in profile.services if service not in found]
    return Services(found)


def _check(config: pytest.Config, services: Services, caps: Caps) -> Check:
    """The check that every experiment of the flags has to pass.

    Not the caps in a worker of xdist, whose controller has looked already: when the machine
    has less left by now, the test that starts it reports that.
    """
    in_worker = is_worker(config)

    def check(experiment: ChaosExperiment) -> None:
        bound = experiment.bind(services)
        if not in_worker:
            caps.approve(bound)

    return check


def _explores(config: pytest.Config, profiles: list[Profile]) -> bool:
    """Whether the flag, or a marked test, may explore, so that a profile need only say how."""
    says = any(each.explore != ExploreTable() for each in profiles)
    return bool(given(config, "chaos-explore") or (says and not given(config, "chaos-matrix")))


def _check_not_empty(profiles: list[Profile]) -> None:
    """Some profiles may say how, as long as others say what."""
    if profiles and not any(each.experiments for each in profiles):
        names = " and ".join(repr(each.name) for each in profiles)
        raise ConfigurationError(
            f"profile {names} has no experiments, so nothing would happen; write each as "
            f"[[…{profiles[0].name}.experiments]]"
        )


def _requested(
    config: pytest.Config, profiles: list[Profile], defaults: Defaults, check: Check
) -> tuple[tuple[Profile, tuple[ExperimentRequest, ...]], ...]:
    """The profiles with those of their experiments that were chosen."""
    only = given(config, "chaos-experiment")
    option = option_name(config, "chaos-experiment")
    if only and not profiles:
        raise ConfigurationError(
            f"{option} needs {option_name(config, 'chaos-profile')}: it chooses among the "
            "experiments of profiles"
        )
    known = [each.name for profile in profiles for each in profile.experiments]
    for name in only:
        if name not in known:
            names = ", ".join(map(repr, known)) or "none"
            raise ConfigurationError(
                f"{option}={inline(name)}{nearest(name, known)}: the profiles have {names}; give "
                "one of these"
            )
    found = []
    for profile in (each.only(only) for each in profiles):
        requests = requests_of(profile, defaults)
        if only:  # who chooses one wants it to happen, as the matrix does, whose cells this repeats
            requests = tuple(each.for_certain() for each in requests)
        check_experiments(profile, (each.experiment for each in requests), check)
        found.append((profile, requests))
    return tuple(found)


def _experiment(
    config: pytest.Config, spec: str, defaults: Defaults, check: Check
) -> ExperimentRequest:
    try:
        kind, parameters = parse_spec(spec)
        request = from_parameters(kind, parameters, defaults, requested_by="flag")
        check(request.experiment)
    except ConfigurationError as error:
        option = option_name(config, "chaos")
        raise error.within(f"{option}={inline(spec)}") from None
    return request


def _matrix(config: pytest.Config, profiles: list[Profile]) -> MatrixSettings | None:
    """None where this run is none of the matrix, whose flags are checked all the same."""
    explores = read_settings(config, profiles).suite
    settings = MatrixSettings(
        explores=explores,
        gate=_first(
            _one(config, "resilience-gate", _score),
            max((each.gate for each in profiles if each.gate is not None), default=None),
        ),
        report_only=_report_only(config),
        baseline=_one(config, "resilience-baseline", lambda _, value: Path(value)),
        reports=report_files(config),
        shard=_one(config, "resilience-shard", _shard) or (1, 1),
    )
    flag, explore = (option_name(config, name) for name in ("chaos-matrix", "chaos-explore"))
    for without in _WITHOUT_CHAOS:
        if given(config, without):
            why = f"cannot be with {option_name(config, without)}: without chaos"
            _check_unused(config, why, [*_JUDGING, "resilience-report"])
            return None
    if explores and given(config, "chaos-matrix"):
        raise ConfigurationError(
            f"{flag} and {explore} run each test many times, each in its own way; give one of them"
        )
    if not (explores or given(config, "chaos-matrix")):
        _check_unused(config, f"needs {flag} or {explore}: without them", _JUDGING)
        return None
    if not (explores or profiles):
        profile = option_name(config, "chaos-profile")
        raise ConfigurationError(
            f"{flag} needs {profile}: a profile says which experiments there are; give one, such "
            f"as {profile}=flaky-network. {profile}=? shows all"
        )
    return settings


def runs_tests(config: pytest.Config) -> bool:
    """Whether this run runs tests, and does not only show some, as with --collect-only."""
    return not any(config.getoption(option, False) for option in _RUNNING_NOTHING)


def report_files(config: pytest.Config) -> tuple[Path, ...]:
    """The files to write reports to."""
    return tuple(map(Path, given(config, "resilience-report")))


def _report_only(config: pytest.Config) -> bool:
    """True if the matrix only reports: of that and a gate, what is typed overrules `addopts`."""
    if not given(config, "resilience-report-only"):
        return False
    gate, only = (
        bool(times_typed(config, flag)) for flag in ("resilience-gate", "resilience-report-only")
    )
    if given(config, "resilience-gate") and gate == only:
        raise ConfigurationError(
            "--resilience-gate fails runs and --resilience-report-only fails none; give one of them"
        )
    return only or not gate


def _check_unused(config: pytest.Config, why: str, flags: Iterable[str]) -> None:
    """Refuse what only a matrix heeds; `addopts` may have it for the runs that are one."""
    for flag in flags:
        if times_typed(config, flag):
            raise ConfigurationError(f"{option_name(config, flag)} {why} there is nothing to judge")


def _repeat(config: pytest.Config, seed: int) -> Repeat:
    flags = [f"{option_name(config, 'chaos-seed')}={seed}"]
    for flag in ("chaos", "chaos-profile", "chaos-monkey"):
        flags += [f"{option_name(config, flag)}={value}" for value in given(config, flag)]
    for flag in ("chaos-intensity", "chaos-probability"):
        flags += [f"{option_name(config, flag)}={value}" for value in given(config, flag)[-1:]]
    has_chaos = not any(given(config, flag) for flag in _WITHOUT_CHAOS)
    in_matrix = given(config, "chaos-matrix") and has_chaos
    return Repeat(
        flags=tuple(flags),
        only=tuple(given(config, "chaos-experiment")),
        choose=option_name(config, "chaos-experiment"),
        matrix=option_name(config, "chaos-matrix") if in_matrix else "",
    )


def _first(*values: _Value | None) -> _Value | None:
    """The first that is given: who comes earlier overrules."""
    return next((value for value in values if value is not None), None)


def _one(config: pytest.Config, flag: str, parse: Callable[[str, str], _Value]) -> _Value | None:
    """The value of a flag that can have one only; what is typed overrules `addopts`."""
    name = option_name(config, flag)
    values = given(config, flag)[-times_typed(config, flag) :]
    parsed = [parse(name, value) for value in values]
    if len(set(parsed)) > 1:
        raise ConfigurationError(
            f"{name} is given more than once, as {inline(', '.join(values))}; keep one"
        )
    return parsed[0] if parsed else None


def _score(name: str, value: str) -> float:
    is_number = value.isascii() and value.replace(".", "", 1).isdigit()
    return parse_gate(name, float(value) if is_number else value)


def _shard(name: str, value: str) -> tuple[int, int]:
    """Which part of how many, as in `1/3`."""
    index, slash, count = value.partition("/")
    numbers = index.isascii() and count.isascii() and index.isdigit() and count.isdigit()
    short = len(index) <= _MOST_DIGITS and len(count) <= _MOST_DIGITS
    if not (slash and numbers and short and 1 <= int(index) <= int(count)):
        raise ConfigurationError(f"{name}={shortened(value)}: give a part such as 1/3")
    return int(index), int(count)

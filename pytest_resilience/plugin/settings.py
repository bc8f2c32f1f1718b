"""What the flags of this run say, read once."""

from __future__ import annotations

import shlex

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import TypeVar

import pytest

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.spec import parse_spec
from pytest_resilience.chaos.parsing.texts import inline
from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.profile import gate_of
from pytest_resilience.chaos.types.catalog import add_type
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.plugin import options
from pytest_resilience.plugin.experiment_request import Defaults
from pytest_resilience.plugin.experiment_request import Requested
from pytest_resilience.plugin.experiment_request import from_parameters
from pytest_resilience.plugin.profiles import Check
from pytest_resilience.plugin.profiles import check_experiments
from pytest_resilience.plugin.profiles import find_profile
from pytest_resilience.plugin.profiles import requested_of
from pytest_resilience.runtime import DEFAULT_CAPS
from pytest_resilience.runtime import Caps
from pytest_resilience.runtime import NewChaosType
from pytest_resilience.seeds import new_seed


__all__ = ["SEED_KEY", "Settings", "first", "part", "score", "settings_of", "single", "times_typed"]

_Value = TypeVar("_Value")
_DIGITS = 9  # of a number of shards


def single(
    config: pytest.Config, flag: str, names: dict[str, str], parse: Callable[[str, str], _Value]
) -> _Value | None:
    """The value of a flag that can have one only; what is typed overrules `addopts`."""
    values = options.given(config, flag)
    times = times_typed(config, flag)
    parsed = [parse(names[flag], value) for value in values[-times:]]
    if len(set(parsed)) > 1:
        raise ConfigurationError(
            f"{names[flag]} is given more than once, as {inline(', '.join(values[-times:]))}; "
            "keep one"
        )
    return parsed[0] if parsed else None


def times_typed(config: pytest.Config, flag: str) -> int:
    """How often a flag stands on the command line itself, by whichever name."""
    forms = {f"--{flag}", f"--{options.PREFIX}-{flag}"}
    return sum(str(arg).partition("=")[0] in forms for arg in config.invocation_params.args)


def first(*values: _Value | None) -> _Value | None:
    """The first that is given: who comes earlier overrules."""
    return next((value for value in values if value is not None), None)


def score(name: str, value: str) -> float:
    """That of a gate. Raises ConfigurationError, as all of these."""
    is_number = value.isascii() and value.replace(".", "", 1).isdigit()
    return gate_of(name, float(value) if is_number else value)


def part(name: str, value: str) -> tuple[int, int]:
    """Which of how many, as in `1/3`."""
    index, slash, count = value.partition("/")
    numbers = index.isascii() and count.isascii() and index.isdigit() and count.isdigit()
    short = len(index) <= _DIGITS and len(count) <= _DIGITS
    if not (slash and numbers and short and 1 <= int(index) <= int(count)):
        raise ConfigurationError(f"{name}={shortened(value)}: give a part such as 1/3")
    return int(index), int(count)


SEED_KEY = "resilience_seed"  # in an xdist worker's input

_GATE, _REPORT_ONLY = "resilience-gate", "resilience-report-only"
_OF_THE_MATRIX = (
    _GATE, _REPORT_ONLY, "resilience-baseline", "resilience-report", "resilience-shard"
)  # fmt: skip

_OTHERS = pytest.StashKey[tuple[NewChaosType, ...]]()
_SETTINGS = pytest.StashKey["Settings"]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The flags, checked.

    Attributes:
        seed: of this run, chosen or not.
        calm: whether nothing is to start.
        defaults: what experiments get that do not say it themselves.
        experiments: those that every test is put under.
        profiles: with the experiments that the tests that they select are put under.
        monkeys: those whose experiments come and go by chance.
        services: those of the ini option `chaos_services` and of the profiles.
        matrix: whether tests run once calm and once per experiment.
        gate: the least score that passes; None if any does.
        report_only: whether what the matrix finds fails no run.
        baseline: where the cells are that are known to break.
        reports: where to write reports.
        shard: which part of the tests to run: index from 1, and how many there are.
        caps: how much pressure experiments may ask for.
        only: the experiments of the profiles that were chosen; empty where all are meant.
        arguments: the flags that repeat all this, without the seed and what was chosen.
    """

    seed: int
    calm: bool = False
    defaults: Defaults = field(default_factory=Defaults)
    experiments: tuple[Requested, ...] = ()
    profiles: tuple[tuple[Profile, tuple[Requested, ...]], ...] = ()
    monkeys: tuple[Profile, ...] = ()
    services: Services = field(default_factory=Services)
    matrix: bool = False
    gate: float | None = None
    report_only: bool = False
    baseline: Path | None = None
    reports: tuple[Path, ...] = ()
    shard: tuple[int, int] = (1, 1)
    caps: Caps = DEFAULT_CAPS
    only: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def repeat(self, nodeid: str, experiment: str | None = None) -> str:
        """The command that gives one test the same faults again; `experiment`: that one alone.

        Without `experiment`, a test of the matrix begins with its calm run again.
        """
        words = ["pytest", nodeid, f"{self._name('chaos-seed')}={self.seed}", *self.arguments]
        chosen = self.only if experiment is None else (experiment,)
        words += [f"{self._name('chaos-experiment')}={name}" for name in chosen]
        if self.matrix and experiment is None:
            words.append(self._name("chaos-matrix"))
        return shlex.join(words)

    def _name(self, flag: str) -> str:
        """The option to type for a flag; another plugin may have taken the short one."""
        return self.names.get(flag, f"--{flag}")


def settings_of(config: pytest.Config) -> Settings:
    """The settings of this run. Raises `pytest.UsageError` for a flag that makes no sense."""
    settings = config.stash.get(_SETTINGS, None)
    if settings is None:
        settings = config.stash[_SETTINGS] = _read(config)
    return settings


def _read(config: pytest.Config) -> Settings:
    names = config.stash.get(options.NAMES, {flag: f"--{flag}" for flag in options.FLAGS})
    try:
        others_of(config)  # so that flags and profiles can name them
        return _checked(config, names)
    except (ConfigurationError, DuplicateNameError) as error:
        raise pytest.UsageError(printable(str(error))) from None


def _checked(config: pytest.Config, names: dict[str, str]) -> Settings:
    """Raises ConfigurationError or DuplicateNameError; where several could be, for the first."""
    profiles = [find_profile(config, name) for name in options.given(config, "chaos-profile")]
    monkeys = [find_profile(config, name) for name in options.given(config, "chaos-monkey")]
    defaults = _defaults(config, names, profiles)
    seed = first(
        single(config, "chaos-seed", names, quantities.seed),
        *(each.seed for each in reversed([*profiles, *monkeys])),
    )
    services = _services(config, [*profiles, *monkeys])
    caps = _caps(config)
    check = _check(config, services, caps)
    only = options.given(config, "chaos-experiment")
    _check_names(only, profiles, names["chaos-experiment"])
    for group in (profiles, *([each] for each in monkeys)):
        _check_experiments(group)
    profiles = [each.only(only) for each in profiles]
    requests = [_requests(each, defaults, check) for each in profiles]
    for profile in monkeys:
        check_experiments(profile, (each.make() for each in profile.experiments), check)
    calm = bool(options.given(config, "no-chaos"))
    matrix = _matrix(config, names, profiles, calm=calm)
    return Settings(
        matrix=matrix,
        report_only=_report_only(config, names),
        gate=_gate(config, names, profiles),
        baseline=single(config, "resilience-baseline", names, lambda _, value: Path(value)),
        reports=tuple(map(Path, options.given(config, "resilience-report"))),
        shard=single(config, "resilience-shard", names, part) or (1, 1),
        seed=_seed_of(config) if seed is None else seed,
        calm=calm,
        defaults=defaults,
        experiments=tuple(
            _experiment(spec, names["chaos"], defaults, check)
            for spec in options.given(config, "chaos")
        ),
        profiles=tuple(zip(profiles, requests, strict=True)),
        monkeys=tuple(monkeys),
        services=services,
        caps=caps,
        only=tuple(only),
        arguments=_arguments(config, names),
        names=names,
    )


def _defaults(config: pytest.Config, names: dict[str, str], profiles: list[Profile]) -> Defaults:
    return Defaults(
        intensity=first(
            single(config, "chaos-intensity", names, quantities.share),
            *(each.intensity for each in reversed(profiles)),
        ),
        probability=first(
            single(config, "chaos-probability", names, quantities.share),
            *(each.probability for each in reversed(profiles)),
        ),
    )


def _requests(profile: Profile, defaults: Defaults, check: Check) -> tuple[Requested, ...]:
    requests = requested_of(profile, defaults)
    check_experiments(profile, (each.experiment for each in requests), check)
    return requests


def _gate(config: pytest.Config, names: dict[str, str], profiles: list[Profile]) -> float | None:
    return first(
        single(config, "resilience-gate", names, score),
        max((each.gate for each in profiles if each.gate is not None), default=None),
    )


def _caps(config: pytest.Config) -> Caps:
    return Caps.parse(
        memory=config.getini("chaos_max_memory"),
        disk=config.getini("chaos_max_disk"),
        cpu=config.getini("chaos_max_cpu"),
    )


def _matrix(
    config: pytest.Config, names: dict[str, str], profiles: list[Profile], *, calm: bool
) -> bool:
    """Whether this run is one of the matrix: a calm one is not, whatever else is said."""
    if calm:
        _check_unused(config, names, f"cannot be with {names['no-chaos']}: in a calm run")
        return False
    if not options.given(config, "chaos-matrix"):
        _check_unused(config, names, f"needs {names['chaos-matrix']}: without it")
        return False
    if not profiles:
        raise ConfigurationError(
            f"{names['chaos-matrix']} needs {names['chaos-profile']}: a profile says which "
            "experiments there are"
        )
    return True


def _report_only(config: pytest.Config, names: dict[str, str]) -> bool:
    """Whether the matrix only reports: of that and a gate, what is typed overrules `addopts`."""
    if not options.given(config, _REPORT_ONLY):
        return False
    gate, only = (bool(times_typed(config, flag)) for flag in (_GATE, _REPORT_ONLY))
    if options.given(config, _GATE) and gate == only:
        raise ConfigurationError(
            f"{names[_GATE]} fails runs and {names[_REPORT_ONLY]} fails none; give one of them"
        )
    return only or not gate


def _arguments(config: pytest.Config, names: dict[str, str]) -> tuple[str, ...]:
    """What has to be typed again for the same experiments."""
    said = [f"{names['chaos']}={spec}" for spec in options.given(config, "chaos")]
    for flag in ("chaos-profile", "chaos-monkey"):
        said += [f"{names[flag]}={value}" for value in options.given(config, flag)]
    for flag in ("chaos-intensity", "chaos-probability"):
        said += [f"{names[flag]}={value}" for value in options.given(config, flag)[-1:]]
    return tuple(said)


def others_of(config: pytest.Config) -> tuple[NewChaosType, ...]:
    """The chaos types that others have given; known until the run ends."""
    found = config.stash.get(_OTHERS, None)
    if found is None:
        given = config.hook.pytest_resilience_chaos_types()
        found = config.stash[_OTHERS] = tuple(each for types in given for each in types)
        for each in found:
            config.add_cleanup(add_type(each.name, each.schema))
    return found


def _check_experiments(profiles: list[Profile]) -> None:
    """Some profiles may say how, as long as others say what."""
    if profiles and not any(each.experiments for each in profiles):
        names = " and ".join(repr(each.name) for each in profiles)
        raise ConfigurationError(
            f"profile {names} has no experiments, so nothing would happen; write each as "
            "[[…experiments]]"
        )


def _check_names(only: Iterable[str], profiles: list[Profile], option: str) -> None:
    known = [each.name for profile in profiles for each in profile.experiments]
    for name in only:
        if name not in known:
            names = ", ".join(map(repr, known)) or "none"
            raise ConfigurationError(f"{option}={inline(name)}: the profiles have {names}")


def _services(config: pytest.Config, profiles: Iterable[Profile]) -> Services:
    """Those of all; two profiles may say the same of one."""
    found = list(map(Service.parse, config.getini("chaos_services")))
    for profile in profiles:
        found += [service for service in profile.services if service not in found]
    return Services(found)


def _check_unused(config: pytest.Config, names: Mapping[str, str], why: str) -> None:
    """Refuse what only the matrix heeds; `addopts` may have it for the runs that are one."""
    for flag in _OF_THE_MATRIX:
        if times_typed(config, flag):
            raise ConfigurationError(f"{names[flag]} {why} there is nothing to judge")


def _check(config: pytest.Config, services: Services, caps: Caps) -> Check:
    """What every experiment of the flags has to pass, whoever is to start it.

    Not the caps in a worker of xdist, whose controller has looked already: when the machine
    has less left by now, the test that starts it is told.
    """
    in_worker = hasattr(config, "workerinput")

    def check(experiment: ChaosExperiment) -> None:
        bound = experiment.bind(services)
        if not in_worker:
            caps.approve(bound)

    return check


def _experiment(spec: str, option: str, defaults: Defaults, check: Check) -> Requested:
    try:
        kind, parameters = parse_spec(spec)
        requested = from_parameters(kind, parameters, defaults, origin="flag")
        check(requested.experiment)
    except ConfigurationError as error:
        raise ConfigurationError(f"{option}={inline(spec)}: {error}") from None
    return requested


def _seed_of(config: pytest.Config) -> int:
    """The seed that the controller of xdist sent, or a new one."""
    worker = getattr(config, "workerinput", {})
    return int(worker[SEED_KEY]) if SEED_KEY in worker else new_seed()

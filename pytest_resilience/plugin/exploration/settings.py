"""How tests are explored: flags, profiles and `@pytest.mark.chaos_explore(...)`."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any
from typing import Final

import pytest

from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.parsing.quantities import MaxCalls
from pytest_resilience.chaos.parsing.quantities import read_budget
from pytest_resilience.chaos.parsing.quantities import read_depth
from pytest_resilience.chaos.parsing.quantities import read_max_calls
from pytest_resilience.chaos.possible_faults import fault_names
from pytest_resilience.chaos.profile import ExploreTable
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.exploration.operation_log import CallLimit
from pytest_resilience.exploration.operation_log import calls_by_line
from pytest_resilience.exploration.operation_names import Seen
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import parse_schedule
from pytest_resilience.plugin.markers import DEADLINE
from pytest_resilience.plugin.markers import Expectation
from pytest_resilience.plugin.options import given
from pytest_resilience.plugin.options import option_name
from pytest_resilience.plugin.options import times_typed


__all__ = [
    "USUAL_DEADLINE",
    "ExploreSettings",
    "Oracle",
    "Plan",
    "explores",
    "ignored_flags",
    "plan_of",
    "read_settings",
    "replays_of",
]

_KEY = pytest.StashKey["ExploreSettings"]()
_DEPTH, _RUNS, USUAL_DEADLINE = 2, 200, 10.0  # where nothing else is said
_USUAL_TIMES, _USUAL_LEAST = 4, 20  # calls, of those without faults, and in any case
_ONLY_EXPLORING: Final = ("chaos-explore-budget", "no-prune")  # the flags that say how
_EXPLORE_KEYS: Final = (
    "faults", "depth", "allowed", "invariant", "probe", "deadline", "max_calls", "budget",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploreSettings:
    """The flags and profiles, checked.

    Attributes:
        suite: whether every selected test is explored.
        depth: how many faults at once.
        runs: of each test at most; None for any number.
        seconds: for each test; None for any.
        deadline, max_calls: of profiles; None for the usual.
        prune: whether schedules are left out of which it is known what would come.
        replay: the schedule that every selected test is run under; None for none.
        file: of schedules that are kept; None for the cache of pytest.
        saying_how: the names of profiles that say nothing but how to explore, and of no others.
    """

    suite: bool = False
    depth: int = _DEPTH
    runs: int | None = _RUNS
    seconds: float | None = None
    deadline: float | None = None
    max_calls: MaxCalls | None = None
    prune: bool = True
    replay: Schedule | None = None
    file: Path | None = None
    saying_how: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: pytest.Config) -> ExploreSettings:
        """Those of this run, once `read_settings` has read them."""
        return config.stash.get(_KEY, cls())


def explores(config: pytest.Config) -> bool:
    """Whether a flag asks for an exploration, or for what one has found."""
    settings = ExploreSettings.of(config)
    return settings.suite or settings.replay is not None or settings.file is not None


def ignored_flags(config: pytest.Config) -> list[str]:
    """What is wrong with typed flags that say how to explore, where no selected test asks for it.

    `addopts` may have them for the runs in which tests are explored.
    """
    settings = ExploreSettings.of(config)
    if settings.suite:
        return []
    what = [option_name(config, flag) for flag in _ONLY_EXPLORING if times_typed(config, flag)]
    if settings.saying_how and times_typed(config, "chaos-profile"):
        what.append(f"profile {' and '.join(map(repr, settings.saying_how))}, with no experiments,")
    return [
        f"{each} needs {option_name(config, 'chaos-explore')}, or a test that is marked "
        "chaos_explore: without them nothing is explored"
        for each in what
    ]


def read_settings(config: pytest.Config, profiles: Iterable[Profile]) -> ExploreSettings:
    """Read what flags and profiles say. Raises ConfigurationError."""
    found, profiles = ExploreSettings(), list(profiles)
    for profile in profiles:
        found = _with_table(found, profile.explore)
    if profiles and not any(profile.experiments for profile in profiles):
        found = replace(found, saying_how=tuple(each.name for each in profiles))
    for text in given(config, "chaos-explore"):
        found = replace(found, suite=True)
        if text:
            found = replace(found, depth=read_depth(option_name(config, "chaos-explore"), text))
    budgets = given(config, "chaos-explore-budget")
    if budgets:
        found = _with_budgets(found, option_name(config, "chaos-explore-budget"), budgets)
    for text in given(config, "chaos-replay"):
        option = option_name(config, "chaos-replay")
        found = replace(found, replay=_schedule(option, text))
    if found.suite and found.replay is not None:
        raise ConfigurationError(
            f"{option_name(config, 'chaos-replay')} repeats one schedule and "
            f"{option_name(config, 'chaos-explore')} tries many; give one of them"
        )
    for text in given(config, "chaos-schedules"):
        if not text:
            raise ConfigurationError(
                f"{option_name(config, 'chaos-schedules')}=: give a file, such as schedules.txt"
            )
        found = replace(found, file=Path(text))
    found = replace(found, prune=not given(config, "no-prune"))
    config.stash[_KEY] = found
    return found


def _with_table(settings: ExploreSettings, table: ExploreTable) -> ExploreSettings:
    said = {
        key: getattr(table, key)
        for key in ("depth", "deadline", "max_calls")
        if getattr(table, key) is not None
    }
    if table.budget is not None:
        said |= table.budget._asdict()
    return replace(settings, **said)


def _with_budgets(settings: ExploreSettings, name: str, texts: Iterable[str]) -> ExploreSettings:
    """With runs, seconds, or both: the last of each."""
    read = [read_budget(name, text) for text in texts]
    runs, seconds = (
        next((each for each in reversed(values) if each is not None), None)
        for values in zip(*read, strict=True)
    )
    return replace(settings, runs=runs, seconds=seconds)


def _schedule(option: str, text: str) -> Schedule:
    try:
        return parse_schedule(text)
    except ConfigurationError as error:
        raise error.within(option) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """How a test may end, and what has to hold afterwards.

    Attributes:
        allowed: exceptions that mean degraded; None where nobody has said it.
        deadline: seconds after which it hangs.
        patience: seconds that it may be made to wait for by faults, which nobody waits for: in one
            operation, or where they are the deadline in all.
        invariants: functions that raise where something that has to hold always does not.
        probe: what has to work after the faults: a function; True for the test itself once more,
            False for nothing. None for the test itself where it can be run twice in its fixtures.
        times: how many times as many operations of one kind on one target as there are of any
            without faults make a storm: who tries again ten times connects ten times as well.
        least: fewer operations than that are none.
        tries: as of `CallLimit`.
    """

    allowed: tuple[type[BaseException], ...] | None = None
    deadline: float = USUAL_DEADLINE
    patience: float = DEADLINE
    invariants: tuple[Callable[..., object], ...] = ()
    probe: Callable[..., object] | bool | None = None
    times: int | None = _USUAL_TIMES
    least: int = _USUAL_LEAST
    tries: int = _USUAL_LEAST

    def limit(self, faultless: Sequence[Seen]) -> CallLimit:
        """How many operations are no storm yet, by those without faults."""
        usual = max((each.overall for each in faultless), default=0)
        most = max(self.least, (self.times or 0) * usual)
        return CallLimit(most=most, tries=self.tries, usual=calls_by_line(faultless))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done with one test.

    Attributes:
        oracle: how it may end.
        depth: how many faults at once.
        runs, seconds: the budget.
        faults: the names of those that are tried; empty for all.
        marked: whether the test itself asks for it, and fails for what is found.
    """

    oracle: Oracle
    depth: int
    runs: int | None
    seconds: float | None
    faults: frozenset[str] = frozenset()
    marked: bool = False


def plan_of(item: pytest.Item, settings: ExploreSettings) -> Plan:
    """How a test is explored. Raises ConfigurationError for a mark that makes no sense."""
    mark = item.get_closest_marker("chaos_explore")
    plan = Plan(
        oracle=_oracle_of(item, settings),
        depth=settings.depth,
        runs=settings.runs,
        seconds=settings.seconds,
    )
    return plan if mark is None else _marked(plan, mark)


def _oracle_of(item: pytest.Item, settings: ExploreSettings) -> Oracle:
    marks = list(item.iter_markers("resilience"))
    expected = Expectation.of(item)
    says = any("allowed" in mark.kwargs for mark in marks)
    oracle = Oracle(allowed=expected.allowed if says else None, patience=expected.deadline)
    if any("deadline" in mark.kwargs for mark in marks):
        oracle = replace(oracle, deadline=expected.deadline)
    elif settings.deadline is not None:
        oracle = replace(oracle, deadline=settings.deadline, patience=settings.deadline)
    return oracle if settings.max_calls is None else _with_most(oracle, settings.max_calls)


def _marked(plan: Plan, mark: pytest.Mark) -> Plan:
    values = dict(mark.kwargs)
    unknown = [key for key in values if key not in _EXPLORE_KEYS]
    if mark.args or unknown:
        what = f"{unknown[0]!r}{nearest(unknown[0], _EXPLORE_KEYS)}" if unknown else "arguments"
        raise ConfigurationError(
            f"chaos_explore takes {', '.join(_EXPLORE_KEYS)} by name, not {what}"
        )
    plan = replace(plan, oracle=_with_marked(plan.oracle, values), marked=True)
    if "depth" in values:
        plan = replace(plan, depth=read_depth("depth", values["depth"]))
    if "faults" in values:
        plan = replace(plan, faults=_faults(values["faults"]))
    if "budget" in values:
        runs, seconds = read_budget("budget", values["budget"])
        plan = replace(plan, runs=runs, seconds=seconds)
    return plan


def _with_marked(oracle: Oracle, values: dict[str, Any]) -> Oracle:
    limits: dict[str, Any] = {key: values[key] for key in ("allowed", "deadline") if key in values}
    read = Expectation.from_values(limits)
    if "allowed" in values:
        oracle = replace(oracle, allowed=(*(oracle.allowed or ()), *read.allowed))
    if "deadline" in values:
        oracle = replace(oracle, deadline=read.deadline, patience=read.deadline)
    if "invariant" in values:
        oracle = replace(oracle, invariants=_functions("invariant", values["invariant"]))
    if "probe" in values:
        probe = values["probe"]
        is_switch = probe is None or isinstance(probe, bool)
        oracle = replace(oracle, probe=probe if is_switch else _functions("probe", probe)[0])
    if "max_calls" in values:
        oracle = _with_most(oracle, read_max_calls("max_calls", values["max_calls"]))
    return oracle


def _with_most(oracle: Oracle, most: MaxCalls) -> Oracle:
    return replace(oracle, times=most.times, least=most.number, tries=0)


def _functions(name: str, value: Any) -> tuple[Callable[..., object], ...]:
    found = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not found or not all(callable(each) for each in found):
        raise ConfigurationError(
            f"{name}={shortened(value)}: give a function, whose parameters are fixtures of the "
            "test" + (", or several in a list" if name == "invariant" else ", True or False")
        )
    return found


def _faults(value: Any) -> frozenset[str]:
    known = sorted({name for kind in KINDS for name in fault_names(kind)})
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple, set, frozenset)) or not names:
        raise ConfigurationError(f"faults={shortened(value)}: give names in a list")
    for each in names:
        if each not in known:
            raise ConfigurationError(
                f"faults={shortened(value)}: {shortened(each)} is none"
                f"{nearest(each, known)}; known: {', '.join(known)}"
            )
    return frozenset(names)


def replays_of(item: pytest.Item) -> list[Schedule]:
    """The schedules of `@pytest.mark.chaos_replay(...)`. Raises ConfigurationError."""
    found = []
    for mark in item.iter_markers("chaos_replay"):
        if mark.kwargs or not mark.args or not all(isinstance(each, str) for each in mark.args):
            raise ConfigurationError(
                "chaos_replay takes schedules as texts, such as "
                "@pytest.mark.chaos_replay('connect(payments:443)#1=refuse')"
            )
        found += [parse_schedule(text) for text in mark.args]
    return found

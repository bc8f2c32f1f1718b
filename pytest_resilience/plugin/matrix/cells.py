"""The cells of the matrix: which are to be run, and the verdict on the run of each.

Planned is each test that profiles select, under each experiment. The verdict is on a run of a test,
from its reports: without any experiment, and under one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import traceback

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.diagnosis import chance_of
from pytest_resilience.diagnosis import counted_operations
from pytest_resilience.diagnosis import had_nothing_to_alter
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.errors import ClockStalledError
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.errors import ResilienceError
from pytest_resilience.exploration.outcome import told
from pytest_resilience.plugin.experiment_requests import ExperimentRequest
from pytest_resilience.plugin.experiment_requests import selects
from pytest_resilience.plugin.markers import Expectation
from pytest_resilience.plugin.matrix.deadline import DeadlineError
from pytest_resilience.plugin.options import as_argument
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.run_report import fingerprint
from pytest_resilience.stacks import is_library


__all__ = [
    "Judgement", "Planned", "configuration_of", "in_shard", "judge_baseline_run", "judge_cell",
    "place_of", "plan_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One experiment for one test.

    Attributes:
        request: the experiment.
        cell: as it is reported if it is never run.
    """

    request: ExperimentRequest
    cell: Cell

    @property
    def disabled(self) -> Judgement | None:
        """The verdict of an experiment that is disabled; None for one that is to be run."""
        if self.request.experiment.enabled:
            return None
        return CellVerdict.NOT_RUN, "the experiment is disabled: enabled = false"

    def finished(
        self,
        verdict: CellVerdict,
        reason: str,
        *,
        duration: float = 0.0,
        timeline: tuple[TimelineEntry, ...] = (),
    ) -> Cell:
        """The cell, with what came of it."""
        return dataclasses.replace(
            self.cell, verdict=verdict, reason=reason, duration=duration, timeline=timeline
        )


def plan_of(items: Iterable[pytest.Item], settings: Settings) -> dict[str, list[Planned]]:
    """The cells of each test that a profile selects, by its id."""
    found: dict[str, list[Planned]] = {}
    certain = [  # once for all tests: there is a cell of each for every test
        (profile, [_of_the_matrix(request) for request in requests])
        for profile, requests in settings.profiles
    ]
    for item in items:
        if item.get_closest_marker("no_chaos") is not None:
            continue
        cells: dict[str, Planned] = {}
        for profile, requests in certain:
            if selects(profile, item):
                for each, request in zip(profile.experiments, requests, strict=True):
                    cells.setdefault(each.name, _planned(item, each.weight, request, settings))
        if cells:
            found[item.nodeid] = list(cells.values())
    return found


def _of_the_matrix(request: ExperimentRequest) -> ExperimentRequest:
    return dataclasses.replace(request.for_certain(), requested_by="matrix", must_fire=False)


def _planned(
    item: pytest.Item, weight: float, request: ExperimentRequest, settings: Settings
) -> Planned:
    experiment = request.experiment
    cell = Cell(
        test=item.nodeid,
        experiment=experiment.name,
        what=str(experiment),
        weight=weight,
        verdict=CellVerdict.NOT_RUN,
        repeat=settings.repeat.command(as_argument(item.config, item.nodeid), experiment.name),
    )
    return Planned(request=request, cell=cell)


def configuration_of(profiles: Iterable[Profile]) -> str:
    """A fingerprint of the experiments: two runs with the same one can be compared."""
    tables: list[dict[str, Any]] = []
    for profile in profiles:
        for each in profile.experiments:
            parameters = dict(each.make().parameters)
            shown = {name: repr(value) for name, value in parameters.items()}
            tables.append(each.parameters | shown | {"type": each.kind, "weight": each.weight})
    return fingerprint(tables)


def in_shard(nodeid: str, shard: tuple[int, int]) -> bool:
    """True if a test belongs to this shard, which has the same tests on every machine."""
    index, count = shard
    digest = hashlib.blake2b(nodeid.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count == index - 1


Judgement = tuple[CellVerdict, str]
"""A verdict with its reason."""


def judge_baseline_run(
    reports: Sequence[pytest.TestReport],
    raised: Mapping[str, BaseException],
    item: pytest.Item,
    *,
    alone: str = "without any experiment",
) -> Judgement | None:
    """The verdict on all cells of a test that cannot be run; None if its baseline run passed.

    `raised` are the exceptions by phase; `alone`: how that run was.
    """
    for report in reports:
        if report.failed:
            reason = f"the test, {alone}, failed in {report.when}"
            error = raised.get(report.when or "")
            if error is not None:
                reason += f": {told(error)}\nat {place_of(error, item)}"
            return CellVerdict.INVALID, reason
        if hasattr(report, "wasxfail"):
            return (
                CellVerdict.NOT_RUN,
                f"the test is expected to fail {alone}{_because(report)}",
            )
        if report.skipped:
            return (
                CellVerdict.NOT_RUN,
                f"the test is skipped {alone}{_because(report)}",
            )
    return None


def judge_cell(
    reports: Sequence[pytest.TestReport],
    raised: Mapping[str, BaseException],
    expected: Expectation,
    active_experiment: ActiveExperiment | None,
    opened: Sequence[str],
) -> Judgement:
    """The verdict on a run under one experiment.

    `raised` are the exceptions by phase, which reports have as text alone. `active_experiment` is
    None where the experiment was not started. `opened`: the fixtures that have opened before it
    what it could have hit.
    """
    bad = next((report for report in reports if report.failed), None)
    skipped = next((report for report in reports if report.skipped), None)
    if active_experiment is None:
        return CellVerdict.NOT_STARTED, _why_not_started(bad, skipped, raised)
    if bad is not None:
        verdict, reason = _how_it_failed(bad, raised, expected)
        if active_experiment.hits:
            return verdict, reason
        return CellVerdict.INVALID, f"it failed although nothing was injected: {reason}"
    if skipped is not None:
        return CellVerdict.INVALID, f"it was skipped under the experiment{_because(skipped)}"
    if not active_experiment.hits:
        return _judge_never_fired(active_experiment, opened)
    return CellVerdict.SURVIVED, ""


def _judge_never_fired(active_experiment: ActiveExperiment, opened: Sequence[str]) -> Judgement:
    why = _why_never_fired(active_experiment)
    # What it matched and did not choose, it could have happened to.
    if not active_experiment.matched and had_nothing_to_alter(active_experiment):
        return CellVerdict.NOT_APPLICABLE, why
    if opened:
        why += f"; what a fixture opens before it is out of its reach: {', '.join(opened)}"
    elif _is_done_no_more(active_experiment):
        return CellVerdict.NOT_APPLICABLE, (
            f"{why}. Only the first run of the test did more, and has left that open: a fixture of "
            "narrower scope, or none, would open it each time"
        )
    return CellVerdict.NEVER_FIRED, why


def _is_done_no_more(active_experiment: ActiveExperiment) -> bool:
    """Whether nothing of its kinds was done, though the test did other things.

    A target that is never met may be a mistake.
    """
    experiment = active_experiment.experiment
    aims = experiment.target_patterns or experiment.target_services or experiment.aims_at_requests
    return not (aims or active_experiment.matched) and bool(never_fired(active_experiment).seen)


def place_of(error: BaseException | None, item: pytest.Item) -> str:
    """File, line and function of an error: the innermost of the project, else the test."""
    root = item.config.rootpath
    path, line, name = item.location
    file, line = root / path, (line or 0) + 1
    for frame, at in traceback.walk_tb(error.__traceback__ if error else None):
        found = frame.f_code.co_filename
        if Path(found).is_relative_to(root) and not is_library(found):
            file, line, name = Path(found), at, frame.f_code.co_name
    return f"{os.path.relpath(file, item.config.invocation_params.dir)}:{line} in {name}"


def _how_it_failed(
    bad: pytest.TestReport, raised: Mapping[str, BaseException], expected: Expectation
) -> Judgement:
    error = raised.get(bad.when or "")
    if error is None:
        return CellVerdict.FAILED, f"it failed in {bad.when}"
    if isinstance(error, (DeadlineError, ClockStalledError)):
        return CellVerdict.HANG, str(error)
    if isinstance(error, NeverFiredError):
        return CellVerdict.INVALID, f"the chaos of the test's own had no chance under it: {error}"
    reason = told(error)
    if bad.when == "call" and expected.allowed and isinstance(error, expected.allowed):
        return CellVerdict.DEGRADED, reason
    return CellVerdict.FAILED, reason if bad.when == "call" else f"in {bad.when}: {reason}"


def _why_not_started(
    bad: pytest.TestReport | None,
    skipped: pytest.TestReport | None,
    raised: Mapping[str, BaseException],
) -> str:
    """Why a test was over before its experiment had begun."""
    if bad is None:
        if skipped is None:
            return "the test function was not called, and the experiment begins with it"
        where = "its set-up" if skipped.when == "setup" else "the test"
        return f"{where} was skipped before the experiment began{_because(skipped)}"
    error = raised.get(bad.when or "")
    why = "" if error is None else f": {error}"
    in_words = (DeadlineError, ResilienceError, pytest.fail.Exception)
    if error is not None and not isinstance(error, in_words):
        why = f": {type(error).__name__}{why}"
    if bad.when == "setup":
        return f"its set-up failed this time, and the experiment begins after it{why}"
    return f"the experiment could not begin{why}"


def _why_never_fired(active_experiment: ActiveExperiment) -> str:
    if active_experiment.matched:
        operations = "operation" if active_experiment.matched == 1 else "operations"
        which = "; ".join(counted_operations(active_experiment))
        chance = chance_of(active_experiment)
        chance = f", by chance{chance}" if chance else ""
        hit_none = f"it matched {active_experiment.matched} {operations} and hit none{chance}"
        return f"{hit_none}: {which}" if which else hit_none
    did = "; ".join(never_fired(active_experiment).seen) or "nothing that a fault could hit"
    return f"no operation matched {active_experiment.experiment.target_text}; the code did: {did}"


def _because(report: pytest.TestReport) -> str:
    """The reason of a skip or an expected failure, behind a colon."""
    if hasattr(report, "wasxfail"):
        reason = str(report.wasxfail).removeprefix("reason: ")
    else:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        reason = reason.removeprefix("Skipped: ")
    return f": {reason}" if reason else ""

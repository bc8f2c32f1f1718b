"""The cells that are to be run: each test that profiles select, under each experiment."""

from __future__ import annotations

import dataclasses
import hashlib

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_resilience.chaos.profile import Profile
from pytest_resilience.plugin.experiment_request import ExperimentRequest
from pytest_resilience.plugin.matrix.verdict import Judgement
from pytest_resilience.plugin.options import as_argument
from pytest_resilience.plugin.profiles import selects
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.run_report import fingerprint


__all__ = ["Planned", "configuration_of", "in_shard", "plan_of"]


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

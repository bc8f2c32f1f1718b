"""Explores one test: runs without faults, then schedules until none or no budget is left."""

from __future__ import annotations

import hashlib
import shlex

from collections.abc import Callable
from dataclasses import replace

import pytest

from pytest_resilience.chaos.parsing.messages import counted
from pytest_resilience.chaos.possible_faults import CRASHES
from pytest_resilience.chaos.possible_faults import CRASHING
from pytest_resilience.chaos.possible_faults import fault_named
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.exploration.operation_log import differences
from pytest_resilience.exploration.operation_log import only_in
from pytest_resilience.exploration.operation_log import opened_before
from pytest_resilience.exploration.operation_log import shared
from pytest_resilience.exploration.operation_names import Seen
from pytest_resilience.exploration.operation_names import may_be_random
from pytest_resilience.exploration.operation_names import renamed
from pytest_resilience.exploration.operation_names import varying
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.outcome import Signature
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.exploration.search import Budget
from pytest_resilience.exploration.search import Search
from pytest_resilience.exploration.search import shrink
from pytest_resilience.exploration.search import singles
from pytest_resilience.plugin.exploration.crashes import CrashCheck
from pytest_resilience.plugin.exploration.findings import ExplorationSummary
from pytest_resilience.plugin.exploration.findings import Failure
from pytest_resilience.plugin.exploration.findings import Found
from pytest_resilience.plugin.exploration.kept_schedules import Store
from pytest_resilience.plugin.exploration.recovery import Recovery
from pytest_resilience.plugin.exploration.recovery import StateLeaksError
from pytest_resilience.plugin.exploration.runs import ExploredRuns
from pytest_resilience.plugin.exploration.runs import Ran
from pytest_resilience.plugin.exploration.runs import is_own
from pytest_resilience.plugin.exploration.settings import ExploreSettings
from pytest_resilience.plugin.exploration.settings import Plan
from pytest_resilience.plugin.matrix.cells import judge_baseline_run
from pytest_resilience.plugin.options import as_argument
from pytest_resilience.plugin.options import option_name
from pytest_resilience.plugin.pytest_internals import fixture_files
from pytest_resilience.plugin.pytest_internals import has_set_up_functions
from pytest_resilience.plugin.pytest_internals import run_once
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.report.cell import EXPLORATION
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.stacks import shown_file


__all__ = ["Explorer"]

_MOST_SHRINKING = 20  # runs to make one failure smaller
_MOST_ENTRIES = 100  # of a timeline


class Explorer:
    """Explores one test."""

    def __init__(
        self,
        item: pytest.Item,
        runs: ExploredRuns,
        plan: Plan,
        settings: Settings,
        store: Store,
    ) -> None:
        self._item = item
        self._runs = runs
        self._runs.patterns = frozenset()
        self._plan = plan
        self._recovery = Recovery(runs, item, plan.oracle)
        self._store = store
        self._flags = ExploreSettings.of(item.config)
        self._shard = (1, 1) if settings.matrix is None else settings.matrix.shard
        self._found = Found(nodeid=item.nodeid)
        self._last: Schedule = ()
        self._after_faults: dict[Schedule, Outcome] = {}  # and a crash

    def left_alone(self, why: str) -> tuple[list[pytest.TestReport], Found]:
        """Run the test once, as it is, with the time that its own delays take."""
        reports = run_once(self._item, counts=True)
        return self._without(reports, CellVerdict.NOT_APPLICABLE, why)

    def explore(self) -> tuple[list[pytest.TestReport], Found]:
        """The reports of the test without faults, and what was found under them."""
        oracle = self._plan.oracle
        first = self._runs.run(self._item, (), oracle, counts=True)
        failed = judge_baseline_run(first.reports, first.raised, self._item)
        if failed is not None:
            return self._without(first.reports, *failed)
        probe = self._probe()
        again = self._runs.run(self._item, (), oracle, probe=probe)
        broken = first.broken or again.broken
        if broken:
            reason = f"the invariant does not hold without any fault: {broken}"
            return self._without(first.reports, CellVerdict.INVALID, reason)
        if again.probed is False:
            if oracle.probe is not None:
                reason = f"the probe does not pass without any fault: {again.outcome.reason}"
                return self._without(first.reports, CellVerdict.INVALID, reason)
            again = self._runs.run(self._item, (), oracle)
        faultless, reason = self._repeats(first, again)
        if reason:
            return self._without(first.reports, CellVerdict.UNEXPLORABLE, reason)
        alone = renamed(first.outcome.seen, self._runs.patterns)
        once = only_in(alone, faultless.outcome.seen)
        reason = self._unfit(faultless, once)
        if reason:
            return self._without(first.reports, CellVerdict.NOT_APPLICABLE, reason)
        self._recovery.faultless = faultless.outcome.seen
        self._found.operations = len(self._recovery.faultless)
        if once:
            self._found.note = f"no fault was tried where {_only_at_first(once)}"
        if not probe and self._outlives(faultless):
            probe = True
            again = self._runs.run(self._item, (), oracle, probe=probe)
        self._search(faultless, probe if again.probed else False)
        return first.reports, self._found

    def _unfit(self, faultless: Ran, once: str) -> str:
        """Why none of the faults that are meant can be tried; "" if one can.

        `once`: what the first run alone did.
        """
        possible = dict.fromkeys(name for each in faultless.outcome.seen for name in each.faults)
        if not possible:
            return _nothing(faultless, once)
        if any(map(self._is_meant, possible)):
            return ""
        if any(map(self._is_meant, CRASHES)):
            if self._plan.oracle.invariants:
                return ""
            return "of crashes nothing can be told without an invariant; give invariant=[...]"
        return (
            f"faults={sorted(self._plan.faults)} can happen to no operation of the test; "
            f"possible are: {', '.join(possible)}"
        )

    def _probe(self) -> Callable[..., object] | bool:
        """What has to work after the faults; where nobody says it, the test once more."""
        wanted = self._plan.oracle.probe
        if wanted is None:
            files = fixture_files(self._item)
            has_own = any(map(is_own, files)) or has_set_up_functions(self._item)
            return has_own and not self._is_of_unittest
        return wanted

    def _outlives(self, faultless: Ran) -> bool:
        """Whether there is a client that is no fixture, and that tests after this one have too."""
        is_left_open = self._plan.oracle.probe is None and not self._is_of_unittest
        return is_left_open and opened_before(faultless.outcome.seen)

    @property
    def _is_of_unittest(self) -> bool:
        return hasattr(self._item, "_testcase")  # whose `runtest` raises nothing

    def _repeats(self, first: Ran, again: Ran) -> tuple[Ran, str]:
        """The run that others repeat, and why there is none; "" if there is.

        The first of all may load and open what stays for all others.
        """
        ran, reason = again, ""
        for earlier in (first, again):
            if earlier is again:
                ran = self._runs.run(self._item, (), self._plan.oracle)
            if ran.outcome.verdict is not CellVerdict.SURVIVED:
                return ran, f"without faults it did not pass every time: {ran.outcome.reason}"
            reason = differences(earlier.outcome.seen, ran.outcome.seen)
            if not reason:
                both = shared(earlier.outcome.seen, ran.outcome.seen)
                return replace(ran, outcome=replace(ran.outcome, seen=both)), ""
        patterns = varying(*((op.point.site for op in each.outcome.seen) for each in (again, ran)))
        if patterns and not self._runs.patterns:  # once more, by names that they share
            self._runs.patterns = patterns
            pair = [self._runs.run(self._item, (), self._plan.oracle) for _ in range(2)]
            return self._repeats(pair[0], pair[1])
        return ran, f"without faults it does not do the same each time: {reason}"

    def _search(self, faultless: Ran, probe: Callable[..., object] | bool) -> None:
        plan = self._plan
        budget = Budget(plan.runs, plan.seconds, MACHINE_CLOCK.monotonic)
        limit = plan.oracle.limit(self._recovery.faultless)

        def run(schedule: Schedule, *, strict: bool = True) -> Outcome:
            return self._recovery.judged(
                schedule, limit=limit, baseline=faultless.leaked, probe=probe, strict=strict
            ).outcome

        def attempt(schedule: Schedule) -> Outcome | None:
            return None if budget.is_over else self._settled(schedule, search, budget, run)

        search = Search(
            self._recovery.faultless, attempt, depth=plan.depth, prune=self._flags.prune,
            meant=self._is_meant, wanted=self._is_wanted,
        )  # fmt: skip
        crashes = self._crash(budget)
        try:
            kept = self._store.of(self._item.nodeid)
            search.try_first(
                each for each in kept if self._is_wanted(each[0]) and not each[0].is_crash
            )
            search.run(lambda *after: self._crash_after(crashes, search, budget, *after))
        except StateLeaksError as error:
            self._found.note = str(error)
        if crashes is not None:  # last: what fails without a crash as well is told of that
            search.outcomes.update({(step,): each for step, each in crashes.outcomes.items()})
            search.outcomes.update(self._after_faults)
            search.unexplored += [(step,) for step in crashes.left]
        self._found.runs = budget.spent
        self._collect(search, run)

    def _settled(
        self, schedule: Schedule, search: Search, budget: Budget, run: Callable[..., Outcome]
    ) -> Outcome:
        """A run whose fault is not spoilt by those before it, nor spoils the ones after it."""
        outcome = self._named(schedule, budget, run)
        if outcome.verdict is CellVerdict.STALE and not (schedule[1:] or outcome.impossible):
            self._recovery.await_calm(self._last)  # for all runs without faults do its operation
            outcome = self._named(schedule, budget, run)
        elif outcome.verdict.bad:
            search.outcomes[schedule] = outcome
            self._recovery.await_calm(schedule)
        self._last = schedule
        if (summary := ExplorationSummary.of(self._item.config)) is not None:
            summary.show_ongoing(budget, search.outcomes.values())
        return outcome

    def _named(self, schedule: Schedule, budget: Budget, run: Callable[..., Outcome]) -> Outcome:
        """A run in which what a first fault leads to has a name that others have as well."""
        budget.spend()
        outcome = run(schedule)
        if schedule[1:] or not outcome.verdict.good or not self._learns_names(outcome):
            return outcome
        budget.spend()
        if not self._learns_names(outcome, run(schedule)):
            return outcome
        budget.spend()
        return run(schedule)

    def _learns_names(self, outcome: Outcome, again: Outcome | None = None) -> bool:
        """Whether a fault has led to names that may be others in each run; or are, as `again` says.

        Those of runs without faults are known. With these a pair would be tried in vain.
        """
        known = {each.point.site for each in self._recovery.faultless}
        one = [each.point.site for each in outcome.seen if each.point.site not in known]
        if again is None:
            return any(map(may_be_random, one))
        other = [each.point.site for each in again.seen if each.point.site not in known]
        patterns = varying(one, other) - self._runs.patterns
        self._runs.patterns |= patterns
        return bool(patterns)

    def _crash(self, budget: Budget) -> CrashCheck | None:
        """Have the invariants look at what crashes may leave, which takes one run for all."""
        if not self._plan.oracle.invariants or not any(map(self._is_meant, CRASHES)):
            return None
        budget.spend()
        _, check = self._runs.crash(
            self._item, self._plan.oracle, wanted=self._is_wanted, is_over=lambda: budget.is_late
        )
        why = f"no crash was looked at: {check.note}" if check.note else ""
        self._found.crashes = why or check.states
        return check

    def _crash_after(
        self, faultless: CrashCheck | None, search: Search, budget: Budget, faults: Schedule,
        outcome: Outcome,
    ) -> None:  # fmt: skip
        """Have them look at what a crash may leave after faults that the test has survived."""
        later = {each.point for each in outcome.after(faults[-1]) if _may_crash(each)}
        if (
            faultless is None
            or faultless.note
            or not later
            or any(each.is_of_others for each in faults)
        ):
            return
        steps = [Step(point, name) for point in later for name in CRASHES if self._is_meant(name)]
        if budget.is_over:
            search.unexplored += [(*faults, step) for step in sorted(steps)]
            return
        budget.spend()
        _, check = self._runs.crash(
            self._item, self._plan.oracle, schedule=faults, earlier=faultless,
            wanted=lambda step: self._is_meant(step.fault), is_over=lambda: budget.is_late,
            limit=self._plan.oracle.limit(self._recovery.faultless),
        )  # fmt: skip
        search.unexplored += [(*faults, step) for step in check.left]
        faultless.states += check.states
        self._found.crashes = faultless.states
        known = {each.signature for each in faultless.outcomes.values()}
        for step, each in check.outcomes.items():
            if each.signature not in known:  # else it takes no fault
                self._after_faults[*faults, step] = each

    def _is_meant(self, fault: str) -> bool:
        return not self._plan.faults or fault in self._plan.faults

    def _is_wanted(self, step: Step) -> bool:
        """Whether it is one of the faults that are meant, and of this shard."""
        if not self._is_meant(step.fault):
            return False
        index, count = self._shard
        # Once and from there on together: the one may make the other needless.
        site = f"{self._item.nodeid} {step.point.site}={step.fault}"
        name = site.encode(errors="surrogatepass")
        digest = hashlib.blake2b(name, digest_size=8).digest()
        return int.from_bytes(digest, "big") % count == index - 1

    def _collect(self, search: Search, run: Callable[..., Outcome]) -> None:
        """Cells and failures of what was tried."""
        by_signature: dict[Signature, list[Schedule]] = {}
        for schedule, outcome in search.outcomes.items():
            if outcome.verdict.bad:
                by_signature.setdefault(outcome.signature, []).append(schedule)
        smallest: dict[Signature, Failure] = {}
        for signature, schedules in by_signature.items():
            smallest[signature] = self._shrunk(search, schedules, run)
        self._found.failures = list(smallest.values())
        over = search.outcomes.keys() | search.gone.keys()
        self._found.untried = [
            each for each in self._store.of(self._item.nodeid) if each not in over
        ]
        left = self._found.unexplored = len(search.unexplored)
        self._found.pruned = search.pruned
        self._found.cells = [*self._tried(search), *self._untried(search)]
        if left and not self._found.note:
            were = "was" if left == 1 else "were"
            self._found.note = (
                f"{counted(left, 'more schedule')} {were} not explored: the budget is over"
            )
        if search.unsteady:
            unsteady = (
                f"{counted(search.unsteady, 'pair')} could not be tried: after the first fault the "
                "test does not do the same each time, or is over before the second can happen"
            )
            self._found.note = "\n  ".join(filter(None, [self._found.note, unsteady]))

    def _shrunk(
        self, search: Search, schedules: list[Schedule], run: Callable[..., Outcome]
    ) -> Failure:
        known = dict(search.outcomes)
        runs = 0

        def attempt(schedule: Schedule) -> Outcome | None:
            nonlocal runs
            if schedule not in known:
                if runs >= _MOST_SHRINKING:
                    return None
                runs += 1
                known[schedule] = run(schedule, strict=False)
            return known[schedule]

        first = min(schedules, key=len)
        if self._found.note:  # nothing can be run any more
            schedule, outcome = first, search.outcomes[first]
        else:
            schedule, outcome = shrink(first, search.outcomes[first], attempt, meant=self._is_meant)
        names = dict.fromkeys(map(_cell_name, schedules))
        folder = str(self._item.config.invocation_params.dir)
        return Failure(
            schedule=schedule,
            outcome=outcome,
            place=shown_file(outcome.signature.place, folder),
            repeat=self._repeat(schedule),
            others=tuple(name for name in names if name != _cell_name(schedule)),
        )

    def _tried(self, search: Search) -> list[Cell]:
        """A cell for each site and fault that was tried; of several operations the worst.

        Of pairs only those that fail, and for each way to fail after a first fault one: else one
        failure would count many times.
        """
        worst: dict[str, tuple[Schedule, Outcome]] = {}
        told: set[tuple[str, Signature]] = set()
        for schedule, outcome in search.outcomes.items():
            if schedule[1:]:
                way = schedule[0].cell, outcome.signature
                if not outcome.verdict.fails or way in told:
                    continue
                told.add(way)
            name = _cell_name(schedule)
            known = worst.get(name)
            if known is None or outcome.verdict.severity > known[1].verdict.severity:
                worst[name] = schedule, outcome
        return [self._cell(name, *each) for name, each in worst.items()]

    def _untried(self, search: Search) -> list[Cell]:
        """A cell for each site and fault that there was no budget for."""
        tried = {schedule[0].cell for schedule in search.outcomes if len(schedule) == 1}
        left = [schedule[0] for schedule in search.unexplored if len(schedule) == 1]
        if self._found.note and not search.unexplored:
            left = [step for step in singles(self._recovery.faultless) if self._is_wanted(step)]
        names = dict.fromkeys(step.cell for step in left if step.cell not in tried)
        reason = self._found.note or "the budget was over"
        return [
            Cell(
                test=self._item.nodeid, experiment=name, verdict=CellVerdict.NOT_RUN, reason=reason
            )
            for name in names
        ]

    def _cell(self, name: str, schedule: Schedule, outcome: Outcome) -> Cell:
        return Cell(
            test=self._item.nodeid,
            experiment=name,
            what=format_schedule(schedule),
            verdict=outcome.verdict,
            reason=outcome.reason,
            repeat=self._repeat(schedule),
            duration=outcome.duration,
            timeline=() if outcome.verdict.good else _timeline(outcome),
        )

    def _repeat(self, schedule: Schedule) -> str:
        option = option_name(self._item.config, "chaos-replay")
        return (
            f"pytest {shlex.quote(as_argument(self._item.config, self._item.nodeid))} "
            f"{option}={shlex.quote(format_schedule(schedule))}"
        )

    def _without(
        self, reports: list[pytest.TestReport], verdict: CellVerdict, reason: str
    ) -> tuple[list[pytest.TestReport], Found]:
        """A test that is not explored."""
        self._found.note = f"{verdict.words}: {reason}"
        self._found.cells = [
            Cell(test=self._item.nodeid, experiment=EXPLORATION, verdict=verdict, reason=reason)
        ]
        return reports, self._found


def _may_crash(seen: Seen) -> bool:
    return seen.point.site.kind in CRASHING


def _cell_name(schedule: Schedule) -> str:
    return ", ".join(step.cell for step in schedule)


def _only_at_first(once: str) -> str:
    return (
        f"only the first run did something ({once}), for what it has made outlives the test; let "
        "a fixture of functions make that"
    )


def _nothing(faultless: Ran, once: str) -> str:
    if once and not faultless.outcome.seen:
        return f"there is nothing to explore: {_only_at_first(once)}"
    did = ", ".join(dict.fromkeys(str(each.point.site) for each in faultless.outcome.seen))
    return (
        "there is nothing to explore: without faults the test "
        + (f"did {did}, which can have no fault here" if did else "did no operation")
        + "; it would need one on a socket, a database, a file or a service of chaos_services"
    )


def _timeline(outcome: Outcome) -> tuple[TimelineEntry, ...]:
    """The operations of a run in order, with the faults at them."""
    struck = outcome.struck
    began = outcome.seen[0].at if outcome.seen else 0.0
    entries = []
    for number, seen in enumerate(outcome.seen[:_MOST_ENTRIES]):
        at = max(0.0, seen.at - began)
        where = f" at {seen.place}" if seen.place else ""
        step = struck.get(number)
        done = "done" if step is None or _is_done(step) else "begun"
        both = [(EntryKind.OPERATION, str(seen.point), done + where)]
        if step is not None:
            both.append((EntryKind.FAULT, str(step), step.fault + where))
        entries += [
            TimelineEntry(at=at, kind=kind, source=source, text=text) for kind, source, text in both
        ]
    return tuple(entries)


def _is_done(step: Step) -> bool:
    """Whether the operation that it happens to is done all the same."""
    if step.is_crash or step.is_of_others:
        return not step.is_order
    return fault_named(step.point.site.kind, step.fault).comes_after

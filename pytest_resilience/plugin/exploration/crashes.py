"""What the invariants of a test say of each state that a crash may leave of its files.

The test runs once, without faults, and once more for each fault that it survives. What it does
below its `tmp_path` is recorded, but for what its fixtures do. Then the folder is made to hold each
state that a disk may legally hold after a crash (`chaos.crash_states`), and the invariants look at
it, as after a restart. Of a state, the crash is said to be at the first operation after which the
disk can be like that.
"""

from __future__ import annotations

import bisect
import contextlib

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import closing
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from typing import TYPE_CHECKING
from typing import Any

import pytest

from pytest_resilience.chaos.crash_states import CrashState
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.possible_faults import CRASHES
from pytest_resilience.chaos.possible_faults import CRASHING
from pytest_resilience.errors import UnavailableError
from pytest_resilience.exploration.operation_log import CallLimit
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.operation_log import Watch
from pytest_resilience.exploration.operation_log import is_at
from pytest_resilience.exploration.operation_names import TargetNames
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.outcome import Signature
from pytest_resilience.exploration.outcome import signature_of
from pytest_resilience.exploration.outcome import told
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.runtime import recording_crashes


if TYPE_CHECKING:
    from pytest_resilience.runtime import CrashRecording


__all__ = ["CrashCheck", "TracedLog"]

_MOST_STATES = 2000  # of one test: a second or a few

Broken = Callable[[Mapping[str, Any]], BaseException | None]
"""What the invariants raise when they are given some other values than those of the fixtures."""


class TracedLog(OperationLog):
    """Also knows how much of a recording was there when each operation began.

    Attributes:
        recording: of files; None before it has begun.
        marks: its steps so far, for each that is noted.
    """

    def __init__(
        self,
        names: TargetNames,
        place_of: Callable[[Operation], str],
        *,
        schedule: Schedule = (),
        limit: CallLimit | None = None,
    ) -> None:
        """`schedule`: the faults that come before a crash."""
        super().__init__(names, place_of, schedule=schedule, limit=limit)
        self.recording: CrashRecording | None = None
        self.marks: list[int] = []

    def note_file(self, kind: str, names: tuple[str, ...], place: str) -> None:
        super().note_file(kind, names, place)
        self._mark()

    def observe(self, operation: Operation | None, place: str | None = None) -> None:
        super().observe(operation, place)
        self._mark()

    def _mark(self) -> None:
        while len(self.marks) < len(self.noted):
            self.marks.append(0 if self.recording is None else self.recording.steps)

    @property
    def faults_over(self) -> int:
        """The number of the operation with the last fault; -1 without one."""
        return max((place for _, place in self.positions), default=-1)

    def step_of(self, state: CrashState, fault: str) -> tuple[int, Step] | None:
        """The operation that a crash with this state is at, with its number; None without one."""
        able = [at for at, each in enumerate(self.seen) if each.point.site.kind in CRASHING]
        if not able:
            return None
        at = bisect.bisect_right([self.marks[each] for each in able], state.steps - 1) - 1
        number = able[max(at, 0)]
        return number, Step(self.seen[number].point, fault)


class _Looker(OperationLog):
    """Sees only whether anybody opens what is below a folder."""

    def __init__(self, folder: str) -> None:
        super().__init__(TargetNames(), lambda _: "")
        self._folder = folder
        self.has_looked = False

    def note_file(self, kind: str, names: tuple[str, ...], place: str) -> None:
        self.observe(Operation(kind, names[0], names), place)

    def observe(self, operation: Operation | None, place: str | None = None) -> None:  # noqa: ARG002
        if operation is not None and any(
            name.startswith(f"{self._folder}/") for name in operation.names
        ):
            self.has_looked = True


@dataclass(slots=True, kw_only=True)
class CrashCheck:
    """Goes through the states.

    Attributes:
        log: of the run.
        wanted: whether a crash at an operation is to be looked at.
        is_over: whether there is no time for more.
        is_own: whether a file is the project's.
        known: what the invariants raise of what a disk may hold: after a restart nothing else
            matters, so that it is the same after another run of the test.
        outcomes: the worst of each crash that was looked at.
        left: those that there was no time for, or too many states.
        states: how many were looked at.
        note: why there is nothing to look at; "" if there is.
    """

    log: TracedLog
    wanted: Callable[[Step], bool]
    is_over: Callable[[], bool]
    is_own: Callable[[str], bool]
    known: dict[tuple[object, ...], BaseException | None] = field(default_factory=dict)
    outcomes: dict[Step, Outcome] = field(default_factory=dict)
    left: dict[Step, None] = field(default_factory=dict)
    states: int = 0
    note: str = ""

    @contextmanager
    def recording(self, engine: Engine, item: pytest.Item) -> Iterator[None]:
        """In the block the test does what a crash may interrupt."""
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if folder is None:
            self.note = "the test has no tmp_path, below which crashes are looked for"
            yield
            return
        with recording_crashes(engine, folder) as recording:
            self.log.recording = recording
            yield

    def look(self, fixtures: Mapping[str, Any], broken: Broken, watch: Watch) -> None:
        """Show the invariants each state.

        `fixtures`: that they ask for, with their values. `watch` sees what they do.
        """
        recording = self.log.recording
        if recording is None:
            return
        looker = watch.log = _Looker(recording.folder)
        paths = _databases(fixtures)
        try:
            self._look(recording, lambda: _broken_after_restart(broken, paths))
        except UnavailableError as error:
            self.note = f"{error}; and let invariants only read"
        finally:
            watch.log = None
        for step in self.left:
            if step in self.outcomes and self.outcomes[step].verdict.good:
                del self.outcomes[step]  # of some of its states nobody knows
        if self.states and not looker.has_looked and all(
            each.verdict.good for each in self.outcomes.values()
        ):  # fmt: skip
            self.outcomes.clear()
            self.note = (
                "the invariant opens no file below tmp_path: let it read what has to survive"
            )

    def _look(self, recording: CrashRecording, broken: Callable[[], BaseException | None]) -> None:
        known = self.known
        for fault, model in CRASHES.items():
            with closing(recording.states(model)) as states:
                for state in states:
                    found = self.log.step_of(state, fault)
                    if state.steps and not self._is_wanted(found):
                        continue
                    key = (*sorted(state.disk.files.items()), *state.disk.folders)
                    if key not in known:
                        if self.is_over() or len(known) >= _MOST_STATES:
                            self.left.update({} if found is None else {found[1]: None})
                            continue
                        self.states += 1
                        known[key] = broken()
                    if not state.steps:
                        if known[key] is not None:
                            self.note = _fails_before(known[key])
                            return
                    elif found is not None:
                        self._note(*found, state, known[key])

    def _is_wanted(self, found: tuple[int, Step] | None) -> bool:
        """What a crash before the faults leaves is left by one without them as well."""
        return found is not None and found[0] > self.log.faults_over and self.wanted(found[1])

    def _note(
        self, number: int, step: Step, state: CrashState, error: BaseException | None
    ) -> None:
        before = self.outcomes.get(step)
        if before is not None and (error is None or before.verdict.bad):
            return
        verdict = CellVerdict.SURVIVED if error is None else CellVerdict.INVARIANT
        self.outcomes[step] = Outcome(
            verdict=verdict,
            reason="" if error is None else f"{told(error)} ({state})",
            signature=(
                Signature(verdict=verdict)
                if error is None
                else signature_of(verdict, error, self.is_own)
            ),
            seen=tuple(self.log.seen[: number + 1]),
            positions=(*self.log.positions, (step, number)),
            hit=frozenset({*self.log.schedule, step}),
        )

    def outcome_of(self, step: Step) -> Outcome:
        """What comes of one crash; stale where there is none."""
        for seen in self.log.seen:
            if is_at(step, seen):
                found = self.outcomes.get(Step(seen.point, step.fault))
                if found is not None:
                    return found
        reason = self.note or f"at {step.point} nothing changed that a crash could take away"
        if not any(is_at(step, seen) for seen in self.log.seen):
            did = ", ".join(dict.fromkeys(str(each.point.site) for each in self.log.seen))
            reason = f"{step.point} did not come; the test did: {did or 'nothing'}"
        stale = CellVerdict.STALE
        return Outcome(verdict=stale, reason=reason, signature=Signature(verdict=stale))


def _fails_before(error: BaseException | None) -> str:
    return (
        "the invariant does not hold of the files before the test has done anything, so that no "
        f"crash can be judged by it: {'' if error is None else told(error)}"
    )


def _databases(fixtures: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """The connections to files of SQLite among the values of fixtures, with their files."""
    import sqlite3

    found = {}
    for name, value in fixtures.items():
        if isinstance(value, sqlite3.Connection):
            with contextlib.suppress(sqlite3.Error):  # it is closed
                path = value.execute("PRAGMA database_list").fetchone()[2]
                if path:
                    found[name] = value, path
    return found


def _broken_after_restart(
    broken: Broken, databases: Mapping[str, tuple[Any, str]]
) -> BaseException | None:
    """What the invariants raise, who have connections that were opened anew."""
    import sqlite3

    with contextlib.ExitStack() as stack:
        opened = {}
        for name, (old, path) in databases.items():
            new = stack.enter_context(closing(sqlite3.connect(path)))
            new.row_factory, new.text_factory = old.row_factory, old.text_factory
            new.isolation_level = old.isolation_level
            opened[name] = new
        return broken(opened)

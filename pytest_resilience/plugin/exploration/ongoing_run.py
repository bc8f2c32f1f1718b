"""The run of a test under a schedule that goes on, and what is asked once its faults are over."""

from __future__ import annotations

import inspect
import io
import socket
import sys

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import ExitStack
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.possible_faults import CANCEL
from pytest_resilience.chaos.possible_faults import CANCELS
from pytest_resilience.clock import SilenceError
from pytest_resilience.diagnosis import had_nothing_to_alter
from pytest_resilience.errors import ClockStalledError
from pytest_resilience.errors import ResilienceError
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.operation_log import StormError
from pytest_resilience.exploration.operation_log import Watch
from pytest_resilience.exploration.outcome import MISTAKES
from pytest_resilience.exploration.outcome import Facts
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.outcome import Signature
from pytest_resilience.exploration.outcome import chain_of
from pytest_resilience.exploration.outcome import text_in_chain
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.plugin.exploration.crashes import CrashCheck
from pytest_resilience.plugin.exploration.faults import start
from pytest_resilience.plugin.exploration.settings import USUAL_DEADLINE
from pytest_resilience.plugin.exploration.settings import Oracle
from pytest_resilience.plugin.matrix.deadline import DeadlineError
from pytest_resilience.plugin.matrix.deadline import KnownHangs
from pytest_resilience.plugin.matrix.deadline import deadline
from pytest_resilience.plugin.matrix.deadline import virtual_deadline
from pytest_resilience.plugin.pytest_internals import values_of_function_fixtures
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.stacks import clear_frames


__all__ = ["OngoingRun", "facts_of"]

_HANGS = (DeadlineError, SilenceError, ClockStalledError)
# What connections and sessions of databases have, of the DB-API and of drivers without it; and
# streams: writers of asyncio, WebSockets, those of anyio and of trio.
_CONVERSATIONS = (
    ("commit", "rollback", "close"),
    ("transaction", "is_closed", "close"),
    ("write", "drain", "close"),
    ("send", "recv", "close"),
    ("send", "receive", "aclose"),
    ("send_all", "receive_some", "aclose"),
)


class OngoingRun:
    """The run that goes on.

    Attributes:
        raised: exceptions by phase.
        active: the experiment of each step.
        invariant, probe: what they raised.
        probed: whether what a probe did counts, and not only raises doubts; None if there was none.
    """

    def __init__(
        self,
        log: OperationLog,
        oracle: Oracle,
        probe: Callable[..., object] | bool,
        crashes: CrashCheck | None = None,
        hangs: KnownHangs | None = None,
    ) -> None:
        """`crashes`: that are to be looked at when it is over. `hangs`: of runs before it."""
        self.log = log
        self.oracle = oracle
        self.crashes = crashes
        self.hangs = hangs
        self.raised: dict[str, BaseException] = {}
        self.active: dict[Step, ActiveExperiment] = {}
        self.invariant: BaseException | None = None
        self.probe: BaseException | None = None
        self.probed: bool | None = None
        self._wanted = probe

    @contextmanager
    def faults(self, engine: Engine, item: pytest.Item) -> Iterator[None]:
        """In the block the test's own operations are named, and have their faults."""
        with ExitStack() as stack:
            if self.crashes is not None:
                stack.enter_context(self.crashes.recording(engine, item))
            self.active = start(self.log, engine, stack)
            self.log.is_open = True
            stack.callback(setattr, self.log, "is_open", False)
            limit = self.oracle.deadline
            stack.enter_context(deadline(limit, self.hangs))
            stack.enter_context(virtual_deadline(limit, usual=USUAL_DEADLINE))
            yield

    def outcome(self, judged: tuple[CellVerdict, str, Signature], duration: float) -> Outcome:
        """With what the run did."""
        verdict, reason, signature = judged
        return Outcome(
            verdict=verdict,
            reason=reason,
            signature=signature,
            seen=tuple(self.log.seen),
            positions=self.log.positions,
            hit=frozenset(step for step, one in self.active.items() if one.hits)
            | self.log.of_others,
            in_vain=self.log.in_vain,
            impossible=self.log.cancelled_nobody
            or any(map(had_nothing_to_alter, self.active.values()))
            or any(map(self._was_unawaited, self.active)),
            duration=duration,
        )

    def _was_unawaited(self, step: Step) -> bool:
        """Whether nobody could be cancelled at its operation: the job of a thread, or a message
        that is sent unasked, may be done before anybody waits for it.
        """
        met = dict(self.log.positions)
        return step.fault == CANCEL and step in met and not self.active[step].hits

    def forget(self) -> None:
        """Let go of what was raised, and of what that holds: frames, and sockets.

        Other plugins keep errors until the test is over, which is not to look like a leak.
        """
        for error in chain_of(*self.raised.values(), self.invariant, self.probe):
            clear_frames(error.__traceback__)
            error.__traceback__ = None  # a frame that is cleared still has its function's closure
            vars(error).clear()
        self.raised.clear()
        self.invariant = self.probe = None
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)  # as pytest does, when the next test begins

    def look_at_crashes(self, item: pytest.Item, watch: Watch) -> None:
        """Show the invariants what a crash may leave of the test's files."""
        if self.crashes is not None and self.invariant is None:
            names = {name for each in self.oracle.invariants for name in _arguments(each, item)}
            found: dict[str, Any] = getattr(item, "funcargs", {})
            fixtures = {name: each for name, each in found.items() if name in names}
            self.crashes.look(fixtures, lambda values: self._broken(item, values), watch)

    def _broken(
        self, item: pytest.Item, values: Mapping[str, Any] = MappingProxyType({})
    ) -> BaseException | None:
        """What the first invariant raises that does not hold. `values`: of some fixtures."""
        for invariant in self.oracle.invariants:
            found = _raised_by(invariant, item, self.oracle.deadline, values, self.hangs)
            if found is not None:
                return found
        return None

    def afterwards(self, item: pytest.Item) -> None:
        """See with the faults off whether what has to hold does, and whether it works again."""
        self.invariant = self._broken(item)
        if self.invariant is None and self._wanted is not False:
            self.probed = True
            again = item.runtest if self._wanted is True else self._wanted
            self.probe = _raised_by(again, item, self.oracle.deadline, hangs=self.hangs)
            if self.oracle.probe is None and _may_fail_so(item, self.probe, self.log.schedule):
                self.probe, self.probed = None, not isinstance(self.probe, AssertionError)


def facts_of(run: OngoingRun, reports: list[pytest.TestReport], *, strict: bool) -> Facts:
    """What is known of a run that is over, but for what it has leaked."""
    bad = next((report for report in reports if report.failed), None)
    error = None if bad is None else run.raised.get(bad.when or "")
    if bad is not None and error is None:
        error = AssertionError(f"it failed in {bad.when}")
    return Facts(
        void=_void(reports, run.raised),
        missed=_missed(run, strict=strict),
        hang=text_in_chain(error, *_HANGS),
        storm=text_in_chain(error, StormError),
        error=error,
        invariant=run.invariant,
        probe=run.probe,
    )


def _void(reports: list[pytest.TestReport], raised: dict[str, BaseException]) -> str:
    for report in reports:
        if report.failed and report.when == "setup":
            return f"its set-up failed this time: {raised.get('setup')!r}"
        if report.skipped and not hasattr(report, "wasxfail"):
            return "it was skipped this time"
    return ""


def _missed(run: OngoingRun, *, strict: bool) -> str:
    unmet = run.log.unmet
    idle = [step for step, each in run.active.items() if not each.hits and step not in unmet]
    if not strict and len(unmet) + len(idle) < len(run.log.schedule):
        return ""
    if unmet:
        did = ", ".join(dict.fromkeys(str(each.point.site) for each in run.log.seen)) or "nothing"
        steps = ", ".join(str(step.point) for step in unmet)
        return f"{steps} did not come; the test did: {did}{run.log.needed}"
    if idle:
        return f"nothing of {', '.join(map(str, idle))} has happened to its operation"
    return ""


def _raised_by(
    function: Callable[..., object],
    item: pytest.Item,
    limit: float,
    values: Mapping[str, Any] = MappingProxyType({}),
    hangs: KnownHangs | None = None,
) -> BaseException | None:
    """What a function raises that is given the test's fixtures by its parameters.

    `values`: instead of those of some fixtures.
    """
    try:
        with deadline(limit, hangs):
            given = _arguments(function, item)
            found = function(**{name: values.get(name, each) for name, each in given.items()})
            if inspect.iscoroutine(found):
                import asyncio

                asyncio.run(found)
    except (KeyboardInterrupt, pytest.exit.Exception):
        raise
    except BaseException as error:
        return error
    return None


def _arguments(function: Callable[..., object], item: pytest.Item) -> dict[str, Any]:
    """The fixtures of the test that it asks for."""
    fixtures = getattr(item, "funcargs", {})
    is_test = function == getattr(item, "runtest", None)
    names = () if is_test else inspect.signature(function).parameters
    return {name: fixtures[name] for name in names if name in fixtures}


def _may_fail_so(item: pytest.Item, error: BaseException | None, schedule: Schedule) -> bool:
    """Whether the test may fail so when it runs once more, after it has failed under faults.

    A breaker that is open answers with something else. It does not open when its caller is
    cancelled: who gets a wrong answer afterwards got that of the call that was. And what serves
    for one conversation is over with its fault: whoever opened it, here a fixture, opens another.
    """
    if isinstance(error, ClockStalledError) or not schedule:
        return False
    if isinstance(error, ResilienceError):
        return True
    if isinstance(error, AssertionError):
        return any(step.fault not in CANCELS for step in schedule)
    is_clean = isinstance(error, Exception) and not isinstance(error, MISTAKES)
    return is_clean and any(map(_is_one_conversation, values_of_function_fixtures(item)))


def _is_one_conversation(value: object) -> bool:
    """Whether it is a connection or a session of a database, a stream, a socket or an open file.

    Or has one in it, as the reader and the writer that asyncio gives together.
    """
    if isinstance(value, (socket.socket, io.IOBase)):
        return True
    if isinstance(value, (tuple, list)):
        return any(map(_is_one_conversation, value))
    kind = type(value)  # and not the object, of which a mock has whatever it is asked for
    return any(all(callable(getattr(kind, name, None)) for name in each) for each in _CONVERSATIONS)

"""Holds the active experiments and tells interceptors what happens to each operation.

    @pytest.mark.chaos("network_latency", delay="200ms"),  --chaos,  fixtures,  ChaosMonkey
              |
    ChaosExperiment                     what is to happen, and to which targets
              |  Engine.start           installs the interceptors that can do it
    ActiveExperiment  <-----------+     one run of it: counts, seeded chance, `stop`
                                  |
    client.recv()                 |     the code under test
              |                   |
    interceptor (patched recv)    |     makes an Operation of the call
              |  Engine.decide ---+     target, trigger, and then a Hit
              |       |
              |       +-- FaultInjected --> listeners: report, timeline
              |
            Effect                      delay, failure, pace
              |
    interceptor                         waits, raises, or changes the response
              |
    client                              sees what the real event would show it

Nothing here does any I/O, nor imports what does.
"""

from __future__ import annotations

import functools
import math
import threading

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace
from typing import Protocol
from typing import runtime_checkable

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.active_experiment import ActiveExperiments
from pytest_resilience.chaos.active_experiment import ExpectedExperiments
from pytest_resilience.chaos.active_experiment import Hit
from pytest_resilience.chaos.call_site import caller
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.effect import together
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.forked_children import watch_forks
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.callers import CallerFault
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.locks import fork_safe


__all__ = ["Engine", "FaultInjected", "FileTrace", "Interceptor"]


class Interceptor(Protocol):
    """Intercepts a family of operations, such as those on sockets, by patches.

    Attributes:
        kinds: the kinds of operation it can intercept.
    """

    kinds: frozenset[str]

    def install(self) -> None:
        """Begin to intercept; called again whenever the active experiments have changed."""

    def refresh(self) -> None:
        """The set of active experiments has changed."""

    def remove(self) -> bool | None:
        """Put back everything as it was found; True where this has to be called once more.

        It has where another tool's patch lies over one of these.
        """


@runtime_checkable
class EarlyInterceptor(Protocol):
    """An interceptor that can do something before there is any experiment."""

    def watch(self, on: bool) -> None:
        """Let what is made from now on be reached by those `Engine.expected`, or no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInjected(Event):
    """A fault happened to an operation; `source` is the experiment's name.

    Attributes:
        kind: the operation's kind.
        target: whom it concerned.
        fault: what happened, in words.
        number: the operation's number among those its experiment matched, from 1.
        delay: seconds asked for; infinite for silence.
        place: where in the user's code, `file:line in function`.
    """

    kind: str
    target: str
    fault: str
    number: int
    delay: float
    place: str


class _Interceptors:
    """The interceptors of an engine, and which of them may have something in place.

    Attributes:
        file_trace: what is told of what was done with files; None while nobody wants to know.
        is_settled: all that is not needed has been removed.
        waits: more is about to change, and nothing is put in place until then.
        expected: the experiments that may begin later.
    """

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._all = tuple(interceptors)
        self._in_place: tuple[Interceptor, ...] = ()
        self.is_settled = True
        self.waits = False
        self.file_trace: FileTrace | None = None
        self.expected = ExpectedExperiments()

    def use(self, needed: frozenset[str]) -> None:
        """Have those in place that see operations of these kinds, and no others."""
        if not needed and not self._in_place:
            return
        used = [each for each in self._all if not needed.isdisjoint(each.kinds)]
        unused = [each for each in self._in_place if each not in used]
        self.is_settled = False
        self._in_place = (*unused, *used)  # first: an interrupt must not lose them
        if used:
            with limits_lifted():  # what is imported to install one is read from files
                for interceptor in used:
                    interceptor.install()
        for interceptor in used:
            interceptor.refresh()
        # The last that was installed first: two may replace the same function, one over the other.
        left = [each for each in unused[::-1] if each.remove()][::-1]
        self._in_place = (*left, *used)
        self.is_settled = not left

    def watch(self, on: bool) -> None:
        """See `EarlyInterceptor`."""
        for interceptor in self._all:
            if isinstance(interceptor, EarlyInterceptor):
                interceptor.watch(on)

    def preload(self) -> None:
        """Import what they need."""
        for interceptor in self._all:
            interceptor.install()
            if interceptor.remove():
                self._in_place = (*self._in_place, interceptor)
                self.is_settled = False


class FileTrace(Protocol):
    """Notes what is done with files, for what a disk may hold after a crash.

    Attributes:
        kinds: the kinds of operation to see for that.
    """

    kinds: frozenset[str]

    def covers(self, path: str) -> bool:
        """Whether it is about the file at this absolute path."""

    def done(self, kind: str, *paths: str) -> None:
        """An operation was done on the file at a path; of a rename, the old and the new one."""


class Engine:
    """The active experiments of one process, and the interceptors that they need.

    An interceptor is installed when the first experiment needs it and removed after the last.

    Attributes:
        clock: on which durations and delays are measured.
        services: what experiments that fail services can name.
        listeners: told of every `FaultInjected`.
        active: the experiments that run now, the oldest first.
        recorder: notes what is done; None while nobody wants to know.
        folder: call sites in files below it are told without it.
    """

    def __init__(
        self,
        interceptors: Callable[[Engine], Sequence[Interceptor]],
        *,
        services: Services | None = None,
        approve: Callable[[ChaosExperiment], None] = lambda _: None,
        clock: Clock = MACHINE_CLOCK,
        folder: str = "",
    ) -> None:
        """`interceptors` makes those of this engine, and is called once. `approve` raises
        ConfigurationError for an experiment that is not to be started.
        """
        self.clock = clock
        self.services = services or Services()
        self.listeners = Listeners()
        # Replaced, never changed in place: operations read them without a lock.
        self.active = ActiveExperiments()
        self.recorder: Recorder | None = None
        self.folder = folder
        self._approve = approve
        self._interceptors = _Interceptors(interceptors(self))
        # Re-entrant: what an interceptor loads may make a connection, or start an experiment.
        self._lock = fork_safe(self, "_lock", threading.RLock)
        watch_forks(self)

    def before_fork(self) -> None:
        """A child of this process is about to be made."""
        for active_experiment in self.active:
            active_experiment.counts.before_fork()
        if self.recorder is not None:
            self.recorder.forked()

    def after_fork(self) -> None:
        """This process is the child."""
        for active_experiment in self.active:
            active_experiment.after_fork()

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of operation to intercept, for a fault or for the recorder."""
        watching = [each for each in (self.recorder, self.file_trace) if each is not None]
        return self.active.kinds.union(*(each.kinds for each in watching))

    def check(self, experiment: ChaosExperiment) -> ChaosExperiment:
        """The experiment with its services. Raises ConfigurationError if it cannot be started."""
        bound = experiment.bind(self.services)
        self._approve(bound)
        return bound

    def start(
        self,
        experiment: ChaosExperiment,
        *,
        seed: int,
        must_fire: bool = True,
        paused: bool = False,
    ) -> ActiveExperiment:
        """Let an experiment run until its `stop` is called, or its duration is over.

        One that starts `paused` hits nothing until that is taken back.
        Raises ConfigurationError as `check` does, and UnavailableError where this machine
        cannot do it.
        """
        active_experiment = ActiveExperiment(
            self.check(experiment),
            seed=seed,
            started_at=self.clock.monotonic(),
            must_fire=must_fire,
            clock=self.clock,
            on_stop=self._remove,
        )
        active_experiment.paused = paused  # before it is active, or it could hit something first
        with self._lock:
            before = self.active
            try:
                self._set_active((*before, active_experiment))
            except BaseException:  # an interrupt in between must not leave half of it
                self._set_active(before)
                raise
            # To install may have taken some of its time, maybe all.
            active_experiment.started_at = self.clock.monotonic()
        return active_experiment

    def not_started(self, experiment: ChaosExperiment) -> ActiveExperiment:
        """What stands for an experiment that is disabled: its time passes, and it does nothing."""
        return ActiveExperiment(
            experiment,
            seed=0,
            started_at=self.clock.monotonic(),
            must_fire=False,
            clock=self.clock,
        )

    def _remove(self, active_experiment: ActiveExperiment) -> None:
        with self._lock:
            self._set_active(tuple(each for each in self.active if each is not active_experiment))

    def refresh(self, interceptor: Interceptor | None = None) -> None:
        """Install and remove what has to be, again; with `interceptor`, what is of that one.

        An interceptor may have found another tool's patch over its own, and that may be gone now;
        an experiment that is paused, or goes on, puts pressure off and on.
        """
        with self._lock:
            self._set_active(self.active) if interceptor is None else interceptor.refresh()

    def settle(self) -> None:
        """Remove what another tool's patch, or an interrupt, has kept from being removed."""
        with self._lock:
            if not self._interceptors.is_settled:
                self._set_active(self.active)

    def watch(self, on: bool, *, expected: Iterable[ChaosExperiment] = ()) -> None:
        """Let what is made before experiments be reached by them, such as connections in C.

        `expected`: experiments that may begin later, besides those that were named before.
        """
        with self._lock:
            self._interceptors.expected.extend(expected)
            self._interceptors.watch(on)

    @property
    def expected(self) -> ExpectedExperiments:
        """The experiments that may begin later."""
        return self._interceptors.expected

    def preload(self) -> None:
        """Import what the interceptors need, now: who starts an experiment may be an event loop."""
        with self._lock:
            if not self.active:
                self._interceptors.preload()

    def _set_active(self, active: Iterable[ActiveExperiment]) -> None:
        self.active = ActiveExperiments(active)
        if not self._interceptors.waits:
            self._interceptors.use(self.kinds)

    @contextmanager
    def recording(self, recorder: Recorder) -> Iterator[None]:
        """Let `recorder` note what is done in the block; no fault happens for that."""
        before = self.recorder
        try:
            self._set_recorder(recorder)
        except Exception:  # the experiment that needs what failed will say so
            recorder.is_complete = False
            self._set_recorder(before)
        try:
            yield
        finally:
            self._set_recorder(before)

    def _set_recorder(self, recorder: Recorder | None) -> None:
        with self._lock:
            self.recorder = recorder
            self._set_active(self.active)

    @contextmanager
    def tracing(self, trace: FileTrace) -> Iterator[None]:
        """Let `trace` note what is done with files in the block."""
        try:
            self._set_trace(trace)
            yield
        finally:
            self._set_trace(None)

    def _set_trace(self, trace: FileTrace | None) -> None:
        with self._lock:
            self._interceptors.file_trace = trace
            self._set_active(self.active)

    @property
    def file_trace(self) -> FileTrace | None:
        """Notes what was done with files; None while nobody wants to know."""
        return self._interceptors.file_trace

    @contextmanager
    def recording_test(self) -> Iterator[None]:
        """The block is the test's own; what came before was done by fixtures."""
        recorder = self.recorder
        if recorder is None:
            yield
            return
        recorder.in_test = True
        try:
            self.refresh()  # connections that nobody was interested in before are looked at anew
            yield
        finally:
            recorder.in_test = False

    def is_recording(self, kinds: frozenset[str]) -> bool:
        """Whether the recorder has not seen operations of all of these kinds yet."""
        return self.recorder is not None and self.recorder.lacks(kinds)

    def is_targeted(self, operation: Operation, *, known: Sequence[ActiveExperiment] = ()) -> bool:
        """Whether an active experiment, that is none of the `known`, has the operation's target.

        Where requests are meant, one may be still to come.
        """
        for each in self.active:
            if each not in known and each.matches_target(operation, ahead=True):
                return True
        return False

    def note_unmatched(self, operation: Operation) -> None:
        """Note an operation that no fault can happen to, for experiments that never fire."""
        if self.recorder is not None:
            self.recorder.note(operation)
        for active_experiment in self.active:
            active_experiment.unmatched.note(operation)

    def record_fault(self, active_experiment: ActiveExperiment, fault: Fault, kind: str) -> None:
        """Count and tell of a fault that happens to no operation."""
        number = active_experiment.counts.add(matched=1)
        if not fault.is_nothing:
            active_experiment.counts.add(hits=1)
            operation = Operation(kind=kind, target="this machine", names=())
            hit = Hit(active_experiment, fault, number, operation)
            self._notify(operation.kind, operation.target, "", [hit])

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let interceptors learn of what begins and ends in the block when it is over.

        What keeps one from being put in place is raised there, and ends nothing.
        """
        with self._lock:
            self._interceptors.waits = True
            try:
                yield
            finally:
                self._interceptors.waits = False
                self._set_active(self.active)

    def call_site(self, loop_objects: tuple[object, ...] = (), *, above: int = 0) -> str:
        """Where in the user's code this is called from; see `chaos.call_site.caller`."""
        try:
            return caller(self.folder, loop_objects, above=above)
        except Exception:  # it goes through the objects of many libraries
            return ""

    def decide(
        self, operation: Operation, *, among: Sequence[ActiveExperiment] | None = None
    ) -> Effect | None:
        """The effect on `operation`, which is about to be done; None if no fault happens to it.

        `among`: of which experiments, if not of all that are active.
        """
        if self.recorder is not None:
            self.recorder.note(operation, again=among not in (None, self.active))
        now, hits = math.nan, list[Hit]()
        for active_experiment in self.active if among is None else among:
            if not active_experiment.experiment.only_observes:
                now = self.clock.monotonic() if math.isnan(now) else now  # the same for all
                hits += active_experiment.decide(operation, now)
        if not hits:
            return None
        hits, tell = [*together(hits)] if len(hits) > 1 else hits, None
        if self.listeners.listened:
            known = operation.call_site
            place = self.call_site(known.loop_objects) or known.place
            tell = functools.partial(self._notify, operation.kind, operation.target, place)
            tell([hit for hit in hits if not hit.awaits])
        strikes = [hit for hit in hits if isinstance(hit.fault, CallerFault)]
        others = _without_struck(hits) if strikes else hits
        if not others:
            return None
        # What leads to who awaits it would stay open, with the effect that is kept until it is due.
        if any(each is not None for each in operation.call_site.loop_objects):
            others = [replace(each, operation=each.operation.alone()) for each in others]
        return Effect.of(others, self.clock, tell=tell)

    def _notify(self, kind: str, target: str, place: str, hits: Sequence[Hit]) -> None:
        now = self.clock.monotonic()
        for hit in hits:
            self.listeners.emit(
                FaultInjected(
                    at=now,
                    source=hit.active_experiment.experiment.name,
                    kind=kind,
                    target=target,
                    fault=str(hit.fault),
                    number=hit.number,
                    delay=hit.fault.delay,
                    place=place,
                )
            )


def _without_struck(hits: Sequence[Hit]) -> Sequence[Hit]:
    """Let those happen that happen to the caller, who may raise; returns the others."""
    __tracebackhide__ = True
    others = []
    for hit in hits:
        if isinstance(hit.fault, CallerFault):
            hit.fault.strike(hit.operation)
        else:
            others.append(hit)
    return others

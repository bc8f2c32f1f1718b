"""Holds the active experiments and answers the interceptors: what happens to this operation?"""

from __future__ import annotations

import threading

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.active_experiment import Hit
from pytest_resilience.chaos.call_site import caller
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.chaos.faults.response import Pace
from pytest_resilience.chaos.forked_children import watch_forks
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.recorder import Watch
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.locks import fork_safe


__all__ = ["Effect", "Engine", "FaultInjected", "Interceptor"]


class Interceptor(Protocol):
    """The one place where a family of operations is intercepted.

    Attributes:
        kinds: the kinds of operation it can intercept.
    """

    kinds: frozenset[str]

    def install(self) -> None:
        """Begin to intercept; called again whenever the active experiments have changed."""

    def refresh(self) -> None:
        """The set of active experiments has changed."""

    def remove(self) -> None:
        """Put back everything as it was found; harmless when nothing is installed."""


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


@dataclass(frozen=True, slots=True)
class Effect:
    """What an interceptor has to do to one operation: wait, then maybe fail.

    Attributes:
        hits: what each experiment does to it, the oldest experiment first.
        clock: on which to wait.
    """

    hits: tuple[Hit, ...]
    clock: Clock

    @property
    def delay(self) -> float:
        """Seconds to wait: the sum of all, for latencies add up."""
        return sum(hit.fault.delay for hit in self.hits)

    @property
    def failure(self) -> Fault | None:
        """How it fails after the wait: the oldest experiment's say."""
        return next((hit.fault for hit in self.hits if not hit.fault.waits), None)

    @property
    def pace(self) -> Pace | None:
        """How fast an answer comes: the oldest experiment's say."""
        return next((hit.fault for hit in self.hits if isinstance(hit.fault, Pace)), None)

    @property
    def transient(self) -> bool:
        """Whether what waits goes on when the experiments have ended."""
        return all(hit.fault.transient for hit in self.hits if hit.fault.delay == float("inf"))

    def spare(self) -> None:
        """Take back what was to alter an answer: there is nothing in it."""
        for hit in self.hits:
            if isinstance(hit.fault, Alteration):
                hit.active_experiment.spared()

    def left(self) -> float:
        """Seconds until every experiment behind it has ended, so that nothing waits any more.

        Silence ends when those that ask for it do, whatever else is late.
        """
        now = self.clock.monotonic()
        endless = [hit for hit in self.hits if hit.fault.delay == float("inf")]
        return max(hit.active_experiment.left(now) for hit in endless or self.hits)

    def add_delay(self, seconds: float) -> None:
        """Book a wait on the experiments that caused it, in proportion."""
        if len(self.hits) == 1:
            if self.hits[0].fault.waits:
                self.hits[0].active_experiment.delayed(seconds)
            return
        delays = {hit.active_experiment: hit.fault.delay for hit in self.hits if hit.fault.delay}
        endless = {each: 1.0 for each, delay in delays.items() if delay == float("inf")}
        paced = {hit.active_experiment: 1.0 for hit in self.hits if isinstance(hit.fault, Pace)}
        shares = endless or delays or paced
        whole = sum(shares.values())
        for active_experiment, part in shares.items():
            active_experiment.delayed(seconds * part / whole)


class Engine:
    """The active experiments of one process.

    It installs an interceptor when the first experiment needs it and removes it after the last.

    Attributes:
        clock: on which durations and delays are measured.
        services: what experiments that fail services can name.
        listeners: told of every `FaultInjected`.
        watch: notes what is done; None while nobody wants to know.
    """

    def __init__(
        self,
        interceptors: Callable[[Engine], Sequence[Interceptor]],
        *,
        services: Services | None = None,
        approve: Callable[[ChaosExperiment], None] = lambda _: None,
        clock: Clock = SYSTEM_CLOCK,
        folder: str = "",
    ) -> None:
        """`interceptors` makes those of this engine, and is called once. `approve` raises
        ConfigurationError for an experiment that is not to be started. Places in files below
        `folder` are told without it.
        """
        self.clock = clock
        self._folder = folder
        self.services = services or Services()
        self.listeners = Listeners()
        self._approve = approve
        self._interceptors = tuple(interceptors(self))
        # Replaced, never changed in place: operations read it without a lock.
        self._active: tuple[ActiveExperiment, ...] = ()
        self.watch: Watch | None = None
        self._lock = fork_safe(self, "_lock", threading.RLock)
        watch_forks(self)

    @property
    def active(self) -> tuple[ActiveExperiment, ...]:
        """The experiments that run now, oldest first."""
        return self._active

    def before_fork(self) -> None:
        """A child is about to be made: who watches sees nothing of it."""
        for active_experiment in self._active:
            active_experiment.before_fork()
        if self.watch is not None:
            self.watch.forked()

    def after_fork(self) -> None:
        """This is the child."""
        for active_experiment in self._active:
            active_experiment.after_fork()

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of operation that have to be intercepted, to hit or to note them."""
        watched = frozenset[str]() if self.watch is None else self.watch.kinds
        return watched.union(*(active_experiment.kinds for active_experiment in self._active))

    def check(self, experiment: ChaosExperiment) -> ChaosExperiment:
        """The experiment with its services. Raises ConfigurationError if it cannot be started."""
        bound = experiment.bind(self.services)
        self._approve(bound)
        return bound

    def start(
        self, experiment: ChaosExperiment, *, seed: int, must_fire: bool = True
    ) -> ActiveExperiment:
        """Let an experiment run until its `stop` is called, or its duration is over.

        Raises ConfigurationError as `check` does, and UnavailableError where this machine
        cannot do it.
        """
        active_experiment = ActiveExperiment(
            self.check(experiment),
            seed=seed,
            started_at=self.clock.monotonic(),
            must_fire=must_fire,
            on_stop=self._remove,
        )
        with self._lock:
            before = self._active
            try:
                self._activate((*before, active_experiment))
            except BaseException:  # an interrupt in between must not leave half of it
                self._activate(before)
                raise
            # Some of its time has passed, maybe all.
            active_experiment.begin(self.clock.monotonic())
        return active_experiment

    def _remove(self, active_experiment: ActiveExperiment) -> None:
        with self._lock:
            self._activate(tuple(each for each in self._active if each is not active_experiment))

    def settle(self) -> None:
        """Take out of every idle interceptor what could not be taken out when it went idle."""
        with self._lock:
            self._activate(self._active)

    def rehearse(self) -> None:
        """Load what the interceptors need, now: who starts an experiment may be an event loop."""
        with self._lock:
            if not self._active:
                for interceptor in self._interceptors:
                    interceptor.install()
                    interceptor.remove()

    def _activate(self, active: tuple[ActiveExperiment, ...]) -> None:
        self._active = active
        needed = self.kinds
        for interceptor in self._interceptors:
            if not needed.isdisjoint(interceptor.kinds):
                with limits_lifted():  # what it loads is read from files
                    interceptor.install()
                interceptor.refresh()
            else:
                interceptor.remove()

    @contextmanager
    def watching(self, watch: Watch) -> Iterator[None]:
        """Let `watch` note what is done in the block; nothing happens to it for that."""
        try:
            self._look_out(watch)
        except Exception:  # the experiment that needs what failed will say so
            watch.sees = False
            self._look_out(None)
        try:
            yield
        finally:
            self._look_out(None)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What is done in the block is the test's: note it, if there is a watch."""
        watch = self.watch
        if watch is None:
            yield
            return
        watch.noting = True
        try:
            self.settle()  # what was passed over before is looked at anew
            yield
        finally:
            watch.noting = False

    def _look_out(self, watch: Watch | None) -> None:
        with self._lock:
            self.watch = watch
            self._activate(self._active)

    def curious(self, kinds: frozenset[str]) -> bool:
        """Whether operations of these kinds are still to be noted."""
        return self.watch is not None and self.watch.lacks(kinds)

    def has(self, kind: str) -> bool:
        """Whether an active experiment has anything to do with operations of a kind."""
        return any(kind in active_experiment.kinds for active_experiment in self._active)

    @property
    def paced(self) -> bool:
        """Whether an active experiment lets answers come in pieces."""
        faults = (fault for each in self._active for fault in each.experiment.faults)
        return any(isinstance(fault, Pace) for fault in faults)

    def concerns(self, operation: Operation) -> bool:
        """Whether an active experiment is aimed at the operation's target."""
        return any(
            active_experiment.experiment.matches_target(operation)
            for active_experiment in self._active
        )

    def news(self, known: Sequence[ActiveExperiment], operation: Operation) -> bool:
        """Whether an experiment that is not `known` is aimed at the operation's target."""
        return any(
            active_experiment.experiment.matches_target(operation)
            for active_experiment in self._active
            if active_experiment not in known
        )

    def saw(self, operation: Operation) -> None:
        """Note an operation that concerns no experiment, for those that never fire."""
        if self.watch is not None:
            self.watch.saw(operation)
        for active_experiment in self._active:
            active_experiment.saw(operation)

    def press(self, active_experiment: ActiveExperiment, fault: Fault, kind: str) -> None:
        """Count and tell of a fault that answers to no operation."""
        hit = not fault.is_nothing
        active_experiment.pressed(hit=hit)
        if not hit:
            return
        self.listeners.emit(
            FaultInjected(
                at=self.clock.monotonic(),
                source=active_experiment.experiment.name,
                kind=kind,
                target="this machine",
                fault=str(fault),
                number=active_experiment.matched,
                delay=0.0,
                place="",
            )
        )

    def place(self, through: tuple[object, ...] = ()) -> str:
        """Where in the user's code this is called from; see `chaos.place`."""
        try:
            return caller(self._folder, through)
        except Exception:  # it goes through the objects of many libraries
            return ""

    def decide(self, operation: Operation) -> Effect | None:
        """What happens to `operation`; None if nothing does."""
        if self.watch is not None:
            self.watch.saw(operation)
        now = self.clock.monotonic()
        hits = tuple(
            hit
            for active_experiment in self._active
            if active_experiment.left(now)
            for hit in active_experiment.decide(operation, now)
        )
        if not hits:
            return None
        if self.listeners:
            place = self.place(operation.call_site.loop_objects) or operation.call_site.place
            for hit in hits:
                self.listeners.emit(
                    FaultInjected(
                        at=now,
                        source=hit.active_experiment.experiment.name,
                        kind=operation.kind,
                        target=operation.target,
                        fault=str(hit.fault),
                        number=hit.number,
                        delay=hit.fault.delay,
                        place=place,
                    )
                )
        return Effect(hits, self.clock)

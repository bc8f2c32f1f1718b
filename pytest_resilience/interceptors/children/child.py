"""What a child process does with the experiments of its parent: the same, on seeds of its own."""

from __future__ import annotations

import functools
import pickle
import pkgutil
import sys

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.engine import Interceptor
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.forked_children import Pages
from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.seen_operations import UnmatchedOperation
from pytest_resilience.chaos.seen_operations import UnmatchedOperations
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.events import describe
from pytest_resilience.interceptors.children.parent import Starts
from pytest_resilience.patching import ImportHook
from pytest_resilience.seeds import derive


if TYPE_CHECKING:
    from pytest_resilience.interceptors.children.folder import Member


__all__ = ["COUNTED", "FAILED", "FAULT", "UNMATCHED", "Mirror", "follow", "shown"]

# What a child tells of.
FAULT, UNMATCHED, COUNTED, FAILED = "fault", "unmatched", "counted", "failed"

_FOLDER = "pytest_resilience.interceptors"
_NETWORK = "pytest_resilience.native.interceptor:network_interceptors"
_INTERCEPTORS = {  # with the beginnings of the kinds that it is needed for
    f"{_FOLDER}.http_mocks.interceptor:HttpMockInterceptor": ("network.",),
    f"{_FOLDER}.services:ServiceInterceptor.of_child": ("service.",),
    f"{_FOLDER}.databases.interceptor:DatabaseInterceptor": ("database.",),
    f"{_FOLDER}.files.interceptor:FileInterceptor": ("file.",),
    f"{_FOLDER}.trio:CancelScopeInterceptor": ("network.", "database.", "file."),
    f"{_FOLDER}.services:SimulatorInterceptor": ("network.", "service.", "database."),
}


class _Later:
    """Interceptors that are loaded when they are needed: a child is to begin soon."""

    def __init__(
        self,
        engine: Engine,
        beginnings: tuple[str, ...],
        make: Callable[[], Sequence[Interceptor]],
    ) -> None:
        self.kinds = frozenset(each for each in KINDS if each.startswith(beginnings))
        self._engine = engine
        self._make = make
        self._made: Sequence[Interceptor] = ()

    def install(self) -> None:
        self._made = self._made or self._make()
        for each in self._made:
            each.install()

    def refresh(self) -> None:
        for each in self._made:
            each.refresh()

    def remove(self) -> None:
        for each in self._made:
            each.remove()

    def install_anew(self) -> None:
        """Where it is in place, find what stands in the place of what there was."""
        if not self.kinds.isdisjoint(self._engine.kinds):
            for each in self._made:
                each.remove()
                each.install()
                each.refresh()


def _await_gevent(interceptors: Sequence[_Later]) -> None:
    """Reach the sockets of gevent: a child puts them in place when all of this has begun."""

    def told(event: object) -> None:
        if type(event).__name__ == "GeventDidPatchAllEvent":
            for each in interceptors:
                each.install_anew()

    def subscribe() -> None:
        sys.modules["gevent.events"].subscribers.append(told)

    ImportHook({"gevent.events": subscribe}).install()


def follow(member: Member) -> Mirror:
    """What makes this process, a child, do as its parent; pressure is put on the parent alone."""

    def interceptors(engine: Engine) -> list[_Later]:
        def one(place: str) -> Sequence[Interceptor]:
            return (pkgutil.resolve_name(place)(engine),)

        def network() -> Sequence[Interceptor]:
            made: Sequence[Interceptor] = pkgutil.resolve_name(_NETWORK)(
                engine, native=member.native
            )
            return made

        made = [_Later(engine, ("network.",), network)]
        for place, beginnings in _INTERCEPTORS.items():
            made.append(_Later(engine, beginnings, functools.partial(one, place)))
        _await_gevent(made)
        return made

    engine = Engine(interceptors, folder=member.place)
    Starts(member.next_number).install(member.folder)
    return Mirror(engine, member, Pages.of(f"{member.folder}/counts"))


def shown(experiment: ChaosExperiment, seed: int, started_at: float) -> bytes:
    """An experiment for children. Raises what pickle does, for parameters it cannot take."""
    return pickle.dumps((experiment, seed, started_at))


class Mirror:
    """Runs in a child what runs in its parent."""

    def __init__(self, engine: Engine, member: Member, pages: Pages) -> None:
        self._engine = engine
        self._member = member
        self._pages = pages
        self._running: dict[int, ActiveExperiment] = {}
        self._seen: set[int] = set()
        self._listed: set[int] = set()
        engine.listeners.add(self._tell)

    def adopt(self, known: Mapping[int, ActiveExperiment], listed: Iterable[int]) -> None:
        """In a forked child: go on with what its parent had."""
        self._engine.listeners = Listeners()  # the others are those of the test, in its process
        self._engine.listeners.add(self._tell)
        self._running = dict(known)
        self._listed, self._seen = set(listed), set(known)
        self.after_fork()

    def after_fork(self) -> None:
        """This process is a child of that which made it."""
        for key, each in self._running.items():
            each.reseed(derive(each.seed, "child", self._member.name))
            self._tell_seen(key, each)

    def update(self, experiments: Sequence[tuple[int, bytes]]) -> None:
        """End what has ended in the parent, and begin what has begun there."""
        listed = {key for key, _ in experiments}
        for key in self._listed - listed:
            if key in self._running:
                self._running.pop(key).stop()
        self._listed = listed
        for key, text in experiments:
            if key not in self._seen:
                self._seen.add(key)
                try:
                    self._begin(key, text)
                except Exception as error:  # what it names may be unknown here
                    self._member.tell([FAILED, key, describe(error)])
        self._engine.refresh()

    def _begin(self, key: int, text: bytes) -> None:
        experiment, seed, started_at = pickle.loads(text)  # noqa: S301  # its own parent's
        services = self._engine.services
        for service in experiment.services:
            services.remove(service)  # one of an earlier test, of this name
            services.add(service)
        active_experiment = self._engine.start(
            experiment,
            seed=derive(seed, "child", self._member.name),
            must_fire=False,
            paused=True,  # until it counts where the parent looks
        )
        self._running[key] = active_experiment
        self._tell_seen(key, active_experiment)
        active_experiment.started_at = started_at
        active_experiment.counts.join(self._pages.at(key))

    def _tell_seen(self, key: int, active_experiment: ActiveExperiment) -> None:
        def tell(unmatched: UnmatchedOperations, found: UnmatchedOperation) -> None:
            fields = found._asdict()
            conditions = fields.pop("conditions")
            known = None if conditions is None else sorted(conditions)
            known_of = unmatched.advice, unmatched.certainty, [*unmatched.refused_by]
            self._member.tell([UNMATCHED, key, fields, known, *known_of, unmatched.met_target])

        active_experiment.unmatched.tell = tell
        if active_experiment.counted is not None:
            active_experiment.counted.tell = lambda number, noted: self._member.tell(
                [COUNTED, key, number, *noted]
            )

    def _tell(self, event: Event) -> None:
        if isinstance(event, FaultInjected):
            keys = [k for k, each in self._running.items() if each.experiment.name == event.source]
            if keys:
                e = event
                line = [e.at, e.source, e.kind, e.target, e.fault, e.number, e.delay, e.place]
                self._member.tell([FAULT, keys[0], *line])

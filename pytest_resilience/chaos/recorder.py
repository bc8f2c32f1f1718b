"""What a test does that experiments could hit, noted while none of them runs."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.resources import PRESSURES
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import FETCH
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.types.catalog import ChaosType


__all__ = ["Watch"]

_MOST_LINES = 8  # of what was done that anybody reads
_OF_NETWORK = frozenset({RESOLVE, CONNECT, HANDSHAKE, SEND, RECEIVE, CLOSE})
_OF_DATABASE = frozenset({OPEN_CONNECTION, CHECK_OUT, EXECUTE, COMMIT, FETCH})
_FAMILIES = (_OF_NETWORK, _OF_DATABASE)


class Watch:
    """Notes which kinds of operations happen, for experiments that are to run later.

    Where it cannot be sure it takes for done what may be: an experiment that is run in vain
    says so, but one that is not run says nothing.

    Attributes:
        kinds: those that are to be noted.
        services: those whose calls are.
        noting: whether the test runs; what is done before it is not its own doing.
        did: what was done, a line each.
        sees: whether it is told of what is done.
    """

    def __init__(self, experiments: Iterable[ChaosExperiment]) -> None:
        """`experiments` have to be bound to their services."""
        found = list(experiments)
        self.kinds = frozenset[str]().union(*(each.kinds for each in found)) - PRESSURES
        self.services = tuple(service for each in found for service in each.services)
        self.noting = False
        self.sees = True
        self.did: dict[str, None] = {}
        self._seen: set[str] = set()
        self._called: set[str] = set()
        self._opened: set[str] = set()

    def saw(self, operation: Operation) -> None:
        """Note an operation that is about to happen."""
        self._opened |= _kept(operation)
        if not self.noting:
            return
        self._seen |= _kinds(operation)
        if operation.kind == CALL:
            self._called.add(operation.target)
        if len(self.did) < _MOST_LINES:
            remark = f" ({operation.remark})" if operation.remark else ""
            self.did[f"{operation.kind} {operation.target}{remark}"] = None

    def forked(self) -> None:
        """A child is made, which notes nothing here of what it does."""
        self.sees = self.sees and not self.noting

    def assume(self, service: str) -> None:
        """Take a service for called: nothing can be known of it."""
        self._called.add(service)

    def lacks(self, kinds: frozenset[str]) -> bool:
        """Whether one of these has still to be noted."""
        return self.noting and bool((kinds & self.kinds) - self._seen)

    @contextmanager
    def opening(self) -> Iterator[set[str]]:
        """The kinds of operation on connections that are opened in the block, before the test."""
        before, self._opened = self._opened, set()
        try:
            yield self._opened
        finally:
            self._opened |= before

    def could_hit(self, experiment: ChaosExperiment) -> bool:
        """Whether something was done of the kinds that `experiment` happens to.

        Pressure happens whatever is done; of a type that is not ours nothing is known.
        """
        ours = isinstance(experiment.chaos_type, ChaosType)
        kinds = self.reach(experiment)
        if not self.sees or not ours or not kinds or kinds & PRESSURES:
            return True
        if kinds & self._seen - {CALL}:
            return True
        return CALL in kinds and not self._called.isdisjoint(experiment.target_services)

    def reach(self, experiment: ChaosExperiment) -> frozenset[str]:
        """The kinds that it happens to, of hosts or callables as its services are."""
        services = [each for each in self.services if each.name in experiment.target_services]
        if services and not any(each.hosts for each in services):
            return experiment.kinds & {CALL}
        if services and not any(each.callables for each in services):
            return experiment.kinds - {CALL}
        return experiment.kinds


def _kinds(operation: Operation) -> AbstractSet[str]:
    """What is done with it, as far as that is seen."""
    if operation.advice:  # it is out of reach, so that no more is seen of what comes with it
        return next((each for each in _FAMILIES if operation.kind in each), {operation.kind})
    # That a connection ends is looked for only where it matters.
    return {RECEIVE, CLOSE} if operation.kind == RECEIVE else {operation.kind}


def _kept(operation: Operation) -> frozenset[str]:
    """What may be done later with what it opens, and not be seen then."""
    if operation.kind == OPEN_CONNECTION:
        return _OF_DATABASE
    return _OF_NETWORK if operation.advice and operation.kind == CONNECT else frozenset()

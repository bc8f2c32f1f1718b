"""Records the kinds of operation that a test does, while no experiment is active."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import FETCH
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.resources import PRESSURES


__all__ = ["Recorder"]

_MOST_LINES = 8  # of what was done that anybody reads
_HTTP = "HTTP"  # done as kinds are: something that is a request of it, or may be one
_OF_NETWORK = frozenset({RESOLVE, CONNECT, HANDSHAKE, SEND, RECEIVE, CLOSE})
_OF_DATABASE = frozenset({OPEN_CONNECTION, CHECK_OUT, EXECUTE, COMMIT, FETCH})


class Recorder:
    """Notes which kinds of operation a test does, for experiments that are to run later.

    In doubt it takes a kind for done: an experiment that is then run in vain says so, while one
    that is not run says nothing.

    Attributes:
        kinds: the kinds of operation to note.
        services: the services whose calls are noted.
        in_test: whether the test runs; what is done before is not its own doing.
        lines: what was done, for people, in order.
        is_complete: whether it is told of all that is done.
    """

    def __init__(self, experiments: Iterable[ChaosExperiment]) -> None:
        """`experiments` have to be bound to their services."""
        found = list(experiments)
        self.kinds = frozenset[str]().union(*(each.kinds for each in found)) - PRESSURES
        self._experiments = found
        self.services = tuple(service for each in found for service in each.services)
        self.in_test = False
        self.is_complete = True
        self.lines: dict[str, None] = {}
        self._done: set[str] = set()  # kinds, and _HTTP
        self._called: set[str] = set()  # services
        self._opened: set[str] = set()  # kinds that are possible on what was opened
        self._aimed: set[str] = set()  # experiments whose targets name an application in here

    def note(self, operation: Operation, *, again: bool = False) -> None:  # noqa: ARG002
        """Note an operation that is about to happen.

        `again`: it was noted before, and is only decided on anew.
        """
        if operation.tcp.accepted:
            return  # by a server, as a rule
        self._opened |= _possible_later(operation)
        if not self.in_test:
            return
        if operation.http.in_process:
            self._aimed.update(
                each.name
                for each in self._experiments
                if operation.kind in each.kinds and each.matches_target(operation)
            )
        else:
            self._done |= _implied_kinds(operation)
            if _may_speak_http(operation):
                self._done.add(_HTTP)
        if operation.kind == CALL:
            self._called.add(operation.target)
        if len(self.lines) < _MOST_LINES:
            remark = f" ({operation.remark})" if operation.remark else ""
            self.lines[f"{operation.kind} {operation.target}{remark}"] = None

    def note_file(self, kind: str, names: tuple[str, ...], place: str) -> None:  # noqa: ARG002
        """As `note`, of what is done with a file, where nothing can happen to that for now.

        `place`: where in the user's code.
        """
        self.note(Operation(kind, names[0], names))

    def forked(self) -> None:
        """A child of this process is made, of which nothing is noted here."""
        self.is_complete = self.is_complete and not self.in_test

    def assume_called(self, service: str) -> None:
        """Take a service for called: its calls cannot be seen."""
        self._called.add(service)

    def lacks(self, kinds: frozenset[str]) -> bool:
        """Whether the test has not done one of these kinds that is to be noted."""
        wanted = kinds & self.kinds
        if RECEIVE in wanted and any(each.is_of_http for each in self._experiments):
            wanted |= {_HTTP}
        return self.in_test and bool(wanted - self._done)

    @contextmanager
    def opening(self) -> Iterator[set[str]]:
        """The kinds of operation that are possible on connections opened in the block.

        For connections that a fixture opens and a test uses.
        """
        before, self._opened = self._opened, set()
        opened = self._opened
        try:
            yield opened
        finally:
            self._opened = before
            before |= opened

    def could_hit(self, experiment: ChaosExperiment) -> bool:
        """Whether the test did something of the kinds that `experiment` happens to.

        Pressure happens whatever is done. Of a type that is not ours nothing is known.
        """
        ours = isinstance(experiment.chaos_type, ChaosType)
        kinds = self.possible_kinds(experiment)
        if not self.is_complete or not ours or not kinds or kinds & PRESSURES:
            return True
        if experiment.name in self._aimed:
            return True
        if kinds & self._done - {CALL} and (_HTTP in self._done or not experiment.is_of_http):
            return True
        return CALL in kinds and not self._called.isdisjoint(experiment.target_services)

    def possible_kinds(self, experiment: ChaosExperiment) -> frozenset[str]:
        """The kinds that it happens to, given whether its services are hosts or callables."""
        services = [each for each in self.services if each.name in experiment.target_services]
        if services and not any(each.hosts for each in services):
            return experiment.kinds & {CALL}
        if services and not any(each.callables for each in services):
            return experiment.kinds - {CALL}
        return experiment.kinds


def _implied_kinds(operation: Operation) -> AbstractSet[str]:
    """The kinds that are done with it, as far as that is seen."""
    if operation.kind in DATAGRAMS:  # who has sent one may receive one
        return DATAGRAMS
    if _is_out_of_sight(operation):  # so that no more is seen of what comes with it
        families = (_OF_NETWORK, _OF_DATABASE)
        return next((each for each in families if operation.kind in each), {operation.kind})
    # That a connection ends is looked for only where it matters.
    return {RECEIVE, CLOSE} if operation.kind == RECEIVE else {operation.kind}


def _is_out_of_sight(operation: Operation) -> bool:
    return bool(operation.advice) or operation.tcp.unseen


def _may_speak_http(operation: Operation) -> bool:
    """Whether it shows a request of HTTP, or something that may be one."""
    if operation.kind == RECEIVE:
        return not operation.tcp.other
    return operation.http.request is not None or _is_out_of_sight(operation)


def _possible_later(operation: Operation) -> frozenset[str]:
    """The kinds that may be done later with what it opens, and not be seen then."""
    if operation.kind == OPEN_CONNECTION and not operation.sql.watched:
        return _OF_DATABASE
    unseen = _is_out_of_sight(operation) and operation.kind == CONNECT
    return _OF_NETWORK if unseen and not operation.http.in_process else frozenset()

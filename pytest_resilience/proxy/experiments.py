"""The experiments of one proxy: checked, turned to a direction, started and stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.context_managers import DualContext
from pytest_resilience.chaos.context_managers import dual_context
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.experiment import ChaosType
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import Outage
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import ServiceError
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.experiment_specs import parse_spec
from pytest_resilience.chaos.types.catalog import chaos_type
from pytest_resilience.chaos.types.schema import STREAM_PARAMETER
from pytest_resilience.chaos.types.schema import in_stream
from pytest_resilience.diagnosis import missed_by_chance
from pytest_resilience.diagnosis import never_entered
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.tcp_forwarder import TcpForwarder
from pytest_resilience.seeds import derive


__all__ = ["LOOK", "Experiments", "directed"]


def directed(experiment: ChaosExperiment, stream: Any = None) -> ChaosExperiment:
    """The experiment in a proxy, and in a stream of it, as `in_stream`.

    Raises ConfigurationError for what cannot be done to bytes that pass by.
    """
    if stream is not None:
        STREAM_PARAMETER.parse("stream", stream)
    # What callables raise happens where they are called; their hosts are on the wire.
    faults = [fault for fault in experiment.faults if not isinstance(fault, ServiceError)]
    for fault in faults or experiment.faults:
        _check(experiment, fault)
    try:
        changed = in_stream(faults, stream)
    except ConfigurationError as error:
        raise error.within(f"experiment {experiment.name!r}") from None
    if changed == experiment.faults:
        return experiment
    chosen = copy(experiment)
    vars(chosen)["faults"] = changed  # where its property keeps them
    return chosen


def _check(experiment: ChaosExperiment, fault: Fault) -> None:
    wire = {kind for kind in fault.kinds if kind.startswith("network.") and kind != RESOLVE}
    if not wire:
        raise ConfigurationError(
            f"experiment {experiment.name!r}: {fault} cannot happen in a proxy, which sees "
            "connections and bytes; it can do what network_latency, network_failure and "
            "service_failure do to these, but not to names"
        )


LOOK = 0.05  # seconds between looks at who waits
_MOST_SPARED = 100  # lines about the latest
_MOST_RAN = 1000  # the latest


class Experiments:
    """Starts and ends the experiments of one proxy.

    Attributes:
        ran: the latest of those that have been started.
    """

    def __init__(
        self,
        engine: Engine,
        forwarder: TcpForwarder,
        loop: EventLoop,
        seed: int,
        *,
        calm: bool,
        intensity: float | None,
    ) -> None:
        """Where it is `calm` they are checked, and none starts; `intensity`: unless it is given."""
        self._calm = calm
        self._defaults = {} if intensity is None else {"intensity": intensity}
        self._spared: deque[str] = deque(maxlen=_MOST_SPARED)
        self._engine = engine
        self._forwarder = forwarder
        self._loop = loop
        self._seed = seed
        self._started: dict[str, int] = {}  # how many of each name
        self._not_entered: list[ChaosExperiment] = []
        self.ran: deque[ActiveExperiment] = deque(maxlen=_MOST_RAN)

    def inject(
        self,
        experiment: ChaosExperiment | ChaosType | str,
        parameters: Mapping[str, Any],
        *,
        stream: str | None,
        must_fire: bool,
    ) -> DualContext[ActiveExperiment]:
        """See `ChaosProxy.inject`."""
        given = dict(parameters)
        if isinstance(experiment, str) and ":" in experiment:
            experiment, spec = parse_spec(experiment)
            given = spec | given
            stream = stream or given.pop("stream", None)
        chosen = directed(self._experiment(experiment, given).hitting_all(), stream)
        self._check_possible(chosen)
        self._engine.check(chosen)
        self._loop.check_open()
        if must_fire and not self._calm:
            self._not_entered.append(chosen)
        return self._running(chosen, must_fire)

    def _check_possible(self, experiment: ChaosExperiment) -> None:
        """Raise ConfigurationError for what cannot happen over what the proxy speaks."""
        if experiment.kinds & self._forwarder.kinds:
            return
        here, other = ("UDP", "TCP") if self._forwarder.kinds == DATAGRAMS else ("TCP", "UDP")
        raise ConfigurationError(
            f"experiment {experiment.name!r}: {experiment.fault_text} cannot happen over {here}, "
            f"which this proxy speaks; make it with protocol={other.lower()!r}"
        )

    def forgotten(self) -> list[NeverFiredError]:
        """An error for each that was asked for and had to fire, and that nobody entered."""
        return list(map(never_entered, self._not_entered))

    def spared(self) -> list[str]:
        """A line for each, of the latest that have ended, that chance kept from hitting more."""
        return list(self._spared)

    @dual_context
    def _running(self, experiment: ChaosExperiment, must_fire: bool) -> Iterator[ActiveExperiment]:
        self._not_entered = [each for each in self._not_entered if each is not experiment]
        if self._calm or not experiment.enabled:
            idle = self._engine.not_started(experiment)
            try:
                yield idle
            finally:
                idle.stop()
            return
        number = self._started[experiment.name] = self._started.get(experiment.name, 0) + 1
        seed = derive(self._seed, "experiment", experiment.name, number)
        self._loop.call(self._forwarder.accept_waiting)
        active_experiment = self._engine.start(experiment, seed=seed, must_fire=must_fire)
        self.ran.append(active_experiment)
        try:
            self._loop.call(lambda: self._await_begin(active_experiment))
            yield active_experiment
        finally:
            active_experiment.stop()
            self._spared.extend(missed_by_chance(active_experiment))
            with suppress(ShutdownError):  # the proxy was closed meanwhile
                self._loop.call(lambda: self._forwarder.refuse_no_more(active_experiment))
        if must_fire and active_experiment.proves_nothing:
            if not self._forwarder.accepted:
                active_experiment.unmatched.note(self._no_client())
            raise never_fired(active_experiment)

    def _no_client(self) -> Operation:
        here = str(self._forwarder.address)
        return Operation(
            kind=CONNECT,
            target=here,
            names=(),
            remark="nobody, so far",
            advice=f"No client has come to the proxy: lead it to {here}, by proxy.dsn(...), "
            "proxy.environment(...) or proxy.listen.",
        )

    def _await_begin(self, active_experiment: ActiveExperiment) -> None:
        """From now on, or its window, everybody is refused, and who waits is struck."""
        clock, left = self._loop.clock, active_experiment.left

        def begin() -> None:
            if not left(clock.monotonic()):
                return
            self._refuse_all(active_experiment)
            if active_experiment.experiment.is_outage:
                self._strike_waiting(active_experiment)

        self._loop.call_at_or_after(
            active_experiment.opens_at, lambda: left(clock.monotonic()), begin
        )

    def _strike_waiting(self, outage: ActiveExperiment) -> None:
        """Who waits now, and who comes to wait in this process while it lasts."""
        now = self._loop.clock.monotonic()
        if outage.left(now):
            # Before this look, which another thread may disturb: it is not the last one then.
            self._loop.call_at(now + LOOK, lambda: self._strike_waiting(outage))
            self._forwarder.strike_waiting()

    def _refuse_all(self, active_experiment: ActiveExperiment) -> None:
        """Let the kernel refuse, where an experiment refuses everybody for its time.

        A refusal of some can only be a connection that is accepted and reset: who is next
        is not known before. Here nobody can tell who was refused, so that is one hit.
        """
        experiment = active_experiment.experiment
        refusal = next((each for each in experiment.faults if isinstance(each, Refusal)), None)
        names = self._forwarder.names
        operation = Operation(kind=CONNECT, target=names[0], names=names)
        if (
            refusal is None
            or not experiment.hits_all
            or experiment.names_connections
            or not experiment.matches_target(operation)
        ):
            return

        self._forwarder.refuse(active_experiment)
        self._loop.call_at_or_after(
            active_experiment.closes_at,
            lambda: active_experiment.left(self._loop.clock.monotonic()),
            lambda: self._forwarder.refuse_no_more(active_experiment),
        )
        kind = min(refusal.kinds & self._forwarder.kinds)
        self._engine.record_fault(active_experiment, refusal, kind)
        outage = next((each for each in experiment.faults if isinstance(each, Outage)), None)
        if outage is not None:
            for _ in range(self._forwarder.cut()):
                self._engine.record_fault(active_experiment, outage, CLOSE)

    def _experiment(
        self, given: ChaosExperiment | ChaosType | str, parameters: Mapping[str, Any]
    ) -> ChaosExperiment:
        if isinstance(given, ChaosExperiment):
            if parameters:
                raise ConfigurationError(
                    f"experiment {given.name!r} has its own parameters; leave out "
                    + ", ".join(sorted(parameters))
                )
            return given
        kind = chaos_type(given)
        return ChaosExperiment(
            **{"name": kind.value, "probability": 1.0, **self._defaults, **parameters},
            chaos_type=kind,
        )

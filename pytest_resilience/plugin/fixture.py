"""What the `chaos` fixture gives a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_resilience.chaos.activation import Activation
from pytest_resilience.chaos.contexts import DualContext
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.experiment import ChaosType
from pytest_resilience.chaos.pressure import LIMITS
from pytest_resilience.chaos.pressure import PRESSURES
from pytest_resilience.chaos.service import Service
from pytest_resilience.plugin.requested import Defaults
from pytest_resilience.plugin.requested import Requested
from pytest_resilience.plugin.requested import from_parameters
from pytest_resilience.plugin.scope import ChaosScope


__all__ = ["Chaos"]


class Chaos:
    """Puts faults around parts of a test, and tells what they did.

    Contexts are for `with` and `async with`. They can be nested and can overlap; each ends its
    own experiment, whatever else runs. None starts when the test is over (ShutdownError). What
    a context gives counts `matched` and `hits` of its experiment alone. An experiment that has
    matched nothing when the test ends makes the test an error, unless it was started with
    `must_fire=False`.
    """

    def __init__(self, scope: ChaosScope, defaults: Defaults) -> None:
        self._scope = scope
        self._defaults = defaults

    def network_latency(
        self, *, must_fire: bool = True, **parameters: Any
    ) -> DualContext[Activation]:
        """Connecting and every answer take longer, e.g. `delay="200ms", target="api.*"`.

        Or, by `mode=`, answers come over a thin line or in little pieces, or ends or names late.
        """
        return self.inject(ChaosType.NETWORK_LATENCY, must_fire=must_fire, **parameters)

    def network_failure(
        self, *, must_fire: bool = True, **parameters: Any
    ) -> DualContext[Activation]:
        """The peer cannot be reached, or what it says is damaged, e.g. `mode="reset"`.

        By `mode=` "refuse", "reset", "timeout", "dns", "dns_not_found", "partition",
        "lose_answer", "truncate", "corrupt", "status" or "malformed_json".
        """
        return self.inject(ChaosType.NETWORK_FAILURE, must_fire=must_fire, **parameters)

    def database_slowdown(
        self, *, must_fire: bool = True, **parameters: Any
    ) -> DualContext[Activation]:
        """A database answers late, e.g. `delay="200ms", at="commit", match="UPDATE*"`."""
        return self.inject(ChaosType.DATABASE_SLOWDOWN, must_fire=must_fire, **parameters)

    def database_failure(
        self, *, must_fire: bool = True, **parameters: Any
    ) -> DualContext[Activation]:
        """A database fails, e.g. `mode="deadlock", match="UPDATE*"` or `after="commit"`."""
        return self.inject(ChaosType.DATABASE_FAILURE, must_fire=must_fire, **parameters)

    def cpu_stress(self, *, must_fire: bool = True, **parameters: Any) -> DualContext[Activation]:
        """Processes compute, e.g. `load=0.8, cores=2`; what came of it is in `.pressure`."""
        return self.inject(ChaosType.CPU_STRESS, must_fire=must_fire, **parameters)

    def memory_stress(
        self, *, must_fire: bool = True, **parameters: Any
    ) -> DualContext[Activation]:
        """A process holds memory, e.g. `size="512MiB"`; with `mode="fail"` there is no more."""
        return self.inject(ChaosType.MEMORY_STRESS, must_fire=must_fire, **parameters)

    def disk_stress(self, *, must_fire: bool = True, **parameters: Any) -> DualContext[Activation]:
        """A process writes and reads, e.g. `size="64MiB"`; with `fill=True` the disk is full."""
        return self.inject(ChaosType.DISK_STRESS, must_fire=must_fire, **parameters)

    def disk_failure(self, *, must_fire: bool = True, **parameters: Any) -> DualContext[Activation]:
        """Files fail, e.g. `mode="disk_full", path="data/**"`; `at=` says at which step."""
        return self.inject(ChaosType.DISK_FAILURE, must_fire=must_fire, **parameters)

    def fd_exhaustion(
        self, *, must_fire: bool = True, **parameters: Any
    ) -> DualContext[Activation]:
        """No file or socket can be opened, but for `leave=` of them."""
        return self.inject(ChaosType.FD_EXHAUSTION, must_fire=must_fire, **parameters)

    def thread_exhaustion(
        self, *, must_fire: bool = True, **parameters: Any
    ) -> DualContext[Activation]:
        """No thread can be started."""
        return self.inject(ChaosType.THREAD_EXHAUSTION, must_fire=must_fire, **parameters)

    def service(self, name: str, *places: str) -> None:
        """Make a service known for the rest of this test.

        It is where it is reached: `"payments.internal:443"`, `"shop.clients:Payment.charge"`.
        Raises ConfigurationError for a place that makes no sense, DuplicateNameError for a
        name that is taken.
        """
        self._scope.declare(Service.at(name, places))

    def service_failure(
        self, *target_services: str, must_fire: bool = True, **parameters: Any
    ) -> DualContext[Activation]:
        """Services fail: `mode=` "error", "refuse", "reset", "timeout" or "status"."""
        return self.inject(
            ChaosType.SERVICE_FAILURE,
            must_fire=must_fire,
            target_services=target_services,
            **parameters,
        )

    def inject(
        self,
        experiment: ChaosExperiment | ChaosType | str,
        *,
        must_fire: bool = True,
        **parameters: Any,
    ) -> DualContext[Activation]:
        """Run an experiment, or a type with its parameters, for a `with` or an `async with`.

        It starts for certain: its `probability` is for those who start it by chance.
        Raises ConfigurationError at once for what makes no sense.
        """
        requested = from_parameters(
            experiment, parameters, self._defaults, origin="fixture", must_fire=must_fire
        )
        self._scope.check(requested)
        self._scope.await_start(requested)
        # Worker processes take their time to start; limits do not, and may leave no thread.
        slow = any(
            fault.kinds & PRESSURES and not isinstance(fault, LIMITS)
            for fault in requested.experiment.faults
        )
        return DualContext(self._running(requested), blocks=slow)

    @contextmanager
    def _running(self, requested: Requested) -> Iterator[Activation]:
        activation = self._scope.start(requested)
        try:
            yield activation
        finally:
            self._scope.stop(activation)

    @property
    def events(self) -> tuple[FaultInjected, ...]:
        """The faults injected into this test so far, by whomever they were asked for.

        The latest 10 000; `matched` and `hits` count all of them.
        """
        return tuple(self._scope.events)

    @property
    def matched(self) -> int:
        """Operations of this test that an experiment was aimed at."""
        return sum(activation.matched for _, activation in self._scope.started)

    @property
    def hits(self) -> int:
        """Operations of this test that a fault happened to."""
        return sum(activation.hits for _, activation in self._scope.started)

"""An experiment: a fault, its targets, which of their operations it hits, and for how long."""

from __future__ import annotations

import math

from collections.abc import Mapping
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from typing import Protocol

from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import Observation
from pytest_resilience.chaos.faults.network import Outage
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import MESSAGES
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.experiment_specs import check_flag
from pytest_resilience.chaos.parsing.experiment_specs import check_name
from pytest_resilience.chaos.parsing.experiment_specs import split_patterns
from pytest_resilience.chaos.parsing.http_requests import RequestFilter
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.parsing.quantities import format_seconds
from pytest_resilience.chaos.parsing.quantities import seconds
from pytest_resilience.chaos.parsing.quantities import share
from pytest_resilience.chaos.parsing.targets import Numbers
from pytest_resilience.chaos.parsing.targets import Paths
from pytest_resilience.chaos.parsing.targets import Target
from pytest_resilience.chaos.triggers import Between
from pytest_resilience.chaos.triggers import Never
from pytest_resilience.chaos.triggers import Trigger
from pytest_resilience.chaos.triggers import is_left_to_chance
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.catalog import Kind
from pytest_resilience.chaos.types.catalog import chaos_type as parse_type
from pytest_resilience.chaos.types.keywords import ExperimentConstructor
from pytest_resilience.chaos.types.resources import Pressure
from pytest_resilience.chaos.types.schema import BOTH
from pytest_resilience.chaos.types.schema import CHILDREN_PARAMETER
from pytest_resilience.chaos.types.schema import DOWNSTREAM
from pytest_resilience.chaos.types.schema import UPSTREAM
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import in_stream
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.errors import ConfigurationError


__all__ = ["ChaosExperiment", "ChaosType", "Filter"]

_WAYS = {UPSTREAM: ", upstream", DOWNSTREAM: "", BOTH: ", both ways"}
_INTENSITY = 0.5  # of an experiment that names none


class Filter(Protocol):
    """Accepts some operations; `str` of it says which."""

    def accepts(self, operation: Operation) -> bool:
        """Whether the operation is one of them."""


@dataclass(frozen=True, init=False)
class ChaosExperiment(ExperimentConstructor):
    """A named experiment; immutable, checked when it is made.

    Attributes:
        name: what events and reports call it.
        chaos_type: a `ChaosType` or its name.
        probability: whether it starts at all, 0 to 1: drawn once per test, or per tick
            of a monkey.
        duration: seconds it lasts at most once started, or a text such as "5s".
        intensity: 0 to 1, 0.5 unless it is given; each type translates it into its own
            physical parameter.
        target_services: names of services, for the type that fails services; one, or
            several in a list or between `|`.
        enabled: a disabled experiment never starts.
        parameters: the type's own parameters as given, e.g. `delay="200ms"`, `rate=0.3`,
            `target="api.example.com:443"`; `pytest --chaos-list` shows them all.
        services: those of `target_services`; empty until `bind`.

    Raises ConfigurationError for anything that cannot mean what it says.
    """

    name: str
    chaos_type: Kind
    probability: float
    duration: float
    intensity: float
    target_services: tuple[str, ...]
    enabled: bool
    parameters: tuple[tuple[str, Any], ...]
    services: tuple[Service, ...]

    def _read(
        self,
        name: str,
        chaos_type: Kind | str,
        parameters: Mapping[str, Any],
        *,
        enabled: bool = True,
        **common: Any,
    ) -> None:
        self._set("name", check_name("an experiment", name))
        self._set("enabled", check_flag("enabled", enabled))
        kind = parse_type(chaos_type)
        try:
            self._read_parameters(kind, parameters, **common)
        except ConfigurationError as error:
            if isinstance(kind, ChaosType):
                error.lead_to(f"reference/types/{kind.value}/")
            raise

    def _read_parameters(
        self,
        kind: Kind,
        parameters: Mapping[str, Any],
        *,
        probability: Any,
        duration: Any,
        intensity: Any,
        target_services: Any,
    ) -> None:
        others = {each.value: schema for each, schema in SCHEMAS.items()}
        parsed = SCHEMAS[kind].parse(parameters, others)
        self._set("chaos_type", kind)
        self._set("probability", share("probability", probability))
        self._set("duration", _duration(duration))
        self._set("intensity", share("intensity", _INTENSITY if intensity is None else intensity))
        self._set("_share_was_given", intensity is not None or "rate" in parsed)
        self._set("target_services", _services(kind, target_services))
        self._set("parameters", tuple(parsed.items()))
        self._set("services", ())
        _ = self.faults, self.triggers  # raise for parameters that contradict each other
        self._check_window()
        if self.names_connections and self.kinds == {RESOLVE}:
            raise ConfigurationError(
                f"target={self.target_text!r}: {self.fault_text} happens before there is a "
                "connection; leave the number out"
            )

    def _check_window(self) -> None:
        window = dict(self.parameters).get("between")
        if window is not None and not window[0] < self.duration:
            start, end = map(format_seconds, window)
            raise ConfigurationError(
                f"between={start}..{end} begins when the experiment is over; make its duration, "
                f"which is {format_seconds(self.duration)}, longer"
            )

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)  # frozen for everybody else

    def bind(self, services: Services) -> ChaosExperiment:
        """This experiment with the services that it names. Raises ConfigurationError.

        One that names an unknown service, or one that cannot fail in this way, is refused.
        """
        if not self.target_services:
            return self
        found = tuple(services.find(name) for name in self.target_services)
        reach = self.kinds
        for service in found:
            if not (service.callables if reach == {CALL} else service.hosts or CALL in reach):
                places = ("callables", "module:function")
                if reach != {CALL}:
                    places = ("hosts", "payments.internal:443")
                raise ConfigurationError(
                    f"service {service} cannot fail like this: {' + '.join(map(str, self.faults))}"
                    f" happens to {places[0]}; declare one of the service, such as "
                    f"{places[1]!r}, or use service_failure without mode"
                )
        return self._changed(
            "targets", "names_connections", "_included", "_excluded", services=found
        )

    def _changed(self, *derived: str, **fields: Any) -> ChaosExperiment:
        """A copy with other `fields`, which has to derive these properties anew."""
        other = copy(self)
        for name in ("_text", *derived):
            vars(other).pop(name, None)
        vars(other).update(fields)
        return other

    def all_derived(self) -> ChaosExperiment:
        """Itself, with all that its properties keep: copies need not derive it anew."""
        for name, each in vars(type(self)).items():
            if isinstance(each, cached_property):
                getattr(self, name)
        return self

    def starting_always(self) -> ChaosExperiment:
        """This experiment with probability 1."""
        return self._changed(probability=1.0)

    def hitting_all(self) -> ChaosExperiment:
        """This experiment with `rate=1`.

        Unchanged where `rate` or `intensity` is given, or another parameter chooses operations.
        """
        if vars(self)["_share_was_given"] or not is_left_to_chance(self.triggers):
            return self
        return self._changed("triggers", parameters=(*self.parameters, ("rate", 1.0)))

    def counting_only(self) -> ChaosExperiment:
        """This experiment, started for certain, which counts what it matches and hits nothing."""
        return self.triggered_by(Never())

    def triggered_by(self, trigger: Trigger) -> ChaosExperiment:
        """This experiment, started for certain, which hits what `trigger` says."""
        # They are where their property keeps them.
        return self._changed(probability=1.0, triggers=(trigger,))

    def with_faults(self, *faults: Fault) -> ChaosExperiment:
        """This experiment, at the same kinds of operation, with these instead of its own."""
        self.all_derived()  # they are where their property keeps them, as above
        return self._changed(faults=faults)

    @staticmethod
    def observing(name: str, kinds: frozenset[str]) -> ChaosExperiment:
        """One that matches every operation of these kinds, and does nothing to any."""
        made = ChaosExperiment(name, ChaosType.NETWORK_LATENCY, 1.0, math.inf, children=False)
        # They are where their properties keep them.
        vars(made).update(faults=(Observation(of=kinds),), triggers=())
        for derived in ("kinds", "is_nothing", "only_observes"):
            vars(made).pop(derived, None)
        return made

    def filtered(self, name: str, only: Filter) -> ChaosExperiment:
        """This experiment, for those operations on its targets that `only` accepts too."""
        return self._changed("filters", parameters=(*self.parameters, (name, only)))

    @property
    def schema(self) -> TypeSchema:
        return SCHEMAS[self.chaos_type]

    @cached_property
    def faults(self) -> tuple[Fault, ...]:
        """Its faults; at intensity 0 they do nothing, unless a physical parameter is given."""
        given = dict(self.parameters)
        return in_stream(self.schema.faults(given, self.intensity), given.get("stream"))

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of operation that it can happen to."""
        return frozenset[str]().union(*(fault.kinds for fault in self.faults))

    @cached_property
    def is_nothing(self) -> bool:
        """Whether nobody could tell that its faults have happened."""
        return all(fault.is_nothing for fault in self.faults)

    @cached_property
    def only_observes(self) -> bool:
        """Whether it is there for what it matches to be seen, and counts nothing."""
        return any(isinstance(fault, Observation) for fault in self.faults)

    @cached_property
    def awaits(self) -> bool:
        """Whether what it matches may end before a fault of it happens, for bytes are missing."""
        return any(fault.awaits and fault.kinds & MESSAGES for fault in self.faults)

    @cached_property
    def strikes_waiting(self) -> bool:
        """Whether it happens to who waits for a response, though none may ever come."""
        return any(
            fault.delay == math.inf or not (fault.waits or fault.needs_response)
            for fault in self.faults
            if fault.kinds & {HANDSHAKE, RECEIVE}
        )

    @cached_property
    def opens_after(self) -> float:
        """Seconds until it can happen to anything, from its start."""
        window = dict(self.parameters).get("between")
        return 0.0 if window is None else float(window[0])

    @property
    def closes_after(self) -> float:
        """Seconds from which on it can happen to nothing more, from its start."""
        window = dict(self.parameters).get("between")
        return math.inf if window is None else float(window[1])

    @cached_property
    def is_outage(self) -> bool:
        """Whether it strikes those who wait already when it begins."""
        is_silence = any(fault.delay == math.inf for fault in self.faults)
        return self.strikes_waiting and (is_silence or self.ends_connections)

    @cached_property
    def ends_connections(self) -> bool:
        """Whether it resets or closes them."""
        return any(fault.resets or fault.closes for fault in self.faults)

    @cached_property
    def reaches_children(self) -> bool:
        """Whether it happens in the Python processes too that this one starts."""
        return CHILDREN_PARAMETER in self.schema.parameters and not self.spares_children

    @cached_property
    def spares_children(self) -> bool:
        """Whether it was asked for with `children=False`."""
        return dict(self.parameters).get("children") is False

    @property
    def ends_service(self) -> bool:
        """Whether a service is down for everybody, and not for some operations only."""
        return self.hits_all and any(isinstance(fault, Outage) for fault in self.faults)

    @property
    def hits_all(self) -> bool:
        """Whether it happens to all that it matches, for its whole time or within its window."""
        return all(isinstance(each, Between) for each in self.triggers)

    @cached_property
    def varies(self) -> bool:
        """Whether a fault of it is drawn anew for each operation, such as a random delay."""
        return any(fault.varies for fault in self.faults)

    @cached_property
    def triggers(self) -> tuple[Trigger, ...]:
        """Choose which of the matching operations are hit: those that each of them hits."""
        return self.schema.triggers(dict(self.parameters), self.intensity)

    @property
    def triggers_text(self) -> str:
        """Which of the matching operations are hit, for people."""
        return ", ".join(map(str, self.triggers)) or "always"

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Hosts and ports; empty for all."""
        hosts = tuple(host for service in self.services for host in service.hosts)
        return tuple(dict(self.parameters).get("target", hosts))

    @cached_property
    def filters(self) -> tuple[Any, ...]:
        """The parameters that accept some operations only."""
        return tuple(value for _, value in self.parameters if hasattr(value, "accepts"))

    @property
    def target_text(self) -> str:
        """The targets, for people."""
        if self.target_services:
            return " | ".join(map(str, self.services or self.target_services))
        texts = [" | ".join(map(str, self.targets)), *map(str, self.filters)]
        return ", ".join(filter(None, texts)) or "any"

    @property
    def target_patterns(self) -> tuple[str, ...]:
        """The targets, one by one, as they were written; none if there is no restriction."""
        paths = dict(self.parameters).get("path")
        filters = paths.patterns if isinstance(paths, Paths) else self.filters
        return tuple(map(str, (*self._included, *self.services, *filters)))

    @property
    def has_relative_path(self) -> bool:
        """Whether a glob of files of it begins at the current folder."""
        paths = dict(self.parameters).get("path")
        return isinstance(paths, Paths) and any(each.is_relative for each in paths.patterns)

    @cached_property
    def names_connections(self) -> bool:
        """Whether a target is one connection among several."""
        return any(each.connections is not None for each in self.targets)

    @cached_property
    def is_of_stream(self) -> bool:
        """Whether it happens once in all that comes in a conversation."""
        return any(fault.is_of_stream for fault in self.faults)

    @cached_property
    def aims_at_requests(self) -> bool:
        """Whether only some requests are meant."""
        return any(isinstance(each, RequestFilter) for each in self.filters)

    @cached_property
    def is_of_http(self) -> bool:
        """Whether it happens to requests of HTTP only."""
        return self.aims_at_requests or all(fault.is_of_http for fault in self.faults)

    @cached_property
    def _included(self) -> tuple[Target, ...]:
        return tuple(each for each in self.targets if not each.excludes)

    @cached_property
    def _excluded(self) -> tuple[Target, ...]:
        return tuple(each for each in self.targets if each.excludes)

    def matches_target(
        self,
        operation: Operation,
        numbers: Numbers | None = None,
        *,
        ahead: bool = False,
        filters: Sequence[Filter] | None = None,
    ) -> bool:
        """Whether the operation is on a target, whatever its kind.

        `numbers`: those of connections. One that has none yet may get any.
        `ahead`: the request that is meant may be still to come.
        `filters`: which of its own have to accept it; all if not given.
        """
        is_open = ahead and operation.http.request is None
        for each in self.filters if filters is None else filters:
            if not (each.accepts(operation) or (is_open and isinstance(each, RequestFilter))):
                return False
        if operation.kind == CALL and self.target_services:
            return operation.target in self.target_services
        if self.target_services and not self.targets:
            return False  # services without a host
        for target in self._excluded:
            if target.is_about(operation, numbers, otherwise=False):
                return False
        for target in self._included:
            if target.is_about(operation, numbers, otherwise=True):
                return True
        return not (self._included or operation.http.in_process or operation.tcp.accepted)

    def refusing(self, operation: Operation) -> Sequence[str]:
        """The parameters that keep an operation from being hit that would be, without them."""
        if not self.filters or operation.kind.startswith("file."):
            return ()  # of files there is only the path, which anybody sees
        if operation.kind not in self.kinds and operation.http.request is None:
            return ()
        known = [
            each
            for each in self.filters
            if not isinstance(each, RequestFilter) or operation.http.request is not None
        ]
        refusing = [str(each) for each in known if not each.accepts(operation)]
        return refusing if refusing and self.matches_target(operation, filters=()) else ()

    @property
    def fault_text(self) -> str:
        """The faults, for people."""
        stream = dict(self.parameters).get("stream")
        return " + ".join(map(str, self.faults)) + (_WAYS[stream] if stream else "")

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        if all(isinstance(fault, Pressure) for fault in self.faults):
            return f"{self.name}: {self.fault_text}"
        which = "" if Never() in self.triggers else f", {self.triggers_text}"
        return f"{self.name}: {self.fault_text}{which}, target {self.target_text}"


def _services(kind: Kind, names: Sequence[Any] | str | None) -> tuple[str, ...]:
    given = [] if names is None else split_patterns(names)
    if given is None:
        raise ConfigurationError(f"target_services={shortened(names)}: give the names of services")
    fails_services = kind is ChaosType.SERVICE_FAILURE
    if given and not fails_services:
        whose = SCHEMAS[kind].aimed_with
        aimed = f"is aimed with {whose}=" if whose else "is aimed at nothing; leave it out"
        raise ConfigurationError(f"target_services={shortened(names)}: {kind.value} {aimed}")
    chosen = tuple(each.strip() for each in given if isinstance(each, str) and each.strip())
    if fails_services and not given:
        raise ConfigurationError(
            "service_failure has to be told which services; write target_services='payment', a "
            "name of the ini option chaos_services, of a profile or of chaos.service()"
        )
    if len(chosen) != len(given):
        raise ConfigurationError(
            f"target_services={shortened(names)}: {kind.value} needs the names of services; give "
            "them as texts"
        )
    return chosen


def _duration(value: Any) -> float:
    if value == math.inf:
        return math.inf
    duration = seconds("duration", value)
    if duration == 0:
        raise ConfigurationError(
            f"duration={shortened(value)}: an experiment lasts longer than nothing; give more, "
            "such as '5s'"
        )
    return duration

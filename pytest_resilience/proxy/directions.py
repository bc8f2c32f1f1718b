"""Which experiments a proxy can do, and in which direction.

What happens to answers on their way down to the client happens in the same way to requests
on their way up to the server. Only that differs which is about answers themselves: one that
is lost after the server has done its work, or is given in the server's place.
"""

from __future__ import annotations

import dataclasses
import functools

from copy import copy
from typing import Any

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import LostAnswer
from pytest_resilience.chaos.faults.network import Partition
from pytest_resilience.chaos.faults.network import Refusal
from pytest_resilience.chaos.faults.network import ServiceError
from pytest_resilience.chaos.faults.response import MadeUpAnswer
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.types.schema import nearest
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.proxy.toxics.toxic import DOWNSTREAM
from pytest_resilience.proxy.toxics.toxic import STREAMS
from pytest_resilience.proxy.toxics.toxic import UPSTREAM


__all__ = ["BOTH", "directed"]

BOTH = "both"
_UPWARDS = {RECEIVE: SEND, CLOSE: END}  # how the client's part in a conversation is called
_ONE_WAY = (Refusal, LostAnswer, MadeUpAnswer)


def directed(experiment: ChaosExperiment, stream: Any = None) -> ChaosExperiment:
    """The experiment as a proxy does it to a stream: "downstream", "upstream" or "both".

    None: downstream, where answers are, and both for a partition. Raises ConfigurationError
    for another stream, for what cannot be done to bytes that pass by, and for what cannot
    happen to requests.
    """
    if stream not in (None, *STREAMS, BOTH):
        raise ConfigurationError(
            f"stream={shortened(stream)}{nearest(stream, (*STREAMS, BOTH))}: give 'upstream', "
            "'downstream' or 'both'"
        )
    # What callables raise happens where they are called; their hosts are on the wire.
    faults = [fault for fault in experiment.faults if not isinstance(fault, ServiceError)]
    for fault in faults or experiment.faults:
        _approve(experiment, fault, stream)
    turned = tuple(_turn(fault, stream) for fault in faults)
    if turned == experiment.faults:
        return experiment
    chosen = copy(experiment)
    vars(chosen)["faults"] = turned  # where its property keeps them
    return chosen


def _approve(experiment: ChaosExperiment, fault: Fault, stream: str | None) -> None:
    wire = {kind for kind in fault.kinds if kind.startswith("network.") and kind != RESOLVE}
    if not wire:
        raise ConfigurationError(
            f"experiment {experiment.name!r}: {fault} cannot happen in a proxy, which sees "
            "connections and bytes; it can do what network_latency, network_failure and "
            "service_failure do to these, but not to names"
        )
    if stream in (UPSTREAM, BOTH) and isinstance(fault, _ONE_WAY):
        what = "connecting" if isinstance(fault, Refusal) else "answers"
        raise ConfigurationError(
            f"experiment {experiment.name!r}: {fault} happens to {what}; leave out "
            f"stream={stream!r}"
        )


def _turn(fault: Fault, stream: str | None) -> Fault:
    """The fault, as it happens to the operations of a stream."""
    if isinstance(fault, Partition):
        ways = {UPSTREAM: {SEND}, DOWNSTREAM: {RECEIVE}}
        return fault if stream not in ways else _made(fault, frozenset({CONNECT, *ways[stream]}))
    up = frozenset(_UPWARDS[kind] for kind in fault.kinds if kind in _UPWARDS)
    if stream == UPSTREAM:
        return _made(fault, up)
    return _made(fault, fault.kinds | up) if stream == BOTH else fault


def _made(fault: Fault, kinds: frozenset[str]) -> Fault:
    told = {each.name: getattr(fault, each.name) for each in dataclasses.fields(fault)}
    base: type[Any] = type(fault)
    made: Fault = _type(base, kinds)(**told)  # type: ignore[arg-type]  # types are hashable
    return made


@functools.cache
def _type(base: type[Any], kinds: frozenset[str]) -> type[Any]:
    """`base`, happening to other kinds of operation; called what it was called."""
    body = {"kinds": kinds, "__slots__": (), "__module__": base.__module__}
    return type(base.__name__, (base,), body)

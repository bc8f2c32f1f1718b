"""The direction in which a fault happens: to what a client receives, to what it sends, or both."""

from __future__ import annotations

import dataclasses
import functools

from collections.abc import Sequence
from typing import Any
from typing import Final

from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import END
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RECEIVE_DATAGRAM
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.errors import ConfigurationError


__all__ = ["BOTH", "DOWNSTREAM", "STREAMS", "UPSTREAM", "in_stream"]

UPSTREAM: Final = "upstream"  # what the client sends
DOWNSTREAM: Final = "downstream"  # what it receives
BOTH: Final = "both"
STREAMS: Final = (UPSTREAM, DOWNSTREAM, BOTH)

# The same of what the client sends.
_OF_CLIENT = {RECEIVE: SEND, CLOSE: END, RECEIVE_DATAGRAM: SEND_DATAGRAM}
_OTHER_WAY = {UPSTREAM: frozenset(_OF_CLIENT), DOWNSTREAM: frozenset(_OF_CLIENT.values())}
_ELSEWHERE = {CONNECT: "connecting", RESOLVE: "name resolution", CALL: "calls"}


def in_stream(faults: Sequence[Fault], stream: str | None) -> tuple[Fault, ...]:
    """The faults as they happen in a stream, one of `STREAMS`.

    None: downstream, where responses are, and both for a partition and for what only datagrams
    know. Raises ConfigurationError for what has no direction, such as a refusal, and for what
    only responses can have.
    """
    if stream is None:
        return (*faults,)
    return tuple(each for fault in faults for each in _directed(fault, stream))


def _directed(fault: Fault, stream: str) -> list[Fault]:
    if fault.kinds >= DATAGRAMS:  # it happens both ways by itself
        other = _OTHER_WAY.get(stream)
        return [fault if other is None else _of_kinds(fault, fault.kinds - other)]
    sent = frozenset(_OF_CLIENT[kind] for kind in fault.kinds if kind in _OF_CLIENT)
    if stream != DOWNSTREAM and not (sent and fault.has_direction):
        what = "responses" if sent else _ELSEWHERE.get(min(fault.kinds), "no bytes that pass")
        raise ConfigurationError(f"{fault} happens to {what}; leave out stream={stream!r}")
    if stream == DOWNSTREAM:
        return [fault]
    if isinstance(fault, Alteration):  # of whose bytes the protocol is a different one
        upstream = _of_kinds(fault, sent, of_requests=True)
        return [upstream] if stream == UPSTREAM else [fault, upstream]
    return [_of_kinds(fault, sent if stream == UPSTREAM else fault.kinds | sent)]


def _of_kinds(fault: Fault, kinds: frozenset[str], **changed: Any) -> Fault:
    return _made(type(fault), kinds, _values_of(fault) | changed)


def _values_of(fault: Any) -> dict[str, Any]:
    return {each.name: getattr(fault, each.name) for each in dataclasses.fields(fault) if each.init}


def _made(base: type[Any], kinds: frozenset[str], values: dict[str, Any]) -> Fault:
    made: Fault = _subclass(base, kinds)(**values)  # type: ignore[arg-type]  # types are hashable
    return made


@functools.cache
def _subclass(base: type[Any], kinds: frozenset[str]) -> type[Any]:
    """`base`, happening to other kinds of operation. Faults are data: no state is shared."""

    def reduce(fault: Any) -> tuple[Any, ...]:
        """For a child process, which would not find a class that is made here by its name."""
        return _made, (base, kinds, _values_of(fault))

    body = {"kinds": kinds, "__slots__": (), "__module__": base.__module__, "__reduce__": reduce}
    return type(base.__name__, (base,), body)

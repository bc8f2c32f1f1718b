"""The types of toxics, their attributes and units: toxics as data. See `toxic_effects`.

Names, units and defaults of the first seven are those of Toxiproxy, whose clients know them.
"""

from __future__ import annotations

import re

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.experiment_specs import check_name
from pytest_resilience.chaos.parsing.experiment_specs import parse_spec
from pytest_resilience.chaos.parsing.messages import inline
from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.types.schema import DOWNSTREAM
from pytest_resilience.chaos.types.schema import UPSTREAM
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import UnknownNameError


__all__ = ["KINDS", "REFUSE", "STREAMS", "Toxic", "parse_toxic"]

STREAMS = (UPSTREAM, DOWNSTREAM)
REFUSE = "refuse"  # the type of those that happen to a connect, and not to a stream

_Value = float | int | bool
_LARGEST = 2**63 - 1  # Toxiproxy's own numbers are of 64 bits
_WHOLE = re.compile(r"[0-9]{1,40}")  # with zeros in front


def _milliseconds(name: str, value: Any) -> _Value:
    return _plain(quantities.seconds(name, value, bare="ms") * 1e3)


def _microseconds(name: str, value: Any) -> _Value:
    return _plain(quantities.seconds(name, value, bare="us") * 1e6)


def _plain(number: float) -> _Value:
    """A whole number where it is one, as clients in other languages expect."""
    number = round(number, 9)  # 0.1 s is 100 ms, not 100.00000000000001
    return int(number) if number == int(number) else number


def _bytes(name: str, value: Any) -> _Value:
    number = value
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        number = int(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ConfigurationError(f"{name}={shortened(value)}: give a whole number, 0 or more")
    if number > _LARGEST:
        raise ConfigurationError(f"{name}={shortened(value)}: give {_LARGEST} at most")
    return number


def _number(name: str, value: Any) -> _Value:
    return quantities.count(name, _bytes(name, value))


def _rate(name: str, value: Any) -> _Value:
    try:
        number = float(value) if isinstance(value, (str, int, float)) else -1.0
    except (ValueError, OverflowError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        raise ConfigurationError(f"{name}={shortened(value)}: give a number, 0 or more")
    if number > _LARGEST:
        raise ConfigurationError(f"{name}={shortened(value)}: give {_LARGEST} at most")
    return _plain(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """An attribute of a type of toxic.

    Attributes:
        default: what holds when it is not given.
        unit: for people.
        parse: `(name, value) -> value`; raises ConfigurationError.
    """

    default: _Value = 0
    unit: str
    parse: Callable[[str, Any], _Value]


_MS = Attribute(unit="ms", parse=_milliseconds)
_BYTES = Attribute(unit="bytes", parse=_bytes)
_SHARE = Attribute(unit="0..1", parse=quantities.share)
_ANSWER = Attribute(default=1, unit="answer number, from 1", parse=_number)
_RESET = Attribute(default=True, unit="true or false", parse=quantities.switch)

KINDS: dict[str, Mapping[str, Attribute]] = {
    "latency": {"latency": _MS, "jitter": _MS},
    "bandwidth": {"rate": Attribute(unit="KB/s", parse=_rate)},
    "slow_close": {"delay": _MS},
    "timeout": {"timeout": _MS},
    "reset_peer": {"timeout": _MS},
    "slicer": {
        "average_size": _BYTES,
        "size_variation": _BYTES,
        "delay": Attribute(unit="us", parse=_microseconds),
    },
    "limit_data": {"bytes": _BYTES},
    "corrupt": {"share": replace(_SHARE, default=0.01), "skip": _BYTES},
    "truncate": {"share": replace(_SHARE, default=0.5), "answer": _ANSWER},
    "lose_answer": {"answer": _ANSWER, "reset": _RESET},
    REFUSE: {},
}
_OF_RESPONSES = ("truncate", "lose_answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxic:
    """A fault of a share of a proxy's connections.

    Attributes:
        name: of its own within a proxy.
        type: one of `KINDS`.
        stream: the direction it happens to, "upstream" or "downstream".
        toxicity: share of the connections it happens to, 0 to 1; drawn once for each.
        attributes: all that its type has, in Toxiproxy's units.
    """

    name: str
    type: str
    stream: str
    toxicity: float
    attributes: Mapping[str, _Value]

    @classmethod
    def make(
        cls,
        kind: Any,
        attributes: Mapping[str, Any],
        *,
        name: Any = None,
        stream: Any = DOWNSTREAM,
        toxicity: Any = 1.0,
    ) -> Toxic:
        """A toxic from what somebody wrote. Raises ConfigurationError, or UnknownNameError
        for a type that there is not.
        """
        if not isinstance(kind, str) or kind not in KINDS:
            raise UnknownNameError("type of toxic", inline(str(kind)), tuple(KINDS))
        if stream not in STREAMS:
            raise ConfigurationError(
                f"stream={shortened(stream)}{nearest(stream, STREAMS)}: give 'upstream' or "
                "'downstream'"
            )
        if kind in _OF_RESPONSES and stream != DOWNSTREAM:
            raise ConfigurationError(f"{kind} happens to responses; leave out stream={stream!r}")
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise ConfigurationError(f"name={shortened(name)}: give a text without '/', or none")
        if name is not None:
            check_name("a toxic", name)
        return cls(
            name=name or f"{kind}_{stream}",
            type=kind,
            stream=stream,
            toxicity=quantities.share("toxicity", toxicity),
            attributes=_attributes(kind, {}, attributes),
        )

    def changed(self, attributes: Mapping[str, Any], toxicity: Any = None) -> Toxic:
        """The same with some of it changed. Raises ConfigurationError."""
        return replace(
            self,
            toxicity=self.toxicity if toxicity is None else quantities.share("toxicity", toxicity),
            attributes=_attributes(self.type, self.attributes, attributes),
        )

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in self.attributes.items())
        part = "" if self.toxicity == 1 else f", {self.toxicity:.3g} of the connections"
        return f"{self.name}: {self.type} {self.stream}" + (f" {shown}" if shown else "") + part


def _attributes(kind: str, known: Mapping[str, _Value], given: Any) -> dict[str, _Value]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"attributes={shortened(given)}: give a mapping of names to values"
        )
    schema = KINDS[kind]
    for name in given:
        if name not in schema:
            allowed = ", ".join(schema) or "none"
            raise ConfigurationError(
                f"{kind} has no attribute {shortened(name)}{nearest(name, schema)}; it has: "
                + allowed
            )
    values = {name: known.get(name, attribute.default) for name, attribute in schema.items()}
    values |= {name: schema[name].parse(name, value) for name, value in given.items()}
    size, variation = values.get("average_size", 0), values.get("size_variation", 0)
    if variation and variation >= size:
        raise ConfigurationError(
            f"size_variation={variation!r}: give less than average_size, which is {size!r}"
        )
    return values


def parse_toxic(text: str) -> Toxic:
    """A toxic in one line: `latency:latency=100,jitter=20,stream=upstream,toxicity=0.5`."""
    kind, given = parse_spec(text)
    fields = {name: given.pop(name) for name in ("name", "stream", "toxicity") if name in given}
    return Toxic.make(kind, given, **fields)

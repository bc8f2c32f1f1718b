"""What can be wrong with a connection, as data: types, attributes, units.

Names, units and defaults of the first seven are those of Toxiproxy, whose clients know them.
"""

from __future__ import annotations

import re

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import TypeVar

from pytest_resilience.chaos.parsing.quantities import seconds
from pytest_resilience.chaos.parsing.quantities import share
from pytest_resilience.chaos.parsing.quantities import switch
from pytest_resilience.chaos.parsing.spec import parse_spec
from pytest_resilience.chaos.parsing.texts import check_name
from pytest_resilience.chaos.parsing.texts import inline
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.types.schema import nearest
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import UnknownNameError


__all__ = ["DOWNSTREAM", "KINDS", "REFUSE", "STREAMS", "UPSTREAM", "Toxic", "parse_toxic"]

DOWNSTREAM = "downstream"  # from the server to the client
UPSTREAM = "upstream"  # from the client to the server
STREAMS = (UPSTREAM, DOWNSTREAM)
REFUSE = "refuse"  # the type of those that happen to a connect, and not to a stream

Value = float | int | bool
_LARGEST = 2**63 - 1  # what Toxiproxy's own numbers can be
_WHOLE = re.compile(r"[0-9]{1,40}")  # with zeros in front
_Number = TypeVar("_Number", int, float)
_Parse = Callable[[str, Any], Value]


def _milliseconds(name: str, value: Any) -> Value:
    """Milliseconds: a number of them, or a text with a unit, such as '1s'."""
    return _plain(seconds(name, value, bare="ms") * 1e3)


def _microseconds(name: str, value: Any) -> Value:
    return _plain(seconds(name, value, bare="us") * 1e6)


def _plain(number: float) -> Value:
    """A whole number where it is one, as clients in other languages expect."""
    number = round(number, 9)  # 0.1 s is 100 ms, not 100.00000000000001
    return int(number) if number == int(number) else number


def _whole(name: str, value: Any) -> Value:
    number = value
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        number = int(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ConfigurationError(f"{name}={shortened(value)}: give a whole number, 0 or more")
    return _bearable(name, value, number)


def _from_one(name: str, value: Any) -> Value:
    number = _whole(name, value)
    if number < 1:
        raise ConfigurationError(f"{name}={shortened(value)}: give a whole number of at least 1")
    return number


def _amount(name: str, value: Any) -> Value:
    allowed = "give a number, 0 or more"
    try:
        number = float(value) if isinstance(value, (str, int, float)) else -1.0
    except (ValueError, OverflowError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        raise ConfigurationError(f"{name}={shortened(value)}: {allowed}")
    return _plain(_bearable(name, value, number))


def _bearable(name: str, value: Any, number: _Number) -> _Number:
    if number > _LARGEST:
        raise ConfigurationError(f"{name}={shortened(value)}: give {_LARGEST} at most")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Something a type of toxic can be told."""

    default: Value
    unit: str
    parse: _Parse


def _ms(default: Value = 0) -> Attribute:
    return Attribute(default=default, unit="ms", parse=_milliseconds)


def _bytes(default: Value = 0) -> Attribute:
    return Attribute(default=default, unit="bytes", parse=_whole)


def _share(default: float) -> Attribute:
    return Attribute(default=default, unit="0..1", parse=share)


_ANSWER = Attribute(default=1, unit="answer number, from 1", parse=_from_one)

KINDS: dict[str, Mapping[str, Attribute]] = {
    "latency": {"latency": _ms(), "jitter": _ms()},
    "bandwidth": {"rate": Attribute(default=0, unit="KB/s", parse=_amount)},
    "slow_close": {"delay": _ms()},
    "timeout": {"timeout": _ms()},
    "reset_peer": {"timeout": _ms()},
    "slicer": {
        "average_size": _bytes(),
        "size_variation": _bytes(),
        "delay": Attribute(default=0, unit="us", parse=_microseconds),
    },
    "limit_data": {"bytes": _bytes()},
    "corrupt": {"share": _share(0.01), "skip": _bytes()},
    "truncate": {"share": _share(0.5), "answer": _ANSWER},
    "lose_answer": {
        "answer": _ANSWER,
        "reset": Attribute(default=True, unit="true or false", parse=switch),
    },
    REFUSE: {},
}
_ANSWERS = ("truncate", "lose_answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxic:
    """Something that is wrong with a share of a proxy's connections.

    Attributes:
        name: of its own within a proxy.
        type: one of `KINDS`.
        stream: which direction it happens to, "upstream" or "downstream".
        toxicity: share of the connections it happens to, 0 to 1; drawn once for each.
        attributes: what the type can be told, in Toxiproxy's units, all of them.
    """

    name: str
    type: str
    stream: str
    toxicity: float
    attributes: Mapping[str, Value]

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
        if kind in _ANSWERS and stream != DOWNSTREAM:
            raise ConfigurationError(f"{kind} happens to answers; leave out stream={stream!r}")
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise ConfigurationError(f"name={shortened(name)}: give a text without '/', or none")
        if name is not None:
            check_name("a toxic", name)
        return cls(
            name=name or f"{kind}_{stream}",
            type=kind,
            stream=stream,
            toxicity=_toxicity(toxicity),
            attributes=_attributes(kind, {}, attributes),
        )

    def changed(self, attributes: Mapping[str, Any], toxicity: Any = None) -> Toxic:
        """The same with some of it changed. Raises ConfigurationError."""
        return replace(
            self,
            toxicity=self.toxicity if toxicity is None else _toxicity(toxicity),
            attributes=_attributes(self.type, self.attributes, attributes),
        )

    def __str__(self) -> str:
        told = ", ".join(f"{name}={value}" for name, value in self.attributes.items())
        part = "" if self.toxicity == 1 else f", {self.toxicity:.3g} of the connections"
        return f"{self.name}: {self.type} {self.stream}" + (f" {told}" if told else "") + part


def _toxicity(value: Any) -> float:
    return share("toxicity", value)


def _attributes(kind: str, known: Mapping[str, Value], given: Any) -> dict[str, Value]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"attributes={shortened(given)}: give a mapping of names to values"
        )
    there = KINDS[kind]
    for name in given:
        if name not in there:
            allowed = ", ".join(there) or "none"
            raise ConfigurationError(
                f"{kind} has no attribute {shortened(name)}{nearest(name, there)}; it has: "
                + allowed
            )
    values = {name: known.get(name, attribute.default) for name, attribute in there.items()}
    values |= {name: there[name].parse(name, value) for name, value in given.items()}
    if (
        kind == "slicer"
        and values["size_variation"]
        and (values["size_variation"] >= values["average_size"])
    ):
        raise ConfigurationError(
            f"size_variation={values['size_variation']!r}: give less than average_size, "
            f"which is {values['average_size']!r}"
        )
    return values


def parse_toxic(text: str) -> Toxic:
    """A toxic in one line: `latency:latency=100,jitter=20,stream=upstream,toxicity=0.5`."""
    kind, given = parse_spec(text)
    fields = {name: given.pop(name) for name in _fields(given)}
    return Toxic.make(kind, given, **fields)


def _fields(given: Iterable[str]) -> list[str]:
    return [name for name in ("name", "stream", "toxicity") if name in given]

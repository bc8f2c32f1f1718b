"""The parameters of a chaos type, and how they become faults, in a direction, and a trigger."""

from __future__ import annotations

import dataclasses
import functools
import math

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
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
from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.http_requests import parse_request_filter
from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.parsing.quantities import DISTRIBUTIONS
from pytest_resilience.chaos.parsing.quantities import DelayDistribution
from pytest_resilience.chaos.parsing.quantities import make_distribution
from pytest_resilience.chaos.parsing.targets import parse_targets
from pytest_resilience.chaos.triggers import Between
from pytest_resilience.chaos.triggers import Every
from pytest_resilience.chaos.triggers import First
from pytest_resilience.chaos.triggers import From
from pytest_resilience.chaos.triggers import Nth
from pytest_resilience.chaos.triggers import Rate
from pytest_resilience.chaos.triggers import Trigger
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "BOTH", "CHILDREN_PARAMETER", "DELAY_NAMES", "DOWNSTREAM", "REQUEST_PARAMETERS", "STREAMS",
    "STREAM_PARAMETER", "TARGET_PARAMETERS", "UPSTREAM", "Parameter", "TypeSchema",
    "delay_parameters", "distribution_of", "in_stream", "mode_of", "one_of",
    "several_of", "trigger_parameters",
]  # fmt: skip

_OF_ALL_TYPES = ("duration", "enabled", "intensity", "name", "probability")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a chaos type.

    Attributes:
        name: as it is written in markers, flags and profiles.
        unit: of its values, for people.
        default: for people.
        help: its effect, in one phrase.
        parse: `(name, value) -> value`; raises ConfigurationError.
    """

    name: str
    unit: str
    default: str
    help: str
    parse: Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeSchema:
    """How a chaos type becomes faults.

    Attributes:
        summary: its effect, in one phrase.
        parameters: in the order in which they are shown.
        faults: `(given parameters, intensity) -> faults`.
        rate: `(given parameters, intensity) -> share of the matching operations hit`, where
            no parameter says how many of them, or which; by default all are.
        read_elsewhere: parameters that the experiment itself reads: only shown.
    """

    summary: str
    parameters: tuple[Parameter, ...]
    faults: Callable[[Mapping[str, Any], float], tuple[Fault, ...]]
    rate: Callable[[Mapping[str, Any], float], float] = lambda _given, _intensity: 1.0
    read_elsewhere: tuple[Parameter, ...] = ()

    @property
    def shown(self) -> tuple[Parameter, ...]:
        """The parameters that users can give, in the order in which they are shown."""
        return (*self.read_elsewhere, *self.parameters)

    @property
    def aimed_with(self) -> str:
        """The parameter that says whose operations are meant; "" if there is none."""
        shown = {each.name for each in self.shown}
        return next((each for each in _WHOSE if each in shown), "")

    def parse(self, given: Mapping[str, Any], others: Mapping[str, TypeSchema]) -> dict[str, Any]:
        """The parameters given, checked. Raises ConfigurationError for the first bad one.

        `others`: the chaos types that there are, by name, for who takes one for another.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        parsed = {}
        for name, value in given.items():
            if name not in known:
                allowed = sorted({*(each.name for each in self.shown), *_OF_ALL_TYPES})
                raise ConfigurationError(
                    f"unknown parameter {shortened(name)}{self._meant(name, allowed, others)}; "
                    f"allowed: {', '.join(allowed)}"
                )
            parsed[name] = known[name].parse(name, value)
        return parsed

    def _meant(self, name: object, allowed: Iterable[str], others: Mapping[str, TypeSchema]) -> str:
        """What may be meant by a parameter that the type does not have: ' (did you mean …?)'.

        Or which types have it.
        """
        if self.aimed_with and name in _WHOSE + _WHOSE_ELSEWHERE:
            return f" (did you mean {self.aimed_with!r}?)"
        having = [
            kind
            for kind, schema in others.items()
            if any(name == each.name for each in schema.shown)
        ]
        return f", which is for {', '.join(having)}" if having else nearest(name, allowed)

    def triggers(self, given: Mapping[str, Any], intensity: float) -> tuple[Trigger, ...]:
        """Which operations are hit, from parsed parameters.

        Raises ConfigurationError for parameters that no operation can fulfil together.
        """
        _check_numbers(given)
        # Who chooses operations wants each of them hit.
        usual = 1.0 if _CHOOSING & given.keys() else self.rate(given, intensity)
        rate = given.get("rate", usual)
        chosen: list[Trigger] = [] if rate == 1 else [Rate(rate)]
        chosen += [make(given[name]) for name, make in _COUNTED.items() if name in given]
        if "between" in given:
            chosen.append(Between(*given["between"]))
        return tuple(chosen)


_WHOSE = ("target", "path", "database", "target_services")  # whose operations are meant
_WHOSE_ELSEWHERE = ("file", "files", "folder", "host", "hosts", "service", "services", "url")

_COUNTED: dict[str, Callable[[int], Trigger]] = {
    "nth": Nth,
    "first": First,
    "from_nth": From,
    "every": Every,
}
_CHOOSING = frozenset({*_COUNTED, "between"})


def _check_numbers(given: Mapping[str, Any]) -> None:
    least = max(given.get("nth", 1), given.get("from_nth", 1))
    most = min(given.get("nth", math.inf), given.get("first", math.inf))
    step = given.get("every", 1)
    if -(-least // step) * step > most:  # the least multiple of it
        said = ", ".join(f"{name}={given[name]}" for name in _COUNTED if name in given)
        raise ConfigurationError(f"{said}: no operation has a number that fits all; leave one out")


REQUEST_PARAMETERS = (
    Parameter(
        name="method", unit="GET, POST, …, several between |", default="any",
        parse=parse_request_filter, help="only requests of HTTP with this method",
    ),
    Parameter(
        name="path", unit="glob, several between |", default="any",
        parse=parse_request_filter,
        help="only requests for these paths, without the query, as they are sent "
        "or with %20 read as a space; * stands for / as well",
    ),
    Parameter(
        name="header", unit="name, or name: glob of its value, several between |", default="any",
        parse=parse_request_filter, help="only requests with this header",
    ),
    Parameter(
        name="rpc", unit="service/method, globs, several between |", default="any",
        parse=parse_request_filter, help="only calls of gRPC of this method",
    ),
)  # fmt: skip

TARGET_PARAMETERS = (
    Parameter(
        name="target",
        unit="host, host:port, globs, several between |; !excluded, ports 80-90, connection #2",
        default="every client connection",
        help="whose operations are meant",
        parse=lambda _name, value: parse_targets(value),
    ),
)


def trigger_parameters(rate: str) -> tuple[Parameter, ...]:
    """The parameters that choose among the matching operations; `rate` is its default."""
    number = "operation number, from 1"
    return (
        Parameter(
            name="rate", unit="0..1 or %", default=rate, parse=quantities.share,
            help="share of the matching operations hit; 1 where one of the next five chooses them",
        ),
        Parameter(
            name="nth", unit=number, default="any", parse=quantities.count,
            help="only the operation of this number",
        ),
        Parameter(
            name="first", unit="operations", default="all", parse=quantities.count,
            help="only the first so many: the fault goes away",
        ),
        Parameter(
            name="from_nth", unit=number, default="1", parse=quantities.count,
            help="only from this one on: the fault stays",
        ),
        Parameter(
            name="every", unit="operations", default="1", parse=quantities.count,
            help="only one in so many, at fixed steps",
        ),
        Parameter(
            name="between", unit="seconds..seconds", default="always", parse=quantities.interval,
            help="only in this window since the experiment began",
        ),
    )  # fmt: skip


DELAY_NAMES = ("delay", "jitter", "distribution", "p99")  # of `delay_parameters`


def delay_parameters(default: str, what: str) -> tuple[Parameter, ...]:
    """The parameters of a delay; `default` and `what` it does are of `delay` itself."""
    unit = "seconds, or us, ms, s, m, h"
    return (
        Parameter(name="delay", unit=unit, default=default, parse=quantities.seconds, help=what),
        Parameter(
            name="jitter", unit=unit, default="none", parse=quantities.seconds,
            help="delays differ by so much (uniform), or have this standard deviation (normal)",
        ),
        Parameter(
            name="distribution", unit=", ".join(DISTRIBUTIONS), default="uniform, with jitter",
            parse=one_of(DISTRIBUTIONS), help="how delays differ",
        ),
        Parameter(
            name="p99", unit=unit, default="none", parse=quantities.seconds,
            help="99th percentile, where delay is the median (lognormal) or the least (pareto)",
        ),
    )  # fmt: skip


def distribution_of(given: Mapping[str, Any], delay: float) -> DelayDistribution | None:
    """The distribution of delays; None for a constant one. Raises ConfigurationError."""
    if given.get("delay") == 0 and not given.get("jitter"):
        raise ConfigurationError("delay=0: nothing would be late; give more")
    jitter, kind, p99 = (given.get(name) for name in ("jitter", "distribution", "p99"))
    return make_distribution(delay, jitter, kind, p99)


def one_of(allowed: Iterable[str], **elsewhere: Iterable[str]) -> Callable[[str, Any], str]:
    """A parser for a parameter that is one of some words.

    `elsewhere`: other types, with the words that it can be there.
    """
    words = tuple(allowed)

    def parse(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            there = [kind for kind, others in elsewhere.items() if value in (*others,)]
            guess = f" is one of {there[0]}" if there else nearest(value, words)
            raise ConfigurationError(
                f"{name}={shortened(value)}{guess}: give one of {', '.join(map(repr, words))}"
            )
        return value

    return parse


def several_of(allowed: Iterable[str]) -> Callable[[str, Any], tuple[str, ...]]:
    """A parser for a parameter that is some of some words, between `|`."""
    parse_one = one_of(allowed)

    def parse(name: str, value: Any) -> tuple[str, ...]:
        texts = [each.strip() for each in value.split("|")] if isinstance(value, str) else [value]
        return tuple(parse_one(name, each) for each in texts)

    return parse


def mode_of(
    given: Mapping[str, Any], modes_of: Mapping[str, tuple[str, ...]], *, otherwise: str
) -> str:
    """The mode that is given, or implied by another parameter; else `otherwise`.

    `modes_of` has the modes that a parameter belongs to, the one that it implies first.
    Raises ConfigurationError for a parameter of another mode.
    """
    relevant = {name: modes for name, modes in modes_of.items() if name in given}
    mode = str(given.get("mode") or next((modes[0] for modes in relevant.values()), otherwise))
    for name, modes in relevant.items():
        if mode not in modes:
            allowed = " or ".join(map(repr, modes))
            raise ConfigurationError(f"mode={mode!r}: {name} is for mode={allowed}")
    return mode


UPSTREAM: Final = "upstream"  # what the client sends
DOWNSTREAM: Final = "downstream"  # what it receives
BOTH: Final = "both"
STREAMS: Final = (UPSTREAM, DOWNSTREAM, BOTH)

# The same of what the client sends.
_OF_CLIENT = {RECEIVE: SEND, CLOSE: END, RECEIVE_DATAGRAM: SEND_DATAGRAM}
_OTHER_WAY = {UPSTREAM: frozenset(_OF_CLIENT), DOWNSTREAM: frozenset(_OF_CLIENT.values())}
_ELSEWHERE = {CONNECT: "connecting", RESOLVE: "name resolution", CALL: "calls"}

STREAM_PARAMETER = Parameter(
    name="stream",
    unit=", ".join(STREAMS),
    default="downstream (partition, drop, duplicate, reorder: both)",
    parse=one_of(STREAMS),
    help="whether it happens to what is received, to what is sent, or to both",
)

CHILDREN_PARAMETER = Parameter(
    name="children",
    unit="true or false",
    default="true",
    parse=quantities.switch,
    help="whether it happens in the Python processes too that the test starts",
)


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


# Parameters of the experiment itself: named to users who have misspelt one.

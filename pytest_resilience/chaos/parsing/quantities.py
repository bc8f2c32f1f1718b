"""Physical quantities as people write them, '200ms', '30%', 3, and how delays around one differ.

And how far an exploration goes, as flags, marks and profiles say it in texts and numbers.

Each distribution of delays is sampled through its quantile function, so one number of a seeded
stream is one delay.
"""

from __future__ import annotations

import math
import re

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "DISTRIBUTIONS",
    "Amount",
    "Budget",
    "DelayDistribution",
    "MaxCalls",
    "amount",
    "count",
    "deadline",
    "format_bytes",
    "format_seconds",
    "interval",
    "make_distribution",
    "period",
    "read_budget",
    "read_depth",
    "read_max_calls",
    "seconds",
    "seed",
    "share",
    "size",
    "switch",
]

_SEEDS = 2**64
_DIGITS = 40  # of a seed, with zeros in front
_LONGEST = 3.6e9  # seconds: the system can wait for three times as long, not for ever
_SHORTEST = 0.99e-4  # seconds, 100us however it is rounded: more often, nothing else is done
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_WORDS = {"us": "microseconds", "ms": "milliseconds", "s": "seconds"}
_BYTES = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TEXT_OF_BYTES = f"a text with {', '.join(_BYTES)}"
_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_QUANTITY = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?nan|[+-]?inf)\s*(\S*)", re.IGNORECASE
)


def _split(name: str, value: Any, allowed: str) -> tuple[float, str]:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConfigurationError(f"{name}={shortened(value)} is no quantity; {allowed}")
    if not isinstance(value, str):
        try:
            return float(value), ""
        except OverflowError:  # an int of more than 308 digits
            return math.inf, ""
    found = _QUANTITY.fullmatch(value.strip())
    if found is None:
        raise ConfigurationError(f"{name}={shortened(value)} is no quantity; {allowed}")
    return float(found[1]), found[2]


def seconds(name: str, value: Any, *, bare: str = "s") -> float:
    """A duration: a text with a unit of us, ms, s, m or h, or a number of the unit `bare`."""
    allowed = f"give {_WORDS[bare]}, or a text with us, ms, s, m or h, such as '200ms'"
    number, unit = _split(name, value, allowed)
    if unit and unit not in _SECONDS:
        raise ConfigurationError(
            f"{name}={shortened(value)}: {shortened(unit)} is no unit of time; {allowed}"
        )
    duration = number * _SECONDS[unit or bare]
    if not 0 <= duration < math.inf:
        raise ConfigurationError(
            f"{name}={shortened(value)}: a duration is finite and not negative; {allowed}"
        )
    if duration > _LONGEST:
        raise ConfigurationError(
            f"{name}={shortened(value)}: a duration is at most 1000000h; give less"
        )
    return duration


def deadline(name: str, value: Any) -> float:
    """A duration after which something is over, which takes some time."""
    duration = seconds(name, value)
    if not duration:
        raise ConfigurationError(
            f"{name}={shortened(value)}: give more than nothing, such as '10s'"
        )
    return duration


def period(name: str, value: Any) -> float:
    """A duration after which something comes again and again."""
    duration = seconds(name, value)
    if duration < _SHORTEST:
        raise ConfigurationError(f"{name}={shortened(value)}: give 100us or more")
    return duration


def share(name: str, value: Any) -> float:
    """A part of a whole: 0 to 1, or a text such as '30%'."""
    allowed = "give a number from 0 to 1, or a percentage such as '30%'"
    number, unit = _split(name, value, allowed)
    if unit not in ("", "%"):
        raise ConfigurationError(
            f"{name}={shortened(value)}: {shortened(unit)} is no unit of a share; {allowed}"
        )
    part = number / 100 if unit else number
    if not 0 <= part <= 1:
        raise ConfigurationError(f"{name}={shortened(value)} is outside 0..1; {allowed}")
    return part


@dataclass(frozen=True, slots=True)
class Amount:
    """So many bytes, or a share (0 to 1) of however many there are."""

    bytes: int | None = None
    share: float | None = None

    def of(self, whole: int) -> int:
        """In bytes, where `whole` is what there is."""
        return self.bytes if self.bytes is not None else int(whole * (self.share or 0.0))

    def __str__(self) -> str:
        return (
            f"{(self.share or 0.0) * 100:.3g}%" if self.bytes is None else format_bytes(self.bytes)
        )


def amount(name: str, value: Any) -> Amount:
    """Bytes: a whole number, a text with a unit such as '64MiB', or a share such as '10%'."""
    if isinstance(value, Amount):
        return value
    allowed = f"give bytes, {_TEXT_OF_BYTES}, or a share such as '10%'"
    if _split(name, value, allowed)[1] == "%":
        return Amount(share=share(name, value))
    return Amount(bytes=_bytes(name, value, allowed))


def size(name: str, value: Any) -> int:
    """Bytes, as `amount` takes them, but for a share."""
    return _bytes(name, value, f"give bytes, or {_TEXT_OF_BYTES}")


def _bytes(name: str, value: Any, allowed: str) -> int:
    number, unit = _split(name, value, allowed)
    if unit and unit not in _BYTES:
        raise ConfigurationError(
            f"{name}={shortened(value)}: {shortened(unit)} is no unit of bytes; {allowed}"
        )
    found = number * _BYTES[unit or "B"]
    if not 0 <= found < math.inf or found != found // 1:
        raise ConfigurationError(
            f"{name}={shortened(value)}: a size is a whole number, 0 or more; {allowed}"
        )
    return int(found)


def switch(name: str, value: Any) -> bool:
    """True or False, or a text that says so."""
    found = _SWITCH.get(str(value).lower()) if isinstance(value, (bool, str)) else None
    if found is None:
        raise ConfigurationError(f"{name}={shortened(value)}: give true or false")
    return found


def count(name: str, value: Any, *, least: int = 1) -> int:
    """A whole number of at least `least`."""
    allowed = f"give a whole number of at least {least}"
    number, unit = _split(name, value, allowed)
    if unit or number < least or number != number // 1 or math.isinf(number):
        raise ConfigurationError(f"{name}={shortened(value)}: {allowed}")
    return int(number)


def seed(name: str, value: Any) -> int:
    """A seed: a whole number below 2^64, or its digits as a text."""
    number = value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _DIGITS:
        number = int(value)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < _SEEDS:
        raise ConfigurationError(
            f"{name}={shortened(value)}: give a whole number from 0 to {_SEEDS - 1}"
        )
    return number


def interval(name: str, value: Any) -> tuple[float, float]:
    """Two durations: a pair, or a text such as '1s..3s'."""
    ends = value.split("..") if isinstance(value, str) else value
    if not isinstance(ends, (tuple, list)) or len(ends) != 2:
        raise ConfigurationError(
            f"{name}={shortened(value)}: give a start and an end, such as '1s..3s'"
        )
    try:
        start, end = seconds("start", ends[0]), seconds("end", ends[1])
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}={shortened(value)}: {error}") from None
    if not start < end:
        raise ConfigurationError(
            f"{name}={shortened(value)}: the end must come after the start; give the earlier first"
        )
    return start, end


def format_seconds(value: float) -> str:
    """A duration for people: '200ms', '1.5s', '0s'."""
    if 0 < value < 1e-3:
        return f"{value * 1e6:.3g}us"
    if 0 < value < 1:
        return f"{value * 1e3:.4g}ms"
    return f"{value:.6g}s"


def format_bytes(value: float) -> str:
    """A size for people: '512 B', '1.5 GiB', '64 kB'; what was asked for reads as it was asked."""
    binary, decimal = _in_units(value, _BINARY), _in_units(value, _DECIMAL)
    exact = [each for each in (binary, decimal) if each[1] == value]
    if not exact and value == value // 1 < _EXACT:
        return f"{value:.0f} B"
    return min(exact or [binary], key=lambda each: len(each[0].split()[0]))[0]


def _in_units(value: float, units: dict[str, int]) -> tuple[str, float]:
    """A text in four digits, and the size that it says."""
    unit, size = next((each for each in units.items() if abs(value) >= each[1]), ("B", 1))
    number = f"{value / size:.4g}"
    return f"{number} {unit}", float(number) * size


_BINARY = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_DECIMAL = {"GB": 1000**3, "MB": 1000**2, "kB": 1000}
_EXACT: Final = 100_000  # bytes; of more nobody reads each


DISTRIBUTIONS = ("uniform", "normal", "lognormal", "pareto")
_Z99 = NormalDist().inv_cdf(0.99)
_LAST = 1 - 2.0**-53  # no quantile of 1: some distributions have no end


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayDistribution:
    """Delays around `delay` seconds.

    uniform: `delay` +- `jitter`. normal: mean `delay`, standard deviation `jitter`, never
    negative. lognormal: median `delay`, 99th percentile `p99`. pareto: least `delay`, 99th
    percentile `p99`, which makes the shape log(100) / log(p99 / delay).
    """

    kind: str
    delay: float
    jitter: float = 0.0
    p99: float = 0.0

    def at(self, share: float) -> float:
        """The delay that a `share` (0 to 1) of all delays do not exceed, in seconds."""
        share = min(share, _LAST)
        if self.kind == "uniform":
            return max(0.0, self.delay + (2 * share - 1) * self.jitter)
        if self.kind == "normal":
            return max(0.0, self.delay + _z(share) * self.jitter)
        if self.kind == "lognormal":
            return self.delay * math.exp(_z(share) / _Z99 * math.log(self.p99 / self.delay))
        shape = math.log(100) / math.log(self.p99 / self.delay)
        return self.delay * math.pow(1 - share, -1 / shape)

    def __str__(self) -> str:
        if self.p99:
            return f", {self.kind} with p99 {format_seconds(self.p99)}"
        return f" +- {format_seconds(self.jitter)}" + (" (normal)" if self.kind == "normal" else "")


def _z(share: float) -> float:
    return NormalDist().inv_cdf(max(share, 2.0**-53))


def make_distribution(
    delay: float, jitter: float | None, distribution: str | None, p99: float | None
) -> DelayDistribution | None:
    """None where every delay is the same. Raises ConfigurationError for a contradiction."""
    kind = distribution or ("uniform" if jitter is not None else None)
    if kind is None:
        if p99 is not None:
            raise ConfigurationError(
                "p99 needs distribution='lognormal' or 'pareto'; write one, or leave p99 out"
            )
        return None
    if kind in ("uniform", "normal"):
        if p99 is not None or jitter is None:
            raise ConfigurationError(
                f"distribution={shortened(kind)} needs jitter, and no p99; write jitter='50ms', "
                "say, and leave p99 out"
            )
        return DelayDistribution(kind=kind, delay=delay, jitter=jitter)
    if jitter is not None or p99 is None or not p99 > delay > 0:
        raise ConfigurationError(
            f"distribution={shortened(kind)} needs a delay above 0, a p99 above that, and no jitter"
        )
    return DelayDistribution(kind=kind, delay=delay, p99=p99)


_MOST_DEPTH: Final = 4
_TIMES = re.compile(r"(\d{1,6})x")
_BUDGET: Final = "give runs such as 200, seconds such as '30s', or one of each"


class Budget(NamedTuple):
    """How much may be spent on a test.

    Attributes:
        runs: at most; None for any number.
        seconds: at most; None for any time.
    """

    runs: int | None
    seconds: float | None


class MaxCalls(NamedTuple):
    """How many operations of one kind on one target are no storm.

    Attributes:
        times: as many times the most that there are of any without faults; None for a number.
        number: that one; 0 where there is none.
    """

    times: int | None
    number: int


def read_depth(name: str, value: Any) -> int:
    """How many faults at once. Raises ConfigurationError."""
    depth = count(name, value, least=0)
    if not depth:
        raise ConfigurationError(
            f"{name}={shortened(value)}: without a fault there is nothing to explore; give 1 or "
            "more"
        )
    if depth > _MOST_DEPTH:
        raise ConfigurationError(
            f"{name}={shortened(value)}: {_MOST_DEPTH} faults at once at most; what fails with "
            "more mostly fails with two"
        )
    return depth


def read_budget(name: str, value: Any) -> Budget:
    """Runs as a whole number, seconds as a text such as "30s"; or one of each, in a list.

    Where only seconds are given, they are the only limit. Raises ConfigurationError.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    read = [_read_limit(name, each) for each in values]
    runs = [each for each in read if isinstance(each, int)]
    seconds = [each for each in read if isinstance(each, float)]
    if not read or runs[1:] or seconds[1:]:
        raise ConfigurationError(f"{name}={shortened(value)}: {_BUDGET}")
    return Budget(runs[0] if runs else None, seconds[0] if seconds else None)


def _read_limit(name: str, value: Any) -> int | float:
    """Runs as an int, seconds as a float."""
    given = value
    if isinstance(value, str) and value.strip().isdigit() and not value.isascii():
        given = None  # the digits of other scripts
    try:
        if isinstance(given, int) or (isinstance(given, str) and given.strip().isdigit()):
            limit: int | float = count(name, given, least=0)
        else:
            limit = seconds(name, given)
    except ConfigurationError:
        raise ConfigurationError(f"{name}={shortened(value)} is no budget; {_BUDGET}") from None
    if not limit:
        raise ConfigurationError(
            f"{name}={shortened(value)}: a budget of nothing explores nothing; {_BUDGET}"
        )
    return limit


def read_max_calls(name: str, value: Any) -> MaxCalls:
    """A number, or "4x" for four times as many as without faults. Raises ConfigurationError."""
    times = _TIMES.fullmatch(value) if isinstance(value, str) else None
    if times is not None and int(times[1]):
        return MaxCalls(int(times[1]), 0)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return MaxCalls(None, value)
    raise ConfigurationError(
        f"{name}={shortened(value)}: give a number from 1 of operations of one kind on one "
        "target, or '4x' for four times those that the test does without faults"
    )

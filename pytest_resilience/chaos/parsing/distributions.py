"""Distributions of delays, drawn from uniform numbers.

Each is sampled through its quantile function, so one number of a seeded stream is one delay.
"""

from __future__ import annotations

import math

from dataclasses import dataclass
from statistics import NormalDist

from pytest_resilience.chaos.parsing.quantities import format_seconds
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = ["DISTRIBUTIONS", "DelayDistribution", "make_distribution"]

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

"""How delays differ: against the definitions of the distributions."""

from __future__ import annotations

import statistics

from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.parsing.distributions import make_distribution


SHARES = [(number + 0.5) / 10_000 for number in range(10_000)]
DELAYS = st.floats(1e-4, 10)


def sample(
    delay: float, jitter: float | None = None, kind: str | None = None, p99: float | None = None
) -> list[float]:
    distribution = make_distribution(delay, jitter, kind, p99)
    assert distribution is not None
    return [distribution.at(share) for share in SHARES]


def test_uniform() -> None:
    found = sample(0.2, 0.05)
    assert min(found) == pytest.approx(0.15, abs=1e-3)
    assert max(found) == pytest.approx(0.25, abs=1e-3)
    assert statistics.fmean(found) == pytest.approx(0.2)


def test_normal() -> None:
    found = sample(0.2, 0.05, "normal")
    assert statistics.fmean(found) == pytest.approx(0.2, rel=0.01)
    assert statistics.stdev(found) == pytest.approx(0.05, rel=0.01)
    assert min(sample(0.01, 0.05, "normal")) == 0


@given(delay=DELAYS, more=st.floats(1.1, 50))
def test_lognormal_by_median_and_p99(delay: float, more: float) -> None:
    distribution = make_distribution(delay, None, "lognormal", delay * more)
    assert distribution is not None
    assert distribution.at(0.5) == pytest.approx(delay)
    assert distribution.at(0.99) == pytest.approx(delay * more)


@given(delay=DELAYS, more=st.floats(1.1, 50))
def test_pareto_by_least_and_p99(delay: float, more: float) -> None:
    distribution = make_distribution(delay, None, "pareto", delay * more)
    assert distribution is not None
    assert distribution.at(0) == pytest.approx(delay)
    assert distribution.at(0.99) == pytest.approx(delay * more)


@given(
    kind=st.sampled_from(["uniform", "normal", "lognormal", "pareto"]),
    first=st.floats(0, 1),
    second=st.floats(0, 1),
)
def test_never_negative_and_never_falling(kind: str, first: float, second: float) -> None:
    wide = kind in ("uniform", "normal")
    distribution = make_distribution(1.0, 3.0 if wide else None, kind, None if wide else 3.0)
    assert distribution is not None
    low, high = sorted([first, second])
    assert 0 <= distribution.at(low) <= distribution.at(high) < float("inf")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"p99": "1s"}, "write one, or leave p99 out"),
        ({"distribution": "normal"}, "'normal' needs jitter, and no p99; write jitter="),
        ({"distribution": "uniform", "jitter": 1, "p99": 2}, "'uniform' needs jitter"),
        ({"distribution": "lognormal"}, "needs a delay above 0, a p99 above that"),
        ({"distribution": "pareto", "p99": "1ms"}, "needs a delay above 0, a p99 above that"),
        ({"distribution": "lognormal", "p99": 2, "jitter": 1}, "and no jitter"),
        ({"distribution": "gauss"}, "give one of 'uniform', 'normal'"),
        ({"jitter": -1}, "not negative"),
    ],
)
@pytest.mark.parametrize("kind", ["network_latency", "database_slowdown"])
def test_contradictions(kind: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ChaosExperiment("x", kind, **{"delay": "200ms", **parameters})


def test_in_words() -> None:
    assert str(make_distribution(0.2, 0.05, None, None)) == " +- 50ms"
    assert str(make_distribution(0.2, 0.05, "normal", None)) == " +- 50ms (normal)"
    assert str(make_distribution(0.2, None, "pareto", 1.0)) == ", pareto with p99 1s"

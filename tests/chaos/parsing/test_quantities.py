"""How delays differ: against the definitions of the distributions."""

from __future__ import annotations

import math
import statistics

from typing import Any

import pytest

from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.parsing.quantities import amount
from pytest_resilience.chaos.parsing.quantities import count
from pytest_resilience.chaos.parsing.quantities import deadline
from pytest_resilience.chaos.parsing.quantities import format_bytes
from pytest_resilience.chaos.parsing.quantities import format_seconds
from pytest_resilience.chaos.parsing.quantities import interval
from pytest_resilience.chaos.parsing.quantities import make_distribution
from pytest_resilience.chaos.parsing.quantities import seconds
from pytest_resilience.chaos.parsing.quantities import share


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, 2.0),
        (0.2, 0.2),
        ("0.2", 0.2),
        ("200ms", 0.2),
        ("200 ms", 0.2),
        ("1e3us", 0.001),
        ("5µs", 5e-6),
        (".5s", 0.5),
        ("2m", 120.0),
        ("2min", 120.0),
        ("1h", 3600.0),
        (0, 0.0),
    ],
)
def test_seconds(value: Any, expected: float) -> None:
    assert seconds("delay", value) == pytest.approx(expected)


@given(st.floats(0, 1e6, allow_nan=False))
def test_what_is_shown_reads_back(value: float) -> None:
    assert seconds("delay", format_seconds(value)) == pytest.approx(value, rel=1e-2, abs=1e-9)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (-1, "delay=-1: a duration is finite and not negative"),
        ("-1ms", "a duration is finite and not negative"),
        (math.nan, "a duration is finite and not negative"),
        ("nan", "a duration is finite and not negative"),
        (math.inf, "a duration is finite and not negative"),
        ("1e308h", "a duration is finite and not negative"),
        (10**400, "a duration is finite and not negative"),
        (
            "3 parsecs",
            "'parsecs' is no unit of time; give seconds, or a text with us, ms, s, m or h",
        ),
        ("fast", "delay='fast' is no quantity"),
        ("", "is no quantity"),
        (None, "delay=None is no quantity"),
        (True, "delay=True is no quantity"),
    ],
)
def test_no_seconds(value: Any, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        seconds("delay", value)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (1, 1), ("30%", 0.3), (0.25, 0.25), ("100%", 1), ("0.5", 0.5)]
)
def test_share(value: Any, expected: float) -> None:
    assert share("rate", value) == expected


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1.5, "rate=1.5 is outside 0..1; give a number from 0 to 1, or a percentage such as '30%'"),
        (-0.1, "is outside 0..1"),
        ("101%", "is outside 0..1"),
        (math.nan, "is outside 0..1"),
        ("3s", "'s' is no unit of a share"),
    ],
)
def test_no_share(value: Any, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        share("rate", value)
    assert why in str(caught.value)


@given(
    st.one_of(st.text(), st.floats(), st.integers(), st.none(), st.booleans(), st.binary()),
    st.sampled_from([seconds, share, count, interval]),
)
@example("0" * 199 + ":", seconds)
def test_anything_is_a_quantity_or_refused_in_words(value: Any, read: Any) -> None:
    refused = f"name={shortened(value)}"
    try:
        read("name", value)
    except ConfigurationError as error:
        refused = str(error)
    assert refused.startswith(f"name={shortened(value)}")


@given(st.one_of(st.floats(0, 3.6e9), st.integers(0, 10**9)), st.sampled_from(["us", "ms", "s"]))
def test_numbers_with_units(number: float, unit: str) -> None:
    factor = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
    assert seconds("delay", f"{number!r}{unit}") == pytest.approx(number * factor)
    assert seconds("delay", number, bare=unit) == pytest.approx(number * factor)


@pytest.mark.parametrize("value", [3.7e9, "1000001h", 1e308, 10**300])
def test_a_duration_that_nothing_can_wait_for(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="a duration is at most 1000000h"):
        seconds("delay", value)
    assert seconds("delay", "1000000h") == 3.6e9


@pytest.mark.parametrize("value", [0, -1, 1.5, "2s", math.inf, math.nan, "many", 10**400])
def test_no_count(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="give a whole number of at least 1"):
        count("nth", value)


@pytest.mark.parametrize("value", [0, "0s", "0ms"])
def test_no_deadline(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="give more than nothing, such as '10s'"):
        deadline("deadline", value)


def test_counts() -> None:
    assert [count("nth", value) for value in (1, "7", 3.0)] == [1, 7, 3]


def test_intervals() -> None:
    assert interval("between", "500ms..3s") == interval("between", (0.5, 3)) == (0.5, 3.0)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("3s", "give a start and an end, such as '1s..3s'"),
        ((1, 2, 3), "give a start and an end"),
        (5, "give a start and an end"),
        ("3s..1s", "the end must come after the start"),
        ("1s..x", "between='1s..x': end='x' is no quantity"),
        ((-1, 2), "between=(-1, 2): start=-1: a duration is finite and not negative"),
    ],
)
def test_no_interval(value: Any, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        interval("between", value)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1, "1 B"), (5000, "5 kB"), (5001, "5.001 kB"), (23_457, "23457 B"),
        (64_000, "64 kB"),
        (1_500_000, "1.5 MB"), (2_000_000_000, "2 GB"), (1024, "1 KiB"), (1536, "1.5 KiB"),
        (4 << 20, "4 MiB"), (123_457, "120.6 KiB"), (1.5 * 2**30 + 1, "1.5 GiB"),
    ],
)  # fmt: skip
def test_a_size_reads_as_it_was_asked_for(size: float, text: str) -> None:
    assert format_bytes(size) == text


@given(size=st.integers(1, 2**40), unit=st.sampled_from(["B", "kB", "MB", "GB", "KiB", "MiB"]))
def test_a_size_that_is_shown_is_the_one_that_was_meant(size: int, unit: str) -> None:
    meant = amount("size", f"{size % 1000 + 1}{unit}").bytes
    assert meant is not None
    number, _, shown_in = format_bytes(meant).partition(" ")
    shown = float(number) * (amount("size", f"1{shown_in}").bytes or 0)
    assert abs(shown - meant) <= meant * 1e-3


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

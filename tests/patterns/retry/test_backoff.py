from __future__ import annotations

import random

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ManualClock
from pytest_resilience import RetryBudget
from pytest_resilience.patterns.retry.delays import JITTERS
from pytest_resilience.patterns.retry.delays import Jitter
from pytest_resilience.patterns.retry.delays import backoff
from pytest_resilience.patterns.retry.delays import parse_retry_after
from pytest_resilience.patterns.retry.delays import retry_after_of
from pytest_resilience.patterns.retry.delays import with_jitter


def test_plain_backoff_grows_to_its_cap() -> None:
    delays = [backoff(attempt, 1.0, 2.0, 10.0) for attempt in range(1, 7)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff(100_000, 1.0, 2.0, 10.0) == 10.0  # where a float would overflow


BASES, CAPS = st.floats(0.001, 10), st.floats(10, 100)


@given(
    jitter=st.sampled_from(JITTERS),
    bounds=st.tuples(BASES, CAPS),
    attempt=st.integers(1, 50),
    previous=st.floats(0.001, 100),
    seed=st.integers(),
)
def test_every_jitter_keeps_its_bounds(
    jitter: Jitter, bounds: tuple[float, float], attempt: int, previous: float, seed: int
) -> None:
    base, cap = bounds
    delay = backoff(attempt, base, 2.0, cap)
    chance = random.Random(seed)
    jittered = with_jitter(jitter, delay, base=base, cap=cap, previous=previous, source=chance)
    low, high = {
        True: (0.9 * delay, 1.1 * delay),
        False: (delay, delay),
        "full": (0.0, delay),
        "equal": (delay / 2, delay),
        "decorrelated": (base, max(base, 3 * previous)),
    }[jitter]
    assert low * (1 - 1e-9) <= jittered <= min(cap, high) * (1 + 1e-9)


@pytest.mark.parametrize("jitter", [True, "full", "equal", "decorrelated"])
def test_library_defect_jitter_cut_off_by_the_cap(jitter: Jitter) -> None:
    """Callers that have reached the cap must not all wait the same."""
    chance = random.Random(1)
    waits = {
        with_jitter(jitter, 60.0, base=1.0, cap=60.0, previous=60.0, source=chance)
        for _ in range(100)
    }
    assert len(waits) == 100
    assert max(waits) <= 60.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 9.0),
        ("Fri, 31 Dec 1999 23:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, now=946684790.0) == seconds


def test_where_retry_after_is_looked_for() -> None:
    class Response:
        headers = {"Retry-After": "7"}  # noqa: RUF012  # as the libraries have it

    class HTTPError(Exception):
        response = Response()

    class AttributeTellsError(Exception):
        retry_after = 3

    class NobodyTellsError(Exception):
        response = None
        retry_after = None

    assert retry_after_of(Response(), 0.0) == 7.0
    assert retry_after_of(HTTPError(), 0.0) == 7.0
    assert retry_after_of(AttributeTellsError(), 0.0) == 3.0
    assert retry_after_of(NobodyTellsError(), 0.0) is None
    assert retry_after_of(None, 0.0) is None


@given(
    ratio=st.floats(0, 1),
    reserve=st.floats(0, 2),
    steps=st.lists(
        st.one_of(st.just("deposit"), st.just("withdraw"), st.floats(0, 5)), max_size=60
    ),
)
def test_a_budget_never_gives_more_than_it_got(
    ratio: float, reserve: float, steps: list[str | float]
) -> None:
    clock = ManualClock()
    budget = RetryBudget(ratio, reserve=reserve, capacity=10.0, clock=clock)
    got, given_, passed = min(reserve, 10.0), 0, 0.0
    for step in steps:
        if step == "deposit":
            budget.deposit()
            got += ratio
        elif step == "withdraw":
            given_ += budget.withdraw()
        else:
            assert isinstance(step, float)
            clock.advance(step)
            passed += step
        assert given_ <= got + reserve * passed + 1e-6
        assert 0.0 <= budget.tokens <= 10.0


def test_a_fifth_more_calls_and_not_a_storm() -> None:
    budget = RetryBudget(0.2, reserve=0.0, clock=ManualClock())
    retries = 0
    for _ in range(1000):  # every one fails and wants two retries
        budget.deposit()
        retries += budget.withdraw()
        retries += budget.withdraw()
    assert retries == 200

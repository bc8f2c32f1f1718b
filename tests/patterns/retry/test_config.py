from __future__ import annotations

import threading

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience import ManualClock
from pytest_resilience import RetryBudget
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


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


def test_tokens_flow_in_up_to_the_capacity(clock: ManualClock) -> None:
    budget = RetryBudget(0.0, reserve=2.0, capacity=5.0, clock=clock)
    assert budget.tokens == 2.0
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    clock.advance(0.5)
    assert [budget.withdraw() for _ in range(2)] == [True, False]
    clock.advance(3600)
    assert budget.tokens == 5.0
    assert repr(budget) == "<RetryBudget 5 of 5 tokens>"


def test_deposits_end_at_the_capacity_too(clock: ManualClock) -> None:
    budget = RetryBudget(1.0, reserve=0.0, capacity=2.0, clock=clock)
    for _ in range(10):
        budget.deposit()
    assert budget.tokens == 2.0


def test_a_clock_read_late_takes_nothing_back(clock: ManualClock) -> None:
    """A thread may read the clock, and come after a later reader to the lock."""

    class Swinging(list[float]):
        def monotonic(self) -> float:
            return self.pop(0)

        time = sleep = asleep = monotonic

    budget = RetryBudget(0.0, reserve=1.0, capacity=9.0, clock=Swinging([0.0, 5.0, 3.0, 5.0]))  # type: ignore[arg-type]
    assert [budget.tokens for _ in range(3)] == [6.0, 6.0, 6.0]


def test_no_token_is_spent_twice_among_threads(clock: ManualClock) -> None:
    budget = RetryBudget(0.5, reserve=0.0, capacity=10_000.0, clock=clock)
    begin = threading.Barrier(32, timeout=10)

    def caller(_: int) -> int:
        begin.wait()
        granted = 0
        for _ in range(100):
            budget.deposit()
            granted += budget.withdraw()
        return granted

    with ThreadPoolExecutor(32) as pool:
        granted = sum(pool.map(caller, range(32)))
    assert granted + budget.tokens == 1600.0
    while budget.withdraw():
        granted += 1
    assert granted == 1600


def test_many_callers_of_one_broken_thing_cannot_storm(clock: ManualClock) -> None:
    """32 threads, each with a handler of its own: together a fifth more calls."""
    budget = RetryBudget(0.2, reserve=0.0, clock=clock)
    begin = threading.Barrier(32, timeout=10)

    def caller(_: int) -> int:
        calls = 0

        def down() -> None:
            nonlocal calls
            calls += 1
            raise ConnectionError

        config = RetryConfig(max_attempts=5, base_delay=0, budget=budget)
        handler = RetryHandler(config, clock=clock)
        begin.wait()
        for _ in range(50):
            with pytest.raises(RetryExhaustedError):
                handler.execute(down)
        return calls

    with ThreadPoolExecutor(32) as pool:
        calls = sum(pool.map(caller, range(32)))
    assert calls == 32 * 50 + 320


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("ratio", -0.1, ConfigurationError),
        ("ratio", "0.2", TypeError),
        ("reserve", float("nan"), ConfigurationError),
        ("reserve", None, TypeError),
        ("capacity", 0.5, ConfigurationError),
        ("capacity", float("inf"), ConfigurationError),
    ],
)
def test_nonsense_is_refused_naming_field_and_value(
    field: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=field) as caught:
        RetryBudget(**{field: value})
    assert repr(value) in str(caught.value)

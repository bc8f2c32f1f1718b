from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.chaos.triggers import Between
from pytest_resilience.chaos.triggers import Every
from pytest_resilience.chaos.triggers import First
from pytest_resilience.chaos.triggers import From
from pytest_resilience.chaos.triggers import Never
from pytest_resilience.chaos.triggers import Nth
from pytest_resilience.chaos.triggers import Rate
from pytest_resilience.chaos.triggers import Trigger
from pytest_resilience.chaos.triggers import chooses
from pytest_resilience.chaos.triggers import goes_by_number
from pytest_resilience.chaos.triggers import goes_by_time
from pytest_resilience.seeds import Stream


def hit(trigger: Trigger, numbers: Iterable[int] = range(1, 11), seed: int = 1) -> list[int]:
    return [number for number in numbers if trigger.hits(number, 0.0, Stream(seed))]


def test_by_number() -> None:
    assert hit(Nth(3)) == [3]
    assert hit(First(2)) == [1, 2]
    assert hit(From(9)) == [9, 10]
    assert hit(Every(4)) == [4, 8]


def test_by_time() -> None:
    window = Between(1.0, 3.0)
    assert [window.hits(1, at, Stream(1)) for at in (0.9, 1.0, 2.9, 3.0)] == [
        False, True, True, False,
    ]  # fmt: skip


@given(rate=st.floats(0, 1), seed=st.integers(0, 2**64 - 1))
def test_chance_is_a_function_of_seed_and_number(rate: float, seed: int) -> None:
    forwards = hit(Rate(rate), range(1, 50), seed)
    assert hit(Rate(rate), reversed(range(1, 50)), seed) == forwards[::-1]


@given(seed=st.integers(0, 2**64 - 1))
def test_the_bounds_of_chance_are_certain(seed: int) -> None:
    assert hit(Rate(0), seed=seed) == []
    assert hit(Rate(1), seed=seed) == list(range(1, 11))


@given(low=st.floats(0, 1), high=st.floats(0, 1), seed=st.integers(0, 2**64 - 1))
def test_a_higher_rate_hits_all_that_a_lower_one_does(low: float, high: float, seed: int) -> None:
    low, high = sorted((low, high))
    assert set(hit(Rate(low), seed=seed)) <= set(hit(Rate(high), seed=seed))


def test_the_share_that_is_hit_is_the_rate() -> None:
    share = len(hit(Rate(0.3), range(1, 20_001))) / 20_000
    assert abs(share - 0.3) < 0.01  # three standard deviations; the seed is fixed


def test_they_say_what_they_do() -> None:
    every = (Rate(0.3), Nth(2), First(2), From(2), Every(2), Between(1, 2.5))
    assert ", ".join(map(str, every)) == (
        "rate 0.3, number 2, the first 2, from number 2 on, every 2, from 1 s to 2.5 s"
    )


def test_which_of_them_choose_for_certain() -> None:
    certain: tuple[tuple[Trigger, ...], ...] = (
        (Nth(2),), (First(1),), (From(3),), (Every(2),), (Between(0, 1),), (Never(),),
        (Nth(4), Every(2)),
    )  # fmt: skip
    others: tuple[tuple[Trigger, ...], ...] = ((), (Rate(0.5),), (Rate(0.5), Nth(2)))
    assert all(map(chooses, certain))
    assert not any(map(chooses, others))
    by_time: tuple[tuple[Trigger, ...], ...] = ((Between(0, 1),), (Between(0, 1), Nth(1)))
    assert all(map(goes_by_time, by_time))
    assert not any(map(goes_by_time, ((Nth(1),), *others)))


def test_what_goes_by_numbers() -> None:
    by_number: tuple[tuple[Trigger, ...], ...] = (
        (Nth(1),), (First(1),), (From(1),), (Every(2),), (Rate(0.5), First(3)),
    )  # fmt: skip
    others: tuple[tuple[Trigger, ...], ...] = (
        (), (Never(),), (Rate(0.5),), (Between(0, 1),), (Rate(0.5), Between(0, 1)),
    )  # fmt: skip
    assert all(map(goes_by_number, by_number))
    assert not any(map(goes_by_number, others))

from __future__ import annotations

import itertools

from collections.abc import Callable
from datetime import UTC
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience import ChaosExperiment
from pytest_resilience import ConfigurationError
from pytest_resilience import UnknownNameError
from pytest_resilience.monkey.schedule import ByChance
from pytest_resilience.monkey.schedule import Daily
from pytest_resilience.monkey.schedule import FixedSequence
from pytest_resilience.monkey.schedule import Moment
from pytest_resilience.monkey.schedule import Schedule
from pytest_resilience.monkey.schedule import Windows


def experiment(name: str, probability: float = 1.0) -> ChaosExperiment:
    return ChaosExperiment(name, "network_latency", probability)


def moment(
    number: int = 0, *, elapsed: float = 0.0, time: float = 0.0, seed: int = 1, missed: int = 0
) -> Moment:
    numbers = range(number - missed, number + 1)
    return Moment(numbers=numbers, elapsed=elapsed, time=time, seed=seed)


def names(schedule: Schedule, experiments: list[ChaosExperiment], at: Moment) -> list[str]:
    return [each.name for each in schedule.choose(experiments, at)]


def first(schedule: Schedule, count: int, interval: float = 30.0) -> list[float]:
    return list(itertools.islice(schedule.moments(interval), count))


def test_chance_is_asked_once_an_interval() -> None:
    assert first(ByChance(), 4, 2.5) == [0, 2.5, 5, 7.5]
    assert ByChance().allowed(moment()) == float("inf")


@settings(deadline=None, max_examples=50)
@given(probability=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_chance_is_as_great_as_the_probability(probability: float, seed: int) -> None:
    one = [experiment("x", probability)]
    chosen = sum(bool(names(ByChance(), one, moment(n, seed=seed))) for n in range(1000))
    assert abs(chosen / 1000 - probability) < 0.1  # six times its deviation


@given(
    seed=st.integers(0, 2**32),
    number=st.integers(0, 1000),
    others=st.lists(st.floats(0, 1), max_size=5),
)
def test_chance_of_one_is_no_business_of_others(
    seed: int, number: int, others: list[float]
) -> None:
    crowd = [experiment(f"e{place}", each) for place, each in enumerate(others)]
    me = experiment("me", 0.5)
    at = moment(number, seed=seed)
    alone = names(ByChance(), [me], at)
    for order in ([*crowd, me], [me, *crowd]):
        assert [name for name in names(ByChance(), order, at) if name == "me"] == alone


def test_chance_gives_everybody_the_first_place_now_and_then() -> None:
    crowd = [experiment("sure", 1.0), experiment("likely", 0.9), experiment("rare", 0.1)]
    chosen = [names(ByChance(), crowd, moment(number)) for number in range(2000)]
    all_three = [each[0] for each in chosen if len(each) == 3]
    for name in ("sure", "likely", "rare"):
        assert 0.2 < all_three.count(name) / len(all_three) < 0.47


def test_a_sequence_starts_its_steps_whatever_their_probability() -> None:
    sequence = FixedSequence([("1m", "b"), (0, "a"), (90, "a")])
    assert repr(sequence) == "FixedSequence([(0.0, 'a'), (60.0, 'b'), (90.0, 'a')], every=None)"
    assert first(sequence, 9, interval=7) == [0, 60, 90]
    both = [experiment("a", 0.0), experiment("b", 0.0)]
    assert [names(sequence, both, moment(number)) for number in range(3)] == [["a"], ["b"], ["a"]]
    assert names(sequence, both[:1], moment(1)) == []  # disabled, which the monkey leaves out


def test_a_sequence_that_comes_again() -> None:
    sequence = FixedSequence([(0, "a"), (10, "b")], every=30)
    assert first(sequence, 5) == [0, 10, 30, 40, 60]
    both = [experiment("a"), experiment("b")]
    assert names(sequence, both, moment(2)) == ["a"]
    assert names(sequence, both, moment(3)) == ["b"]


def test_a_sequence_leaves_out_no_step_and_starts_none_twice() -> None:
    sequence = FixedSequence([(0, "a"), (10, "b"), (20, "a")], every=30)
    both = [experiment("a"), experiment("b")]
    assert names(sequence, both, moment(1, missed=1)) == ["a", "b"]
    assert names(sequence, both, moment(100_000, missed=90_000)) == ["a", "b"]


def test_windows_open_and_close() -> None:
    windows = Windows(["10s..20s", (15, "40s")])
    left = {at: windows.allowed(moment(elapsed=at)) for at in (0, 9.9, 10, 15, 20, 39, 40, 1000)}
    assert left == {0: 0, 9.9: 0, 10: 10, 15: 25, 20: 20, 39: 1, 40: 0, 1000: 0}
    again = Windows(["10s..20s"], every="1m")
    assert [again.allowed(moment(elapsed=at)) for at in (75, 80, 130)] == [5, 0, 10]
    assert first(windows, 2) == [0, 30]
    assert names(windows, [experiment("a")], moment()) == ["a"]


def test_windows_around_another_schedule() -> None:
    inner = FixedSequence([(5, "a")])
    windows = Windows(["0s..100s"], schedule=Windows(["0s..50s"], schedule=inner))
    assert first(windows, 9) == [5]
    assert windows.allowed(moment(elapsed=20)) == 30
    with pytest.raises(UnknownNameError):
        windows.check(["b"])
    windows.check(["a", "b"])


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "left"),
    [
        ((2024, 1, 5, 8, 59), 0),  # a Friday
        ((2024, 1, 5, 9), 8 * 3600),
        ((2024, 1, 5, 16, 59, 30), 30),
        ((2024, 1, 5, 17), 0),
        ((2024, 1, 6, 12), 0),
        ((2024, 3, 29, 16), 3600),
    ],
)
def test_hours_of_the_day(now: tuple[int, ...], left: float) -> None:
    daily = Daily("09:00..17:00", days=range(5), zone=BERLIN)
    assert daily.allowed(moment(time=datetime(*now, tzinfo=BERLIN).timestamp())) == left  # type: ignore[misc, arg-type]


def test_hours_of_a_day_on_which_the_clocks_are_changed() -> None:
    night = datetime(2024, 3, 31, 1, tzinfo=BERLIN).timestamp()  # 02:00 is 03:00
    assert Daily("00:00..04:00", zone=BERLIN).allowed(moment(time=night)) == 2 * 3600


def test_hours_are_those_of_the_zone() -> None:
    noon = datetime(2024, 7, 1, 12, tzinfo=UTC).timestamp()  # 14:00 in Berlin
    assert Daily("12:00..13:00", zone=UTC).allowed(moment(time=noon)) == 3600
    assert Daily("12:00..13:00", zone=BERLIN).allowed(moment(time=noon)) == 0
    assert Daily("00:00..23:59:59.999999").allowed(moment(time=noon)) > 0  # the machine's
    inner = Windows(["0s..60s"])
    assert Daily("12:00..13:00", zone=UTC, schedule=inner).allowed(moment(time=noon)) == 60
    assert first(Daily("12:00..13:00"), 2) == [0, 30]
    assert names(Daily("12:00..13:00"), [experiment("a")], moment()) == ["a"]
    with pytest.raises(UnknownNameError):
        Daily("12:00..13:00", schedule=FixedSequence([(0, "a")])).check([])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: FixedSequence([]), "a fixed sequence needs steps"),
        (lambda: FixedSequence([(-1, "a")]), "at=-1: a duration is finite and not negative"),
        (
            lambda: FixedSequence([(5, "a")], every=5),
            "every=5: it begins again before its last step, at 5 s; give more than that",
        ),
        (lambda: Windows([]), "no windows are given"),
        (lambda: Windows(["20s..10s"]), "window='20s..10s': the end must come after the start"),
        (
            lambda: Windows(["0s..20s"], every="10s"),
            "every='10s': .* before the last has closed, at 20 s; give that or more",
        ),
        (lambda: Daily("9..17"), "hours='9..17': give the first and the last time of day"),
        (
            lambda: Daily("17:00..09:00"),
            r"hours='17:00..09:00': the end must come after the start; give the earlier first",
        ),
        (lambda: Daily("09:00..17:00", days=[7]), r"days=\[7\]: give some of 0 \(Monday\) to 6"),
        (lambda: Daily("09:00..17:00", days=[]), r"days=\[\]: give some of 0"),
    ],
)
def test_what_never_comes_is_refused(make: Callable[[], Schedule], why: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{why}"):
        make()

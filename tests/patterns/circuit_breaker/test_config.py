from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.patterns.circuit_breaker.config import CountWindow
from pytest_resilience.patterns.circuit_breaker.config import TimeWindow
from pytest_resilience.patterns.circuit_breaker.config import Window


CALLS = st.lists(st.tuples(st.floats(0, 3), st.booleans(), st.booleans()), max_size=60)


@given(size=st.integers(1, 10), calls=CALLS)
def test_a_count_window_holds_the_last_calls(
    size: int, calls: list[tuple[float, bool, bool]]
) -> None:
    window = CountWindow(size)
    for number, (_, failed, slow) in enumerate(calls, 1):
        window.record(0.0, failed, slow)
        window.forget(1e9)
        last = calls[max(0, number - size) : number]
        assert window.calls == len(last)
        assert window.failures == sum(failed for _, failed, _ in last)
        assert window.slow == sum(slow for _, _, slow in last)
        window.failures, window.slow = -1, -1  # as a thread may leave them that a fork stops
        window.recount()
        assert window.failures == sum(failed for _, failed, _ in last)
        assert window.slow == sum(slow for _, _, slow in last)
    window.clear()
    assert (window.calls, window.failures, window.slow) == (0, 0, 0)


@given(calls=CALLS)
def test_a_time_window_holds_the_latest_seconds_to_a_tenth(
    calls: list[tuple[float, bool, bool]],
) -> None:
    window, now, seen = TimeWindow(10.0), 0.0, []
    for pause, failed, slow in calls:
        now += pause
        seen.append((now, failed, slow))
        window.record(now, failed, slow)
        surely = [each for each in seen if each[0] > now - 9.0]
        possibly = [each for each in seen if each[0] > now - 10.0 - 1e-6]
        for held, column in ((window.failures, 1), (window.slow, 2)):
            assert sum(each[column] for each in surely) <= held
            assert held <= sum(each[column] for each in possibly)
        assert len(surely) <= window.calls <= len(possibly)
    window.forget(now + 10.0)
    assert (window.calls, window.failures, window.slow) == (0, 0, 0)


def test_a_time_window_needs_no_more_room_for_more_calls() -> None:
    window = TimeWindow(1.0)
    for number in range(10_000):
        window.record(number / 1000, False, False)
        assert len(window._buckets) <= 11


def test_a_call_whose_clock_was_read_earlier_is_not_lost() -> None:
    window = TimeWindow(10.0)
    window.record(5.0, True, False)
    window.record(1.0, True, False)
    assert window.failures == 2


@given(
    size=st.integers(1, 10), other=st.integers(1, 10), before=CALLS, after=CALLS,
)  # fmt: skip
def test_a_count_window_goes_on_from_what_another_held(
    size: int,
    other: int,
    before: list[tuple[float, bool, bool]],
    after: list[tuple[float, bool, bool]],
) -> None:
    first, second, alone = CountWindow(size), CountWindow(other), CountWindow(other)
    for _, failed, slow in before:
        first.record(0.0, failed, slow)
    for _, failed, slow in before[-size:]:
        alone.record(0.0, failed, slow)
    second.restore(json.loads(json.dumps(first.dump())))
    for _, failed, slow in [*after, (0.0, True, True)]:
        assert seen(second) == seen(alone)
        for window in (second, alone):
            window.record(0.0, failed, slow)
    assert seen(second) == seen(alone)


@given(before=CALLS, after=CALLS)
def test_a_time_window_goes_on_from_what_another_held(
    before: list[tuple[float, bool, bool]], after: list[tuple[float, bool, bool]]
) -> None:
    first, second, now = TimeWindow(10.0), TimeWindow(10.0), 0.0
    for pause, failed, slow in before:
        now += pause
        first.record(now, failed, slow)
    second.restore(json.loads(json.dumps(first.dump())))
    for pause, failed, slow in after:
        assert seen(second) == seen(first)
        now += pause
        for window in (first, second):
            window.record(now, failed, slow)
    assert seen(second) == seen(first)


def seen(window: Window) -> tuple[int, int, int]:
    return window.calls, window.failures, window.slow

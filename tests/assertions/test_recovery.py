from __future__ import annotations

import asyncio

import pytest

from pytest_resilience import ConfigurationError
from pytest_resilience import ManualClock
from pytest_resilience.assertions import assert_recovers


class Outage:
    """Fails until its time is over."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds

    def __call__(self) -> str:
        if self._clock.monotonic() < self._seconds:
            raise ConnectionError("no route")
        return "answer"

    async def wait(self) -> str:
        await asyncio.sleep(0)
        return self()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_recovers_in_time(clock: ManualClock) -> None:
    assert assert_recovers(Outage(clock, 3), within=3, every=1, clock=clock) == "answer"
    assert clock.sleeps == [1, 1, 1]


def test_what_works_at_once_has_recovered(clock: ManualClock) -> None:
    assert assert_recovers(Outage(clock, 0), within=3, clock=clock) == "answer"
    assert clock.sleeps == []


def test_too_late(clock: ManualClock) -> None:
    outage = Outage(clock, 4)
    with pytest.raises(AssertionError) as caught:
        assert_recovers(outage, within=2.5, every=1, clock=clock)
    assert str(caught.value).splitlines() == [
        f"expected {outage!r} to recover within 2.5 s, but it failed 3 times",
        "  +0.000s ConnectionError: no route",
        "  +1.000s ConnectionError: no route",
        "  +2.000s ConnectionError: no route",
    ]
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_long_stories_are_cut(clock: ManualClock) -> None:
    with pytest.raises(AssertionError, match=r"failed 31 times\n  \(11 failures before\)\n  \+11"):
        assert_recovers(Outage(clock, 99), within=30, every=1, clock=clock)


def test_an_answer_after_the_time_is_too_late(clock: ManualClock) -> None:
    def slow() -> None:
        clock.advance(7)

    with pytest.raises(AssertionError, match="slow to recover within 5 s, but it took 7 s"):
        assert_recovers(slow, within=5, clock=clock)


def test_coroutine_functions(clock: ManualClock) -> None:
    async def main() -> None:
        outage = Outage(clock, 2)
        assert await assert_recovers(outage.wait, within=2, every=1, clock=clock) == "answer"
        with pytest.raises(AssertionError, match=r"Outage\.wait to recover .* failed once"):
            await assert_recovers(Outage(clock, 9).wait, within=1, every=2, clock=clock)

    asyncio.run(main())


def test_what_is_no_exception_of_the_call_passes(clock: ManualClock) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assert_recovers(interrupted, within=5, clock=clock)


@pytest.mark.parametrize("bad", [{"within": 0}, {"within": 1, "every": 0}, {"within": -1}])
def test_bad_times(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"within|every"):
        assert_recovers(int, **bad)  # type: ignore[call-overload]

from __future__ import annotations

import asyncio

import pytest

from pytest_resilience import ConfigurationError
from pytest_resilience import DegradationManager
from pytest_resilience import FeatureFlag
from pytest_resilience import ManualClock
from pytest_resilience import ServiceLevel
from pytest_resilience import UnknownNameError
from pytest_resilience.assertions import assert_degraded
from pytest_resilience.assertions import assert_fallback_used
from pytest_resilience.assertions import assert_recovers


def broken() -> None:
    raise ConnectionError("no route")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def manager(clock: ManualClock) -> DegradationManager:
    manager = DegradationManager(clock=clock)
    manager.register_feature(FeatureFlag("prices", fallback_value=0))
    manager.register_feature(FeatureFlag("reviews", enabled=False))
    return manager


def test_levels(manager: DegradationManager) -> None:
    with pytest.raises(AssertionError, match=r"prices to be degraded, but it is full\n  nothing"):
        assert_degraded(manager, "prices")
    assert_degraded(manager, "prices", level=ServiceLevel.FULL)
    assert_degraded(manager, "reviews", level="unavailable")
    manager.execute_with_degradation("prices", broken)
    assert_degraded(manager, "prices")
    assert_degraded(manager, "prices", level="degraded")
    with pytest.raises(AssertionError) as caught:
        assert_degraded(manager, "prices", level="minimal")
    assert str(caught.value).splitlines() == [
        "expected prices to be minimal, but it is degraded",
        "  +0.000s full -> degraded: it failed with ConnectionError: no route",
        "  +0.000s answered by its fallback_value: ConnectionError: no route",
    ]


def test_fallbacks(manager: DegradationManager, clock: ManualClock) -> None:
    with pytest.raises(AssertionError, match="replaced by anything less, but it was never"):
        assert_fallback_used(manager, "prices")
    manager.execute_with_degradation("prices", broken, lambda: 3)
    clock.advance(1)
    manager.execute_with_degradation("prices", broken, default_value=4)
    assert_fallback_used(manager, "prices")
    assert_fallback_used(manager, "prices", times=2)
    assert_fallback_used(manager, "prices", times=1, used="fallback")
    assert_fallback_used(manager, "reviews", times=0)
    with pytest.raises(AssertionError, match=r"by anything less 1 times, but it was 2 times\n"):
        assert_fallback_used(manager, "prices", times=1)
    with pytest.raises(AssertionError, match=r"\+1\.000s answered by its default: it is degraded"):
        assert_fallback_used(manager, "prices", used="fallback_value")


def test_bad_names(manager: DegradationManager) -> None:
    with pytest.raises(UnknownNameError, match="known: 'prices', 'reviews'"):
        assert_degraded(manager, "price")
    with pytest.raises(UnknownNameError):
        assert_fallback_used(manager, "price")
    with pytest.raises(ValueError, match="worse"):
        assert_degraded(manager, "prices", level="worse")


def test_no_health_check_is_asked(clock: ManualClock) -> None:
    def unwell() -> bool:
        raise AssertionError("asked")

    manager = DegradationManager(clock=clock)
    manager.register_feature(FeatureFlag("prices", health_check=unwell))
    assert_degraded(manager, "prices", level="full")
    assert_fallback_used(manager, "prices", times=0)


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

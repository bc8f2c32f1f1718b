from __future__ import annotations

import pytest

from pytest_resilience import DegradationManager
from pytest_resilience import FeatureFlag
from pytest_resilience import ManualClock
from pytest_resilience import ServiceLevel
from pytest_resilience import UnknownNameError
from pytest_resilience.assertions import assert_degraded
from pytest_resilience.assertions import assert_fallback_used


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

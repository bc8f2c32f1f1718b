from __future__ import annotations

import asyncio
import threading

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import ManualClock
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import ThreadPoolBulkhead
from pytest_resilience.assertions import assert_bulkhead_rejected
from pytest_resilience.assertions import assert_isolated
from pytest_resilience.assertions import assert_rate_limited


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def semaphore(clock: ManualClock) -> SemaphoreBulkhead:
    return SemaphoreBulkhead(BulkheadConfig(max_concurrent=2), name="search", clock=clock)


@pytest.fixture
def limit(clock: ManualClock) -> RateLimitBulkhead:
    config = BulkheadConfig(max_concurrent=1, window_size=60)
    return RateLimitBulkhead(config, name="mail", clock=clock)


@pytest.fixture
def pool() -> Iterator[ThreadPoolBulkhead]:
    pool = ThreadPoolBulkhead(BulkheadConfig(max_concurrent=2, queue_size=1), name="reports")
    yield pool
    pool.shutdown()


def test_rejections_of_a_semaphore(semaphore: SemaphoreBulkhead, clock: ManualClock) -> None:
    with pytest.raises(AssertionError, match="expected search to reject a call, but it rejected n"):
        assert_bulkhead_rejected(semaphore)
    with semaphore, semaphore:
        for seconds in (0, 1.5):
            clock.advance(seconds)
            with pytest.raises(BulkheadRejectedError):
                semaphore.acquire()
    assert_bulkhead_rejected(semaphore)
    assert_bulkhead_rejected(semaphore, times=2)
    before = semaphore.get_stats()
    with pytest.raises(AssertionError) as caught:
        assert_bulkhead_rejected(semaphore, times=1)
    assert str(caught.value).splitlines() == [
        "expected search to reject 1 call, but it rejected 2",
        f"  {', '.join(f'{name} {value}' for name, value in before.items())}",
        "  +0.000s rejected at 2 of 2",
        "  +1.500s rejected at 2 of 2",
    ]
    assert semaphore.get_stats() == before


def test_rejections_of_a_bulkhead_that_somebody_has_derived() -> None:
    class Counted(SemaphoreBulkhead):
        pass

    assert_bulkhead_rejected(Counted(), times=0)


def test_rejections_of_a_pool(pool: ThreadPoolBulkhead) -> None:
    assert_bulkhead_rejected(pool, times=0)
    over = threading.Event()
    for _ in range(3):
        pool.submit(over.wait)
    with pytest.raises(BulkheadRejectedError):
        pool.submit(over.wait)
    over.set()
    assert_bulkhead_rejected(pool, times=1)


def test_rate_limited(limit: RateLimitBulkhead, semaphore: SemaphoreBulkhead) -> None:
    limit.acquire()
    with pytest.raises(AssertionError, match="expected mail to reject a call"):
        assert_rate_limited(limit)
    with pytest.raises(BulkheadRejectedError):
        limit.acquire()
    assert_rate_limited(limit)
    assert_rate_limited(limit, times=1)
    with pytest.raises(AssertionError, match=r"rejected at 1 of 1, room in 60 s"):
        assert_rate_limited(limit, times=3)
    with pytest.raises(TypeError, match="is no RateLimitBulkhead"):
        assert_rate_limited(semaphore)  # type: ignore[arg-type]


def test_what_has_places_of_its_own_is_isolated(
    semaphore: SemaphoreBulkhead, pool: ThreadPoolBulkhead
) -> None:
    seen = []

    def pay() -> None:
        tasks = pool.get_stats()
        places = semaphore.get_stats()["available_permits"]
        seen.append((places, tasks["active_tasks"] + tasks["queued_tasks"]))

    assert_isolated(pay, while_saturated=semaphore)
    assert_isolated(pay, while_saturated=pool)
    assert seen == [(0, 0), (2, 3)]
    assert semaphore.get_stats()["active_count"] == 0
    assert pool.execute(int) == 0


def test_what_shares_the_places_is_not(
    semaphore: SemaphoreBulkhead, pool: ThreadPoolBulkhead
) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_isolated(semaphore(int), while_saturated=semaphore)
    assert str(caught.value).startswith(
        "expected int to work while search is full, but: BulkheadRejectedError: search is full"
    )
    assert isinstance(caught.value.__cause__, BulkheadRejectedError)
    with pytest.raises(AssertionError, match="reports is full"):
        assert_isolated(pool(int), while_saturated=pool)


def test_a_victim_that_hangs_is_not_waited_for() -> None:
    never = threading.Event()
    pool = ThreadPoolBulkhead(BulkheadConfig(max_concurrent=1), name="reports")
    with pytest.raises(AssertionError, match=r"TimeLimitExceededError: .* within 0\.01 s"):
        assert_isolated(never.wait, while_saturated=pool, within=0.01)
    never.set()
    pool.shutdown()


def test_part_of_the_places_may_be_taken_already(semaphore: SemaphoreBulkhead) -> None:
    with semaphore:
        assert_isolated(int, while_saturated=semaphore)
        assert semaphore.get_stats()["active_count"] == 1


def test_isolated_from_anything_that_can_be_saturated() -> None:
    steps = []

    @contextmanager
    def flood() -> Iterator[None]:
        steps.append("flooded")
        yield
        steps.append("dry")

    assert_isolated(lambda: steps.append("paid"), while_saturated=flood())
    assert steps == ["flooded", "paid", "dry"]


def test_isolated_coroutine_functions(semaphore: SemaphoreBulkhead) -> None:
    async def pay() -> None:
        await asyncio.sleep(0)

    @semaphore
    async def search() -> None:
        await asyncio.sleep(0)

    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await assert_isolated(pay, while_saturated=semaphore)
        with pytest.raises(AssertionError, match="search is full"):
            await assert_isolated(search, while_saturated=semaphore)
        with pytest.raises(AssertionError, match=r"did not return within 0\.01 s"):
            await assert_isolated(hang, while_saturated=semaphore, within=0.01)

    asyncio.run(main())
    assert semaphore.get_stats()["active_count"] == 0


def test_a_rate_cannot_be_saturated_and_given_back(limit: RateLimitBulkhead) -> None:
    with pytest.raises(TypeError, match="while_saturated="):
        assert_isolated(int, while_saturated=limit)

"""Whatever waits in a task does so under trio as it does under asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import CircuitBreaker
from pytest_resilience import DegradationManager
from pytest_resilience import FeatureFlag
from pytest_resilience import ManualClock
from pytest_resilience import RetryConfig
from pytest_resilience import RetryHandler
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import ServiceLevel
from pytest_resilience import ThreadPoolBulkhead
from pytest_resilience import TimeLimitExceededError
from pytest_resilience.patterns import Pipeline
from pytest_resilience.patterns import TimeLimiter


RUNS: dict[str, Callable[[Callable[[], Awaitable[Any]]], Any]] = {
    "asyncio": lambda story: asyncio.run(story()),  # type: ignore[arg-type]
    "trio": trio.run,
    "anyio on asyncio": lambda story: anyio.run(story, backend="asyncio"),
    "anyio on trio": lambda story: anyio.run(story, backend="trio"),
}
everywhere = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())


async def answer() -> str:
    await anyio.lowlevel.checkpoint()
    return "answer"


@everywhere
@pytest.mark.parametrize("manual", [False, True])
def test_a_retry_waits(run: Any, manual: bool) -> None:
    clock: dict[str, Any] = {"clock": ManualClock()} if manual else {}
    handler = RetryHandler(RetryConfig(max_attempts=3, base_delay=0.001), **clock)
    errors = [OSError(), OSError()]

    @handler
    async def call() -> str:
        if errors:
            raise errors.pop()
        return await answer()

    async def story() -> None:
        assert await call() == "answer"
        errors.append(OSError())
        async for attempt in handler:
            with attempt:
                await call.__wrapped__()  # type: ignore[attr-defined]

    run(story)
    assert len(handler.events) == 5


@everywhere
def test_a_semaphore_wakes_whoever_waits(run: Any) -> None:
    slots = SemaphoreBulkhead(BulkheadConfig(1, max_wait=60.0))
    order: list[int] = []

    async def call(number: int) -> None:
        async with slots:
            order.append(number)
            await answer()

    async def story() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(call, number)

    run(story)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert slots.get_stats()["active_count"] == 0


@everywhere
def test_who_waits_too_long_or_is_cancelled_leaves_the_line(run: Any) -> None:
    slots = SemaphoreBulkhead(BulkheadConfig(1, max_wait=0.01))
    patient = SemaphoreBulkhead(BulkheadConfig(1, max_wait=float("inf")))
    slots.acquire()
    patient.acquire()

    async def story() -> None:
        with pytest.raises(BulkheadRejectedError):
            await slots.execute(answer)
        with anyio.move_on_after(0.01) as scope:
            await patient.execute(answer)
        assert scope.cancelled_caught

    run(story)
    for each in (slots, patient):
        assert each.get_stats()["waiting_count"] == 0


@everywhere
def test_a_thread_wakes_a_task(run: Any) -> None:
    slots = SemaphoreBulkhead(BulkheadConfig(1, max_wait=60.0))
    slots.acquire()

    async def story() -> str:
        threading.Timer(0.01, slots.release).start()
        return await slots.execute(answer)

    assert run(story) == "answer"


@everywhere
def test_a_time_limit_cancels(run: Any) -> None:
    limiter = TimeLimiter(0.01)

    async def story() -> None:
        with pytest.raises(TimeLimitExceededError, match="it was cancelled"):
            await limiter.execute(anyio.sleep, 60)
        with pytest.raises(TimeLimitExceededError, match="block took longer"):
            async with limiter:
                await anyio.sleep(60)
        assert await TimeLimiter(60).execute(answer) == "answer"
        with anyio.move_on_after(0.01) as scope:
            await TimeLimiter(60).execute(anyio.sleep, 60)
        assert scope.cancelled_caught

    run(story)


def stop() -> None:
    raise StopIteration


@everywhere
def test_a_pool_is_awaited(run: Any) -> None:
    gate, pool = threading.Event(), ThreadPoolBulkhead(BulkheadConfig(1))

    async def story() -> None:
        assert await pool.execute_async(len, "abc") == 3
        with pytest.raises(ZeroDivisionError):
            await pool.execute_async(divmod, 1, 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await pool.execute_async(stop)
        pool.submit(gate.wait)
        with anyio.move_on_after(0.01) as scope:
            await pool.execute_async(len, "abc")
        assert scope.cancelled_caught
        assert pool.get_stats()["queued_tasks"] == 0

    with pool:
        try:
            run(story)
        finally:
            gate.set()


@everywhere
@pytest.mark.parametrize("kind", ["plain", "async", "stops"])
def test_a_health_check_and_what_it_guards(run: Any, kind: str) -> None:
    async def later() -> bool:
        await answer()
        return False

    checks = {"plain": lambda: False, "async": later, "stops": stop}
    manager = DegradationManager(health_check_timeout=60.0)
    manager.register_feature(FeatureFlag("prices", health_check=checks[kind]))

    async def story() -> None:
        assert await manager.execute_with_degradation("prices", answer, lambda: "less") == "less"

    run(story)
    level = ServiceLevel.MINIMAL if kind == "stops" else ServiceLevel.DEGRADED
    assert manager.service_health["prices"] is level


@everywhere
def test_a_hung_async_check_and_primary(run: Any) -> None:
    manager = DegradationManager(health_check_timeout=0.01)
    manager.register_feature(
        FeatureFlag("prices", health_check=lambda: anyio.sleep(60)),
    )

    async def story() -> None:
        assert await manager.execute_with_degradation("prices", answer, lambda: "less") == "less"

    run(story)


@everywhere
def test_a_pipeline(run: Any) -> None:
    call = Pipeline(RetryHandler(), CircuitBreaker(), SemaphoreBulkhead(), TimeLimiter(60))(answer)
    assert run(call) == "answer"


def test_nobody_waits_for_a_health_check_that_was_given_up() -> None:
    code = """
import asyncio, threading
from pytest_resilience import DegradationManager, FeatureFlag
manager = DegradationManager(health_check_timeout=0.01)
manager.register_feature(FeatureFlag("prices", health_check=threading.Event().wait))
print(asyncio.run(manager.check_service_health_async("prices")).value)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert shown == "minimal\n"

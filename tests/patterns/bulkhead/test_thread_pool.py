"""A pool that does not keep what nobody waits for, nor anybody who waits in vain."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import ShutdownError
from pytest_resilience import TimeLimitExceededError
from pytest_resilience.patterns import ThreadPoolBulkhead


class Busy:
    """A pool of one thread, which is taken until it is let go."""

    def __init__(self, queue_size: int = 1) -> None:
        self.pool = ThreadPoolBulkhead(BulkheadConfig(1, queue_size, 60.0), name="db")
        self._leave, entered = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            self._leave.wait()

        self.first = self.pool.submit(hold)
        entered.wait()

    def let_go(self) -> None:
        self._leave.set()
        self.pool.shutdown()


@pytest.fixture
def busy() -> Iterator[Busy]:
    made = Busy()
    yield made
    made.let_go()


def stop() -> None:
    raise StopIteration("over")


def test_a_stop_iteration_of_the_call_ends_the_wait() -> None:
    with ThreadPoolBulkhead(BulkheadConfig(1, timeout=float("inf"))) as pool:
        with pytest.raises(StopIteration, match="over"):
            pool.execute(stop)
        with pytest.raises(RuntimeError, match="the call raised StopIteration"):
            asyncio.run(pool.execute_async(stop))


def test_who_is_cancelled_takes_a_call_along_that_has_not_begun(busy: Busy) -> None:
    charged: list[int] = []

    async def story() -> None:
        for _ in range(3):  # each finds the place free that the one before had
            waiting = asyncio.ensure_future(busy.pool.execute_async(charged.append, 1))
            await asyncio.sleep(0)
            assert busy.pool.get_stats()["queued_tasks"] == 1
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert busy.pool.get_stats()["queued_tasks"] == 0

    asyncio.run(story())
    last = busy.pool.submit(int)
    busy.let_go()
    assert last.cancelled()
    assert charged == []


def test_who_is_interrupted_takes_it_along_too(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        busy.pool.execute(int)
    assert busy.pool.get_stats()["queued_tasks"] == 0


def test_a_future_that_is_cancelled_twice_gives_its_place_back_once(busy: Busy) -> None:
    future = busy.pool.submit(int)
    assert future.cancel()
    assert future.cancel()
    assert not busy.first.cancel()
    assert busy.pool.get_stats()["queued_tasks"] == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_a_call_that_would_wait_for_itself_is_told_so(threads: int) -> None:
    pool = ThreadPoolBulkhead(BulkheadConfig(threads, timeout=60.0), name="db")
    together = threading.Barrier(threads)

    def outer() -> Any:
        together.wait()
        try:
            return pool.execute(int)
        except BulkheadRejectedError as error:
            return str(error)
        finally:
            together.wait()

    expected = "db is full: {0} of {0} threads are taken, one by the caller, which would wait"
    with pool, ThreadPoolExecutor(threads) as callers:
        for told in callers.map(lambda _: pool.execute(outer), range(threads)):
            assert told.startswith(expected.format(threads))


def test_a_nested_call_that_finds_a_thread_runs() -> None:
    with ThreadPoolBulkhead(BulkheadConfig(2)) as pool:
        assert pool.execute(lambda: pool.execute(len, "abc")) == 3


def test_leaving_the_block_shuts_it_down() -> None:
    with ThreadPoolBulkhead() as pool:
        assert pool.execute(int) == 0
    with pytest.raises(ShutdownError):
        pool.execute(int)
    pool.shutdown()


def test_a_late_result_says_that_it_still_runs(busy: Busy) -> None:
    hasty = ThreadPoolBulkhead(BulkheadConfig(1, timeout=0.01), name="hasty")
    gate = threading.Event()
    with pytest.raises(TimeLimitExceededError, match="it still runs and keeps its thread"):
        asyncio.run(hasty.execute_async(gate.wait))
    gate.set()
    hasty.shutdown()


def test_a_generator_function_is_refused_where_it_is_decorated() -> None:
    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="is a generator function, which a thread cannot run"):
        ThreadPoolBulkhead()(items)


def run(code: str) -> str:
    prelude = """
        import os, threading
        from pytest_resilience import BulkheadConfig
        from pytest_resilience.patterns import ThreadPoolBulkhead
        pool = ThreadPoolBulkhead(BulkheadConfig(1))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip


def test_who_does_not_wait_for_a_pool_does_not_at_the_end_of_the_process() -> None:
    run("""
        begun = threading.Event()
        pool.submit(lambda: (begun.set(), threading.Event().wait()))
        begun.wait()
        pool.shutdown(wait=False)
    """)


def test_a_pool_that_is_never_shut_down_ends_its_calls() -> None:
    shown = run("""
        import time
        pool.submit(time.sleep, 0.05)
        pool.submit(print, "the last")
    """)
    assert shown == "the last\n"


def test_threads_end_with_the_pool_that_they_are_of() -> None:
    shown = run("""
        import gc
        pool.execute(int)
        (thread,) = [each for each in threading.enumerate() if each.daemon]
        del pool
        gc.collect()
        thread.join(30)
        print(thread.is_alive())
    """)
    assert shown == "False\n"

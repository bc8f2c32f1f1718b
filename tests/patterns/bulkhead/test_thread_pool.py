"""A pool that does not keep what nobody waits for, nor anybody who waits in vain."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading

from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import Event
from pytest_resilience import ShutdownError
from pytest_resilience import TimeLimitExceededError
from pytest_resilience.patterns import ThreadPoolBulkhead
from tests.patterns.ways import PoorListener


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


@pytest.mark.parametrize("wait", [Future.result, Future.exception])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_future_that_the_pool_itself_would_wait_for_is_told_so(
    threads: int, wait: Callable[[Any], Any]
) -> None:
    together = threading.Barrier(threads)
    with ThreadPoolBulkhead(BulkheadConfig(threads, timeout=60.0), name="db") as pool:

        def outer() -> Any:
            together.wait()
            future = pool.submit(len, "abc")
            return getattr(future, wait.__name__)()

        outcomes = [future.exception(60) for future in [pool.submit(outer) for _ in range(threads)]]
    told = [str(error) for error in outcomes if error is not None]
    assert len(told) == 1  # whose thread the other's call, if there is one, then has
    assert told[0].startswith(f"db is full: {threads} of {threads} threads are taken, one by the")


def test_a_pool_waits_for_its_own_futures_while_any_thread_is_free() -> None:
    with ThreadPoolBulkhead(BulkheadConfig(3, timeout=60.0)) as pool:

        def outer() -> list[int]:
            return [each.result() for each in [pool.submit(int, str(n)) for n in range(50)]]

        assert pool.execute(outer) == list(range(50))
        two = [pool.submit(outer) for _ in range(2)]
        assert [each.result(60) for each in two] == [list(range(50))] * 2


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


# Against a model: threads, but none of them does anything before it is told to.


class Held:
    """A call that runs in the pool until it is told how to end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._told = threading.Event()
        self._outcome: Any = None

    def __call__(self) -> Any:
        self.begun.set()
        assert self._told.wait(60)
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def end(self, outcome: Any) -> None:
        self._outcome = outcome
        self._told.set()


@dataclass
class Submitted:
    """A call of the model, and its future."""

    held: Held
    future: Future[Any]


class ThreadPoolMachine(RuleBasedStateMachine):
    """Calls in any number, that end in any order, in any way, or are cancelled."""

    @initialize(limit=st.integers(1, 3), queue=st.integers(0, 3))
    def begin(self, limit: int, queue: int) -> None:
        self.pool = ThreadPoolBulkhead(BulkheadConfig(max_concurrent=limit, queue_size=queue))
        self.limit, self.queue = limit, queue
        self.running: list[Submitted] = []
        self.waiting: list[Submitted] = []
        self.completed = self.rejected = 0
        self.heard: list[Event] = []
        self.pool.listeners.add(self.heard.append)
        self.pool.listeners.add(PoorListener())

    def next_ones(self) -> None:
        """Those that have waited longest take the threads that are free."""
        while self.waiting and len(self.running) < self.limit:
            first = self.waiting.pop(0)
            assert first.held.begun.wait(60)
            self.running.append(first)

    @rule(in_a_loop=st.booleans())
    def a_call_begins(self, in_a_loop: bool) -> None:
        held = Held()
        if len(self.running) + len(self.waiting) < self.limit + self.queue:
            self.waiting.append(Submitted(held, self.pool.submit(held)))
            self.next_ones()
            return
        self.rejected += 1
        ways: dict[bool, Callable[[], Any]] = {
            True: lambda: asyncio.run(self.pool.execute_async(held)),
            False: lambda: self.pool.execute(held),
        }
        with pytest.raises(BulkheadRejectedError, match="thread pool is full"):
            ways[in_a_loop]()
        assert not held.begun.is_set()

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["fine", OSError, StopIteration, KeyboardInterrupt]),
    )
    def a_call_ends(self, data: st.DataObject, outcome: Any) -> None:
        call = data.draw(st.sampled_from(self.running), label="call")
        self.running.remove(call)
        if isinstance(outcome, str):
            call.held.end(outcome)
            assert call.future.result(60) == outcome
        else:
            call.held.end(outcome())
            assert isinstance(call.future.exception(60), outcome)
        self.completed += 1
        self.next_ones()

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def a_call_is_cancelled(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from([*self.running, *self.waiting]), label="call")
        assert call.future.cancel() is (call in self.waiting)
        if call in self.waiting:
            self.waiting.remove(call)
            assert call.future.cancelled()

    @precondition(lambda self: self.waiting == [] and len(self.running) == self.limit)
    @precondition(lambda self: self.queue)
    @rule()
    def a_task_that_waits_is_cancelled(self) -> None:
        async def story() -> None:
            task = asyncio.create_task(self.pool.execute_async(held))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        held = Held()
        asyncio.run(story())
        assert not held.begun.is_set()

    @invariant()
    def the_counts_are_right(self) -> None:
        stats = self.pool.get_stats()
        assert stats["active_tasks"] == len(self.running)
        assert stats["queued_tasks"] == len(self.waiting)
        assert stats["completed_tasks"] == self.completed
        assert stats["rejected_tasks"] == self.rejected
        assert not any(each.held.begun.is_set() for each in self.waiting)
        assert tuple(self.heard) == self.pool.rejections
        assert len(self.heard) == self.rejected

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.shutdown(wait=False)
        assert all(each.future.cancelled() for each in self.waiting)
        for each in self.running:
            each.held.end("late")
            assert each.future.result(60) == "late"
        with pytest.raises(ShutdownError):
            self.pool.execute(str)


TestThreadPoolMachine = ThreadPoolMachine.TestCase
TestThreadPoolMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)

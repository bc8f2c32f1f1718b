"""The semaphore against a counter: whatever the way in, and in whatever order calls end."""

from __future__ import annotations

import asyncio

from collections.abc import Callable
from collections.abc import Coroutine
from functools import partial
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
from pytest_resilience import ManualClock
from pytest_resilience import Pipeline
from pytest_resilience.patterns import SemaphoreBulkhead
from tests.patterns.ways import InGreenlet
from tests.patterns.ways import InTask
from tests.patterns.ways import Ongoing


class ByAcquire:
    """The way of those who return their slot themselves."""

    def __init__(self, bulkhead: SemaphoreBulkhead) -> None:
        bulkhead.acquire()
        self._bulkhead = bulkhead

    def end(self, outcome: Any) -> Any:
        self._bulkhead.release()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def block(bulkhead: SemaphoreBulkhead, work: Callable[[], Any]) -> Any:
    with bulkhead:
        return work()


Work = Callable[[], Coroutine[Any, Any, Any]]


async def async_block(bulkhead: SemaphoreBulkhead, work: Work) -> Any:
    async with bulkhead:
        return await work()


async def async_acquire(bulkhead: SemaphoreBulkhead, work: Work) -> Any:
    await bulkhead.acquire_async()
    try:
        return await work()
    finally:
        bulkhead.release()


CALL: Any = Pipeline().call  # mypy cannot solve two of these, one inside the other
WAYS: dict[str, Callable[[SemaphoreBulkhead], Ongoing]] = {
    "acquire": ByAcquire,
    "decorator": lambda bulkhead: InGreenlet(lambda work: bulkhead(work)()),
    "execute": lambda bulkhead: InGreenlet(bulkhead.execute),
    "execute a call": lambda bulkhead: InGreenlet(partial(bulkhead.execute, CALL)),
    "with": lambda bulkhead: InGreenlet(partial(block, bulkhead)),
    "acquire_async": lambda bulkhead: InTask(partial(async_acquire, bulkhead)),
    "async decorator": lambda bulkhead: InTask(lambda work: bulkhead(work)()),
    "await execute": lambda bulkhead: InTask(bulkhead.execute),
    "await execute a call": lambda bulkhead: InTask(partial(bulkhead.execute, CALL)),
    "async with": lambda bulkhead: InTask(partial(async_block, bulkhead)),
}
OUTCOMES = st.sampled_from(["fine", OSError(), KeyboardInterrupt(), asyncio.CancelledError()])


class SemaphoreMachine(RuleBasedStateMachine):
    """Nobody waits here: who finds no slot is rejected at once."""

    @initialize(limit=st.integers(1, 4), listened=st.booleans())
    def begin(self, limit: int, listened: bool) -> None:
        self.clock = ManualClock()
        self.bulkhead = SemaphoreBulkhead(BulkheadConfig(limit), name="api", clock=self.clock)
        self.limit = limit
        self.heard: list[Event] = []
        if listened:
            self.bulkhead.listeners.add(self.heard.append)
        self.listened = listened
        self.calls: list[Ongoing] = []
        self.begun = 0
        self.rejected: list[float] = []

    @rule(way=st.sampled_from(list(WAYS)), seconds=st.sampled_from([0.0, 1.0]))
    def a_call_begins(self, way: str, seconds: float) -> None:
        self.clock.advance(seconds)
        if len(self.calls) < self.limit:
            self.calls.append(WAYS[way](self.bulkhead))
            self.begun += 1
            return
        with pytest.raises(BulkheadRejectedError, match="api is full") as caught:
            WAYS[way](self.bulkhead)
        assert caught.value.in_use == caught.value.capacity == self.limit
        assert caught.value.__context__ is None
        self.rejected.append(self.clock.monotonic())

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=OUTCOMES)
    def a_call_ends(self, data: st.DataObject, outcome: Any) -> None:
        call = data.draw(st.sampled_from(self.calls), label="call")
        self.calls.remove(call)
        if isinstance(outcome, BaseException):
            with pytest.raises(type(outcome)):
                call.end(type(outcome)())
        else:
            assert call.end(outcome) == outcome

    @invariant()
    def the_counts_are_right(self) -> None:
        active = len(self.calls)
        assert self.bulkhead.get_stats() == {
            "max_concurrent": self.limit,
            "active_count": active,
            "waiting_count": 0,
            "total_acquired": self.begun,
            "total_rejected": len(self.rejected),
            "available_permits": self.limit - active,
        }
        rejections = self.bulkhead.rejections
        assert [each.at for each in rejections] == self.rejected[-100:]
        assert {(each.source, each.in_use) for each in rejections} <= {("api", self.limit)}
        if self.listened:
            assert tuple(self.heard[-100:]) == rejections


TestSemaphoreMachine = SemaphoreMachine.TestCase
TestSemaphoreMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def atask() -> str:
    return "done"


async def acquired_async(bulkhead: SemaphoreBulkhead) -> str:
    await bulkhead.acquire_async()
    bulkhead.release()
    return "done"


def acquired(bulkhead: SemaphoreBulkhead) -> str:
    bulkhead.acquire()
    bulkhead.release()
    return "done"


def in_a_block(bulkhead: SemaphoreBulkhead) -> str:
    with bulkhead:
        return "done"


async def in_an_async_block(bulkhead: SemaphoreBulkhead) -> str:
    async with bulkhead:
        return "done"


QUICK: dict[str, Callable[[SemaphoreBulkhead], Any]] = {
    "acquire": acquired,
    "with": in_a_block,
    "decorator": lambda bulkhead: bulkhead(lambda: "done")(),
    "execute": lambda bulkhead: bulkhead.execute(lambda: "done"),
    "acquire_async": lambda bulkhead: asyncio.run(acquired_async(bulkhead)),
    "async with": lambda bulkhead: asyncio.run(in_an_async_block(bulkhead)),
    "async decorator": lambda bulkhead: asyncio.run(bulkhead(atask)()),
    "await execute": lambda bulkhead: asyncio.run(bulkhead.execute(atask)),
    "execute an awaitable": lambda bulkhead: asyncio.run(bulkhead.execute(lambda: atask())),  # noqa: PLW0108
}


class NoLock:
    """In the place of a lock that nobody may need."""

    def __enter__(self) -> None:
        raise AssertionError("it was locked")

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("max_wait", [0.0, 60.0])
@pytest.mark.parametrize("way", QUICK)
def test_no_way_takes_a_lock_where_a_place_is_free(way: str, max_wait: float) -> None:
    bulkhead = SemaphoreBulkhead(BulkheadConfig(1, max_wait=max_wait))
    assert QUICK[way](bulkhead) == "done"  # the first makes the place
    bulkhead._lock = NoLock()  # type: ignore[assignment]
    assert QUICK[way](bulkhead) == "done"

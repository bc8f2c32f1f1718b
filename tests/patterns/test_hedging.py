from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import math
import threading
import weakref

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.lowlevel

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import CircuitBreaker
from pytest_resilience import ConfigurationError
from pytest_resilience import Hedging
from pytest_resilience import HedgingConfig
from pytest_resilience import Pipeline
from pytest_resilience import RetryBudget
from pytest_resilience.patterns import HedgeStarted


LONG = 60.0  # seconds; of nothing that is waited for


class Plain:
    """Attempts of a plain function, each of which ends when it is told to."""

    def __init__(self, *ends: Any) -> None:
        """`ends`: of each attempt, in their order: a result, an error, or `...` for never."""
        self._ends = list(ends)
        self._lock = threading.Lock()
        self.begun = 0
        self.release = threading.Event()

    def __call__(self) -> Any:
        with self._lock:
            end = self._ends[self.begun]
            self.begun += 1
        if end is ...:
            assert self.release.wait(LONG)
            return "too late"
        if isinstance(end, BaseException):
            raise end
        return end


@pytest.fixture
def attempts() -> Iterator[Callable[..., Plain]]:
    made: list[Plain] = []

    def make(*ends: Any) -> Plain:
        made.append(Plain(*ends))
        return made[-1]

    yield make
    for each in made:
        each.release.set()


def hedging(**config: Any) -> Hedging:
    return Hedging(HedgingConfig(**{"delay": LONG, **config}), name="prices")


class Coroutine:
    """Attempts of a coroutine function; notes which were cancelled."""

    def __init__(self, *ends: Any, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._ends = list(ends)
        self._sleep = sleep
        self.begun = 0
        self.cancelled: list[int] = []

    async def __call__(self) -> Any:
        number, end = self.begun, self._ends[self.begun]
        self.begun += 1
        if end is ...:
            try:
                await self._sleep(math.inf if self._sleep is trio.sleep else LONG)
            except BaseException:
                self.cancelled.append(number)
                raise
        await self._sleep(0)
        if isinstance(end, BaseException):
            raise end
        return end


def in_asyncio(one: Hedging, *ends: Any) -> tuple[Any, Coroutine]:
    call = Coroutine(*ends, sleep=asyncio.sleep)
    return asyncio.run(one.execute(call)), call


def in_trio(one: Hedging, *ends: Any) -> tuple[Any, Coroutine]:
    call = Coroutine(*ends, sleep=trio.sleep)
    return trio.run(functools.partial(one.execute, call)), call


LOOPS = pytest.mark.parametrize("run", [in_asyncio, in_trio])
Run = Callable[..., tuple[Any, Coroutine]]


def test_a_slow_attempt_is_overtaken(attempts: Callable[..., Plain]) -> None:
    one, call = hedging(delay=0.001), attempts(..., "quick")
    told: list[HedgeStarted] = []
    one.listeners.add(told.append)
    assert one.execute(call) == "quick"
    assert [(each.attempt, each.reason) for each in told] == [(2, "none has ended within 0.001 s")]
    assert one.get_stats() == {
        "total_calls": 1, "total_hedges": 1, "won_by_hedges": 1, "running_attempts": 1,
    }  # fmt: skip


@LOOPS
def test_a_slow_task_is_overtaken_and_cancelled(run: Run) -> None:
    one = hedging(delay=0.001)
    result, call = run(one, ..., "quick")
    assert (result, call.cancelled) == ("quick", [0])
    assert one.get_stats()["running_attempts"] == 0
    assert one.get_stats()["won_by_hedges"] == 1


def test_a_quick_attempt_stays_alone(attempts: Callable[..., Plain]) -> None:
    one, call = hedging(), attempts("first")
    assert one.execute(call) == one(lambda: "first")() == "first"
    assert one.get_stats()["total_hedges"] == 0
    assert in_asyncio(one, "first")[0] == in_trio(one, "first")[0] == "first"
    assert call.begun == 1


def test_all_begin_at_once(attempts: Callable[..., Plain]) -> None:
    one, call = hedging(delay=0, max_attempts=3), attempts(..., ..., "third")
    assert one.execute(call) == "third"
    assert in_asyncio(one, ..., ..., "third")[0] == "third"
    assert in_trio(one, ..., ..., "third")[0] == "third"


@pytest.mark.parametrize("delay", [LONG, math.inf])
def test_a_failure_lets_the_next_begin_at_once(
    attempts: Callable[..., Plain], delay: float
) -> None:
    one = hedging(delay=delay, max_attempts=3)
    told: list[HedgeStarted] = []
    one.listeners.add(told.append)
    assert one.execute(attempts(OSError("gone"), OSError("gone"), "third")) == "third"
    for run in (in_asyncio, in_trio):
        assert run(one, OSError("gone"), OSError("gone"), "third")[0] == "third"
    assert [each.reason for each in told] == 3 * [
        "attempt 1 failed, OSError: gone", "attempt 2 failed, OSError: gone",
    ]  # fmt: skip


def test_a_slow_one_may_still_win_after_a_hedge_has_failed(attempts: Callable[..., Plain]) -> None:
    one, failing = hedging(delay=0), threading.Event()
    number = iter(range(2))

    def call() -> str:
        if next(number):
            failing.set()
            raise OSError("gone")
        assert failing.wait(LONG)
        return "slow"

    assert one.execute(call) == "slow"
    assert one.get_stats()["won_by_hedges"] == 0


ENDS = st.sampled_from(["good", "bad", "handled", "foreign"])


@given(ends=st.lists(ENDS, min_size=1, max_size=4), delay=st.sampled_from([LONG, math.inf]),
       run=st.sampled_from([None, in_asyncio, in_trio]))  # fmt: skip
def test_the_first_that_ends_well_wins_else_the_last_is_the_outcome(
    ends: list[str], delay: float, run: Run | None
) -> None:
    """Attempts one after another, as each that fails lets the next begin."""
    one = hedging(
        delay=delay, max_attempts=len(ends), handled_exceptions=OSError,
        handle_result=lambda result: result.startswith("bad"),
    )  # fmt: skip
    errors = {"handled": OSError, "foreign": KeyError}
    called = [
        errors[end](number) if end in errors else f"{end} {number}"
        for number, end in enumerate(ends)
    ]
    decisive = next(
        (number for number, end in enumerate(ends) if end in ("good", "foreign")), len(ends) - 1
    )
    plain = Plain(*called)
    try:
        result = one.execute(plain) if run is None else run(one, *called)[0]
    except (OSError, KeyError) as error:
        result = error
    assert result is called[decisive]
    stats = one.get_stats()
    assert stats["total_hedges"] == decisive
    assert stats["running_attempts"] == 0
    assert stats["won_by_hedges"] == (ends[decisive] in ("good", "foreign") and decisive > 0)


def test_a_function_says_how_long_to_wait(attempts: Callable[..., Plain]) -> None:
    asked: list[int] = []

    def delay(number: int) -> float:
        asked.append(number)
        return 0.0

    one = hedging(delay=delay, max_attempts=3)
    assert one.execute(attempts(..., ..., "third")) == "third"
    assert asked == [2, 3]


def test_a_budget_is_shared(attempts: Callable[..., Plain]) -> None:
    budget = RetryBudget(ratio=0.5, reserve=0.0)
    one = hedging(delay=math.inf, budget=budget)
    results = []
    for _ in range(4):
        try:
            results.append(one.execute(attempts(OSError("first"), "second")))
        except OSError as error:
            results.append(str(error))
    assert results == ["first", "second", "first", "second"]


@LOOPS
def test_who_is_cancelled_takes_all_attempts_along(run: Run) -> None:
    one = hedging(delay=0, max_attempts=2)
    in_loop = asyncio if run is in_asyncio else trio
    call = Coroutine(..., ..., sleep=in_loop.sleep)

    async def story() -> None:
        if run is in_asyncio:
            task = asyncio.create_task(one.execute(call))
            while call.begun < 2:  # noqa: ASYNC110  # no event of one loop will do for both
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.execute, call)
                    while call.begun < 2:
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

    asyncio.run(story()) if run is in_asyncio else trio.run(story)
    assert sorted(call.cancelled) == [0, 1]
    assert one.get_stats()["running_attempts"] == 0


def test_a_call_that_cancels_itself_passes_as_it_is() -> None:
    with pytest.raises(asyncio.CancelledError):
        in_asyncio(hedging(), asyncio.CancelledError(), "second")


def test_a_plain_function_that_returns_an_awaitable_is_hedged_too() -> None:
    one, call = hedging(delay=math.inf), Coroutine(OSError(), "second", sleep=asyncio.sleep)

    async def story() -> Any:
        return await one.execute(lambda: call())  # noqa: PLW0108  # which is no coroutine function

    assert asyncio.run(story()) == "second"
    assert one.get_stats()["total_calls"] == 1


def test_attempts_see_the_variables_of_their_caller(attempts: Callable[..., Plain]) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("of the caller")

    async def later() -> str:
        return variable.get()

    assert hedging().execute(variable.get) == "of the caller"
    assert asyncio.run(hedging()(later)()) == "of the caller"


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def limited(thread: threading.Thread) -> None:
        if thread.name in unavailable:
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)

    def call() -> str:
        assert refused.wait(LONG)
        return "first"

    one, unavailable = hedging(delay=0), {"prices: attempt 2"}
    assert one.execute(call) == "first"
    unavailable.add("prices: attempt 1")
    with pytest.raises(RuntimeError, match="can't start new thread"):
        one.execute(call)


async def alistener(_: HedgeStarted) -> None: ...


def test_listeners_that_are_coroutine_functions() -> None:
    one, told = hedging(delay=math.inf), []

    async def listener(event: HedgeStarted) -> None:
        await asyncio.sleep(0)
        told.append(event.attempt)

    remove = one.listeners.add(listener)
    assert in_asyncio(one, OSError(), "second")[0] == "second"
    assert told == [2]
    for refused in (lambda: one.execute(int), lambda: one(int)):
        with pytest.raises(TypeError, match="cannot await"):
            refused()
    remove()
    assert one(int)() == 0
    with pytest.raises(TypeError, match="cannot await"):
        one.listeners.add(alistener)


def generator() -> Iterator[int]:
    yield 1


def test_misuse() -> None:
    for use in (hedging(), hedging().execute):
        with pytest.raises(TypeError, match="generator function; two that run at once"):
            use(generator)
    with pytest.raises(TypeError, match="cannot be called"):
        hedging().execute(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config must be a HedgingConfig"):
        Hedging(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clock must have"):
        Hedging(clock=int)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("delay", -1), ("delay", "1"), ("delay", alistener), ("max_attempts", 0),
        ("max_attempts", 1.5), ("handled_exceptions", int), ("handle_result", 1), ("budget", 1),
    ],
)  # fmt: skip
def test_values_that_make_no_sense(field: str, value: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError), match=field):
        HedgingConfig(**{field: value})


def test_it_goes_into_a_pipeline() -> None:
    breaker = CircuitBreaker()
    pipeline = Pipeline(hedging(delay=math.inf), breaker)
    assert pipeline.call(Plain(OSError(), "second")) == "second"
    assert [step.kind for step in pipeline.describe()] == ["Hedging", "CircuitBreaker"]
    assert breaker.get_stats()["total_failures"] == 1

    async def later() -> str:
        return "later"

    assert asyncio.run(pipeline.call(later)) == "later"


@pytest.mark.parametrize("is_async", [False, True])
def test_no_error_is_kept(is_async: bool) -> None:
    class NotedError(Exception): ...

    gone: list[weakref.ref[Exception]] = []

    def fails() -> None:
        try:
            raise NotedError
        except NotedError as error:
            gone.append(weakref.ref(error))
            raise

    async def fails_async() -> None:
        fails()

    async def story(one: Hedging) -> None:  # asyncio keeps what a main task raises
        with pytest.raises(NotedError):
            await one.execute(fails_async)

    one = hedging(delay=math.inf)
    gc.collect()
    gc.disable()
    try:
        if is_async:
            asyncio.run(story(one))
        else:
            with pytest.raises(NotedError):
                one.execute(fails)
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()

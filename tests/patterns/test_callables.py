from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import math
import sys
import threading
import types

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any
from unittest import mock

import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadManager
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import CircuitBreakerRegistry
from pytest_resilience import CircuitState
from pytest_resilience import ConfigurationError
from pytest_resilience import DegradationManager
from pytest_resilience import FeatureFlag
from pytest_resilience import Hedging
from pytest_resilience import ManualClock
from pytest_resilience import RetryBudget
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience import ServiceFailureError
from pytest_resilience import ServiceLevel
from pytest_resilience import ShutdownError
from pytest_resilience import TimeLimitExceededError
from pytest_resilience.patterns import NOTHING
from pytest_resilience.patterns import BulkheadType
from pytest_resilience.patterns import Pipeline
from pytest_resilience.patterns import RateLimitBulkhead
from pytest_resilience.patterns import SemaphoreBulkhead
from pytest_resilience.patterns import ThreadPoolBulkhead
from pytest_resilience.patterns import TimeLimiter
from pytest_resilience.patterns.callables import FINISHED
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import EnteredBlocks
from pytest_resilience.patterns.callables import innermost
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of


def in_a_thread(func: Callable[[], object]) -> None:
    thread = threading.Thread(target=func)
    thread.start()
    thread.join()


def here(func: Callable[[], object]) -> None:
    func()


def state(breaker: CircuitBreaker) -> str:
    return breaker.state.value


def block(breaker: CircuitBreaker) -> Iterator[None]:
    with breaker:
        yield


def leave(entered: Iterator[None]) -> None:
    assert next(entered, "left") == "left"


def half_open_soon(**options: Any) -> tuple[CircuitBreaker, Iterator[None]]:
    """A breaker whose next call is a trial, and a block that was entered before it opened."""
    clock = ManualClock()
    config = CircuitBreakerConfig(success_threshold=1, timeout=10.0, **options)
    breaker = CircuitBreaker(config, clock=clock)
    earlier = block(breaker)
    next(earlier)
    breaker.open_for(0.0)
    clock.advance(1.0)
    return breaker, earlier


@pytest.mark.parametrize("where_trial", [here, in_a_thread])
@pytest.mark.parametrize("where_earlier", [here, in_a_thread])
def test_a_block_that_was_entered_earlier_is_no_trial_call(
    where_trial: Callable[[Callable[[], object]], None],
    where_earlier: Callable[[Callable[[], object]], None],
) -> None:
    def story() -> None:
        breaker, earlier = half_open_soon()
        trial = block(breaker)
        where_trial(lambda: next(trial))
        where_earlier(lambda: leave(earlier))
        assert state(breaker) == "HALF_OPEN"
        where_earlier(lambda: leave(trial))
        assert state(breaker) == "CLOSED"
        assert not breaker._trials

    contextvars.copy_context().run(story)  # which knows of a block that was left in a thread


def test_a_stack_of_contexts_is_left_by_another_frame() -> None:
    breaker, earlier = half_open_soon()
    earlier.close()  # type: ignore[attr-defined]
    breaker.open_for(0.0)
    stack = contextlib.ExitStack()
    stack.enter_context(breaker)
    assert state(breaker) == "HALF_OPEN"
    stack.close()
    assert state(breaker) == "CLOSED"
    assert not breaker._trials


def test_async_trial_calls_that_end_in_the_order_they_began() -> None:
    breaker, earlier = half_open_soon()
    leave(earlier)

    async def listen(_: object) -> None: ...

    async def trial() -> AsyncIterator[None]:
        async with breaker:
            yield

    async def main() -> None:
        for listener in (None, listen):
            if listener is not None:
                breaker.listeners.add(listener)
            begun = trial()
            await in_a_task(begun.__anext__())
            assert state(breaker) == "HALF_OPEN"
            await in_a_task(begun.aclose())  # type: ignore[attr-defined]
            assert state(breaker) == "HALF_OPEN"  # GeneratorExit says nothing
            async with breaker:
                pass
            assert state(breaker) == "CLOSED"
            breaker.open_for(0.0)

    asyncio.run(main())
    assert not breaker._trials


@contextlib.asynccontextmanager
async def limited(limiter: TimeLimiter) -> AsyncIterator[None]:
    async with limiter:
        yield


async def in_a_task(call: Any) -> None:
    await asyncio.create_task(call)


def test_a_limited_block_is_left_in_another_task() -> None:
    limiter = TimeLimiter(60.0)

    async def main() -> None:
        for manager in (limited(limiter), limiter):
            stack = contextlib.AsyncExitStack()
            await in_a_task(stack.enter_async_context(manager))
            await in_a_task(stack.aclose())
        dependency = limited(limiter)
        await in_a_task(dependency.__aenter__())
        await in_a_task(dependency.__aexit__(None, None, None))
        assert not limiter._blocks
        with pytest.raises(RuntimeError, match=r"^time limit: no block was entered that could be"):
            await limiter.__aexit__(None, None, None)

    asyncio.run(main())


def test_limited_blocks_that_are_left_in_the_order_they_were_entered() -> None:
    short, long = TimeLimiter(0.01), TimeLimiter(60.0)

    async def main() -> None:
        for first, second in ((short, long), (short, short)):
            one, other = limited(first), limited(second)
            await one.__aenter__()
            await other.__aenter__()
            await one.__aexit__(None, None, None)
            if second is long:
                await asyncio.sleep(0.02)  # were it the other's that had been left: cancelled
            await other.__aexit__(None, None, None)
        async with long, long:
            pass
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(long)
            await stack.enter_async_context(long)

    asyncio.run(main())
    assert not short._blocks
    assert not long._blocks
    assert long.get_stats()["exceeded_calls"] == 0


def test_blocks_that_are_never_left_are_not_kept_without_end() -> None:
    blocks = EnteredBlocks[int]()

    def enter(number: int) -> None:
        blocks.enter(sys._getframe(), number)

    for number in range(2500):
        enter(number)
    assert len(blocks) <= 1000
    assert blocks.leave_latest() == 2499


def plain() -> None: ...


async def coroutine() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Plain:
    def __call__(self) -> None: ...

    def method(self) -> None: ...

    async def later(self) -> None: ...

    @staticmethod
    def static() -> Iterator[int]:
        yield 1

    @classmethod
    async def of_class(cls) -> AsyncIterator[int]:
        yield 1


class CoroutineObject:
    async def __call__(self) -> None: ...


class Items:
    def __call__(self) -> Iterator[int]:
        yield 1


class PartialCall:
    __call__ = functools.partial(coroutine)


FUNCTIONS: list[Callable[..., Any]] = [
    plain, coroutine, generator, async_generator, lambda: None, len, int, dict, Plain,
    CoroutineObject, Plain(), CoroutineObject(), Items(), PartialCall(), Plain().method,
    Plain().later, Plain.static, Plain.of_class, [].append, str.upper, "a".upper,
    MethodType(coroutine, 1),
    MethodType(functools.partial(generator), 1),
    mock.Mock(), mock.MagicMock(), mock.AsyncMock(), functools.lru_cache(coroutine),
    functools.cache(plain), functools.partial(Plain().later),
]  # fmt: skip
FUNCTIONS += [functools.partial(each) for each in FUNCTIONS]
FUNCTIONS += [functools.wraps(coroutine)(lambda: None), functools.wraps(plain)(coroutine)]


def as_inspect_sees_it(func: Any) -> CallKind:
    """Slowly: what `kind_of` must agree with."""
    while isinstance(func, functools.partial):
        func = func.func
    for candidate in (func, getattr(type(func), "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(candidate):
            return CallKind.COROUTINE
        if inspect.isasyncgenfunction(candidate):
            return CallKind.ASYNC_GENERATOR
        if inspect.isgeneratorfunction(candidate):
            return CallKind.GENERATOR
    return CallKind.PLAIN


@pytest.mark.parametrize("func", FUNCTIONS, ids=lambda each: type(each).__name__)
def test_the_kind_is_the_one_that_inspect_sees(func: Any) -> None:
    kind = kind_of(func)
    assert kind is as_inspect_sees_it(func)


def test_each_kind_is_among_them() -> None:
    assert {kind_of(func) for func in FUNCTIONS} == set(CallKind)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="functions cannot be marked before 3.12")
def test_functions_that_are_marked_as_coroutine_functions() -> None:
    marked = Plain()
    for func in (lambda: coroutine(), Plain().method, marked):  # noqa: PLW0108  # a new one
        assert kind_of(func) is CallKind.PLAIN
        inspect.markcoroutinefunction(func)  # type: ignore[attr-defined,unused-ignore]
        assert kind_of(func) is CallKind.COROUTINE


CALLERS: list[Callable[..., Any]] = [
    CircuitBreaker().call, RetryHandler().execute, SemaphoreBulkhead().execute,
    RateLimitBulkhead().execute, TimeLimiter(1).execute, Pipeline().call,
]  # fmt: skip


@pytest.mark.parametrize("caller", CALLERS, ids=lambda each: each.__qualname__)
@pytest.mark.parametrize("func", [plain, coroutine, generator, async_generator])
def test_what_calls_first_argument_argument_is_of_that_ones_kind(caller: Any, func: Any) -> None:
    assert kind_of(caller, (func, 1)) is kind_of(func)
    assert kind_of(functools.partial(caller, func), (1,)) is kind_of(func)
    assert kind_of(caller, (*CALLERS, func)) is kind_of(func)
    assert innermost(caller, (*CALLERS, func, 1)) is func
    assert kind_of(caller) is CallKind.PLAIN


# Plain functions that return what has yet to be awaited.


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def answer(outcome: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class Later:
    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def __await__(self) -> Any:
        return answer(self.outcome).__await__()


class Caller:
    def __call__(self, outcome: Any) -> Any:
        return answer(outcome)


@types.coroutine
def old_style(outcome: Any) -> Any:
    return (yield from answer(outcome).__await__())


def future(outcome: Any) -> asyncio.Future[Any]:
    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    if isinstance(outcome, BaseException):
        made.set_exception(outcome)
    else:
        made.set_result(outcome)
    return made


ASYNC_WITHOUT_DEF: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda outcome: answer(outcome),  # noqa: PLW0108  # it is what is tried
    "task": lambda outcome: asyncio.ensure_future(answer(outcome)),
    "future": future,
    "awaitable object": Later,
    "wraps": functools.wraps(answer)(lambda outcome: answer(outcome)),  # noqa: PLW0108
    "singledispatch": functools.singledispatch(answer),
    "callable object": Caller(),
    "partial": functools.partial(Caller()),
    "types.coroutine": old_style,
}
without_def = pytest.mark.parametrize(
    "func", ASYNC_WITHOUT_DEF.values(), ids=ASYNC_WITHOUT_DEF.keys()
)


def ways(pattern: Any, execute: Callable[..., Any]) -> list[Callable[[Any], Any]]:
    """As a decorator and as a call; the function is given by the test."""
    return [pattern, lambda func: functools.partial(execute, func)]


@without_def
@pytest.mark.parametrize("way", [0, 1])
@in_a_loop
async def test_a_breaker_sees_how_what_is_returned_ends(func: Any, way: int) -> None:
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=2))
    call = ways(breaker, breaker.call)[way](func)
    assert await call("well") == "well"
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            await call(OSError("down"))
    assert breaker.state is CircuitState.OPEN
    with pytest.raises(CircuitBreakerError):
        await call("well")


@in_a_loop
async def test_a_breaker_leaves_a_task_what_it_is() -> None:
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1))
    task = breaker.call(lambda: asyncio.ensure_future(answer(OSError())))
    assert isinstance(task, asyncio.Task)
    await asyncio.wait({task})
    assert breaker.state is CircuitState.OPEN


@in_a_loop
async def test_a_breaker_judges_the_result_that_is_awaited() -> None:
    breaker = CircuitBreaker(
        CircuitBreakerConfig(failure_threshold=1, is_failed_result=lambda result: result == 503)
    )
    assert await breaker.call(lambda: answer(503)) == 503
    assert breaker.state is CircuitState.OPEN


@without_def
@pytest.mark.parametrize("way", [0, 1])
@in_a_loop
async def test_a_retry_tries_again_what_is_returned(func: Any, way: int) -> None:
    handler = RetryHandler(RetryConfig(max_attempts=2, base_delay=0))
    outcomes: list[Any] = [OSError("down"), "well"]
    call = ways(handler, handler.execute)[way](lambda: func(outcomes.pop(0)))
    assert await call() == "well"


@without_def
@pytest.mark.parametrize("way", [0, 1])
@in_a_loop
async def test_a_semaphore_holds_a_slot_for_what_is_returned(func: Any, way: int) -> None:
    slots = SemaphoreBulkhead(BulkheadConfig(2))
    call = ways(slots, slots.execute)[way](func)
    assert await call("well") == "well"
    with pytest.raises(OSError, match="down"):
        await call(OSError("down"))
    assert slots.get_stats()["active_count"] == 0
    assert slots.get_stats()["total_acquired"] == 2


class NeverBlocks:
    """The clock of a loop, in which nobody may sleep but by awaiting it."""

    def __init__(self) -> None:
        self._clock = ManualClock()
        self.sleeps = self._clock.sleeps
        self.monotonic, self.time = self._clock.monotonic, self._clock.time
        self.asleep = self._clock.asleep

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"the loop would have stopped for {seconds} s")


@without_def
@pytest.mark.parametrize("executed", [False, True])
@in_a_loop
async def test_no_loop_stops_while_what_is_returned_waits_for_its_turn(
    func: Callable[[Any], Any], executed: bool
) -> None:
    clock, another = NeverBlocks(), NeverBlocks()
    retry = RetryHandler(RetryConfig(max_attempts=2, jitter=False), clock=clock)
    limit = RateLimitBulkhead(BulkheadConfig(2, max_wait=60.0, window_size=60.0), clock=another)
    slots, taken = SemaphoreBulkhead(BulkheadConfig(1, max_wait=5.0)), asyncio.Event()
    calls = 0

    def flaky(outcome: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError
        return func(outcome)

    async def hold() -> None:
        async with slots:
            await taken.wait()

    def way(pattern: Any, func: Any) -> Callable[[Any], Any]:
        return partial(pattern.execute, func) if executed else pattern(func)

    # What is executed may be a coroutine function: the retry would pay for finding out.
    retried, limited, held = retry(flaky), way(limit, func), way(slots, func)
    for number in range(4):
        assert await retried(number) == await limited(number) == number
        begun = asyncio.create_task(hold()) if number else None
        await asyncio.sleep(0)
        call = held(number)
        asyncio.get_running_loop().call_soon(taken.set)
        assert await call == number
        taken.clear()
        if begun is not None:
            await begun
    assert (clock.sleeps, another.sleeps) == ([1.0], [60.0])


@pytest.mark.parametrize("name", ["lambda", "task", "awaitable object", "method"])
@in_a_loop
async def test_no_more_than_the_slots_run_at_once(name: str) -> None:
    slots, running, most = SemaphoreBulkhead(BulkheadConfig(2, max_wait=math.inf)), 0, 0

    class Work:
        async def run(self) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(3):
                await asyncio.sleep(0)
            running -= 1

        def __await__(self) -> Any:
            return self.run().__await__()

        @classmethod
        def started(cls) -> Any:
            return cls().run()

    starts: dict[str, Callable[[], Any]] = {
        "task": lambda: asyncio.ensure_future(Work().run()),
        "awaitable object": Work,
        "lambda": lambda: Work().run(),
        "method": Work.started,
    }
    calls = 2 if name == "task" else 6  # a task that finds no slot would wait in the thread
    await asyncio.gather(*[slots.execute(starts[name]) for _ in range(calls)])
    assert most == 2
    assert slots.get_stats()["active_count"] == 0


@in_a_loop
async def test_what_is_never_awaited_keeps_no_slot() -> None:
    slots = SemaphoreBulkhead(BulkheadConfig(1))
    never: Any = slots.execute(lambda: Later(1))
    never.close()
    with pytest.raises(BulkheadRejectedError):
        async with slots:
            await slots(lambda: answer(1))()
    assert slots.get_stats()["active_count"] == 0


@without_def
@in_a_loop
async def test_a_primary_and_a_fallback_are_awaited(func: Any) -> None:
    manager = DegradationManager()
    manager.register_feature(FeatureFlag("prices"))

    async def call(primary: Any, fallback: Any = None, default: Any = NOTHING) -> Any:
        return await manager.execute_with_degradation("prices", primary, fallback, default)

    down = functools.partial(func, OSError("down"))
    assert await call(functools.partial(func, "well")) == "well"
    for _ in range(2):  # the second time it is not called
        assert await call(down, functools.partial(func, "cached")) == "cached"
        assert await call(down, lambda: "cached") == "cached"
        assert await call(down, down, "default") == "default"
        assert await call(down, default="default") == "default"
    assert manager.service_health["prices"] is ServiceLevel.DEGRADED
    with pytest.raises(ServiceFailureError):
        await call(down)


@in_a_loop
async def test_a_health_check_is_awaited() -> None:
    manager = DegradationManager(clock=ManualClock())
    manager.register_feature(FeatureFlag("a", health_check=lambda: answer(False)))
    manager.register_feature(FeatureFlag("b", health_check=lambda: answer(False)))
    assert manager.check_service_health("a") is ServiceLevel.FULL  # it cannot run here
    for name in "ab":
        assert await manager.check_service_health_async(name) is ServiceLevel.DEGRADED


@in_a_loop
async def test_a_time_limit_is_for_what_is_returned() -> None:
    limiter = TimeLimiter(0.001)
    with pytest.raises(TimeLimitExceededError):
        await limiter.execute(lambda: asyncio.sleep(60))
    assert await TimeLimiter(60)(Later)(1) == 1


def test_a_pool_refuses_what_has_to_be_awaited() -> None:
    pool = ThreadPoolBulkhead()
    with pytest.raises(TypeError, match=r"which a thread cannot run; use a SemaphoreBulkhead$"):
        pool.submit(ASYNC_WITHOUT_DEF["lambda"], 1).result()
    pool.shutdown()


@in_a_loop
async def test_a_pipeline_sees_through_all_of_its_parts() -> None:
    retry = RetryHandler(RetryConfig(max_attempts=3, base_delay=0))
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=2))
    call = Pipeline(retry, breaker, SemaphoreBulkhead())(lambda: answer(OSError()))
    with pytest.raises(RetryExhaustedError) as raised:
        await call()
    assert raised.value.attempts == 3
    assert breaker.state is CircuitState.OPEN


@pytest.mark.parametrize("func", [plain, coroutine, generator, async_generator])
@pytest.mark.parametrize(
    "pattern", [CircuitBreaker(), RateLimitBulkhead()], ids=lambda each: type(each).__name__
)
def test_a_decorated_function_is_of_the_kind_it_was(func: Any, pattern: Any) -> None:
    assert kind_of(pattern(func)) is kind_of(func)
    assert as_inspect_sees_it(pattern(func)) is kind_of(func)


@in_a_loop
async def test_a_limited_generator_counts_when_it_is_iterated() -> None:
    limit = RateLimitBulkhead(BulkheadConfig(2))
    items, aitems = limit(generator)(), limit.execute(async_generator)
    assert limit.get_stats()["current_rate"] == 0
    assert list(items) == [1]
    assert [item async for item in aitems] == [1]
    assert limit.get_stats()["current_rate"] == 2
    with pytest.raises(BulkheadRejectedError):
        next(limit(generator)())


def test_types_of_results_are_not_kept_for_ever() -> None:
    for _ in range(2100):
        assert not is_awaitable(type("Result", (), {})())
    assert len(FINISHED) <= 1000
    assert {int, dict} <= FINISHED


@pytest.mark.parametrize("field", ["is_failure", "is_failed_result", "timeout"])
def test_a_predicate_is_no_coroutine_function(field: str) -> None:
    with pytest.raises(TypeError, match=f"^{field} must be a plain function"):
        CircuitBreakerConfig(**{field: coroutine})  # type: ignore[arg-type]


# Arguments.


def named(func: str, *, self: str, args: str, kwargs: str) -> tuple[str, ...]:
    return func, self, args, kwargs


async def anamed(func: str, *, self: str, args: str, kwargs: str) -> tuple[str, ...]:
    return func, self, args, kwargs


BY_NAME: dict[str, Any] = {
    "breaker": CircuitBreaker().call,
    "retry": RetryHandler().execute,
    "semaphore": SemaphoreBulkhead().execute,
    "rate limit": RateLimitBulkhead().execute,
    "time limit": TimeLimiter(60).execute,
    "pipeline": Pipeline(RetryHandler(), CircuitBreaker()).call,
    "pipeline of others": Pipeline(RetryHandler(), functools.lru_cache).call,
}


@pytest.mark.parametrize("way", BY_NAME)
@in_a_loop
async def test_a_function_may_name_its_parameters_as_it_likes(way: str) -> None:
    given: dict[str, Any] = {"func": "a", "self": "b", "args": "c", "kwargs": "d"}
    assert BY_NAME[way](named, **given) == ("a", "b", "c", "d")
    assert await BY_NAME[way](anamed, **given) == ("a", "b", "c", "d")


def test_so_may_one_that_a_pool_runs() -> None:
    given: dict[str, Any] = {"func": "a", "self": "b", "args": "c", "kwargs": "d"}
    with ThreadPoolBulkhead() as pool:
        results = [
            pool.execute(named, **given),
            pool.submit(named, **given).result(),
            asyncio.run(pool.execute_async(named, **given)),
            Pipeline(pool).call(named, **given),
        ]
    assert results == [("a", "b", "c", "d")] * 4


# Misuse.


PATTERNS: list[Callable[[], Any]] = [
    CircuitBreaker, RetryHandler, SemaphoreBulkhead, RateLimitBulkhead, ThreadPoolBulkhead,
    Hedging,
]  # fmt: skip
each_pattern = pytest.mark.parametrize("make", PATTERNS, ids=lambda each: each.__name__)


@each_pattern
def test_what_is_no_function_is_refused(make: Callable[[], Any]) -> None:
    pattern = make()
    begun = coroutine()
    things: list[tuple[Any, str]] = [
        (None, "give it a function"),
        (3, "give it a function"),
        (vars(Plain)["of_class"], "put @classmethod above the pattern's decorator"),
        (begun, "give it the function and its arguments"),
    ]
    for thing, advice in things:
        call = pattern.call if hasattr(pattern, "call") else pattern.execute
        for way in (pattern, call):
            with pytest.raises(TypeError, match=f"cannot be called; {advice}"):
                way(thing)
    begun.close()


@each_pattern
@pytest.mark.parametrize("config", [DegradationManager(), 3, FeatureFlag("a")])
def test_a_config_of_another_kind_is_refused(make: Any, config: Any) -> None:
    with pytest.raises(TypeError, match=r"^config must be a \w+Config or None, not "):
        make(config)


@each_pattern
def test_a_clock_that_is_none_is_refused(make: Any) -> None:
    with pytest.raises(TypeError, match=r"^clock must have monotonic"):
        make(clock=math.sqrt)


@pytest.mark.parametrize(
    "make",
    [
        BulkheadManager, CircuitBreakerRegistry, DegradationManager, RetryBudget, Hedging,
        partial(TimeLimiter, 1.0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("clock", [math.sqrt, 1.0, None])
def test_a_clock_that_is_none_is_refused_by_all_that_take_one(make: Any, clock: Any) -> None:
    with pytest.raises(TypeError, match=r"^clock must have monotonic"):
        make(clock=clock)


@each_pattern
def test_a_name_that_is_no_text_is_refused(make: Any) -> None:
    with pytest.raises(TypeError, match=r"^name must be a text, not 3"):
        make(name=3)


def test_a_clock_that_was_not_made_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^clock must have monotonic"):
        CircuitBreaker(clock=ManualClock)  # type: ignore[arg-type]


@each_pattern
def test_a_pattern_that_was_not_made_is_refused(make: Any) -> None:
    with pytest.raises(TypeError, match=r"make the pattern first, with parentheses$"):
        make(plain)
    with pytest.raises(TypeError, match=r"is a class; give it one of its patterns, as \w+\(\)"):
        Pipeline(make)


@each_pattern
@pytest.mark.parametrize("listener", [None, 3])
def test_a_listener_that_is_no_function_is_refused(make: Any, listener: Any) -> None:
    with pytest.raises(TypeError, match=rf"^a listener must be a function, not {listener}"):
        make().listeners.add(listener)


def test_a_feature_that_is_none_is_refused() -> None:
    manager = DegradationManager()
    for give in (manager.register_feature, manager.replace_feature):
        with pytest.raises(TypeError, match=r"^feature must be a FeatureFlag, not 'prices'"):
            give("prices")  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [RetryConfig(), 3])
def test_a_registry_refuses_a_config_of_another_kind(config: Any) -> None:
    breakers, bulkheads = CircuitBreakerRegistry(), BulkheadManager()
    breakers.create("known")
    bulkheads.create_bulkhead("known")
    for make in (breakers.create, breakers.get_or_create, bulkheads.create_bulkhead,
                 bulkheads.get_or_create_bulkhead):  # fmt: skip
        with pytest.raises(TypeError, match=r"^config must be a \w+Config or None, not "):
            make("new", config)
    for replace in (breakers.replace, bulkheads.replace_bulkhead):
        with pytest.raises(TypeError, match=r"^config must be a \w+Config or None, not "):
            replace("known", config)
    assert (breakers.names, [*bulkheads.bulkheads]) == (("known",), ["known"])


def test_a_bulkhead_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"a SemaphoreBulkhead needs BulkheadType\.SEMA"):
        SemaphoreBulkhead(BulkheadConfig(bulkhead_type=BulkheadType.RATE_LIMIT))
    with pytest.raises(ConfigurationError, match=r"a RateLimitBulkhead needs BulkheadType\.RATE_"):
        RateLimitBulkhead(BulkheadConfig(bulkhead_type=BulkheadType.SEMAPHORE))


def test_a_manager_is_left_shut_down() -> None:
    with BulkheadManager() as manager:
        pool = manager.create_bulkhead("db")
    with pytest.raises(ShutdownError):
        pool.execute(int)


def test_a_registry_creates_with_a_config_once() -> None:
    registry, config = CircuitBreakerRegistry(), CircuitBreakerConfig(failure_threshold=1)
    assert registry.get_or_create("prices", config).config is config
    assert registry.get_or_create("prices").config is config


@pytest.mark.parametrize("is_async", [False, True])
def test_a_rate_limit_waits(is_async: bool) -> None:
    clock = ManualClock()
    limit = RateLimitBulkhead(BulkheadConfig(2, max_wait=60.0, window_size=60.0), clock=clock)
    patient: Any = limit(coroutine if is_async else plain)
    for _ in range(5):
        asyncio.run(patient()) if is_async else patient()
    assert clock.sleeps == [60.0, 60.0]
    with limit:
        pass
    hasty = RateLimitBulkhead(BulkheadConfig(1, max_wait=59.0), clock=clock)
    hasty.acquire()
    with pytest.raises(BulkheadRejectedError, match="try again in 60 s"):
        hasty.acquire()
    assert clock.sleeps == [60.0, 60.0]


def test_the_last_error_itself_for_those_who_say_so() -> None:
    handler = RetryHandler(RetryConfig(max_attempts=2, base_delay=0, reraise=True))
    error = OSError("down")

    def fail() -> None:
        raise error

    with pytest.raises(OSError, match="down") as caught:
        handler.execute(fail)
    assert caught.value is error
    with pytest.raises(OSError, match="down") as caught:
        handler(fail)()
    assert caught.value is error
    assert handler.events[-1].attempt == 2
    unwanted = RetryConfig(max_attempts=1, reraise=True, retry_on_result=lambda _: True)
    with pytest.raises(RetryExhaustedError):
        RetryHandler(unwanted).execute(int)

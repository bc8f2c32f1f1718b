"""What each way into the patterns costs, beside nothing and beside the best of others.

`python benchmarks/patterns.py [runs]`, with the `test` extra installed; takes some ten seconds
a run. Everything happens in one process, on one CPU, in turns. Each figure is a ratio: to a
wrapper that does nothing (`functools.wraps` and a try/except) unless its name says to what.
It is the median of a run's rounds; the middle one of all runs is shown, with the least and
the greatest beside it. The lines that begin with a space are other libraries, for comparison.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import threading
import time
import warnings

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import aiolimiter
import backoff
import circuitbreaker  # type: ignore[import-untyped]
import fluxgate
import fluxgate.windows
import interlock
import limits
import pybreaker
import stamina
import tenacity

from clients import async_clients
from clients import clients
from figures import pin
from forms import AsyncFunc
from forms import Form
from forms import Func
from forms import aattempts
from forms import aattempts_awaited
from forms import ablock
from forms import aform
from forms import aitems
from forms import attempts
from forms import awalk
from forms import awork
from forms import block
from forms import items
from forms import plain
from forms import walk
from forms import work
from side_by_side import async_ratios
from side_by_side import ratios

from pytest_resilience.patterns import BulkheadConfig
from pytest_resilience.patterns import BulkheadManager
from pytest_resilience.patterns import BulkheadType
from pytest_resilience.patterns import CircuitBreaker
from pytest_resilience.patterns import CircuitBreakerConfig
from pytest_resilience.patterns import CircuitBreakerError
from pytest_resilience.patterns import CircuitBreakerRegistry
from pytest_resilience.patterns import DegradationManager
from pytest_resilience.patterns import FeatureFlag
from pytest_resilience.patterns import Hedging
from pytest_resilience.patterns import Pipeline
from pytest_resilience.patterns import RateLimitBulkhead
from pytest_resilience.patterns import RetryBudget
from pytest_resilience.patterns import RetryConfig
from pytest_resilience.patterns import RetryHandler
from pytest_resilience.patterns import SemaphoreBulkhead
from pytest_resilience.patterns import ThreadPoolBulkhead
from pytest_resilience.patterns import TimeLimiter


RUNS = 5
THREADS = 32
THREAD_CALLS = 20  # of one thread, a millisecond each
THREAD_ROUNDS = 9


# What each kind of breaker may cost: as a decorator, by `call`, by `with`, and by `acquire`.
KINDS: dict[str, tuple[CircuitBreakerConfig, tuple[float, float, float, float]]] = {
    "breaker": (CircuitBreakerConfig(), (1.3, 3.0, 5.0, 5.0)),
    "breaker, count window": (
        CircuitBreakerConfig(failure_rate_threshold=0.5, window_size=100),
        (1.5, 3.0, 5.0, 5.0),
    ),
    "breaker, time window": (
        CircuitBreakerConfig(failure_rate_threshold=0.5, window_seconds=60.0),
        (6.0, 6.0, 6.0, 6.0),
    ),
    "breaker, slow calls": (
        CircuitBreakerConfig(slow_call_duration=60.0),
        (6.0, 6.0, 6.0, 6.0),
    ),
    "breaker, slow calls in a time window": (
        CircuitBreakerConfig(
            slow_call_duration=60.0, slow_call_rate_threshold=0.5, window_seconds=60.0
        ),
        (6.0, 6.0, 6.0, 6.0),
    ),
}


def permitted(breaker: CircuitBreaker) -> Func:
    def call(number: int) -> int:
        permit = breaker.acquire()
        result = work(number)
        permit.returned(result)
        return result

    return call


def apermitted(breaker: CircuitBreaker) -> AsyncFunc:
    async def call(number: int) -> int:
        permit = await breaker.acquire_async()
        result = await awork(number)
        permit.returned(result)
        return result

    return call


def breakers() -> dict[str, Form]:
    """Calls that a closed breaker lets through."""
    forms = {}
    for kind, (config, (decorator, call, with_, acquire)) in KINDS.items():
        ours = CircuitBreaker(config)
        forms |= {
            f"{kind}, decorator": Form(ours(work), decorator),
            f"{kind}, call": Form(partial(ours.call, work), call),
            f"{kind}, with": Form(block(ours), with_),
            f"{kind}, acquire": Form(permitted(ours), acquire),
        }
    breaker = CircuitBreaker()
    forms["breaker, generator / generator"] = Form(walk(breaker(items)), None, walk(plain(items)))
    return forms | other_breakers()


def other_breakers() -> dict[str, Form]:
    peer, other = circuitbreaker.CircuitBreaker(name="peer"), pybreaker.CircuitBreaker()
    timed = interlock.Config(window_type=interlock.WindowType.TIME_BASED, window_size=60)
    tenths, flux = (
        fluxgate.CircuitBreaker(fluxgate.windows.TimeWindow(60)),
        fluxgate.CircuitBreaker(),
    )
    locked, locked_by_time = (
        interlock.CircuitBreaker(name="a"),
        interlock.CircuitBreaker(name="b", config=timed),
    )

    def calling(number: int) -> int:
        with other.calling():
            return work(number)

    return {
        "  circuitbreaker, decorator": Form(peer(work)),
        "  circuitbreaker, call": Form(partial(peer.call, work)),
        "  circuitbreaker, with (is never refused)": Form(block(peer)),
        "  pybreaker, decorator": Form(other(work)),
        "  pybreaker, call": Form(partial(other.call, work)),
        "  pybreaker, with": Form(calling),
        "  interlock-cb, count window, decorator": Form(locked(work)),
        "  interlock-cb, count window, call": Form(partial(locked.call, work)),
        "  interlock-cb, count window, with": Form(block(locked)),
        "  interlock-cb, time window, decorator": Form(locked_by_time(work)),
        "  interlock-cb, time window, call": Form(partial(locked_by_time.call, work)),
        "  interlock-cb, time window, with": Form(block(locked_by_time)),
        "  fluxgate, count window, decorator": Form(flux(work)),
        "  fluxgate, count window, call": Form(partial(flux.call, work)),
        "  fluxgate, time window, decorator": Form(tenths(work)),
        "  fluxgate, time window, call": Form(partial(tenths.call, work)),
    }


def listened() -> dict[str, Form]:
    """What listening to single calls costs, beside a breaker that nobody has listened to."""
    never, left, once, heard = (CircuitBreaker() for _ in range(4))
    left.call_listeners.add(id)()  # who came is gone
    once.listeners.add(id)  # of transitions: there is none
    heard.call_listeners.add(id)
    counted = CircuitBreaker(CircuitBreakerConfig(count_calls=True))
    beside = "/ nobody has listened"
    forms: dict[str, Form] = {}
    for name, ours, target in (
        ("nobody listens any more", left, 1.1),
        ("somebody listens to transitions", once, 1.1),
        ("somebody listens to calls", heard, None),
        ("calls are counted", counted, None),
    ):
        forms[f"{name}, decorator {beside}"] = Form(ours(work), target, never(work))
        call = partial(never.call, work)
        forms[f"{name}, call {beside}"] = Form(partial(ours.call, work), target, call)
        forms[f"{name}, with {beside}"] = Form(block(ours), target, block(never))
    return forms


def async_breakers() -> dict[str, Form]:
    forms = {}
    for kind, (config, (decorator, call, with_, acquire)) in KINDS.items():
        ours = CircuitBreaker(config)
        forms |= {
            f"{kind}, async decorator": aform(ours(awork), decorator),
            f"{kind}, await call": aform(partial(ours.call, awork), call),
            f"{kind}, async with": aform(ablock(ours), with_),
            f"{kind}, acquire_async": aform(apermitted(ours), acquire),
        }
    breaker, peer = CircuitBreaker(), circuitbreaker.CircuitBreaker(name="async peer")
    locked, flux = interlock.CircuitBreaker(name="c"), fluxgate.AsyncCircuitBreaker()
    return forms | {
        "breaker, async generator / async generator": aform(
            awalk(breaker(aitems)), None, awalk(aitems)
        ),
        "  circuitbreaker, async decorator": aform(peer(awork)),
        "  circuitbreaker, await call_async": aform(partial(peer.call_async, awork)),
        "  interlock-cb, count window, async decorator": aform(locked(awork)),
        "  interlock-cb, count window, await call": aform(partial(locked.call, awork)),
        "  interlock-cb, count window, async with": aform(ablock(locked)),
        "  fluxgate, count window, async decorator": aform(flux(awork)),
        "  fluxgate, count window, await call": aform(partial(flux.call, awork)),
    }


def retries() -> dict[str, Form]:
    """Calls that succeed the first time."""
    handler, again = RetryHandler(), tenacity.Retrying(stop=tenacity.stop_after_attempt(3))
    counted = RetryHandler(RetryConfig(max_elapsed=60, budget=RetryBudget()))
    caller = stamina.RetryingCaller(attempts=3)
    return {
        "retry, decorator": Form(handler(work), 1.6),
        "retry, execute": Form(partial(handler.execute, work), 3.0),
        "retry, for attempt": Form(attempts(handler), 7.0),
        "retry with max_elapsed and a budget, decorator": Form(counted(work)),
        "retry with max_elapsed and a budget, execute": Form(partial(counted.execute, work)),
        "  backoff, decorator": Form(
            backoff.on_exception(backoff.expo, OSError, max_tries=3)(work)
        ),
        "  tenacity, decorator": Form(again.wraps(work)),
        "  tenacity, call": Form(partial(again, work)),
        "  tenacity, for attempt": Form(attempts(again)),
        "  stamina, decorator": Form(stamina.retry(on=OSError, attempts=3)(work)),
        "  stamina, call": Form(lambda number: caller(OSError, work, number)),
    }


def async_retries() -> dict[str, Form]:
    handler, again = RetryHandler(), tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(3))
    counted = RetryHandler(RetryConfig(max_elapsed=60, budget=RetryBudget()))
    return {
        "retry, async decorator": aform(handler(awork), 1.6),
        "retry, await execute": aform(partial(handler.execute, awork), 3.0),
        "retry, async for attempt": aform(aattempts(handler), 7.0),
        "retry, async for attempt, async with": aform(aattempts_awaited(handler), 7.0),
        "retry with max_elapsed and a budget, async decorator": aform(counted(awork)),
        "  backoff, async decorator": aform(
            backoff.on_exception(backoff.expo, OSError, max_tries=3)(awork)
        ),
        "  tenacity, async decorator": aform(again.wraps(awork)),
        "  tenacity, await call": aform(partial(again, awork)),
        "  tenacity, async for attempt": aform(aattempts(again)),
    }


def rate(places: int = 10**7) -> RateLimitBulkhead:
    # With few places the window is full all the time, and they are renewed when it is over.
    return RateLimitBulkhead(BulkheadConfig(max_concurrent=places, window_size=1e-5))


def bulkheads() -> dict[str, Form]:
    """Calls that find room."""
    places, limit = SemaphoreBulkhead(), rate()
    window = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())

    def held(number: int) -> int:
        places.acquire()
        try:
            return work(number)
        finally:
            places.release()

    def acquired(number: int) -> int:
        limit.acquire()
        return work(number)

    def heavy(number: int) -> int:
        limit.acquire(3)
        return work(number)

    def hit(number: int) -> int:
        assert window.hit(limits.RateLimitItemPerSecond(10**7))
        return work(number)

    return {
        "semaphore, decorator": Form(places(work), 2.0),
        "semaphore, execute": Form(partial(places.execute, work), 4.5),
        "semaphore, with": Form(block(places), 6.0),
        "semaphore, acquire and release": Form(held, 6.0),
        "  threading.Semaphore, with": Form(block(threading.Semaphore(10))),
        "rate limit, decorator": Form(limit(work), 2.2),
        "rate limit, execute": Form(partial(limit.execute, work), 4.0),
        "rate limit, with": Form(block(limit), 4.0),
        "rate limit, acquire": Form(acquired, 4.0),
        "rate limit, acquire with a weight": Form(heavy),
        "rate limit, weighing, decorator": Form(limit.weighing(3)(work)),
        "rate limit with a full window, decorator": Form(rate(1000)(work), 4.0),
        "  limits, fixed window, hit": Form(hit),
    }


def pools() -> dict[str, Form]:
    """Calls in threads, beside those of a pool of the standard library."""
    pool, executor = ThreadPoolBulkhead(), ThreadPoolExecutor(10)

    def submitted(number: int) -> int:
        return executor.submit(work, number).result()

    def in_pool(number: int) -> int:
        return pool.submit(work, number).result()

    beside = "/ submit().result()"
    return {
        f"thread pool, decorator {beside}": Form(pool(work), 1.3, submitted),
        f"thread pool, execute {beside}": Form(partial(pool.execute, work), 1.3, submitted),
        f"thread pool, submit().result() {beside}": Form(in_pool, 1.3, submitted),
    }


def async_bulkheads() -> dict[str, Form]:
    places, limit, pool = SemaphoreBulkhead(), rate(), ThreadPoolBulkhead()
    executor, limiter = ThreadPoolExecutor(10), aiolimiter.AsyncLimiter(10**9, 1e-3)
    semaphore = ablock(asyncio.Semaphore(10))

    async def in_executor(number: int) -> int:
        return await asyncio.get_running_loop().run_in_executor(executor, work, number)

    async def in_pool(number: int) -> int:
        return await pool.execute_async(work, number)

    async def held(number: int) -> int:
        await places.acquire_async()
        try:
            return await awork(number)
        finally:
            places.release()

    beside = "/ asyncio.Semaphore, async with"
    return {
        f"semaphore, async decorator {beside}": aform(places(awork), 1.5, semaphore),
        f"semaphore, async with {beside}": aform(ablock(places), 1.5, semaphore),
        "semaphore, async decorator": aform(places(awork), 4.5),
        "semaphore, await execute": aform(partial(places.execute, awork), 4.5),
        "semaphore, async with": aform(ablock(places), 6.0),
        "semaphore, acquire_async and release": aform(held, 6.0),
        "  asyncio.Semaphore, async with": aform(semaphore),
        "rate limit, async decorator": aform(limit(awork), 4.0),
        "rate limit, await execute": aform(partial(limit.execute, awork), 4.0),
        "rate limit, async with": aform(ablock(limit), 4.0),
        "  aiolimiter, async with": aform(ablock(limiter)),
        "thread pool, execute_async / run_in_executor": aform(in_pool, None, in_executor),
    }


def degrading(manager: DegradationManager) -> Func:
    return lambda _number: manager.execute_with_degradation("prices", answer, answer, 0)


def answer() -> int:
    return 1


async def aanswer() -> int:
    return 1


def degradations() -> dict[str, Form]:
    """Calls of a service that is well."""
    unchecked, checked = DegradationManager(), DegradationManager(health_check_cache=3600)
    unchecked.register_feature(FeatureFlag("prices"))
    checked.register_feature(FeatureFlag("prices", health_check=lambda: True))
    return {
        "degradation, execute_with_degradation": Form(degrading(unchecked), 8.0),
        "degradation, cached health check": Form(degrading(checked), 10.0),
        "degradation, check_service_health, cached": Form(
            lambda _: checked.check_service_health("prices"), 10.0
        ),
    }


def async_degradations() -> dict[str, Form]:
    unchecked, checked = DegradationManager(), DegradationManager(health_check_cache=3600)
    unchecked.register_feature(FeatureFlag("prices"))
    checked.register_feature(FeatureFlag("prices", health_check=lambda: True))

    def degrading_async(manager: DegradationManager) -> AsyncFunc:
        async def call(_number: int) -> Any:
            return await manager.execute_with_degradation("prices", aanswer, aanswer, 0)

        return call

    return {
        "degradation, await execute_with_degradation": aform(degrading_async(unchecked), 8.0),
        "degradation, cached health check, await": aform(degrading_async(checked), 10.0),
    }


def in_a_thread(number: int) -> int:
    thread = threading.Thread(target=work, args=(number,))
    thread.start()
    thread.join()
    return number


async def in_a_task(number: int) -> int:
    return await asyncio.create_task(awork(number))


async def with_asyncio_timeout(number: int) -> int:
    async with asyncio.timeout(60):
        return await awork(number)


def others() -> dict[str, Form]:
    """Time limits, pipelines, and what is looked up by its name."""
    limiter, theirs, hedging = TimeLimiter(60), interlock.sync_timeout(60), Hedging()
    pipeline = Pipeline(RetryHandler(), CircuitBreaker(), SemaphoreBulkhead())
    of_two = interlock.Pipeline(
        interlock.CircuitBreakerStrategy(interlock.CircuitBreaker(name="d")),
        interlock.BulkheadStrategy(10),
    )
    registry, manager = CircuitBreakerRegistry(), BulkheadManager()
    registry.create("prices")
    manager.create_bulkhead("prices", BulkheadConfig(bulkhead_type=BulkheadType.SEMAPHORE))
    thread = "/ a thread, started and joined"
    return {
        # Their docstring says 1.2.
        f"time limit, decorator {thread}": Form(limiter(work), 1.3, in_a_thread),
        f"time limit, execute {thread}": Form(partial(limiter.execute, work), 1.3, in_a_thread),
        f"hedging, decorator {thread}": Form(hedging(work), None, in_a_thread),
        f"hedging, execute {thread}": Form(partial(hedging.execute, work), None, in_a_thread),
        f"  interlock-cb, sync_timeout {thread}": Form(theirs(work), None, in_a_thread),
        "pipeline of three, decorator": Form(pipeline(work)),
        CALLED: Form(partial(pipeline.call, work)),
        "  interlock-cb, pipeline of two, decorator": Form(of_two(work)),
        "  interlock-cb, pipeline of two, call": Form(partial(of_two.call, work)),
        "registry, get": Form(lambda _: registry.get("prices"), 1.0),
        "registry, get_or_create": Form(lambda _: registry.get_or_create("prices"), 1.0),
        "manager, get_bulkhead": Form(lambda _: manager.get_bulkhead("prices"), 1.0),
        "manager, get_or_create_bulkhead": Form(
            lambda _: manager.get_or_create_bulkhead("prices"), 1.0
        ),
    }


def async_others() -> dict[str, Form]:
    limiter = TimeLimiter(60)
    pipeline = Pipeline(RetryHandler(), CircuitBreaker(), SemaphoreBulkhead())
    timed = with_asyncio_timeout
    hedging = Hedging()
    return {
        "hedging, async decorator / a task, awaited": aform(hedging(awork), None, in_a_task),
        "hedging, await execute / a task, awaited": aform(
            partial(hedging.execute, awork), None, in_a_task
        ),
        "time limit, async decorator / asyncio.timeout": aform(limiter(awork), None, timed),
        "time limit, await execute / asyncio.timeout": aform(
            partial(limiter.execute, awork), None, timed
        ),
        "time limit, async with / asyncio.timeout": aform(ablock(limiter), None, timed),
        "pipeline of three, async decorator": aform(pipeline(awork)),
        AWAITED: aform(partial(pipeline.call, awork)),
    }


CALLED, AWAITED = "pipeline of three, call", "pipeline of three, await call"
# Its parts, each around the function on its own.
PARTS = {
    CALLED: ("retry, decorator", "breaker, decorator", "semaphore, decorator"),
    AWAITED: ("retry, async decorator", "breaker, async decorator", "semaphore, async decorator"),
}
SUM = "{} / sum of its parts, decorated"


def beside_their_parts(run: dict[str, float]) -> dict[str, float]:
    return {
        SUM.format(name): run[name] / sum(run[part] for part in parts)
        for name, parts in PARTS.items()
    }


def refused() -> dict[str, Form]:
    """Calls that are not let through, beside raising an error that says nothing."""
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1, timeout=3600.0))
    peer = circuitbreaker.CircuitBreaker(failure_threshold=1, recovery_timeout=3600, name="open")
    full, limit = SemaphoreBulkhead(BulkheadConfig(1)), RateLimitBulkhead(BulkheadConfig(1))
    full.acquire()
    limit.acquire()
    for each in (breaker(_fail), peer(_fail)):
        _catching(each, ZeroDivisionError)(1)
    bare = _catching(_bare, RuntimeError)

    def called(number: int) -> int:
        try:
            return breaker.call(work, number)
        except CircuitBreakerError:
            return 0

    def refusal(call: Func, target: float | None = None) -> Form:
        return Form(_catching(call, Exception), target, bare)

    return {
        "open breaker, decorator / bare raise": refusal(breaker(work), 3.0),
        "open breaker, call / bare raise": Form(called, 3.0, bare),
        "open breaker, with / bare raise": refusal(block(breaker), 3.0),
        "full semaphore, decorator / bare raise": refusal(full(work)),
        "full semaphore, execute / bare raise": refusal(partial(full.execute, work)),
        "full semaphore, with / bare raise": refusal(block(full)),
        "rate limit reached, decorator / bare raise": refusal(limit(work)),
        "  circuitbreaker open, decorator / bare raise": refusal(peer(work)),
    }


def async_refused() -> dict[str, Form]:
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1, timeout=3600.0))
    full, limit = SemaphoreBulkhead(BulkheadConfig(1)), RateLimitBulkhead(BulkheadConfig(1))
    breaker.open_for(3600.0)
    full.acquire()
    limit.acquire()

    async def raising(_number: int) -> int:
        raise RuntimeError("refused")

    bare = _acatching(raising)

    def refusal(call: AsyncFunc, target: float | None = None) -> Form:
        return aform(_acatching(call), target, bare)

    return {
        "open breaker, async decorator / bare raise": refusal(breaker(awork), 3.0),
        "open breaker, await call / bare raise": refusal(partial(breaker.call, awork), 3.0),
        "open breaker, async with / bare raise": refusal(ablock(breaker), 3.0),
        "full semaphore, async decorator / bare raise": refusal(full(awork)),
        "full semaphore, async with / bare raise": refusal(ablock(full)),
        "rate limit reached, async decorator / bare raise": refusal(limit(awork)),
    }


def _acatching(func: AsyncFunc) -> AsyncFunc:
    async def call(number: int) -> Any:
        try:
            return await func(number)
        except Exception:
            return 0

    return call


def _fail(number: int) -> int:
    return number // 0


def _bare(_number: int) -> int:
    raise RuntimeError("refused")


def _catching(func: Func, error: type[Exception]) -> Func:
    def call(number: int) -> int:
        try:
            return func(number)
        except error:
            return 0

    return call


def throughput() -> dict[str, float]:
    """Many threads through one breaker, each call a millisecond; times what a bare one costs."""

    def rest(number: int) -> int:
        time.sleep(0.001)
        return number

    cases = {
        "plain": plain(rest),
        "breaker, 32 threads, a call of 1 ms": CircuitBreaker()(rest),
        "  circuitbreaker, 32 threads": circuitbreaker.CircuitBreaker(name="threads")(rest),
        "  pybreaker, 32 threads": pybreaker.CircuitBreaker()(rest),
    }
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(THREAD_ROUNDS):
        for name, func in cases.items():
            few = 1 if "pybreaker" in name else THREAD_CALLS  # one at a time takes its time
            seen[name].append(_calls_a_second(func, few))
    usual = {name: statistics.median(each) for name, each in seen.items()}
    return {name: usual["plain"] / usual[name] for name in cases if name != "plain"}


def _calls_a_second(func: Func, calls: int) -> float:
    ready = threading.Barrier(THREADS + 1)

    def run() -> None:
        ready.wait()
        for _ in range(calls):
            func(1)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return THREADS * calls / (time.perf_counter() - began)


SYNC = (breakers, listened, retries, bulkheads, pools, degradations, others, refused, clients)
ASYNC = (
    async_breakers, async_retries, async_bulkheads, async_degradations, async_others,
    async_refused, async_clients,
)  # fmt: skip
THROUGHPUT_TARGET = 1 / 0.97


def main(runs: int) -> int:
    """Measure and print everything; the exit status: 1 if a target was not reached."""
    sync = {name: form for forms in SYNC for name, form in forms().items()}
    tasks = {name: form for forms in ASYNC for name, form in forms().items()}
    seen: dict[str, list[float]] = {}
    for _ in range(runs):
        run = (
            ratios({name: (form.call, form.against) for name, form in sync.items()})
            | async_ratios({name: (form.call, form.against) for name, form in tasks.items()})
            | throughput()
        )
        run |= beside_their_parts(run)
        for name, ratio in run.items():
            seen.setdefault(name, []).append(ratio)
    targets = {name: form.target for name, form in (sync | tasks).items()}
    targets["breaker, 32 threads, a call of 1 ms"] = THROUGHPUT_TARGET
    targets |= dict.fromkeys(map(SUM.format, PARTS), 1.3)
    print(f"{'':<68}{'x':>8}{'least':>8}{'most':>8}{'target':>8}  reached")
    missed = [name for name, found in seen.items() if not _show(name, found, targets.get(name))]
    return int(bool(missed))


def _show(name: str, found: list[float], target: float | None) -> bool:
    middle = statistics.median(found)
    line = f"{name:<68}{middle:>8.2f}{min(found):>8.2f}{max(found):>8.2f}"
    reached = target is None or middle <= target
    print(line if target is None else f"{line}{target:>8.2f}  {'yes' if reached else 'NO'}")
    return reached


if __name__ == "__main__":
    pin()
    warnings.filterwarnings("ignore", module="aiolimiter")  # each run has a loop of its own
    logging.disable()
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS))

from __future__ import annotations

import ast
import copy
import gc
import os
import pickle
import sys
import threading

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pytest_resilience

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadManager
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerRegistry
from pytest_resilience import DegradationManager
from pytest_resilience import FeatureFlag
from pytest_resilience import Hedging
from pytest_resilience import HostBreakers
from pytest_resilience import ManualClock
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import RedisStore
from pytest_resilience import RetryBudget
from pytest_resilience import RetryHandler
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience import ServiceLevel
from pytest_resilience import ThreadPoolBulkhead
from pytest_resilience import locks
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import Pipeline
from pytest_resilience.patterns import TimeLimiter


PACKAGE = Path(pytest_resilience.__file__).parent


class Owner:
    def __init__(self, make: Callable[[], Any]) -> None:
        self.lock = fork_safe(self, "lock", make)


def exit_code_of_child(action: Callable[[], bool]) -> int:
    child = os.fork()
    if not child:
        code = 2
        try:
            code = 0 if action() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def held_elsewhere(lock: Any) -> threading.Event:
    """Let another thread hold it until the event is set."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait()

    threading.Thread(target=hold).start()
    held.wait()
    return over


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock, threading.Condition])
def test_free_in_a_child_whoever_holds_it(make: Callable[[], Any]) -> None:
    owner = Owner(make)
    over = held_elsewhere(owner.lock)
    try:
        assert exit_code_of_child(lambda: owner.lock.acquire(timeout=20)) == 0
        assert not owner.lock.acquire(blocking=False)  # and held here as before
    finally:
        over.set()


def test_free_though_owners_are_collected_in_between() -> None:
    threshold = gc.get_threshold()
    many = [Owner(threading.Lock) for _ in range(2000)]
    over = held_elsewhere(many[-1].lock)
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            garbage = Owner(threading.Lock)
            vars(garbage)["itself"] = garbage
        gc.set_threshold(gc.get_count()[0] + 1000)  # while the child goes through the owners
        gc.enable()
        assert exit_code_of_child(lambda: many[-1].lock.acquire(timeout=20)) == 0
    finally:
        gc.enable()
        gc.set_threshold(*threshold)
        over.set()


def test_a_breaker_works_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    breaker = CircuitBreaker()
    over = held_elsewhere(breaker._circuit._lock)
    try:
        assert exit_code_of_child(lambda: breaker.call(len, "abc") == 3) == 0
    finally:
        over.set()


def test_nothing_is_kept_alive() -> None:
    gc.collect()
    before = len(locks._owners)
    owner = Owner(threading.Lock)
    assert len(locks._owners) == before + 1
    del owner
    gc.collect()
    assert len(locks._owners) <= before


def _bare_locks(path: Path) -> list[str]:
    """Where a lock is made that a forked child could find held."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    safe = {
        id(node)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "fork_safe"
        for node in ast.walk(call)
    }
    return [
        f"{path.name}:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"threading.Lock", "threading.RLock", "threading.Condition"}
        and id(node) not in safe
    ]


def test_no_lock_is_made_in_another_way() -> None:
    assert [bare for path in sorted(PACKAGE.rglob("*.py")) for bare in _bare_locks(path)] == []


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")


# Places that are taken by threads which are not in the child.


def hold_in_a_thread(way: Callable[[Callable[[], Any]], Any]) -> threading.Event:
    inside, over = threading.Event(), threading.Event()

    def stay() -> None:
        inside.set()
        over.wait()

    threading.Thread(target=way, args=(stay,)).start()
    inside.wait()
    return over


def semaphores() -> tuple[Callable[[Callable[[], Any]], Any], Callable[[], bool]]:
    slots = SemaphoreBulkhead(BulkheadConfig(1))
    return slots.execute, lambda: slots.execute(len, "abc") == 3 and slots(len)("abc") == 3


def pools() -> tuple[Callable[[Callable[[], Any]], Any], Callable[[], bool]]:
    pool = ThreadPoolBulkhead(BulkheadConfig(1, queue_size=0))
    return pool.submit, lambda: pool.execute(len, "abc") == 3


def half_open_breakers() -> tuple[Callable[[Callable[[], Any]], Any], Callable[[], bool]]:
    clock = ManualClock()
    config = CircuitBreakerConfig(failure_threshold=1, success_threshold=1, timeout=1.0)
    breaker = CircuitBreaker(config, clock=clock)
    with pytest.raises(ZeroDivisionError):
        breaker.call(divmod, 1, 0)
    clock.advance(1.5)
    return breaker.call, lambda: breaker.call(len, "abc") == 3


def health_checks() -> tuple[Callable[[Callable[[], Any]], Any], Callable[[], bool]]:
    manager, checks = DegradationManager(health_check_cache=0), list[Callable[[], Any]]()
    manager.register_feature(FeatureFlag("prices", health_check=lambda: checks[-1]()))  # noqa: PLW0108  # another later

    def way(stay: Callable[[], Any]) -> None:
        checks.append(stay)
        manager.check_service_health("prices")

    def works() -> bool:
        checks.append(lambda: False)
        return manager.check_service_health("prices") is ServiceLevel.DEGRADED

    return way, works


@pytest.mark.parametrize("make", [semaphores, pools, half_open_breakers, health_checks])
def test_places_are_free_in_a_child(make: Callable[[], Any]) -> None:
    way, works = make()
    over = hold_in_a_thread(way)
    try:
        assert exit_code_of_child(works) == 0
    finally:
        over.set()


def test_a_slot_of_the_parent_is_none_of_the_child() -> None:
    slots = SemaphoreBulkhead(BulkheadConfig(1))

    def leaves_the_block() -> bool:
        slots.__exit__(None, None, None)
        return False

    with slots:
        assert exit_code_of_child(lambda: slots.get_stats()["active_count"] == 0) == 0
        assert exit_code_of_child(leaves_the_block) == 2  # it has none to give back

    code = slots.execute(lambda: exit_code_of_child(lambda: slots.execute(int) == 0))
    assert code == 0


def test_a_rate_limit_that_was_being_renewed() -> None:
    limit = RateLimitBulkhead(BulkheadConfig(3))
    limit.acquire()
    limit._issued += 2  # another thread is about to issue them

    def acquires_the_rest() -> bool:
        limit.acquire()
        limit.acquire()
        return bool(limit.get_stats()["current_rate"] == 3)

    assert exit_code_of_child(acquires_the_rest) == 0


PATTERNS: list[Any] = [
    CircuitBreaker(), RetryHandler(), SemaphoreBulkhead(), RateLimitBulkhead(),
    ThreadPoolBulkhead(), TimeLimiter(60.0), Hedging(), Pipeline(RetryHandler(), CircuitBreaker()),
    RateLimitBulkhead().weighing(2),
]  # fmt: skip
HOLDERS: list[Any] = [
    CircuitBreakerRegistry(), BulkheadManager(), DegradationManager(), HostBreakers(),
    RetryBudget(), CircuitBreaker().acquire(), CircuitBreaker().isolate(),
    RedisStore("redis://127.0.0.1:1/0"),  # which nobody asks
]  # fmt: skip


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("original", PATTERNS + HOLDERS, ids=lambda each: type(each).__name__)
def test_what_counts_is_not_copied(original: Any, copied: Callable[[Any], Any]) -> None:
    who = rf"^{type(original).__name__}( '[a-z ]+')? belongs to one process"
    with pytest.raises(TypeError, match=who):
        copied(original)


def increase(number: int) -> int:
    return number + 1


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda each: type(each).__name__)
def test_decorated_functions_are_pickled_by_their_names(
    pattern: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decorated = pattern(increase)
    monkeypatch.setitem(globals(), "increase", decorated)  # as `@pattern` above it does
    assert pickle.loads(pickle.dumps(decorated)) is copy.deepcopy(decorated) is decorated
    assert decorated(1) == 2

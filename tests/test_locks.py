from __future__ import annotations

import ast
import gc
import os
import sys
import threading

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pytest_resilience

from pytest_resilience import CircuitBreaker
from pytest_resilience import locks
from pytest_resilience.locks import fork_safe


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

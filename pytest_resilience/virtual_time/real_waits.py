"""Waits for the real world: other processes, signals, and what the user says."""

from __future__ import annotations

import _thread
import functools
import os
import signal
import subprocess
import sys

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import current


__all__ = ["MULTIPROCESSING", "connecting", "install_processes", "outside"]

_WAITING: dict[Any, tuple[str, ...]] = {
    subprocess.Popen: ("__init__", "wait", "communicate"),
    os: ("wait", "wait3", "wait4", "waitid", "waitpid"),
    signal: ("pause", "sigtimedwait", "sigwait", "sigwaitinfo"),
}
_IN_MULTIPROCESSING: dict[str, dict[str, tuple[str, ...]]] = {
    "multiprocessing.connection": {
        "_ConnectionBase": ("poll", "recv", "recv_bytes", "recv_bytes_into"),
        "": ("wait", "answer_challenge", "deliver_challenge"),
    },
    "multiprocessing.queues": {"Queue": ("get", "put"), "SimpleQueue": ("get", "put")},
    "multiprocessing.popen_fork": {"Popen": ("__init__", "wait")},
    "multiprocessing.synchronize": {"Condition": ("wait", "wait_for"), "Event": ("wait",)},
    "multiprocessing.managers": {"BaseManager": ("start", "connect", "shutdown")},
}


@contextmanager
def outside() -> Iterator[None]:
    """In the block this thread waits for real, and time goes on as the machine's.

    Of a thread that waits for real anyhow nothing changes.
    """
    scheduler = current()
    if scheduler is None:
        yield
        return
    scheduler.go_outside()
    try:
        yield
    finally:
        scheduler.come_back()


@contextmanager
def connecting() -> Iterator[None]:
    """In the block this thread connects to one of the test, which takes time only without room."""
    scheduler, ident = current(), _thread.get_ident()
    if scheduler is None:
        yield
        return
    scheduler.members.connecting.add(ident)
    try:
        yield
    finally:
        with scheduler.mutex:  # of the driver, which looks who connects still
            scheduler.members.connecting.discard(ident)
            had_to_wait = ident in scheduler.members.outside
        if had_to_wait:
            scheduler.come_back()


def install_processes(patches: Patches) -> None:
    """Let waits for other processes, and for signals, be real."""
    for owner, names in _WAITING.items():
        for name in names:
            if hasattr(owner, name):
                patches.set(owner, name, _real(getattr(owner, name)))


def _install_multiprocessing(module_name: str, patches: Patches) -> None:
    module = sys.modules[module_name]
    for owner_name, names in _IN_MULTIPROCESSING[module_name].items():
        owner = getattr(module, owner_name, None) if owner_name else module
        for name in names:
            if name in vars(owner or object):
                patches.set(owner, name, _real(getattr(owner, name)))


def _install_synchronize(patches: Patches) -> None:
    _install_multiprocessing("multiprocessing.synchronize", patches)
    locks: Any = sys.modules["multiprocessing.synchronize"].SemLock
    make_methods = locks._make_methods  # noqa: SLF001  # where each gets its `acquire`

    def _make_methods(self: Any) -> None:
        make_methods(self)
        self.acquire = _acquire(self._semlock.acquire)

    def __enter__(self: Any) -> bool:  # noqa: N807
        return _acquire(self._semlock.acquire)()

    patches.set(locks, "_make_methods", _make_methods)
    patches.set(locks, "__enter__", __enter__)
    registered: Any = sys.modules["multiprocessing.util"]._afterfork_registry  # noqa: SLF001
    for lock in [each for each in registered.values() if isinstance(each, locks)]:
        patches.set(lock, "acquire", _acquire(lock._semlock.acquire))  # noqa: SLF001


def _acquire(real: Callable[..., bool]) -> Callable[..., bool]:
    def acquire(block: bool = True, timeout: float | None = None) -> bool:
        taken = real(False)
        if taken or not block:
            return taken
        with outside():  # somebody else has it, in whatever process
            return real(block, timeout)

    return acquire


MULTIPROCESSING: dict[str, Callable[[Patches], None]] = {
    **{name: functools.partial(_install_multiprocessing, name) for name in _IN_MULTIPROCESSING},
    "multiprocessing.synchronize": _install_synchronize,
}
"""By the module that is replaced in, once it has been imported."""


def _real(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wait_for_real(*args: Any, **options: Any) -> Any:
        with outside():
            return function(*args, **options)

    return wait_for_real

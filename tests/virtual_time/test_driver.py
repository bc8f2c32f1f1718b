from __future__ import annotations

import _thread
import itertools
import os
import queue
import subprocess
import sys
import threading
import time

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.proc import state_of
from pytest_resilience.virtual_time.clock import VirtualClock
from pytest_resilience.virtual_time.members import Member
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.stalls import frame_of
from pytest_resilience.virtual_time.stalls import is_in_a_lock_of_c
from tests.virtual_time.starting import after
from tests.virtual_time.starting import start


HERE = os.path.relpath(__file__)


def read_in_c(fd: int) -> bytes:
    with open(fd, "rb", buffering=0, closefd=False) as file:
        return file.read(1)


def test_who_is_blocked_in_c_is_named(pipe: tuple[int, int]) -> None:
    ours, theirs = pipe

    def stuck() -> None:
        read_in_c(ours)

    with VirtualClock() as clock:
        [thread] = start(stuck)
        with pytest.raises(ClockStalledError, match="blocked where virtual time cannot") as caught:
            time.sleep(60)
        assert clock.elapsed == 0
        os.write(theirs, b"x")
        thread.join()
    assert f"NOT WAITING HERE: it runs, or is blocked, at {HERE}" in str(caught.value)
    assert "in read_in_c" in str(caught.value)


def test_the_thread_of_the_test_is_told_where_it_is_blocked_in_c(pipe: tuple[int, int]) -> None:
    with VirtualClock() as clock:
        start(after(60, lambda: os.write(pipe[1], b"x")))
        with pytest.raises(ClockStalledError, match=rf"MainThread.*, at {HERE}:\d+ in read_in_c"):
            read_in_c(pipe[0])
        assert clock.elapsed == 0
        time.sleep(5)
        assert clock.elapsed == 5


@pytest.mark.parametrize(
    "wait", [read_in_c, lambda fd: start(lambda: read_in_c(fd))[0].join()], ids=["alone", "thread"]
)
def test_a_pipe_that_is_read_in_c_though_nobody_can_write(
    pipe: tuple[int, int], wait: Callable[[int], object]
) -> None:
    with VirtualClock() as clock:
        with pytest.raises(ClockStalledError, match="in read_in_c"):
            wait(pipe[0])
        os.write(pipe[1], b"x")
        time.sleep(5)
        assert clock.elapsed == 5


def test_a_pipe_of_a_child_that_is_read_in_c_takes_its_real_time() -> None:
    says = "import time; time.sleep(0.3); print('x')"
    with VirtualClock() as clock:
        command = [sys.executable, "-S", "-c", says]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.read() == b"x\n"
        assert clock.jumps == 0


class Old:
    """What is older than any clock of a test."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rlock = threading.RLock()
        self.condition = threading.Condition()
        self.queue = queue.SimpleQueue[int]()
        self.locks = [threading.Lock()]


def enter(context: Any) -> None:
    with context:
        pass


class StandIn:
    """Stands for something else, as a proxy does, which is not there."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock

    def __getattr__(self, name: str) -> object:
        raise KeyError(name)

    __class__ = property(lambda self: self.other)


def wait_beside(stand_in: Any) -> None:
    with stand_in.lock:
        pass


OLD_WAITS: dict[str, Callable[[Old], object]] = {
    "lock": lambda old: old.lock.acquire(timeout=60),
    "with": lambda old: enter(old.lock),
    "rlock": lambda old: old.rlock.acquire(timeout=60),
    "rlock with": lambda old: enter(old.rlock),
    "condition": lambda old: enter(old.condition),
    "condition acquire": lambda old: old.condition.acquire(timeout=60),
    "queue": lambda old: old.queue.get(timeout=60),
    "stand-in": lambda old: wait_beside(StandIn(old.lock)),
    "by number": lambda old: old.locks[0].acquire(timeout=60),
}


@pytest.mark.parametrize("wait", OLD_WAITS.values(), ids=OLD_WAITS)
def test_who_waits_for_an_old_lock_is_named_though_nobody_waits_for_time(
    wait: Callable[[Old], object],
) -> None:
    old = Old()
    for lock in (old.lock, old.rlock, old.condition, old.locks[0]):
        lock.acquire()
    with VirtualClock() as clock:
        [thread] = start(lambda: wait(old))
        with pytest.raises(ClockStalledError, match="blocked where virtual time cannot") as caught:
            thread.join()
        for lock in (old.lock, old.rlock, old.condition, old.locks[0]):
            lock.release()
        old.queue.put(1)
        thread.join()
        assert clock.elapsed == 0
    assert f"NOT WAITING HERE: blocked in a lock of C, at {HERE}" in str(caught.value)


def take_again_and_again(lock: Any) -> None:
    while not lock.acquire(timeout=0.01):
        pass


ALONE: dict[str, Callable[[Old], object]] = {
    **OLD_WAITS,
    "without a timeout": lambda old: old.lock.acquire(),
    "half a second": lambda old: old.lock.acquire(True, 0.5),
    "queue, half a second": lambda old: old.queue.get(timeout=0.5),
    "again and again": lambda old: take_again_and_again(old.lock),
    "made by its own name": lambda _: taken(_thread.allocate_lock()).acquire(),
}


def taken(lock: Any) -> Any:
    lock.acquire()
    return lock


@pytest.mark.parametrize("others", [None, "a minute", "for ever"])
@pytest.mark.parametrize("wait", ALONE.values(), ids=ALONE)
def test_the_thread_of_the_test_is_told_that_it_waits_for_an_old_lock(
    wait: Callable[[Old], object], others: str | None
) -> None:
    old, end = Old(), threading.Event()
    for lock in (old.lock, old.rlock, old.condition, old.locks[0]):
        start(lock.acquire)[0].join()  # also those that a thread may take again
    told = rf"MainThread \(the test\): NOT WAITING HERE: blocked in a lock of C, at {HERE}:\d+ in"
    with VirtualClock() as clock:
        if others is not None:
            start(lambda: end.wait(60 if others == "a minute" else None))
        with pytest.raises(ClockStalledError, match=told):
            wait(old)
        assert clock.elapsed == 0
        end.set()
        time.sleep(5)
        assert clock.elapsed == 5


@pytest.mark.parametrize("timeout", [None, 0.5])
def test_a_lock_that_others_may_release_is_awaited_where_no_timeout_is_given(
    timeout: float | None,
) -> None:
    old, go, done = taken(threading.Lock()), threading.Event(), threading.Event()

    def release() -> None:
        go.wait()
        time.sleep(0.2)  # longer than is waited for nobody
        old.release()
        done.wait()

    [thread] = start(release)
    try:
        with VirtualClock() as clock:
            if timeout is None:
                go.set()
                old.acquire()
            else:
                with pytest.raises(ClockStalledError, match="blocked in a lock of C"):
                    old.acquire(timeout=timeout)
            assert clock.elapsed == 0
    finally:
        go.set()
        done.set()
        thread.join()


def test_an_error_of_the_driver_fails_the_test_with_its_traceback(pipe: tuple[int, int]) -> None:
    class Broken(threading.Thread):
        @property
        def native_id(self) -> int:
            raise KeyError("no such thread")

    with VirtualClock() as clock:
        thread = Broken(target=read_in_c, args=pipe[:1])
        thread.start()
        with pytest.raises(
            ClockStalledError, match="virtual time itself has failed: Key"
        ) as caught:
            time.sleep(60)
        assert isinstance(caught.value.__cause__, KeyError)
        os.write(pipe[1], b"x")
        thread.join()
        time.sleep(5)
        assert clock.elapsed == 5


def test_who_waits_for_the_scheduler_itself_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the driver gets no processor while it looks."""
    creep, is_blocked = Scheduler.creep, Member.is_blocked
    ticks, looks, crept = itertools.count(0, 1_000_000_000), [0], [0]

    def counted_creep(self: Scheduler) -> None:
        creep(self)
        crept[0] += 1

    def late_look(self: Member) -> bool:
        looks[0] += 1
        before = crept[0]
        while crept[0] == before and not is_blocked(self):
            pass
        return is_blocked(self)

    monkeypatch.setattr(Scheduler, "creep", counted_creep)
    monkeypatch.setattr(Member, "is_blocked", late_look)
    monkeypatch.setattr("pytest_resilience.virtual_time.driver.real_ns", lambda: next(ticks))
    with VirtualClock():
        while looks[0] < 5:
            time.monotonic()


def test_a_lock_of_our_own_is_none_that_anybody_waits_for() -> None:
    clock = VirtualClock()
    looking = threading.Thread(target=clock.timeline)
    with clock._scheduler.mutex:
        looking.start()
        frame = None
        while frame is None or state_of(looking.native_id) != "S":
            at = frame_of(looking.ident or 0)
            frame = at if at and at.f_code is VirtualClock.timeline.__code__ else None
        assert not is_in_a_lock_of_c(frame)
    looking.join()

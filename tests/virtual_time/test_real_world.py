from __future__ import annotations

import _thread
import itertools
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.proc import state_of
from pytest_resilience.virtual_time.clock import VirtualClock
from pytest_resilience.virtual_time.members import Member
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.stalls import frame_of
from pytest_resilience.virtual_time.stalls import is_in_a_lock_of_c
from pytest_resilience.virtual_time.waiting import Outcome
from pytest_resilience.virtual_time.waiting import Waiter
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
    monkeypatch.setattr("pytest_resilience.virtual_time.real_world.real_ns", lambda: next(ticks))
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


@pytest.fixture(params=[None, 7], ids=["free", "seeded"])
def chance(request: pytest.FixtureRequest) -> random.Random | None:
    return None if request.param is None else random.Random(request.param)


def spin(milliseconds: int) -> None:
    """Use the CPU."""
    end = time.process_time() + milliseconds / 1e3
    while time.process_time() < end:
        pass


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


def kill_the_thread(number: int) -> None:
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, number)


def raise_signal(number: int) -> None:
    signal.raise_signal(number)


def interrupt_main(number: int) -> None:
    _thread.interrupt_main(signal.Signals(number))


@pytest.fixture
def handled_by() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Says what is to happen at SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)

    def handle(act: Callable[[], object]) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: act())

    yield handle
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("send", [kill, kill_the_thread, raise_signal, interrupt_main])
def test_a_signal_that_a_thread_sends_is_handled_before_time_goes_on(
    clock: VirtualClock, handled_by: Callable[..., None], send: Callable[[int], None]
) -> None:
    event, log = threading.Event(), list[float]()
    handled_by(event.set)
    start(after(10, lambda: send(signal.SIGUSR1)))
    assert event.wait(60)
    assert clock.elapsed == 10

    def wait() -> None:
        time.sleep(5)
        log.append(clock.elapsed)

    handled_by(wait)
    start(after(10, lambda: send(signal.SIGUSR1)))
    time.sleep(60)
    assert (log, clock.elapsed) == ([25], 70)

    def stop() -> None:
        raise InterruptedError

    handled_by(stop)
    start(after(10, lambda: send(signal.SIGUSR1)))
    with pytest.raises(InterruptedError):
        time.sleep(60)
    assert clock.elapsed == 80
    time.sleep(5)
    assert clock.elapsed == 85


@pytest.mark.parametrize("set_before", [False, True])
def test_time_stands_while_a_signal_from_outside_is_handled(
    handled_by: Callable[..., None], chance: random.Random | None, set_before: bool
) -> None:
    begun = list[float]()

    def wait() -> None:
        if not begun:
            begun.append(time.monotonic() - began)
            spin(50)  # nobody else runs, and the next deadline is near
            begun.append(time.monotonic() - began)
            time.sleep(5)

    def outside() -> None:
        time.sleep(1)  # until the thread of the test waits
        scheduler = current()
        assert scheduler is not None
        while not begun:  # Python does not see one that comes just before it waits in C
            with scheduler.mutex, clock.absent():  # as what is none of the test's
                kill(signal.SIGUSR1)

    if set_before:
        handled_by(wait)
    with VirtualClock(chance=chance) as clock:
        began = time.monotonic()
        if not set_before:
            handled_by(wait)
        start(outside)
        time.sleep(60)
        assert begun == [1, 1]
        assert clock.elapsed == 60


def test_a_signal_in_the_middle_of_what_needs_the_mutex_is_handled_after_it(
    clock: VirtualClock, handled_by: Callable[..., None]
) -> None:
    scheduler, log = current(), list[float]()
    assert scheduler is not None

    def wait() -> None:
        time.sleep(5)
        log.append(clock.elapsed)

    handled_by(wait)
    with scheduler.mutex:
        raise_signal(signal.SIGUSR1)
        assert log == []
    while not log:
        spin(1)
    assert log == [5]


def test_who_asks_for_a_handler_sees_what_was_set(clock: VirtualClock) -> None:
    def handle(*_: object) -> None:
        pass

    before = signal.getsignal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.signal(signal.SIGUSR1, handle) is before
    assert signal.getsignal(signal.SIGUSR1) is handle
    assert signal.signal(signalnum=signal.SIGUSR1, handler=before) is handle
    assert signal.getsignal(signalnum=signal.SIGUSR1) is before


def test_handlers_outlive_the_clock() -> None:
    def handle(*_: object) -> None:
        pass

    every = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with VirtualClock():
        before = signal.signal(signal.SIGUSR1, handle)
    assert signal.signal(signal.SIGUSR1, before) is handle
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == every


def test_who_was_let_go_as_the_clock_ended_waits_no_longer() -> None:
    with VirtualClock() as clock:
        scheduler = current()
        assert scheduler is not None
        [thread] = start(threading.Event().wait)
        clock.wait_idle()
        with scheduler.mutex:
            scheduler.let_go(thread.ident or 0)
            scheduler.end()
    thread.join(10)
    assert not thread.is_alive()


def test_a_wait_that_ends_in_the_middle_of_another_holds_up_nobody() -> None:
    with VirtualClock(chance=random.Random(7)) as clock:
        scheduler = current()
        assert scheduler is not None
        outer = Waiter("sleep")
        outer.let_go = True  # for a signal, whose handler is what follows
        scheduler.timers.add(outer, 1_000_000_000, last=False)
        time.sleep(2)
        assert outer.outcome is Outcome.TIMED_OUT
        assert clock.elapsed == 2

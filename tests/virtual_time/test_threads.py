from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import multiprocessing
import os
import queue
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.errors import LeakedThreadsError
from pytest_resilience.virtual_time.clock import VirtualClock
from pytest_resilience.virtual_time.scheduler import current
from tests.virtual_time.binding import binding
from tests.virtual_time.starting import after
from tests.virtual_time.starting import start


HERE = os.path.relpath(__file__)


@pytest.fixture
def module() -> Iterator[Any]:
    """One that has bound what waits, as those have that a test imports."""
    with binding(
        "from queue import SimpleQueue\n"
        "from threading import Condition, Event, Lock, RLock, Thread\n"
        "from _thread import allocate_lock\n"
        "from select import select"
    ) as module:
        yield module


def test_names_bound_at_import(module: Any) -> None:
    before = dict(vars(module))
    with VirtualClock() as clock:
        found = module.SimpleQueue()
        start(after(10, lambda: found.put("x")))
        assert found.get() == "x"
        for make in (module.Lock, module.allocate_lock):
            held = make()
            held.acquire()
            assert not held.acquire(timeout=10)
        again = module.RLock()
        with again:
            start(after(0, lambda: again.acquire(timeout=10)))
            time.sleep(10)
        here, there = socket.socketpair()
        with here, there:
            assert module.select([here], [], [], 10) == ([], [], [])
        assert clock.elapsed == 50
    assert vars(module) == before


def test_sleepers_wake_in_the_order_of_their_deadlines(clock: VirtualClock) -> None:
    log: list[tuple[float, int]] = []

    def sleep(seconds: int) -> None:
        for _ in range(3):
            time.sleep(seconds)
            log.append((clock.elapsed, seconds))

    for thread in start(lambda: sleep(10), lambda: sleep(7), lambda: sleep(25)):
        thread.join()
    assert log == [
        (7, 7), (10, 10), (14, 7), (20, 10), (21, 7), (25, 25), (30, 10), (50, 25), (75, 25),
    ]  # fmt: skip


def test_lock(clock: VirtualClock) -> None:
    lock = threading.Lock()
    log: list[float] = []

    def hold() -> None:
        with lock:
            time.sleep(10)
            log.append(clock.elapsed)

    for thread in start(*[hold] * 4):
        thread.join()
    assert log == [10, 20, 30, 40]
    assert lock.acquire()
    assert not lock.acquire(timeout=5)
    assert not lock.acquire(blocking=False)
    assert clock.elapsed == 45
    with pytest.raises(ValueError, match="timeout value must be"):
        lock.acquire(timeout=-5)
    with pytest.raises(OverflowError):
        lock.acquire(timeout=float("inf"))
    lock.release()
    assert not lock.locked()
    with pytest.raises(RuntimeError):
        lock.release()


def test_rlock(clock: VirtualClock) -> None:
    lock = threading.RLock()
    got: list[bool] = []
    with lock, lock:
        start(lambda: got.append(lock.acquire(timeout=3)))[0].join()
    assert (got, clock.elapsed) == ([False], 3)


def test_condition(clock: VirtualClock) -> None:
    condition = threading.Condition()
    items: list[int] = []

    def produce() -> None:
        for number in range(5):
            time.sleep(2)
            with condition:
                items.append(number)
                condition.notify()

    start(produce)
    got = []
    for _ in range(5):
        with condition:
            assert condition.wait_for(lambda: items, timeout=3)
            got.append((items.pop(), clock.elapsed))
    assert got == [(0, 2), (1, 4), (2, 6), (3, 8), (4, 10)]
    with condition:
        assert not condition.wait(timeout=60)
    assert clock.elapsed == 70


def test_event_and_timer(clock: VirtualClock) -> None:
    event = threading.Event()
    assert not event.wait(60)
    threading.Timer(30, event.set).start()
    assert event.wait(60)
    assert clock.elapsed == 90
    timer = threading.Timer(1000, event.clear)
    timer.start()
    timer.cancel()
    timer.join()
    assert clock.elapsed == 90


def test_semaphore(clock: VirtualClock) -> None:
    semaphore = threading.BoundedSemaphore(2)
    log: list[float] = []

    def work() -> None:
        with semaphore:
            time.sleep(4)
            log.append(clock.elapsed)

    for thread in start(*[work] * 5):
        thread.join()
    assert log == [4, 4, 8, 8, 12]


def test_barrier(clock: VirtualClock) -> None:
    barrier = threading.Barrier(3)
    log: list[float] = []

    def come(seconds: int) -> None:
        time.sleep(seconds)
        barrier.wait(timeout=50)
        log.append(clock.elapsed)

    for thread in start(lambda: come(1), lambda: come(2), lambda: come(9)):
        thread.join()
    assert log == [9, 9, 9]
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(timeout=5)
    assert clock.elapsed == 14


def test_join(clock: VirtualClock) -> None:
    [thread] = start(lambda: time.sleep(100))
    thread.join(timeout=30)
    assert (thread.is_alive(), clock.elapsed) == (True, 30)
    thread.join()
    assert (thread.is_alive(), clock.elapsed) == (False, 100)
    thread.join()


@pytest.mark.parametrize("make", [queue.Queue, queue.LifoQueue, queue.PriorityQueue])
def test_queues(clock: VirtualClock, make: type[queue.Queue[int]]) -> None:
    tasks = make(maxsize=1)
    with pytest.raises(queue.Empty):
        tasks.get(timeout=5)
    tasks.put(1)
    with pytest.raises(queue.Full):
        tasks.put(2, timeout=5)
    start(after(3, tasks.get, tasks.task_done))
    tasks.join()
    assert clock.elapsed == 13


def test_executor(clock: VirtualClock) -> None:
    def sleep(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        slow = pool.submit(time.sleep, 100)
        with pytest.raises(TimeoutError):
            slow.result(timeout=10)
        quick = [pool.submit(sleep, seconds) for seconds in (5, 3, 4, 1)]
        order = [future.result() for future in concurrent.futures.as_completed(quick, timeout=60)]
    assert sorted(order) == [1, 3, 4, 5]
    assert clock.elapsed == 100


def test_an_executor_that_is_older_than_the_clock() -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        pool.submit(int).result()
        with VirtualClock() as clock:
            futures = [pool.submit(time.sleep, 10) for _ in range(5)]
            assert concurrent.futures.wait(futures, timeout=31).not_done == set()
            assert clock.elapsed == 30
        assert pool.submit(int).result() == 0


def test_a_condition_that_is_older_than_the_clock() -> None:
    event, tasks = threading.Event(), queue.Queue[int]()
    with VirtualClock() as clock:
        assert not event.wait(10)
        start(after(5, event.set, lambda: tasks.put(1)))
        assert event.wait(10)
        assert tasks.get(timeout=10) == 1
        assert clock.elapsed == 15


def test_a_lock_outlives_its_clock() -> None:
    with VirtualClock():
        lock, event = threading.Lock(), threading.Event()
        lock.acquire()
        assert not lock.acquire(timeout=1)
    assert not lock.acquire(timeout=0.001)
    threading.Thread(target=after(0, lock.release, event.set)).start()
    assert event.wait(60)
    assert lock.acquire(timeout=60)


def test_a_thread_of_another_wakes_a_member() -> None:
    begin, event = threading.Event(), threading.Event()
    thread = threading.Thread(target=after(0, begin.wait, event.set))
    thread.start()
    with VirtualClock() as clock:
        clock.external(thread)
        begin.set()
        assert event.wait(3600)
        assert clock.elapsed < 3000
        time.sleep(3600)
    thread.join()


def test_a_deadlock_is_known_at_once(clock: VirtualClock) -> None:
    lock = threading.Lock()
    lock.acquire()
    [thread] = start(lock.acquire)
    with pytest.raises(ClockStalledError, match=r"MainThread.*join") as caught:
        thread.join()
    assert f"at {HERE}" in str(caught.value)


def test_a_deadlock_tells_who_waits_for_whose_lock(clock: VirtualClock) -> None:
    one, other = threading.Lock(), threading.RLock()
    both = threading.Barrier(2)

    def takes_the_other() -> None:
        with other:
            both.wait()
            one.acquire()

    [thread] = start(takes_the_other)
    one.acquire()
    both.wait()
    with pytest.raises(ClockStalledError, match="deadlock: ") as caught:
        other.acquire()
    thread.join()
    line = (
        rf" {{}}: waits in lock for ever, at {HERE}:\d+ in {{}}, for the lock made at "
        rf"{HERE}:\d+ in test_a_deadlock_\w+, held by {{}}, taken at {HERE}:\d+ in {{}}\n"
    )
    mine = "test_a_deadlock_tells_who_waits_for_whose_lock"
    told = f"{caught.value}\n"
    test, worker = r"MainThread \(the test\)", r"Thread 1 \(takes_the_other\)"
    assert re.search(line.format(test, mine, worker, "takes_the_other"), told)
    assert re.search(line.format(worker, "takes_the_other", test, mine), told)


def test_a_deadlock_of_tasks_tells_it_too(clock: VirtualClock) -> None:
    async def take(first: asyncio.Lock, second: asyncio.Lock) -> None:
        async with first:
            await asyncio.sleep(1)
            await second.acquire()

    async def main() -> None:
        one, other = asyncio.Lock(), asyncio.Lock()
        await asyncio.gather(take(one, other), take(other, one))

    with pytest.raises(ClockStalledError, match="deadlock: ") as caught:
        asyncio.run(main())
    assert clock.elapsed == 1
    assert re.search(
        rf"Task 2 \(take\): waits, at {HERE}:\d+ in take, for the lock made at {HERE}:\d+ in main, "
        rf"held by Task 3 \(take\), taken at {HERE}:\d+ in take\n",
        str(caught.value),
    )


class Later:
    """Lets others go first where a thread does something of a kind for the first time."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.seen: list[str] = []

    def at(self, kind: str, target: str, place: str = "") -> None:
        self.seen.append(f"{kind}({target}) {place.rpartition(' ')[2]}".strip())
        scheduler = current()
        if kind == self.kind and scheduler is not None and scheduler.others_can_go():
            self.kind = ""
            scheduler.give_way()


@pytest.mark.parametrize(("kind", "expected"), [("lock", "baba"), ("sleep", "abba"), ("", "abab")])
def test_who_lets_others_go_first_goes_on_after_them(kind: str, expected: str) -> None:
    order, done = Later(kind), list[str]()

    def work(name: str) -> None:
        with lock:
            done.append(name)
        time.sleep(0)
        done.append(name)

    with VirtualClock(order=order) as clock:
        lock = threading.Lock()
        for thread in start(lambda: work("a"), lambda: work("b")):
            thread.join()
        assert clock.elapsed == 0
    assert (
        f"lock(test_threads.{test_who_lets_others_go_first_goes_on_after_them.__name__}) work"
        in (order.seen)
    )
    assert "".join(done) == expected


def test_one_at_a_time_a_timeout_comes_while_an_outside_peer_is_awaited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, VirtualClock(order=Later("")):
        connection = socket.create_connection(silent.getsockname(), timeout=0.05)
        with connection, pytest.raises(TimeoutError):
            connection.recv(1)


def test_who_lets_others_go_first_holds_up_nobody_for_long(tmp_path: Path) -> None:
    done = []

    def write(name: str) -> None:
        database = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
        database.execute("BEGIN IMMEDIATE")  # for which SQLite looks again and again, in C
        if name == "a":
            time.sleep(0)
        database.execute("COMMIT")
        database.close()
        done.append(name)

    with VirtualClock(order=Later("sleep")) as clock:
        for thread in start(lambda: write("a"), lambda: write("b")):
            thread.join()
        assert clock.elapsed == 0
    assert done == ["a", "b"]


def test_a_thread_without_an_object_is_a_member(clock: VirtualClock) -> None:
    done = threading.Event()
    _thread.start_new_thread(after(10, done.set), ())
    assert done.wait(60)
    assert clock.elapsed == 10


def test_a_thread_of_what_cannot_be_called_is_refused_at_once(clock: VirtualClock) -> None:
    with pytest.raises(TypeError):
        _thread.start_new_thread(1, ())  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        _thread.start_new_thread(print, [])  # type: ignore[call-overload]


def test_threads_that_end_soon_are_waited_for() -> None:
    log: list[str] = []
    with VirtualClock():
        start(after(5, lambda: log.append("done")))
    assert log == ["done"]


def test_threads_that_do_not_end_are_named() -> None:
    ended = threading.Event()

    def poll() -> None:
        try:
            while True:
                time.sleep(1)
        finally:
            ended.set()

    named = r"poller, at .*test_threads.py:\d+ in poll"
    with pytest.raises(LeakedThreadsError, match=named), VirtualClock():
        threading.Thread(target=poll, name="poller", daemon=True).start()
    assert ended.wait(60)


def test_threads_without_a_line_of_the_project_are_named_by_their_function() -> None:
    loop = asyncio.new_event_loop()
    timer = threading.Timer(3600, print)
    runner = threading.Thread(target=loop.run_forever, name="loop")

    def run() -> None:
        with VirtualClock():
            timer.start()
            runner.start()

    with pytest.raises(LeakedThreadsError) as caught:
        run()
    for thread in (timer, runner):
        thread.join()
    loop.close()
    assert "in builtins.print" in str(caught.value)
    assert "loop, in asyncio.base_events.BaseEventLoop.run_forever" in str(caught.value)


def test_threads_that_compute_for_ever_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_resilience.virtual_time.clock._LAST_REAL", 100_000_000)
    over: list[bool] = []

    def compute() -> None:
        while not over:
            pass

    thread = threading.Thread(target=compute, name="computer")
    named = r"computer, at .*test_threads.py:\d+ in compute"
    with pytest.raises(LeakedThreadsError, match=named), VirtualClock():
        thread.start()
    over.append(True)
    thread.join()


def test_threads_that_wake_each_other_for_ever() -> None:
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            time.sleep(1)

    with VirtualClock():
        [thread] = start(poll)
        with pytest.raises(ClockStalledError, match="time ran away"):
            thread.join()
        over.set()


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


REAL = {"monotonic_ns": time.monotonic_ns}
NAP = [sys.executable, "-S", "-c", "import time; time.sleep(0.1)"]


@pytest.mark.parametrize(
    "wait",
    [
        lambda: subprocess.run(NAP, timeout=60, check=True),
        lambda: subprocess.run(NAP, timeout=60, check=True, capture_output=True),
        lambda: subprocess.Popen(NAP).wait(),
        lambda: subprocess.Popen(NAP).wait(60),
        lambda: os.waitpid(os.spawnv(os.P_NOWAIT, NAP[0], NAP), 0),
    ],
    ids=["run", "communicate", "wait", "wait with a timeout", "waitpid"],
)
def test_a_child_process_takes_its_real_time(clock: VirtualClock, wait: object) -> None:
    assert callable(wait)
    wait()
    assert 0.1 <= clock.elapsed < 60


def test_a_child_that_takes_too_long(clock: VirtualClock) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "60"], timeout=0.05, check=False)
    assert 0.05 <= clock.elapsed < 60


def test_a_thread_that_waits_for_a_child(clock: VirtualClock) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert pool.submit(subprocess.run, NAP, check=True).result(timeout=60).returncode == 0
    assert 0.1 <= clock.elapsed < 60


def test_sleepers_need_not_wait_for_a_child_that_nobody_waits_for(clock: VirtualClock) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        time.sleep(3600)
        assert clock.elapsed >= 3600
        child.kill()


def nap(queue: multiprocessing.Queue[int]) -> None:
    time.sleep(0.1)
    queue.put(7)


def double(number: int) -> int:
    time.sleep(0.05)
    return 2 * number


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(clock: VirtualClock, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=nap, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == 7
    process.join(60)
    assert process.exitcode == 0
    with context.Pool(1) as pool:
        assert pool.apply_async(double, [4]).get(timeout=60) == 8
    assert 0 < clock.elapsed < 60  # it began while the test ran, and time stood
    queue.close()
    queue.join_thread()


def hold(lock: Any, taken: Any, end: Any) -> None:
    with lock:
        taken.set()
        end.wait(60)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "Condition"])
def test_a_lock_that_a_child_has_is_awaited_in_real_time(
    clock: VirtualClock, method: str, kind: str
) -> None:
    context: Any = multiprocessing.get_context(method)
    lock, taken, end = getattr(context, kind)(), context.Event(), context.Event()
    process = context.Process(target=hold, args=(lock, taken, end))
    process.start()
    assert taken.wait(60)
    began = clock.elapsed
    assert not lock.acquire(timeout=0.05)
    assert 0.05 <= clock.elapsed - began < 60
    end.set()
    assert lock.acquire(timeout=60)
    lock.release()
    before = clock.elapsed
    with lock:
        assert clock.elapsed == before  # nobody is awaited
    process.join()


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_a_lock_of_processes_that_is_older_than_the_clock(kind: str) -> None:
    context: Any = multiprocessing.get_context("spawn")
    lock = getattr(context, kind)()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    before = lock.acquire
    with VirtualClock() as clock:
        assert not lock.acquire(timeout=0.05)
        assert 0.05 <= clock.elapsed < 60
        assert clock.jumps == 0
    assert lock.acquire is before


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="there is none here")
def test_a_signal_is_awaited_in_real_time(clock: VirtualClock) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        assert signal.sigtimedwait([signal.SIGUSR1], 0.05) is None
        assert 0.05 <= clock.elapsed < 60
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        assert signal.sigwait([signal.SIGUSR1]) == signal.SIGUSR1
        assert clock.jumps == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_process_that_forks_has_no_thread_more() -> None:
    test = """if True:
        import os, time, warnings
        from pytest_resilience.virtual_time.clock import VirtualClock

        warnings.simplefilter("error")  # Python's, if there were more threads
        with VirtualClock() as clock:
            time.sleep(5)
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
            before = clock.elapsed
            time.sleep(5)
            assert round(clock.elapsed - before, 6) == 5
    """
    subprocess.run([sys.executable, "-c", test], check=True)


def test_a_pool_of_processes(clock: VirtualClock) -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert list(pool.map(double, [1, 2], timeout=60)) == [2, 4]
    assert clock.elapsed < 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_has_real_time() -> None:
    with VirtualClock() as clock:
        clock.advance(3600)
        child = os.fork()
        if not child:
            before = REAL["monotonic_ns"]()
            time.sleep(0.01)
            slept = REAL["monotonic_ns"]() - before
            is_real = abs(REAL["monotonic_ns"]() - time.monotonic_ns()) < 10**9
            os._exit(0 if slept >= 10_000_000 and is_real else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_member_joins_a_thread_of_others() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    with VirtualClock() as clock:
        thread.join(0.01)
        assert thread.is_alive()
        assert clock.elapsed >= 0.01
        go.set()
        thread.join()

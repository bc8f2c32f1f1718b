from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience.virtual_time.clock import VirtualClock


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

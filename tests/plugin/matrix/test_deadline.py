"""What hangs is ended, also where an exception can be lost."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from pytest_resilience.plugin.matrix import deadline as module
from pytest_resilience.plugin.matrix.deadline import DeadlineError
from pytest_resilience.plugin.matrix.deadline import KnownHangs
from pytest_resilience.plugin.matrix.deadline import deadline
from pytest_resilience.virtual_time.clock import VirtualClock


def test_a_blocking_call_is_ended() -> None:
    with pytest.raises(DeadlineError, match=r"it was still running after 0\.05 s"), deadline(0.05):
        threading.Event().wait(60)


def test_one_that_is_swallowed_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REPEAT", 0.01)
    swallowed = 0

    def hang() -> None:
        nonlocal swallowed
        with deadline(0.01):
            while swallowed < 3:
                try:
                    threading.Event().wait(60)
                except DeadlineError:
                    swallowed += 1
            threading.Event().wait(60)

    with pytest.raises(DeadlineError):
        hang()


def test_in_time_nothing_happens_and_everything_is_put_back() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    with deadline(60) as possible:
        assert possible
    assert signal.getsignal(signal.SIGALRM) is handler


def test_a_timer_of_somebody_else_goes_on() -> None:
    rang: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with deadline(60):
            pass
        while not rang:
            signal.pause()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_timer_of_somebody_else_is_not_set_back() -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 3600, 1800)
        began = time.monotonic()
        with deadline(60):
            while time.monotonic() - began < 0.01:
                pass
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert left <= 3600 - 0.01
    assert interval == 1800


def test_a_timer_of_somebody_else_is_real_where_time_is_virtual() -> None:
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        signal.setitimer(signal.ITIMER_REAL, 3600)
        with VirtualClock(), deadline(60) as possible:
            assert possible
            time.sleep(7200)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 3000 < left <= 3600


def test_in_another_thread_it_cannot_be_done() -> None:
    found: list[bool] = []

    def elsewhere() -> None:
        with deadline(0.001) as possible:
            found.append(possible)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)
    assert found == [False]


def _hang(known: KnownHangs, lock: threading.Lock, *, elsewhere: bool = False) -> str:
    try:
        with deadline(0.1, known):
            if elsewhere:
                with lock:
                    pass
            with lock:
                pass
    except DeadlineError as error:
        return str(error)
    return ""


def test_who_waits_where_another_run_has_hung_need_not_wait_for_the_deadline() -> None:
    known, lock = KnownHangs(0.01), threading.Lock()
    lock.acquire()
    lasted = [_hang(known, lock, elsewhere=elsewhere) for elsewhere in (False, False, True, True)]
    seconds = [told.partition(",")[0].rpartition("after ")[2] for told in lasted]
    assert seconds == ["0.1 s", "0.01 s", "0.1 s", "0.01 s"]
    file = os.path.basename(__file__)
    assert all(told.endswith("in _hang") and f"{file}:" in told for told in lasted)


def test_what_waits_in_an_event_loop_may_always_be_something_else() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    known = KnownHangs(0.01)
    for _ in range(2):
        with pytest.raises(DeadlineError, match=r"after 0\.1 s"), deadline(0.1, known):
            asyncio.run(hang())

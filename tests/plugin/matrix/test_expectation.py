"""What hangs is ended, also where an exception can be lost."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from pytest_resilience.plugin.matrix import expectation as module
from pytest_resilience.plugin.matrix.expectation import DeadlineError
from pytest_resilience.plugin.matrix.expectation import deadline


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


def test_in_another_thread_it_cannot_be_done() -> None:
    found: list[bool] = []

    def elsewhere() -> None:
        with deadline(0.001) as possible:
            found.append(possible)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)
    assert found == [False]

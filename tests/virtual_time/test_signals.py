from __future__ import annotations

import _thread
import os
import random
import signal
import threading
import time

from collections.abc import Callable
from collections.abc import Iterator

import pytest

from pytest_resilience.virtual_time.clock import VirtualClock
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.waiting import Outcome
from pytest_resilience.virtual_time.waiting import Waiter
from tests.virtual_time.starting import after
from tests.virtual_time.starting import start


HERE = os.path.relpath(__file__)


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

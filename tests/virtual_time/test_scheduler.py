"""What holds of virtual time, whatever the code under test does."""

from __future__ import annotations

import datetime
import fractions
import queue
import random
import signal
import threading
import time

from collections.abc import Callable

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.errors import ClockStalledError
from pytest_resilience.virtual_time.clock import VirtualClock
from pytest_resilience.virtual_time.patches import Patches
from tests.virtual_time.starting import after
from tests.virtual_time.starting import start


real_sleep = {"sleep": time.sleep}
real_ns = {"monotonic": time.monotonic_ns}


def spin(milliseconds: int) -> None:
    """Use the CPU."""
    end = time.process_time() + milliseconds / 1e3
    while time.process_time() < end:
        pass


def test_time_does_not_jump_while_a_member_runs() -> None:
    with VirtualClock() as clock:
        done = threading.Event()

        def work() -> None:
            spin(30)
            done.set()

        threading.Thread(target=work).start()
        assert done.wait(60)
        assert clock.elapsed == 0


def test_time_does_not_jump_while_work_is_queued_for_a_member() -> None:
    with VirtualClock() as clock:
        asked: queue.Queue[int] = queue.Queue()
        answered: queue.SimpleQueue[int] = queue.SimpleQueue()

        def work() -> None:
            for _ in range(100):
                answered.put(asked.get())

        thread = threading.Thread(target=work)
        thread.start()
        for number in range(100):
            asked.put(number)
            assert answered.get(timeout=1) == number
        thread.join()
        assert clock.elapsed == 0


@given(
    st.lists(
        st.lists(st.integers(0, 40).map(lambda eighths: eighths / 8), max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.none() | st.integers(0, 2**32),
)
def test_clocks_never_go_back_and_all_move_by_the_same(
    plans: list[list[float]], seed: int | None
) -> None:
    chance = None if seed is None else random.Random(seed)
    with VirtualClock(chance=chance) as clock:
        began = read_all()
        problems: list[str] = []

        def sleep(plan: list[float]) -> None:
            before = began
            for seconds in plan:
                asked = time.monotonic_ns()
                time.sleep(seconds)
                now = read_all()
                if time.monotonic_ns() - asked < seconds * 1e9:
                    problems.append(f"{seconds} s were over too early")
                if min(b - a for a, b in zip(before, now, strict=True)) < 0:
                    problems.append(f"{before} -> {now}")
                before = now

        threads = [threading.Thread(target=sleep, args=(plan,)) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        moved = {now - before for before, now in zip(began, read_all(), strict=True)}
        assert moved == {round(clock.elapsed * 1e9)}
        assert clock.elapsed == max(sum(plan) for plan in plans)


def read_all() -> tuple[int, ...]:
    """Every clock, in nanoseconds."""
    date = datetime.datetime.now(datetime.UTC)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (
        time.monotonic_ns(),
        time.perf_counter_ns(),
        time.time_ns(),
        time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        time.clock_gettime_ns(time.CLOCK_REALTIME),
        round(time.monotonic() * 64) * 15_625_000,
        (date - epoch) // datetime.timedelta(microseconds=1) * 1000,
    )


def test_who_is_due_at_the_same_moment_wakes_in_the_order_of_arming() -> None:
    with VirtualClock():
        woken: list[int] = []
        threads = []
        for number in range(20):
            armed = threading.Event()

            def sleep(number: int = number, armed: threading.Event = armed) -> None:
                armed.set()
                time.sleep(1)
                woken.append(number)

            threads.append(threading.Thread(target=sleep))
            threads[-1].start()
            armed.wait()
            spin(1)
        for thread in threads:
            thread.join()
        assert woken == list(range(20))


def interleaving(seed: int) -> tuple[list[int], list[str]]:
    with VirtualClock(chance=random.Random(seed)) as clock:
        order: list[int] = []
        lock = threading.Lock()

        def work(number: int) -> None:
            for _ in range(3):
                time.sleep(1)
                with lock:
                    order.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return order, list(map(str, clock.timeline()))


def test_the_same_seed_gives_the_same_timeline() -> None:
    first = [interleaving(seed) for seed in range(10)]
    assert [interleaving(seed) for seed in range(10)] == first
    assert len({tuple(order) for order, _ in first}) > 5


def test_others_see_real_time() -> None:
    found: list[bool] = []
    ask, answer = threading.Event(), threading.Event()

    def other() -> None:
        ask.wait()
        before = real_ns["monotonic"]()
        seen = time.monotonic_ns(), time.time_ns(), datetime.datetime.now(datetime.UTC).year
        found.append(before <= seen[0] <= real_ns["monotonic"]())
        found.append(seen[2] < 2100 and seen[1] < 4e18)
        before = real_ns["monotonic"]()
        time.sleep(0.01)
        found.append(real_ns["monotonic"]() - before >= 10_000_000)
        answer.set()

    thread = threading.Thread(target=other)
    thread.start()
    with VirtualClock(start=4_200_000_000 * 10**9) as clock:
        time.sleep(1000)
        assert datetime.datetime.now(datetime.UTC).year == 2103
        ask.set()
        with clock.real():
            answer.wait()
    thread.join()
    assert found == [True, True, True]


def snapshot() -> list[object]:
    import selectors

    return [
        *[getattr(time, name) for name in ("sleep", "monotonic", "monotonic_ns", "perf_counter")],
        *[getattr(time, name) for name in ("perf_counter_ns", "clock_gettime", "time", "time_ns")],
        *[vars(threading)[name] for name in ("Lock", "RLock", "_allocate_lock")],
        *[vars(threading.Thread)[name] for name in ("start", "join", "_bootstrap_inner")],
        vars(selectors.EpollSelector)["select"],
        queue.SimpleQueue,
        vars(type(MACHINE_CLOCK))["monotonic"].__func__,
    ]


def passes() -> None:
    time.sleep(5)


def fails() -> None:
    time.sleep(5)
    raise KeyError


def is_interrupted() -> None:
    came: list[bool] = []

    def handle(*_: object) -> None:
        came.append(True)
        raise KeyboardInterrupt

    def interrupt() -> None:
        spin(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        while not came:
            spin(1)

    signal.signal(signal.SIGUSR1, handle)
    threading.Thread(target=interrupt).start()
    threading.Event().wait(3600)


@pytest.mark.parametrize(
    ("test", "raises"), [(passes, None), (fails, KeyError), (is_interrupted, KeyboardInterrupt)]
)
def test_everything_is_put_back(
    test: Callable[[], None], raises: type[BaseException] | None
) -> None:
    before = snapshot()
    error: BaseException | None = None
    try:
        with VirtualClock():
            assert snapshot() != before
            test()
    except BaseException as caught:
        error = caught
    assert type(error) is (raises or type(None))
    assert snapshot() == before
    assert time.time() - MACHINE_CLOCK.time() < 60
    assert abs(time.monotonic_ns() - real_ns["monotonic"]()) < 60e9


def test_the_clock_goes_on_after_an_interrupt() -> None:
    with VirtualClock() as clock:
        with pytest.raises(KeyboardInterrupt):
            is_interrupted()
        assert clock.elapsed == 0
        time.sleep(7)
        assert clock.elapsed == 7


def test_an_interrupt_while_a_clock_begins_is_the_only_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(_: Patches) -> None:
        raise KeyboardInterrupt

    real = time.monotonic
    with monkeypatch.context() as patch:
        patch.setattr(Patches, "rebind", interrupt)
        with pytest.raises(KeyboardInterrupt):
            VirtualClock().__enter__()
    assert time.monotonic is real


def test_who_reads_the_clock_in_a_loop_sees_it_go_on() -> None:
    with VirtualClock() as clock:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass
        assert 60 <= clock.elapsed < 61


def test_who_measures_a_lot_hardly_moves_time() -> None:
    with VirtualClock() as clock:
        for _ in range(60_000):
            time.monotonic()
        assert clock.elapsed < 0.1
        time.sleep(1)
        for _ in range(10_000):
            time.monotonic()
        assert clock.elapsed < 1.1


def test_who_yields_in_a_loop_sees_time_go_on() -> None:
    with VirtualClock():
        end = time.monotonic() + 0.25
        while time.monotonic() < end:
            time.sleep(0)


def test_who_yields_until_another_has_slept_sees_time_go_on() -> None:
    with VirtualClock() as clock:
        [thread] = start(after(0.25))
        while thread.is_alive():
            time.sleep(0)
        assert clock.elapsed >= 0.25


def test_a_wait_until_the_end_of_all_times_is_a_deadlock() -> None:
    with VirtualClock() as clock:
        [thread] = start(after(9e9))
        with pytest.raises(ClockStalledError, match="waits for more than"):
            time.sleep(9e9)
        assert clock.elapsed == 0
        thread.join()


@pytest.mark.parametrize("seconds", [1e-12, 0.1, 0.3, 1.1, 1e9])
def test_every_sleep_ends_at_its_second(seconds: float) -> None:
    with VirtualClock() as clock:
        time.sleep(seconds)
        assert clock.elapsed == max(1e-9, seconds)


def test_a_sleep_that_is_none() -> None:
    with VirtualClock():
        with pytest.raises(ValueError, match="non-negative"):
            time.sleep(-1)
        for seconds in ("1", None, fractions.Fraction(1, 2)):
            with pytest.raises(TypeError):
                time.sleep(seconds)  # type: ignore[arg-type]
        for too_long in (float("inf"), 1e10):
            with pytest.raises(OverflowError):
                time.sleep(too_long)


def test_a_sleep_of_what_counts_as_an_integer() -> None:
    class Two:
        def __index__(self) -> int:
            return 2

    with VirtualClock() as clock:
        time.sleep(Two())
        assert clock.elapsed == 2

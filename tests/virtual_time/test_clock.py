from __future__ import annotations

import datetime
import threading
import time

from collections.abc import Iterator

import pytest

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.virtual_time.clock import VirtualClock
from pytest_resilience.virtual_time.clock import start_of


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


def test_advance_is_a_sleep(clock: VirtualClock) -> None:
    clock.advance(59)
    time.sleep(2)
    clock.advance(0)
    assert (clock.elapsed, clock.jumps) == (61, 2)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_time_does_not_go_back(clock: VirtualClock, seconds: float) -> None:
    with pytest.raises(ValueError, match="give 0 or more"):
        clock.advance(seconds)


def test_now() -> None:
    with VirtualClock(start_of("2030-01-01T00:00Z")) as clock:
        assert clock.now() == datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
        clock.advance(86400.25)
        assert clock.now() == datetime.datetime(2030, 1, 2, 0, 0, 0, 250_000, datetime.UTC)
        assert datetime.datetime.now(datetime.UTC) == clock.now()
        assert time.time() == clock.now().timestamp()


def test_now_is_the_date_of_the_machine_without_a_start(clock: VirtualClock) -> None:
    assert abs(clock.now().timestamp() - MACHINE_CLOCK.time()) < 3600


@pytest.mark.parametrize(
    ("start", "seconds"),
    [
        ("1970-01-02", 86400),
        ("1970-01-01T01:00+01:00", 0),
        (datetime.datetime(1970, 1, 1, 0, 1), 60),  # noqa: DTZ001  # is in UTC
        (datetime.datetime(1970, 1, 1, 0, 1, tzinfo=datetime.UTC), 60),
        (12.5, 12.5),
    ],
)
def test_starts(start: object, seconds: float) -> None:
    assert start_of(start) == seconds * 1e9


@pytest.mark.parametrize("start", ["tomorrow", None, True, float("nan"), float("inf"), b"2030"])
def test_a_start_that_is_no_date(start: object) -> None:
    with pytest.raises(ConfigurationError, match="is no date; write start='2030"):
        start_of(start)


def test_wait_idle_lets_the_others_come_to_rest(clock: VirtualClock) -> None:
    log: list[str] = []

    def work() -> None:
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass
        log.append("worked")
        time.sleep(5)
        log.append("slept")

    thread = threading.Thread(target=work)
    thread.start()
    clock.wait_idle()
    assert (log, clock.elapsed) == (["worked"], 0)
    clock.advance(5)
    clock.wait_idle()
    assert (log, clock.elapsed) == (["worked", "slept"], 5)
    thread.join()


def test_real_time_flows_in_a_block(clock: VirtualClock) -> None:
    before = MACHINE_CLOCK.monotonic()
    with clock.real():
        time.sleep(0.02)
        within = time.monotonic()
    assert clock.elapsed >= 0.02
    assert within - before >= 0.02
    stands = clock.elapsed
    assert clock.elapsed == stands
    assert time.monotonic() >= within


def test_others_are_woken_while_real_time_flows(clock: VirtualClock) -> None:
    done = threading.Event()

    def work() -> None:
        time.sleep(0.02)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    with clock.real():
        assert done.wait(60)
    assert 0.02 <= clock.elapsed < 60
    thread.join()


def test_what_needs_the_test_itself(clock: VirtualClock) -> None:
    with clock.real():
        for call in (clock.wait_idle, lambda: clock.advance(1)):
            with pytest.raises(ConfigurationError, match="called where time is real"):
                call()


def test_a_second_clock(clock: VirtualClock) -> None:
    with pytest.raises(ConfigurationError, match="there is a virtual clock already"):
        VirtualClock().__enter__()
    clock.advance(1)
    assert clock.elapsed == 1


def test_external_takes_threads(clock: VirtualClock) -> None:
    with pytest.raises(ConfigurationError, match=r"give a threading\.Thread"):
        clock.external("thread")  # type: ignore[arg-type]


def test_timeline(clock: VirtualClock) -> None:
    threading.Timer(3, lambda: None).start()
    time.sleep(5)
    lines = [str(each) for each in clock.timeline()]
    assert lines[-2:] == ["3 s: Thread 1, lock, timed out", "5 s: test, sleep, timed out"]


def test_the_clocks_of_the_package_follow(clock: VirtualClock) -> None:
    machine, system = MACHINE_CLOCK.monotonic(), SYSTEM_CLOCK.monotonic()
    MACHINE_CLOCK.sleep(30)
    SYSTEM_CLOCK.sleep(30)
    assert MACHINE_CLOCK.monotonic() - machine == SYSTEM_CLOCK.monotonic() - system == 60

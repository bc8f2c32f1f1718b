from __future__ import annotations

import datetime
import email.utils
import logging
import sched
import sys
import threading
import time
import types
import uuid
import zoneinfo

from collections.abc import Callable
from collections.abc import Iterator

import pytest

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.virtual_time.clock import VirtualClock
from pytest_resilience.virtual_time.clock import start_of
from tests.virtual_time.binding import binding


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


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """One that has bound clocks."""
    with binding(
        "from time import monotonic, perf_counter as count, sleep, time, time_ns\n"
        "from time import monotonic_ns, perf_counter_ns\n"
        "from datetime import datetime"
    ) as module:
        yield module


def test_names_bound_at_import(module: types.ModuleType) -> None:
    before = dict(vars(module))
    with VirtualClock() as clock:
        names = ("monotonic", "count", "time", "monotonic_ns", "perf_counter_ns", "time_ns")
        began = [getattr(module, name)() for name in names]
        date = module.datetime.now(datetime.UTC)
        module.sleep(90)
        moved = [getattr(module, name)() - old for name, old in zip(names, began, strict=True)]
        assert moved == [90, 90, 90, 90 * 10**9, 90 * 10**9, 90 * 10**9]
        assert module.datetime.now(datetime.UTC) - date == datetime.timedelta(seconds=90)
        assert clock.elapsed == 90
    assert vars(module) == before


def test_a_name_that_is_bound_later_is_found_by_the_next_clock(module: types.ModuleType) -> None:
    with VirtualClock():
        pass
    vars(module)["later"] = time.monotonic
    with VirtualClock():
        began = vars(module)["later"]()
        time.sleep(5)
        assert vars(module)["later"]() - began == 5


def test_a_name_that_the_test_has_bound_anew_stays(module: types.ModuleType) -> None:
    with VirtualClock():
        vars(module)["monotonic"] = len
    assert vars(module)["monotonic"] is len


DEFAULTS = """
import time

def waits(seconds, sleep=time.sleep, *, clock=time.monotonic, much=1):
    before = clock()
    sleep(seconds * much)
    return clock() - before

class Waits:
    def __init__(self, wait=time.sleep):
        self.wait = wait

    @staticmethod
    def alone(seconds, sleep=time.sleep):
        sleep(seconds)

    @classmethod
    def of_class(cls, seconds, *, sleep=time.sleep):
        sleep(seconds)
"""


def test_defaults_that_were_bound_at_import() -> None:
    with binding(DEFAULTS) as module:
        functions = module.waits, module.Waits.__init__, module.Waits.alone, module.Waits.of_class

        def defaults() -> list[object]:
            return [(each.__defaults__, each.__kwdefaults__) for each in functions]

        before = defaults()
        for _ in range(2):
            with VirtualClock() as clock:
                assert module.waits(60) == 60
                module.Waits().wait(60)
                module.Waits.alone(60)
                module.Waits.of_class(60)
                assert clock.elapsed == 240
            assert defaults() == before


def test_defaults_that_the_test_is_the_first_to_import_are_real_when_it_is_over() -> None:
    with VirtualClock(), binding(DEFAULTS) as module:
        waits = module.waits
        assert waits(60) == 60
        assert time.sleep in waits.__defaults__
        sys.modules["imported_by_the_test"] = module
    try:
        assert waits.__defaults__ == (time.sleep,)
        assert waits.__kwdefaults__ == {"clock": time.monotonic, "much": 1}
    finally:
        del sys.modules["imported_by_the_test"]


def test_clocks_begin_where_the_machines_are() -> None:
    before = time.monotonic_ns(), time.perf_counter_ns(), time.time_ns()
    with VirtualClock():
        within = time.monotonic_ns(), time.perf_counter_ns(), time.time_ns()
    assert all(a <= b for a, b in zip(before, within, strict=True))


def test_sums_of_seconds_are_exact() -> None:
    with VirtualClock():
        began = time.monotonic(), time.time(), time.perf_counter()
        for seconds in (1, 59, 0.5, 3600):
            time.sleep(seconds)
        ended = time.monotonic(), time.time(), time.perf_counter()
        assert {b - a for a, b in zip(began, ended, strict=True)} == {3660.5}


def test_times_of_the_cpu_stay_real() -> None:
    with VirtualClock():
        before = time.process_time(), time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
        time.sleep(3600)
        assert time.process_time() - before[0] < 3600
        assert time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID) - before[1] < 3600


def test_a_scheduler_of_the_standard_library() -> None:
    log: list[tuple[int, float]] = []
    with VirtualClock() as clock:
        for scheduler in (sched.scheduler(), sched.scheduler(time.time, delayfunc=time.sleep)):
            for delay in (3600, 60):
                scheduler.enter(delay, 1, lambda delay=delay: log.append((delay, clock.elapsed)))
            scheduler.run()
    assert log == [(60, 60), (3600, 3600), (60, 3660), (3600, 7200)]


DATES: dict[str, Callable[[], object]] = {
    "datetime": lambda: datetime.datetime.now(zoneinfo.ZoneInfo("America/New_York")).year,
    "date": lambda: datetime.date.today().year,  # noqa: DTZ011  # what is tested
    "localtime": lambda: time.localtime().tm_year,
    "gmtime": lambda: time.gmtime().tm_year,
    "strftime": lambda: int(time.strftime("%Y")),
    "ctime": lambda: int(time.ctime()[-4:]),
    "asctime": lambda: int(time.asctime()[-4:]),
    "email": lambda: email.utils.localtime().year,
    "logging": lambda: time.gmtime(logging.makeLogRecord({}).created).tm_year,
    "uuid": lambda: time.gmtime(uuid.uuid1().time / 1e7 - 12_219_292_800).tm_year,
}


@pytest.mark.parametrize("year", DATES.values(), ids=DATES)
def test_every_way_to_the_date(year: Callable[[], object]) -> None:
    with VirtualClock(start=4_200_000_000 * 10**9):
        assert year() == 2103
        time.sleep(366 * 24 * 3600)
        assert year() == 2104
    assert year() != 2104


def test_a_moment_that_is_given_is_told_as_it_is() -> None:
    given = time.localtime(0)
    told = time.ctime(0), time.asctime(given)
    with VirtualClock():
        assert (time.ctime(0), time.asctime(given)) == told

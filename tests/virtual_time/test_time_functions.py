from __future__ import annotations

import datetime
import email.utils
import logging
import sched
import sys
import time
import types
import uuid
import zoneinfo

from collections.abc import Callable
from collections.abc import Iterator

import pytest

from pytest_resilience.virtual_time.clock import VirtualClock
from tests.virtual_time.binding import binding


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

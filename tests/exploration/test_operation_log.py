"""Operations are named alike in every run, and a fault strikes the one that is meant."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import weakref

from collections.abc import Callable
from collections.abc import Coroutine
from typing import Any

import pytest

from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import OPEN_IN_VAIN
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.possible_faults import CANCEL
from pytest_resilience.chaos.types.files import FILE_KINDS
from pytest_resilience.exploration.operation_log import AtStep
from pytest_resilience.exploration.operation_log import CallLimit
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.operation_log import StormError
from pytest_resilience.exploration.operation_log import calls_by_line
from pytest_resilience.exploration.operation_log import differences
from pytest_resilience.exploration.operation_log import opened_before
from pytest_resilience.exploration.operation_log import shared
from pytest_resilience.exploration.operation_names import TargetNames
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import parse_schedule
from pytest_resilience.seeds import Stream


def operation(target: str = "a:1", kind: str = CONNECT) -> Operation:
    return Operation(kind=kind, target=target, names=(target,))


def log_of(
    schedule: Schedule = (), *, place: str = "src/shop.py:7 in pay", limit: CallLimit | None = None
) -> OperationLog:
    log = OperationLog(TargetNames(), lambda _: place, schedule=schedule, limit=limit)
    log.is_open = True
    return log


def points(log: OperationLog) -> list[str]:
    return [str(each.point) for each in log.seen]


def test_a_point_has_kind_target_function_and_number_and_no_line() -> None:
    log = log_of()
    for each in (operation(), operation(), operation("b:1"), operation(kind=RECEIVE)):
        log.observe(each)
    assert points(log) == [
        "connect(a:1)@shop.pay#1",
        "connect(a:1)@shop.pay#2",
        "connect(b:1)@shop.pay#1",
        "receive(a:1)@shop.pay#1",
    ]


def test_a_line_that_is_inserted_elsewhere_renames_nothing() -> None:
    places = iter(["shop.py:7 in pay", "shop.py:9 in pay"])
    found = []
    for _ in range(2):
        log = log_of(place=next(places))
        log.observe(operation())
        found.append(points(log))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("kinds", "is_so"),
    [
        ([CONNECT, RECEIVE, RECEIVE], False),
        ([RECEIVE], True),
        ([CREATE, WRITE], False),
        ([WRITE], True),
        ([OPEN_IN_VAIN], False),
    ],
)
def test_a_run_that_uses_what_was_open_before(kinds: list[str], *, is_so: bool) -> None:
    log = log_of()
    log.observe(operation("other:1"))
    for kind in kinds:
        log.observe(operation(kind=kind))
    assert opened_before(log.seen) is is_so


def test_what_leads_to_who_waits_is_kept_until_it_is_let_go() -> None:
    class Protocol:
        pass

    log, protocol = log_of(), Protocol()
    there, site = weakref.ref(protocol), CallSite(loop_objects=(protocol,))
    log.observe(operation()._replace(call_site=site))
    del protocol, site
    assert there() is not None
    log.let_go()
    gc.collect()
    assert there() is None
    assert points(log) == ["connect(a:1)@shop.pay#1"]


def test_a_response_is_of_who_has_asked_for_it() -> None:
    places = iter(["a.py:1 in greet", "a.py:2 in write", "a.py:3 in read", "a.py:3 in read"])
    log = OperationLog(TargetNames(), lambda _: next(places))
    log.is_open = True
    for kind in (RECEIVE, SEND, RECEIVE, RECEIVE):
        tcp = TcpDetails(connection=7)
        log.observe(Operation(kind=kind, target="a:1", names=("a:1",), tcp=tcp))
    assert points(log) == [
        "receive(a:1)@a.greet#1",
        "send(a:1)@a.write#1",
        "receive(a:1)@a.write#1",
        "receive(a:1)@a.read#1",
    ]


@pytest.mark.parametrize(
    "left_out",
    [
        Operation(kind=CLOSE, target="a", names=()),
        Operation(kind=RECEIVE, target="a", names=(), tcp=TcpDetails(mid_message=True)),
        Operation(kind=RECEIVE, target="a", names=(), tcp=TcpDetails(partial=True)),
        Operation(kind=RECEIVE, target="a", names=(), http=HttpDetails(in_process=True)),
        Operation(kind=CONNECT, target="a", names=("a",), advice="use a proxy"),
        Operation(kind=CONNECT, target="/run/redis.socket", names=()),
        None,
    ],
)
def test_what_no_run_may_meet_again_has_no_name(left_out: Operation | None) -> None:
    log = log_of()
    log.observe(left_out)
    assert points(log) == []


def test_only_the_tests_own_operations_have_names() -> None:
    log = log_of()
    log.is_open = False
    log.observe(operation())
    assert points(log) == []


@pytest.mark.parametrize(("in_a_loop", "name"), [(True, "connect"), (False, "greet")])
def test_what_is_said_unasked_in_a_loop_is_named_by_who_has_connected(
    in_a_loop: bool, name: str
) -> None:
    """It comes before or after somebody waits for it; who does not use a loop waits for it."""
    places = iter(["shop.py:1 in connect", "shop.py:2 in greet", "shop.py:3 in pay", ""])
    log = OperationLog(TargetNames(), lambda _: next(places))
    log.is_open = True
    site = CallSite(loop_objects=(object(),) if in_a_loop else ())
    for kind in (CONNECT, RECEIVE, SEND, RECEIVE):
        tcp = TcpDetails(connection=7)
        log.observe(Operation(kind=kind, target="a:1", names=("a:1",), tcp=tcp, call_site=site))
    assert points(log)[1] == f"receive(a:1)@shop.{name}#1"
    assert points(log)[3] == "receive(a:1)@shop.pay#1"


def test_who_speaks_first_is_no_server_of_http() -> None:
    log = log_of()
    tcp = TcpDetails(connection=7)
    for kind in (CONNECT, RECEIVE, SEND, RECEIVE):
        log.observe(Operation(kind=kind, target="a:1", names=("a:1",), tcp=tcp))
    _, greeting, _, response = log.seen
    assert set(response.faults) - set(greeting.faults) == {"status"}


async def in_a_worker(do: Callable[[], None]) -> None:
    await asyncio.to_thread(do)


async def in_a_library(do: Callable[[], None]) -> None:
    """As a coroutine of a library, which the user awaits, does something that blocks."""
    namespace: dict[str, Any] = {"do": do}
    exec(compile("async def save():\n    do()\n", asyncio.__file__, "exec"), namespace)
    await namespace["save"]()


@pytest.mark.parametrize("limit", [None, CallLimit(most=9)])
@pytest.mark.parametrize("schedule", [(), parse_schedule("write(/b)@shop.pay#1=disk_full")])
@pytest.mark.parametrize(
    ("awaited", "can_be_cancelled"), [(None, False), (in_a_worker, True), (in_a_library, True)]
)
def test_what_is_only_noted_of_files_is_named_as_what_is_decided_on(
    limit: CallLimit | None,
    schedule: Schedule,
    awaited: Callable[[Callable[[], None]], Coroutine[Any, Any, None]] | None,
    can_be_cancelled: bool,
) -> None:
    noted, decided = (log_of(schedule, limit=limit) for _ in range(2))
    for kind, target in ((WRITE, "/a"), (CREATE, "/b"), (WRITE, "/b"), (WRITE, "/b")):
        for do in (
            functools.partial(noted.note_file, kind, (target,), "src/shop.py:7 in pay"),
            functools.partial(decided.observe, operation(target, kind)),
        ):
            do() if awaited is None else asyncio.run(awaited(do))
    found, usual = ([each._replace(at=0.0) for each in log.seen] for log in (noted, decided))
    assert found == usual
    assert [CANCEL in each.faults for each in found] == 4 * [can_be_cancelled]
    assert points(noted)[-1] == "write(/b)@shop.pay#2"
    assert noted.positions == decided.positions


def test_a_file_is_named_without_the_number_of_the_thread_that_writes_it() -> None:
    def write() -> None:
        log.note_file(WRITE, (f"/srv/{threading.get_native_id()}.log",), "src/shop.py:7 in pay")

    log, other = log_of(), threading.Thread(target=write)
    write()
    other.start()
    other.join()
    assert points(log) == ["write(/srv/*.log)@shop.pay#1", "write(/srv/*.log)@shop.pay#2"]


def test_what_is_done_with_files_before_and_after_is_not_the_tests_own() -> None:
    log = log_of()
    log.is_open = False
    log.note_file(WRITE, ("/a",), "src/shop.py:7 in pay")
    assert points(log) == []


def test_what_is_noted_of_a_file_that_nothing_can_happen_to_has_no_name() -> None:
    log = log_of()
    for kind in FILE_KINDS:
        log.note_file(kind, ("/a",), "src/shop.py:7 in pay")
    assert {each.point.site.kind for each in log.seen} == FILE_KINDS - {OPEN_IN_VAIN}


def strikes(log: OperationLog, each: Operation) -> list[bool]:
    log.observe(each)
    return [AtStep(log, step).hits(1, 0.0, Stream(0)) for step in log.schedule]


def test_a_fault_strikes_once_or_from_there_on() -> None:
    log = log_of(parse_schedule("connect(a:1)@shop.pay#2=refuse, connect(b:1)@shop.pay#1+=refuse"))
    assert [strikes(log, operation(each)) for each in ("a:1", "b:1", "a:1", "b:1", "a:1")] == [
        [False, False], [False, True], [True, False], [False, True], [False, False],
    ]  # fmt: skip
    assert log.unmet == ()
    assert [place for _, place in log.positions] == [1, 2]


def test_without_a_function_it_is_the_number_among_all() -> None:
    log = log_of(parse_schedule("connect(a:1)#2=refuse"))
    assert strikes(log, operation()) == [False]
    assert strikes(log, operation()) == [True]


def test_a_fault_that_stays_strikes_whoever_asks() -> None:
    places = iter(["shop.py:1 in pay", "shop.py:2 in refund", "shop.py:1 in pay"])
    log = OperationLog(
        TargetNames(),
        lambda _: next(places),
        schedule=parse_schedule("connect(a:1)@shop.refund#1+=refuse"),
    )
    log.is_open = True
    assert [strikes(log, operation()) for _ in range(3)] == [[False], [True], [True]]


def test_what_was_observed_before_is_struck_no_second_time() -> None:
    log = log_of(parse_schedule("connect(a:1)#1=refuse"))
    assert strikes(log, operation()) == [True]
    log.observe(None)
    assert not log.strikes(log.schedule[0])


def test_each_thread_decides_about_its_own_operation() -> None:
    log = log_of(parse_schedule("connect(a:1)#1=refuse"))
    log.observe(operation())
    other: list[bool] = []
    thread = threading.Thread(target=lambda: other.append(log.strikes(log.schedule[0])))
    thread.start()
    thread.join()
    assert other == [False]
    assert log.strikes(log.schedule[0])


def test_too_many_are_a_storm_that_no_except_clause_survives() -> None:
    log = log_of(limit=CallLimit(most=2))
    log.observe(operation())
    log.observe(operation())
    with pytest.raises(StormError, match=r"more than 2 operations: connect\(a:1\)"):
        log.observe(operation())
    for _ in range(2):
        log.note_file(WRITE, ("/a",), "src/shop.py:7 in pay")
    with pytest.raises(StormError, match=r"more than 2 operations: write\(/a\)"):
        log.note_file(WRITE, ("/a",), "src/shop.py:7 in pay")
    assert not issubclass(StormError, Exception)


def test_each_operation_without_faults_may_become_some_tries_at_the_line_that_does_it() -> None:
    """A line that asks twice may try as often again; one of faults alone, as the busiest line."""
    usual = {("a:1", "shop.py:1 in pay"): 2, ("a:1", "shop.py:2 in ship"): 1}
    limit = CallLimit(most=3, tries=3, usual=usual)
    for line, most in [("1 in pay", 6), ("2 in ship", 3), ("3 in fall_back", 6)]:
        log = log_of(place=f"shop.py:{line}", limit=limit)
        for _ in range(most):
            log.observe(operation())
        with pytest.raises(StormError, match=rf"more than {most} operations: connect\(a:1\)"):
            log.observe(operation())


def test_lines_are_counted_apart() -> None:
    places = iter(["shop.py:1 in pay"] * 3 + ["shop.py:2 in ship"] * 3)
    log = OperationLog(TargetNames(), lambda _: next(places), limit=CallLimit(most=3, tries=3))
    log.is_open = True
    for _ in range(6):
        log.observe(operation())
    assert len(log.seen) == 6


def test_the_operations_of_a_line_are_those_of_the_kind_of_which_it_does_most() -> None:
    log = log_of()
    for kind in (CONNECT, SEND, RECEIVE, SEND, RECEIVE):
        log.observe(operation(kind=kind))
    assert calls_by_line(log.seen) == {("a:1", "src/shop.py:7 in pay"): 2}


def test_who_tries_again_is_counted_once_for_each_try() -> None:
    """Each is a connect, a request and a response, and may be to the one or the other."""
    log = log_of(limit=CallLimit(most=2))
    for target in ("a:1", "b:1", "a:1", "b:1"):
        for kind in (CONNECT, SEND, RECEIVE):
            log.observe(operation(target, kind))
    assert len(log.seen) == 12


def test_what_differs_between_two_runs_is_told_in_any_order() -> None:
    one, other = log_of(), log_of()
    for target in ("a:1", "b:1"):
        one.observe(operation(target))
    for target in ("b:1", "a:1", "a:1"):
        other.observe(operation(target))
    assert differences(one.seen, reversed(one.seen)) == ""
    assert differences(one.seen, other.seen) == "only the second did connect(a:1)@shop.pay#2"


def test_how_often_is_none_where_nobody_of_the_project_asks() -> None:
    """As of a client's own threads, which keep its connection up."""
    one, other = log_of(place=""), log_of(place="")
    for log, targets in ((one, "aab"), (other, "aaabb")):
        for target in targets:
            log.observe(operation(f"{target}:1"))
    assert differences(one.seen, other.seen) == differences(other.seen, one.seen) == ""
    assert list(map(str, (each.point for each in shared(one.seen, other.seen)))) == points(one)
    other.observe(operation("c:1"))
    assert differences(one.seen, other.seen) == "only the second did connect(c:1)#1"
